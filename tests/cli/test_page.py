"""docs/cli.md and `--help` say the same: each command and option is on the page, which invents nothing."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from holdfast.cli import ending
from holdfast.cli.app import program

PAGE = Path(__file__).parent.parent.parent / "docs" / "cli.md"
ROW = re.compile(
    r"^\| `(?P<option>-[^|]*(?:\\\|[^|]*)*?) \| (?P<what>.*) \| `(?P<example>holdfast .*)` \|$", re.MULTILINE
)
SHARED = {"--debug", "--help"}


@cache
def commands() -> dict[str, Any]:
    """Each command by its name: those of a group by the group's and their own (`policy test`)."""
    whole: Any = typer.main.get_command(program())
    found: dict[str, Any] = {}
    for name, each in whole.commands.items():
        inner: dict[str, Any] = getattr(each, "commands", {})
        found |= {f"{name} {own}": command for own, command in inner.items()} or {name: each}
    return found


NAMES = sorted(commands())


def options(verb: str) -> set[str]:
    """What `--help` offers for a command, without what all share."""
    found = {name for each in commands()[verb].params if each.param_type_name == "option"
             for name in [*each.opts, *each.secondary_opts]}  # fmt: skip
    return found - SHARED


@cache
def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(verb: str) -> list[re.Match[str]]:
    return list(ROW.finditer(sections()[f"holdfast {verb}"]))


def test_the_page_has_a_section_for_each_command_and_no_other() -> None:
    named = [name.removeprefix("holdfast ") for name in sections() if name.startswith("holdfast ")]
    assert sorted(named) == sorted(commands())


@pytest.mark.parametrize("verb", NAMES)
def test_the_page_has_each_option_of_a_command_and_no_other(verb: str) -> None:
    told = {name for row in rows(verb) for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row["option"])}
    assert told == options(verb)


@pytest.mark.parametrize("verb", NAMES)
def test_each_example_shows_its_option_on_a_line_that_the_command_takes(verb: str) -> None:
    for row in rows(verb):
        _, *words = shlex.split(row["example"])
        named, words = words[: len(verb.split())], words[len(verb.split()) :]
        assert named == verb.split()
        names = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row["option"])
        assert any(name in words for name in names), f"`{row['example']}` does not show {names}"
        commands()[verb].make_context(verb, words)


@pytest.mark.parametrize("verb", NAMES)
def test_a_section_opens_with_the_arguments_of_its_command(verb: str) -> None:
    usage = re.search(r"^    holdfast (.+)$", sections()[f"holdfast {verb}"], re.MULTILINE)
    assert usage
    arguments = [each for each in commands()[verb].params if each.param_type_name == "argument"]
    wanted = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    assert usage.group(1) == " ".join([verb, *wanted])


def test_the_page_tells_what_every_command_shares() -> None:
    told = set(re.findall(r"^\| `(--[a-z]+)` \|", sections()["What all commands share"], re.MULTILINE))
    assert told == {*SHARED, "--version"}
    for name, each in commands().items():
        assert "--debug" in {option for param in each.params for option in param.opts}, name


def test_the_table_of_exit_codes_is_the_programs() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", sections()["Exit codes"], re.MULTILINE)}
    known = {value for name, value in vars(ending).items() if name.isupper() and isinstance(value, int)}
    assert told == known


def test_the_page_names_every_status_of_a_run() -> None:
    from holdfast.cli.view import Status

    for status in Status:
        assert f"`{status.value}`" in sections()["holdfast list"]
