"""The process that serves a mount: start, readiness, supervision, signals. The file system itself is in `vfs`."""
