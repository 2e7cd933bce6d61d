"""POSIX and Linux behaviour of files and names, call by call: what pjdfstest leaves out, or shows less plainly.

Not here: programs (test_programs_*), locks (test_programs_files), durability. Each case runs on a local file system as
well (`--local DIR`), so it says what Linux does and not what we would like.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import place_on
from fsx import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from needs import need_root

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
NOBODY = 65534
MIB = 1 << 20

pytestmark = pytest.mark.battery

_libc = ctypes.CDLL(None, use_errno=True)


NOT_BEHIND_PYFUSE3 = ("test_fallocate_modes", "test_seek_data_and_hole")


@pytest.fixture(params=["native", "pyfuse3"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory behind each door."""
    if request.param == "pyfuse3" and request.config.getoption("--local"):
        pytest.skip("a local directory has no door")
    if request.param == "pyfuse3" and request.node.originalname in NOT_BEHIND_PYFUSE3:
        pytest.skip("pyfuse3 has no handler for it")
    mount = request.getfixturevalue("shared_mount" if request.param == "native" else "pyfuse3_mount")
    yield from place_on(mount, request)


def fails(number: int, call: Callable[..., object], *arguments: object, **named: object) -> None:
    """The call must fail with exactly this errno."""
    with pytest.raises(OSError) as raised:
        call(*arguments, **named)
    assert errno.errorcode[raised.value.errno or 0] == errno.errorcode[number]


def renameat2(source: Path, target: Path, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def as_nobody(program: str, *arguments: object, groups: tuple[int, ...] = ()) -> str:
    """What a Python program prints when an ordinary user runs it (who need not be able to start our interpreter)."""
    need_root()
    drop = f"import errno, os, sys; os.setgroups({list(groups)}); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    command = [sys.executable, "-c", drop + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ERRNO_OF = """
try:
    {call}
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


class TestOpen:
    def test_exclusive_create_of_what_is_there(self, place: Path) -> None:
        (place / "f").touch()
        os.symlink("nowhere", place / "s")
        fails(errno.EEXIST, os.open, place / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        fails(errno.EEXIST, os.open, place / "s", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def test_directory_and_nofollow(self, place: Path) -> None:
        (place / "f").touch()
        os.symlink("f", place / "s")
        fails(errno.ENOTDIR, os.open, place / "f", os.O_RDONLY | os.O_DIRECTORY)
        fails(errno.ELOOP, os.open, place / "s", os.O_RDONLY | os.O_NOFOLLOW)
        fails(errno.EISDIR, os.open, place, os.O_WRONLY)

    def test_truncate_on_open_and_append(self, place: Path) -> None:
        (place / "f").write_bytes(b"0123456789")
        fd = os.open(place / "f", os.O_WRONLY | os.O_TRUNC)
        assert os.fstat(fd).st_size == 0
        os.close(fd)
        fd = os.open(place / "f", os.O_RDWR | os.O_APPEND)
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        os.close(fd)
        assert (place / "f").read_bytes() == b"onetwo"

    def test_umask_and_modes(self, place: Path) -> None:
        before = os.umask(0o027)
        try:
            os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o6777))
            os.mkdir(place / "d", 0o777)
            os.mkfifo(place / "p", 0o666)
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(os.stat(place / name).st_mode) for name in "fdp"]
        assert [oct(mode) for mode in modes] == ["0o6750", "0o750", "0o640"]

    def test_direct_io(self, place: Path) -> None:
        (place / "f").write_bytes(b"a" * 8192)
        fd = os.open(place / "f", os.O_RDONLY | os.O_DIRECT)
        buffer = ctypes.create_string_buffer(4096 * 2)
        aligned = (ctypes.c_char * 4096).from_buffer(buffer, -ctypes.addressof(buffer) % 4096)
        assert os.preadv(fd, [aligned], 4096) == 4096
        os.close(fd)
        assert bytes(aligned) == b"a" * 4096

    def test_executing(self, place: Path) -> None:
        script = place / "script"
        script.write_text("#!/bin/sh\necho ran\n")
        script.chmod(0o755)
        assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "ran\n"


class TestNames:
    @pytest.mark.parametrize("name", ["\u00e4\u00f6\u00fc", "a b", "\n", "x" * 255, "...", "-rf", "\\", "'\""])
    def test_odd_names(self, place: Path, name: str) -> None:
        (place / name).write_text(name)
        assert os.listdir(place) == [name]
        assert (place / name).read_text() == name

    def test_names_are_bytes(self, place: Path) -> None:
        name = os.fsencode(place) + b"/\xff\xfe\x80"
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        assert os.listdir(os.fsencode(place)) == [b"\xff\xfe\x80"]

    def test_names_that_are_too_long(self, place: Path) -> None:
        fails(errno.ENAMETOOLONG, os.mkdir, place / ("x" * 256))
        fails(errno.ENAMETOOLONG, os.stat, place / ("x" * 256))
        fails(errno.ENAMETOOLONG, os.symlink, "t" * 4096, place / "s")
        os.symlink("t" * 4095, place / "s")
        assert len(os.readlink(place / "s")) == 4095

    def test_case_matters(self, place: Path) -> None:
        (place / "a").write_text("small")
        (place / "A").write_text("large")
        assert [(place / name).read_text() for name in "aA"] == ["small", "large"]

    def test_thousands_of_names(self, place: Path) -> None:
        names = [f"file-{number:05d}" for number in range(2000)]
        for name in names:
            os.close(os.open(place / name, os.O_CREAT | os.O_WRONLY))
        assert sorted(os.listdir(place)) == names
        with os.scandir(place) as entries:
            assert all(entry.is_file(follow_symlinks=False) for entry in entries)

    def test_listing_while_names_go(self, place: Path) -> None:
        """What is neither added nor removed during a listing appears exactly once."""
        for number in range(1000):
            (place / f"keep{number}").touch()
            (place / f"drop{number}").touch()
        seen = []
        with os.scandir(place) as entries:
            for count, entry in enumerate(entries):
                seen.append(entry.name)
                if count == 10:
                    for number in range(1000):
                        (place / f"drop{number}").unlink()
        kept = [name for name in seen if name.startswith("keep")]
        assert sorted(kept) == sorted(f"keep{number}" for number in range(1000))

    def test_rewinding_a_directory_shows_what_is_new(self, place: Path) -> None:
        fd = os.open(place, os.O_RDONLY)
        try:
            assert os.listdir(fd) == []
            (place / "new").touch()
            assert os.listdir(fd) == ["new"]
        finally:
            os.close(fd)


class TestRename:
    def test_over_a_file_with_open_handles(self, place: Path) -> None:
        (place / "old").write_text("old")
        (place / "new").write_text("new")
        with (place / "old").open() as handle:
            os.rename(place / "new", place / "old")
            assert handle.read() == "old"
        assert (place / "old").read_text() == "new"
        assert not (place / "new").exists()

    def test_refusals(self, place: Path) -> None:
        (place / "full" / "sub").mkdir(parents=True)
        (place / "empty").mkdir()
        (place / "f").touch()
        fails(errno.ENOTEMPTY, os.rename, place / "empty", place / "full")
        fails(errno.EINVAL, os.rename, place / "full", place / "full" / "sub" / "x")
        fails(errno.EISDIR, os.rename, place / "f", place / "empty")
        fails(errno.ENOTDIR, os.rename, place / "empty", place / "f")
        fails(errno.ENOENT, os.rename, place / "none", place / "f")
        os.rename(place / "full", place / "empty")
        assert (place / "empty" / "sub").is_dir()

    def test_hard_links_of_one_file_do_nothing(self, place: Path) -> None:
        (place / "a").touch()
        os.link(place / "a", place / "b")
        os.rename(place / "a", place / "b")
        assert sorted(os.listdir(place)) == ["a", "b"]

    def test_noreplace_and_exchange(self, place: Path) -> None:
        (place / "a").write_text("a")
        (place / "d").mkdir()
        (place / "d" / "inside").touch()
        fails(errno.EEXIST, renameat2, place / "a", place / "d", RENAME_NOREPLACE)
        fails(errno.ENOENT, renameat2, place / "a", place / "none", RENAME_EXCHANGE)
        renameat2(place / "a", place / "d", RENAME_EXCHANGE)
        assert (place / "d").read_text() == "a"
        assert os.listdir(place / "a") == ["inside"]
        renameat2(place / "d", place / "e", RENAME_NOREPLACE)
        assert sorted(os.listdir(place)) == ["a", "e"]

    def test_directories_and_link_counts(self, place: Path) -> None:
        for name in ("one", "two"):
            (place / name).mkdir()
        (place / "one" / "d").mkdir()
        assert [os.stat(place / name).st_nlink for name in ("one", "two")] == [3, 2]
        os.rename(place / "one" / "d", place / "two" / "d")
        assert [os.stat(place / name).st_nlink for name in ("one", "two")] == [2, 3]
        assert os.stat(place / "two" / "d" / "..").st_ino == os.stat(place / "two").st_ino


class TestSpaceAndHoles:
    def test_fallocate_modes(self, place: Path) -> None:
        with (place / "f").open("w+b", buffering=0) as file:
            file.write(b"x" * 3 * MIB)
            fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, MIB, MIB)
            fallocate(file.fileno(), ZERO_RANGE, 2 * MIB + 5, 10)
            fallocate(file.fileno(), KEEP_SIZE, 3 * MIB, MIB)
            assert os.fstat(file.fileno()).st_size == 3 * MIB
            fallocate(file.fileno(), 0, 3 * MIB, MIB)
            assert os.fstat(file.fileno()).st_size == 4 * MIB
            content = os.pread(file.fileno(), 5 * MIB, 0)
        zeros = bytes(MIB)
        assert content == b"x" * MIB + zeros + b"x" * 5 + bytes(10) + b"x" * (MIB - 15) + zeros

    def test_fallocate_refusals(self, place: Path) -> None:
        with (place / "f").open("w+b", buffering=0) as file:
            fails(errno.EINVAL, fallocate, file.fileno(), 0, 0, 0)
            fails(errno.EINVAL, fallocate, file.fileno(), 0, -1, 10)
            fails(errno.EOPNOTSUPP, fallocate, file.fileno(), PUNCH_HOLE, 0, 10)
        with (place / "f").open("rb") as file:
            fails(errno.EBADF, fallocate, file.fileno(), 0, 0, 10)

    def test_seek_data_and_hole(self, place: Path) -> None:
        with (place / "f").open("w+b", buffering=0) as file:
            fd = file.fileno()
            fails(errno.ENXIO, os.lseek, fd, 0, os.SEEK_DATA)
            os.pwrite(fd, b"data", 130 * MIB)
            os.ftruncate(fd, 200 * MIB)
            os.fsync(fd)
            data = os.lseek(fd, 0, os.SEEK_DATA)
            assert 0 <= data <= 130 * MIB
            hole = os.lseek(fd, 130 * MIB, os.SEEK_HOLE)
            assert 130 * MIB + 4 <= hole <= 200 * MIB
            assert os.lseek(fd, 200 * MIB - 1, os.SEEK_HOLE) == 200 * MIB - 1
            fails(errno.ENXIO, os.lseek, fd, 200 * MIB, os.SEEK_DATA)

    def test_copy_file_range_between_files(self, place: Path) -> None:
        data = os.urandom(9 * MIB + 123)
        (place / "a").write_bytes(data)
        with (place / "a").open("rb") as source, (place / "b").open("w+b", buffering=0) as target:
            done = 0
            while step := os.copy_file_range(source.fileno(), target.fileno(), len(data) - done, done + 7, done):
                done += step
        assert (place / "b").read_bytes() == data[7:]

    def test_very_large_offsets(self, place: Path) -> None:
        with (place / "f").open("w+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"far out", 1 << 40)
            assert os.fstat(file.fileno()).st_size == (1 << 40) + 7
            assert os.pread(file.fileno(), 100, (1 << 40) - 3) == b"\0\0\0far out"
            assert os.pread(file.fileno(), 10, 1 << 39) == bytes(10)

    def test_file_size_limit(self, place: Path) -> None:
        program = (
            "import os, resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
            "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
            "print(os.write(fd, b'x' * 10000))\n"
            "try: os.write(fd, b'x')\nexcept OSError as error: print(error.errno)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, place / "f"], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["8192", str(errno.EFBIG)]

    def test_statvfs_is_plausible(self, place: Path) -> None:
        info = os.statvfs(place)
        assert info.f_namemax == 255
        assert 0 < info.f_bavail <= info.f_blocks
        assert info.f_bsize > 0


class TestAttributes:
    def test_times_to_the_nanosecond(self, place: Path) -> None:
        (place / "f").touch()
        for times in ((1, 2), (1_600_000_000_123_456_789, 1_500_000_000_987_654_321), (4_102_444_800_000_000_001, 0)):
            os.utime(place / "f", ns=times)
            info = os.stat(place / "f")
            assert (info.st_atime_ns, info.st_mtime_ns) == times

    def test_write_moves_mtime_and_ctime_together(self, place: Path) -> None:
        (place / "f").write_text("one")
        os.utime(place / "f", (1, 1))
        before = time.time()
        with (place / "f").open("a") as file:
            file.write("two")
        info = os.stat(place / "f")
        assert before - 1 <= info.st_mtime <= time.time() + 1
        assert info.st_ctime >= before - 1

    def test_reading_and_stat_change_nothing(self, place: Path) -> None:
        (place / "f").write_text("one")
        before = os.stat(place / "f")
        time.sleep(0.02)
        (place / "f").read_text()
        after = os.stat(place / "f")
        assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)

    def test_size_is_seen_through_other_handles_at_once(self, place: Path) -> None:
        with (place / "f").open("wb", buffering=0) as file:
            for length in range(1, 50):
                file.write(b"x")
                assert os.stat(place / "f").st_size == length
                assert len((place / "f").read_bytes()) == length

    def test_chown_drops_set_id_bits(self, place: Path) -> None:
        need_root()
        (place / "f").touch()
        os.chmod(place / "f", 0o6755)
        os.chown(place / "f", NOBODY, NOBODY)
        os.chmod(place / "f", 0o6755)
        assert as_nobody("import os, sys; os.chown(sys.argv[1], -1, 65534); print('ok')", place / "f") == "ok"
        assert stat.S_IMODE(os.stat(place / "f").st_mode) == 0o755

    def test_write_by_another_user_drops_set_id_bits(self, place: Path) -> None:
        need_root()
        (place / "f").write_text("x")
        os.chmod(place / "f", 0o6777)
        as_nobody("import sys; open(sys.argv[1], 'a').write('y')", place / "f")
        assert stat.S_IMODE(os.stat(place / "f").st_mode) == 0o777

    def test_setgid_directories_hand_down_their_group(self, place: Path) -> None:
        need_root()
        (place / "d").mkdir()
        os.chown(place / "d", 0, 12345)
        os.chmod(place / "d", 0o2777)
        (place / "d" / "f").touch()
        (place / "d" / "sub").mkdir()
        assert os.stat(place / "d" / "f").st_gid == 12345
        assert os.stat(place / "d" / "sub").st_gid == 12345
        assert os.stat(place / "d" / "sub").st_mode & stat.S_ISGID

    def test_special_files(self, place: Path) -> None:
        need_root()
        os.mknod(place / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mkfifo(place / "fifo")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(place / "socket"))
            assert stat.S_ISSOCK(os.stat(place / "socket").st_mode)
        assert os.stat(place / "null").st_rdev == os.makedev(1, 3)
        reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(place / "fifo", os.O_WRONLY)
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
        os.close(writer)

    def test_inode_flags_by_ioctl_do_not_crash(self, place: Path) -> None:
        """FS_IOC_GETFLAGS may be refused, but in the way programs (cp, lsattr) expect."""
        with (place / "f").open("w") as file:
            try:
                fcntl.ioctl(file, 0x80086601, struct.pack("l", 0))
            except OSError as error:
                assert error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)


class TestPermissions:
    @pytest.mark.parametrize(
        ("mode", "call", "result"),
        [
            (0o600, "open(sys.argv[1])", "EACCES"),
            (0o604, "open(sys.argv[1])", "ok"),
            (0o604, "open(sys.argv[1], 'a')", "EACCES"),
            (0o606, "open(sys.argv[1], 'a')", "ok"),
            (0o666, "os.chmod(sys.argv[1], 0o777)", "EPERM"),
            (0o666, "os.chown(sys.argv[1], 65534, -1)", "EPERM"),
            (0o666, "os.utime(sys.argv[1])", "ok"),
            (0o644, "os.utime(sys.argv[1])", "EACCES"),
            (0o666, "os.utime(sys.argv[1], (1, 1))", "EPERM"),
            (0o644, "os.truncate(sys.argv[1], 0)", "EACCES"),
        ],
    )
    def test_ordinary_user_and_a_file_of_root(self, place: Path, mode: int, call: str, result: str) -> None:
        (place / "f").touch()
        os.chmod(place / "f", mode)
        assert as_nobody(ERRNO_OF.format(call=call), place / "f") == result

    def test_supplementary_groups_count(self, place: Path) -> None:
        need_root()
        (place / "f").touch()
        os.chown(place / "f", 0, 4321)
        os.chmod(place / "f", 0o640)
        call = ERRNO_OF.format(call="open(sys.argv[1])")
        assert as_nobody(call, place / "f") == "EACCES"
        assert as_nobody(call, place / "f", groups=(4321,)) == "ok"

    def test_sticky_directory(self, place: Path) -> None:
        (place / "d").mkdir()
        os.chmod(place / "d", 0o1777)
        (place / "d" / "roots").touch()
        call = ERRNO_OF.format(call="os.unlink(sys.argv[1])")
        assert as_nobody(call, place / "d" / "roots") == "EPERM"
        os.chown(place / "d" / "roots", NOBODY, NOBODY)
        assert as_nobody(call, place / "d" / "roots") == "ok"

    def test_search_permission(self, place: Path) -> None:
        (place / "d").mkdir()
        (place / "d" / "f").touch()
        os.chmod(place / "d", 0o644)
        assert as_nobody(ERRNO_OF.format(call="os.stat(sys.argv[1])"), place / "d" / "f") == "EACCES"
        assert as_nobody(ERRNO_OF.format(call="os.listdir(sys.argv[1])"), place / "d") == "ok"


class TestExtendedAttributes:
    def test_set_get_list_remove(self, place: Path) -> None:
        (place / "f").touch()
        os.setxattr(place / "f", "user.a", b"1\0\xff")
        os.setxattr(place / "f", "user.empty", b"")
        assert os.getxattr(place / "f", "user.a") == b"1\0\xff"
        assert os.getxattr(place / "f", "user.empty") == b""
        assert sorted(os.listxattr(place / "f")) == ["user.a", "user.empty"]
        os.removexattr(place / "f", "user.a")
        assert os.listxattr(place / "f") == ["user.empty"]

    def test_create_replace_and_absence(self, place: Path) -> None:
        (place / "f").touch()
        fails(errno.ENODATA, os.getxattr, place / "f", "user.a")
        fails(errno.ENODATA, os.removexattr, place / "f", "user.a")
        fails(errno.ENODATA, os.setxattr, place / "f", "user.a", b"1", os.XATTR_REPLACE)
        os.setxattr(place / "f", "user.a", b"1", os.XATTR_CREATE)
        fails(errno.EEXIST, os.setxattr, place / "f", "user.a", b"2", os.XATTR_CREATE)

    def test_directories_and_renames_keep_them(self, place: Path) -> None:
        (place / "d").mkdir()
        os.setxattr(place / "d", "user.a", b"1" * 2000)
        os.rename(place / "d", place / "e")
        assert os.getxattr(place / "e", "user.a") == b"1" * 2000
