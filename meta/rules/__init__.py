"""The rules of the file system, told once: plain functions over a `Transaction` and the `Volume` they act on."""
