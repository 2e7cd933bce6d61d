"""Programs that go on working while the process that serves their mount is replaced. `python handover_work.py KIND DIR`

Each prints one JSON line when its standard input is closed: what it has done, its longest pause in seconds, failures
that only a lost write explains (EIO). Anything else that goes wrong ends it with a traceback.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

RECORD = 4096


class Work:
    """One kind of work, step by step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.done = 0
        self.lost = 0

    def step(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """A last look at what was done."""


class Reader(Work):
    """Reads a file through one descriptor, again and again."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        path = directory / "read"
        path.write_bytes(os.urandom(3 << 20))
        self.wanted = hashlib.sha256(path.read_bytes()).hexdigest()
        self.file = path.open("rb", buffering=0)

    def step(self) -> None:
        os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.file.seek(0)
        digest = hashlib.sha256()
        while part := self.file.read(1 << 20):
            digest.update(part)
        assert digest.hexdigest() == self.wanted


class Writer(Work):
    """Appends records through one descriptor, each followed by fsync. What was acknowledged must be there."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.path = directory / "written"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def record(self, number: int) -> bytes:
        return f"{number:010d}".encode() * (RECORD // 10) + b"\n" * (RECORD % 10)

    def step(self) -> None:
        try:
            os.pwrite(self.fd, self.record(self.done), self.done * RECORD)
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.lost += 1
        else:
            self.done += 1

    def finish(self) -> None:
        data = self.path.read_bytes()
        assert len(data) >= self.done * RECORD, (len(data), self.done)
        for number in range(self.done):
            assert data[number * RECORD : (number + 1) * RECORD] == self.record(number), number


class Locks(Work):
    """Holds a BSD lock and a record lock; another process must never get them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.path = directory / "locked"
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        fcntl.lockf(self.file, fcntl.LOCK_EX, 10, 5)

    def step(self) -> None:
        script = (
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'r+')\n"
            "for take in (lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),\n"
            "             lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)):\n"
            "    try:\n"
            "        take()\n"
            "    except BlockingIOError:\n"
            "        continue\n"
            "    sys.exit('a lock was lost')\n"
        )
        subprocess.run([sys.executable, "-c", script, str(self.path)], check=True)
        time.sleep(0.05)


class Unlinked(Work):
    """Reads and writes an open file that has no name any more."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        path = directory / "unlinked"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(self.fd, b"x" * 100_000, 0)
        os.fsync(self.fd)
        path.unlink()

    def step(self) -> None:
        assert os.pread(self.fd, 200_000, 0) == b"x" * 100_000
        assert os.fstat(self.fd).st_nlink == 0


class Names(Work):
    """Makes, renames, links and removes names: each call succeeds, whether it was sent once or twice."""

    def step(self) -> None:
        at = self.directory / f"n{self.done}"
        os.mkdir(at)
        os.close(os.open(at / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.link(at / "a", at / "b")
        os.symlink("a", at / "c")
        os.rename(at / "a", at / "d")
        assert sorted(os.listdir(at)) == ["b", "c", "d"]
        for name in "bcd":
            os.unlink(at / name)
        os.rmdir(at)


class Paths(Work):
    """Follows a path to a file, which never fails: what looks nothing but names up is looked up again."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.path = directory / "a" / "b" / "file"
        self.path.parent.mkdir(parents=True)
        self.path.write_text("x")
        (directory / "link").symlink_to("a/b/file")

    def step(self) -> None:
        for _ in range(50):
            assert os.stat(self.path).st_size == 1
            assert os.stat(self.directory / "link").st_size == 1
            assert os.access(self.path, os.R_OK)
            assert os.statvfs(self.path).f_bsize


class Git(Work):
    """Clones a repository, and checks the clone. A lost write makes git give up, and it is tried again."""

    TOLD = ("Input/output error", "failed to write new configuration file")  # of the latter git does not say why

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.source = directory / "source"
        self.git("init", "-q", str(self.source))
        for number in range(300):
            (self.source / f"file{number}").write_text(f"{number}\n" * 50)
        self.git("-C", str(self.source), "add", ".")
        self.git("-C", str(self.source), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")

    @staticmethod
    def git(*words: str) -> None:
        subprocess.run(["git", *words], check=True, capture_output=True, text=True)

    def step(self) -> None:
        clone = self.directory / f"clone{self.done}.{self.lost}"
        try:
            self.git("clone", "-q", "--no-local", str(self.source), str(clone))
            self.git("-C", str(clone), "fsck", "--strict")
        except subprocess.CalledProcessError as error:
            if not any(told in error.stderr for told in self.TOLD):
                raise AssertionError(error.stderr) from None
            self.lost += 1
            self.done -= 1
        else:
            assert len(list(clone.iterdir())) == 301


KINDS: dict[str, type[Work]] = {
    "reader": Reader, "writer": Writer, "locks": Locks, "unlinked": Unlinked, "names": Names, "git": Git,
    "paths": Paths, "paths2": Paths,
}  # fmt: skip


ALL = ("reader", "writer", "locks", "unlinked", "names", "git", "paths")


def main(kind: str, directory: Path) -> None:
    """Work until standard input is closed."""
    directory.mkdir()
    work = KINDS[kind](directory)
    print("ready", flush=True)
    longest = 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.monotonic()
        work.step()
        work.done += kind != "writer"
        longest = max(longest, time.monotonic() - begun)
    work.finish()
    print(json.dumps({"kind": kind, "steps": work.done, "lost": work.lost, "longest": round(longest, 2)}), flush=True)


class Crew:
    """All kinds of work in processes of their own."""

    def __init__(self, root: Path, kinds: tuple[str, ...] = ALL) -> None:
        self.workers = [
            subprocess.Popen(
                [sys.executable, __file__, kind, str(root / kind)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for kind in kinds
        ]  # fmt: skip
        for worker in self.workers:
            assert worker.stdout is not None and worker.stderr is not None
            if worker.stdout.readline() != "ready\n":
                raise AssertionError(worker.stderr.read())

    def leave(self, timeout_s: float = 120) -> dict[str, dict[str, Any]]:
        """Have all of them stop; what each has done. Fails if one has failed."""
        results = {}
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.close()
            worker.stdin = None
        for worker in self.workers:
            output, errors = worker.communicate(timeout=timeout_s)
            assert worker.returncode == 0, errors
            result = json.loads(output)
            results[result["kind"]] = result
        return results

    def kill(self) -> None:
        """End all of them. Their pipes are closed here, not some time during another test."""
        for worker in self.workers:
            worker.kill()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(20)
            for pipe in (worker.stdin, worker.stdout, worker.stderr):
                if pipe is not None:
                    pipe.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
