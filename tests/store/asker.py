"""A process that claims branches, appends to them, gives them back, takes them over, and reads; and notes what it asked
before it asks, and what it was told after.

python -m tests.store.asker PLACE HISTORY SEED SECONDS BUG

With a BUG (see `PLANTED`) the store of this process has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from holdfast.errors import Busy, Conflict, Fenced, HoldfastError, RolledBack, Stopped
from holdfast.store import Store
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_lane import Lane
from holdfast.store.sqlite import SqliteStore
from tests.store.shelf import drafts

BRANCHES = ["one@main", "two@main"]
LANES = 3
MOST_READ = 400


def opened(place: str) -> Store:
    """As a worker opens it, but for a short life of claims."""
    if place.startswith("postgresql:"):
        return PostgresStore(place, claim_ttl_s=0.4, beat_s=0.1, patience_s=20, answer_s=2)
    return SqliteStore(Path(place), claim_ttl_s=0.4, flush_s=0.1, anchor=None)


class Asker:
    """Asks until a moment (monotonic, s)."""

    def __init__(self, place: str, history: Path, seed: int, until_s: float) -> None:
        self._place, self._until_s = place, until_s
        self._drawn = random.Random(seed)
        self._name = history.name
        self._file = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._number = 0
        self._held: dict[str, int] = {}
        self._were: dict[str, list[int]] = {branch: [] for branch in BRANCHES}

    def _note(self, number: int, **what: Any) -> None:
        os.write(self._file, (json.dumps({"op": number, "t": time.monotonic_ns(), **what}) + "\n").encode())

    async def ask(self) -> None:
        """Several at a time."""
        self._store = await self._anew()
        await asyncio.gather(*(self._lane() for _ in range(LANES)))
        with contextlib.suppress(Stopped):
            await self._store.close()

    async def _lane(self) -> None:
        while time.monotonic() < self._until_s:
            store = self._store
            try:
                await self._one(store)
            except RolledBack:
                raise
            except Stopped:
                if store is self._store:  # it writes nothing any more: a new one, as a new worker would have
                    self._held.clear()
                    self._store = await self._anew()
            await asyncio.sleep(self._drawn.random() * 0.02)

    async def _anew(self) -> Store:
        while True:
            try:
                return await asyncio.to_thread(opened, self._place)
            except Stopped:
                await asyncio.sleep(0.05)

    async def _one(self, store: Store) -> None:
        """One question."""
        self._number += 1
        number, branch, die = self._number, self._drawn.choice(BRANCHES), self._drawn.random()
        epoch = self._held.get(branch, 0)
        if die < 0.1:
            await self._read(store, number, branch)
        elif not epoch and die < 0.7:
            await self._claim(store, number, branch)
        elif die < 0.8:
            await self._append(store, number, branch, epoch)
        elif self._were[branch] and die < 0.9:
            await self._append(store, number, branch, self._drawn.choice(self._were[branch]))
        else:
            await self._append(store, number, branch, 0)

    async def _told(self, number: int, asked: Any) -> Any:
        """The answer; noted if it is a refusal."""
        try:
            return await asked
        except (Busy, Conflict):
            self._note(number, told="no")
        except HoldfastError:
            self._note(number, told="unknown")
            raise
        return None

    async def _claim(self, store: Store, number: int, branch: str) -> None:
        self._note(number, what="claim", branch=branch)
        grant = await self._told(number, store.claim(branch))
        if grant is not None:
            self._note(number, told="ok", epoch=grant.epoch)
            self._held[branch] = grant.epoch
            self._were[branch].append(grant.epoch)

    async def _append(self, store: Store, number: int, branch: str, epoch: int) -> None:
        bodies = [f"{self._name}/{number}/{part}" for part in range(self._drawn.randint(1, 3))]
        barrier, release = self._drawn.random() < 0.6, epoch > 0 and self._drawn.random() < 0.15
        if release:
            self._held.pop(branch, None)
        self._note(number, what="append", branch=branch, epoch=epoch, bodies=bodies, barrier=barrier)
        placed = await self._told(
            number, store.append(branch, drafts(*bodies), epoch=epoch, barrier=barrier, release=release)
        )
        if placed is not None:
            self._note(number, told="ok", first=placed[0].seq)
        elif self._held.get(branch) == epoch:
            del self._held[branch]

    async def _read(self, store: Store, number: int, branch: str) -> None:
        self._note(number, what="read", branch=branch)
        entries = await self._told(number, store.read(branch))
        if entries is not None and len(entries) < MOST_READ:
            self._note(number, told="ok", bodies=[entry.body.decode() for entry in entries])


# --- bugs that the checker must find ---


def _no_fence() -> None:
    """Whoever writes need not hold the claim."""
    for kind in (PostgresStore, SqliteStore):
        checked = cast("Callable[..., Any]", kind._check)

        def unchecked(self: Any, *given: Any, checked: Callable[..., Any] = checked) -> Any:
            try:
                return checked(self, *given)
            except Fenced:
                return self._head(*given[:2]) if isinstance(self, SqliteStore) else None

        kind._check = unchecked  # type: ignore[method-assign, assignment]


def _blind_retry() -> None:
    """What was in doubt is sent again without a look."""
    renew = Lane.renew

    def blind(self: Lane, until: float) -> bool:
        renew(self, until)
        return False

    Lane.renew = blind  # type: ignore[method-assign]


def _hopeful() -> None:
    """What was in doubt is taken for written."""
    renew = Lane.renew

    def hopeful(self: Lane, until: float) -> bool:
        doubt = self.in_doubt is not None
        renew(self, until)
        return doubt

    Lane.renew = hopeful  # type: ignore[method-assign]


def _same_epoch() -> None:
    """A take-over raises no epoch."""
    from holdfast.store.postgres_batch import Head

    judge = PostgresStore._judge

    def judged(self: PostgresStore, head: Head, batch: Any) -> str:
        previous = judge(self, head, batch)
        head.epoch = max(0, head.epoch - 1)
        return previous

    PostgresStore._judge = judged  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "none": lambda: None, "no fence": _no_fence, "blind retry": _blind_retry, "hopeful": _hopeful,
    "same epoch": _same_epoch,
}  # fmt: skip


async def main(place: str, history: str, seed: str, seconds: str, bug: str) -> None:
    """Ask for so long."""
    PLANTED[bug]()
    asker = Asker(place, Path(history), int(seed), time.monotonic() + float(seconds))
    print("ready", flush=True)
    await asker.ask()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
