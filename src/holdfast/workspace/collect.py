"""Removing what no capture stands on any more, beside those who write.

Rules
1. What is alive is everything below the given roots, asked for twice: at the beginning, and again when nobody writes.
2. A pack is removed whole, after what is alive in it has been written to another and flushed.
3. Copying happens while others write; they are kept waiting only for what came up meanwhile, and for the removal.
4. The generation changes before anything is removed, so that nobody trusts what he knew of the packs before.
5. A crash leaves blobs twice, or some that nobody refers to; the next collection finds them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdfast.workspace.disk import barrier, barrier_folder, storing
from holdfast.workspace.pack import Packs
from holdfast.workspace.reach import mark


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did."""

    packs_removed: int
    freed_bytes: int


def collect(
    packs: Packs, roots: Callable[[], Iterable[bytes]], *, waste: float = 0.5, patience_s: float = 60.0
) -> Collected:
    """Remove the packs of which at least the part `waste` is dead.

    `roots` tells the root trees of all captures that somebody refers to; it is asked while nobody writes, so what was
    recorded inside `packs.writing()` is seen. Raises Busy if somebody writes for `patience_s`; Corrupt if a manifest
    cannot be read: nothing was removed then."""
    alive: set[bytes] = set()
    with packs.writing():
        mark(packs.get, roots(), alive)
        wasteful = _wasteful(packs, alive, waste)
        _move(packs, wasteful, alive)
    with packs.alone(patience_s):
        mark(packs.get, roots(), alive)
        _move(packs, wasteful, alive)
        return _remove(packs, wasteful)


def waste(packs: Packs, roots: Callable[[], Iterable[bytes]], *, part: float = 0.5) -> Collected:
    """What `collect` would remove, and about how much that would free; nothing is written."""
    alive: set[bytes] = set()
    with packs.writing():
        mark(packs.get, roots(), alive)
        names = _wasteful(packs, alive, part)
        sizes = sum((packs.folder / f"{name}.pack").stat().st_size for name in names)
        moved = sum(size for digest, (name, _, size) in packs.places().items() if name in names and digest in alive)
    return Collected(len(names), sizes - moved)


def _wasteful(packs: Packs, alive: set[bytes], waste: float) -> set[str]:
    living: dict[str, int] = {}
    for digest, (name, _, size) in packs.places().items():
        if digest in alive:
            living[name] = living.get(name, 0) + size
    sizes = {path.stem: path.stat().st_size for path in packs.folder.glob("*.pack")}
    return {name for name, size in sizes.items() if size - living.get(name, 0) >= max(1, size * waste)}


def _move(packs: Packs, wasteful: set[str], alive: set[bytes]) -> None:
    """Write what is alive in these packs to another, which is none of them."""
    packs.start_apart(wasteful)
    for digest, (name, _, _) in sorted(packs.places().items(), key=lambda item: item[1]):
        if name in wasteful and digest in alive:
            packs.append(digest, packs.frame(digest))
    packs.flush()


def _remove(packs: Packs, wasteful: set[str]) -> Collected:
    freed = removed = 0
    if not wasteful:
        return Collected(0, 0)
    with storing(packs.root):
        with (packs.root / "generation.new").open("wb") as file:
            file.write(secrets.token_bytes(16))
            file.flush()
            barrier(file.fileno())
        (packs.root / "generation.new").replace(packs.root / "generation")
        barrier_folder(packs.root)
        for name in sorted(wasteful):
            path = packs.folder / f"{name}.pack"
            if path.exists():  # or else somebody has collected it between our two looks
                freed += path.stat().st_size
                removed += 1
            path.unlink(missing_ok=True)
            path.with_suffix(".index").unlink(missing_ok=True)
        barrier_folder(packs.folder)
    packs.refresh()
    return Collected(removed, freed)
