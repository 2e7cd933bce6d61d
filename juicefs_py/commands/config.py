"""`juicefs config`: show the setting of a volume, or change what is given on the command line and differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from juicefs_py.cli import prompt, sizes
from juicefs_py.cli import values as grammar
from juicefs_py.cli.args import Command, Option, Values
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.options import management, volume_storage

_VERSIONS = ("min-client-version", "max-client-version")
_SHOWN = 20  # directories that a message names
_CREDENTIALS = ("bucket", "access-key", "secret-key", "session-token", "storage")


def _run(values: Values) -> int:
    from juicefs_py.cli.connect import connect, load_setting
    from meta.config import MetaConfig
    from meta.errors import MetaError
    from meta.rules.context import Volume
    from meta.rules.format import init_volume
    from meta.rules.limits import count_owners

    _check_tier(values)
    url = values.positionals[0]
    engine = connect(url)
    try:
        stored = load_setting(engine, url)
        if not values.any_set(*(option.name for option in COMMAND.options)):
            print(stored.without_secrets().to_json(2))
            return 0
        old = stored.decrypted() if _touches_secrets(values) else stored
        change = Change(values, old)
        change.collect()
        if not change.lines:
            print("Nothing changed.")
            return 0
        _refuse(values, old, change.new, engine)
        if not values.flag("force"):
            _check(engine, values, old, change.new)
        hide = values.flag("encrypt-secret") or stored.key_encrypted
        new = init_volume(engine, change.new.encrypted() if hide else change.new, force=values.flag("force"))
        print("\n".join(change.lines))
        if new.user_group_quota and not old.user_group_quota:
            count_owners(Volume(engine, new, MetaConfig()))
    except MetaError as error:
        raise Fatal(f"config: {error}") from None
    finally:
        engine.close()
    return 0


def _check_tier(values: Values) -> None:
    if not 0 <= values.number("tier") <= 3:
        raise Fatal("tier should be between 0 and 3")
    if values.is_set("tier") and not values.any_set("storage-class", "tag"):
        raise Fatal("missing required flag: --storage-class or --tag")
    if values.is_set("tier") and values.any_set("bucket", "access-key", "secret-key", "session-token"):
        raise Fatal("--tier cannot be combined with the bucket or its keys")


def _touches_secrets(values: Values) -> bool:
    return values.any_set(*_CREDENTIALS, "encrypt-secret", "tier", "storage-class", "tag")


class Change:
    """The new setting as it comes to be, and the lines that tell what changed."""

    def __init__(self, values: Values, old: Any) -> None:
        self.values = values
        self.new = old
        self.lines: list[str] = []

    def collect(self) -> None:
        """Apply every given option that differs."""
        values = self.values
        self._sized("capacity", "capacity", values.size, sizes.ibytes)
        self._sized("inodes", "inodes", values.number, sizes.thousands)
        self._storage()
        self._sized("upload-limit", "upload_limit", values.mbps, sizes.rate)
        self._sized("download-limit", "download_limit", values.mbps, sizes.rate)
        self._sized("trash-days", "trash_days", values.number, str)
        self._sized("dir-stats", "dir_stats", values.flag, _bool)
        for option in _VERSIONS:
            self._sized(option, option.replace("-", "_"), values.text, str)
        self._sized("user-group-quota", "user_group_quota", values.flag, _bool)
        self._sized("enable-acl", "enable_acl", values.flag, _bool)
        self._sized("ranger-rest-url", "ranger_rest_url", values.text, str)
        self._sized("ranger-service", "ranger_service", values.text, str)
        if values.is_set("kerberos-config-file"):
            from juicefs_py.commands.format import file_content

            self._put("kerberos-config-file", "kerb_conf", file_content(values.text("kerberos-config-file")), None)
        self._changelog()
        self._tier()
        if values.flag("encrypt-secret") and any((self.new.secret_key, self.new.session_token)):
            self.lines.append(f"{'secrets':>10}: encrypted")
        from juicefs_py.commands.format import raise_version

        self.new = raise_version(self.new)

    def _sized(self, option: str, field: str, read: Callable[[str], Any], show: Callable[[Any], str]) -> None:
        if self.values.is_set(option):
            self._put(option, field, read(option), show)

    def _put(self, option: str, field: str, value: Any, show: Callable[[Any], str] | None) -> None:
        """Change a field if it differs; without `show` the value stays out of sight."""
        before = getattr(self.new, field)
        if value == before and show is not None:
            return
        changed = "updated" if show is None else f"{show(before)} -> {show(value)}"
        self.lines.append(f"{option:>10}: {changed}")
        self.new = replace(self.new, **{field: value})

    def _storage(self) -> None:
        from juicefs_py.storage_check import absolute_bucket

        values = self.values
        self._sized("storage", "storage", lambda option: values.text(option).lower(), str)
        self._sized("bucket", "bucket", lambda option: absolute_bucket(self.new.storage, values.text(option)), str)
        self._sized("access-key", "access_key", values.text, str)
        for option in ("secret-key", "session-token"):
            if values.is_set(option):
                self._put(option, option.replace("-", "_"), values.text(option), None)

    def _changelog(self) -> None:
        values = self.values
        self._sized("changelog", "change_log", values.flag, _bool)
        if values.is_set("changelog-max-age"):
            age = int(grammar.go_duration(values.text("changelog-max-age")))
            self._put("changelog-max-age", "change_log_max_age", age, lambda seconds: f"{seconds}s")
        elif values.flag("changelog") and self.new.change_log and not self.new.change_log_max_age:
            self.new = replace(self.new, change_log_max_age=7200)
        self._sized("changelog-max-lines", "change_log_max_lines", values.number, str)

    def _tier(self) -> None:
        from meta.setting import Tier

        values = self.values
        if not values.any_set("storage-class", "tag"):
            return
        number = values.number("tier")
        stored = self.new.tiers.get(number)
        old = stored or Tier(number)
        new = old
        if values.is_set("storage-class"):
            new = new._replace(storage_class=values.text("storage-class"))
        if values.is_set("tag"):
            new = new._replace(tag=_tag(values.text("tag")))
        for option, before, after in (
            ("storage-class", old.storage_class, new.storage_class), ("tag", old.tag, new.tag)
        ):  # fmt: skip
            if not values.is_set(option) or (stored is not None and before == after):
                continue
            given = values.is_set("tier")
            self.lines.append(f"set tier {number} {option}: {after}" if given else f"{option:>10}: {before} -> {after}")
        self.new = replace(self.new, tiers={**self.new.tiers, number: new})
        if values.is_set("tier"):
            self.new = self.new.requiring("1.4.0-A")


def _check(engine: Any, values: Values, old: Any, new: Any) -> None:
    """The safety questions; `--force` skips them."""
    from juicefs_py import storage_check

    number = values.number("tier")
    before, after = old.tiers.get(number), new.tiers.get(number)
    if values.any_set(*_CREDENTIALS) or before != after:
        storage_check.check_storage(storage_check.volume_bucket(new), number)
    ask = False
    if values.is_set("tier") and before is not None and after is not None and before != after:
        print(f"existing tier will be overwritten: \ntier: {number}")
        if before.storage_class != after.storage_class:
            print(f"storage class: {before.storage_class} => {after.storage_class}")
        if before.tag != after.tag:
            print(f"tag: {before.tag} => {after.tag}")
        ask = True
    used, inodes = max(engine.reader.counter("usedSpace"), 0), max(engine.reader.counter("totalInodes"), 0)
    if (values.is_set("capacity") and 0 < new.capacity < used) or (values.is_set("inodes") and 0 < new.inodes < inodes):
        prompt.warn(
            f"New quota is too small (used / quota): {sizes.ibytes(used)} / {sizes.ibytes(new.capacity)} bytes, "
            f"{inodes} / {new.inodes} inodes."
        )
        ask = True
    if values.is_set("trash-days") and old.trash_days and not new.trash_days:
        prompt.warn("The current trash will be emptied and future removed files will purged immediately.")
        ask = True
    shut_out = _shut_out(engine, new) if any(map(values.is_set, _VERSIONS)) else []
    if shut_out:
        prompt.warn("Clients that the new version limits shut out:\n" + "\n".join(shut_out))
        ask = True
    if ask and not values.flag("yes"):
        prompt.confirm_or_abort()


def _refuse(values: Values, old: Any, new: Any, engine: Any) -> None:
    """What cannot be, whoever asks."""
    from meta.version import Version

    if new.trash_days < 0:
        raise Fatal(f"Invalid trash days: {new.trash_days}")
    if new.change_log and not old.change_log:
        raise Fatal("--changelog is not supported yet by juicefs_py, which cannot write one")
    for field, option in (("change_log_max_age", "changelog-max-age"), ("change_log_max_lines", "changelog-max-lines")):
        if getattr(new, field) < 0:
            raise Fatal(f"negative value for {option}: {getattr(new, field)}")
    if old.enable_acl and not new.enable_acl:
        raise Fatal("cannot disable acl")
    if old.dir_stats and not new.dir_stats:
        quotas = engine.reader.quotas("dir")
        if quotas:
            raise Fatal(
                f"cannot disable dir stats when there are still {len(quotas)} dir quotas: "
                f"[{_directories(engine, old)}]; see `juicefs quota list`"
            )
    for version in filter(None, (new.min_client_version, new.max_client_version)):
        Version.parse(version)
    if old.min_client_version and values.is_set("min-client-version"):
        before, after = old.min_client_version, new.min_client_version
        if not after or Version.parse(after) < Version.parse(before):
            raise Fatal(f"cannot lower min-client-version from {before} to {after}")


def _directories(engine: Any, setting: Any) -> str:
    """The first few directories that have quotas."""
    from itertools import islice

    from juicefs_py.maintenance.names import shown
    from meta.config import MetaConfig
    from meta.rules.context import Volume
    from meta.rules.lookup import paths

    vol = Volume(engine, setting, MetaConfig(read_only=True))
    inos = islice(engine.reader.quotas("dir"), _SHOWN)
    return " ".join(shown(next(iter(paths(engine.reader, vol, ino)), b"inode:%d" % ino)) for ino in inos)


def _shut_out(engine: Any, new: Any) -> list[str]:
    """Clients that could not mount the volume again under its new version limits."""
    import json

    from meta.errors import SettingError
    from meta.version import Version

    found = []
    for record in engine.sessions():
        info = json.loads(record.info or b"{}")
        try:
            theirs = Version.parse(info.get("Version", ""))
        except SettingError:
            continue
        low, high = new.min_client_version, new.max_client_version
        if (low and theirs < Version.parse(low)) or (high and theirs > Version.parse(high)):
            limit = f"allowed {low or '-'} to {high or '-'}"
            found.append(f"host {info.get('HostName')} pid {info.get('ProcessID')} client version error: {limit}")
    return found


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _tag(text: str) -> str:
    try:
        grammar.tag(text)
    except ValueError as reason:
        raise Fatal(f'invalid tag "{text}": {reason}') from None
    return text


COMMAND = Command(
    "config", "Show or change the configuration of a volume", "META-URL", "ADMIN",
    "Only options that are given are changed.\n\n"
    "Examples:\n# Show the current configuration\n$ juicefs config sqlite3://myjfs.db\n\n"
    "# Change volume \"quota\"\n$ juicefs config sqlite3://myjfs.db --inodes 10000000 --capacity 1048576\n\n"
    "# Change maximum days before files in trash are deleted\n$ juicefs config sqlite3://myjfs.db --trash-days 7",
    (
        Option(("yes", "y"), "bool", "", "automatically answer 'yes' to all prompts and run non-interactively"),
        Option(("force",), "bool", "", "skip sanity check and force update the configurations"),
        *volume_storage("", "", environment=False),
        Option(("upload-limit",), "mbps", "", "volume-wide limit for upload in Mbps", "DATA STORAGE"),
        Option(("download-limit",), "mbps", "", "volume-wide limit for download in Mbps", "DATA STORAGE"),
        Option(("tier",), "int", "0", "the tier (0 to 3) that --storage-class and --tag define", "DATA STORAGE"),
        *management(""),
        Option(("encrypt-secret",), "bool", "", "encrypt secrets that are stored in clear", "MANAGEMENT"),
        Option(("min-client-version",), "string", "", "minimum client version allowed to connect", "MANAGEMENT"),
        Option(("max-client-version",), "string", "", "maximum client version allowed to connect", "MANAGEMENT"),
        Option(("dir-stats",), "bool", "", "keep totals of directories (for fast summary and quotas)", "MANAGEMENT"),
        Option(("user-group-quota",), "bool", "", "enable user and group quotas, which counts all", "MANAGEMENT"),
        Option(("changelog",), "bool", "", "record changes of metadata (official clients only)", "MANAGEMENT"),
        Option(("changelog-max-age",), "duration", "2h", "keep changes for this long (0 means for good)", "MANAGEMENT"),
        Option(("changelog-max-lines",), "int", "0", "keep at most this many changes (0 means all)", "MANAGEMENT"),
    ),
    1, 1, _run,
)  # fmt: skip
