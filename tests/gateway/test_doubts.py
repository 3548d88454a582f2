"""An effect that may have happened: how each kind is settled, and what never happens meanwhile (G3, G4).

Everywhere a tool that raises `Killed` after it has acted stands for a process that dies after the world was changed and
before the seal is written.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import Happened, InDoubt, NotHappened, RetryAfter, agent, key, open_store, tool
from holdfast.core.record import Attempt, Divergence, Intent, Seal, Settled
from holdfast.errors import Asleep, Cancelled, Corrupt, RolledBack
from holdfast.gateway import send, settle
from tests.crash.deaths import Census
from tests.stage import Killed, life, of, story


class World:
    """What tools have done, in order, and what is to go wrong with the next of them."""

    def __init__(self, *troubles: BaseException | None) -> None:
        self.done: list[Any] = []
        self.keys: list[str] = []
        self.troubles = list(troubles)

    def act(self, what: Any = "act", *, before: bool = False) -> str:
        """Do something; raise the next trouble after it, or (`before`) instead of it."""
        trouble = self.troubles.pop(0) if self.troubles else None
        self.keys.append(key())
        if trouble is not None and before:
            raise trouble
        self.done.append(what)
        if trouble is not None:
            raise trouble
        return f"done {len(self.done)}"


def until(holds: Callable[[], object]) -> None:
    """Return when it does."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def caller(act: Any) -> Any:
    @agent
    def calls(run: Any, task: Any) -> Any:
        return act()

    return calls


# --- each kind, after a crash ---


def test_a_read_that_nobody_heard_the_answer_of_is_read_again() -> None:
    seen: list[int] = []

    @tool(kind="read")
    def look() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise Killed
        return len(seen)

    with open_store("memory://") as house:
        assert isinstance(life(house, caller(look)), Killed)
        assert life(house, caller(look)) == 2
        assert story(house) == "started seal finished"


def test_an_idempotent_effect_is_sent_again_with_the_same_key() -> None:
    world = World(Killed())

    @tool(kind="idempotent")
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        assert isinstance(life(house, caller(put)), Killed)
        assert life(house, caller(put)) == "done 2"
        assert world.keys[0] == world.keys[1]
        assert story(house) == "started intent attempt seal finished"
        assert [record.why for record in of(Attempt, house)] == ["doubt"]


def test_a_reversible_effect_is_taken_back_and_then_done_again() -> None:
    world = World(Killed())

    def take_back(name: str, answer: str | None) -> None:
        world.act(("undo", name, answer))

    @tool(kind="reversible", undo=take_back)
    def make(name: str) -> str:
        return world.act(("make", name))

    with open_store("memory://") as house:
        assert isinstance(life(house, caller(lambda: make("net"))), Killed)
        assert life(house, caller(lambda: make("net"))) == "done 3"
        assert world.done == [("make", "net"), ("undo", "net", None), ("make", "net")]
        assert world.keys[0] == world.keys[2] != world.keys[1]
        assert story(house) == "started intent intent seal attempt seal finished"
        assert of(Intent, house)[1].undoes == 3


def test_an_irreversible_effect_that_cannot_be_asked_about_waits_for_a_person() -> None:
    world = World(Killed())

    @tool(kind="irreversible", name="mail.send")
    def post() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(post))
        for _ in range(3):
            doubt = life(house, caller(post))
            assert isinstance(doubt, InDoubt)
            assert doubt.where == "r@3"
            assert str(doubt).startswith(
                "`mail.send` may have happened: it is irreversible and has no probe [r@3]\n  fix:"
            )
            assert "holdfast settle r@3 --happened" in doubt.fix
        assert world.done == ["act"]


@pytest.mark.parametrize("kind", ["reversible", "irreversible"])
def test_a_probe_that_finds_it_seals_it_with_the_answer(kind: str) -> None:
    world = World(Killed())
    probed: list[tuple[str, str]] = []

    def find(name: str) -> Happened[str]:
        probed.append((name, key()))
        return Happened("found", etag="v7")

    @tool(kind=kind, probe=find, undo=(lambda: None) if kind == "reversible" else None)
    def make(name: str, size: int) -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(lambda: make("net", 3)))
        assert life(house, caller(lambda: make("net", 3))) == "found"
        assert probed == [("net", world.keys[0])]
        assert world.done == ["act"]
        (settled,) = of(Settled, house)
        assert (settled.by, settled.outcome.etag) == ("probe", "v7")
        assert story(house) == "started intent settled finished"


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("kind", ["reversible", "irreversible"])
def test_a_probe_that_knows_it_did_not_happen_lets_it_be_sent_again(kind: str, *, raises: bool) -> None:
    world = World(Killed())

    def find() -> NotHappened:
        absent = NotHappened("no such thing")
        if raises:
            raise absent
        return absent

    @tool(kind=kind, probe=find, undo=(lambda: world.act("undo")) if kind == "reversible" else None)
    def make() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        life(house, caller(make))
        assert life(house, caller(make)) == "done 1"
        assert world.done == ["act"]
        assert [record.why for record in of(Attempt, house)] == ["absent"]


def test_a_probe_that_cannot_tell_asks_a_person() -> None:
    world = World(Killed())

    @tool(kind="irreversible", probe=lambda: None)
    def post() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(post))
        doubt = life(house, caller(post))
        assert isinstance(doubt, InDoubt)
        assert "its probe cannot tell" in str(doubt)
        assert world.done == ["act"]


async def test_an_async_probe_and_an_async_undo_are_awaited() -> None:
    world = World(Killed(), None, OSError("lost"))

    async def find() -> NotHappened:
        return NotHappened("gone")

    async def take_back() -> None:
        world.act("undo")

    @tool(kind="irreversible", probe=find)
    async def post() -> str:
        return world.act("post")

    @tool(kind="reversible", undo=take_back)
    async def make() -> str:
        return world.act("make")

    @agent
    async def both(run: Any, task: Any) -> list[str]:
        return [await post(), await make()]

    async with open_store("memory://") as house:
        with pytest.raises(Killed):
            await house.arun(both, id="r")
        assert await house.arun(both, id="r", wait=False) == ["done 2", "done 5"]
        assert world.done == ["post", "post", "make", "undo", "make"]


@pytest.mark.parametrize("answer", ["yes", 1, True, [], ("Happened", 1)])
def test_a_probe_that_answers_anything_else_is_not_believed(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST_ATTEMPTS", 1)
    world = World(Killed())

    @tool(kind="irreversible", probe=lambda: answer)
    def post() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(post))
        doubt = life(house, caller(post))
        assert isinstance(doubt, InDoubt)
        assert "answer Happened(answer), NotHappened(reason) or None" in str(doubt) or "a probe answered" in str(doubt)
        assert world.done == ["act"]


def test_a_probe_that_fails_is_asked_again_and_then_a_person_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST_ATTEMPTS", 2)
    world, asked = World(Killed()), []

    def find() -> None:
        asked.append(1)
        raise OSError("the network is down")

    @tool(kind="irreversible", probe=find)
    def post() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(post))
        doubt = life(house, caller(post))
        assert isinstance(doubt, InDoubt)
        assert "it was tried 2 times; the last time: the probe failed: OSError: the network is down" in str(doubt)
        assert len(asked) == 2
        assert world.done == ["act"]


def test_a_probe_is_believed_only_when_nothing_can_arrive_late_any_more() -> None:
    world, asked_s = World(Killed()), []

    def find() -> NotHappened:
        asked_s.append(time.time())
        return NotHappened("not there")

    @tool(kind="irreversible", probe=find, late_s=0.4)
    def post() -> str:
        sent_s.append(time.time())
        return world.act(before=True)

    sent_s: list[float] = []
    with open_store("memory://") as house:
        life(house, caller(post))
        assert life(house, caller(post)) == "done 1"
        assert asked_s[0] - sent_s[0] > 0.38  # never before; how much later is no matter


def test_an_undo_too_waits_until_nothing_can_arrive_late() -> None:
    world, undone_s, sent_s = World(Killed()), [], []

    def take_back() -> None:
        undone_s.append(time.time())

    @tool(kind="reversible", undo=take_back, late_s=0.4)
    def make() -> str:
        sent_s.append(time.time())
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(make))
        assert life(house, caller(make)) == "done 2"
        assert undone_s[0] - sent_s[0] > 0.38


# --- errors and timeouts of a write, in one life ---


@pytest.mark.parametrize(
    "trouble", [OSError("reset"), TimeoutError(), ValueError("502"), RuntimeError(), KeyError("x")]
)
def test_any_error_of_a_write_is_doubt_and_not_failure(trouble: Exception) -> None:
    world = World(trouble)

    @tool(kind="idempotent")
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        assert life(house, caller(put)) == "done 2"
        assert world.keys[0] == world.keys[1]

    world = World(trouble)

    @tool(kind="irreversible")
    def post() -> str:
        return world.act()

    with open_store("memory://") as house:
        doubt = life(house, caller(post))
        assert isinstance(doubt, InDoubt)
        assert f"({type(trouble).__name__}: {trouble})" in str(doubt)
        assert world.done == ["act"]


@pytest.mark.parametrize("awaits", [True, False])
def test_a_timeout_of_a_write_is_doubt(*, awaits: bool) -> None:
    import asyncio

    world, over = World(), threading.Event()

    @tool(kind="irreversible", timeout_s=0.1)
    async def slow_async() -> str:
        world.act()
        await asyncio.sleep(20)
        return "late"

    @tool(kind="irreversible", timeout_s=0.1, name="slow")
    def slow() -> str:
        world.act()
        over.wait(60)
        return "late"

    @agent
    def calls(run: Any, task: Any) -> Any:
        return run.call(slow_async) if awaits else slow()

    with open_store("memory://") as house:
        doubt = life(house, calls)
        assert isinstance(doubt, InDoubt)
        assert "TimeoutError" in str(doubt)
        until(lambda: world.done)  # a thread of a busy machine may begin later than in time
        assert world.done == ["act"]
        over.set()


def test_an_effect_that_fails_again_and_again_waits_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST_ATTEMPTS", 2)
    world = World(*(OSError(f"failure {number}") for number in range(1, 9)))

    @tool(kind="idempotent")
    def put() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        doubt = life(house, caller(put))
        assert isinstance(doubt, InDoubt)
        assert "it was tried 2 times; the last time: OSError: failure 3" in str(doubt)
        assert len(set(world.keys)) == 1


def test_an_agent_that_swallows_exceptions_does_not_swallow_a_doubt() -> None:
    world, after = World(OSError()), []

    @tool(kind="irreversible")
    def post() -> str:
        return world.act()

    @agent
    def stubborn(run: Any, task: Any) -> str:
        try:
            post()
        except Exception:  # noqa: BLE001
            after.append("swallowed")
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, stubborn), InDoubt)
        assert not after


def test_an_agent_that_swallows_everything_can_still_not_go_on() -> None:
    world, caught = World(OSError()), []

    @tool(kind="irreversible", repeat="each")
    def post(number: int) -> str:
        return world.act(number)

    @agent
    def stubborn(run: Any, task: Any) -> str:
        for number in range(3):
            try:
                post(number)
            except BaseException as error:  # noqa: BLE001
                caught.append(type(error))
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, stubborn), InDoubt)
        assert caught == [InDoubt] * 3
        assert world.done == [0]
        assert story(house) == "started intent"


# --- what certainly did not happen ---


def test_what_certainly_did_not_happen_is_sealed_and_the_agent_may_decide_anew() -> None:
    world = World(NotHappened("the mailbox is full"))

    @tool(kind="irreversible")
    def post(body: str) -> str:
        return world.act(body, before=True)

    reasons: list[str] = []

    @agent
    def calls(run: Any, task: Any) -> str:
        try:
            return post("hello")
        except NotHappened as refusal:
            reasons.append(refusal.what)
            return post("hello")

    with open_store("memory://") as house:
        assert life(house, calls) == "done 1"
        assert reasons == ["the mailbox is full"]
        assert world.keys[0] != world.keys[1]
        assert story(house) == "started intent seal intent seal finished"
        assert [intent.n for intent in of(Intent, house)] == [0, 1]


def test_a_refusal_is_the_same_when_it_is_replayed() -> None:
    world = World(NotHappened("the mailbox is full"))
    seen: list[tuple[str, str]] = []

    @tool(kind="irreversible")
    def post(body: str) -> str:
        return world.act(body, before=True)

    @agent
    def calls(run: Any, task: Any) -> str:
        try:
            post("hello")
        except NotHappened as refusal:
            seen.append((refusal.what, refusal.where))
        if len(seen) < 3:
            raise ValueError
        return "finished"

    with open_store("memory://") as house:
        for _ in range(3):
            ending = life(house, calls)
        assert ending == "finished"
        assert len(set(seen)) == 1
        assert world.done == []
        assert len(world.keys) == 1


def test_a_refusal_proves_nothing_of_an_earlier_sending() -> None:
    """A 409 after a lost answer usually means that it happened."""
    world = World(OSError("the answer was lost"), NotHappened("409: exists already"), None)

    @tool(kind="idempotent")
    def put() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        assert life(house, caller(put)) == "done 1"
        assert len(world.keys) == 3
        assert [seal.outcome for seal in of(Seal, house) if isinstance(seal.outcome, NotHappened)] == []


def test_after_a_crash_too_a_refusal_of_the_second_sending_is_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST_ATTEMPTS", 2)
    world = World(Killed(), NotHappened("409"), NotHappened("409"), NotHappened("409"))

    @tool(kind="idempotent")
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(put))
        doubt = life(house, caller(put))
        assert isinstance(doubt, InDoubt)
        assert "the last time: 409" in str(doubt)
        assert not of(Seal, house)


def test_after_a_proof_of_absence_a_refusal_is_an_outcome_again() -> None:
    world = World(Killed(), NotHappened("the mailbox is full"))

    @tool(kind="irreversible", probe=lambda: NotHappened("not there"))
    def post() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        life(house, caller(post))
        ending = life(house, caller(post))
        assert isinstance(ending, NotHappened)
        assert ending.what == "the mailbox is full"
        assert len(of(Seal, house)) == 1


def test_after_an_undo_a_refusal_is_an_outcome_again() -> None:
    world = World(OSError("lost"), NotHappened("the name is taken"))

    @tool(kind="reversible", undo=lambda: None)
    def make() -> str:
        return world.act()

    with open_store("memory://") as house:
        ending = life(house, caller(make))
        assert isinstance(ending, NotHappened)
        assert not isinstance(ending, InDoubt)
        assert ending.what == "the name is taken"


# --- refused for now ---


def test_a_short_refusal_is_waited_out_in_place() -> None:
    world = World(RetryAfter(0.05), RetryAfter(0.05))

    @tool(kind="irreversible")
    def post() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        assert life(house, caller(post)) == "done 1"
        assert len(world.keys) == 3
        assert len(set(world.keys)) == 1
        assert [record.why for record in of(Attempt, house)] == ["refused", "refused"]
        assert story(house) == "started intent sleep attempt sleep attempt seal finished"


@pytest.mark.parametrize("kind", ["irreversible", "reversible", "idempotent", "read"])
def test_a_long_refusal_is_a_durable_sleep_and_no_doubt(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "PATIENCE_S", 0.05)
    calls_s: list[float] = []

    @tool(kind=kind, undo=(lambda: calls_s.append(-1.0)) if kind == "reversible" else None)
    def post() -> str:
        calls_s.append(time.time())
        if len(calls_s) == 1:
            raise RetryAfter(0.8)
        return "done"

    with open_store("memory://") as house:
        asleep = life(house, caller(post))
        assert isinstance(asleep, Asleep)
        assert asleep.until_ms is not None
        assert isinstance(life(house, caller(post)), Asleep)  # resumed too early: it goes on sleeping
        assert len(calls_s) == 1
        assert house.run(caller(post), id="r") == "done"  # and wakes by itself
        assert calls_s[1] - calls_s[0] > 0.78
        assert len(calls_s) == 2


def test_a_crash_after_a_refusal_for_now_leaves_no_doubt() -> None:
    world = World(RetryAfter(0.05), Killed())

    @tool(kind="irreversible")
    def post() -> str:
        return world.act(before=True)

    dies = [True]

    @agent
    def calls(run: Any, task: Any) -> str:
        return post()

    with open_store("memory://") as house:
        assert isinstance(life(house, calls), Killed)
        # the second sending died on the way: this is a doubt, the refused one was none
        doubt = life(house, calls)
        assert isinstance(doubt, InDoubt)
        assert world.done == []
    assert dies


def test_a_refusal_for_now_does_not_make_an_expired_key_young() -> None:
    """The first sending may have happened under the key; sent again after its lifetime it would happen twice (G4)."""
    world = World(OSError("the answer was lost"), RetryAfter(0.5))

    @tool(kind="idempotent", key_ttl_s=0.3)
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        doubt = life(house, caller(put))
        assert isinstance(doubt, InDoubt)
        assert "its idempotency key has outlived `key_ttl_s`" in str(doubt)
        assert len(world.keys) == 2


def test_a_key_that_was_only_ever_refused_does_not_expire() -> None:
    world = World(RetryAfter(0.4))

    @tool(kind="idempotent", key_ttl_s=0.2)
    def put() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        assert life(house, caller(put)) == "done 1"


def test_an_expired_key_is_asked_about_if_there_is_a_probe() -> None:
    world = World(Killed())

    @tool(kind="idempotent", key_ttl_s=0.1, probe=lambda: Happened("found"))
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(put))
        time.sleep(0.15)
        assert life(house, caller(put)) == "found"
        assert world.done == ["act"]


@pytest.mark.parametrize("seconds", [0, -5, float("nan"), "0.05"])
def test_any_time_that_a_refusal_names_is_understood(seconds: Any) -> None:
    world = World(RetryAfter(seconds))

    @tool(kind="irreversible")
    def post() -> str:
        return world.act(before=True)

    with open_store("memory://") as house:
        assert life(house, caller(post)) == "done 1"


# --- who is still at work ---


def test_a_function_left_behind_by_a_timeout_is_not_taken_for_stopped() -> None:
    """The probe says that it did not happen, and a moment later it does: what was left behind must have stopped
    first."""
    begun: list[int] = []
    done: list[int] = []
    over = threading.Event()

    @tool(kind="irreversible", timeout_s=0.1, probe=lambda: Happened("found") if done else NotHappened("not there"))
    def slow() -> str:
        begun.append(1)
        over.wait(60)
        done.append(1)
        return "late"

    with open_store("memory://") as house:
        doubt = life(house, caller(slow))
        assert isinstance(doubt, InDoubt)
        assert "may still be running" in str(doubt)
        again = life(house, caller(slow))
        assert isinstance(again, BaseException)
        over.set()
        until(lambda: done)
        assert house.run(caller(slow), id="r") == "found"
        assert len(begun) == 1


# --- drift of an effect in doubt ---


def test_an_effect_in_doubt_is_sent_again_as_it_was_though_the_call_has_drifted() -> None:
    world, bodies = World(Killed()), ["first", "second", "second"]

    @tool(kind="idempotent", identity=["to"], drift="adopt")
    def put(to: str, body: str) -> str:
        return world.act(body)

    with open_store("memory://") as house:
        life(house, caller(lambda: put("a", bodies.pop(0))))
        assert life(house, caller(lambda: put("a", bodies.pop(0)))) == "done 2"
        assert world.done == ["first", "first"]


def test_the_answer_of_a_drifted_effect_is_no_answer_until_the_contract_says_so() -> None:
    world, bodies = World(Killed()), ["first", "second", "second"]

    @tool(kind="idempotent", identity=["to"])
    def put(to: str, body: str) -> str:
        return world.act(body)

    with open_store("memory://") as house:
        life(house, caller(lambda: put("a", bodies.pop(0))))
        endings = [life(house, caller(lambda: put("a", bodies.pop(0)))) for _ in range(2)]
        assert [type(ending).__name__ for ending in endings] == ["Held", "Held"]
        assert world.done == ["first", "first"]


def test_settling_a_doubt_is_not_a_divergence() -> None:
    world = World(Killed())

    @tool(kind="idempotent")
    def put() -> str:
        return world.act()

    with open_store("memory://") as house:
        life(house, caller(put))
        life(house, caller(put))
        assert not of(Divergence, house)


# --- what a call stands on: what is flushed, who it is, and what others have placed ---


@pytest.fixture
def census() -> Iterator[Census]:
    """Between SQLite and the system, for the connections of one test."""
    standing = Census().stand_in()
    yield standing
    apsw.set_default_vfs(standing.system)


def test_nothing_is_unflushed_while_an_effect_happens_or_after_its_answer(census: Census, tmp_path: Path) -> None:
    unflushed: list[set[str]] = []

    @tool(kind="irreversible")
    def post() -> str:
        unflushed.append(set(census.unflushed))
        return "done"

    @agent
    def calls(run: Any, task: Any) -> str:
        answer = post()
        unflushed.append(set(census.unflushed))
        return answer

    with open_store(f"sqlite:///{tmp_path}/runs.db?anchor=none&flush_s=600") as house:
        assert life(house, calls) == "done"
    assert unflushed == [set(), set()]
    assert census.flushes


async def test_a_cancellation_that_comes_before_the_intent_stops_it() -> None:
    world = World()

    @tool(kind="irreversible")
    async def post() -> str:
        return world.act()

    async with open_store("memory://") as house:

        @agent
        async def calls(run: Any, task: Any) -> str:
            await house.desk.cancel("r@main", by="ann", reason="no longer wanted")
            return await post()

        with pytest.raises(Cancelled, match="no longer wanted"):
            await house.arun(calls, id="r", wait=False)
        assert world.done == []


def test_calls_that_come_in_another_order_are_answered_by_what_they_ask() -> None:
    world, orders = World(), [["a", "b"], ["b", "c", "a"]]

    @tool(kind="idempotent")
    def put(name: str) -> str:
        world.act(name)
        return f"put {name}"

    @agent
    def calls(run: Any, task: Any) -> list[str]:
        answers = [put(name) for name in orders.pop(0)]
        if orders:
            raise Killed
        return answers

    with open_store("memory://") as house:
        assert isinstance(life(house, calls), Killed)
        assert life(house, calls) == ["put b", "put c", "put a"]
        assert world.done == ["a", "b", "c"]


def test_an_answer_that_was_changed_in_the_store_is_not_given(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db?anchor=none"

    @tool(kind="idempotent")
    def put() -> str:
        return "paid 100"

    @agent
    def calls(run: Any, task: Any) -> str:
        answer = put()
        if not lives:
            lives.append(1)
            raise Killed
        return answer

    lives: list[int] = []
    with open_store(url) as house:
        assert isinstance(life(house, calls), Killed)
    raw = apsw.Connection(f"{tmp_path}/runs.db")
    changed = raw.execute(
        "UPDATE blob SET data = ? WHERE data = ? RETURNING 1", (b'"paid 900"', b'"paid 100"')
    ).fetchall()
    assert len(changed) == 1
    raw.close()
    with open_store(url) as house:
        assert isinstance(life(house, calls), Corrupt)


def test_a_log_that_is_older_than_its_anchor_sends_nothing(tmp_path: Path) -> None:
    url, world = f"sqlite:///{tmp_path}/runs.db?anchor={tmp_path}/anchor", World()
    database = tmp_path / "runs.db"

    @tool(kind="idempotent")
    def put() -> str:
        return world.act()

    with open_store(url) as house:
        life(house, caller(put), id="first")
    older = database.read_bytes()  # closed: everything is in it
    with open_store(url) as house:
        life(house, caller(put), id="second")
    database.write_bytes(older)
    for beside in ("-wal", "-shm"):
        database.with_name(database.name + beside).unlink(missing_ok=True)
    with open_store(url) as house:
        assert isinstance(life(house, caller(put), id="second"), RolledBack)
    assert world.done == ["act", "act"]


def test_before_each_further_sending_it_is_taken_back_once_more() -> None:
    """A recovery that died after it had sent again has left something behind, which the first undo does not cover."""
    world = World(Killed(), None, Killed())

    @tool(kind="reversible", undo=lambda: world.act("undo"))
    def make() -> str:
        return world.act("make")

    with open_store("memory://") as house:
        assert isinstance(life(house, caller(make)), Killed)
        assert isinstance(life(house, caller(make)), Killed)
        assert life(house, caller(make)) == "done 5"
        assert world.done == ["make", "undo", "make", "undo", "make"]


def test_a_key_is_of_the_arguments_that_the_contract_names() -> None:
    def key_under(to: str, body: str) -> str:
        world = World()

        @tool(kind="idempotent", name="put", identity=["to"])
        def put(to: str, body: str) -> str:
            return world.act()

        with open_store("memory://") as house:
            life(house, caller(lambda: put(body=body, to=to)))
        (sent,) = world.keys
        return sent

    assert key_under("ann", "hello") == key_under("ann", "good evening")
    assert key_under("ann", "hello") != key_under("bob", "hello")
