"""Runs that wait: sleeps, signals, refusals for now, cancellations. Waiting costs no claim, and nothing is waited for
twice."""

import asyncio
import threading
import time
from typing import Any

import pytest

from holdfast import (
    Asleep,
    AwaitingSignal,
    Cancelled,
    Claimed,
    Held,
    House,
    InDoubt,
    NotHappened,
    RetryAfter,
    agent,
    open_store,
    tool,
)
from holdfast.core.record import Attempt, Draw, Intent, Seal, Signal, Sleep
from holdfast.core.record import Cancelled as WasCancelled
from holdfast.errors import BadCall, Misuse, Unknown
from holdfast.gateway import send
from tests.stage import Killed, life, of, story


def holder(house: House, run: str = "r") -> str:
    """Who holds the run's claim."""
    (branch,) = asyncio.run(house.store.branches(f"{run}@main"))
    return branch.holder


def until_begun(house: House) -> None:
    """Return when the run has written something."""
    deadline_s = time.monotonic() + 30
    while not asyncio.run(house.store.read("r@main")):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is waited for longer than a moment frees the worker."""
    monkeypatch.setattr(send, "PATIENCE_S", 0.05)


# --- sleeping ---


def test_a_short_sleep_is_slept_in_place() -> None:
    @agent
    def sleeper(run: Any, task: Any) -> float:
        before_s = time.time()
        run.sleep(0.2)
        return time.time() - before_s

    with open_store("memory://") as house:
        assert life(house, sleeper) > 0.19
        assert story(house) == "started sleep finished"


@pytest.mark.usefixtures("impatient")
def test_a_long_sleep_frees_the_worker_and_ends_when_it_would_have() -> None:
    began_s: list[float] = []

    @agent
    def sleeper(run: Any, task: Any) -> float:
        began_s.append(time.time())
        run.sleep(0.6)
        return time.time() - began_s[0]

    with open_store("memory://") as house:
        asleep = life(house, sleeper)
        assert isinstance(asleep, Asleep)
        assert holder(house) == ""
        assert isinstance(life(house, sleeper), Asleep)  # resumed too early: it goes on sleeping
        assert house.run(sleeper, id="r") > 0.59
        (sleep,) = of(Sleep, house)
        assert sleep.until_ms == asleep.until_ms


def test_a_sleep_that_was_slept_is_not_slept_again() -> None:
    deaths = [False, True]

    @agent
    def sleeper(run: Any, task: Any) -> str:
        run.sleep(0.1)
        run.sleep(0.1)
        if deaths.pop():
            raise Killed
        return "awake"

    with open_store("memory://") as house:
        life(house, sleeper)
        assert life(house, sleeper) == "awake"
        assert [(sleep.name, sleep.n) for sleep in of(Sleep, house)] == [("sleep", 0), ("sleep", 1)]


@pytest.mark.parametrize("seconds", [0, -3])
def test_no_time_at_all_is_slept_at_once(seconds: float) -> None:
    @agent
    def sleeper(run: Any, task: Any) -> str:
        run.sleep(seconds)
        return "awake"

    with open_store("memory://") as house:
        assert life(house, sleeper) == "awake"


@pytest.mark.parametrize("seconds", [1e10, float("inf"), float("nan")])
def test_nobody_sleeps_for_ever(seconds: float) -> None:
    @agent
    def sleeper(run: Any, task: Any) -> None:
        run.sleep(seconds)

    with open_store("memory://") as house:
        assert isinstance(life(house, sleeper), BadCall)
        assert not of(Sleep, house)


# --- refused for now ---


def test_a_refusal_for_now_keeps_the_key_and_is_no_doubt() -> None:
    sent: list[int] = []

    @tool(kind="irreversible")
    async def post() -> int:
        sent.append(1)
        if len(sent) < 3:
            raise RetryAfter(0.02)
        return len(sent)

    @agent
    async def posts(run: Any, task: Any) -> int:
        return await post()

    with open_store("memory://") as house:
        assert life(house, posts) == 3
        assert [attempt.why for attempt in of(Attempt, house)] == ["refused", "refused"]
        assert len(of(Intent, house)) == 1


@pytest.mark.usefixtures("impatient")
def test_a_long_refusal_frees_the_worker_and_outlives_a_crash() -> None:
    sent_s: list[float] = []

    @tool(kind="irreversible")
    def post() -> int:
        sent_s.append(time.time())
        if len(sent_s) == 1:
            raise RetryAfter(0.5)
        return len(sent_s)

    @agent
    def posts(run: Any, task: Any) -> int:
        return post()

    with open_store("memory://") as house:
        assert isinstance(life(house, posts), Asleep)
        assert holder(house) == ""
        assert house.run(posts, id="r") == 2
        assert sent_s[1] - sent_s[0] > 0.49


def test_a_tool_that_is_to_be_asked_in_an_hour_frees_the_worker_at_once() -> None:
    @tool(kind="idempotent")
    def put() -> None:
        raise RetryAfter(3600)

    @agent
    def puts(run: Any, task: Any) -> None:
        put()

    with open_store("memory://") as house:
        before_ms = time.time() * 1000
        asleep = life(house, puts)
        assert isinstance(asleep, Asleep)
        assert asleep.until_ms is not None
        assert 3_600_000 <= asleep.until_ms - before_ms + 1 < 3_700_000
        assert holder(house) == ""
        assert "it wakes by itself" in asleep.fix


@pytest.mark.usefixtures("impatient")
def test_a_wait_for_what_may_still_arrive_late_is_written_down() -> None:
    """The contract names the bound, and the log does not hold the contract."""
    sent = []

    def find() -> NotHappened:
        return NotHappened("not there")

    @tool(kind="irreversible", probe=find, late_s=3600)
    def post() -> None:
        sent.append(1)
        raise Killed

    @agent
    def posts(run: Any, task: Any) -> None:
        post()

    with open_store("memory://") as house:
        life(house, posts)
        for _ in range(2):
            asleep = life(house, posts)
            assert isinstance(asleep, Asleep)
        assert sent == [1]
        assert [sleep.until_ms for sleep in of(Sleep, house)] == [asleep.until_ms]


# --- signals ---


def listener(*names: str, after: Any = None) -> Any:
    """An agent that waits for these signals, one after another."""

    @agent
    def listens(run: Any, task: Any) -> list[Any]:
        heard = [run.wait_for(name) for name in names]
        if after is not None:
            after()
        return heard

    return listens


def test_a_run_waits_for_a_signal_and_costs_nothing_meanwhile() -> None:
    with open_store("memory://") as house:
        for _ in range(2):
            waiting = life(house, listener("go"))
            assert isinstance(waiting, AwaitingSignal)
            assert waiting.fix == "holdfast signal r go JSON"
            assert holder(house) == ""
        house.signal("r", "go", {"to": "west"}, by="ann")
        assert life(house, listener("go")) == [{"to": "west"}]
        assert [signal.by for signal in of(Signal, house)] == ["ann"]


def test_a_signal_that_came_before_it_was_waited_for_is_heard() -> None:
    @agent
    def late(run: Any, task: Any) -> Any:
        house.signal("r", "go", 7)
        return run.wait_for("go")

    with open_store("memory://") as house:
        assert life(house, late) == 7


def test_signals_are_heard_in_the_order_in_which_they_were_sent() -> None:
    with open_store("memory://") as house:
        life(house, listener("go"))
        for number in range(3):
            house.signal("r", "go", number)
        assert life(house, listener("go", "go", "go")) == [0, 1, 2]


def test_signals_of_other_names_are_left_for_whoever_waits_for_them() -> None:
    with open_store("memory://") as house:
        life(house, listener("go"))
        for name in ("stop", "go", "other"):
            house.signal("r", name, name)
        assert life(house, listener("go", "other", "stop")) == ["go", "other", "stop"]


def test_each_wait_takes_one_signal_and_keeps_it_over_a_crash() -> None:
    deaths = [False, True, True]

    def dies() -> None:
        if deaths.pop():
            raise Killed

    with open_store("memory://") as house:
        life(house, listener("go"))
        house.signal("r", "go", 1)
        house.signal("r", "go", 2)
        assert isinstance(life(house, listener("go", after=dies)), Killed)
        house.signal("r", "go", 3)
        assert isinstance(life(house, listener("go", "go", after=dies)), Killed)
        assert life(house, listener("go", "go", "go", after=dies)) == [1, 2, 3]
        assert [draw.n for draw in of(Draw, house)] == [0, 1, 2]


class Distant:
    """A store that takes a moment to write, as one on another machine does."""

    def __init__(self, near: Any) -> None:
        self._near = near

    def __getattr__(self, name: str) -> Any:
        return getattr(self._near, name)

    async def append(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.001)
        return await self._near.append(*args, **kwargs)


def test_parallel_waits_for_one_signal_take_one_each() -> None:
    @agent
    async def both(run: Any, task: Any) -> list[Any]:
        return list(await asyncio.gather(*(run.wait_for("go") for _ in range(3))))

    with open_store("memory://") as house:
        house.store = Distant(house.store)
        assert isinstance(life(house, both), AwaitingSignal)
        for number in range(3):
            house.signal("r", "go", number)
        assert life(house, both) == [0, 1, 2]
        assert sorted(draw.value for draw in of(Draw, house)) == [str(seq) for seq in (4, 5, 6)]


def test_a_signal_that_comes_while_a_call_in_flight_is_brought_to_its_end_is_heard() -> None:
    """The run has parked, and only then is the signal placed, and only then the seal of what was under way."""

    begun, placed = threading.Event(), threading.Event()

    @tool(kind="irreversible")
    def slow() -> str:
        begun.set()
        placed.wait(60)
        return "sealed"

    @agent
    async def both(run: Any, task: Any) -> list[Any]:
        sealed = asyncio.ensure_future(asyncio.to_thread(slow))
        await asyncio.to_thread(begun.wait, 60)
        return [await run.wait_for("go"), await sealed]

    with open_store("memory://") as house:
        until = threading.Thread(target=lambda: (until_slept(house), house.signal("r", "go", 7), placed.set()))
        until.start()
        assert house.run(both, id="r") == [7, "sealed"]
        until.join()
        assert story(house) == "started intent sleep signal seal draw finished"


def until_slept(house: House) -> None:
    """Return when the log says that the run waits for a signal."""
    deadline_s = time.monotonic() + 30
    while not of(Sleep, house):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_wait_for_a_signal_is_written_down_so_that_whoever_looks_knows_it_from_an_interruption() -> None:
    with open_store("memory://") as house:
        life(house, listener("go"))
        assert [(sleep.name, sleep.until_ms) for sleep in of(Sleep, house)] == [("signal/go", 0)]
        house.signal("r", "other", 1)
        life(house, listener("go"))
        assert story(house) == "started sleep signal sleep"


def test_parallel_waits_for_several_signals_end_when_all_have_come() -> None:
    @agent
    async def both(run: Any, task: Any) -> list[Any]:
        return list(await asyncio.gather(run.wait_for("a"), run.wait_for("b")))

    with open_store("memory://") as house:
        life(house, both)
        house.signal("r", "b", "second")
        assert isinstance(life(house, both), AwaitingSignal)
        house.signal("r", "a", "first")
        assert life(house, both) == ["first", "second"]


def test_a_waiting_run_goes_on_by_itself_when_the_signal_comes() -> None:
    answers: list[Any] = []
    with open_store("memory://") as house:
        runner = threading.Thread(target=lambda: answers.append(house.run(listener("go"), id="r")))
        runner.start()
        until_begun(house)
        house.signal("r", "go", "now")
        runner.join(30)
        assert answers == [["now"]]


def test_a_run_in_doubt_goes_on_by_itself_when_somebody_settles_it() -> None:
    answers: list[Any] = []

    @tool(kind="irreversible", name="post")
    def post() -> str:
        raise OSError("the answer was lost")

    @agent
    def posts(run: Any, task: Any) -> str:
        return post()

    with open_store("memory://") as house:
        doubt = life(house, posts)
        assert isinstance(doubt, InDoubt)
        runner = threading.Thread(target=lambda: answers.append(house.run(posts, id="r")))
        runner.start()
        place: str | None = None
        deadline_s = time.monotonic() + 30
        while place is None:
            assert time.monotonic() < deadline_s
            try:
                place = house.settle(doubt.where, happened="found by ann", by="ann")
            except Claimed:  # the run looks into it at this moment
                time.sleep(0.01)
        runner.join(30)
        assert answers == ["found by ann"]


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "x" * 201])
def test_a_signal_that_cannot_be_named_is_refused(name: str) -> None:
    with open_store("memory://") as house:
        ending = life(house, listener(name))
        assert isinstance(ending, BadCall)


def test_a_signal_to_no_run_is_refused() -> None:
    with open_store("memory://") as house, pytest.raises(Unknown, match="there is no run `r`"):
        house.signal("r", "go")


# --- cancelling ---


def test_a_waiting_run_that_is_cancelled_ends_and_stays_ended() -> None:
    with open_store("memory://") as house:
        life(house, listener("go"))
        house.cancel("r", by="ann", reason="not needed")
        house.signal("r", "go")
        for _ in range(2):
            ending = life(house, listener("go"))
            assert isinstance(ending, Cancelled)
            assert "cancelled by ann: not needed" in str(ending)
        assert len(of(WasCancelled, house)) == 1


def test_somebody_who_waits_with_the_run_hears_that_it_was_cancelled() -> None:
    endings: list[Any] = []
    with open_store("memory://") as house:

        def runs() -> None:
            try:
                house.run(listener("go"), id="r")
            except Cancelled as ending:
                endings.append(ending)

        runner = threading.Thread(target=runs)
        runner.start()
        until_begun(house)
        house.cancel("r", by="ann")
        runner.join(30)
        assert len(endings) == 1


def test_a_cancellation_that_comes_just_before_a_run_waits_is_heard() -> None:
    @agent
    async def waiter(run: Any, task: Any) -> Any:
        await house.desk.cancel("r", by="ann", reason="no more")
        return await run.wait_for("go")

    with open_store("memory://") as house:
        assert isinstance(life(house, waiter), Cancelled)


def test_a_cancellation_that_comes_just_before_a_run_is_held_again_is_heard() -> None:
    cancels = False

    @tool(kind="irreversible", approval="one")
    def pay() -> int:
        raise AssertionError("nobody agreed to it")

    @agent
    async def payer(run: Any, task: Any) -> Any:
        if cancels:
            await house.desk.cancel("r", by="ann", reason="no more")
        return await run.call(pay)

    with open_store("memory://") as house:
        assert isinstance(life(house, payer), Held)
        cancels = True
        assert isinstance(life(house, payer), Cancelled)


def test_a_held_call_of_a_cancelled_run_never_happens() -> None:
    done: list[int] = []

    @tool(kind="irreversible", approval="one")
    def pay() -> int:
        done.append(1)
        return 1

    @agent
    def payer(run: Any, task: Any) -> int:
        return pay()

    with open_store("memory://") as house:
        held = life(house, payer)
        assert isinstance(held, Held)
        house.approve(held.where, by="ann")
        house.cancel("r", by="bob")
        assert isinstance(life(house, payer), Cancelled)
        assert not done


def test_what_is_in_flight_when_a_run_is_cancelled_is_sealed_and_nothing_follows() -> None:
    done: list[str] = []

    @tool(kind="irreversible", name="first")
    def first() -> str:
        house.cancel("r", by="ann")
        done.append("first")
        return "first"

    @tool(kind="irreversible", name="second")
    def second() -> str:
        done.append("second")
        return "second"

    @agent
    def both(run: Any, task: Any) -> str:
        return first() + second()

    with open_store("memory://") as house:
        assert isinstance(life(house, both), Cancelled)
        assert done == ["first"]
        assert [seal.tool for seal in of(Seal, house)] == ["first"]
        assert isinstance(life(house, both), Cancelled)
        assert done == ["first"]


def test_an_agent_that_swallows_its_cancellation_still_starts_nothing() -> None:
    done: list[str] = []

    @tool(kind="irreversible", repeat="each")
    def act() -> str:
        done.append("act")
        house.cancel("r", by="ann")
        return "act"

    @agent
    def stubborn(run: Any, task: Any) -> str:
        act()
        for _ in range(3):
            try:
                act()
            except Exception:  # noqa: BLE001
                continue
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, stubborn), Cancelled)
        assert done == ["act"]


@pytest.mark.parametrize("what", ["decide", "read"])
def test_a_run_that_only_thinks_and_reads_is_ended_too(what: str) -> None:
    asked: list[int] = []

    def model(number: int) -> int:
        asked.append(number)
        if number == 3:
            house.cancel("r", by="ann")
        return number

    look = tool(kind="read", name="look")(model)

    @agent
    def thinker(run: Any, task: Any) -> str:
        for number in range(20):
            if what == "decide":
                run.decide(model, number)
            else:
                look(number)
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, thinker), Cancelled)
        assert max(asked) == 3


def test_a_run_that_is_cancelled_in_its_sleep_does_not_go_on() -> None:
    after: list[str] = []

    @agent
    def sleeper(run: Any, task: Any) -> str:
        threading.Timer(0.05, lambda: house.cancel("r", by="ann")).start()
        run.sleep(0.4)
        after.append("awake")
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, sleeper), Cancelled)
        assert not after


def test_what_has_ended_cannot_be_cancelled() -> None:
    @agent
    def quick(run: Any, task: Any) -> int:
        return 1

    with open_store("memory://") as house:
        life(house, quick)
        with pytest.raises(Misuse, match="has ended already"):
            house.cancel("r", by="ann")
        with pytest.raises(Unknown):
            house.cancel("other", by="ann")
        assert life(house, quick) == 1
