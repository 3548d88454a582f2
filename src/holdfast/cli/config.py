"""`holdfast config`: what a configuration says, and what is wrong with it.

Rules
1. Nobody outside is asked, and no credential is shown: only whether it is there.
2. Every fault is told, not the first one. A warning is no fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.options import JsonOption
from holdfast.cli.terminal import busy, hint, json_text, line, out, styled, table

if TYPE_CHECKING:
    from holdfast.core.contract import Contract
    from holdfast.gateway.config import Fault


@dataclass(frozen=True, slots=True)
class ToolRow:
    """What a tool promises. `identity`: the arguments that make two calls the same; null: all of them."""

    tool: str
    kind: str
    identity: list[str] | None
    approval: str


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A credential: the scheme of its reference, and the systems that it opens for. `there` is whether it can be had,
    as far as that can be told without asking anybody outside."""

    name: str
    scheme: str
    systems: list[str]
    there: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """The result as JSON. `untold`: systems whose tools' promises depend on each call, or on the system itself."""

    file: str
    ok: bool = True
    faults: list[Fault] = field(default_factory=list["Fault"])
    warnings: list[Fault] = field(default_factory=list["Fault"])
    credentials: list[CredentialRow] = field(default_factory=list[CredentialRow])
    tools: list[ToolRow] = field(default_factory=list[ToolRow])
    untold: list[str] = field(default_factory=list[str])


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")] = Path("holdfast.toml"),
    json: JsonOption = False,
) -> int:
    """Check a configuration: every fault, what is unwise, what the tools promise. Exits with 1 for a fault."""
    with busy("checking"):
        found = asyncio.run(_checked(file))
    if json:
        out(json_text(found, indent=2))
    else:
        _show(found)
    return 0 if found.ok else 1


async def _checked(file: Path) -> Checked:
    from holdfast.gateway.config import examine
    from holdfast.gateway.footing import footing_of

    config, faults = examine(file)
    if config is None:
        return Checked(str(file), ok=False, faults=faults)
    seen = await footing_of(config)
    return Checked(
        str(file),
        ok=not seen.faults,
        faults=list(seen.faults),
        warnings=list(seen.warnings),
        credentials=[
            CredentialRow(name, text.partition(":")[0], sorted(config.uses.get(name, ())), name not in seen.missing)
            for name, text in sorted(config.credentials.items())
        ],
        tools=[_row(contract) for contract in seen.contracts],
        untold=list(seen.untold),
    )


def _row(contract: Contract) -> ToolRow:
    identity = None if contract.identity is None else list(contract.identity)
    return ToolRow(contract.name, contract.kind.value, identity, contract.approval.value)


def _show(found: Checked) -> None:
    if found.tools:
        rows = [
            [
                styled(each.tool),
                styled(each.kind),
                styled("all arguments" if each.identity is None else ", ".join(each.identity)),
                styled(each.approval),
            ]
            for each in found.tools
        ]
        table(["tool", "kind", "identity", "approval"], rows)
    for name in found.untold:
        line(styled(f"{name}.*  ") + styled("what its tools promise is told by each call", "dim"))
    _list("fault", "bold red", found.faults)
    _list("warning", "yellow", found.warnings)
    if found.ok:
        hint("holdfast gateway " + found.file)


def _list(word: str, style: str, faults: Sequence[Fault]) -> None:
    for fault in faults:
        line(styled(f"{word:<8} ", style) + styled(f"{fault.key}: " if fault.key else "") + styled(fault.what))
        if fault.fix:
            line(styled(f"{'':<9}fix: {fault.fix}"))


VERBS = {"check": check}
