"""Several processes claim, append, lose and take over at random under random faults: what they were told contradicts
neither each other nor the log. And the checker that says so finds what is planted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from holdfast.core.entry import Entry
from holdfast.store.postgres import PostgresStore
from holdfast.store.sqlite import SqliteStore
from tests.fleet.proxy import Proxy
from tests.postgres import Postgres
from tests.store.asker import BRANCHES
from tests.store.history import Asked, histories, wrong
from tests.store.shelf import Shelf, assert_whole, start

# --- the checker, on histories of a few lines ---


def entry(seq: int, body: str, epoch: int = 1) -> Entry:
    return Entry("b@main", seq, epoch, 0, b"", body.encode(), b"")


def asked(what: str, begun: int, ended: int, **more: object) -> Asked:
    return replace(Asked(who="p", what=what, branch="b@main", begun=begun, ended=ended, told="ok"), **more)  # type: ignore[arg-type]


CLAIM = asked("claim", 0, 1, epoch=1)
TAKEN = asked("claim", 20, 21, epoch=2, who="q")
A = asked("append", 2, 3, epoch=1, first=1, bodies=("a",), barrier=True)
B = asked("append", 4, 5, epoch=1, first=2, bodies=("b",))
LOG = [entry(1, "a"), entry(2, "b")]
HISTORIES: dict[str, tuple[list[Asked], list[Entry], list[int], str]] = {
    "all is well": ([CLAIM, A, B], LOG, [], ""),
    "an unknown one is there": ([CLAIM, A, replace(B, told="unknown")], LOG, [], ""),
    "an unknown one is not there": ([CLAIM, A, replace(B, told="unknown")], LOG[:1], [], ""),
    "unflushed, and the server was killed": ([CLAIM, A, B], LOG[:1], [6], ""),
    "a gap": ([CLAIM, A, replace(B, first=3)], [LOG[0], entry(3, "b")], [], "gap"),
    "gone": ([CLAIM, A, B], LOG[:1], [], "is gone"),
    "flushed, gone with the server": ([CLAIM, A, replace(B, barrier=True)], LOG[:1], [6], "is gone"),
    "unflushed, but before something flushed": (
        [CLAIM, replace(A, barrier=False), replace(B, barrier=True)], [entry(1, "b")], [6], "`?.*a.* is gone",
    ),
    "twice": ([CLAIM, A, replace(B, told="unknown")], [*LOG, entry(3, "b")], [], "2 times"),
    "refused, and there": ([CLAIM, A, replace(B, told="no")], LOG, [], "refused, and is there"),
    "of nobody": ([CLAIM, A], LOG, [], "nobody asked"),
    "elsewhere": ([CLAIM, replace(A, first=2), replace(B, first=1)], LOG, [], "said to be at"),
    "half": ([CLAIM, replace(A, bodies=("a", "c"))], LOG[:1], [], "only a part"),
    "one epoch for two": ([CLAIM, replace(TAKEN, epoch=1)], [], [], "granted twice"),
    "an epoch that sinks": ([replace(CLAIM, epoch=3), TAKEN], [], [], "granted after"),
    "below the newest in the log": (
        [CLAIM, TAKEN, A, replace(B, begun=2, epoch=2, who="q", first=1)], [entry(1, "b", 2), entry(2, "a", 1)], [],
        "after one under 2",
    ),
    "after a take-over": ([CLAIM, TAKEN, A, replace(B, begun=30, ended=31)], LOG, [], "after 2 was granted"),
    "unknown, after a take-over, and there": (
        [CLAIM, TAKEN, A, replace(B, begun=30, ended=31, told="unknown")], LOG, [], "after 2 was granted",
    ),
    "under somebody else's claim": ([CLAIM, replace(A, who="q")], LOG[:1], [], "somebody else"),
    "in the wrong order": ([CLAIM, replace(A, begun=9, ended=10), B], LOG, [], "was over before"),
    "a read that misses": ([CLAIM, A, B, asked("read", 6, 7, bodies=("a",))], LOG, [], "did not see"),
    "a read of what is gone": ([CLAIM, A, asked("read", 6, 7, bodies=("a", "x"))], LOG[:1], [], "not the first"),
    "a read ahead of time": ([CLAIM, A, asked("read", 0, 1, bodies=("a",))], LOG[:1], [], "before it was asked"),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_contradicts_the_model_is_found(name: str) -> None:
    import re

    history, log, kills, expected = HISTORIES[name]
    found = wrong(history, {"b@main": log}, kills)
    assert not found if not expected else any(re.search(expected, what) for what in found), found


# --- real processes ---


@dataclass
class Crowd:
    """Processes that ask (tests/store/asker.py), at the places they are told."""

    folder: Path
    drawn: random.Random
    until_s: float
    bug: str = "none"
    living: list[subprocess.Popen[str]] = field(default_factory=list)
    stopped: list[subprocess.Popen[str]] = field(default_factory=list)
    number: int = 0

    def join(self, place: str) -> None:
        """One more."""
        self.number += 1
        rest_s = max(0.2, self.until_s - time.monotonic())
        path = self.folder / f"p{self.number}"
        self.living.append(start("tests.store.asker", place, path, self.drawn.randrange(2**30), rest_s, self.bug))

    def befall(self, place: str) -> None:
        """One of them is killed, and another begun; or it is stopped, or goes on."""
        chance = self.drawn.random()
        if self.stopped and chance < 0.5:
            woken = self.stopped.pop()
            woken.send_signal(signal.SIGCONT)
            self.living.append(woken)
        elif self.living:
            one = self.living.pop(self.drawn.randrange(len(self.living)))
            if chance < 0.7:
                one.kill()
                one.communicate()
                self.join(place)
            else:
                one.send_signal(signal.SIGSTOP)
                self.stopped.append(one)

    def end(self) -> None:
        """All come to their end, and none with an error of its own."""
        for one in self.stopped:
            one.send_signal(signal.SIGCONT)
        for one in self.living + self.stopped:
            _, errors = one.communicate(timeout=120)
            assert one.returncode == 0, errors

    def close(self) -> None:
        for one in self.living + self.stopped:
            with contextlib.suppress(ProcessLookupError):
                one.kill()
            one.communicate()


def logs_of(shelf: Shelf) -> dict[str, list[Entry]]:
    """The log, at the end."""

    async def read() -> dict[str, list[Entry]]:
        store = shelf.open()
        assert isinstance(store, PostgresStore | SqliteStore)
        found = {branch: await store.read(branch) for branch in BRANCHES}
        await store.close()
        return found

    return asyncio.run(read())


def judged(shelf: Shelf, folder: Path, kills: list[int]) -> list[str]:
    """What is wrong after all."""
    history, logs = histories(folder.glob("p*")), logs_of(shelf)
    for branch, log in logs.items():
        assert_whole(branch, log)
    told = [one.told for one in history]
    assert told.count("ok") > 50, "next to nothing was done"
    return wrong(history, logs, kills)


def trouble(
    shelf: Shelf, folder: Path, seed: int, seconds: float, faults: list[Callable[[], None]], *, bug: str = "none",
    places: list[str] | None = None, many: int = 3,
) -> None:  # fmt: skip
    """So many processes for so long, with whatever befalls them, and `faults` of what is around them."""
    drawn = random.Random(seed)
    crowd = Crowd(folder, drawn, time.monotonic() + seconds, bug)
    places = places or [shelf.place]
    try:
        for number in range(many):
            crowd.join(places[number % len(places)])
        for one in crowd.living:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n", one.communicate()[1]
        crowd.until_s = time.monotonic() + seconds
        while time.monotonic() < crowd.until_s:
            time.sleep(drawn.uniform(0.1, 0.4))
            if faults and drawn.random() < 0.4:
                drawn.choice(faults)()
            else:
                crowd.befall(drawn.choice(places))
        crowd.end()
    finally:
        crowd.close()


@dataclass
class Around:
    """What befalls the server and the way to it."""

    server: Postgres
    proxy: Proxy
    kills: list[int] = field(default_factory=list)

    def reset(self) -> None:
        self.proxy.reset()

    def stall(self) -> None:
        """For longer than a claim lasts, and sometimes than anybody waits."""
        self.proxy.flowing.clear()
        time.sleep(random.choice([0.6, 2.5]))
        self.proxy.flowing.set()

    def restart(self) -> None:
        self.server.restart()
        self.kills.append(time.monotonic_ns())


def on_postgres(
    postgres: Postgres, folder: Path, seed: int, seconds: float, bug: str = "none", many: int = 3
) -> list[str]:
    """A history on PostgreSQL: two thirds of the processes reach it by way of a proxy."""
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server that is not ours to kill")
    url = postgres.empty()
    shelf = Shelf("postgres", folder, url)
    asyncio.run(made(shelf))
    around = Around(postgres, Proxy(postgres.socket))
    by_proxy = url.partition("?")[0] + f"?host={around.proxy.folder}"
    try:
        faults = [around.reset, around.reset, around.stall, around.restart]
        trouble(shelf, folder, seed, seconds, faults, bug=bug, places=[by_proxy, by_proxy, url], many=many)
    finally:
        around.proxy.close()
    return judged(shelf, folder, around.kills)


async def made(shelf: Shelf) -> None:
    """So that nobody has to make the tables while others are killed."""
    await shelf.open().close()


def on_sqlite(folder: Path, seed: int, seconds: float, bug: str = "none", many: int = 3) -> list[str]:
    """A history on a file."""
    shelf = Shelf("sqlite", folder / "runs.db")
    asyncio.run(made(shelf))
    trouble(shelf, folder, seed, seconds, [], bug=bug, many=many)
    return judged(shelf, folder, [])


def test_a_history_on_postgres_contradicts_nothing(postgres: Postgres, tmp_path: Path) -> None:
    assert on_postgres(postgres, tmp_path, 1, 2.5) == []


def test_a_history_on_sqlite_contradicts_nothing(tmp_path: Path) -> None:
    assert on_sqlite(tmp_path, 1, 1.5) == []


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_missing_fence_is_found(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = (
        on_sqlite(tmp_path, 1, 1.5, "no fence")
        if kind == "sqlite"
        else on_postgres(request.getfixturevalue("postgres"), tmp_path, 1, 1.5, "no fence")
    )
    assert any("under epoch" in what or "was granted" in what for what in found), found


@pytest.mark.soak
@pytest.mark.parametrize("bug", ["blind retry", "hopeful", "same epoch"])
def test_what_is_planted_is_found(postgres: Postgres, tmp_path: Path, bug: str) -> None:
    for seed in range(10):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        if on_postgres(postgres, folder, seed, 6.0, bug, many=4):
            return
    raise AssertionError("ten histories with this bug, and nothing was found")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_no_history_contradicts_anything(kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = (
        on_sqlite(tmp_path, seed, 30.0, many=5)
        if kind == "sqlite"
        else on_postgres(request.getfixturevalue("postgres"), tmp_path, seed, 30.0, many=6)
    )
    assert found == []
