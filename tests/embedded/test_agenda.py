"""What a watcher has to do, and when: by clocks that the tests set as they like."""

from __future__ import annotations

import pytest

from holdfast.core.wake import Ready, Waits
from holdfast.embedded.agenda import STALE, Agenda, Due
from holdfast.embedded.outlook import Seen

DAY_MS = 24 * 3600 * 1000
NOW_MS = 100 * DAY_MS
READY = Ready("it was answered", answered=True)


def seen(run: str = "r") -> Seen:
    return Seen(run, f"{run}@main", 3, 1, "m:f", Waits(None))


def runs(agenda: Agenda) -> list[str]:
    return [due.seen.run for due in agenda]


def test_what_may_go_on_now_is_there_at_once_in_the_order_in_which_it_was_found() -> None:
    agenda = Agenda()
    for run in ("b", "a", "c"):
        agenda.put(Due(seen(run), READY))
    assert runs(agenda) == ["b", "a", "c"]


def test_a_moment_comes_when_the_wall_clock_says_so() -> None:
    agenda = Agenda()
    agenda.put_at(seen(), NOW_MS)
    agenda.turn(NOW_MS - 1, 0.0)
    assert runs(agenda) == []
    agenda.turn(NOW_MS, 0.0)
    assert runs(agenda) == ["r"]


def test_a_clock_that_is_set_back_and_forward_loses_no_moment() -> None:
    agenda = Agenda()
    agenda.put_at(seen("a"), NOW_MS + DAY_MS)
    agenda.put_at(seen("b"), NOW_MS + 2 * DAY_MS)
    for clock_ms in (NOW_MS, NOW_MS - 50 * DAY_MS, NOW_MS + DAY_MS):
        agenda.turn(clock_ms, 0.0)
    assert runs(agenda) == ["a"]
    agenda.turn(NOW_MS - 50 * DAY_MS, 0.0)
    assert runs(agenda) == ["a"], "what has become due stays so"
    agenda.turn(NOW_MS + 900 * DAY_MS, 0.0)
    assert runs(agenda) == ["a", "b"]


def test_a_pause_is_counted_by_a_clock_that_nobody_sets() -> None:
    agenda = Agenda()
    agenda.put_after(Due(seen(), READY), 10.0)
    agenda.turn(NOW_MS + 900 * DAY_MS, 9.9)
    assert runs(agenda) == []
    agenda.turn(NOW_MS - 900 * DAY_MS, 10.0)
    assert runs(agenda) == ["r"]


@pytest.mark.parametrize("place", ["ready", "moment", "pause"])
def test_a_run_stands_in_it_once_and_what_was_dropped_is_gone(place: str) -> None:
    agenda = Agenda()
    for put in ("ready", "moment", "pause", place):
        match put:
            case "ready":
                agenda.put(Due(seen(), READY))
            case "moment":
                agenda.put_at(seen(), NOW_MS)
            case _:
                agenda.put_after(Due(seen(), READY), 1.0)
    agenda.turn(NOW_MS, 1.0)
    assert runs(agenda) == ["r"]
    agenda.drop("r")
    agenda.turn(2 * NOW_MS, 2.0)
    assert runs(agenda) == []


def test_it_waits_until_the_next_moment_and_never_longer_than_it_is_told() -> None:
    agenda = Agenda()
    assert agenda.wait_s(NOW_MS, 0.25) == 0.25
    agenda.put_at(seen(), NOW_MS + 100)
    assert agenda.wait_s(NOW_MS, 0.25) == pytest.approx(0.1)
    assert agenda.wait_s(NOW_MS - DAY_MS, 0.25) == 0.25
    assert agenda.wait_s(NOW_MS + DAY_MS, 0.25) == 0.0


def test_a_run_that_is_put_in_anew_ten_thousand_times_takes_the_room_of_a_few() -> None:
    agenda = Agenda()
    for number in range(10 * STALE):
        agenda.put_at(seen(), NOW_MS + DAY_MS - number)
    assert len(agenda._moments) <= 2 * STALE
    agenda.turn(NOW_MS + DAY_MS, 0.0)
    assert runs(agenda) == ["r"]
