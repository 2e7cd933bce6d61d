"""`juicefs version`: one line. Imports nothing else, because probes call it often."""

from juicefs_py import VERSION
from juicefs_py.cli.args import Command, Values


def _run(values: Values) -> int:
    print(f"juicefs version {VERSION}")
    return 0


COMMAND = Command("version", "Show version", "", "ADMIN", "", (), 0, 0, _run)
