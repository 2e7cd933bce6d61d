"""Caches of blocks: on local disks (`disks`), in memory (`memory`), or none (`interface.NoCache`).

A cache never fails a reader or writer: whatever goes wrong in it, the block is simply not there.
"""
