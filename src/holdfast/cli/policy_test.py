"""`holdfast policy test`: tables of calls, and whether the policy says to each what the table expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.options import JsonOption
from holdfast.cli.terminal import json_text, out, styled, table
from holdfast.core.contract import Level
from holdfast.core.policy import Allowed, Denied, Held, Verdict
from holdfast.errors import Misuse

if TYPE_CHECKING:
    from holdfast.gateway.cases import Case, Table
    from holdfast.gateway.cedar import Cedar


@dataclass(frozen=True, slots=True)
class Told:
    """A verdict in words: `allowed`, `held` or `denied`; how many people must agree (null where it is denied)."""

    verdict: str
    level: str | None
    rule: str
    reason: str

    @property
    def short(self) -> str:
        """For a column of a table."""
        beside = f" {self.level}" if self.level not in (None, Level.NONE) else ""
        return f"{self.verdict}{beside}"


@dataclass(frozen=True, slots=True)
class Judged:
    """One call of a table as JSON."""

    table: str
    name: str
    tool: str
    ok: bool
    expected: str
    verdict: str
    level: str | None
    rule: str
    reason: str


def told(verdict: Verdict) -> Told:
    """A verdict in words."""
    match verdict:
        case Denied():
            return Told("denied", None, verdict.rule, verdict.reason)
        case Held():
            return Told("held", verdict.level.value, verdict.rule, verdict.reason)
        case Allowed():
            return Told("allowed", verdict.level.value, verdict.rule, verdict.reason)


def loaded(paths: Sequence[Path]) -> Cedar:
    """The policy of these files and directories. Raises Misuse."""
    try:
        from holdfast.gateway.cedar import Cedar
    except ModuleNotFoundError as missing:
        raise Misuse(f"policies need `{missing.name}`", fix="pip install 'holdfast[gateway]'") from None
    return Cedar.load(*paths)


def verb(
    tables: Annotated[list[Path], typer.Argument(metavar="FILE", help="Tables of calls, in TOML.")],
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", metavar="PATH", help="A policy, or a directory of them. [as the table says]"),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Judge the calls of tables. Exits with 1 if a verdict is not the expected one."""
    from holdfast.gateway.cases import read_table

    read = [(path, read_table(path)) for path in tables]
    found: list[Judged] = []
    for path, each in read:
        cedar = loaded(policy or _policies(path, each))
        found += [_judged(path, case, cedar.judge(case.facts())) for case in each.call]
    if json:
        out(json_text(found, indent=2))
    else:
        _print(found)
    return 0 if all(each.ok for each in found) else 1


def _policies(path: Path, read: Table) -> Sequence[Path]:
    return [path.parent / name for name in read.policy] or [path.parent]


def _judged(path: Path, case: Case, verdict: Verdict) -> Judged:
    said = told(verdict)
    ok = said.verdict == case.verdict and case.level in (None, said.level) and case.rule in (None, said.rule)
    expected = Told(case.verdict, case.level, case.rule or "", "").short + (f" by {case.rule}" if case.rule else "")
    return Judged(
        str(path), case.name or case.tool, case.tool, ok, expected,
        said.verdict, said.level, said.rule, said.reason,
    )  # fmt: skip


def _print(found: Sequence[Judged]) -> None:
    rows = [
        [
            styled("ok" if each.ok else "WRONG", "green" if each.ok else "bold red"),
            styled(each.name, most=60),
            styled(each.tool, most=40),
            styled(each.expected),
            styled(f"{Told(each.verdict, each.level, '', '').short} by {each.rule}"),
        ]
        for each in found
    ]
    table(["", "CALL", "TOOL", "EXPECTED", "SAID"], rows)
    wrong = sum(not each.ok for each in found)
    out(f"{len(found)} calls, {wrong} not as expected" if wrong else f"{len(found)} calls, all as expected")
