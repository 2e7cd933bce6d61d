"""File data: writes at file offsets into slices and commits, and slices back into bytes at file offsets."""
