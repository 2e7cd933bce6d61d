"""The house rules that a machine can check: who may import whom, sizes, words that must not be committed.

Not here: style that ruff and types that mypy see.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import fuse

REPOSITORY = Path(__file__).resolve().parent.parent
PILLARS = ("fuse", "meta", "chunkstore")
ROOF = "juicefs_py"
ROOMS = (*PILLARS, ROOF)
MAY_IMPORT = {**{pillar: {pillar} for pillar in PILLARS}, ROOF: set(ROOMS), "bench": {*ROOMS, "bench"}}
LONGEST_FUNCTION = 70
LONGEST_FILE = 400
REASON = re.compile(r"#\s*long:\s*\S+")
"""`# long: why` on the `def` line or the line above lets a function be longer than LONGEST_FUNCTION lines."""
LATER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|farm|root|home/\w+)/\w")
REGISTRY = re.compile(
    r"index-url|extra-index|files\.pythonhosted|pypi\.org/simple|https?://(localhost|\d+\.\d+)[^\s]*/(simple|pypi)"
)
LAZY = {"trio", "rich", "cryptography", "lz4", "zstandard", "prometheus_client", "sqlite3"}


@cache
def committed_files() -> list[Path]:
    """What git tracks and has on disk, or would track (untracked and not ignored)."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True
    )
    if listing.returncode:
        pytest.skip("needs the git checkout (this is not one)")
    names = sorted(set(listing.stdout.decode().split("\0")) - {""})
    return [REPOSITORY / name for name in names if (REPOSITORY / name).is_file()]


def sources(*folders: str) -> list[Path]:
    """Committed Python files below these top folders."""
    return [
        path for path in committed_files() if path.suffix == ".py" and path.relative_to(REPOSITORY).parts[0] in folders
    ]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, run_time_only: bool = False) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, full name of the imported module) of a file; relative imports come out with their dots."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(parsed(path)):
        if (
            run_time_only
            and isinstance(node, ast.If)
            and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        ):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(parsed(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"


def test_pillars_never_import_one_another_and_nothing_below_imports_the_roof() -> None:
    wrong = [
        f"{where(path, node)} imports {name}"
        for room, allowed in MAY_IMPORT.items()
        for path in sources(room)
        for node, name in imports(path)
        if name.split(".")[0] in {*ROOMS, "bench", "tests"} - allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_are_absolute_and_name_what_they_take() -> None:
    wrong = [
        f"{where(path, node)} imports {name}"
        for path in sources(*ROOMS, "bench")
        for node, name in imports(path)
        if name.startswith(".") or (isinstance(node, ast.Import) and name.split(".")[0] in ROOMS)
    ]
    assert not wrong, "use `from meta.attr import Attr`:\n" + "\n".join(wrong)


def test_there_is_no_import_circle() -> None:
    """Imports inside functions count as well: they delay a circle, they do not mend it."""
    files = {module_name(path): path for path in sources(*ROOMS)}
    graph = {name: _needs(path, files.keys()) - {name} for name, path in files.items()}
    circle = _find_circle(graph)
    assert circle is None, "import circle: " + " -> ".join(circle or [])


def _needs(path: Path, known: set[str] | frozenset[str] | object) -> set[str]:
    """Our modules that importing this one runs: `from a.b import c` is a.b.c where that is a module, else a.b."""
    needed = set()
    for node, name in imports(path, run_time_only=True):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                deeper = f"{name}.{alias.name}"
                needed.add(deeper if deeper in known else name)  # type: ignore[operator]
    return {name for name in needed if name in known}  # type: ignore[operator]


def _find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for following in sorted(graph[name]):
            if circle := visit(following, [*path, name]):
                return circle
        done.add(name)
        return None

    for name in sorted(graph):
        if circle := visit(name, []):
            return circle
    return None


def test_the_circle_finder_finds_one() -> None:
    assert _find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_the_fuse_under_test_is_ours() -> None:
    """fusepy installs a module of the same name."""
    assert fuse.__file__ is not None
    assert Path(fuse.__file__).resolve() == REPOSITORY / "fuse" / "__init__.py"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    long = []
    for path in sources(*ROOMS, "bench", "deploy", "tests"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for function in functions(path):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            head = lines[max(function.lineno - 2, 0) : function.body[0].lineno]
            if length > LONGEST_FUNCTION and not any(REASON.search(line) for line in head):
                long.append(f"{where(path, function)} {function.name}: {length} lines")
    assert not long, f"over {LONGEST_FUNCTION} lines without `# long: why`:\n" + "\n".join(long)


def test_files_are_short() -> None:
    long = []
    for path in sources(*ROOMS, "bench"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST_FILE and not any(REASON.search(line) for line in lines[:30]):
            long.append(f"{path.relative_to(REPOSITORY)}: {len(lines)} lines")
    assert not long, f"over {LONGEST_FILE} lines without `# long: why` near the top:\n" + "\n".join(long)


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in sources(*ROOMS, "bench", "deploy", "tests")
        if path.stat().st_size and not ast.get_docstring(parsed(path))
    ]
    assert not silent, f"no docstring in the first line: {silent}"


def test_nothing_is_left_for_later() -> None:
    assert not _matching(LATER), "finish it, or file it"


def test_no_place_of_one_machine_is_committed() -> None:
    assert not _matching(MACHINE_PATHS)
    assert not _matching(REGISTRY)


def _matching(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path != Path(__file__).resolve():
            for number, line in enumerate(text.splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    return found


@pytest.mark.parametrize("script", ["scripts/test", "scripts/quickstart", ".ci/run", "deploy/image/build"])
def test_scripts_are_sound_and_executable(script: str) -> None:
    path = REPOSITORY / script
    assert path.exists()
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_short_commands_do_not_load_heavy_modules() -> None:
    """`juicefs version` in 100 ms rests on this; the clock itself is watched in bench/."""
    probe = "import sys; import juicefs_py.__main__; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (LAZY | {"asyncio", "requests", "boto3", "redis"})
