"""What a Redis server should be like to keep a volume: warnings for those who run one that may lose data.

Not what is stored, except whether the database is somebody else's.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from redis.exceptions import RedisError

from meta.errors import SettingError
from meta.redis.endpoint import Endpoint
from meta.redis.link import Link
from meta.redis.reader import RedisReader
from meta.redis.scans import OURS

log = logging.getLogger(__name__)

_OLDEST: Final = (4, 0)  # scripts that read and then write, UNLINK
_RECOMMENDED: Final = (6, 2)
_SAMPLE: Final = 10_000  # keys that are looked at
_INFO: Final = (b"redis_version", b"aof_enabled", b"maxmemory", b"maxmemory_policy", b"role")


def examine(link: Link) -> None:
    """Log what endangers the data of a volume. A server that does not let itself be asked is taken as it is."""
    facts: dict[bytes, bytes] = {}
    for answer in link.exchange([(b"INFO", b"server"), (b"INFO", b"persistence"), (b"INFO", b"memory")]):
        if not isinstance(answer, RedisError):
            lines = (line.partition(b":") for line in answer.splitlines())
            facts.update((name, value) for name, _, value in lines if name in _INFO)
    _check_version(facts.get(b"redis_version", b"").decode())
    if facts.get(b"aof_enabled") == b"0":
        log.warning(
            "AOF is not enabled in Redis: what was written since its last snapshot is lost if it crashes;"
            " set `appendonly yes`"
        )
    policy = facts.get(b"maxmemory_policy", b"noeviction")
    if policy != b"noeviction":
        _keep_everything(link, policy.decode())


def _check_version(version: str) -> None:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < _OLDEST:
        raise SettingError(f"Redis {version} is too old: 4.0 or newer is needed")
    if numbers and numbers < _RECOMMENDED:
        log.warning("Redis %s is old and not maintained any more; 6.2 or newer is recommended", version)


def _keep_everything(link: Link, policy: str) -> None:
    """A server that evicts keys when memory is short destroys a volume: ask it not to, or at least say so."""
    answer = link.exchange([(b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")])[0]
    if isinstance(answer, RedisError):
        log.warning(
            "Redis may throw data of the volume away when its memory is full (maxmemory-policy is %s) and does not let"
            " this be changed (%s); set `maxmemory-policy noeviction`",
            policy,
            answer,
        )
    else:
        log.warning("maxmemory-policy of Redis was %s, which throws data away; it is noeviction now", policy)


def refuse_strangers(reader: RedisReader, endpoint: Endpoint) -> None:
    """`SettingError` if there is no volume in the database, but something else."""
    if reader.setting() is not None:
        return
    strangers = [key for key in islice(reader.scan_keys(b"*"), _SAMPLE) if not OURS.fullmatch(key)]
    if strangers:
        shown = ", ".join(key.decode(errors="replace") for key in sorted(strangers)[:3])
        raise SettingError(
            f"database {endpoint.options.db} of {endpoint} holds something else than a volume (keys {shown}, ...);"
            " choose another database number"
        )
