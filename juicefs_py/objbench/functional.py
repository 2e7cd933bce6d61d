"""Does a storage do what volumes and copies expect of it? The tests in their order, and what came out of each.

Not how fast (`speed`), and not the tests themselves (`basic`, `copying`). Every test takes back what it has put.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from chunkstore.bucket import Bucket
from chunkstore.errors import Unsupported
from juicefs_py.cli import log
from juicefs_py.objbench.basic import BasicTests
from juicefs_py.objbench.cases import Doubt
from juicefs_py.objbench.copying import CopyingTests
from juicefs_py.objbench.local import LocalFiles
from juicefs_py.objbench.outcome import GOOD, MISSING, Cell, Colour, in_words, told

HEADING = ("CATEGORY", "TEST", "RESULT")


class Test(NamedTuple):
    """One test, as the table names it."""

    category: str
    title: str
    run: Callable[[], None]


class Result(NamedTuple):
    """One row of the table."""

    category: str
    title: str
    cell: Cell


def all_tests(whole: Bucket, prefix: str, files: LocalFiles | None) -> tuple[Test, ...]:
    """The tests of a bucket in their order, each below `prefix`."""
    basic, copying = BasicTests(whole, prefix, files), CopyingTests(whole, prefix, files)
    return (
        Test("basic", "create a bucket", basic.create),
        Test("basic", "put an object", basic.put_object),
        Test("basic", "get an object", basic.get),
        Test("basic", "get non-exist", basic.get_missing),
        Test("basic", "get partial object", basic.get_parts),
        Test("basic", "head an object", basic.head),
        Test("basic", "delete an object", basic.delete),
        Test("basic", "delete non-exist", basic.delete_missing),
        Test("basic", "list objects", basic.list_objects),
        Test("sync", "special key", copying.special_key),
        Test("sync", "put a big object", copying.big_object),
        Test("sync", "put an empty object", copying.empty_object),
        Test("sync", "multipart upload", copying.multipart),
        Test("sync", "change owner/group", copying.chown),
        Test("sync", "change permission", copying.chmod),
        Test("sync", "change mtime", copying.set_mtime),
    )


def try_out(test: Test) -> Result:
    """Run a test. What is wrong is logged whole, as the table has room for its beginning only."""
    return Result(test.category, test.title, _outcome(test))


def _outcome(test: Test) -> Cell:
    try:
        test.run()
        return GOOD
    except Unsupported:
        return MISSING
    except Doubt as problem:
        log.LOG.warning("%s test: %s", test.title, in_words(problem))
        return told(problem, Colour.YELLOW)
    except Exception as problem:  # whatever the driver raised: it is what is being tested
        log.LOG.error("%s test failed: %s", test.title, in_words(problem))
        return told(problem, Colour.RED)
