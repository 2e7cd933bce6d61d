"""Real programs on a mount with Redis and a local directory, beside an official client and the plain directory.

What they work on is made here, the same each time: a tree of sources, a repository of it, a wheel of a large package.
Nothing is fetched.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.machine import drop_caches
from bench.measure import Measure, Row, alternate
from bench.peers import run
from bench.setting import Bench, Scale, redis_server

_SECTION = "programs"
_BUDGETS = {"go": 1.0}
_SAMPLE = 100 << 10
_LOADERS = 2
_PACKAGE = "bench_package"


def at_work(bench: Bench) -> Iterator[Row]:
    """Everything, on all mounts in turn."""
    base = bench.folder("programs")
    material = Material(base / "material", bench.scale)
    with redis_server(base / "redis") as port, contextlib.ExitStack() as stack:
        works = {}
        for number, client in enumerate(bench.clients):
            home, url = base / client.name.replace(" ", "-"), f"redis://127.0.0.1:{port}/{number}"
            client.format(url, f"bench-{number}", home / "objects")
            works[client.name] = Programs(stack.enter_context(client.mounted(url, home)), material, home / "cache")
        works["local"] = Programs(bench.folder("programs/plain"), material, None)
        for name, method in (
            (f"untar {bench.scale.sources} sources", "untar"),
            ("rsync -a of them, onto the mount", "rsync"),
            ("git clone", "git_clone"),
            ("git status, cold", "git_status"),
            ("pip install of a large package", "pip_install"),
            (f"import of {_modules(bench.scale)} modules, cold", "import_cold"),
            (f"load {bench.scale.samples} samples of 100 KiB, shuffled, two epochs", "load_samples"),
            ("rm -r of the sources", "remove"),
        ):
            measures: dict[str, Measure] = {who: getattr(work, method) for who, work in works.items()}
            yield alternate(Row(_SECTION, name, "s", False, _BUDGETS), measures, min(bench.scale.rounds, 3))


def _modules(scale: Scale) -> int:
    return scale.sources // 2


class Material:
    """What the programs work on, on the plain disk."""

    def __init__(self, base: Path, scale: Scale) -> None:
        self.scale = scale
        self.tree, self.tar, self.repository = base / "tree", base / "tree.tar", base / "repository"
        self.wheel = base / f"{_PACKAGE}-1.0-py3-none-any.whl"
        chance = random.Random(7)
        for number in range(scale.sources):
            path = self.tree / f"part{number % 23}" / f"sub{number % 7}" / f"source{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._source(chance, number))
        with tarfile.open(self.tar, "w") as archive:
            archive.add(self.tree, "tree")
        shutil.copytree(self.tree, self.repository)
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
            run(["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", *words], cwd=self.repository)
        self._make_wheel()

    @staticmethod
    def _source(chance: random.Random, number: int) -> str:
        """A module of a usual size: most are small, few are large."""
        count = int(chance.lognormvariate(3.5, 1.0)) + 1
        return "".join(
            f"def function_{number}_{index}(value):\n    return value + {index}\n\n\n" for index in range(count)
        )

    def _make_wheel(self) -> None:
        chance = random.Random(11)
        with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as wheel:
            names = [f"{_PACKAGE}/module{number}.py" for number in range(_modules(self.scale))]
            for number, name in enumerate(names):
                wheel.writestr(name, self._source(chance, number))
            imports = "".join(f"from {_PACKAGE} import module{number}\n" for number in range(len(names)))
            wheel.writestr(f"{_PACKAGE}/__init__.py", imports)
            about = f"{_PACKAGE}-1.0.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {_PACKAGE}\nVersion: 1.0\n")
            wheel.writestr(
                f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            records = [
                *names,
                f"{_PACKAGE}/__init__.py",
                *(f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD")),
            ]
            wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in records))


class Programs:
    """The work of every row below one directory: seconds each."""

    def __init__(self, root: Path, material: Material, cache: Path | None) -> None:
        self.root = root
        self._material = material
        self._cache = cache

    def untar(self, round_number: int) -> float:
        return self._timed(["tar", "xf", str(self._material.tar), "-C", str(self._fresh("untar", round_number))])

    def rsync(self, round_number: int) -> float:
        return self._timed(["rsync", "-a", f"{self._material.tree}/", f"{self._fresh('rsync', round_number)}/"])

    def git_clone(self, round_number: int) -> float:
        target = self._fresh("git", round_number) / "clone"
        return self._timed(["git", "clone", "-q", "--no-hardlinks", str(self._material.repository), str(target)])

    def git_status(self, round_number: int) -> float:
        drop_caches()
        return self._timed(["git", "-C", str(self.root / f"git-{round_number}" / "clone"), "status", "--porcelain"])

    def pip_install(self, round_number: int) -> float:
        target = self._fresh("pip", round_number)
        words = [
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--disable-pip-version-check",
            "--target",
            str(target),
        ]
        return self._timed([sys.executable, "-m", "pip", *words, str(self._material.wheel)])

    def import_cold(self, round_number: int) -> float:
        self._chill()
        search = os.environ | {"PYTHONPATH": str(self.root / f"pip-{round_number}")}
        return self._timed([sys.executable, "-c", f"import {_PACKAGE}"], search)

    def load_samples(self, round_number: int) -> float:
        """What a training job does: two workers read all samples in an order of their own, twice."""
        folder = self.root / "samples"
        count = self._material.scale.samples
        if round_number == 0:
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:06d}").write_bytes(os.urandom(_SAMPLE))
        self._chill()
        chance = random.Random(round_number)
        start = time.perf_counter()
        with ThreadPoolExecutor(_LOADERS) as workers:
            for _ in range(2):
                order = chance.sample(range(count), count)
                for size in workers.map(lambda number: len((folder / f"{number:06d}").read_bytes()), order):
                    assert size == _SAMPLE
        return time.perf_counter() - start

    def remove(self, round_number: int) -> float:
        return self._timed(["rm", "-r", str(self.root / f"untar-{round_number}")])

    def _fresh(self, kind: str, round_number: int) -> Path:
        path = self.root / f"{kind}-{round_number}"
        path.mkdir()
        return path

    def _chill(self) -> None:
        """Neither the kernel nor the cache directory has the bytes."""
        if self._cache is not None:
            for path in self._cache.glob("*/raw/chunks"):
                shutil.rmtree(path, ignore_errors=True)
        drop_caches()

    @staticmethod
    def _timed(command: list[str], environment: dict[str, str] | None = None) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - start
