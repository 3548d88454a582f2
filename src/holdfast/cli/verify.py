"""`holdfast verify`: is this log what was written, and what was signed? Offline, without becoming a writer.

Rules
1. The judge is `core/verify.py`, which shares no code with what wrote the log; here it is only fed.
2. A file that cannot be read is a fault like any other, named by the first entry that it hides.
"""

from __future__ import annotations

import asyncio
import hashlib
import json as json_
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from holdfast.cli.keys import checked, ed25519, files_of, pinned
from holdfast.cli.naming import Absent, Naming
from holdfast.cli.options import JsonOption, StoreOption, existing
from holdfast.cli.terminal import Tick, hint, json_text, out, progress, safe
from holdfast.cli.view import many, reader_of
from holdfast.core.retention import Mark
from holdfast.core.verify import PROOF, Fault, Report, Verifier, verify_bundle, verify_growth, verify_proof
from holdfast.errors import Corrupt, Misuse, Unknown
from holdfast.store.reader import Reader
from holdfast.store.url import is_postgres, keepsakes

LONGEST_HEADER = 4096  # bytes
LAST = 2**65  # the order of a fault that is no entry's
DATABASE, BUNDLE = b"SQLite format 3\0", b'{"holdfast":"bundle/'


@dataclass(frozen=True, slots=True)
class Found:
    """The first broken rule. `rule` is a word of docs/log-format.md, or `file`; `index` and `node` name the entry."""

    rule: str
    what: str
    index: int | None
    node: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict as JSON. `kind`: store, bundle, proof (of one entry) or growth (of the log since an older head);
    `key_from`: given, a file, or the bundle itself; `anchor` is null where none was compared; `unsigned` entries come
    after the newest good head; `pruned` payloads are named, and are not here (of a bundle nobody can tell why);
    `proven` is what a proof shows."""

    ok: bool
    kind: str
    path: str
    entries: int
    branches: int
    payloads: int
    pruned: int
    heads: int
    unsigned: int
    vkey: str | None
    key_from: str
    anchor: str | None
    fault: Found | None
    proven: str | None = None


def verb(
    log: Annotated[
        str | None,
        typer.Argument(metavar="STORE|FILE", help="A store's URL or database, or an exported file. [--store]"),
    ] = None,
    vkey: Annotated[
        str | None,
        typer.Option("--vkey", metavar="KEY", help="The verifier key. [that of the log key beside the store]"),
    ] = None,
    anchor: Annotated[
        str | None, typer.Option("--anchor", metavar="FILE", help="The anchor; `none` for none. [the store's own]")
    ] = None,
    max_unsigned: Annotated[
        int, typer.Option("--max-unsigned", metavar="N", min=0, help="So many entries may come after the newest head.")
    ] = 1000,
    store: StoreOption = None,
    json: JsonOption = False,
) -> int:
    """Check a store or an exported bundle. Every entry, every payload, every signed head, and the anchor."""
    name = log or existing(store)
    if vkey is not None:
        checked(vkey)
    if is_postgres(name):
        verdict = asyncio.run(_of_store(name, reader_of(name), vkey, anchor, max_unsigned))
    else:
        verdict = _of_file(name, files_of(name).path if "://" in name else Path(name), vkey, anchor, max_unsigned)
    if json:
        out(json_text(verdict, indent=2))
    else:
        _print(verdict)
    return 0 if verdict.ok else 1


def _of_file(name: str, path: Path, vkey: str | None, anchor: str | None, most: int) -> Verdict:
    match _kind(path):
        case "bundle":
            return _of_bundle(path, vkey, anchor, most)
        case "proof" | "growth" as kind:
            return _of_proof(path, kind, vkey, anchor)
        case _:
            pass
    try:
        reader = Reader(path)
    except Corrupt as error:
        report = Report(0, 0, 0, 0, 0, Fault("file", error.what))
        return _verdict("store", path, report, vkey, "given" if vkey else "", None, 0)
    url = name if "://" in name else f"sqlite:///{name}"
    return asyncio.run(_of_store(url, reader, vkey, anchor, most))


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            begins = file.read(32)
    except OSError as error:
        raise Unknown(f"it cannot be read: {error.strerror}", where=str(path), fix="name a store or a bundle") from None
    kinds = {BUNDLE[:12]: "bundle", PROOF.encode()[:12]: "proof", b"old ": "growth"}
    return next((kind for start, kind in kinds.items() if begins.startswith(start)), "store")


# --- a store ---


async def _of_store(url: str, reader: Reader, vkey: str | None, anchor: str | None, most: int) -> Verdict:
    try:
        kept = keepsakes(url, reader.log_id)
        key = pinned(kept.key, reader.log_id, vkey)
        where = _anchor(anchor, kept.anchor)
        verifier = Verifier(ed25519, key.vkey)
        anchored = _text(where)  # before the log: beside living writers, the anchor would know of more
        with reader.moment():
            pruned = await _feed(reader, verifier)
        report = verifier.finish(anchored, most)
        return _verdict("store", reader.path, report, key.vkey, key.source, where, pruned)
    finally:
        await reader.close()


async def _feed(reader: Reader, verifier: Verifier) -> int:
    """Hand over the whole store; how many payloads were pruned. What cannot be read is blamed on the first entry that
    it hides."""
    naming, stored = Naming(_marks(reader, verifier)), set[bytes]()
    with progress("verifying", reader.size()) as tick:
        try:
            for index, entry in reader.places():
                tick()
                naming.take(index, entry)
                verifier.entry(
                    index, entry.branch, entry.seq, entry.epoch, entry.at_ms, entry.key, entry.body, entry.digest
                )
        except Corrupt as error:
            verifier.blame(verifier.next, Fault("file", f"it cannot be read: {error.what}", verifier.next))
        try:
            for note in reader.heads():
                verifier.head(note)
            stored.update(reader.digests())
            for digest in stored:
                tick()
                verifier.blob(digest, await _payload(reader, verifier, naming, digest))
            for digest, place in naming.lost(stored):
                what = f"payload {digest.hex()} is missing, and was not pruned"
                verifier.blame(place.index, Fault("blob", what, place.index, place.node))
        except Corrupt as error:
            verifier.blame(LAST, Fault("file", f"what follows the entries cannot be read: {error.what}"))
        damage = reader.damage()
        if damage is not None:
            verifier.blame(LAST + 1, Fault("file", f"the database file is damaged: {damage}"))
    return naming.pruned(stored)


def _marks(reader: Reader, verifier: Verifier) -> list[Mark]:
    try:
        return reader.marks()
    except Corrupt as error:
        verifier.blame(LAST, Fault("file", error.what))
        return []


async def _payload(reader: Reader, verifier: Verifier, naming: Naming, digest: bytes) -> bytes:
    """A payload; one that is not what it must be is blamed on the first entry that names it."""
    data, what = b"", "has other bytes"
    try:
        data = await reader.whole(digest)
    except (Unknown, Corrupt) as error:
        what = f"cannot be put together: {error.what}"
    if hashlib.sha256(data).digest() != digest:
        place, what = naming.place(digest), f"payload {digest.hex()} {what}"
        if place is None:  # a piece of others: they have the same fault
            verifier.blame(LAST, Fault("blob", what))
        else:
            verifier.blame(place.index, Fault("blob", what, place.index, place.node))
    return data


def _anchor(given: str | None, own: Path | None) -> Path | None:
    """The anchor to compare with. Raises Misuse if one is named that does not exist."""
    if given == "none":
        return None
    if given is not None:
        if not Path(given).is_file():
            raise Misuse("there is no anchor here", where=given, fix="name its file, or --anchor none")
        return Path(given)
    return own if own is not None and own.is_file() else None


def _text(anchor: Path | None) -> str | None:
    if anchor is None:
        return None
    try:
        return anchor.read_bytes().decode(errors="replace")
    except OSError as error:
        raise Misuse(f"the anchor cannot be read: {error.strerror}", where=str(anchor), fix="--anchor FILE") from None


# --- a bundle ---


def _of_bundle(path: Path, vkey: str | None, anchor: str | None, most: int) -> Verdict:
    where, absent = _anchor(anchor, None), Absent()
    with path.open("rb") as file, progress("verifying", path.stat().st_size) as tick:
        report = verify_bundle(_lines(file, tick, absent), ed25519, vkey, _text(where), most)
    source = "given" if vkey else "the bundle itself"
    return _verdict("bundle", path, report, vkey or _own_key(path), source, where, absent.count)


def _own_key(path: Path) -> str | None:
    """The key that a bundle says it is signed with."""
    with path.open("rb") as file:
        try:
            header = json_.loads(file.readline(LONGEST_HEADER))
        except (ValueError, RecursionError):
            return None
    vkey = cast("dict[str, object]", header).get("vkey") if isinstance(header, dict) else None
    return vkey if isinstance(vkey, str) else None


def _lines(file: BinaryIO, tick: Tick, absent: Absent) -> Iterator[bytes]:
    for line in file:
        tick(len(line))
        absent.take(line)
        yield line


# --- a proof ---


def _of_proof(path: Path, kind: str, vkey: str | None, anchor: str | None) -> Verdict:
    """Raises Misuse where nothing was given to compare with."""
    if vkey is None:
        raise Misuse("nothing says by which key to check", where=str(path), fix="give it: --vkey KEY")
    where = _anchor(anchor, None)
    if (where is None) is (kind == "growth"):
        raise Misuse(
            "that a log has grown is shown to whoever has its anchor" if kind == "growth"
            else "the proof of an entry has no anchor to be compared with",
            where=str(path), fix="--anchor FILE" if kind == "growth" else "leave out --anchor",
        )  # fmt: skip
    text, nothing = path.read_bytes().decode(errors="replace"), Report(0, 0, 0, 0, 0, None)
    try:
        if kind == "growth":
            shown = verify_growth(text, _text(where) or "", ed25519, vkey)
            said = f"the first {shown.index} of {shown.size} entries are those that the anchor knows"
        else:
            shown = verify_proof(text, ed25519, vkey)
            said = f"{shown.node} is entry {shown.index} of {shown.size}"
            nothing = Report(1, 1, 0, 1, 0, None)
    except Fault as fault:
        return _verdict(kind, path, replace(nothing, fault=fault), vkey, "given", where, 0)
    return replace(_verdict(kind, path, nothing, vkey, "given", where, 0), proven=said)


# --- the verdict ---


def _verdict(
    kind: str, path: Path | str, report: Report, vkey: str | None, key_from: str, anchor: Path | None, pruned: int
) -> Verdict:
    fault = report.fault
    return Verdict(
        fault is None, kind, str(path), report.entries, report.branches, report.blobs, pruned, report.heads,
        report.unsigned, vkey, key_from, None if anchor is None else str(anchor),
        None if fault is None else Found(fault.rule, fault.what, fault.index, fault.node),
    )  # fmt: skip


def _print(verdict: Verdict) -> None:
    fault = verdict.fault
    if fault is not None:
        place = (
            "" if fault.index is None else f"entry {fault.index}" + (f" ({fault.node})" if fault.node else "") + ": "
        )
        out(safe(f"BAD  {verdict.path}: {place}{fault.what} [{fault.rule}]"))
    else:
        out(safe(f"OK   {verdict.path}" + (f": {verdict.proven}" if verdict.proven else "")))
    if verdict.kind in ("proof", "growth"):
        out(safe(f"     key        {verdict.vkey}"))
        return
    payloads = many(verdict.payloads, "payload") + (f" ({verdict.pruned:,} more pruned)" if verdict.pruned else "")
    looked = (
        many(verdict.entries, "entry"),
        many(verdict.branches, "branch"),
        payloads,
        many(verdict.heads, "head"),
        f"{many(verdict.unsigned, 'entry')} after the newest",
    )
    out("     looked at  " + ", ".join(looked))
    out(safe(f"     key        {verdict.vkey or 'none could be read'}"))
    out(safe(f"     anchor     {verdict.anchor or 'none'}"))
    if verdict.ok and verdict.key_from != "given":
        hint("this shows that the log agrees with itself; that it is yours, only a key that you kept elsewhere: --vkey")
    if verdict.ok and verdict.anchor is None:
        hint("without an anchor, a log that was cut at an older head looks whole: --anchor FILE")
    if fault is not None:
        hint("keep the file as it is; restore a backup beside it, and verify that one against the same anchor")
