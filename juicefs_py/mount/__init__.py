"""The process that serves a mount: start in the background, readiness, supervision, signals. The file system is in `vfs`."""
