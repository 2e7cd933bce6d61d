"""mount(8)'s calls, fstab entries, and how mount options become configurations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from juicefs_py.cli import app
from juicefs_py.cli.args import Values, options_first, parse
from juicefs_py.cli.errors import Fatal
from juicefs_py.mount import fstab, helper, settings, store_options
from juicefs_py.mount.start import absolute_url
from meta.setting import Setting

SETTING = Setting(name="myjfs", uuid="0000-1111", bucket="/b/", block_size=1024, compression="lz4", upload_limit=7)


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
    fstab._rewrite(str(path), "URL", "/mnt/jfs", line)
    assert path.read_text() == f"# comment\n{line}\nURL  /mnt/other  juicefs  x  0 0\n"
    assert path.stat().st_mode & 0o777 == 0o600
    fstab._rewrite(str(path), "URL2", "/mnt/jfs", "another")
    assert path.read_text().endswith("  x  0 0\nanother\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["fstab"]


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
    assert plan.vfs.labels == {"vol_name": "myjfs", "mp": "/mnt/jfs", "team": "x"}
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


@pytest.mark.parametrize(
    "words", [("--consul", "x:1"), ("--upload-delay", "1h"), ("--backup-meta", "2h"), ("--skip-dir-nlink", "5")]
)
def test_what_is_not_there_yet_is_said(words: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    settings.check(given(*words))
    assert words[0] in caplog.text
    assert "ignored" in caplog.text
