"""`juicefs dump`: the metadata of a volume into a file, JSON or binary, whatever the size of the volume."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from juicefs_py.cli import log
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Spinner
from juicefs_py.cli.report import words


def _run(values: Values) -> int:
    from juicefs_py.cli.connect import connect, load_setting
    from meta.dump.copy import Copy

    url, *rest = values.positionals
    path = rest[0] if rest else "-"
    if values.number("threads") <= 0:
        log.LOG.warning("Invalid threads number %d, reset to 1", values.number("threads"))
    engine = connect(url, read_only=True)
    try:
        setting = load_setting(engine, url)
        has_secrets = bool(setting.secret_key or setting.session_token)
        copy = Copy()
        try:
            with Spinner("Scanned records") as spinner:
                copy.fill(engine, lambda _, more: spinner.update(spinner.count + more))
            with _output(path) as out:
                _write(copy, out, values)
        finally:
            copy.close()
    finally:
        engine.close()
    if has_secrets and not values.flag("keep-secret-key"):
        log.LOG.warning("Secret key is removed for the sake of safety")
    log.LOG.info('Dump metadata into "%s" succeed', "STDOUT" if path == "-" else path)
    return 0


def _write(copy: Any, out: IO[bytes], values: Values) -> None:
    from meta.dump.binary import write_binary
    from meta.dump.to_json import JsonDump
    from meta.errors import Refused

    keep = values.flag("keep-secret-key")
    with Spinner("Dumped entries") as spinner:

        def progress(_: str, more: int) -> None:
            spinner.update(spinner.count + more)

        if values.flag("binary"):
            write_binary(copy, out, keep_secrets=keep, progress=progress)
            return
        text = io.TextIOWrapper(out, encoding="utf-8", newline="\n", write_through=False)
        subdir = values.text("subdir")
        try:
            JsonDump(copy, text, progress).write(
                os.fsencode(subdir or "/"), skip_trash=values.flag("skip-trash"), keep_secrets=keep
            )
        except Refused as problem:
            raise Fatal(f"subdir {subdir}: {problem}") from None
        finally:
            text.flush()
            text.detach()


@contextlib.contextmanager
def _output(path: str) -> Iterator[IO[bytes]]:
    """The file, which gets its name when it is complete; compressed as its name says."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    new = f"{path}.tmp"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with compressed(path, file) as out:
                yield out
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
    except OSError as error:
        raise Fatal(f"write {path}: {words(error)}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


@contextlib.contextmanager
def compressed(path: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """A stream into the file, compressed if the path ends in .gz or .zstd."""
    if path.endswith(".gz"):
        import gzip

        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6) as packed:
            yield packed  # type: ignore[misc]
    elif path.endswith(".zstd"):
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file


COMMAND = Command(
    "dump", "Dump metadata into a file", "META-URL [FILE]", "ADMIN",
    "Writes the metadata of a volume, in whatever database it is, into a file that `load` puts into an empty one: a\n"
    "backup, or the way to another engine. Without FILE to standard output. A name that ends in .gz or .zstd is\n"
    "compressed. JSON can be read by people and by all clients; the binary format is smaller and faster, keeps inode\n"
    "numbers and counters, and is for clients from 1.3 on. The data of files is not in it.\n\n"
    "Examples:\n$ juicefs dump redis://localhost meta-dump.json\n\n"
    "# Dump only a subtree of the volume to standard output\n$ juicefs dump redis://localhost --subdir /dir/in/jfs\n\n"
    "# In the binary format\n$ juicefs dump redis://localhost meta-dump.bin --binary",
    (
        Option(("subdir",), "string", "", "only dump a sub-directory"),
        Option(("keep-secret-key",), "bool", "", "keep secret keys intact"),
        Option(("threads",), "int", "10", "accepted; one thread reads page by page"),
        Option(("fast",), "bool", "", "accepted; it is always fast, and never needs the memory"),
        Option(("skip-trash",), "bool", "", "skip files in trash"),
        Option(("binary",), "bool", "", "dump metadata into a binary file (different from the original JSON format)"),
    ),
    1, 2, _run,
)  # fmt: skip
