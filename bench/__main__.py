"""`python -m bench [SECTION ...]`: how fast we are beside others, as one table.

Every row is measured in turn with its peers, several times; a ratio above 1 is a win, and `met` says whether the budget
of the design is kept. Peers that are found on the machine are used, the others are named. Let nothing else run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import data, floor, local, meta, passthrough, programs, session, startup
from bench.measure import Row
from bench.peers import official
from bench.report import Line, as_json, fallen, lines, recorded, table
from bench.setting import CHECK, FULL, QUICK, Bench, Scale, machine

SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "startup": startup.starting,
    "session": session.alone,
    "meta": meta.on_redis,
    "floor": floor.below_the_rules,
    "tikv": meta.on_tikv,
    "file": data.on_directory,
    "s3": data.on_s3,
    "local": local.beside_a_directory,
    "passthrough": passthrough.past_the_process,
    "programs": programs.at_work,
}
_AGAIN = 2
"""How often a section is measured again before a fallen ratio counts: machines are shared."""


def main() -> int:
    """Parse the options, measure, print; 1 if `--check` finds a ratio that has fallen."""
    options = _parser().parse_args()
    records = json.loads(options.check.read_text()) if options.check else {}
    scale = CHECK if options.check else FULL if options.full else QUICK
    wanted = options.sections or [name for name in SECTIONS if name != "tikv" or options.tikv]
    _prepare()
    start = time.monotonic()
    rows = [row for name in wanted for row in _section(name, scale, options)]
    found = lines(rows)
    print(table(found, options.markdown))
    print(f"\n{len(rows)} rows in {time.monotonic() - start:.0f} s on {machine()}")
    if options.json:
        options.json.write_text(as_json(rows, machine()))
    if options.record:
        options.record.write_text(recorded(found))
    if options.plot:
        from bench.plot import plot

        plot([line for line in found if line.peer.startswith("go")] or found, options.plot)
    return _judge(found, records, wanted, scale, options) if options.check else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n\n")[2])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--full", action="store_true", help="more of everything, an hour or two; else ten minutes")
    parser.add_argument("--vs", metavar="PROGRAM", help="the official client; without, one that is found")
    parser.add_argument("--tikv", metavar="PD", help="addresses of the PD of a TiKV cluster, to be measured as well")
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the ratios to the official client into a PNG (needs matplotlib)"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the ratios there, for --check")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="a short run; fail if a ratio is below 0.8 of the recorded one"
    )
    return parser


def _prepare() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs start many times, and would be compiled each time
    if os.geteuid() != 0:
        raise SystemExit("python -m bench needs root: it mounts, and drops the kernel's caches")
    if shutil.which("redis-server") is None:
        raise SystemExit("python -m bench needs redis-server (Debian: redis-server)")


def _section(name: str, scale: Scale, options: argparse.Namespace) -> list[Row]:
    """All rows of one section, in a directory that is gone afterwards."""
    go = official(options.vs)
    if go is None and not options.vs:
        print("no official client found (--vs, PATH), so it is left out", flush=True)
    base = Path(tempfile.mkdtemp(prefix="bench-"))
    rows = []
    try:
        for row in SECTIONS[name](Bench(base, scale, go, options.tikv)):
            rows.append(row)
            print(f"{row.section}: {row.name}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return rows


def _judge(
    found: list[Line], records: dict[str, float], wanted: list[str], scale: Scale, options: argparse.Namespace
) -> int:
    """Measure again what has fallen: what falls every time is told, and fails."""
    bad = {line.key: line for line in fallen(found, records)}
    for _ in range(_AGAIN):
        if bad:
            again = lines([row for name in wanted for row in _section(name, scale, options)])
            still = {line.key for line in fallen(again, records)}
            bad = {key: line for key, line in bad.items() if key in still}
    for key, line in bad.items():
        print(f"{key}: {line.ratio:.2f}, and {records[key]:.2f} is recorded")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
