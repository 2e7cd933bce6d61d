"""Reach the metadata of a volume for a command, and say in one line why that fails. No session is made."""

from __future__ import annotations

from juicefs_py.cli import log
from juicefs_py.cli.errors import Fatal
from meta.engine import Engine
from meta.engines import mask_url, open_engine, with_scheme
from meta.errors import BadURL, MetaError, NotFormatted, Unavailable
from meta.setting import Setting


def connect(url: str, *, read_only: bool = False) -> Engine:
    """The engine of a metadata address, which is logged without its password."""
    try:
        url = with_scheme(url)
        log.LOG.info("Meta address: %s", mask_url(url))
        return open_engine(url, read_only)
    except (BadURL, Unavailable) as error:
        raise unavailable(url, error) from None


def unavailable(url: str, error: MetaError) -> Fatal:
    """The one line about a metadata address that cannot be used."""
    if isinstance(error, BadURL):
        return Fatal(str(error))
    return Fatal(f"Meta {mask_url(url)} is not available: {error}")


def stored_setting(engine: Engine, url: str) -> Setting | None:
    """The volume's setting as stored; None if the database holds no volume."""
    try:
        document = engine.reader.setting()
    except Unavailable as error:
        raise unavailable(url, error) from None
    return None if document is None else Setting.parse(document)


def load_setting(engine: Engine, url: str) -> Setting:
    """The setting of a volume that must be there and that this version may use."""
    setting = stored_setting(engine, url)
    if setting is None:
        raise Fatal(f"load setting: {NotFormatted()}")
    try:
        setting.check_version()
    except MetaError as error:
        raise Fatal(f"load setting: {error}") from None
    return setting
