"""`holdfast list`: the runs of a store, newest first, with what each one waits for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated

import typer

from holdfast.cli.ahead import Met, runs
from holdfast.cli.options import JsonOption, StoreOption, existing, same_store, store_url
from holdfast.cli.terminal import busy, hint, json_text, out, safe, say, styled, table
from holdfast.cli.view import Row, Status, age, many, reader_of, row
from holdfast.core.tree import MAIN
from holdfast.errors import Corrupt, Misuse
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import FINISHED_KEY
from holdfast.store.reader import Reader
from holdfast.store.url import shown

OPEN = {
    Status.RUNNING, Status.HELD, Status.DOUBT, Status.ASLEEP, Status.WAITING, Status.QUARANTINED, Status.STOPPED,
    Status.CANCELLED,
}  # fmt: skip
"""Those that no branch has whose newest entry is its end."""
OVER = {Status.FINISHED, Status.FAILED}
"""Those that no branch has without an end."""
STYLES = {
    Status.RUNNING: "cyan", Status.HELD: "bold yellow", Status.DOUBT: "bold red", Status.ASLEEP: "blue",
    Status.WAITING: "yellow", Status.QUARANTINED: "bold red", Status.STOPPED: "bold yellow", Status.FAILED: "red",
    Status.FINISHED: "green", Status.CANCELLED: "dim", Status.SUPERSEDED: "dim", Status.ABANDONED: "dim",
    Status.CORRUPT: "bold red",
}  # fmt: skip


def verb(
    store: StoreOption = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only these: " + ", ".join(Status) + ". May be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many, the newest.")] = 50,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="RUN", help="Only those that come after this one: the next page."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the runs of a store, newest first, each as its line stands."""
    wanted = set(status or ())
    if not wanted <= set(Status):
        raise Misuse(f"`{min(wanted - set(Status))}` is no status", fix="one of " + ", ".join(Status))
    url = existing(store)
    with busy("reading the runs"):
        found, more = asyncio.run(rows(url, wanted, limit, after))
    if json:
        out(json_text(found, indent=2))
        return
    if not found:
        say("no runs" + (" of this status" if wanted else "") + f" in {safe(shown(store_url(store)))}")
        return
    _show(found)
    _hints(found, more, status or [], same_store(store))


async def rows(url: str, wanted: set[str], limit: int, after: str | None = None) -> tuple[list[Row], bool]:
    """The newest runs of the wanted statuses (all, if none is named), of those that come after a run if one is named,
    and whether there are more."""
    reader = reader_of(url)
    open_only, over = bool(wanted) and wanted <= OPEN, bool(wanted) and wanted <= OVER
    try:
        found: list[Row] = []
        every = runs(reader, after=after, open_only=open_only, tails=not over)
        async with contextlib.aclosing(every) as all_runs:
            async for met in all_runs:
                one = await _row(reader, met, open_only=open_only, over=over)
                if one is not None and (not wanted or one.status in wanted):
                    found.append(one)
                if len(found) > limit:
                    break
        return found[:limit], len(found) > limit
    finally:
        await reader.close()


async def _row(reader: Reader, met: Met, *, open_only: bool, over: bool) -> Row | None:
    """A run as its line stands. A branch of which the tree was not told does not exist. `open_only`: None where the run
    was met by another branch than its line. `over`: None where its line never came to an end."""
    line, count = MAIN, 1
    if len(met.members) > 1:
        try:
            tree = await read_tree(reader, met.run)
        except Corrupt as error:
            about = f"{error.what} [{error.where}]"
            return Row(met.run, MAIN, Status.CORRUPT, about, 0, 0, met.members[0].at_ms, None, 0)
        line, count = tree.line, len(tree.limbs)
    for member in [met.branch] if open_only else met.members:
        if member.name == f"{met.run}@{line}":
            if over and not await reader.read(member.name, key=FINISHED_KEY, newest=1):
                return None
            return await row(reader, member, met.members[0].at_ms, count)
    return None


def _show(found: list[Row]) -> None:
    now_ms = time.time_ns() // 1_000_000
    forked = any(one.branches > 1 for one in found)
    lines = [
        (
            styled(one.run),
            *((styled(f"{one.branch}, {many(one.branches, 'branch')}" if one.branches > 1 else ""),) if forked else ()),
            styled(one.status, STYLES[Status(one.status)]),
            styled(str(one.entries)),
            styled(age(one.newest_ms, now_ms)),
            styled(one.about, "dim", 120),
        )
        for one in found
    ]
    table(("RUN", *(("LINE",) if forked else ()), "STATUS", "#ENTRIES", "#AGE", "ABOUT"), lines)


def _hints(found: list[Row], more: bool, wanted: list[str], store: str) -> None:
    for one in found:
        if one.status in (Status.HELD, Status.DOUBT, Status.QUARANTINED, Status.STOPPED):
            hint(f"holdfast show {safe(one.run)}{store}   # what it waits for, and how to end that")
            break
    if more:
        filters = "".join(f" --status {each}" for each in wanted)
        hint(f"holdfast list{filters} --after {safe(found[-1].run)}{store}   # the next ones; or --limit, --status")
