"""`holdfast list`: the runs of a store, newest first, with what each one waits for."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, StoreOption, existing, same_store, store_url
from holdfast.cli.terminal import busy, hint, json_text, out, safe, say, styled, table
from holdfast.cli.view import Row, Status, age, many, reader_of, row
from holdfast.core.tree import MAIN
from holdfast.errors import Corrupt, Misuse
from holdfast.gateway.family import read_tree
from holdfast.store import Branch
from holdfast.store.reader import Reader
from holdfast.store.url import shown

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
    json: JsonOption = False,
) -> None:
    """Show the runs of a store, newest first, each as its line stands."""
    wanted = set(status or ())
    if not wanted <= set(Status):
        raise Misuse(f"`{min(wanted - set(Status))}` is no status", fix="one of " + ", ".join(Status))
    url = existing(store)
    with busy("reading the runs"):
        found, more = asyncio.run(rows(url, wanted, limit))
    if json:
        out(json_text(found, indent=2))
        return
    if not found:
        say("no runs" + (" of this status" if wanted else "") + f" in {safe(shown(store_url(store)))}")
        return
    _show(found)
    _hints(found, more, limit, same_store(store))


async def rows(url: str, wanted: set[str], limit: int) -> tuple[list[Row], bool]:
    """The newest runs of the wanted statuses (all, if none is named), and whether there are more."""
    reader = reader_of(url)
    try:
        found: list[Row] = []
        branches = await reader.branches()
        grown: dict[str, list[Branch]] = {}
        for branch in branches:
            grown.setdefault(branch.name.partition("@")[0], []).append(branch)
        for run, members in grown.items():
            one = await _row(reader, run, members)
            if one is None:
                continue
            if not wanted or one.status in wanted:
                found.append(one)
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit
    finally:
        await reader.close()


async def _row(reader: Reader, run: str, members: list[Branch]) -> Row | None:
    """A run as its line stands. `members`: its branches in the store, newest first; one of which the tree was not told
    does not exist."""
    line, count = MAIN, 1
    if len(members) > 1:
        try:
            tree = await read_tree(reader, run)
        except Corrupt as error:
            return Row(run, MAIN, Status.CORRUPT, f"{error.what} [{error.where}]", 0, 0, members[0].at_ms, None, 0)
        line, count = tree.line, len(tree.limbs)
    for member in members:
        if member.name == f"{run}@{line}":
            return await row(reader, member, members[0].at_ms, count)
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


def _hints(found: list[Row], more: bool, limit: int, store: str) -> None:
    for one in found:
        if one.status in (Status.HELD, Status.DOUBT, Status.QUARANTINED, Status.STOPPED):
            hint(f"holdfast show {safe(one.run)}{store}   # what it waits for, and how to end that")
            break
    if more:
        hint(f"there are more than {limit}: --limit, --status")
