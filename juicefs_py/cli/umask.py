"""The file mode creation mask of this process, for what others create on its behalf. It is read, never changed."""

from __future__ import annotations


def umask() -> int:
    """Permissions that new files of this process do not get. Asking umask(2) would change it for a moment."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    raise OSError("the kernel does not tell the umask in /proc/self/status")
