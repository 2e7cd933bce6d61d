"""Redis metadata URLs: where the servers are and how to talk to them. Nothing is connected here.

redis://[user][:password]@host[:6379][/db]            one server, or any node of a cluster
rediss://...                                          the same over TLS
unix://[user[:password]@]/path/to.sock[?db=N]         a socket
redis://[...@]master,sentinel1,sentinel2[:26379]/db   Sentinel: a comma before the first colon
redis://[...@]host1:6379,host2:6379/db                a cluster: `db` becomes the prefix {db} of all keys
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, unquote

from meta.errors import BadURL

Mode = Literal["single", "sentinel", "cluster", "socket"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SPECIAL: Final = "(special characters of a password are written with %: / is %2F, ? is %3F, : is %3A)"
_IGNORED: Final = frozenset({"client-cache", "client-cache-size", "client-cache-expire", "client-cache-preload"})


@dataclass(slots=True)
class Options:
    """A parsed URL. `addresses` are (host, port), of sentinels for mode "sentinel"; times are in seconds."""

    mode: Mode = "single"
    addresses: list[tuple[str, int]] = field(default_factory=list)
    path: str = ""  # of the socket
    master: str = ""  # the name that sentinels know
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: bool = False
    verify: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    min_backoff_s: float = 0.02
    max_backoff_s: float = 10.0
    read_timeout_s: float = 30.0
    write_timeout_s: float = 5.0
    route_read: str = ""  # "replica" (sentinel, cluster), "random" or "latency" (cluster)

    @classmethod
    def parse(cls, url: str) -> Options:
        """Read a URL and the environment's passwords. `BadURL` says what is wrong."""
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        credentials, at, place = rest.rpartition("@")
        options = cls(tls=scheme == "rediss")
        if at:
            user, _, password = credentials.partition(":")
            options.user, options.password = unquote(user), unquote(password)
        if not options.password:
            options.password = _password_of_environment()
        options.sentinel_password = os.environ.get("SENTINEL_PASSWORD", "")
        parameters = {key.replace("_", "-"): values[-1] for key, values in parse_qs(query).items()}
        if scheme == "unix":
            options.mode, options.path = "socket", "/" + place.lstrip("/")
            if options.path == "/":
                raise BadURL("a unix:// URL needs the path of a socket: unix:///PATH[?db=N]")
            options.db = _number(parameters.pop("db", "0"), "db")
        else:
            hosts, _, db = place.partition("/")
            options.db = _number(db or "0", "database")
            options._locate(hosts)
        options._tune(parameters)
        return options

    def _locate(self, hosts: str) -> None:
        comma, colon = hosts.find(","), hosts.find(":")
        if 0 <= comma < colon:  # a list without any port is a cluster's, as official clients have it
            names = hosts.split(",")
            self.mode, self.master = "sentinel", names[0]
            self.addresses = _with_last_port(names[1:])
        else:
            self.mode = "cluster" if comma >= 0 else "single"
            self.addresses = [_address(host, _PORT) for host in hosts.split(",")]

    def _tune(self, parameters: dict[str, str]) -> None:
        if parameters.pop("tls-server-name", ""):
            raise BadURL("tls-server-name is not supported: name the server in the URL as its certificate does")
        self.verify = parameters.pop("insecure-skip-verify", "") in ("", "false", "0")
        self.ca = _file(parameters.pop("tls-ca-cert-file", ""), "tls-ca-cert-file")
        self.cert = _file(parameters.pop("tls-cert-file", ""), "tls-cert-file")
        self.key = _file(parameters.pop("tls-key-file", ""), "tls-key-file")
        self.min_backoff_s = _duration(parameters.pop("min-retry-backoff", "20ms"))
        self.max_backoff_s = _duration(parameters.pop("max-retry-backoff", "10s"))
        self.read_timeout_s = _duration(parameters.pop("read-timeout", "30s"))
        self.write_timeout_s = _duration(parameters.pop("write-timeout", "5s"))
        self.route_read = parameters.pop("route-read", "")
        if self.route_read not in ("", "replica", "random", "latency"):
            raise BadURL(f"route-read={self.route_read}: use replica, random or latency")
        unknown = sorted(set(parameters) - _IGNORED)
        if unknown:
            raise BadURL(f"unknown parameter of a Redis URL: {', '.join(unknown)}")

    @property
    def shown(self) -> str:
        """The address for messages, without secrets."""
        if self.mode == "socket":
            return self.path
        places = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.master} ({places})" if self.master else places


def _password_of_environment() -> str:
    for name in ("REDIS_PASSWORD", "META_PASSWORD"):
        if os.environ.get(name):
            return os.environ[name]
    path = os.environ.get("META_PASSWORD_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as e:
        raise BadURL(f"cannot read META_PASSWORD_FILE {path}: {e.strerror}") from None


def _address(text: str, port: int) -> tuple[str, int]:
    host, bracket, rest = text.rpartition("]")
    if bracket:  # [IPv6]:port
        return host.lstrip("["), _port(rest.lstrip(":") or str(port))
    host, _, number = text.partition(":")
    if not host:
        raise BadURL(f"a Redis URL needs a host: redis://HOST[:PORT]/DB {_SPECIAL}")
    return host, _port(number or str(port))


def _with_last_port(names: list[str]) -> list[tuple[str, int]]:
    """The port of the last sentinel goes for those that name none."""
    last = _address(names[-1], _SENTINEL_PORT)
    return [*[_address(name, last[1]) for name in names[:-1]], last]


def _port(text: str) -> int:
    """Never shown: behind a password with a character that means something in a URL, it would be a part of that."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise BadURL(f"the port of a Redis URL must be a number from 1 to 65535 {_SPECIAL}")
    return int(text)


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise BadURL(f"{what} {text!r} is not a number")
    return int(text)


def _file(path: str, what: str) -> str:
    if path and not os.path.isfile(path):
        raise BadURL(f"{what}: there is no file {path}")
    return path


def _duration(text: str) -> float:
    """Seconds of a Go duration such as 1m30s or 20ms; a bare number is seconds."""
    seconds = 0.0
    if text.isdecimal():
        seconds = float(text)
    elif re.fullmatch(f"(?:{_DURATION.pattern})+", text, re.ASCII):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if seconds <= 0:
        raise BadURL(f"{text!r} is not a duration above zero; write for example 30s or 500ms")
    return seconds
