"""`holdfast prune`: payloads of runs that have ended go; entries, digests, heads and anchors stay, so the proof holds.

Rules
1. What goes is shown first (`--dry-run`), by the same rules that decide what goes.
2. A store that is damaged, or that is not the one its anchor knows, keeps everything.
3. A run that is named and may not be pruned is an error; one that was only old enough is passed over, and counted.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

from holdfast.cli.keys import files_of
from holdfast.cli.options import ByOption, JsonOption, StoreOption, existing, name_of, same_store
from holdfast.cli.terminal import busy, hint, json_text, out, progress, safe, say, styled, table
from holdfast.cli.view import many, reader_of, size_text
from holdfast.core.effect import legible
from holdfast.errors import BadCall, Busy, Misuse
from holdfast.gateway.retention import Chosen, Kept, Needs, choose, named
from holdfast.store import prune as deletion
from holdfast.store.heads import Heads, load_key
from holdfast.store.prune import Plan, Pruner, Room, plan, room
from holdfast.store.url import is_postgres, keepsakes, needing_psycopg, postgres_address, shown
from holdfast.store.worker import dead

if TYPE_CHECKING:
    from holdfast.store.postgres_depot import PostgresDepot
    from holdfast.store.postgres_prune import PostgresPruner
    from holdfast.store.postgres_reader import PostgresReader

UNITS_MS = {"s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


@dataclass(frozen=True, slots=True)
class Row:
    """What goes of one run. `extent`: `all`, or `behind` its newest checkpoint. `bytes` are those on disk."""

    run: str
    extent: str
    entries: int
    payloads: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result as JSON. `left` is what an interrupted prune had left behind; `kept` are runs that were old enough, or
    named, and may not be pruned; `file_bytes` and `free_bytes` are the file's size and what of it is free (on
    PostgreSQL: the size of the tables, and 0); `objects` were deleted outside the database."""

    dry_run: bool
    runs: list[Row]
    left: Row | None
    payloads: int
    bytes: int
    kept: list[Kept]
    file_bytes: int
    free_bytes: int
    compacted: bool
    objects: int


def verb(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="The ids of runs. [all that are old enough]")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only runs whose newest entry is older: 30d, 12h, 90min, 4w."),
    ] = None,
    before_checkpoint: Annotated[
        bool,
        typer.Option("--before-checkpoint", help="Also what runs that go on thought and read before their checkpoint."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Afterwards give free space back to the disk.")] = False,
    blobs: Annotated[
        bool,
        typer.Option("--blobs", help="Only what killed writers left behind where PostgreSQL keeps large payloads."),
    ] = False,
    by: ByOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete payloads of runs that have ended. Entries and digests stay, so that the log still verifies."""
    if blobs:
        alone = not (runs or older_than is not None or before_checkpoint or compact)
        _sweep(existing(store), alone=alone, dry_run=dry_run, json=json)
        return
    if not runs and older_than is None and not (compact and not dry_run):
        raise BadCall("nothing says what may go", fix="name runs, or say --older-than 30d; first with --dry-run")
    before_ms = None if older_than is None else time.time_ns() // 1_000_000 - age_ms(older_than)
    url = _fit(existing(store), compact=compact)
    planned, chosen = _planned(
        url, runs or [], before_ms, behind=before_checkpoint, nothing=not runs and older_than is None
    )
    if runs and chosen.kept:
        kept = chosen.kept[0]
        raise Misuse(f"`{kept.run}` keeps its payloads: {kept.why}", fix=kept.fix)
    if compact := compact and not dry_run:
        _refuse_compaction(url)
    went = 0 if dry_run else _prune(url, planned, by)
    if compact:
        _compact(url)
    objects = 0 if dry_run or not went else _swept(url)
    result = _result(planned, chosen, _room(url), dry_run=dry_run, compacted=compact, objects=objects)
    if json:
        out(json_text(result, indent=2))
    else:
        _print(result, url, same_store(store), stayed=0 if dry_run else len(planned.doomed) - went)


def _sweep(url: str, *, alone: bool, dry_run: bool, json: bool) -> None:
    """Delete large payloads that no row of a store on PostgreSQL names."""
    if not alone:
        raise BadCall("`--blobs` goes with `--dry-run` alone", fix="prune runs by a second command")
    if not is_postgres(url):
        raise Misuse("this store keeps no payloads outside", where=url, fix="leave out --blobs")
    with _outside(url) as depot, busy("looking"):
        if depot is None:
            raise Misuse("this store keeps no payloads outside", where=shown(url), fix="leave out --blobs")
        swept = depot.sweep(dry_run=dry_run)
    if json:
        out(
            json_text(
                {"dry_run": dry_run, "objects": swept.objects, "bytes": swept.bytes, "missing": swept.missing}, indent=2
            )
        )
    else:
        out(f"{'would delete' if dry_run else 'deleted'} {many(swept.objects, 'object')}, {size_text(swept.bytes)}")
        for name in swept.missing:
            say(f"missing, and needed by the log: {depot.place(name)}")
    if swept.missing:
        raise typer.Exit(1)


@contextmanager
def _outside(url: str) -> Generator[PostgresDepot | None]:
    """Where a store on PostgreSQL keeps large payloads, while the block lasts."""
    with needing_psycopg():
        from holdfast.store.postgres_depot import depot_of
        from holdfast.store.postgres_reader import PostgresReader
    with PostgresReader(postgres_address(url)) as reader:
        yield depot_of(reader, reader.log_id, None, where=shown(url))


def age_ms(text: str) -> int:
    """An age, as people write it, in ms. Raises BadCall."""
    parts = re.fullmatch(r"([0-9]{1,6})\s*(s|min|h|d|w)", text.strip())
    if parts is None:
        raise BadCall(f"`{text}` is no age", fix="write a number and s, min, h, d or w: --older-than 30d")
    return int(parts[1]) * UNITS_MS[parts[2]]


def _planned(url: str, runs: list[str], before_ms: int | None, *, behind: bool, nothing: bool) -> tuple[Plan, Chosen]:
    """What goes, all as it is at one moment. Raises RolledBack if the anchor knows another log."""
    if not is_postgres(url):
        files_of(url)  # or it says that this cannot be done
    reader = reader_of(url)
    try:
        kept = keepsakes(url, reader.log_id)
        wrong = reader.against(Heads(load_key(kept.key, reader.log_id, new=False), kept.anchor))
        if wrong is not None:
            raise wrong
        with reader.moment(), progress("looking", reader.size()) as tick:
            chosen = Chosen({}, []) if nothing else asyncio.run(choose(reader, runs, before_ms, behind=behind))
            marks = [mark for of_run in chosen.marks.values() for mark in of_run]
            needs = Needs([*reader.marks(), *marks])
            if not is_postgres(url):
                return plan(reader, marks, named, needs, tick), chosen
            from holdfast.store.postgres_prune import planned

            return planned(cast("PostgresReader", reader), marks, named, needs, tick), chosen
    finally:
        asyncio.run(reader.close())


def _pruner(url: str, planned: Plan, by: str) -> Pruner | PostgresPruner:
    if not is_postgres(url):
        return Pruner(files_of(url).path, planned, by)
    from holdfast.store.postgres_prune import PostgresPruner

    return PostgresPruner(postgres_address(url), planned, by)


def _prune(url: str, planned: Plan, by: str | None) -> int:
    """Delete what is planned; how many payloads went."""
    if not (planned.marks or planned.doomed):
        return 0
    with (
        progress("pruning", len(planned.doomed)) as tick,
        _pruner(url, planned, legible(name_of(by), 200)) as pruner,
    ):
        return pruner.prune(tick).payloads


def _swept(url: str) -> int:
    """Delete the objects of what went, where large payloads are kept outside the database; how many."""
    if not is_postgres(url):
        return 0
    with _outside(url) as depot, busy("looking outside"):
        return 0 if depot is None else depot.sweep().objects


def _room(url: str) -> Room:
    if not is_postgres(url):
        return room(files_of(url).path)
    reader = cast("PostgresReader", reader_of(url))
    with reader:
        return Room(reader.room(), 0)


def _compact(url: str) -> None:
    with busy("compacting"):
        deletion.compact(files_of(url).path)


def _fit(url: str, *, compact: bool) -> str:
    """The URL. Raises Misuse for a database that is to be compacted: to copy a table locks everybody out."""
    if compact and is_postgres(url):
        fix = "leave it out: after autovacuum the server uses the room again; VACUUM FULL holdfast.blob gives it back"
        raise Misuse("`--compact` is for a store in a file", where=shown(url), fix=fix)
    return url


def _refuse_compaction(url: str) -> None:
    """Raise Busy while somebody advances a run: it would be kept from writing, perhaps for longer than it waits."""
    reader = reader_of(url)
    try:
        owned = {run: owner for run, owner in reader.owners().items() if not dead(owner)}
    finally:
        asyncio.run(reader.close())
    for branch, owner in sorted(owned.items()):
        who = f"{owner.host}:{owner.pid}"
        raise Busy(
            f"`{branch.partition('@')[0]}` is being advanced by {who}, and while a store is compacted nobody can write",
            where=url,
            fix="wait for it to end; without --compact, a store can be pruned meanwhile",
        )


def _result(planned: Plan, chosen: Chosen, size: Room, *, dry_run: bool, compacted: bool, objects: int) -> Pruned:
    rows = [
        Row(
            run,
            marks[0].extent.value,
            sum(planned.shares[mark.branch].entries for mark in marks),
            sum(planned.shares[mark.branch].payloads for mark in marks),
            sum(planned.shares[mark.branch].bytes for mark in marks),
        )
        for run, marks in chosen.marks.items()
    ]
    left = Row("", "left", 0, planned.left.payloads, planned.left.bytes) if planned.left.payloads else None
    parts = rows if left is None else [*rows, left]
    return Pruned(
        dry_run, rows, left, sum(row.payloads for row in parts), sum(row.bytes for row in parts), chosen.kept,
        size.file_bytes, size.free_bytes, compacted, objects,
    )  # fmt: skip


def _print(result: Pruned, url: str, store: str, *, stayed: int) -> None:
    shown = result.runs if result.left is None else [*result.runs, result.left]
    if shown:
        _table(shown)
        what = f"{many(result.payloads, 'payload')} of {many(len(result.runs), 'run')}, {size_text(result.bytes)}"
        out(f"{'would prune' if result.dry_run else 'pruned'} {what}")
    else:
        out("nothing to prune")
    if stayed:
        say(f"{many(stayed, 'payload')} stayed: others have named them meanwhile")
    for why, number in Counter(kept.why for kept in result.kept).items():
        say(safe(f"{many(number, 'run')} kept: {why}"))
    if result.objects:
        say(f"{many(result.objects, 'object')} deleted outside the database")
    free = f", of which {size_text(result.free_bytes)} are free for what comes" if result.free_bytes else ""
    say(f"{'the tables have' if is_postgres(url) else 'the file has'} {size_text(result.file_bytes)}{free}")
    if result.dry_run and result.payloads:
        hint("there is no way back but a backup; the same without --dry-run")
    elif result.free_bytes > result.file_bytes // 4 and not result.dry_run:
        hint(f"holdfast prune --compact{store} gives them back to the disk; nobody can write meanwhile")


def _table(shown: list[Row]) -> None:
    lines = [
        (
            styled(row.run or "(left over)"),
            styled(row.extent),
            styled(f"{row.entries:,}"),
            styled(f"{row.payloads:,}"),
            styled(f"{row.bytes:,}"),
            styled(""),
        )
        for row in shown
    ]
    table(("RUN", "WHAT", "#ENTRIES", "#PAYLOADS", "#BYTES", ""), lines)
