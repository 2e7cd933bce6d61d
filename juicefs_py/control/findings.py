"""What a cache command has found so far: sums, and what went wrong. Not who finds it (`warmup`).

The document for the client has two members that official ones do not know: `Errors`, and `Failures`, sentences about
the first of them.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from juicefs_py.control.channel import Job
from juicefs_py.errors import is_trouble

_TOLD = 10  # failures that are put into words

log = logging.getLogger(__name__)


class Findings:
    """What one request found so far; the job shows it to the client. Shared by the threads at work."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        self.files = self.slices = self.bytes = self.missing = self.errors = 0
        self.locations: dict[str, int] = {}
        self.told: list[str] = []
        self.first: Exception | None = None

    def add(self, *, files: int = 0, slices: int = 0, size: int = 0, missing: int = 0) -> None:
        with self._lock:
            self.files += files
            self.slices += slices
            self.bytes += size
            self.missing += missing
            self._job.done, self._job.total = self.files, self.bytes

    def place(self, locations: dict[str, int]) -> None:
        with self._lock:
            for place, size in locations.items():
                self.locations[place] = self.locations.get(place, 0) + size

    def fail(self, problem: Exception, name: Callable[[], str]) -> None:
        """Count a failure of what `name` gives the name of."""
        with self._lock:
            self.errors += 1
            self.first = self.first or problem
            if self.errors > _TOLD:
                return
        text = f"{name()}: {problem}"
        with self._lock:
            if text in self.told:
                return
            self.told.append(text)
        if is_trouble(problem):
            log.error("%s", text)

    def document(self) -> bytes:
        return json.dumps({
            "FileCount": self.files, "SliceCount": self.slices, "TotalBytes": self.bytes, "MissBytes": self.missing,
            "Locations": self.locations, "Errors": self.errors, "Failures": self.told,
        }).encode()  # fmt: skip
