"""The data of a volume: slices cut into blocks, blocks kept as objects in a bucket, and caches in between.

Knows nothing of files or inodes. Start at `chunkstore.store.ChunkStore` (what a mount or a command calls) and
`chunkstore.bucket.Bucket` (what an object storage offers).
"""
