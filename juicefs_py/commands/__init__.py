"""The list of commands, in the order of the help; each stands in a module of its own name, imported only when it runs.

A command's options and what it does are not here but in its module, as `COMMAND`.
"""

COMMANDS = {
    "format": ("ADMIN", "Format a volume"),
    "config": ("ADMIN", "Show or change the configuration of a volume"),
    "quota": ("ADMIN", "Manage quotas of directories, users and groups"),
    "destroy": ("ADMIN", "Destroy an existing volume"),
    "gc": ("ADMIN", "Garbage collector of objects in data storage"),
    "fsck": ("ADMIN", "Check consistency of a volume"),
    "restore": ("ADMIN", "Restore files from trash"),
    "dump": ("ADMIN", "Dump metadata into a file"),
    "load": ("ADMIN", "Load metadata from a previously dumped file"),
    "version": ("ADMIN", "Show version"),
    "tier": ("ADMIN", "Manage storage tiers of files and directories"),
    "changelog": ("INSPECTOR", "Tail the changelog of a volume"),
    "status": ("INSPECTOR", "Show status of a volume"),
    "stats": ("INSPECTOR", "Show real time performance statistics of a mount"),
    "profile": ("INSPECTOR", "Show profiling of operations completed in a mount"),
    "debug": ("INSPECTOR", "Collect and display system static and runtime information"),
    "info": ("INSPECTOR", "Show internal information of a path or inode"),
    "summary": ("INSPECTOR", "Show tree summary of a directory"),
    "mount": ("SERVICE", "Mount a volume"),
    "umount": ("SERVICE", "Unmount a volume"),
    "objbench": ("TOOL", "Run benchmarks on an object storage"),
    "warmup": ("TOOL", "Build cache for target directories/files"),
    "rmr": ("TOOL", "Remove directories recursively"),
    "clone": ("TOOL", "Clone a file or directory without copying the underlying data"),
    "compact": ("TOOL", "Trigger compaction of chunks"),
}
"""Category and summary by name."""

LATER = (
    "gateway", "webdav", "bench", "mdtest", "sync",
)  # fmt: skip
"""Commands of the official client that this one does not have yet."""
