"""`juicefs fsck`: is everything there that files need, and are directories what they should be? Repairs what is asked.

Not the checks (`juicefs_py.maintenance`): here is what they are asked for, and how their findings end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from juicefs_py.cli import log
from juicefs_py.cli import values as grammar
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress

if TYPE_CHECKING:
    from juicefs_py.maintenance.fsck_blocks import BlockCheck, Chunk
    from juicefs_py.maintenance.fsck_tree import Node, Wish
    from juicefs_py.maintenance.opening import Opened

_THREADS = 20  # files whose chunks are read at a time


def _run(values: Values) -> int:
    from contextlib import closing

    from juicefs_py.maintenance.fsck_blocks import BlockCheck
    from juicefs_py.maintenance.opening import opened

    wish = _wish(values)
    with opened(values.positionals[0], writing=wish.repair) as volume:
        block_size = volume.store.config.block_size
        with (
            Progress() as progress,
            closing(BlockCheck(volume.meta, volume.bucket, block_size, progress)) as blocks,
        ):
            if wish.path:
                _check_tree(volume, wish, blocks, progress)
            else:
                _check_volume(blocks)
            blocks.check()
            verdict, used = blocks.verdict(), blocks.used()
    log.LOG.info("Found %d blocks (%d bytes)", blocks.found.objects.count, blocks.found.data.count)
    log.LOG.info("Used by %d slices (%d bytes)", *used)
    if verdict:
        raise Fatal(verdict)
    return 0


def _wish(values: Values) -> Wish:
    from juicefs_py.maintenance.fsck_tree import Wish

    path, repair, mode = values.text("path"), values.flag("repair"), values.text("repair-dir-mode")
    if repair and not path:
        raise Fatal("Please provide the path to repair with `--path` option")
    if path and not path.startswith("/"):
        raise Fatal(f'file path "{path}" should be the absolute path within JuiceFS')
    try:
        bits = grammar.octal(mode, 16)
    except ValueError as reason:
        raise Fatal(f'invalid repair-dir-mode "{mode}": {reason}; write for example 0755') from None
    return Wish(path, repair, values.flag("recursive"), values.flag("sync-dir-stat"), bits)


def _check_tree(volume: Opened, wish: Wish, blocks: BlockCheck, progress: Progress) -> None:
    """Names and inodes at the path; the blocks of its files are then needed."""
    from juicefs_py.maintenance.fsck_tree import TreeCheck
    from juicefs_py.maintenance.parallel import results
    from meta.errors import MetaError

    def chunks(node: Node) -> list[Chunk]:
        length = node.attr.length if node.attr is not None else 0
        return [(node.ino, indx, records) for indx, records in volume.meta.reader.chunks(node.ino, length).items()]

    tree = TreeCheck(volume.meta, wish, progress)
    try:
        for found in results(chunks, tree.files(), _THREADS):
            blocks.need(found)
    except MetaError as error:
        raise Fatal(f"check: {error}") from None
    if tree.failed:
        raise Fatal("check: some errors occurred, please check the log of fsck")
    log.LOG.info("Checked %d nodes", tree.checked.count)


def _check_volume(blocks: BlockCheck) -> None:
    """All blocks of all files."""
    from chunkstore.errors import StoreError
    from meta.errors import MetaError

    try:
        blocks.need_all()
        blocks.find()
    except MetaError as error:
        raise Fatal(f"list all slices: {error}") from None
    except StoreError as error:
        raise Fatal(f"list all blocks: {error}") from None


COMMAND = Command(
    "fsck", "Check consistency of a volume", "META-URL", "ADMIN",
    "Compares what files need with the objects in the data storage, and names the files that have lost some.\n"
    "With --path it also checks the directories there, and repairs them if asked to.\n\n"
    "Examples:\n$ juicefs fsck redis://localhost\n\n"
    "# Check a tree\n$ juicefs fsck redis://localhost --path /d1/d2 --recursive\n\n"
    "# Repair a broken directory\n$ juicefs fsck redis://localhost --path /d1/d2 --repair",
    (
        Option(("path",), "string", "", "absolute path within JuiceFS to check"),
        Option(("repair",), "bool", "", "repair specified path if it's broken"),
        Option(("recursive", "r"), "bool", "", "recursively check or repair"),
        Option(("sync-dir-stat",), "bool", "", "check the statistics of all directories by counting (may take long)"),
        Option(("repair-dir-mode",), "string", "0755", "permission mode for repaired directories, in octal"),
    ),
    1, 1, _run,
)  # fmt: skip
