"""The Linux FUSE kernel protocol, spoken directly over /dev/fuse.

A library for any file system: it knows inodes, handles and requests, never what they stand for.
Start at `fuse.operations.Operations` (what a file system implements) and `fuse.session.Session` (what serves it).
"""
