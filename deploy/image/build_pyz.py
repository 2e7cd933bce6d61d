"""Builds `juicefs`, one executable file that needs nothing but a Python of the version that built it.

    python3 deploy/image/build_pyz.py [--packages FILE] [OUTPUT]

The file is a zip archive behind a first line for the kernel: our code, compiled, and `packages.zip`, what we need of
others with their native parts, which cannot be imported out of an archive (`start` unpacks it once). FILE keeps the
latter from build to build; without an OUTPUT only it is made. The same sources and packages give the same bytes.
Which versions: requirements.txt, made by the command in its head.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ROOMS = ("juicefs_py", "fuse", "meta", "chunkstore")
# Isolated, and without what is installed beside it: no variable and no package of the machine changes what runs.
PYTHON = "/usr/bin/python3"
FIRST_LINE = f"#!{PYTHON} -IS\n".encode()
LONG_AGO = (1980, 1, 1, 0, 0, 0)
UNCHECKED_HASH = 0b01  # flags of a .pyc

NOT_NEEDED = (
    "bin", "zstandard/_cffi*", "*/tests", "*/test", "Crypto/SelfTest", "boto3/examples", "**/*.pyi", "**/*.c",
    "**/__pycache__", "*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
)  # fmt: skip
AWS_SERVICES = frozenset(("s3", "sts", "sso", "sso-oidc", "signin"))
"""Of botocore's descriptions of some 400 services: the one that we use and those that give it keys."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build juicefs as one executable file.")
    parser.add_argument("output", nargs="?", type=Path, help="where the file goes")
    parser.add_argument("--packages", type=Path, metavar="FILE", help="where the packages of others are kept")
    options = parser.parse_args()
    warn_of_another_python()
    if options.packages and options.packages.exists():
        packages = options.packages.read_bytes()
    else:
        packages = fetch()
        if options.packages:
            write(options.packages, packages)
    if options.output:
        write(options.output, FIRST_LINE + program(packages), 0o755)


def warn_of_another_python() -> None:
    """Packages with native parts, and compiled code, are for one version of Python."""
    probe = "import sys; print(sys.implementation.cache_tag)"
    done = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True) if os.path.exists(PYTHON) else None
    if done is None or done.stdout.strip() != sys.implementation.cache_tag:
        print(
            f"build_pyz: the file is run by {PYTHON}, which is not a {sys.implementation.cache_tag} here: it will be of"
            f" use on other machines only. To use it here, build it with {PYTHON}",
            file=sys.stderr,
        )


def fetch() -> bytes:
    """An archive of the packages of requirements.txt, less what is not needed, compiled."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        target = Path(scratch) / "packages"
        subprocess.run(
            [f"{scratch}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
             "--require-hashes", "--requirement", str(HERE / "requirements.txt"), "--target", str(target)],
            check=True,
        )  # fmt: skip
        trim(target)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for path in sorted(path for path in target.rglob("*") if path.is_file()):
                name, data = str(path.relative_to(target)), path.read_bytes()
                add(file, name, data)
                if code := code_of(name, data):
                    add(file, importlib.util.cache_from_source(name, optimization=""), code)
        return stream.getvalue()


def trim(packages: Path) -> None:
    """Remove what no command of ours reads."""
    for pattern in NOT_NEEDED:
        for path in list(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for data in (packages / "botocore/data", packages / "boto3/data"):
        for path in data.iterdir():
            if path.is_dir() and path.name not in AWS_SERVICES:
                shutil.rmtree(path)


def program(packages: bytes) -> bytes:
    """The archive that is run."""
    name = f"{EXTENSION_SUFFIXES[0].strip('.').removesuffix('.so')}-{hashlib.sha256(packages).hexdigest()[:12]}"
    modules = {
        "__main__.py": (HERE / "start.py").read_bytes(),
        "bundled.py": f'"""Which packages this file carries."""\n\nNAME = "{name}"\n'.encode(),
    }
    for room in ROOMS:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            modules[str(path.relative_to(REPOSITORY))] = path.read_bytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for path_name, source in modules.items():
            add(file, path_name, source)
            add(file, f"{path_name}c", code_of(path_name, source))  # where archives are searched: beside it
        add(file, "packages.zip", packages, zipfile.ZIP_STORED)
    return stream.getvalue()


def add(file: zipfile.ZipFile, name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    """A member without date and owner."""
    info = zipfile.ZipInfo(name, LONG_AGO)
    info.external_attr = 0o644 << 16
    file.writestr(info, data, method)


def code_of(name: str, source: bytes) -> bytes:
    """As a .pyc that is not compared with its source (PEP 552); nothing for what is no code of this Python."""
    if not name.endswith(".py"):
        return b""
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except SyntaxError:
        return b""
    head = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(source)
    return head + marshal.dumps(code)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """In one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)


if __name__ == "__main__":
    main()
