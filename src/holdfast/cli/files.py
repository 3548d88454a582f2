"""`holdfast files`: the files of checkpoints, to be looked at, compared, or restored elsewhere; and their collection.

Rules
1. A run's own directory is never touched: files are restored into a directory that is new or empty.
2. Only `--collect` removes anything: what no checkpoint names, and copies that were kept for long enough.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, assert_never

import typer

from holdfast.cli.keys import files_of
from holdfast.cli.options import JsonOption, StoreOption, branch_of, existing, same_store
from holdfast.cli.terminal import busy, hint, json_text, line, out, safe, say, styled, table
from holdfast.cli.view import age, look_from, many, reader_of, size_text
from holdfast.errors import BadCall, Misuse, Unknown
from holdfast.gateway.closure import checkpoints, trees
from holdfast.gateway.desk import parse_node
from holdfast.gateway.line import node_of
from holdfast.store.reader import Reader
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
from holdfast.workspace.reach import walk

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
    root = files_of(url).workspaces
    reader = reader_of(url)
    try:
        if collect:
            _collect(reader, root, dry_run=dry_run, json=json)
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


def _tree(reader: Reader, root: Path, place: str) -> bytes:
    """The digest of the files at a place. Raises Unknown."""
    if place.startswith(KEPT):
        wanted = place.removeprefix(KEPT)
        found = [each.tree for each in Kept(root).all() if len(wanted) >= 8 and each.tree.startswith(wanted)]
        if len(found) != 1:
            raise Unknown(f"no copy, or more than one, is called `{place}`", fix="holdfast files shows them")
        return bytes.fromhex(found[0])
    branch, seq = parse_node(place) if _is_node(place) else (branch_of(place), None)
    for closed in reversed(asyncio.run(_closed(reader, branch))):
        if seq is None or parse_node(closed.node)[1] <= seq:
            return bytes.fromhex(closed.tree)
    raise Unknown(f"no checkpoint at or before `{place}` has files", fix=f"holdfast files {branch.partition('@')[0]}")


def _is_node(place: str) -> bool:
    return place.rpartition("@")[2].rpartition(":")[2].isdigit() and "@" in place


async def _closed(reader: Reader, branch: str) -> list[Closed]:
    """The checkpoints of a branch that have files, oldest first. Raises Unknown if there is no such run."""
    await look_from(reader, branch)
    return [
        Closed(node_of(made.branch, made.seq), made.at_ms, tree.hex(), made.record.services, made.record.labels)
        for made in await checkpoints(reader, branch)
        if (tree := made.tree) is not None
    ]


@contextmanager
def _packs(root: Path) -> Generator[Packs]:
    """The captures of a store; nothing is collected meanwhile."""
    if not (root / "packs").is_dir():
        raise Unknown("this store has no files", where=str(root), fix="an agent with @agent(workspace=True) has some")
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
    tree = _tree(reader, root, place)
    inside = target.resolve().is_relative_to(root.resolve())
    if inside or target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise Misuse("files are restored into a new or empty directory", where=str(target), fix="name another one")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misuse(f"it cannot be made: {error.strerror}", where=str(target), fix="name another directory") from None
    with _packs(root) as packs, busy("restoring files"):
        restored = Workspace(target, packs).restore(tree)
    say(f"{safe(str(target))}: {many(len(restored.touched), 'path')}, as they were captured")


def _show(reader: Reader, root: Path, place: str, *, json: bool) -> None:
    tree = _tree(reader, root, place)
    with _packs(root) as packs:
        for path, entry in walk(packs.get, tree):
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
    old, new = _tree(reader, root, place), _tree(reader, root, other)
    with _packs(root) as packs:
        for change in diff(packs.get, old, new):
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
    root = files_of(url).workspaces
    reader = reader_of(url)
    try:
        with suppress(Unknown):
            old, new = _tree(reader, root, branch), _tree(reader, root, other)
            with _packs(root) as packs:
                changes = [_change(each) for each in diff(packs.get, old, new)]
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


def _collect(reader: Reader, root: Path, *, dry_run: bool, json: bool) -> None:
    if not (root / "packs").is_dir():
        found, old, checkouts = None, 0, 0
    else:
        old = _forget_old(Kept(root), dry_run=dry_run)
        packs = Packs(root)
        try:
            with busy("looking for what nobody needs"):
                work = waste if dry_run else collect
                found = work(packs, lambda: _roots(reader, root))
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


def _roots(reader: Reader, root: Path) -> set[bytes]:
    """What all checkpoints name, and what is kept."""
    return asyncio.run(trees(reader)) | {bytes.fromhex(each.tree) for each in Kept(root).all()}


def _forget_old(kept: Kept, *, dry_run: bool) -> int:
    oldest_ms = time.time_ns() // 1_000_000 - KEPT_DAYS * _DAY_MS
    old = [each for each in kept.all() if each.at_ms < oldest_ms]
    for each in old if not dry_run else ():
        kept.drop(each.tree)
    return len(old)
