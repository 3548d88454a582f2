"""`holdfast files`: the files of checkpoints, to be looked at, compared, or restored elsewhere; and their collection.

Rules
1. A run's own directory is never touched: files are restored into a directory that is new or empty.
2. What is missing here is fetched, where the store has the files too.
3. Only `--collect` removes anything: what no checkpoint names, and copies that were kept for long enough.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, assert_never

import typer

from holdfast.cli.options import JsonOption, StoreOption, branch_of, existing, same_store
from holdfast.cli.terminal import busy, hint, json_text, line, out, safe, say, styled, table
from holdfast.cli.view import age, look_from, many, reader_of, size_text
from holdfast.core.effect import Parcel
from holdfast.core.retention import Extent, Marks
from holdfast.errors import BadCall, Misuse, Unknown
from holdfast.gateway.closure import Made, all_checkpoints, checkpoints
from holdfast.gateway.desk import parse_node
from holdfast.gateway.line import node_of
from holdfast.gateway.parcels import fetch
from holdfast.store.reader import Reader
from holdfast.store.url import is_postgres, workspaces
from holdfast.workspace import (
    Added,
    Change,
    Changed,
    Kept,
    Layers,
    Moved,
    Packs,
    Removed,
    Workspace,
    collect,
    diff,
    waste,
)
from holdfast.workspace.manifest import Entry, File, Folder, Pipe, Symlink
from holdfast.workspace.reach import Whole, walk

KEPT = "kept:"
KEPT_DAYS = 30
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Closed:
    """A checkpoint that has files: where it stands, when it was made (ms since 1970), the digest of its files, what has
    to be started again after a restore, and its labels."""

    node: str
    at_ms: int
    tree: str
    services: tuple[str, ...]
    labels: tuple[str, ...]


def verb(
    place: Annotated[
        str | None,
        typer.Argument(metavar="PLACE", help="A run, a NODE (the checkpoint at or before it), or kept:COPY."),
    ] = None,
    list: Annotated[bool, typer.Option("--list", help="Show every file.")] = False,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="Restore the files into this new or empty directory.")
    ] = None,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="PLACE", help="Show what differs in the files of PLACE from here.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help=f"Remove what no checkpoint names, and copies kept for {KEPT_DAYS} days.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what --collect would remove.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show the files of a run's checkpoints, or restore them into another directory."""
    asked = [list, into is not None, diff is not None, collect]
    if sum(asked) > 1 or (place is None and any(asked[:3])) or (place and collect) or (dry_run and not collect):
        raise BadCall("this says too much or too little", fix="PLACE [--list|--into DIR|--diff PLACE], or --collect")
    url = existing(store)
    with _place(url) as root:
        reader = reader_of(url)
        try:
            if collect:
                _collect(reader, root, elsewhere=is_postgres(url), dry_run=dry_run, json=json)
            elif place is None or not any(asked):
                _tell(reader, root, place, same_store(store), json=json)
            elif into is not None:
                _restore(reader, root, place, Path(into))
            elif diff is not None:
                _compare(reader, root, place, diff, json=json)
            else:
                _show(reader, root, place, json=json)
        finally:
            asyncio.run(reader.close())


# --- which files ---


@dataclass(frozen=True, slots=True)
class Files:
    """The files at a place: the digest of their tree, and the parcels from which the store has them, if it has."""

    tree: bytes
    parcels: tuple[Parcel, ...] = ()


@contextmanager
def _place(url: str) -> Generator[Path]:
    """Where the captures of a store are on this machine; for as long as is needed, if it keeps none here."""
    found = workspaces(url)
    with nullcontext(found) if found is not None else TemporaryDirectory(prefix="holdfast-files-") as root:
        yield Path(root)


def _files(reader: Reader, root: Path, place: str) -> Files:
    """The files at a place. Raises Unknown."""
    if place.startswith(KEPT):
        wanted = place.removeprefix(KEPT)
        found = [each.tree for each in Kept(root).all() if len(wanted) >= 8 and each.tree.startswith(wanted)]
        if len(found) != 1:
            raise Unknown(f"no copy, or more than one, is called `{place}`", fix="holdfast files shows them")
        return Files(bytes.fromhex(found[0]))
    branch, seq = parse_node(place) if _is_node(place) else (branch_of(place), None)
    for made in reversed(asyncio.run(_made(reader, branch))):
        if made.tree is not None and (seq is None or parse_node(node_of(made.branch, made.seq))[1] <= seq):
            return Files(made.tree, made.record.parcels or ())
    raise Unknown(f"no checkpoint at or before `{place}` has files", fix=f"holdfast files {branch.partition('@')[0]}")


def _is_node(place: str) -> bool:
    return place.rpartition("@")[2].rpartition(":")[2].isdigit() and "@" in place


async def _made(reader: Reader, branch: str) -> list[Made]:
    """The checkpoints of a branch, oldest first. Raises Unknown if there is no such run."""
    await look_from(reader, branch)
    return await checkpoints(reader, branch)


async def _closed(reader: Reader, branch: str) -> list[Closed]:
    """Those that have files, as they are told."""
    return [
        Closed(node_of(made.branch, made.seq), made.at_ms, tree.hex(), made.record.services, made.record.labels)
        for made in await _made(reader, branch)
        if (tree := made.tree) is not None
    ]


@contextmanager
def _packs(reader: Reader, root: Path, *wanted: Files) -> Generator[Packs]:
    """The captures of a store, with all of these files; nothing is collected meanwhile."""
    for files in wanted:
        if files.parcels:
            with busy("fetching files"):
                asyncio.run(fetch(reader, root, files.tree, files.parcels))
    if not (root / "packs").is_dir():
        fix = "an agent with @agent(workspace=True) has some; on PostgreSQL they may be on the machine that it ran on"
        raise Unknown("this store has no files here", where=str(root), fix=fix)
    packs = Packs(root)
    try:
        with packs.writing():
            yield packs
    finally:
        packs.close()


# --- what is done with them ---


def _tell(reader: Reader, root: Path, place: str | None, store: str, *, json: bool) -> None:
    """The checkpoints of a run, and the copies that are kept."""
    branch = None if place is None else branch_of(place)
    found = [] if branch is None else asyncio.run(_closed(reader, branch))
    kept = [each for each in Kept(root).all() if branch in (None, each.name)]
    if json:
        copies = [{"place": f"{KEPT}{each.tree}", "at_ms": each.at_ms, "branch": each.name} for each in kept]
        out(json_text({"checkpoints": found, "kept": copies}, indent=2))
        return
    now_ms = time.time_ns() // 1_000_000
    rows = [(each.node, age(each.at_ms, now_ms), each.tree[:16], _said(each)) for each in found]
    rows += [(f"{KEPT}{each.tree[:16]}", age(each.at_ms, now_ms), each.tree[:16], each.name) for each in kept]
    if not rows:
        say("no files" + (f" of {safe(place)}" if place else " are kept") + f" in {safe(str(root))}")
        return
    table(("PLACE", "#AGE", "FILES", "ABOUT"), [tuple(map(styled, row)) for row in rows])
    hint(f"holdfast files {safe(rows[-1][0])} --into DIR{store}")


def _said(closed: Closed) -> str:
    return ", ".join([*(f"start again: {each}" for each in closed.services), *closed.labels])


def _restore(reader: Reader, root: Path, place: str, target: Path) -> None:
    files = _files(reader, root, place)
    inside = target.resolve().is_relative_to(root.resolve())
    if inside or target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise Misuse("files are restored into a new or empty directory", where=str(target), fix="name another one")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misuse(f"it cannot be made: {error.strerror}", where=str(target), fix="name another directory") from None
    with _packs(reader, root, files) as packs, busy("restoring files"):
        restored = Workspace(target, packs).restore(files.tree)
    say(f"{safe(str(target))}: {many(len(restored.touched), 'path')}, as they were captured")


def _show(reader: Reader, root: Path, place: str, *, json: bool) -> None:
    files = _files(reader, root, place)
    with _packs(reader, root, files) as packs:
        for path, entry in walk(packs.get, files.tree):
            name = os.fsdecode(path)
            kind, mode, size, more = _about(entry)
            if json:
                out(json_text({"path": _text(name), "kind": kind, "mode": mode, "size_bytes": size}))
            else:
                line(styled(f"{mode or '':>5}  {'' if size is None else size:>12}  ", "dim") + styled(name + more))


def _about(entry: Entry) -> tuple[str, str | None, int | None, str]:
    """Kind, permission bits (octal), size, and what is shown behind the name."""
    match entry:
        case File():
            return "file", f"{entry.meta.mode:o}", entry.size_bytes, ""
        case Symlink():
            return "symlink", None, None, f" -> {os.fsdecode(entry.target)}"
        case Folder():
            return "folder", None, None, "/"
        case Pipe():
            return "pipe", f"{stat.S_IMODE(entry.meta.mode):o}", None, ""
        case _:
            assert_never(entry)


def _compare(reader: Reader, root: Path, place: str, other: str, *, json: bool) -> None:
    old, new = _files(reader, root, place), _files(reader, root, other)
    with _packs(reader, root, old, new) as packs:
        for change in diff(packs.get, old.tree, new.tree):
            what, path, to = _change(change)
            if json:
                out(json_text({"change": what, "path": _text(path), "to": _text(to) if to else None}))
            else:
                line(styled(f"{what:<10}  ", "dim") + styled(path + (f" -> {to}" if to else "")))


@dataclass(frozen=True, slots=True)
class FileChange:
    """How a file on the other side differs: `change` is added, removed, changed, attributes or moved (`to`)."""

    change: str
    path: str
    to: str | None


def compared(url: str, branch: str, other: str) -> list[FileChange]:
    """What differs between the files of two branches, at the newest checkpoint of each; nothing if one has no files."""
    reader = reader_of(url)
    try:
        with suppress(Unknown), _place(url) as root:
            old, new = _files(reader, root, branch), _files(reader, root, other)
            with _packs(reader, root, old, new) as packs:
                changes = [_change(each) for each in diff(packs.get, old.tree, new.tree)]
            return [FileChange(what, _text(path), _text(to) if to else None) for what, path, to in changes]
        return []
    finally:
        asyncio.run(reader.close())


def _change(change: Change) -> tuple[str, str, str]:
    match change:
        case Added(path):
            return "added", os.fsdecode(path), ""
        case Removed(path):
            return "removed", os.fsdecode(path), ""
        case Changed(path, content):
            return "changed" if content else "attributes", os.fsdecode(path), ""
        case Moved(path, to):
            return "moved", os.fsdecode(path), os.fsdecode(to)
        case _:
            assert_never(change)


def _text(name: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _collect(reader: Reader, root: Path, *, elsewhere: bool, dry_run: bool, json: bool) -> None:
    if not (root / "packs").is_dir():
        found, old, checkouts = None, 0, 0
    else:
        old = _forget_old(Kept(root), dry_run=dry_run)
        packs = Packs(root)
        try:
            with busy("looking for what nobody needs"):
                work = waste if dry_run else collect
                found = work(packs, lambda: _roots(reader, packs, elsewhere=elsewhere))
                checkouts = len(Layers(root).dead()) if dry_run else Layers(root).collect(packs)
        finally:
            packs.close()
    freed, removed = (found.freed_bytes, found.packs_removed) if found else (0, 0)
    if json:
        told = {"dry_run": dry_run, "freed_bytes": freed, "packs_removed": removed, "copies_dropped": old}
        out(json_text({**told, "checkouts_removed": checkouts}))
        return
    would = "would be removed" if dry_run else "removed"
    gone = f"{many(removed, 'pack')} ({size_text(freed)})" + (f", {many(checkouts, 'checkout')}" if checkouts else "")
    say(f"{gone} and {many(old, 'old copy')} {would}")


def _roots(reader: Reader, packs: Packs, *, elsewhere: bool) -> set[bytes]:
    """What stays: what is kept, and what checkpoints name. Where the store has files too, those here are a cache, of
    which what is not whole, or was pruned, is of no use. On PostgreSQL those of other machines are not here."""
    marks, whole = Marks(reader.marks()), Whole(packs.get, packs.has)
    roots = {bytes.fromhex(each.tree) for each in Kept(packs.root).all()}
    for made in asyncio.run(all_checkpoints(reader)):
        if made.tree is None:
            continue
        if made.record.parcels is not None:
            pruned = any(marks.covers(made.branch, made.seq, extent) for extent in Extent)
            if not pruned and whole(made.tree):
                roots.add(made.tree)
        elif not elsewhere or packs.has(made.tree):
            roots.add(made.tree)
    return roots


def _forget_old(kept: Kept, *, dry_run: bool) -> int:
    oldest_ms = time.time_ns() // 1_000_000 - KEPT_DAYS * _DAY_MS
    old = [each for each in kept.all() if each.at_ms < oldest_ms]
    for each in old if not dry_run else ():
        kept.drop(each.tree)
    return len(old)
