"""`holdfast anchor`: the newest signed head, where heads are kept outside the store, and whether the two agree.

Rules
1. To show is to change nothing. Only `--accept` writes, and only where log and anchor disagree.
2. An acknowledgement keeps the old anchor beside the new one, and says in the store who made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from holdfast.cli.evidence import growth_since
from holdfast.cli.options import ByOption, JsonOption, StoreOption, existing, name_of, same_store
from holdfast.cli.terminal import hint, json_text, out, safe, say
from holdfast.cli.view import many, reader_of
from holdfast.core.note import format_vkey, open_head, to_base64
from holdfast.errors import Corrupt, Misuse, RolledBack
from holdfast.store.heads import Heads, Leaves, load_key, read_anchor
from holdfast.store.schema import connect
from holdfast.store.sqlite_leaves import SqliteLeaves
from holdfast.store.url import is_postgres, keepsakes, needing_psycopg, postgres_address, sqlite_files


@dataclass(frozen=True, slots=True)
class Anchored:
    """The anchor as JSON. Sizes are numbers of entries; a head or anchor that is not there is null. `why` says what is
    wrong where they do not agree."""

    log: str
    vkey: str
    entries: int
    head_size: int | None
    head_root: str | None
    anchor: str | None
    anchor_size: int | None
    agrees: bool
    why: str | None


def verb(
    accept: Annotated[
        bool, typer.Option("--accept", help="Acknowledge the log as it is, though its anchor knows another one.")
    ] = False,
    by: ByOption = None,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="SIZE", min=0, help="Write the proof that the log has only grown since then."),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest signed head and the anchor. Exits with 5 if the log is not the one that the anchor knows."""
    url = existing(store)
    reader = reader_of(url)
    try:
        kept = keepsakes(url, reader.log_id)
        heads = Heads(load_key(kept.key, reader.log_id, new=False), kept.anchor)
        wrong = reader.against(heads)
        if since is not None:
            with reader.moment():
                out(growth_since(reader, since, format_vkey(heads.key.verifier)).rstrip("\n"))
            return
        shown = _anchored(reader.heads(1), reader.size(), heads, wrong)
    finally:
        asyncio.run(reader.close())
    if accept:
        _accept(url, heads, wrong, name_of(by))
        return
    if json:
        out(json_text(shown, indent=2))
    else:
        _print(shown)
    if wrong is not None:
        raise RolledBack(
            wrong.what, where=wrong.where,
            fix=f"restore the newer log; or, if this one is right, holdfast anchor --accept{same_store(store)}",
        )  # fmt: skip


def _anchored(newest: list[str], entries: int, heads: Heads, wrong: RolledBack | None) -> Anchored:
    key = heads.key
    head = open_head(newest[0], key.verifier, key.check) if newest else None
    note = None if heads.anchor is None else read_anchor(heads.anchor)
    try:
        kept = None if note is None else open_head(note, key.verifier, key.check).size
    except Corrupt:
        kept = None
    return Anchored(
        log=key.verifier.name,
        vkey=format_vkey(key.verifier),
        entries=entries,
        head_size=head.size if head else None,
        head_root=to_base64(head.root) if head else None,
        anchor=str(heads.anchor) if heads.anchor is not None else None,
        anchor_size=kept,
        agrees=wrong is None,
        why=wrong.what if wrong is not None else None,
    )


def _print(shown: Anchored) -> None:
    out(safe(f"log     {shown.log}, {many(shown.entries, 'entry')}"))
    out(safe(f"key     {shown.vkey}"))
    out(
        safe(
            f"head    {many(shown.head_size, 'entry')}, root {shown.head_root}"
            if shown.head_size is not None
            else "head    none"
        )
    )
    out(safe(f"anchor  {shown.anchor or 'none'}"))
    if shown.anchor is None:
        hint("without an anchor nobody sees a log that was cut or replaced: ?anchor=FILE on another volume")
        return
    size = "nothing yet" if shown.anchor_size is None else many(shown.anchor_size, "entry")
    out(f"        {size}: {'agrees' if shown.agrees else 'DISAGREES'}")
    if shown.agrees:
        hint("keep the key where this machine cannot change it; then: holdfast verify --vkey KEY --anchor FILE")


def _accept(url: str, heads: Heads, wrong: RolledBack | None, by: str) -> None:
    if wrong is None:
        raise Misuse("the log and its anchor agree: there is nothing to acknowledge", fix="leave out --accept")
    with _writing(url) as leaves:
        aside = heads.accept(leaves, by)
    out(safe(f"acknowledged by {by}: {wrong.what}"))
    if aside is not None:
        say(safe(f"the old anchor is kept at {aside}"))
    hint("the entries that the old anchor knew are gone from this log; what they did in the world is not")


@contextmanager
def _writing(url: str) -> Generator[Leaves]:
    """The log at a URL, where its acknowledgement can be written down."""
    if is_postgres(url):
        with needing_psycopg():
            from holdfast.store.postgres_reader import PostgresReader
        with PostgresReader(postgres_address(url)) as reader:
            yield reader.leaves()
        return
    with closing(connect(sqlite_files(url).path, writer=True)) as connection:
        yield SqliteLeaves(connection)
