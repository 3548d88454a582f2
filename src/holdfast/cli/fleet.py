"""`holdfast fleet`: the workers of a store on PostgreSQL, what waits for them, and what waits for people."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast
from urllib.parse import parse_qsl, urlsplit

import typer

from holdfast.cli.ahead import foresee_runs
from holdfast.cli.list import STYLES
from holdfast.cli.options import JsonOption, StoreOption, same_store
from holdfast.cli.terminal import busy, hint, json_text, out, safe, say, styled, table
from holdfast.cli.view import Row, Status, many, row
from holdfast.cli.worker import fleet_url
from holdfast.core.tree import MAIN
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.family import read_tree
from holdfast.store import Branch
from holdfast.store.reader import Reader
from holdfast.store.url import needing_psycopg, postgres_address, shown

if TYPE_CHECKING:
    from holdfast.fleet import standing
    from holdfast.store.postgres_reader import PostgresReader

LOOKED_AT = 500  # runs that rest
AHEAD = 100  # of which are read ahead
PEOPLE = {Status.HELD, Status.DOUBT, Status.QUARANTINED}
_STATES = {"up": "green", "draining": "cyan", "visiting": "dim", "silent": "bold yellow", "dead": "bold red"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it as JSON. `people`: runs that wait for people (the oldest, of at most `looked_at` that were looked at;
    `more` if there are others)."""

    workers: list[standing.Member]
    backlog: list[standing.Backlog]
    limits: list[standing.Limit]
    calls: list[standing.CallLimit]
    claims: list[standing.Claimed]
    people: list[Row]
    looked_at: int
    more: bool


def verb(
    declare_dead: Annotated[
        str | None,
        typer.Option(
            "--declare-dead", metavar="WORKER", help="Say that this worker has stopped for good (its machine is off)."
        ),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show the workers of a store on PostgreSQL, what waits for them, and what waits for people."""
    url = fleet_url(store)
    with needing_psycopg():
        from holdfast.fleet import standing
        from holdfast.fleet.schema import installed
        from holdfast.store.postgres_reader import PostgresReader
    address = postgres_address(url)
    if not installed(address):
        raise Unknown("this store has no fleet", where=shown(url), fix="holdfast worker, or holdfast run --detach")
    with PostgresReader(address) as reader:
        if declare_dead is not None:
            if not standing.declare_dead(reader, declare_dead):
                raise Unknown(f"there is no worker `{declare_dead}`", fix="holdfast fleet --json shows the ids")
            say(f"put down: worker {safe(declare_dead)} has stopped")
        with busy("reading the fleet"):
            found = asyncio.run(_read(reader, _ttl_s(url)))
    if json:
        out(json_text(found, indent=2))
    else:
        _show(found, same_store(store))


def _ttl_s(url: str) -> float:
    return float(dict(parse_qsl(urlsplit(url).query)).get("claim_ttl_s", 15))


async def _read(reader: PostgresReader, ttl_s: float) -> Fleet:
    from holdfast.fleet import standing

    workers = standing.members(reader, ttl_s)
    resting = standing.resting(reader, workers, LOOKED_AT + 1)
    people: list[Row] = []
    for place, branch in enumerate(resting[:LOOKED_AT]):
        if place % AHEAD == 0:
            await _foresee(reader, resting[place : place + AHEAD])
        run, _, name = branch.name.partition("@")
        try:
            line = (await read_tree(reader, run)).line
        except Corrupt:
            line = MAIN
        if name == line:
            one = await row(cast(Reader, reader), branch, branch.at_ms, 1)
            people += [one] if one.status in PEOPLE else []
    return Fleet(
        workers, standing.backlog(reader, workers), standing.limits(reader), standing.calls(reader),
        standing.claims(reader, LOOKED_AT), people, min(len(resting), LOOKED_AT), len(resting) > LOOKED_AT,
    )  # fmt: skip


async def _foresee(reader: PostgresReader, branches: list[Branch]) -> None:
    families: dict[str, list[Branch]] = {}
    for branch in branches:
        families.setdefault(branch.name.partition("@")[0], []).append(branch)
    await foresee_runs(reader, families)


def _show(found: Fleet, store: str) -> None:
    lines = [
        (styled(f"{each.host}:{each.pid}"), styled(each.state, _STATES[each.state]), styled(str(each.claims)),
         styled("" if each.at_once is None else str(each.at_once)), styled(f"{each.silent_s:.0f} s"),
         styled(", ".join(each.agents), "dim", 60), styled(each.id, "dim"))
        for each in found.workers
    ]  # fmt: skip
    if lines:
        table(("WORKER", "STATE", "#CLAIMS", "#AT ONCE", "#SILENT", "AGENTS", "ID"), lines)
    else:
        say("no workers")
    for each in found.backlog:
        _show_backlog(each)
    for limit in found.limits:
        out(f"{safe(limit.agent)}: {limit.at_work} of {limit.most} at work, {limit.in_line} in line")
    for each in found.calls:
        out(f"calls of {safe(each.tools)}: {each.under_way} of {each.most} under way, {each.in_line} in line")
    if found.people:
        out()
        table(
            ("RUN", "STATUS", "ABOUT"),
            [
                (styled(one.run), styled(one.status, STYLES[Status(one.status)]), styled(one.about, "dim", 120))
                for one in found.people
            ],
        )
        hint(f"holdfast show {safe(found.people[0].run)}{store}   # what it waits for, and how to end that")
    if found.more:
        hint(f"only the {found.looked_at} that have rested longest were looked at; holdfast list --status doubt{store}")


def _show_backlog(one: standing.Backlog) -> None:
    parts = [f"{many(one.ready, 'run')} ready"]
    if one.oldest_s is not None:
        parts.append(f"the oldest for {one.oldest_s:.0f} s")
    if one.at_work:
        parts.append(f"{one.at_work} at work")
    if one.later:
        parts.append(f"{one.later} later")
    if one.next_s is not None:
        parts.append(f"the next in {max(0.0, one.next_s):.0f} s")
    if one.ready and not one.workers:
        parts.append("and no worker may take them")
    out(f"{safe(one.module) or 'backlog'}: {', '.join(parts)}")
