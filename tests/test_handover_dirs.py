"""Directories that are being listed while the process that serves them is replaced."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from mounts import Mount, Volume
from needs import need_fuse

from juicefs_py.ledger import Ledger
from juicefs_py.mount import state

NAMES = 600  # of 100 bytes: more than one call of getdents(2) returns


def config_of(mount: Path) -> tuple[int, set[str]]:
    """Who serves, and the names of the root."""
    return json.loads((mount / ".config").read_text())["Pid"], set(os.listdir(mount))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_listings_go_on(scratch: Path, number: signal.Signals) -> None:
    """Each name comes once, though others open directories meanwhile. The root has rows that no engine knows."""
    need_fuse()
    mount = Mount(Volume(scratch / "vol").format(), scratch / "mnt", expected=["will restart"]).start()
    try:
        while "is ready at" not in mount.read_log():  # before, nobody else has the connection
            time.sleep(0.05)
        for path in (mount.path / "one", mount.path / "other"):
            path.mkdir()
        for index in range(NAMES):  # links, because making files takes handle numbers
            os.symlink("x", mount.path / f"{index:0100}")
            os.symlink("x", mount.path / "one" / f"{index:0100}")
        pid, in_root = config_of(mount.path)
        wanted = {mount.path: in_root, mount.path / "one": set(os.listdir(mount.path / "one"))}
        listings = {path: os.scandir(path) for path in wanted}
        begun = {path: [next(listing).name] for path, listing in listings.items()}
        os.kill(pid, number)
        deadline = time.monotonic() + 20
        while config_of(mount.path)[0] == pid:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        others = [os.open(mount.path / "other", os.O_RDONLY | os.O_DIRECTORY) for _ in range(40)]
        for path, listing in listings.items():
            names = begun[path] + [entry.name for entry in listing]
            assert len(names) == len(set(names))
            assert set(names) == wanted[path]
            listing.close()
        for fd in others:
            assert os.listdir(fd) == []
            os.close(fd)
        mount.stop()
    finally:
        if mount.process is not None and mount.process.poll() is None:
            mount.kill()


def test_numbers_outlive_what_they_were_given_to() -> None:
    ledger = Ledger()
    ledger.next = 42
    ledger.clear()
    assert Ledger(os.dup(ledger.fd)).next == 42


def test_a_predecessor_tells_its_next_number(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"Handler": {}, "NextFh": 99}')
    left = state.load(str(path))
    assert left == ([], 99, set(), str(path))
    left.put_aside()
    assert state.load(str(path)) == ([], 0, set(), "")
    path.write_text('{"Handler": {}}')
    assert state.load(str(path)) == ([], 0, set(), str(path))
