"""Metadata in Redis: the records of JuiceFS 1.4.1 as strings, hashes, lists and sorted sets, shared with Go clients."""
