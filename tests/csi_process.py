"""The official CSI driver as a process, with this client installed beside it, and the calls that a kubelet makes to it.

Not a driver and no part of one: JFS_TEST_CSI names the binary. It runs by-process, which needs no Kubernetes, in a
mount namespace of its own, where `juicefs` and `mount.juicefs` lie in the places that the driver has built in; nothing
of the machine is replaced. gRPC messages are written here from the field numbers of the CSI specification (1.10), so
that no generated code is needed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from mounts import REPOSITORY, environment, signal_process
from needs import need, need_fuse

Message = dict[int, Any]
"""Field number to value: text, number, message, a map of texts, or a list of these."""

READY_S = 20.0
SINGLE_NODE_WRITER = 1
BYTES = 1  # VolumeUsage.Unit
_ENVIRONMENT = {
    "POD_NAME": "csi-node",  # which role it plays
    "JUICEFS_CSI_WEB_PORT": "0",
    "DISABLE_GRACE_UPGRADE": "true",  # or it might take /tmp for its own directory and tidy it up
}


def binary() -> str:
    """The driver that JFS_TEST_CSI names. No registry has it, so that this is a skip even in CI."""
    named = os.environ.get("JFS_TEST_CSI")
    if not named:
        pytest.skip("JFS_TEST_CSI names no CSI driver")
    need_fuse()
    need("unshare", "nsenter", "mount", "bash")
    return named


class Driver:
    """One driver process. Paths below `directory` are the same inside of its namespace and outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "driver.log"
        self._program = binary()
        self._grpc = pytest.importorskip("grpc", reason="needs the Python package grpcio")
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Any = None

    def __enter__(self) -> Driver:
        script = self._script()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "bash", "-c", script], cwd="/", stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
                env=environment() | _ENVIRONMENT,
            )  # fmt: skip
        self._channel = self._grpc.insecure_channel(f"unix://{self.directory}/csi.sock")
        try:
            self._grpc.channel_ready_future(self._channel).result(READY_S)
        except self._grpc.FutureTimeoutError:
            self.__exit__(None, None, None)
            pytest.fail(f"the driver does not listen:\n{self.log.read_text()[-4000:]}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the driver; its mounts go with the namespace, and clients of it that are left over are killed."""
        assert self._process is not None
        if self._channel is not None:
            self._channel.close()
        left = self.clients()
        self._process.kill()
        self._process.wait(10)
        for pid in left:
            signal_process(pid, signal.SIGKILL)

    def _script(self) -> str:
        """Files of ours are laid over /bin and /usr/local/bin without writing there; /var is empty and goes away."""
        for place in ("bin", "local"):
            (self.directory / place).mkdir()
        client = self.directory / "local" / "juicefs"
        client.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from juicefs_py.__main__ import main\nsys.exit(main())\n"
        )
        client.chmod(0o755)
        (self.directory / "bin" / "mount.juicefs").symlink_to("/usr/local/bin/juicefs")
        return f"""set -e
for pair in bin:{os.path.realpath("/bin")} local:/usr/local/bin; do
    mount -t overlay -o lowerdir={self.directory}/${{pair%%:*}}:${{pair#*:}} overlay ${{pair#*:}}
done
mount -t tmpfs none /var
mkdir -p /var/lib /var/log /var/tmp
ln -s /run /var/run
exec {self._program} --endpoint=unix://{self.directory}/csi.sock --nodeid=n1 --by-process=true --logtostderr --v=5
"""

    def call(self, method: str, message: Message | None = None, timeout_s: float = 90) -> Message:
        """One call, such as `Node/NodePublishVolume`; the log of the driver explains a failure."""
        stub = self._channel.unary_unary(f"/csi.v1.{method}", lambda m: m, lambda m: m)
        try:
            reply: bytes = stub(encoded(message or {}), timeout=timeout_s)
        except self._grpc.RpcError as error:
            print(self.log.read_text(errors="replace")[-8000:])
            raise AssertionError(f"{method}: {error.code()}: {error.details()}") from None
        return decoded(reply)

    def inside(self, *command: str) -> str:
        """Run a command where the driver runs, and return what it prints."""
        assert self._process is not None
        done = subprocess.run(
            ["nsenter", "-m", "-t", str(self._process.pid), *command],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.log.read_text(errors='replace')[-4000:]}"
        return done.stdout

    def clients(self) -> list[int]:
        """The mount processes that live in the driver's namespace."""
        assert self._process is not None
        here = os.readlink(f"/proc/{self._process.pid}/ns/mnt")
        found = []
        for entry in os.listdir("/proc"):
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/mnt") == here and b"juicefs mount" in line:
                    found.append(int(entry))
            except OSError:
                continue
        return found


def wait_until_gone(driver: Driver, limit_s: float = 20) -> None:
    """Until no client of the driver is left."""
    deadline = time.monotonic() + limit_s
    while left := driver.clients():
        assert time.monotonic() < deadline, f"still there: {left}\n{driver.log.read_text(errors='replace')[-4000:]}"
        time.sleep(0.1)


def capability() -> Message:
    """Mounted, for one writer."""
    return {2: {1: "juicefs"}, 3: {1: SINGLE_NODE_WRITER}}


# -- protobuf


def encoded(message: Message) -> bytes:
    """A message on the wire: varints, and what has a length."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(_field(number, each) for each in value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, dict) and any(isinstance(key, str) for key in value):
        return b"".join(_field(number, {1: key, 2: text}) for key, text in value.items())
    body = encoded(value) if isinstance(value, dict) else value.encode()
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decoded(data: bytes) -> Message:
    """A message from the wire: every field as a list of numbers or bytes, in the order of their arrival."""
    message: Message = {}
    source = iter(data)
    for key in source:
        number, kind = key >> 3, key & 7
        assert kind in (0, 2) and number < 16, f"unexpected field {number} of type {kind}"
        value = _read_varint(source)
        message.setdefault(number, []).append(bytes(next(source) for _ in range(value)) if kind == 2 else value)
    return message


def _read_varint(source: Iterator[int]) -> int:
    value = shift = 0
    for byte in source:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value
