"""The mount image: what must be in it, and that it is what the driver can use.

Not what its pods do (test_image_pods), nor the one file `juicefs` (test_single_file).
"""

from __future__ import annotations

import json
import re

import containers
import pytest

from juicefs_py import COMPATIBLE, OWN_VERSION, VERSION

pytestmark = [pytest.mark.battery, pytest.mark.timeout(1600)]  # the first build fetches Debian and all packages

PROGRAMS = """
bash cat chmod cp curl date df expr false fusermount3 grep head id kill ln ls mkdir mktemp mount mountpoint mv nproc
pgrep pkill printf ps python3 rm rmdir sh sleep sort stat tail tar test timeout touch tr true umount uname wc
"""
OF_THE_DRIVER = re.compile(r"ce-v([0-9]+)\.([0-9]+)\.([0-9]+)")


@pytest.fixture(scope="module")
def image() -> str:
    containers.need_containers()
    return containers.image()


def inside(script: str, *options: str) -> str:
    return containers.run(script, *options).stdout


def test_the_tag_promises_what_the_driver_asks_for(image: str) -> None:
    """Passing the descriptor wants ce-v1.2.1 or newer, and the official part of the tag decides."""
    tag = image.rpartition(":")[2]
    assert tag == f"ce-v{COMPATIBLE}-py{OWN_VERSION}"
    found = OF_THE_DRIVER.search(tag)
    assert found and tuple(map(int, found.groups())) >= (1, 2, 1)


def test_the_image_brings_neither_user_nor_entry_point(image: str) -> None:
    about = json.loads(containers.podman("image", "inspect", image).stdout)[0]
    config = about["Config"]
    assert not config.get("Entrypoint") and not config.get("User")
    assert config["Labels"]["org.opencontainers.image.version"] == image.rpartition(":ce-v")[2]
    assert about["Size"] < 400 << 20


def test_files_and_links(image: str) -> None:
    """One regular, self-contained file, and the names by which it is called."""
    seen = inside(
        "stat -c '%F %a' /usr/local/bin/juicefs; readlink -f /bin/mount.juicefs /sbin/mount.juicefs;"
        "command -v juicefs; readlink -f /bin/sh; ls -A /tmp; head -c 2 /usr/local/bin/juicefs"
    ).splitlines()
    program = "/usr/local/bin/juicefs"
    assert seen == ["regular file 755", program, program, program, "/usr/bin/bash", "#!"]


def test_programs(image: str) -> None:
    assert inside(f"for p in {' '.join(PROGRAMS.split())}; do command -v $p >/dev/null || echo $p; done") == ""


def test_the_shell_understands_the_quoting_of_the_driver(image: str) -> None:
    assert inside("echo $'a&b;c' 1>&2; printf %s $'http://host/x?a=1&b=2'") == "http://host/x?a=1&b=2"


def test_the_version(image: str) -> None:
    assert inside("juicefs version; juicefs --version; cd /tmp; time juicefs version >/dev/null") == (
        f"juicefs version {VERSION}\n" * 2
    )


def test_everything_that_the_program_needs_is_in_it(image: str) -> None:
    """All modules of ours, and with them all packages, import without a network; on a read-only root as well."""
    script = r"""
python3 -IS - <<'END'
import runpy, sys, zipfile
sys.argv = ["/usr/local/bin/juicefs", "version"]
try:
    runpy.run_path("/usr/local/bin/juicefs", run_name="__main__")
except SystemExit as end:
    assert not end.code
names = [name[:-3].replace("/", ".") for name in zipfile.ZipFile("/usr/local/bin/juicefs").namelist()
         if name.endswith(".py") and "/" in name and not name.endswith("__init__.py")]
for name in names:
    if name not in ("juicefs_py.__main__",) and "pyfuse3" not in name:
        __import__(name)
import boto3, lz4.block, zstandard, cryptography, qcloud_cos, oss2, paramiko, trio, redis, hiredis, crc32c
assert zstandard.backend == "cext", zstandard.backend
boto3.client("s3", region_name="a", aws_access_key_id="b", aws_secret_access_key="c")
assert all("/usr/local/lib/juicefs/" in module.__file__ for module in (boto3, lz4, trio))
print(len(names) > 100)
END
"""
    assert inside(script, "--network", "none", "--read-only").splitlines() == [f"juicefs version {VERSION}", "True"]


def test_the_file_alone_does_in_another_image(image: str) -> None:
    """A binary upgrade: what the old image has unpacked is of no use, and there may be little to write to."""
    copied = "cp /usr/local/bin/juicefs /tmp/juicefs; rm -r /usr/local/bin/juicefs /usr/local/lib/juicefs; "
    moved = "mv /tmp/juicefs /usr/local/bin/juicefs; "
    probe = "juicefs version && juicefs status redis://127.0.0.1:1 2>&1 | tail -1; ls -d /usr/local/lib/juicefs/*"
    seen = inside(copied + moved + probe).splitlines()
    assert seen[0] == f"juicefs version {VERSION}"
    assert "FATAL" in seen[1] and "127.0.0.1:1" in seen[1]
    assert seen[2].startswith("/usr/local/lib/juicefs/cpython-")


def test_no_rights_are_needed_to_look(image: str) -> None:
    assert inside("juicefs version; juicefs quota | head -1", "--network", "none", "--user", "65534").startswith(
        f"juicefs version {VERSION}\n"
    )
