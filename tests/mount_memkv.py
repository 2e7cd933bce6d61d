"""Formats and mounts a memkv:// volume in one process: that metadata lives and dies with the process that made it.

Run as `mount_memkv.py FORMAT-ARGUMENTS... --then-- MOUNT-ARGUMENTS...`. Not a test; `mounts.Mount` starts it.
"""

from __future__ import annotations

import os
import sys

from juicefs_py.cli.app import run


def main() -> int:
    """Run `juicefs format ...`, then `juicefs mount ...` as the serving process."""
    cut = sys.argv.index("--then--")
    code = run(["juicefs", *sys.argv[1:cut]])
    if code:
        return code
    os.environ["JFS_SUPERVISOR"] = str(os.getppid())  # serve here; a supervised child would start with nothing
    return run(["juicefs", *sys.argv[cut + 1 :]])


if __name__ == "__main__":
    sys.exit(main())
