"""The whole stack on SQLite and a local directory, beside the plain directory of the same disk.

A plain directory is the floor that no network file system reaches, so the interest is in how the ratios change.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.data import Bytes
from bench.data import rows as byte_rows
from bench.machine import resident_pair_mib, serving_pid
from bench.measure import OURS, Figure, Row
from bench.meta import Names
from bench.meta import rows as name_rows
from bench.peers import Client
from bench.setting import Bench


def beside_a_directory(bench: Bench) -> Iterator[Row]:
    """Names and bytes, one caller; before them the memory of an idle mount."""
    base, section = bench.folder("local"), "beside the plain directory (SQLite, file)"
    url, plain = f"sqlite3://{base}/meta.db", bench.folder("local/plain")
    client = Client(OURS)
    client.format(url, "bench", base / "objects")
    with client.mounted(url, base) as root:
        idle = Row(section, "memory of an idle mount, both processes", "MiB", limit=80)
        idle.figures[OURS] = Figure([resident_pair_mib(serving_pid(root))])
        yield idle
        yield from name_rows(
            section, {OURS: Names(root, bench.scale), "local": Names(plain, bench.scale)}, 1, bench.scale, {}
        )
        bytes_ = {OURS: Bytes(root, bench.scale, base / "cache"), "local": Bytes(plain, bench.scale, None)}
        yield from byte_rows(section, bytes_, bench.scale)
