"""`holdfast cap`: the capabilities of a run that a gateway has taken up."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from holdfast.cli.options import JsonOption, RunArgument, json_value
from holdfast.cli.terminal import hint, json_text, out, safe, say
from holdfast.core.canonical import JSON
from holdfast.core.capability import Budget, Terms
from holdfast.core.contract import Level
from holdfast.errors import BadCall

GatewayOption = Annotated[
    Path,
    typer.Option("--gateway", metavar="SOCKET", envvar="HOLDFAST_GATEWAY", help="The gateway's admin door."),
]
CapabilityArgument = Annotated[str, typer.Argument(metavar="CAPABILITY", help="Its id, as `cap list` shows it.")]
DOOR = Path("holdfast-state/admin.sock")


def list_(run: RunArgument, gateway: GatewayOption = DOOR, json: JsonOption = False) -> None:
    """List what a run may do: each capability, what it allows, what it has used up, and whether it has ended."""
    found = cast("list[dict[str, Any]]", _ask(gateway, "capabilities", run=run))
    if json:
        out(json_text(found, indent=2))
        return
    for each in found:
        state = each["ended"] or ("live" if each["live"] else "of an earlier life")
        tools = ", ".join(each["terms"]["tools"])
        used = each["used"]
        spent = f"{used['calls']} calls, {used['money'] / 1_000_000:.6f} USD, blast {used['blast']}"
        narrowed = f" from {each['parent']}" if each["parent"] else ""
        out(f"{safe(each['capability'])}{safe(narrowed)}  {safe(state)}  {safe(tools)}  used: {spent}")


def issue(run: RunArgument, gateway: GatewayOption = DOOR) -> None:
    """Issue a fresh capability of the run's agent. The handle is shown this once, on stdout."""
    found = _ask(gateway, "issue", run=run)
    out(safe(found["handle"]))
    hint(f"to revoke it: holdfast cap revoke {safe(run)} {safe(found['capability'])}")


def narrow(
    run: RunArgument,
    capability: CapabilityArgument,
    tool: Annotated[list[str], typer.Option("--tool", metavar="PATTERN", help="What it may still call; repeat.")],
    calls: Annotated[int | None, typer.Option("--calls", min=0, help="At most so many calls.")] = None,
    blast: Annotated[int | None, typer.Option("--blast", min=0, help="At most so much blast radius.")] = None,
    usd: Annotated[float | None, typer.Option("--usd", min=0, help="At most so many US dollars.")] = None,
    for_s: Annotated[float | None, typer.Option("--for-s", min=0, help="It ends after so many seconds.")] = None,
    approval: Annotated[str, typer.Option("--approval", metavar="none|notify|one|two", help="At least.")] = "none",
    gateway: GatewayOption = DOOR,
) -> None:
    """Issue a capability that allows less than another. The handle is shown this once, on stdout."""
    import time

    try:
        level = Level(approval)
    except ValueError:
        raise BadCall(f"`{approval}` is no level of approval", fix="none, notify, one or two") from None
    terms = Terms(
        tools=tuple(tool),
        budget=Budget(calls=calls, money=None if usd is None else round(usd * 1_000_000), blast=blast),
        expires_ms=None if for_s is None else time.time_ns() // 1_000_000 + round(for_s * 1000),
        level=level,
    )
    found = _ask(gateway, "narrow", run=run, capability=capability, terms=terms.text())
    out(safe(found["handle"]))
    hint(f"to revoke it: holdfast cap revoke {safe(run)} {safe(found['capability'])}")


def revoke(
    run: RunArgument,
    capability: CapabilityArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the log.")] = "no reason was given",
    gateway: GatewayOption = DOOR,
) -> None:
    """End a capability and all that were narrowed from it, at once: also for calls that wait and for open streams."""
    _ask(gateway, "revoke", run=run, capability=capability, reason=reason)
    out(f"{safe(capability)} is revoked")


def _ask(gateway: Path, what: str, **asked: JSON) -> Any:
    from holdfast.store.remote import RemoteStore

    return asyncio.run(RemoteStore(gateway.absolute()).ask(what, **asked))


def open_(
    run: RunArgument,
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="Which [agents.NAME] the program is.")],
    input: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="The task: JSON, @FILE, or - (stdin). [null]")
    ] = None,
    gateway: GatewayOption = DOOR,
) -> int:
    """Take a run up for a program on another machine, and hold it until that is over. The program's environment goes to
    stdout: its door, its handle. The same command goes on with the run after a crash, with a fresh handle."""
    from holdfast.cli.sandboxed import ended, until_told
    from holdfast.gateway.launcher import Program, hold_for

    task = None if input is None else json_value(input, "--input")
    path = gateway.absolute()
    program = Program(run=run, agent=agent, argv=(), input=task)
    starting = path.with_suffix(".start")

    def tell(environment: Mapping[str, str]) -> None:
        for name, value in sorted(environment.items()):
            out(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        say(f"the run {safe(run)} is held for its program until that is over; Ctrl-C lets go of it")

    store = f" --store {shlex.quote(f'gateway://{path}')}"
    return ended(asyncio.run(until_told(hold_for(program, starting, tell))), "the same command", store)


VERBS = {"open": open_, "list": list_, "issue": issue, "narrow": narrow, "revoke": revoke}
