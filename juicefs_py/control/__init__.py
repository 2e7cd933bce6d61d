"""The internal files of a mount: `.accesslog`, `.stats`, `.config` and the command channel `.control`."""
