"""`holdfast log`: every entry of a run, in words or as JSON, one a line.

Rules
1. What is shown has been checked against the chain; at the first entry that does not fit, it stops.
2. `--follow` goes on until the run has ended and nobody advances it any more.
"""

from __future__ import annotations

import asyncio
import json as json_
from dataclasses import dataclass
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, RunArgument, StoreOption, branch_of, existing
from holdfast.cli.terminal import json_text, line, out, styled
from holdfast.cli.view import Looked, Status, look_from, reader_of, refresh, when
from holdfast.cli.words import Teller
from holdfast.core.entry import Entry
from holdfast.core.record import Record
from holdfast.store.reader import Reader

PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as JSON: `record` is the body as it is in the log; `words` what it means."""

    node: str
    seq: int
    at_ms: int
    epoch: int
    digest: str
    name: str
    words: str
    record: object


def verb(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as entries are written.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show every entry of a run."""
    asyncio.run(_log(existing(store), branch_of(run), follow=follow, json=json))


async def _log(url: str, branch: str, *, follow: bool, json: bool) -> None:
    reader = reader_of(url)
    try:
        looked = await look_from(reader, branch)
        if not json:
            line(styled("  SEQ  TIME                 EPOCH  ENTRY", "dim"))
        teller = Teller(reader, looked)
        while True:
            await refresh(reader, looked)
            entries = await reader.read(branch, after=looked.log.seq)
            for entry in entries:
                ((_, record),) = looked.take([entry])
                await _show(reader, teller, looked, entry, record, json=json)
            if not follow or (not entries and _over(looked)):
                return
            await asyncio.sleep(PAUSE_S)
    finally:
        await reader.close()


def _over(looked: Looked) -> bool:
    ended = looked.status(0) in (Status.FINISHED, Status.CANCELLED, Status.FAILED)
    return ended and not looked.holder


async def _show(reader: Reader, teller: Teller, looked: Looked, entry: Entry, record: Record, *, json: bool) -> None:
    told = await teller.tell(record)
    if json:
        shown = Line(
            looked.node(entry.seq), entry.seq, entry.at_ms, entry.epoch, entry.digest.hex(), told.name, told.text,
            json_.loads(entry.body),
        )  # fmt: skip
        out(json_text(shown))
        return
    place = f"{entry.seq:>5}  {when(entry.at_ms)}  {'-' if entry.epoch == 0 else entry.epoch:>5}  "
    text = styled(place, "dim") + styled(f"{told.name:<10}  ", told.style) + styled(told.text)
    line(text, cut=True)
