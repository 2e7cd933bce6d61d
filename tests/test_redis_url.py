"""Metadata URLs of Redis: every form that official clients take, where passwords come from, what is refused.

Nothing is connected (test_redis_topologies does that).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meta.engines import mask_url, open_engine
from meta.errors import BadURL
from meta.redis.url import Options

PASSWORDS = ("REDIS_PASSWORD", "META_PASSWORD", "META_PASSWORD_FILE", "SENTINEL_PASSWORD")


@pytest.fixture(autouse=True)
def no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PASSWORDS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"mode": "single", "addresses": [("h", 6379)], "db": 0, "user": "", "password": ""}),
        ("redis://h/", {"addresses": [("h", 6379)], "db": 0}),
        ("redis://h:7000/3", {"addresses": [("h", 7000)], "db": 3, "tls": False}),
        ("rediss://h:7000/3", {"addresses": [("h", 7000)], "tls": True, "verify": True}),
        ("redis://10.0.0.1/15", {"addresses": [("10.0.0.1", 6379)], "db": 15}),
        ("redis://[::1]:7000/1", {"mode": "single", "addresses": [("::1", 7000)], "db": 1}),
        ("redis://[fe80::1]/1", {"addresses": [("fe80::1", 6379)]}),
        # credentials
        ("redis://:pw@h", {"user": "", "password": "pw", "addresses": [("h", 6379)]}),
        ("redis://u:pw@h:1/2", {"user": "u", "password": "pw", "addresses": [("h", 1)], "db": 2}),
        ("redis://u@h", {"user": "u", "password": ""}),
        ("redis://u:p%40%3A%2F%3Fs@h", {"user": "u", "password": "p@:/?s"}),
        ("redis://u:p@:s/s@h:1/2", {"user": "u", "password": "p@:s/s", "addresses": [("h", 1)]}),
        ("redis://:pässwörd@h", {"password": "pässwörd"}),
        # sockets
        ("unix:///run/redis.sock", {"mode": "socket", "path": "/run/redis.sock", "db": 0}),
        ("unix:///run/redis.sock?db=4", {"path": "/run/redis.sock", "db": 4}),
        ("unix://u:pw@/run/redis.sock?db=4", {"path": "/run/redis.sock", "user": "u", "password": "pw", "db": 4}),
        # sentinels: a comma before the first colon. The port of the last one goes for those without
        (
            "redis://m,a,b:5000/2",
            {"mode": "sentinel", "master": "m", "addresses": [("a", 5000), ("b", 5000)], "db": 2},
        ),
        ("redis://m,a:1,b:2/2", {"mode": "sentinel", "addresses": [("a", 1), ("b", 2)]}),
        ("redis://m,a:1,b/2", {"mode": "sentinel", "addresses": [("a", 1), ("b", 26379)]}),
        ("redis://:pw@m,a:1/2", {"mode": "sentinel", "master": "m", "addresses": [("a", 1)], "password": "pw"}),
        ("rediss://m,[::1]:7000", {"mode": "sentinel", "addresses": [("::1", 7000)], "tls": True}),
        # clusters: the first comma behind the first colon, or no colon at all (as official clients have it)
        ("redis://a:1,b:2/7", {"mode": "cluster", "addresses": [("a", 1), ("b", 2)], "db": 7, "master": ""}),
        ("redis://a:1,b/7", {"mode": "cluster", "addresses": [("a", 1), ("b", 6379)]}),
        ("redis://a,b,c/7", {"mode": "cluster", "addresses": [("a", 6379), ("b", 6379), ("c", 6379)]}),
        ("redis://u:pw@a:1,b:2/7", {"mode": "cluster", "user": "u", "addresses": [("a", 1), ("b", 2)]}),
        # parameters, in both spellings
        (
            "redis://h/1?min-retry-backoff=1ms&max-retry-backoff=2m&read-timeout=1.5s&write-timeout=1m30s",
            {"min_backoff_s": 0.001, "max_backoff_s": 120, "read_timeout_s": 1.5, "write_timeout_s": 90},
        ),
        ("redis://h/1?read_timeout=7&write_timeout=10ms", {"read_timeout_s": 7, "write_timeout_s": 0.01}),
        ("redis://h/1", {"min_backoff_s": 0.02, "max_backoff_s": 10, "read_timeout_s": 30, "write_timeout_s": 5}),
        ("redis://m,s:1/1?route-read=replica", {"route_read": "replica"}),
        ("redis://h:1,i:2/1?route-read=random", {"route_read": "random"}),
        ("rediss://h?insecure-skip-verify=true", {"verify": False}),
        ("rediss://h?insecure-skip-verify=1", {"verify": False}),
        ("rediss://h?insecure-skip-verify=false", {"verify": True}),
        ("rediss://h?insecure-skip-verify", {"verify": True}),
        ("redis://h/1?client-cache=true&client-cache-size=1&client-cache-expire=3s&client-cache-preload=1", {"db": 1}),
    ],
)
def test_forms(url: str, expected: dict[str, Any]) -> None:
    options = Options.parse(url)
    assert {name: getattr(options, name) for name in expected} == expected


def test_files_of_tls(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    place = f"rediss://h/1?tls-ca-cert-file={tmp_path}/ca&tls-cert-file={tmp_path}/cert&tls-key-file={tmp_path}/key"
    options = Options.parse(place)
    assert (options.ca, options.cert, options.key) == tuple(f"{tmp_path}/{name}" for name in ("ca", "cert", "key"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://", "needs a host"),
        ("redis:///1", "needs a host"),
        ("redis://:pw@/1", "needs a host"),
        ("redis://h:port/1", "port of a Redis URL must be a number"),
        ("redis://h:70000/1", "from 1 to 65535"),
        ("redis://h:0/1", "from 1 to 65535"),
        ("redis://h/one", "database 'one' is not a number"),
        ("redis://h/-1", "database '-1' is not a number"),
        ("redis://h/1/2", "database '1/2' is not a number"),
        ("unix:///s.sock?db=x", "db 'x' is not a number"),
        ("unix://", "needs the path of a socket"),
        ("redis://h/1?read-timeout=soon", "'soon' is not a duration"),
        ("redis://h/1?read-timeout=1..5s", "is not a duration"),
        ("redis://h/1?read-timeout=5x", "is not a duration"),
        ("redis://h/1?read-timeout=-1s", "is not a duration"),
        ("redis://h/1?read-timeout=0", "is not a duration above zero"),
        ("redis://h/1?max-retry-backoff=s", "is not a duration"),
        ("redis://h/1?route-read=nearest", "route-read=nearest: use replica, random or latency"),
        ("redis://h/1?timeout=5s&retries=3", "unknown parameter of a Redis URL: retries, timeout"),
        ("rediss://h/1?tls-ca-cert-file=/no/such/file", "tls-ca-cert-file: there is no file /no/such/file"),
        ("rediss://h/1?tls-server-name=other", "tls-server-name is not supported"),
    ],
)
def test_what_is_refused(url: str, message: str) -> None:
    with pytest.raises(BadURL, match=message):
        open_engine(url)


@pytest.mark.parametrize("character", list("/?#:@%& +"))
def test_passwords_are_never_shown(character: str) -> None:
    """Neither the ones that are understood nor those that should have been written with %."""
    url = f"redis://me:seCret{character}seCret@h:1/2"
    assert "seCret" not in mask_url(url)
    try:
        options = Options.parse(url)
    except BadURL as e:
        assert "seCret" not in str(e)
        assert character in "?"
    else:
        assert options.password == f"seCret{character}seCret" and options.addresses == [("h", 1)]
        assert "seCret" not in repr(options) + options.shown


def test_where_passwords_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL comes before REDIS_PASSWORD, that before META_PASSWORD, that before the file."""
    (tmp_path / "pw").write_text("of the file\n")
    monkeypatch.setenv("META_PASSWORD_FILE", str(tmp_path / "pw"))
    assert Options.parse("redis://h").password == "of the file"
    assert Options.parse("unix:///s.sock").password == "of the file"
    monkeypatch.setenv("META_PASSWORD", "meta")
    assert Options.parse("redis://u@h").password == "meta"
    monkeypatch.setenv("REDIS_PASSWORD", "redis")
    assert Options.parse("redis://u:@h").password == "redis"
    assert Options.parse("redis://:url@h").password == "url"
    assert Options.parse("redis://h").sentinel_password == ""
    monkeypatch.setenv("SENTINEL_PASSWORD", "sentinel")
    assert Options.parse("redis://m,s:1/0").sentinel_password == "sentinel"


def test_a_password_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_PASSWORD_FILE", str(tmp_path / "nothing"))
    with pytest.raises(BadURL, match=r"META_PASSWORD_FILE .*nothing: No such file"):
        Options.parse("redis://h")
    assert Options.parse("redis://:pw@h").password == "pw"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:pw@h/1", "h:6379"),
        ("redis://:pw@m,a,b:5000/2", "m (a:5000,b:5000)"),
        ("redis://a:1,b:2/7", "a:1,b:2"),
        ("unix://u:pw@/run/redis.sock?db=4", "/run/redis.sock"),
    ],
)
def test_how_servers_are_called_in_messages(url: str, shown: str) -> None:
    assert Options.parse(url).shown == shown
