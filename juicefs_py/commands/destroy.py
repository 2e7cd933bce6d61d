"""`juicefs destroy`: the end of a volume, objects and metadata, after questions. It cannot be undone."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from juicefs_py.cli import log, prompt, tables
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.progress import Progress

if TYPE_CHECKING:
    from chunkstore.bucket import Bucket
    from meta.client import MetaClient


def _run(values: Values) -> int:
    from chunkstore.errors import StoreError
    from juicefs_py.maintenance.destroy import bucket_to_delete
    from juicefs_py.maintenance.opening import opened_metadata
    from meta.errors import MetaError

    url, uuid = values.positionals
    force = values.flag("force")
    with opened_metadata(url, writing=True, logged=False) as meta:
        if uuid != meta.setting.uuid:
            raise Fatal(f'UUID "{uuid}" != expected "{meta.setting.uuid}"')
        try:
            bucket = bucket_to_delete(meta.setting)
        except StoreError as error:
            raise Fatal(f"create object storage: {error}") from None
        with closing(bucket):
            if not force:
                _refuse_sessions(meta)
                _ask(meta, bucket, url, values.flag("yes"))
            _delete_objects(bucket, force)
        try:
            meta.engine.reset()
        except MetaError as error:
            raise Fatal(f"reset meta: {error}; run the command again") from None
    log.LOG.info("The volume has been destroyed! You may need to delete cache directory manually.")
    return 0


def _refuse_sessions(meta: MetaClient) -> None:
    """Not while anybody uses it."""
    import json

    from juicefs_py.maintenance.destroy import living_sessions

    sessions = living_sessions(meta)
    if sessions:
        rows = [("SID", "HostName", "MountPoint")]
        for record in sessions:
            info = json.loads(record.info or b"{}")
            rows.append((str(record.sid), info.get("HostName", ""), info.get("MountPoint", "")))
        raise Fatal(f"{len(sessions)} sessions are active, please disconnect them first:\n{tables.render(rows)}")


def _ask(meta: MetaClient, bucket: Bucket, url: str, agreed: bool) -> None:
    """Show what there is, and go on only after a yes."""
    from meta.engines import mask_url, with_scheme

    space, inodes = max(meta.reader.counter("usedSpace"), 0), max(meta.reader.counter("totalInodes"), 0)
    print(f" volume name: {meta.setting.name}\n volume UUID: {meta.setting.uuid}\ndata storage: {bucket.describe()}")
    print(f"  used bytes: {space}\n used inodes: {inodes}")
    prompt.warn("The target volume will be permanently destroyed, including:")
    prompt.warn(f"1. ALL objects in the data storage: {bucket.describe()}")
    prompt.warn(f"2. ALL entries in the metadata engine: {mask_url(with_scheme(url))}")
    if not agreed:
        prompt.confirm_or_abort()


def _delete_objects(bucket: Bucket, force: bool) -> None:
    from chunkstore.errors import BadBucket, StoreError
    from juicefs_py.maintenance.destroy import Deletion

    with Progress() as progress:
        deletion = Deletion(bucket, progress)
        try:
            deletion.run()
        except BadBucket as error:
            if not force:
                raise Fatal(
                    f'data storage {bucket.describe()} does not exist (error: {error}); retry with "--force" to skip '
                    "object deletion"
                ) from None
            log.LOG.warning(
                "data storage %s does not exist (error: %s); will skip object deletion", bucket.describe(), error
            )
        except StoreError as error:
            raise Fatal(f"list all objects: {error}; the metadata is kept, run the command again") from None
    if not progress.shown:
        log.LOG.info("Deleted %d objects", deletion.deleted)
    if deletion.failed:
        log.LOG.error("%d objects are failed to delete, please do it manually.", deletion.failed)


COMMAND = Command(
    "destroy", "Destroy an existing volume", "META-URL UUID", "ADMIN",
    "Deletes all objects of the volume and its metadata. The UUID (see `juicefs status`) tells that the right one is\n"
    "meant. Refused while clients are connected. It cannot be undone.\n\n"
    "Examples:\n$ juicefs destroy redis://localhost e94d66a8-2339-4abd-b8d8-6812df737892\n\n"
    "# Ask nothing, whoever is connected\n"
    "$ juicefs destroy --force redis://localhost e94d66a8-2339-4abd-b8d8-6812df737892",
    (
        Option(("yes", "y"), "bool", "", "automatically answer 'yes' to all prompts and run non-interactively"),
        Option(("force",), "bool", "", "skip sanity check and force destroy the volume"),
    ),
    2, 2, _run,
)  # fmt: skip
