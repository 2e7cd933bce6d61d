"""Mistakes that people make with a Redis address, on the real command line: one clear line each, and no password in it.

And what a start warns of. Not the forms of URLs (test_redis_url).
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from mounts import REPOSITORY, Mount, Volume, environment
from redis_server import RedisServer, TlsServer, free_port

from meta.engines import open_engine
from meta.errors import SettingError
from meta.redis import server as examination
from meta.redis.link import Link
from meta.rules.format import init_volume
from meta.setting import Setting

SECRET = "seCret9"
FATAL = re.compile(r"^\S+ \S+ juicefs\[\d+\] <FATAL>: (.*) \[\w+@[\w<>]+\.py:\d+\]$")
COMMANDS = [("status",), ("format", "myjfs"), ("mount", "/tmp/no-such-mount")]


def juicefs(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "juicefs_py", *words], capture_output=True, text=True, timeout=120,
        cwd=REPOSITORY, env=environment(),
    )  # fmt: skip
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done


def refused(command: tuple[str, ...], url: str, *more: str) -> str:
    """Run a command that must fail; the text of its only FATAL line, which is the last it writes."""
    done = juicefs(command[0], url, *command[1:], *more)
    assert done.returncode == 1, done
    fatal = [match[1] for line in done.stderr.splitlines() if (match := FATAL.match(line))]
    assert len(fatal) == 1 and FATAL.match(done.stderr.splitlines()[-1]), done.stderr
    assert "internal error" not in fatal[0]
    assert not os.path.exists("/tmp/no-such-mount")
    return fatal[0]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer(requirepass=SECRET, databases="64").start()
    yield server
    server.close()


@pytest.fixture
def url(server: RedisServer) -> str:
    """A database that nobody has used, with the right password."""
    return with_password(server.url())


def with_password(url: str, password: str = SECRET) -> str:
    return url.replace("://", f"://:{password}@")


def a_volume(url: str, **setting: Any) -> None:
    """Format quickly, and then change what format would not."""
    engine = open_engine(url)
    engine.prepare()
    init_volume(engine, Setting(name="myjfs", uuid="5a1ade", storage="file", bucket="/nowhere/"))
    document = json.loads(engine.reader.setting() or b"")
    engine.transact(lambda tx: tx.put_setting(json.dumps({**document, **setting}).encode()))
    engine.close()


# addresses


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_password(command: tuple[str, ...], server: RedisServer) -> None:
    message = refused(command, with_password(server.url(1), "wr0ng"))
    assert f"Redis at 127.0.0.1:{server.port} refuses the user or the password" in message
    assert "wr0ng" not in message


def test_no_password(server: RedisServer) -> None:
    assert "refuses the user or the password: Authentication required" in refused(("status",), server.url(1))


def test_a_wrong_user(server: RedisServer) -> None:
    assert "refuses the user or the password" in refused(("status",), server.url(1).replace("://", "://bob:wr0ng@"))


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_database_number_that_the_server_does_not_have(command: tuple[str, ...], server: RedisServer) -> None:
    assert "DB index is out of range" in refused(command, with_password(server.url(64)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_down(command: tuple[str, ...]) -> None:
    port = free_port()
    message = refused(command, f"redis://:{SECRET}@127.0.0.1:{port}/1")
    assert f"cannot connect to Redis at 127.0.0.1:{port}" in message and "refused" in message


@pytest.mark.parametrize(("form", "message"), [
    ("redis://:seCret9@no-such-host.invalid/1", "cannot connect to Redis at no-such-host.invalid:6379"),
    ("unix://:seCret9@/no/such.sock?db=1", "cannot connect to Redis at /no/such.sock"),
    ("redis://:seCret9@mymaster,127.0.0.1:1/1", "cannot connect to Redis at mymaster (127.0.0.1:1)"),
    ("redis://:seCret9@127.0.0.1:1,127.0.0.1:2/1", "cannot connect to Redis at 127.0.0.1:1,127.0.0.1:2"),
    ("redis://:seCret9@127.0.0.1:1/one", "database 'one' is not a number"),
    ("redis://:seCret9@127.0.0.1:port/1", "port of a Redis URL must be a number"),
    ("redis://:seCret9@127.0.0.1:1/1?read-timeout=soon", "'soon' is not a duration"),
    ("redis://:seCret9@127.0.0.1:1/1?tiemout=5s", "unknown parameter of a Redis URL: tiemout"),
    ("redis://:seCret9@127.0.0.1:1/1?route-read=near", "route-read=near: use replica, random or latency"),
    ("rediss://:seCret9@127.0.0.1:1/1?tls-ca-cert-file=/no.crt", "tls-ca-cert-file: there is no file /no.crt"),
    ("redis://:seCret9?x@127.0.0.1:1/1", "special characters of a password are written with %"),
    ("127.0.0.1:1/1", "cannot connect to Redis at 127.0.0.1:1"),
])  # fmt: skip
def test_addresses(form: str, message: str) -> None:
    assert message in refused(("status",), form)


def test_tls_that_does_not_match() -> None:
    """The other way round is in test_redis_topologies: it takes its time."""
    guarded = TlsServer().start()
    assert "certificate is not trusted here" in refused(("mount", "/tmp/no-such-mount"), guarded.url(1))
    without = guarded.url(1).replace("rediss", "redis")
    assert "if the server speaks TLS, write rediss://" in refused(("status",), without)
    guarded.close()


# what the database holds


@pytest.mark.parametrize("command", [("config",), ("mount", "/tmp/no-such-mount")])
def test_an_empty_database(command: tuple[str, ...], url: str, server: RedisServer) -> None:
    assert "database is not formatted, please run `juicefs format ...` first" in refused(command, url)
    with server.client(int(url.rpartition("/")[2]), password=SECRET) as direct:
        assert direct.dbsize() == 0


def test_a_database_that_holds_something_else(url: str, server: RedisServer, tmp_path: Path) -> None:
    with server.client(int(url.rpartition("/")[2]), password=SECRET) as direct:
        direct.set("user:1", "alice")
        message = refused(("format", "myjfs"), url, "--bucket", f"{tmp_path}/data")
        assert "holds something else than a volume (keys user:1" in message and "another database number" in message
        assert direct.keys() == [b"user:1"]
    assert "not formatted" in refused(("mount", "/tmp/no-such-mount"), url)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(("setting", "message"), [
    ({"MetaVersion": 2}, r"(?i)version"),
    ({"MinClientVersion": "9.9.9"}, r"9\.9\.9"),
    ({"ChangeLog": True}, r"change log.*read-only"),
])  # fmt: skip
def test_a_volume_that_is_not_for_us(setting: dict[str, Any], message: str, url: str, server: RedisServer) -> None:
    """A change log must be written by all or by none: we read such a volume, and refuse to change it."""
    a_volume(url, **setting)
    with server.client(int(url.rpartition("/")[2]), password=SECRET) as direct:
        before = contents(direct)
        assert re.search(message, refused(("mount", "/tmp/no-such-mount"), url))
        if "ChangeLog" not in setting:  # what is in the setting is not logged
            assert re.search(message, refused(("config",), url, "--trash-days", "3", "--yes"))
        assert contents(direct) == before
    status = juicefs("status", url)
    assert status.returncode == (0 if "ChangeLog" in setting else 1)


def contents(direct: redis.Redis) -> dict[bytes, bytes]:
    """All that is stored of a volume (tickets are not)."""
    return {key: direct.dump(key) for key in direct.scan_iter() if not key.startswith(b"request")}


def test_a_setting_that_is_no_setting(url: str, server: RedisServer) -> None:
    with server.client(int(url.rpartition("/")[2]), password=SECRET) as direct:
        direct.set("setting", b"\xff{")
        assert "setting" in refused(("status",), url)
        direct.delete("setting")
        direct.hset("setting", "a", "b")
        assert "holds something else than it should" in refused(("mount", "/tmp/no-such-mount"), url)


# passwords


@pytest.mark.battery
def test_nobody_sees_a_password(server: RedisServer, new_mount: Callable[..., Mount], scratch: Path) -> None:
    """Neither in the process title of a mount nor in its log, nor in what it tells about itself."""
    volume = Volume(scratch / "vol", "redis", url=with_password(server.url(60))).format()
    mount = new_mount(volume=volume)
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in mount.pids()]
    assert titles and not any(SECRET.encode() in title for title in titles)
    assert any(f":****@127.0.0.1:{server.port}/60".encode() in title for title in titles)
    assert SECRET.encode() not in (mount.path / ".config").read_bytes()
    assert SECRET not in juicefs("status", volume.url).stdout
    (mount.path / "f").write_text("x")
    mount.stop()
    assert SECRET not in mount.read_log()


# warnings


def test_what_a_start_warns_of(caplog: pytest.LogCaptureFixture) -> None:
    """A server that may lose or evict data is used, but not without a word; what can be mended is."""
    server = RedisServer(appendonly="no", maxmemory_policy="allkeys-lru").start()
    with caplog.at_level(logging.WARNING):
        open_engine(server.url(1)).prepare()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "AOF is not enabled in Redis",
        "maxmemory-policy of Redis was allkeys-lru, which throws data away; it is noeviction now",
    ]
    assert server.ask("CONFIG", "GET", "maxmemory-policy") in ([b"maxmemory-policy", b"noeviction"], {
        b"maxmemory-policy": b"noeviction"
    })  # fmt: skip
    caplog.clear()
    server.ask("CONFIG", "SET", "appendonly", "yes")
    with caplog.at_level(logging.WARNING):
        open_engine(server.url(1)).prepare()
        open_engine(server.url(1), read_only=True).prepare()
    assert not caplog.records
    server.close()


def test_an_evicting_server_that_lets_nobody_change_that(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(maxmemory_policy="volatile-ttl").start()
    server.ask("ACL", "SETUSER", "jfs", "on", f">{SECRET}", "~*", "+@all", "-config")
    with caplog.at_level(logging.WARNING):
        open_engine(server.url(1).replace("://", f"://jfs:{SECRET}@")).prepare()
    assert "maxmemory-policy is volatile-ttl) and does not let this be changed" in caplog.text
    assert "set `maxmemory-policy noeviction`" in caplog.text and SECRET not in caplog.text
    server.close()


@pytest.mark.parametrize(("version", "expected"), [
    ("2.8.24", SettingError), ("3.2.1", SettingError), ("4.0.14", "Redis 4.0.14 is old"), ("6.0.16", "6.0.16 is old"),
    ("6.2.0", ""), ("7.0.15", ""), ("8.2.1", ""), ("255.255.255", ""), ("", ""),
])  # fmt: skip
def test_versions_of_servers(version: str, expected: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Told(Link):
        """Answers INFO as a server of that version would."""

        def __init__(self) -> None:
            pass

        def exchange(self, commands: Any) -> list[Any]:
            return [f"# Server\r\nredis_version:{version}\r\n".encode(), b"# x\r\naof_enabled:1\r\n", b""]

    with caplog.at_level(logging.WARNING):
        if isinstance(expected, str):
            examination.examine(Told())
            assert caplog.text.find(expected) >= 0 if expected else not caplog.records
        else:
            with pytest.raises(expected, match=r"too old: 4\.0 or newer"):
                examination.examine(Told())


@pytest.mark.battery
def test_a_mount_says_what_a_start_warns_of(new_mount: Callable[..., Mount], scratch: Path) -> None:
    server = RedisServer(appendonly="no").start()
    volume = Volume(scratch / "vol", "redis", url=server.url(1)).format()
    mount = new_mount(volume=volume)
    mount.expected.append("AOF is not enabled")
    mount.stop()
    assert "<WARNING>: AOF is not enabled in Redis" in mount.read_log()
    server.close()
