"""The list of commands, in the order of the help; each stands in a module of its own name, imported only when it runs.

A command's options and what it does are not here but in its module, as `COMMAND`.
"""

COMMANDS = {
    "format": ("ADMIN", "Format a volume"),
    "config": ("ADMIN", "Show or change the configuration of a volume"),
    "version": ("ADMIN", "Show version"),
    "status": ("INSPECTOR", "Show status of a volume"),
    "info": ("INSPECTOR", "Show internal information of a path or inode"),
    "summary": ("INSPECTOR", "Show tree summary of a directory"),
    "mount": ("SERVICE", "Mount a volume"),
    "umount": ("SERVICE", "Unmount a volume"),
    "rmr": ("TOOL", "Remove directories recursively"),
}
"""Category and summary by name."""

LATER = (
    "quota", "destroy", "gc", "fsck", "restore", "dump", "load", "tier", "changelog", "stats", "profile", "debug",
    "gateway", "webdav", "bench", "objbench", "mdtest", "warmup", "sync", "clone", "compact",
)  # fmt: skip
"""Commands of the official client that this one does not have yet."""
