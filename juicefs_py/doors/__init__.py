"""What every door is to the serving process: a mounted connection to the kernel behind which the VFS answers.

Not the doors themselves: our own is `fuse.session`, the second one `doors.pyfuse3`.
"""

from __future__ import annotations

import threading
from typing import Protocol

from juicefs_py.vfs_base import Notifier


class Door(Protocol):
    """One mount, from its first request to its last."""

    @property
    def ready(self) -> threading.Event:
        """Set when requests are served."""
        ...

    @property
    def unmounted(self) -> bool:
        """Whether the end was an unmount, not `stop`."""
        ...

    @property
    def notifier(self) -> Notifier: ...

    def run(self) -> None:
        """Serve, in the calling thread and others, until unmounted or stopped."""
        ...

    def stop(self) -> None:
        """Read no more requests. Any thread may call it."""
        ...
