"""Programs that handle whole trees, on a mount and beside it: tar, git, make, venv and pip, rsync.

Not here: programs that share one file (test_programs_files.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from beside import beside, package, run
from needs import TOOLS, need

pytestmark = pytest.mark.battery

GIT = {
    **os.environ,
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
}  # fmt: skip
MODULES = 40


def test_unpack_a_large_sdist(place: Path, tmp_path: Path) -> None:
    archive = package("?jango-*.tar.gz")
    beside(place / "t", tmp_path / "t", lambda root: run("tar", "xzf", archive, "-C", root), mtimes=True)


@pytest.mark.timeout(600)
def test_git_with_ten_thousand_files(place: Path, tmp_path: Path) -> None:
    need("git")
    archive = package("?jango-*.tar.gz")

    def work(root: Path) -> list[str]:
        def git(*arguments: object, cwd: Path = root / "repo") -> str:
            return run("git", "-c", "gc.auto=0", "-c", "pack.threads=2", *arguments, cwd=cwd, env=GIT)

        (root / "repo").mkdir()
        run("tar", "xzf", archive, "-C", root / "repo")
        for number in range(3500):
            folder = root / "repo" / "generated" / f"{number % 37}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.txt").write_text(f"{number}\n" * (number % 50))
        git("init", "-q", "-b", "main")
        git("add", "-A")
        git("commit", "-q", "-m", "first")
        (root / "repo" / "generated" / "0" / "0.txt").write_text("changed")
        run("git", "mv", "generated/1", "generated/moved", cwd=root / "repo", env=GIT)
        git("commit", "-q", "-a", "-m", "second")
        git("repack", "-a", "-d", "-q")
        git("fsck", "--full", "--strict", "--no-progress")
        git("clone", "-q", root / "repo", root / "clone", cwd=root)
        git("clone", "-q", "--no-hardlinks", "--bare", root / "repo", root / "bare.git", cwd=root)
        files = git("ls-files", cwd=root / "clone").splitlines()
        assert len(files) >= 10_000
        status = [git("status", "--porcelain", cwd=root / name) for name in ("repo", "clone")]
        return [*status, git("rev-parse", "HEAD^{tree}"), git("rev-parse", "HEAD^{tree}", cwd=root / "clone")]

    beside(place / "t", tmp_path / "t", work, skip=(".git", "bare.git"))


def test_build_a_c_program_with_make(place: Path, tmp_path: Path) -> None:
    need("gcc", "make")

    def work(root: Path) -> list[str]:
        write_c_program(root)
        outputs = [run("make", "-j2", "-s", cwd=root), run(root / "program")]
        run("make", "-q", cwd=root)  # nothing to do: the times of what was built are right
        (root / "all.h").write_text("#define FACTOR 3\n")
        rebuilt = run("make", "-n", cwd=root).count("gcc -c")
        outputs += [str(rebuilt), run("make", "-j2", "-s", cwd=root), run(root / "program")]
        run("make", "-q", cwd=root)
        return outputs

    beside(place / "t", tmp_path / "t", work)


def write_c_program(root: Path) -> None:
    """MODULES sources in a static library, a main that adds up what they return."""
    (root / "all.h").write_text("#define FACTOR 2\n")
    names = [f"part{number}" for number in range(MODULES)]
    for number, name in enumerate(names):
        (root / f"{name}.c").write_text(f'#include "all.h"\nint {name}(void) {{ return FACTOR * {number}; }}\n')
    declared = "".join(f"int {name}(void);\n" for name in names)
    total = " + ".join(f"{name}()" for name in names)
    main = f'#include <stdio.h>\n{declared}int main(void) {{ printf("%d\\n", {total}); return 0; }}\n'
    (root / "main.c").write_text(main)
    objects = " ".join(f"{name}.o" for name in names)
    (root / "Makefile").write_text(
        f"program: main.o libparts.a\n\tgcc -o $@ main.o -L. -lparts\n"
        f"libparts.a: {objects}\n\tar rcD $@ $^\n%.o: %.c all.h\n\tgcc -c -O1 -o $@ $<\n"
    )


def test_virtual_environment_and_pip_install(place: Path, tmp_path: Path) -> None:
    package("click-*.whl")

    def work(root: Path) -> str:
        run(sys.executable, "-m", "venv", root / "env")
        python = root / "env" / "bin" / "python"
        index = ("--quiet", "--no-index", "--find-links", TOOLS / "packages", "--disable-pip-version-check")
        run(python, "-m", "pip", "install", *index, "asgiref", "sqlparse", "click")
        run(python, "-m", "pip", "check")
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "click")
        return run(python, "-c", "import sqlparse, asgiref; print(sqlparse.format('select 1', keyword_case='upper'))")

    # Scripts and what hashes them contain the path of the environment.
    beside(place / "t", tmp_path / "t", work, skip=("bin", "RECORD", "pyvenv.cfg", "__pycache__"))


def test_rsync_with_checksums_and_deletions(place: Path, tmp_path: Path) -> None:
    need("rsync")
    source = tmp_path / "source"
    source.mkdir()
    run("tar", "xzf", package("?jango-*.tar.gz"), "-C", source)
    os.link(source / os.listdir(source)[0] / "setup.cfg", source / "hard-link")
    os.symlink("hard-link", source / "soft-link")
    os.setxattr(source / "hard-link", "user.note", b"kept")
    os.utime(
        source / "soft-link", (1e9, 1e9), follow_symlinks=False
    )  # rsync leaves alone what differs by less than 1 s

    def work(root: Path) -> None:
        run("rsync", "-aHX", "--checksum", "--delete", f"{source}/", root)
        victims = sorted(path for path in root.rglob("*.py") if path.is_file())[::50]
        for path in victims:
            path.write_bytes(b"spoilt")
        (root / "extra").mkdir()
        (root / "extra" / "file").write_text("not in the source")
        run("rsync", "-aHX", "--checksum", "--delete", f"{source}/", root)
        left = run("rsync", "-aHXn", "--checksum", "--delete", "--itemize-changes", f"{source}/", root)
        assert left == "", f"rsync still sees differences: {left}"

    beside(place / "t", tmp_path / "t", work, mtimes=True)


def test_tar_round_trip(place: Path, tmp_path: Path) -> None:
    """Hard links, symlinks, fifos, xattrs, sparse files, long names, odd modes: through tar and back."""
    need("tar")

    def work(root: Path) -> None:
        make_odd_tree(root / "a")
        options = ("--xattrs", "--sparse", "--numeric-owner")
        run("tar", *options, "-cf", root / "a.tar", "-C", root / "a", ".")
        (root / "b").mkdir()
        run("tar", *options, "-xpf", root / "a.tar", "-C", root / "b")
        (root / "a.tar").unlink()

    beside(place / "t", tmp_path / "t", work, mtimes=True)


def make_odd_tree(root: Path) -> None:
    """A few of everything that a tar archive can hold; all times fixed."""
    (root / "deep" / ("d" * 200) / ("e" * 200)).mkdir(parents=True)
    (root / "deep" / ("d" * 200) / ("e" * 200) / ("f" * 255)).write_text("long names")
    (root / "plain").write_bytes(bytes(range(256)) * 1000)
    os.link(root / "plain", root / "deep" / "linked")
    os.symlink("../plain", root / "deep" / "relative")
    os.symlink("/nowhere/at all", root / "dangling")
    os.mkfifo(root / "fifo")
    (root / "empty").touch()
    with (root / "sparse").open("wb") as file:
        file.seek(100 << 20)
        file.write(b"in the middle")
        file.truncate(200 << 20)
    (root / "umlaut \u00fc \n newline").write_text("name")
    os.setxattr(root / "plain", "user.colour", b"blue\0green")
    os.setxattr(root / "deep", "user.dir", b"x" * 1000)
    for name, mode in (("plain", 0o4751), ("empty", 0o000), ("deep", 0o1777)):
        os.chmod(root / name, mode)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(1_600_000_000_123_456_000, 1_500_000_000_987_654_000), follow_symlinks=False)
