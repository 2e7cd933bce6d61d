"""Several processes work in the same directories of a volume, through one mount or several; then all is added up.

`work_together` is the harness; run as `together.py MOUNTPOINT... --worker 2 --seed 7 --end TIME`, this is one worker.
Not here: what the work is (own_names, contended), and the check of the volume.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from contended import TARGETS, TOKENS, Contended, is_sealed, prepare
from own_names import DIRECTORIES, OwnNames
from trees import differences, snapshot

FOLDER = "together"
_GRACE_S = 60.0


def work_together(
    mounts: list[list[Path]], seconds: float, seed: int, *,
    official: tuple[Path, ...] = (), old: tuple[Path, ...] = (), believed_s: float = 0.0,
) -> Counter[str]:  # fmt: skip
    """Let a worker for each list of mount points work; fail unless all is accounted for. What they did, by name.

    `official` are mounts by a client in Go (see Contended), `old` those of them by 0.14 (see OwnNames). Names and
    attributes may be `believed_s` old in a mount; workers must then have one each.
    """
    place = mounts[0][0] / FOLDER
    place.mkdir()
    prepare(place)
    end = time.time() + seconds
    workers = []
    for number, roots in enumerate(mounts):
        command = [sys.executable, __file__, *map(str, roots), "--worker", str(number), "--seed", str(seed)]
        command += ["--end", str(end)]
        command += [*(f"--official={root}" for root in official), *(f"--old={root}" for root in old)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told, failed = [], []
    for number, worker in enumerate(workers):
        try:
            output, errors = worker.communicate(timeout=max(end - time.time(), 0) + _GRACE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            output, errors = worker.communicate()
            errors += "\nhangs"
        if worker.returncode:
            failed.append(f"worker {number} of seed {seed}: exit {worker.returncode}\n{errors[-6000:]}")
        else:
            told.append(json.loads(output))
    assert not failed, "\n".join(failed)
    time.sleep(believed_s)
    for root in {roots[0] for roots in mounts}:
        add_up(root / FOLDER, told)
    done: Counter[str] = Counter()
    for claims in told:
        done.update(claims["actions"])
    return done


def add_up(place: Path, told: list[dict[str, Any]]) -> None:
    """What `place` shows must be what the workers claim, together."""
    for kind in ("flock", "fcntl"):
        wanted = sum(claims.get(f"counter-{kind}", 0) for claims in told)
        assert int((place / f"counter-{kind}").read_text()) == wanted, f"updates under {kind} were lost"
    lines = (place / "lines").read_text().splitlines()
    assert all(re.fullmatch(r"line \d+\.\d+ \.*", line) for line in lines), "a line was torn"
    assert len(lines) == len(set(lines)) == sum(claims.get("lines", 0) for claims in told), "lines were lost"
    for number in range(TARGETS):
        assert is_sealed((place / f"d0/target{number}").read_bytes()), f"target{number} is torn"
    names = [path for name in DIRECTORIES for path in (place / name).iterdir()]
    tokens = Counter(path.name.split(".")[0] for path in names if path.name.startswith("token"))
    assert tokens == Counter(f"token{number}" for number in range(TOKENS))
    won = {name: number for number, claims in enumerate(told) for name in claims["won"]}
    assert len(won) == sum(len(claims["won"]) for claims in told), "O_EXCL had more than one winner"
    found = {f"d1/{path.name}": int(path.read_text()) for path in names if path.name.startswith("excl")}
    assert found == won
    links = sorted(f"d2/{path.name}" for path in names if path.name.startswith("link"))
    assert links == sorted(name for claims in told for name in claims["links"])


def same_everywhere(roots: list[Path]) -> int:
    """All mounts must show the same tree, to the last byte; the number of its names."""
    first = snapshot(roots[0], mtimes=True, skip=INTERNAL)
    for root in roots[1:]:
        wrong = differences(first, snapshot(root, mtimes=True, skip=INTERNAL))
        assert not wrong, f"{roots[0]} and {root} differ:\n" + "\n".join(wrong)
    return len(first)


INTERNAL = (".accesslog", ".config", ".control", ".stats", ".trash")
"""Names that a client adds to the root."""


class Worker:
    """One process: actions picked at random until the time is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.random = chance = random.Random(options.seed * 1000 + options.worker)
        roots, official, old = (
            tuple(root / FOLDER for root in some) for some in (options.roots, options.official, options.old)
        )
        self.own = OwnNames(roots, options.worker, chance, old)
        self.contended = Contended(roots, options.worker, chance, official, old)
        self.actions = [*self.own.actions, *self.contended.actions]
        self.last: collections.deque[str] = collections.deque(maxlen=25)
        self.done: Counter[str] = Counter()

    def run(self, end: float) -> dict[str, Any]:
        """Work until `end`, look at everything once more, and tell what must be there."""
        actions, weights = zip(*self.actions, strict=True)
        while time.time() < end:
            for action in self.random.choices(actions, weights, k=20):
                self.last.append(f"{action.__name__} begins")
                self.last[-1] = action()
                self.done[action.__name__] += 1
        self.own.compare_all()
        return {**self.contended.claims(), "actions": self.done}


def main() -> None:
    parser = argparse.ArgumentParser(description="One of several workers in the same directories.")
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--end", type=float, required=True)
    parser.add_argument("--official", type=Path, action="append", default=[])
    parser.add_argument("--old", type=Path, action="append", default=[])
    options = parser.parse_args()
    worker = Worker(options)
    try:
        print(json.dumps(worker.run(options.end)))
    except Exception:
        traceback.print_exc()
        sys.exit("the last actions:\n" + "\n".join(worker.last))


if __name__ == "__main__":
    main()
