"""A storm: everything that sleeps is due at one moment, and a worker with many runs at work is killed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from holdfast.core.record import Sleep
from tests.fleet import crew
from tests.fleet.yard import Fleet, soon


def load(fleet: Fleet) -> tuple[int, int]:
    """Transactions and bytes of write-ahead log so far."""
    sql = (
        "SELECT (SELECT sum(xact_commit) FROM pg_stat_database)::bigint,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
    )
    ((commits, wal),) = fleet.rows(sql)
    return commits, wal


def storm(fleet: Fleet, asleep: int, at_work: int, calm_s: float) -> dict[str, Any]:
    """Some runs sleep until one moment, others are at work on a worker that is killed; what it took to go on (`pytest
    -rP` shows it)."""
    (fleet.place / "thinking").touch()
    first = fleet.worker("--at-once", str(at_work))
    fleet.begin(crew.working, {f"w{number}": f"w{number}" for number in range(at_work)})
    soon(lambda: len(fleet.book()) == at_work, "all are at work", 300)
    moment = int((time.time() + calm_s) * 1000)
    sleepers = [f"s{number}" for number in range(asleep)]
    fleet.plant(sleepers, crew.sleeper, 3600, Sleep(name="sleep", n=0, until_ms=moment))
    fleet.worker("--at-once", str(at_work))
    before = load(fleet)
    fleet.kill(first)
    killed_s = time.monotonic()
    held = "SELECT count(*) FROM holdfast.branch WHERE epoch >= 3 AND name LIKE 'w%%@main'"
    soon(lambda: fleet.rows(held)[0][0] == at_work, "all are taken over", 600)
    taken_s = time.monotonic() - killed_s
    (fleet.place / "thinking").unlink()
    soon(lambda: fleet.finished() == asleep + at_work, "all have ended", 1200)
    all_s = time.monotonic() - killed_s
    after = load(fleet)
    first_ms, last_ms = fleet.rows(
        "SELECT min(e.at_ms), max(e.at_ms) FROM holdfast.entry e JOIN holdfast.branch b ON b.id = e.branch"
        " WHERE b.name LIKE 's%%@main' AND e.epoch = 2"
    )[0]
    fleet.check()
    assert all(
        fleet.done("wire", f"w{number}-{part}") == 1 for number in range(at_work) for part in ("first", "second")
    )
    assert first_ms >= moment, "a sleep was cut short"
    return {
        "asleep": asleep, "at work": at_work,
        "taken over after s": round(taken_s, 2), "all over after s": round(all_s, 2),
        "sleepers done s after their moment": round((last_ms - moment) / 1000, 2),
        "transactions": after[0] - before[0], "WAL MB": round((after[1] - before[1]) / 1e6, 1),
    }  # fmt: skip


def test_all_runs_go_on_after_a_storm(fleet: Fleet) -> None:
    print(storm(fleet, 200, 40, 2.0))


@pytest.mark.soak
def test_all_runs_go_on_after_a_storm_of_ten_thousand(fleet: Fleet) -> None:
    print(storm(fleet, 10_000, 500, 60.0))
