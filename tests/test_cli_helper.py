"""mount(8)'s calls, fstab entries, and how mount options become configurations."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from juicefs_py import VERSION
from juicefs_py.cli import app
from juicefs_py.cli.args import Values, options_first, parse, take_globals
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.options import GLOBAL
from juicefs_py.mount import fstab, helper, settings, store_options
from juicefs_py.mount.start import absolute_url
from meta.setting import Setting

SETTING = Setting(name="myjfs", uuid="0000-1111", bucket="/b/", block_size=1024, compression="lz4", upload_limit=7)
LABELS = {"vol_name": "myjfs", "mp": "/mnt/jfs", "juicefs_version": VERSION, "instance": socket.gethostname()}


def given(*words: str) -> Values:
    values = Values(app.load("mount").options)
    parse(options_first(["URL", "/mnt/jfs", *words], values.table), values)
    return values


@pytest.mark.parametrize(("words", "result"), [
    ((), ["juicefs"]),
    (("SRC",), ["juicefs"]),
    (("SRC", "/mnt"), ["juicefs", "mount", "-d", "SRC", "/mnt"]),
    (("SRC", "/mnt", "-n", "-o", "rw,_netdev,nofail,defaults,background,remount,"),
     ["juicefs", "mount", "-d", "SRC", "/mnt"]),
    (("SRC", "/mnt", "-o", "cache-size=10G,no-usage-report,attrcacheto=3,entrycacheto=4,direntrycacheto=5"),
     ["juicefs", "mount", "-d", "--cache-size=10G", "--no-usage-report", "--attr-cache=3", "--entry-cache=4",
      "--dir-entry-cache=5", "SRC", "/mnt"]),
    (("SRC", "/mnt", "-o", "ro,allow_other", "-s", "-o", "debug,max_read=1,verbose"),
     ["juicefs", "mount", "-d", "--debug", "--verbose", "-o", "ro,allow_other,debug,max_read=1", "SRC", "/mnt"]),
])  # fmt: skip
def test_calls_of_mount_8(words: tuple[str, ...], result: list[str]) -> None:
    assert helper.rewrite(["/sbin/mount.juicefs", *words]) == result


MIB = 1 << 20


def planned(*parts: str) -> settings.Plan:
    """What a mount does whose `-o` list is this, as mount(8) would give it."""
    words = helper.rewrite(["mount.juicefs", "URL", "/mnt/jfs", "-o", ",".join(parts)])
    assert words[:3] == ["juicefs", "mount", "-d"]
    moved, rest = take_globals(words[1:], Values(GLOBAL).table)
    parse(moved, Values(GLOBAL))
    values = Values(app.load("mount").options)
    parse(options_first(rest[1:], values.table), values)
    settings.check(values)
    return settings.plan(values, "/mnt/jfs", SETTING)


@pytest.mark.parametrize(("part", "read", "wanted"), [
    ("cache-size=10G", "store.cache_size", 10 << 30),
    ("cache-size=512", "store.cache_size", 512 * MIB),
    ("cache-dir=/a:/b", "store.cache_dirs", ("/a/0000-1111", "/b/0000-1111")),
    ("cache-dir=memory", "store.cache_dirs", ("memory",)),
    ("buffer-size=2G", "store.buffer_size", 2 << 30),
    ("buffer-size=2048", "store.buffer_size", 2 << 30),
    ("max-readahead=512M", "store.readahead", 512 * MIB),
    ("prefetch=3", "store.prefetch", 3),
    ("cache-partial-only", "store.cache_full_block", False),
    ("cache-partial-only=true", "store.cache_full_block", False),
    ("cache-partial-only=F", "store.cache_full_block", True),
    ("cache-large-write", "store.cache_large_write", True),
    ("free-space-ratio=0.25", "store.free_space_ratio", 0.25),
    ("cache-items=77", "store.cache_items", 77),
    ("cache-mode=0640", "store.cache_mode", 0o640),
    ("cache-eviction=lru", "store.cache_eviction", "lru"),
    ("cache-expire=2d", "store.cache_expire_s", 172800.0),
    ("cache-scan-interval=90m", "store.cache_scan_interval_s", 5400.0),
    ("verify-cache-checksum=full", "store.cache_checksum", "full"),
    ("writeback", "store.writeback", True),
    ("writeback=1", "store.writeback", True),
    ("max-uploads=50", "store.max_uploads", 50),
    ("max-downloads=100", "store.max_downloads", 100),
    ("max-deletes=2", "meta.max_deletes", 2),
    ("upload-limit=100", "store.upload_limit", 100.0),
    ("download-limit=1G", "store.download_limit", 1000.0),
    ("get-timeout=90", "store.get_timeout_s", 90.0),
    ("put-timeout=1m30s", "store.put_timeout_s", 90.0),
    ("io-retries=4", "store.max_retries", 4),
    ("entry-cache=1.5", "vfs.entry_timeout_s", 1.5),
    ("entrycacheto=3", "vfs.entry_timeout_s", 3.0),
    ("attr-cache=100ms", "vfs.attr_timeout_s", 0.1),
    ("attrcacheto=3", "vfs.attr_timeout_s", 3.0),
    ("dir-entry-cache=7", "vfs.dir_entry_timeout_s", 7.0),
    ("direntrycacheto=7", "vfs.dir_entry_timeout_s", 7.0),
    ("negative-entry-cache=1", "vfs.negative_timeout_s", 1.0),
    ("readdir-cache", "vfs.readdir_cache", True),
    ("open-cache=5", "meta.open_cache_s", 5.0),
    ("open-cache-limit=9", "meta.open_cache_limit", 9),
    ("enable-xattr", "vfs.enable_xattr", True),
    ("enable-xattr=true", "vfs.enable_xattr", True),
    ("enable-ioctl", "vfs.enable_ioctl", True),
    ("prefix-internal", "vfs.prefix_internal", True),
    ("hide-internal", "vfs.hide_internal", True),
    ("no-bgjob", "meta.no_bgjob", True),
    ("heartbeat=60", "meta.heartbeat_s", 60.0),
    ("atime-mode=relatime", "meta.atime_mode", "relatime"),
    ("skip-dir-mtime=1s", "meta.skip_dir_mtime_s", 1.0),
    ("sort-dir", "meta.sort_dir", True),
    ("fast-statfs", "meta.fast_statfs", True),
    ("subdir=/x/y", "meta.subdir", "/x/y"),
    ("ro", "meta.read_only", True),
    ("read-only", "meta.read_only", True),
    ("custom-labels=a:b;c:d", "vfs.labels", {**LABELS, "a": "b", "c": "d"}),
    ("root-squash=5:6", "vfs.root_squash", (5, 6)),
    ("all-squash=5:6", "vfs.all_squash", (5, 6)),
    ("umask=022", "vfs.umask", 0o22),
    ("max-fuse-io=256K", "session.max_write", 256 << 10),
    ("allow_other", "mount.allow_other", True),
    ("writeback_cache", "session.writeback_cache", True),
    ("async_dio", "session.async_dio", True),
    ("debug", "session.debug", True),
    ("max_read=4096", "mount.options", ["max_read=4096"]),
    ("metrics=0.0.0.0:9567", "mount.options", []),
    ("verbose,quiet,trace,no-agent,no-color,log-level=info,log-id=x", "mount.options", []),
    ("log=/tmp/l,no-syslog,force,disable-transparent-hugepage,foreground,no-usage-report", "mount.options", []),
    ("backup-meta=0,check-storage,storage=file,bucket=/b/,storage-class=X,tag=a=b", "mount.options", []),
    ("token=t0p,cache-group=g,group-network=x,no-sharing,no-update,rsa-key=/k,conf-dir=/c,max-cached-inodes=1",
     "mount.options", []),
    (" noexec , nosuid", "mount.options", ["noexec", "nosuid"]),
])  # fmt: skip
def test_every_option_of_a_list(part: str, read: str, wanted: object) -> None:
    found: object = planned(part)
    for name in read.split("."):
        found = getattr(found, name)
    assert found == wanted


def test_options_of_the_other_edition_are_told_without_their_values(caplog: pytest.LogCaptureFixture) -> None:
    planned("token=t0p", "cache-group=g")
    assert caplog.messages == [
        "-o token belongs to the Enterprise Edition and is ignored",
        "-o cache-group belongs to the Enterprise Edition and is ignored",
    ]


def test_fstab_fields_are_escaped() -> None:
    line = fstab.entry("URL", "/mnt/a b#c", given("--subdir", "/x y", "--upload-hours", "1,5", "--cache-dir", "/a,/b"))
    assert line.split() == [
        "URL", "/mnt/a\\040b\\043c", "juicefs",
        "_netdev,nofail,cache-dir=/a:/b,subdir=/x\\040y,upload-hours=1-5", "0", "0",
    ]  # fmt: skip
    with pytest.raises(Fatal, match="a comma cannot stand in the value of --subdir"):
        fstab.entry("URL", "/mnt", given("--subdir", "/a,b"))


def test_an_option_without_its_value() -> None:
    with pytest.raises(Fatal, match="option cache-size requires a value"):
        helper.rewrite(["mount.juicefs", "SRC", "/mnt", "-o", "cache-size"])


def test_fstab(tmp_path: Path) -> None:
    values = given("--update-fstab", "-d", "--writeback=false", "--cache-dir", "/c", "--max-uploads", "5",
                   "--enable-xattr", "-o", "allow_other")  # fmt: skip
    line = "URL  /mnt/jfs  juicefs  _netdev,nofail,allow_other,cache-dir=/c,enable-xattr,max-uploads=5  0 0"
    assert fstab.entry("URL", "/mnt/jfs", values) == line
    assert "juicefs  _netdev,nofail,bucket=/b/  0" in fstab.entry("URL", "/mnt/jfs", given("--bucket", "b"), "/b/")
    path = tmp_path / "fstab"
    path.write_text("# comment\nURL /mnt/jfs juicefs old 0 0\nURL  /mnt/other  juicefs  x  0 0\n")
    path.chmod(0o600)
    fstab._rewrite(str(path), line)
    assert path.read_text() == f"# comment\n{line}\nURL  /mnt/other  juicefs  x  0 0\n"
    assert path.stat().st_mode & 0o777 == 0o600
    fstab._rewrite(str(path), "URL2  /mnt/jfs  juicefs  x  0 0")
    assert path.read_text().endswith("  x  0 0\nURL2  /mnt/jfs  juicefs  x  0 0\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["fstab"]


@pytest.mark.parametrize("started_as", ["bin/juicefs", "juicefs_py/__main__.py"])
@pytest.mark.parametrize("installed", [True, False])
def test_fstab_makes_a_link_that_works(
    started_as: str, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With `python -m` the first word is a module, which mount(8) cannot start."""
    helper_path, path = tmp_path / "mount.juicefs", tmp_path / "fstab"
    path.write_text("")
    for name, mode in (("bin/juicefs", 0o755), ("juicefs_py/__main__.py", 0o644), ("path/mount.juicefs", 0o755)):
        program = tmp_path / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("")
        program.chmod(mode)
    monkeypatch.setattr(fstab, "_HELPER", str(helper_path))
    monkeypatch.setattr(fstab, "in_container", lambda: False)
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr("sys.argv", [str(tmp_path / started_as)])
    monkeypatch.setenv("PATH", str(tmp_path / "path") if installed else str(tmp_path))
    fstab.update("URL", "/mnt/jfs", given("--update-fstab"), path=str(path))
    assert path.read_text().startswith("URL  /mnt/jfs  juicefs")
    if started_as == "bin/juicefs":
        assert helper_path.readlink() == tmp_path / "bin/juicefs"
    elif installed:
        assert helper_path.readlink() == tmp_path / "path/mount.juicefs"
    else:
        assert not helper_path.is_symlink()
        assert f"{helper_path} is missing" in caplog.text


def test_fstab_is_left_alone_where_it_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fstab"
    path.write_text("# comment\n")
    monkeypatch.setattr(fstab, "in_container", lambda: True)
    fstab.update("URL", "/mnt/jfs", given("--update-fstab"), path=str(path))
    assert caplog.messages == [f"--update-fstab is ignored inside a container, {path} is not changed"]
    caplog.clear()
    monkeypatch.setenv("CALL_VIA_MOUNT", "1")
    fstab.update("URL", "/mnt/jfs", given("--update-fstab"), path=str(path))
    assert caplog.messages == []
    assert path.read_text() == "# comment\n"


def test_paths_of_databases_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url("sqlite3://my.db") == f"sqlite3://{tmp_path}/my.db"
    assert absolute_url("sqlite3:///abs.db") == "sqlite3:///abs.db"
    assert absolute_url("redis://h/1") == "redis://h/1"


def test_defaults_are_those_of_the_official_client() -> None:
    plan = settings.plan(given(), "/mnt/jfs", SETTING)
    assert (plan.meta.heartbeat_s, plan.meta.skip_dir_mtime_s, plan.meta.max_deletes) == (12, 0.1, 10)
    assert (plan.store.cache_size, plan.store.buffer_size) == (100 << 30, 300 << 20)
    assert (plan.store.max_uploads, plan.store.max_downloads, plan.store.get_timeout_s) == (20, 200, 60)
    assert plan.store.cache_dirs[0].endswith("/0000-1111")
    assert (plan.store.block_size, plan.store.compress, plan.store.upload_limit) == (1 << 20, "lz4", 7)
    assert (plan.vfs.attr_timeout_s, plan.vfs.entry_timeout_s, plan.vfs.dir_entry_timeout_s) == (1, 1, 1)
    assert plan.vfs.max_readahead is None
    assert plan.vfs.umask is None
    assert plan.session.max_write == plan.mount.max_read == 128 << 10
    assert plan.mount.fsname == "JuiceFS:myjfs"
    assert plan.mount.default_permissions
    assert not plan.session.posix_acl


def test_options_reach_their_configurations() -> None:
    plan = settings.plan(
        given("-o", "ro,writeback_cache,noexec,debug", "--cache-dir", "/a:/b", "--cache-size", "2G", "--umask", "027",
              "--heartbeat", "0.1", "--max-readahead", "0", "--all-squash", "1000:", "--max-fuse-io", "4M",
              "--cache-partial-only", "--custom-labels", "team:x", "--upload-limit", "1G"),
        "/mnt/jfs", SETTING,
    )  # fmt: skip
    assert plan.meta.read_only
    assert plan.meta.heartbeat_s == 1
    assert plan.store.cache_dirs == ("/a/0000-1111", "/b/0000-1111")
    assert (plan.store.cache_size, plan.store.readahead, plan.store.upload_limit) == (2 << 30, 0, 1000)
    assert not plan.store.cache_full_block
    changed = replace(SETTING, upload_limit=9, download_limit=3)
    assert store_options.limits(given("--upload-limit", "1G"), changed) == (1000, 3)  # the mount's own stays its own
    assert plan.vfs.umask == 0o27
    assert plan.vfs.all_squash is not None
    assert plan.vfs.all_squash[0] == 1000
    assert plan.vfs.labels == {**LABELS, "team": "x"}
    assert plan.session.writeback_cache
    assert plan.session.debug
    assert plan.session.max_write == 1 << 20
    assert plan.session.dont_mask
    assert plan.mount.options == ["noexec"]
    assert not plan.mount.default_permissions
    assert not plan.session.default_permissions


@pytest.mark.parametrize(("words", "warning"), [
    (("--heartbeat", "abc"), "Invalid duration value: abc for --heartbeat, using the default 12s"),
    (("--buffer-size", "1"), "buffer-size 1 is too small"),
    (("--max-uploads", "0"), "max-uploads should be greater than 0"),
    (("--max-deletes", "0"), "Deleting object will be disabled"),
    (("--atime-mode", "often"), "unknown atime-mode: often, setting it to noatime"),
    (("--cache-eviction", "fifo"), "unknown cache-eviction: fifo"),
    (("--cache-mode", "rw"), "Invalid cache-mode rw"),
    (("--cache-expire", "0.5"), "cache-expire should be at least 1 second"),
    (("--root-squash", "0:0"), "--root-squash to root is refused, using 65534:65534"),
    (("--put-timeout", "abc"), "Invalid duration value: abc for --put-timeout"),
    (("--enable-cap",), "--enable-cap has no effect without --enable-xattr"),
    (("--enable-selinux",), "--enable-selinux has no effect without --enable-xattr"),
    (("--cache-size", "0"), "cache-size is 0"),
])  # fmt: skip
def test_odd_values_warn_and_are_replaced(
    words: tuple[str, ...], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.plan(given(*words), "/mnt/jfs", SETTING)
    (message,) = caplog.messages  # once
    assert warning in message


@pytest.mark.parametrize("words", [("--upload-delay", "1h"), ("--skip-dir-nlink", "5")])
def test_what_is_not_there_yet_is_said(words: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    settings.check(given(*words))
    assert words[0] in caplog.text
    assert "ignored" in caplog.text
