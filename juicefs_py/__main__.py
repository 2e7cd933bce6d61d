"""Entry point of `juicefs`, `mount.juicefs` and `python -m juicefs_py`.

No work is done here; `cli.app` decides what to import, so that short commands start fast.
"""

import sys

from juicefs_py.cli.app import run


def main() -> int:
    """Run the command line of this process; the exit code."""
    return run(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
