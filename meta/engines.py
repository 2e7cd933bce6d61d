"""From a metadata URL to an engine, and how such a URL may be shown. Not the engines themselves."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from meta.engine import Engine
from meta.errors import BadURL, MetaError

_ENGINES: Final = {
    "sqlite3": "meta.sql.engine",
    "redis": "meta.redis.engine",
    "rediss": "meta.redis.engine",
    "unix": "meta.redis.engine",
    "memkv": "meta.tkv.engine",
    "tikv": "meta.tkv.tikv.engine",
}
"""Scheme to the module whose `open_url(url, read_only)` makes the engine; imported when asked for."""

_OFFICIAL: Final = ("redis", "rediss", "unix", "mysql", "postgres", "badger", "etcd", "tikv", "fdb")


def open_engine(url: str, read_only: bool = False) -> Engine:
    """The engine of a metadata URL. Nothing is created before `Engine.prepare`.

    Raises `BadURL` for what no engine understands, `MetaError` for one that only official clients have, `Unavailable`.
    """
    url = with_scheme(url)
    scheme = url.partition("://")[0]
    module = _ENGINES.get(scheme)
    if module is None:
        if scheme in _OFFICIAL:
            raise MetaError(f"metadata engine {scheme} is not supported yet; supported: {', '.join(sorted(_ENGINES))}")
        raise BadURL(f"Invalid meta driver: {scheme}")
    opener: Callable[[str, bool], Engine] = import_module(module).open_url
    return opener(url, read_only)


def with_scheme(url: str) -> str:
    """A metadata URL in full: one without a scheme names a Redis server. `BadURL` for what can only be a file."""
    if "://" in url:
        return url
    path = url.removeprefix("sqlite3:")
    if path != url or path.startswith(("/", "./", "../", "~/")) or path.endswith(".db"):
        raise BadURL(f"{mask_url(url)} is no metadata address; a SQLite database is named sqlite3://{mask_url(path)}")
    return "redis://" + url


def mask_url(url: str) -> str:
    """The URL with the password of its credentials hidden, for logs and process titles."""
    end = url.rfind("@")
    scheme_end = url.find("://")
    start = url.find(":", scheme_end + 3 if scheme_end >= 0 else 0)
    return f"{url[:start]}:****{url[end:]}" if 0 <= start < end else url
