"""A run as its agent sees it: the same in both colours, with an id, a state, keys, and a past that it can ask about."""

import asyncio
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import (
    Asleep,
    AwaitingSignal,
    Held,
    NotHappened,
    Run,
    Stranded,
    Waiting,
    agent,
    key,
    open_store,
    tool,
)
from holdfast.agent.run import Agent, current
from holdfast.core.record import Finished, Intent, Seal
from holdfast.errors import BadCall, Misuse
from holdfast.gateway import send
from tests.stage import Killed, life, of, story


def both_colours(*, state: Any = None) -> Callable[[Callable[[Any], Any]], list[Agent]]:
    """The same program as a synchronous and as an asynchronous agent. It is written with `yield` where one awaits."""

    def decorate(body: Callable[[Any], Any]) -> list[Agent]:
        def plain(run: Any, task: Any) -> Any:
            steps, value = body(run), None
            while True:
                try:
                    value = steps.send(value)
                except StopIteration as end:
                    return end.value

        async def awaiting(run: Any, task: Any) -> Any:
            steps, value = body(run), None
            while True:
                try:
                    value = await steps.send(value)
                except StopIteration as end:
                    answer = end.value
                    break
            return answer

        return [agent(plain, state=state), agent(awaiting, state=state)]

    return decorate


# --- both colours ---


@tool(kind="irreversible", name="act", repeat="each")
def act(what: str) -> str:
    """The smallest effect."""
    return f"{what} {key()[:0]}done"


async def model(prompt: str) -> str:
    """Says something new each time."""
    return f"{prompt} {uuid.uuid4()}"


@both_colours()
def everything(run: Any) -> Any:
    """Asks the run for all that there is."""
    thought = yield run.decide(model, "hello")
    now = yield run.now()
    some_id = yield run.uuid()
    number = yield run.random()
    answer = yield run.call(act, what=str(some_id))
    yield run.sleep(0.001)
    node = yield run.checkpoint()
    stranded = yield run.stranded()
    signal = yield run.wait_for("go")
    return [run.id, run.branch, thought, now, str(some_id), number, answer, node, stranded, signal]


@pytest.mark.parametrize("colour", [0, 1])
def test_a_run_is_the_same_to_agents_of_both_colours(colour: int) -> None:
    with open_store("memory://") as house:
        assert isinstance(life(house, everything[colour]), AwaitingSignal)
        house.signal("r", "go", ["now"])
        told = life(house, everything[colour])
        assert isinstance(told, list), told
        assert told[:2] == ["r", "main"]
        assert told[2].startswith("hello ")
        assert told[6] == f"{told[4]} done"
        assert told[8:] == [[], ["now"]]
        assert story(house).startswith("started decision draw draw draw intent seal sleep checkpoint")
        assert len(of(Intent, house)) == 1


@pytest.mark.parametrize("colour", [0, 1])
def test_an_agent_may_set_its_state_and_nothing_else_of_a_synchronous_run(colour: int) -> None:
    @both_colours(state=dict)
    def sets(run: Any) -> Any:
        assert run.state == {}
        run.state = {"a": 1}
        yield run.checkpoint()
        return run.state

    with open_store("memory://") as house:
        assert life(house, sets[colour]) == {"a": 1}

    @agent
    def renames(run: Any, task: Any) -> None:
        run.id = "other"

    with open_store("memory://") as house:
        ending = life(house, renames)
        assert isinstance(ending, Misuse)
        assert "set `run.state`" in str(ending)


def test_an_agent_is_a_plain_function_too() -> None:
    @agent
    def adds(run: Any, task: int) -> int:
        return task + 1

    @agent(state=dict)
    async def awaits(run: Any, task: int) -> int:
        return task + 2

    assert adds(None, 1) == 2
    assert asyncio.run(awaits(None, 1)) == 3
    assert adds.name == f"{__name__}:test_an_agent_is_a_plain_function_too.<locals>.adds"


def test_a_run_is_known_inside_it_and_nowhere_else() -> None:
    seen: list[Any] = []

    @tool(kind="read", name="look")
    def look() -> None:
        seen.append(current())

    @agent
    def looks(run: Any, task: Any) -> None:
        seen.append(current())
        look()

    assert current() is None
    with open_store("memory://") as house:
        life(house, looks)
    assert isinstance(seen[0], Run)
    assert seen[1] is None
    assert current() is None


# --- keys ---


def test_a_tool_gets_the_key_that_stands_in_its_intent() -> None:
    keys: list[str] = []

    @tool(kind="irreversible", name="plain")
    def plain() -> None:
        keys.append(key())

    @tool(kind="idempotent", name="awaited")
    async def awaited() -> None:
        await asyncio.sleep(0)
        keys.append(key())

    @agent
    async def acts(run: Any, task: Any) -> None:
        await run.call(plain)
        await awaited()

    with open_store("memory://") as house:
        life(house, acts)
        assert keys == [intent.key for intent in of(Intent, house)]
        assert all(len(each) == 32 and int(each, 16) >= 0 for each in keys)


def test_parallel_effects_each_see_their_own_key() -> None:
    keys: dict[int, str] = {}

    @tool(kind="idempotent", name="put")
    async def put(number: int) -> None:
        before = key()
        await asyncio.sleep(0.001 * (5 - number))
        assert key() == before
        keys[number] = before

    @agent
    async def puts(run: Any, task: Any) -> None:
        await asyncio.gather(*(put(number) for number in range(5)))

    with open_store("memory://") as house:
        life(house, puts)
    assert len(set(keys.values())) == 5


def test_there_is_no_key_where_no_effect_is_performed() -> None:
    asked: list[str] = []

    def ask() -> None:
        try:
            key()
        except Misuse as error:
            asked.append(error.what)

    look = tool(kind="read", name="look")(ask)
    write = tool(kind="irreversible", name="write")(ask)

    @agent
    def asks(run: Any, task: Any) -> None:
        ask()  # in the agent
        run.decide(ask)
        look()  # a read needs none

    with open_store("memory://") as house:
        life(house, asks)
        ask()
        write()  # outside a run: the plain function
        assert len(asked) == 5
        assert set(asked) == {"`holdfast.key()` was called where no effect is performed"}


# --- what is not swallowed ---


@pytest.mark.parametrize("what", ["sleep", "signal", "hold", "sleep in a group"])
def test_waiting_is_not_an_exception_that_an_agent_could_swallow(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "PATIENCE_S", 0.01)
    after: list[str] = []

    @tool(kind="irreversible", name="pay", approval="one")
    async def pay() -> None: ...

    @agent
    async def stubborn(run: Any, task: Any) -> str:
        try:
            match what:
                case "sleep":
                    await run.sleep(100)
                case "signal":
                    await run.wait_for("go")
                case "hold":
                    await pay()
                case _:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(run.sleep(100))
                        group.create_task(asyncio.sleep(20))
        except Exception:  # noqa: BLE001
            after.append("swallowed")
        return "finished"

    with open_store("memory://") as house:
        ending = life(house, stubborn)
        expected = {"signal": AwaitingSignal, "hold": Held}.get(what, Asleep)
        assert type(ending) is expected
        assert isinstance(ending, Waiting)
        assert not isinstance(ending, Exception)
        assert not after
        assert not of(Finished, house)


# --- the past ---


def test_what_is_stranded_grows_less_as_the_program_asks_for_it() -> None:
    told: list[list[Stranded]] = []

    @agent
    def asks(run: Any, task: Any) -> None:
        told.append(run.stranded())
        act("a")
        told.append(run.stranded())
        act("b")
        told.append(run.stranded())
        if len(told) == 3:
            raise Killed

    with open_store("memory://") as house:
        life(house, asks)
        life(house, asks)
    assert told[:3] == [[], [], []]
    assert [[stranded.arguments for stranded in each] for each in told[3:]] == [
        [{"what": "a"}, {"what": "b"}],
        [{"what": "b"}],
        [],
    ]
    assert told[3][0] == Stranded("r@3", "act", {"what": "a"}, True, "a done")


def test_what_did_not_happen_is_not_stranded() -> None:
    told: list[Stranded] = []

    @tool(kind="irreversible", name="fail")
    def fail() -> None:
        absent = NotHappened("no")
        raise absent

    dies = [True]

    @agent
    def asks(run: Any, task: Any) -> None:
        told.extend(run.stranded())
        if dies:
            dies.clear()
            try:
                fail()
            except NotHappened:
                raise Killed from None

    with open_store("memory://") as house:
        life(house, asks)
        life(house, asks)
        assert len(of(Seal, house)) == 1
    assert told == []


# --- after the end ---


def test_what_an_agent_leaves_running_can_ask_for_nothing_more() -> None:
    came: list[Any] = []
    left = threading.Event()

    @agent
    def leaves(run: Any, task: Any) -> str:
        def late() -> None:
            left.wait(30)
            try:
                came.append(run.call(act, what="late"))
            except BaseException as error:  # noqa: BLE001
                came.append(error)

        threads.append(threading.Thread(target=late))
        threads[0].start()
        return "ended"

    threads: list[threading.Thread] = []

    async def lives(house: Any) -> None:
        assert await house.arun(leaves, id="r") == "ended"
        left.set()
        await asyncio.to_thread(threads[0].join, 30)

    with open_store("memory://") as house:
        asyncio.run(lives(house))
        assert isinstance(came[0], Misuse)
        assert "the agent has ended" in str(came[0])
        assert not of(Intent, house)


def test_a_thread_that_outlives_its_run_is_told_so() -> None:
    runs: list[Any] = []

    @agent
    def leaves(run: Any, task: Any) -> str:
        runs.append(run)
        return "ended"

    def late() -> None:
        for ask in (lambda: runs[0].call(act, what="late"), runs[0].now):
            try:
                ask()
            except Misuse as error:
                said.append(error.what)

    said: list[str] = []
    with open_store("memory://") as house:
        assert life(house, leaves) == "ended"
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(30)
        assert said == ["the run has ended: nothing more can be asked of it"] * 2
        assert not of(Intent, house)


def test_a_call_that_was_started_and_not_awaited_is_still_sealed() -> None:
    done: list[int] = []

    @tool(kind="irreversible", name="slow")
    async def slow() -> int:
        await asyncio.sleep(0.05)
        done.append(1)
        return 1

    @agent
    async def leaves(run: Any, task: Any) -> str:
        pieces.append(asyncio.ensure_future(slow()))
        await asyncio.sleep(0.01)
        return "ended"

    pieces: list[Any] = []
    with open_store("memory://") as house:
        assert life(house, leaves) == "ended"
        assert done == [1]
        assert story(house) == "started intent seal finished"


# --- what cannot be asked ---


def test_arguments_that_do_not_fit_are_the_programs_mistake_and_nothing_happens() -> None:
    @agent
    def calls(run: Any, task: Any) -> str:
        for wrong in ({}, {"what": object()}, {"what": "a", "more": 1}):
            with pytest.raises(BadCall):
                run.call(act, **wrong)
        with pytest.raises(BadCall, match="is not a tool"):
            run.call(print)
        return "asked"

    with open_store("memory://") as house:
        assert life(house, calls) == "asked"
        assert not of(Intent, house)
