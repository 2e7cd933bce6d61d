"""The page about commands names every command and every option, and the README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from juicefs_py.cli import app
from juicefs_py.cli.options import GLOBAL
from juicefs_py.commands import COMMANDS, LATER

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "commands.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"no section {title}"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    text = section(name)
    for option in app.load(name).options:
        spelling = ("--" if len(option.name) > 1 else "-") + option.name
        assert option.hidden or f"| `{spelling}" in text, f"{spelling} is missing in the section {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_who_takes_keys_from_the_environment_says_so(name: str) -> None:
    texts = [section(name), *(option.help for option in app.load(name).options)]
    assert any("env ACCESS_KEY" in text for text in texts) == (name in ("format", "objbench"))


def test_global_options_and_missing_commands_are_named() -> None:
    assert all(option.hidden or f"`--{option.name}" in section("Options of every command") for option in GLOBAL)
    assert set(re.findall(r"`(\w+)`", section("Not there yet"))) == set(LATER)


def test_the_readme_only_names_commands_that_exist() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert set(re.findall(r"^    juicefs (\w+)", readme, re.M)) <= set(COMMANDS)
    assert all((REPOSITORY / path).exists() for path in re.findall(r"\]\(([\w/.]+)\)", readme))
