"""What lets a run go on, as a fold: days are written down here, not waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codec import encode
from holdfast.core.entry import Entry
from holdfast.core.record import (
    Cancelled,
    Checkpoint,
    Claim,
    Divergence,
    Draw,
    Finished,
    Forked,
    Record,
    Signal,
    Sleep,
    Started,
)
from holdfast.core.wake import AtWork, Failed, Outlook, Over, Owner, Quarantined, Ready, Rest, Waits, retry_ms
from tests.core.lives import (
    ANSWER,
    ARGS,
    DECISION,
    DRAW,
    HAPPENED,
    approval,
    attempt,
    hold,
    intent,
    read,
    refusal,
    seal,
    settled,
)

DAY_MS = 24 * 3600 * 1000
BEGIN_MS = 1_000_000
NOW_MS = BEGIN_MS + DAY_MS

FIRST = Claim(worker="w", previous="none")
AGAIN = Claim(worker="w", previous="released")
AFTER_DEATH = Claim(worker="w", previous="dead")
UNPROVEN = Claim(worker="w", previous="unproven")
STARTED = Started(agent="m:f", input=ARGS)
SIGNAL = Signal(name="paid", value=ANSWER, by="ann")
FOR_SIGNAL = Sleep(name="signal/paid", n=0, until_ms=0)
TAKEN = Draw(name="signal/paid", n=0, value="4")
DIVERGENCE = Divergence(asked="t", why="new", unclaimed=(1,))
RAISED = Finished(answer=None, error="ValueError")
RETURNED = Finished(answer=ANSWER, error=None)
ANSWERED = Ready("it was answered", answered=True)
CANCELLED = Cancelled(by="ann", reason="no")


def word(record: Record) -> tuple[Record]:
    """A record that was placed by somebody who held no claim."""
    return (record,)


def sleep(until_ms: int, name: str = "sleep", n: int = 0) -> Sleep:
    return Sleep(name=name, n=n, until_ms=until_ms)


def rest(*log: Record | tuple[Record], at_ms: int = BEGIN_MS) -> Rest:
    """A log, folded: one entry each millisecond, from `at_ms` on."""
    found, epoch = Rest(), 0
    for seq, each in enumerate(log, start=1):
        record = each[0] if isinstance(each, tuple) else each
        epoch += isinstance(record, Claim)
        entry = Entry("r@main", seq, 0 if isinstance(each, tuple) else epoch, at_ms + seq, b"", encode(record), b"")
        found.take(record, entry)
    return found


def released(*log: Record | tuple[Record], now_ms: int = NOW_MS) -> Outlook:
    return rest(*log).outlook(Owner.NOBODY, now_ms)


def died(*log: Record | tuple[Record], now_ms: int = NOW_MS) -> Outlook:
    return rest(*log).outlook(Owner.DEAD, now_ms)


# --- whoever is at it, and what is over ---


@pytest.mark.parametrize("log", [(RETURNED,), (word(CANCELLED),), (RAISED, AGAIN, RETURNED), (RETURNED, word(SIGNAL))])
@pytest.mark.parametrize("owner", Owner)
def test_what_is_over_is_over_whoever_holds_it(log: tuple[Record | tuple[Record], ...], owner: Owner) -> None:
    assert rest(FIRST, STARTED, *log).outlook(owner, NOW_MS) == Over()


def test_a_run_that_a_living_process_advances_is_left_to_it() -> None:
    log = rest(FIRST, STARTED, sleep(BEGIN_MS), word(SIGNAL), *[AFTER_DEATH] * 9)
    assert log.outlook(Owner.LIVING, NOW_MS) == AtWork()


# --- times ---


def test_a_sleep_of_days_is_waited_for_until_its_moment() -> None:
    until_ms = BEGIN_MS + 30 * DAY_MS
    log = (FIRST, STARTED, sleep(until_ms))
    assert released(*log) == Waits(until_ms)
    assert released(*log, now_ms=until_ms - 1) == Waits(until_ms)
    assert released(*log, now_ms=until_ms) == Ready("it is time")


def test_a_clock_that_is_set_back_while_a_run_sleeps_lets_it_sleep_on_and_loses_nothing() -> None:
    log = rest(FIRST, STARTED, sleep(BEGIN_MS + DAY_MS))
    assert log.outlook(Owner.NOBODY, BEGIN_MS - 300 * DAY_MS) == Waits(BEGIN_MS + DAY_MS)
    assert log.outlook(Owner.NOBODY, BEGIN_MS + DAY_MS) == Ready("it is time")


def test_a_clock_that_is_set_forward_wakes_it_at_once() -> None:
    assert released(FIRST, STARTED, sleep(BEGIN_MS + DAY_MS), now_ms=BEGIN_MS + 900 * DAY_MS) == Ready("it is time")


def test_a_life_that_slept_by_a_clock_that_had_been_set_back_in_the_middle_of_it_is_woken() -> None:
    """The claim was written by a clock that was a year ahead; then it was put right; then the sleep was asked for."""
    late = rest(FIRST, STARTED, at_ms=BEGIN_MS + 365 * DAY_MS)
    asked = sleep(BEGIN_MS + DAY_MS)
    late.take(asked, Entry("r@main", 3, 1, BEGIN_MS, b"", encode(asked), b""))
    assert late.outlook(Owner.NOBODY, BEGIN_MS) == Waits(BEGIN_MS + DAY_MS)
    assert late.outlook(Owner.NOBODY, BEGIN_MS + DAY_MS) == Ready("it is time")


def test_a_sleep_that_was_over_when_the_last_life_began_wakes_nobody_again() -> None:
    assert released(FIRST, STARTED, sleep(BEGIN_MS + 3), AGAIN, FOR_SIGNAL) == Waits(None)


def test_of_several_sleeps_the_first_that_ends_wakes_the_run() -> None:
    log = (FIRST, STARTED, sleep(NOW_MS + 50), sleep(NOW_MS + 20, n=1), sleep(NOW_MS + 30, "read/ab"))
    assert released(*log) == Waits(NOW_MS + 20)


def test_a_refusal_for_now_wakes_the_run_when_it_may_ask_again() -> None:
    log = (FIRST, STARTED, intent(), sleep(NOW_MS + 5, "retry/3"))
    assert released(*log) == Waits(NOW_MS + 5)
    later = (*log, AGAIN, attempt(3, 2, why="refused"), sleep(NOW_MS + 99, "retry/3"))
    assert released(*later) == Waits(NOW_MS + 99)


def test_a_late_bound_wakes_the_run_although_its_effect_is_in_doubt() -> None:
    assert released(FIRST, STARTED, intent(), AGAIN, sleep(NOW_MS + 5, "late/7")) == Waits(NOW_MS + 5)


# --- words ---


def test_a_run_waits_for_a_signal_until_one_comes() -> None:
    log = (FIRST, STARTED, FOR_SIGNAL)
    assert released(*log) == Waits(None)
    assert rest(*log).signal == "paid"
    assert released(*log, word(SIGNAL)) == ANSWERED


def test_a_signal_of_another_name_wakes_the_run_once() -> None:
    log = (FIRST, STARTED, FOR_SIGNAL, word(replace(SIGNAL, name="other")))
    assert released(*log) == ANSWERED
    assert released(*log, AGAIN, FOR_SIGNAL) == Waits(None)


def test_a_signal_that_was_placed_beside_a_call_in_flight_is_not_lost() -> None:
    """The run had parked; then the signal came; then a call that was under way got its seal."""
    log = (FIRST, STARTED, intent(), FOR_SIGNAL, word(SIGNAL), seal(3, HAPPENED))
    assert released(*log) == ANSWERED


def test_a_signal_that_was_taken_wakes_nobody() -> None:
    assert released(FIRST, STARTED, DECISION, word(SIGNAL), TAKEN, hold()) == Waits(None)


def test_a_signal_ends_a_sleep_early_for_one_life() -> None:
    log = (FIRST, STARTED, sleep(NOW_MS + 9), word(SIGNAL))
    assert released(*log) == ANSWERED
    assert released(*log, AGAIN) == Waits(NOW_MS + 9)


@pytest.mark.parametrize("verdict", [approval(3), refusal(3)])
def test_a_held_run_goes_on_when_it_is_answered(verdict: Record) -> None:
    log = (FIRST, STARTED, hold(expires_ms=NOW_MS + 5))
    assert released(*log) == Waits(NOW_MS + 5)
    assert released(*log, word(verdict)) == ANSWERED


def test_a_call_that_two_must_agree_to_is_not_answered_by_one_of_them() -> None:
    log = (FIRST, STARTED, hold(level="two", expires_ms=NOW_MS + 5), word(approval(3)))
    assert released(*log) == Waits(NOW_MS + 5)
    assert released(*log, AGAIN) == Waits(NOW_MS + 5)
    assert released(*log, AGAIN, word(approval(3))) == Waits(NOW_MS + 5), "the same person, once more"
    assert released(*log, word(approval(3, by="bob"))) == ANSWERED
    assert released(*log, AGAIN, word(approval(3, by="bob"))) == ANSWERED
    assert released(*log, word(refusal(3))) == ANSWERED


def test_a_hold_that_nobody_answered_in_time_is_asked_anew() -> None:
    log = (FIRST, STARTED, hold(expires_ms=NOW_MS))
    assert released(*log) == Ready("it is time")
    assert released(*log, AGAIN, hold(expires_ms=NOW_MS + DAY_MS)) == Waits(NOW_MS + DAY_MS)


def test_an_approval_that_was_used_wakes_nobody() -> None:
    log = (FIRST, STARTED, hold(), word(approval(3)), intent(approval=4), seal(5, HAPPENED), FOR_SIGNAL)
    assert released(*log) == Waits(None)


def test_a_doubt_waits_for_a_verdict_of_a_person() -> None:
    log = (FIRST, STARTED, intent(), AFTER_DEATH)
    assert released(*log) == Waits(None)
    assert released(*log, word(settled(3, HAPPENED))) == ANSWERED


def test_a_program_that_took_another_way_waits_for_a_person() -> None:
    assert released(FIRST, STARTED, DIVERGENCE) == Waits(None)
    assert died(FIRST, STARTED, DIVERGENCE) == Waits(None)
    assert rest(FIRST, STARTED, DIVERGENCE).diverged
    assert not rest(FIRST, STARTED, DIVERGENCE, DRAW).diverged


# --- branches ---


def forked(branch: str) -> Record:
    return Forked(branch=branch, parent="main", at=3, digest="d4" * 32, kind="recovery", group=None, by="ann", why="")


def test_a_branch_can_go_on_as_soon_as_it_is_made_whatever_its_parent_had_come_to() -> None:
    for before in (RAISED, DIVERGENCE, FOR_SIGNAL, sleep(NOW_MS + 9)):
        log = rest(FIRST, STARTED, before)
        born = forked("b2")
        log.take(born, Entry("r@b2", 4, 0, NOW_MS, b"tree", encode(born), b""))
        assert log.outlook(Owner.NOBODY, NOW_MS) == ANSWERED


def test_the_notice_of_a_fork_wakes_nobody_on_main() -> None:
    assert released(FIRST, STARTED, FOR_SIGNAL, word(forked("b2"))) == Waits(None)


def test_a_wait_for_another_branch_lasts_until_its_moment_if_it_has_one() -> None:
    log = (FIRST, STARTED, intent(), seal(3))
    assert released(*log, sleep(0, "kin/b2:7")) == Waits(None)
    assert released(*log, sleep(NOW_MS + 7, "kin/b2")) == Waits(NOW_MS + 7)
    assert rest(*log, sleep(0, "kin/b2:7")).kin_seq == 5
    assert rest(*log, sleep(0, "kin/b2:7"), AGAIN).kin_seq == 0


# --- ends that are no end ---


def test_a_run_whose_process_died_can_go_on_at_once() -> None:
    assert died(FIRST, STARTED) == Ready("its process has died", deaths=1)
    assert died(FIRST, STARTED, intent()) == Ready("its process has died", deaths=0)


def test_a_run_that_was_cut_off_between_its_steps_can_go_on_at_once() -> None:
    assert released(FIRST, STARTED, DECISION) == Ready("it was interrupted")
    assert released(FIRST, STARTED, FOR_SIGNAL, word(SIGNAL), AGAIN, TAKEN) == Ready("it was interrupted")


def test_an_agent_that_raised_has_failed_and_each_time_counts_in_which_nothing_was_done() -> None:
    assert released(FIRST, STARTED, RAISED) == Failed(1, BEGIN_MS + 3)
    assert released(FIRST, STARTED, RAISED, AGAIN, RAISED, AGAIN, RAISED) == Failed(3, BEGIN_MS + 7)
    assert released(FIRST, STARTED, RAISED, AGAIN, RAISED, AGAIN, DECISION, RAISED) == Failed(1, BEGIN_MS + 8)


def test_a_signal_does_not_mend_a_run_that_failed() -> None:
    assert released(FIRST, STARTED, RAISED, word(SIGNAL)) == Failed(1, BEGIN_MS + 3)


def test_a_run_that_kills_its_processes_is_left_alone_after_five_deaths() -> None:
    assert died(FIRST, STARTED, *[AFTER_DEATH] * 3) == Ready("its process has died", deaths=4)
    assert died(FIRST, STARTED, *[AFTER_DEATH] * 4) == Quarantined(5)
    assert died(FIRST, STARTED, *[AFTER_DEATH] * 4, word(SIGNAL)) == Quarantined(5)


def test_a_worker_that_was_overtaken_without_proof_counts_as_a_death() -> None:
    assert died(FIRST, STARTED, UNPROVEN, AFTER_DEATH, UNPROVEN, UNPROVEN) == Quarantined(5)


@pytest.mark.parametrize(
    "done",
    [
        DECISION,
        DRAW,
        intent(),
        read(),
        hold(),
        sleep(5),
        FOR_SIGNAL,
        Checkpoint(state=ANSWER, workspace=None, services=(), labels=()),
    ],
)
def test_deaths_are_counted_from_the_last_life_in_which_something_was_done(done: Record) -> None:
    log = (FIRST, STARTED, *[AFTER_DEATH] * 3)
    assert died(*log, done, *[AFTER_DEATH] * 4) == Ready("its process has died", deaths=4)
    assert died(*log, done, *[AFTER_DEATH] * 5) == Quarantined(5)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param((attempt(4),), id="a redo"),
        pytest.param((attempt(4), sleep(5, "retry/4")), id="a redo that is refused for now"),
        pytest.param((intent(bytes(31) + b"1", undoes=4),), id="an undo"),
        pytest.param((DECISION,), id="a decision that is asked for anew each time"),
    ],
)
def test_what_each_life_does_again_is_nothing_done(again: tuple[Record, ...]) -> None:
    log = (FIRST, STARTED, DECISION, intent(), sleep(5, "retry/4"))
    assert died(*log, *[AFTER_DEATH, *again] * 5) == Quarantined(5)


def test_a_life_that_ended_well_lifts_the_quarantine() -> None:
    """A person resumed it, and it did not die: the next life says `released` of the one before."""
    log = (FIRST, STARTED, *[AFTER_DEATH] * 5)
    assert released(*log) == Ready("it was interrupted")
    assert died(*log, AGAIN) == Ready("its process has died", deaths=1)


@pytest.mark.parametrize(("times", "pause_s"), [(1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (500, 3600)], ids=str)
def test_whoever_retries_waits_longer_each_time_and_never_more_than_an_hour(times: int, pause_s: int) -> None:
    assert retry_ms(Failed(times, BEGIN_MS), NOW_MS) == BEGIN_MS + pause_s * 1000
    assert retry_ms(Failed(times, NOW_MS), BEGIN_MS) == BEGIN_MS + pause_s * 1000  # a clock that was set back


# --- laws ---

PIECES = st.sampled_from(
    [
        AGAIN, AFTER_DEATH, DECISION, DRAW, FOR_SIGNAL, DIVERGENCE, RAISED, word(SIGNAL), hold(), intent(),
        sleep(BEGIN_MS + 5), sleep(NOW_MS + 5, n=1), sleep(BEGIN_MS + 2, "retry/3"),
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12), st.integers(0, 2 * NOW_MS))
def test_whatever_the_log_says_a_word_lets_every_resting_run_go_on(
    pieces: list[Record | tuple[Record]], now_ms: int
) -> None:
    """Unless it has failed, which a word does not mend."""
    outlook = released(FIRST, STARTED, *pieces, word(SIGNAL), now_ms=now_ms)
    assert isinstance(outlook, Ready | Failed)


@given(st.lists(PIECES, max_size=12), st.integers(BEGIN_MS + 20, 2 * NOW_MS))
def test_a_moment_that_is_waited_for_comes(pieces: list[Record | tuple[Record]], now_ms: int) -> None:
    """Whoever waits until the moment that was named finds that it is time."""
    outlook = released(FIRST, STARTED, *pieces, now_ms=now_ms)
    if isinstance(outlook, Waits) and outlook.until_ms is not None:
        assert outlook.until_ms > now_ms
        assert isinstance(released(FIRST, STARTED, *pieces, now_ms=outlook.until_ms), Ready)


@given(st.text(max_size=20))
def test_a_name_that_stands_for_no_place_breaks_nothing(text: str) -> None:
    odd = text.encode("utf-8", "replace").decode()
    log = (FIRST, STARTED, Sleep(name=f"retry/{odd}", n=0, until_ms=0), Draw(name="signal/x", n=0, value=odd))
    assert isinstance(released(*log), Outlook)
