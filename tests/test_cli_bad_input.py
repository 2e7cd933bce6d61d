"""Mistakes that people make: each ends in one FATAL line that says what to do, exit code 1, and nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from buckets import KEY

REPOSITORY = Path(__file__).resolve().parent.parent
FATAL = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} juicefs\[\d+\] <FATAL>: (.*) \[\w+@[\w<>]+\.py:\d+\]$")


def juicefs(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "juicefs_py", *words], capture_output=True, text=True, timeout=120, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip


def refused(*words: str, cwd: Path | None = None, **environment: str) -> str:
    """Run a command that must fail; the text of its only FATAL line, which is the last line it writes."""
    done = juicefs(*words, cwd=cwd, **environment)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr + done.stdout
    fatal = [match[1] for line in done.stderr.splitlines() if (match := FATAL.match(line))]
    assert len(fatal) == 1, done.stderr
    assert FATAL.match(done.stderr.splitlines()[-1])
    assert "internal error" not in fatal[0]
    return fatal[0]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite3://{tmp_path}/meta.db"


@pytest.fixture
def volume(url: str, tmp_path: Path) -> str:
    """A formatted volume."""
    done = juicefs("format", url, "myjfs", "--bucket", f"{tmp_path}/data")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return url


def objects(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


# addresses


@pytest.mark.parametrize(("address", "message"), [
    ("xyz://host/1", "Invalid meta driver: xyz"),
    ("127.0.0.1:1/1", "Meta redis://127.0.0.1:1/1 is not available: cannot connect to Redis at 127.0.0.1:1"),
    ("mysql://db/x", "metadata engine mysql is not supported yet"),
    ("sqlite3://", "expected sqlite3:// and the path of a file"),
    ("/var/lib/x.db", "/var/lib/x.db is no metadata address; a SQLite database is named sqlite3:///var/lib/x.db"),
    ("x.db", "a SQLite database is named sqlite3://x.db"),
    ("sqlite3:/x", "a SQLite database is named sqlite3:///x"),
])  # fmt: skip
@pytest.mark.parametrize("command", [("status",), ("config",), ("format", "name"), ("mount", "/tmp/no-such-mount")])
def test_metadata_addresses(command: tuple[str, ...], address: str, message: str) -> None:
    assert message in refused(command[0], address, *command[1:])


@pytest.mark.parametrize("command", [("status",), ("config",), ("mount", "/tmp/no-such-mount")])
def test_an_unformatted_database(command: tuple[str, ...], url: str, tmp_path: Path) -> None:
    message = refused(command[0], url, *command[1:])
    assert "database is not formatted, please run `juicefs format ...` first" in message
    assert objects(tmp_path) == []
    assert not os.path.exists("/tmp/no-such-mount")


@pytest.mark.parametrize("command", [("status",), ("config",), ("format", "name"), ("mount", "/tmp/no-such-mount")])
def test_a_file_that_is_no_database(command: tuple[str, ...], url: str, tmp_path: Path) -> None:
    content = b"This is not a database. " * 500
    (tmp_path / "meta.db").write_bytes(content)
    assert "is not a SQLite database" in refused(command[0], url, *command[1:])
    assert (tmp_path / "meta.db").read_bytes() == content


def test_a_damaged_database_is_reported_and_left_alone(volume: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    with sqlite3.connect(path) as database:
        page_size = database.execute("PRAGMA page_size").fetchone()[0]
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name='jfs_setting'").fetchone()[0]
    database.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * page_size : root * page_size] = b"\xff" * page_size
    path.write_bytes(content)
    assert "restore it from a backup" in refused("status", volume)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_not_formatted(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "meta.db") as database:
        database.execute("CREATE TABLE users (name TEXT)")
        database.execute("INSERT INTO users VALUES ('alice')")
    database.close()
    assert "users" in refused("format", url, "myjfs", "--bucket", f"{tmp_path}/data")
    with sqlite3.connect(tmp_path / "meta.db") as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    database.close()
    assert objects(tmp_path) == ["meta.db"], "nothing may stay in the bucket either"


def test_a_locked_database_is_waited_for_and_then_reported(volume: str, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)
    try:
        database.execute("BEGIN EXCLUSIVE")
        assert "locked" in refused("config", volume, "--trash-days", "3", "--yes")
    finally:
        database.close()
    assert '"TrashDays": 1' in juicefs("config", volume).stdout


# format


@pytest.mark.parametrize("name", ["ab", "Abc", "abc-", "a_c", "a" * 64, "a b", ""])
def test_volume_names(name: str, url: str, tmp_path: Path) -> None:
    assert f'invalid name: "{name}", only alphabet, number and - are allowed' in refused("format", url, name)
    assert objects(tmp_path) == []


@pytest.mark.parametrize(("words", "message"), [
    (("--block-size", "4MiB"), 'Invalid value "4MiB" for "block-size"'),
    (("--capacity", "ten"), 'Invalid value "ten" for "capacity"'),
    (("--compress", "gzip"), 'Unsupported compress algorithm: "gzip"'),
    (("--trash-days", "-1"), "Invalid trash days: -1"),
    (("--shards", "300"), "too many shards"),
    (("--shards", "2"), "%d"),
    (("--storage", "nosuch"), "invalid storage"),
    (("--storage", "hdfs"), "not supported yet"),
    (("--inodes", "-5"), 'invalid value "-5" for flag -inodes: parse error'),
    (("--encrypt-rsa-key", "/x.pem"), "read /x.pem: No such file"),
    (("--encrypt-rsa-key", "/etc/hostname"), "it is no private key in PEM format"),
    (("--encrypt-algo", "rot13", "--encrypt-rsa-key", "/etc/hostname"), "unknown encryption algorithm 'rot13'"),
    (("--kerberos-config-file", "/no/such/file"), "/no/such/file"),
    (("--bucket", "/proc/nowhere"), "is not configured correctly"),
    (("--bucket", "/tmp/no-such-\udcff"), "is not UTF-8; choose another one"),
])  # fmt: skip
def test_options_of_format(words: tuple[str, ...], message: str, url: str, tmp_path: Path) -> None:
    bucket = () if "--bucket" in words else ("--bucket", f"{tmp_path}/data")
    assert message in refused("format", url, "myjfs", *bucket, *words)
    assert objects(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody who may not write")
def test_an_unwritable_bucket_directory(url: str, scratch: Path) -> None:
    (scratch / "data").mkdir(mode=0o755)
    (scratch / "home").mkdir()
    os.chown(scratch / "home", 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", "import os,sys; os.setgid(65534); os.setuid(65534)\n"
         "from juicefs_py.cli.app import run\n"
         f"sys.exit(run(['juicefs','format','sqlite3://{scratch}/home/m.db','myjfs','--bucket','{scratch}/data']))"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd="/", timeout=60,
    )  # fmt: skip
    if "No module named" in done.stderr:
        pytest.skip("the other user cannot read this interpreter's modules")
    assert done.returncode == 1
    assert "is not configured correctly" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bucket_that_holds_something_else_is_not_used(url: str, tmp_path: Path) -> None:
    other = tmp_path / "data" / "myjfs" / "report.txt"
    other.parent.mkdir(parents=True)
    other.write_text("precious")
    message = refused("format", url, "myjfs", "--bucket", f"{tmp_path}/data")
    assert "is not empty; please clean it up or pick another volume name" in message
    assert objects(tmp_path) == ["data/myjfs/report.txt"]
    assert other.read_text() == "precious"


def test_a_format_that_fails_leaves_no_directories(tmp_path: Path) -> None:
    def attempt() -> list[str]:
        nowhere = f"sqlite3://{tmp_path}/missing/meta.db"
        assert "its directory does not exist" in refused("format", nowhere, "myjfs", "--bucket", f"{tmp_path}/data")
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))

    assert attempt() == []
    (tmp_path / "data").mkdir()
    assert attempt() == ["data"]
    (tmp_path / "data" / "myjfs").mkdir()
    assert attempt() == ["data", "data/myjfs"]


@pytest.mark.parametrize(("words", "message"), [
    (("other",), "format: update format: cannot update volume name from myjfs to other"),
    (("myjfs", "--block-size", "1M"), "cannot update block size from 4096 to 1024"),
    (("myjfs", "--compress", "lz4"), "cannot update compression from none to lz4"),
    (("myjfs", "--hash-prefix"), "cannot update hash prefix from false to true"),
])  # fmt: skip
def test_a_volume_is_not_formatted_again_as_another_one(volume: str, words: tuple[str, ...], message: str) -> None:
    before = juicefs("config", volume).stdout
    assert message in refused("format", volume, *words)
    assert juicefs("config", volume).stdout == before


def test_what_format_may_do_to_an_existing_volume(volume: str, tmp_path: Path) -> None:
    before = juicefs("config", volume).stdout
    unchanged = juicefs("format", volume, "anything", "--no-update", "--bucket", "/elsewhere")
    assert unchanged.returncode == 0
    assert juicefs("config", volume).stdout == before
    done = juicefs("format", volume, "myjfs", "--capacity", "10", "--encrypt-rsa-key", "/x.pem")
    assert done.returncode == 0
    assert 'Flag "encrypt-rsa-key" is ignored since it cannot be updated' in done.stderr
    assert '"Capacity": 10737418240' in juicefs("config", volume).stdout
    assert juicefs("format", volume, "renamed", "--force", "--bucket", f"{tmp_path}/data").returncode == 0
    assert '"Name": "renamed"' in juicefs("config", volume).stdout


# config


def test_config_asks_before_it_hurts(volume: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "juicefs_py", "config", volume, "--trash-days", "0"], input="n\n", capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b[1;33mWARNING\x1b[0m" in done.stdout
    assert "<FATAL>: Aborted." in done.stderr
    assert '"TrashDays": 1' in juicefs("config", volume).stdout
    assert juicefs("config", volume, "--trash-days", "0", "--yes").stdout.endswith("trash-days: 1 -> 0\n")
    assert juicefs("config", volume, "--trash-days", "0").stdout == "Nothing changed.\n"


@pytest.mark.parametrize(("words", "message"), [
    (("--min-client-version", "1.0.0"), "cannot lower min-client-version from 1.1.0-A to 1.0.0"),
    (("--max-client-version", "soon"), "Invalid version string: soon"),
    (("--trash-days", "-2"), "Invalid trash days"),
    (("--changelog",), "not supported yet"),
    (("--tier", "9", "--storage-class", "X"), "tier should be between 0 and 3"),
    (("--tier", "1"), "missing required flag: --storage-class or --tag"),
    (("--tag", "novalue"), "invalid tag"),
    (("--upload-limit", "fast"), 'Invalid value "fast" for "upload-limit"'),
])  # fmt: skip
def test_options_of_config(volume: str, words: tuple[str, ...], message: str) -> None:
    before = juicefs("config", volume).stdout
    assert message in refused("config", volume, *words)
    assert juicefs("config", volume).stdout == before


def test_secrets_are_kept_and_never_shown(url: str, tmp_path: Path) -> None:
    done = juicefs(
        "format", url, "myjfs", "--bucket", f"{tmp_path}/data", "--access-key", "ak", SECRET_KEY="very-secret"
    )
    assert done.returncode == 0
    shown = juicefs("config", url)
    assert '"SecretKey": "removed"' in shown.stdout
    assert '"KeyEncrypted": true' in shown.stdout
    for text in (done.stderr, shown.stdout, (tmp_path / "meta.db").read_bytes().decode(errors="replace")):
        assert "very-secret" not in text
    assert juicefs("config", url, "--secret-key", "other").stdout == "secret-key: updated\n"
    assert juicefs("config", url, "--capacity", "1").returncode == 0


# status, and commands of a mount without a mount


def test_status_of_an_unknown_session(volume: str) -> None:
    assert "get session: session not found: 77" in refused("status", volume, "-s", "77")


def test_commands_of_a_mount_outside_of_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = juicefs("info", f"{tmp_path}/file", f"{tmp_path}/missing")
    assert done.returncode == 0
    assert f'<ERROR>: Open control file for "{tmp_path}/file": not inside a JuiceFS mount' in done.stderr
    assert f'<ERROR>: lookup inode for "{tmp_path}/missing": no such file or directory' in done.stderr
    done = juicefs("rmr", f"{tmp_path}/file")
    assert done.returncode == 0
    assert "<ERROR>: Open control file for" in done.stderr
    assert (tmp_path / "file").exists()
    assert "lookup inode for" in refused("rmr", f"{tmp_path}/no/such")
    assert f"open controller: {tmp_path}: not inside a JuiceFS mount" in refused("summary", str(tmp_path))
    assert f"{tmp_path} is not mounted (" in refused("umount", str(tmp_path))


# mount, before anything is mounted


@pytest.mark.parametrize(("words", "message"), [
    (("--writeback", "--upload-hours", "9"), 'invalid --upload-hours "9"; write START-END'),
    (("--tag", "novalue"), 'invalid tag "novalue"'),
    (("--buffer-size", "huge"), 'Invalid value "huge" for "buffer-size"'),
    (("--backup-meta", "1m"), "backup-meta should not be less than 5 minutes"),
    (("--umask", "9"), 'invalid umask "9"'),
    (("--io-retries", "-1"), 'Invalid value "-1" for "io-retries": must not be negative; write 0 or more'),
    (("--max-deletes=-1",), 'Invalid value "-1" for "max-deletes"'),
    (("--put-timeout", "-5s"), 'Invalid value "-5s" for "put-timeout": must be longer than 0'),
    (("--root-squash", "nobody:x"), "invalid --root-squash"),
    (("--metrics", "nowhere"), "invalid --metrics address"),
    (("--custom-labels", "a"), "invalid custom label"),
    (("--no-such-option",), 'unknown option: "--no-such-option"'),
])  # fmt: skip
def test_options_of_mount(volume: str, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    assert message in refused("mount", volume, str(mountpoint), *words)
    assert not mountpoint.exists()


def test_mount_points(volume: str, tmp_path: Path) -> None:
    assert "should not mount on the root directory" in refused("mount", volume, "/")
    file = tmp_path / "file"
    file.write_text("x")
    assert "is not a directory" in refused("mount", volume, str(file))
    assert 'create "' in refused("mount", volume, "/proc/nowhere/mnt")


def test_an_encrypted_volume_needs_its_passphrase(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.pem"
    key.write_text(KEY)
    words = ("format", url, "myjfs", "--bucket", f"{tmp_path}/data", "--encrypt-rsa-key", str(key))
    monkeypatch.delenv("JFS_RSA_PASSPHRASE", raising=False)
    assert "put its passphrase into the environment variable JFS_RSA_PASSPHRASE" in refused(*words)
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "wrong")
    assert "the passphrase in JFS_RSA_PASSPHRASE is wrong" in refused(*words)
    assert not (tmp_path / "data").exists()
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "golden")
    done = juicefs(*words)
    assert done.returncode == 0 and '"EncryptKey": "removed"' in done.stderr
    for text in (done.stderr, juicefs("config", url).stdout, (tmp_path / "meta.db").read_bytes().decode("latin-1")):
        assert "golden" not in text and "PRIVATE KEY" not in text
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "wrong")
    assert "the passphrase in JFS_RSA_PASSPHRASE is wrong" in refused("mount", url, f"{tmp_path}/mnt")


def test_a_storage_that_is_gone_is_told_before_mounting(volume: str, tmp_path: Path) -> None:
    message = refused("mount", volume, f"{tmp_path}/mnt", "--check-storage", "--bucket", "/proc/nowhere/")
    assert "is not configured correctly" in message


def test_a_bucket_that_is_gone_is_not_made_anew_for_a_volume_with_data(volume: str, tmp_path: Path) -> None:
    """A disk that is not mounted after a reboot. The volume can be mounted when the directory is there, even empty."""
    shutil.rmtree(tmp_path / "data")
    with sqlite3.connect(tmp_path / "meta.db") as database:
        database.execute("UPDATE jfs_counter SET value=4097 WHERE name='nextChunk'")
    database.close()
    message = refused("mount", volume, f"{tmp_path}/mnt")
    assert f"Storage file://{tmp_path}/data/myjfs/ is missing, but the volume has data in it: is its disk " in message
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "mnt").exists()


def test_a_log_file_that_cannot_be_written(volume: str, tmp_path: Path) -> None:
    assert "choose another one with --log" in refused(
        "mount", volume, f"{tmp_path}/mnt", "-d", "--log", "/proc/nowhere/juicefs.log"
    )
