"""`juicefs load`: a dump into an empty database; or, with `--stat`, a look at what is in it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Spinner
from juicefs_py.cli.report import words


def _run(values: Values) -> int:
    if values.flag("stat"):
        return _stat(values)
    from juicefs_py.cli.connect import connect
    from meta.dump.binary import read_binary
    from meta.dump.copy import Copy
    from meta.dump.from_json import read_json
    from meta.dump.restore import refuse_used, restore

    url, *rest = values.positionals
    path = rest[0] if rest else "-"
    engine = connect(url)
    copy = Copy()
    try:
        refuse_used(engine)
        with Spinner("Read records") as spinner, _input(path, values) as source:
            read = read_binary if values.flag("binary") else read_json
            read(source, copy, lambda _, more: spinner.update(spinner.count + more))
        with Spinner("Loaded records") as spinner:
            restore(copy, engine, lambda _, more: spinner.update(spinner.count + more))
    finally:
        copy.close()
        engine.close()
    assert copy.setting is not None
    if "removed" in (copy.setting.secret_key, copy.setting.session_token):
        log.LOG.warning("secret key was removed; please correct it with `config` command")
    log.LOG.info('load metadata from "%s" succeed', "STDIN" if path == "-" else path)
    return 0


@contextlib.contextmanager
def _input(path: str, values: Values) -> Iterator[IO[bytes]]:
    """The dump, decrypted and unpacked."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with open(path, "rb") as file:
            source = _decrypted(file, values) if values.is_set("encrypt-rsa-key") else file
            yield _unpacked(path, source)
    except OSError as error:
        raise Fatal(f"read {path}: {words(error)}") from None
    except EOFError as error:
        raise Fatal(f"read {path}: {error}") from None


def _unpacked(path: str, file: IO[bytes]) -> IO[bytes]:
    if path.endswith(".gz"):
        import gzip

        return cast("IO[bytes]", gzip.open(file, "rb"))
    if path.endswith(".zstd"):
        import zstandard

        unpacked: Any = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(unpacked)
    return file


def _decrypted(file: IO[bytes], values: Values) -> IO[bytes]:
    """An encrypted backup, whole: it can only be proven to be genuine as a whole."""
    from chunkstore.crypt import PASSPHRASE, DataCipher

    with open(values.text("encrypt-rsa-key"), encoding="ascii") as key:
        cipher = DataCipher(key.read(), os.environ.get(PASSPHRASE, ""), values.text("encrypt-algo"))
    return io.BytesIO(cipher.open(file.read()))


def _stat(values: Values) -> int:
    """What a binary dump holds; with --offset, the segment there."""
    from meta.dump.binary import SEGMENTS, footer, segments
    from meta.dump.wire import fields, row

    path = values.positionals[-1]
    try:
        with open(path, "rb") as file:
            log.LOG.info('load backup from "%s"', path)
            if not values.is_set("offset") or values.number("offset") == -1:
                version, infos = footer(file)
                _table(version, infos, offsets=values.is_set("offset"))
                return 0
            file.seek(values.number("offset"))
            name, payload = next(segments(file))
    except OSError as error:
        raise Fatal(f"read {path}: {words(error)}") from None
    except StopIteration:
        raise Fatal(f"{path}: there is no segment at offset {values.number('offset')}") from None
    print(f"Segment: {name}")
    for _, value in fields(payload):
        if isinstance(value, bytes):
            layout = SEGMENTS[name].layout
            print(f"Value: {row(value, *layout) if layout and name != 'format' else value!r}")
    return 0


def _table(version: int, infos: dict[str, tuple[list[int], int]], *, offsets: bool) -> None:
    print(f"Backup Version: {version}")
    print("-" * 23)
    print(f"{'Name':<10}| {'Num':<10}" + ("| Offset" if offsets else ""))
    print("-" * 23)
    for name in sorted(infos):
        places, count = infos[name]
        print(f"{name:<10}| {count:<10}|" + (f" {places}" if offsets else ""))


COMMAND = Command(
    "load", "Load metadata from a previously dumped file", "META-URL [FILE]", "ADMIN",
    "Puts what `dump` has written, or a client's automatic backup, into an empty database. Without FILE from standard\n"
    "input; .gz and .zstd are unpacked. Nothing is a volume until all is loaded; a load that fails leaves the\n"
    "database empty. No other client may use the volume in its old database afterwards.\n\n"
    "Examples:\n$ juicefs load redis://localhost/1 meta-dump.json\n\n"
    "# From the binary format\n$ juicefs load redis://localhost/1 meta-dump.bin --binary\n\n"
    "# An encrypted backup\n$ juicefs load redis://localhost/1 dump.json.gz --encrypt-rsa-key my-priv-key.pem\n\n"
    "# What is in a binary dump\n$ juicefs load meta-dump.bin --binary --stat",
    (
        Option(("encrypt-rsa-key",), "string", "", "a path to RSA private key (PEM)"),
        Option(("encrypt-algo",), "string", "aes256gcm-rsa", "encrypt algorithm (aes256gcm-rsa, chacha20-rsa, sm4gcm)"),
        Option(("binary",), "bool", "", "load metadata from a binary file (different from the original JSON format)"),
        Option(("stat",), "bool", "", "show statistics of the binary dump file"),
        Option(("offset",), "int", "-1", "offset of a segment to show (with --stat; -1: where all of them are)"),
        Option(("threads",), "int", "10", "accepted; one thread writes in batches"),
    ),
    1, 2, _run,
)  # fmt: skip
