"""`holdfast log`: every entry of a run, in words or as JSON, one a line.

Rules
1. What is shown has been checked against the chain; at the first entry that does not fit, it stops.
2. The log of a branch begins with what it stands on: each entry is named by the branch that it was written on.
3. `--follow` goes on until the branch has ended and nobody advances it any more.
"""

from __future__ import annotations

import asyncio
import json as json_
from dataclasses import dataclass
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, LineArgument, StoreOption, branch_of, existing
from holdfast.cli.terminal import json_text, line, out, styled
from holdfast.cli.tree import line_of
from holdfast.cli.view import Looked, Status, further, look_from, reader_of, refresh, when
from holdfast.cli.words import Teller
from holdfast.core.entry import Entry
from holdfast.core.record import Record
from holdfast.gateway.family import read_tree
from holdfast.store.reader import Reader

PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as JSON: `record` is the body as it is in the log; `words` what it means; `branch` the one that it was
    written on, which is another where it is `inherited`."""

    node: str
    branch: str
    inherited: bool
    seq: int
    at_ms: int
    epoch: int
    digest: str
    name: str
    words: str
    record: object


def verb(
    run: LineArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as entries are written.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show every entry of a run: of its line, or of RUN@BRANCH, with what it stands on."""
    branch_of(run)
    asyncio.run(_log(existing(store), run, follow=follow, json=json))


async def _log(url: str, run: str, *, follow: bool, json: bool) -> None:
    reader = reader_of(url)
    try:
        looked = await look_from(reader, await line_of(reader, run))
        if not json:
            line(styled(f"{_place_of(looked, None)}  TIME                 EPOCH  ENTRY", "dim"))
        teller = Teller(reader, looked)
        while True:
            await refresh(reader, looked)
            looked.tree = await read_tree(reader, looked.branch.partition("@")[0])
            entries = await further(reader, looked)
            for entry in entries:
                ((_, record),) = looked.take([entry])
                await _show(reader, teller, looked, entry, record, json=json)
            if not follow or (not entries and _over(looked)):
                return
            await asyncio.sleep(PAUSE_S)
    finally:
        await reader.close()


def _over(looked: Looked) -> bool:
    ended = looked.status(0) in (
        Status.FINISHED, Status.CANCELLED, Status.FAILED, Status.SUPERSEDED, Status.ABANDONED
    )  # fmt: skip
    return ended and not looked.holder


async def _show(reader: Reader, teller: Teller, looked: Looked, entry: Entry, record: Record, *, json: bool) -> None:
    told = await teller.tell(record)
    inherited = entry.branch != looked.branch
    if json:
        shown = Line(
            looked.node(entry.seq), entry.branch.partition("@")[2], inherited, entry.seq, entry.at_ms, entry.epoch,
            entry.digest.hex(), told.name, told.text,
            json_.loads(entry.body),
        )  # fmt: skip
        out(json_text(shown))
        return
    place = f"{_place_of(looked, entry)}  {when(entry.at_ms)}  {'-' if entry.epoch == 0 else entry.epoch:>5}  "
    text = styled(place, "dim")
    text += styled(f"{told.name:<10}  ", "dim" if inherited else told.style)
    text += styled(told.text, "dim" if inherited else "")
    line(text, cut=True)


def _place_of(looked: Looked, entry: Entry | None) -> str:
    """The first column: the place, and its branch where there is more than one; without an entry its heading."""
    names = [name.partition("@")[2] for name, _ in looked.lineage]
    if len(names) == 1:
        return "  SEQ" if entry is None else f"{entry.seq:>5}"
    width = max(len(name) for name in names) + 5
    return f"{'NODE':>{width}}" if entry is None else f"{entry.branch.partition('@')[2]}:{entry.seq}".rjust(width)
