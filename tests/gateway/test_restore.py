"""A run that goes on from its checkpoint: it sees its state, knows what it did, and reads no more than it needs."""

import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast import Held, House, InDoubt, agent, key, open_store, tool
from holdfast.core.payload import pack_text
from holdfast.core.record import Checkpoint, Divergence, Hold, Intent, Seal, Sleep
from holdfast.errors import Misuse
from tests.stage import Killed, life, of, records, story


@dataclass
class Progress:
    """What the agent of these tests remembers."""

    done: list[str] = field(default_factory=list[str])
    tally: int = 0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class Counted:
    """A store that counts the entries and payloads that are read from it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.entries = 0
        self.payloads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        found = await self._inner.read(*args, **kwargs)
        self.entries += len(found)
        return found

    async def blob(self, digest: bytes) -> Any:
        self.payloads += 1
        return await self._inner.blob(digest)


class World:
    """What was done in the world."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.keys: list[str] = []

        @tool(kind="irreversible", name="once", identity=["what"])
        async def once(what: str) -> str:
            return self.act(what)

        @tool(kind="irreversible", name="each", repeat="each")
        async def each(what: str) -> str:
            return self.act(what)

        @tool(kind="irreversible", name="ask")
        async def ask(what: str) -> str:
            return self.act(what)

        self.once, self.each, self.ask = once, each, ask

    def act(self, what: str) -> str:
        self.did.append(what)
        self.keys.append(key())
        return f"{what} {len(self.did)}"


def lives(url: str, *bodies: Any) -> tuple[list[Any], House]:
    """What the lives of one run come to, each in a house that was opened anew, and a house to look into."""
    endings: list[Any] = []
    for body in bodies:

        @agent(state=Progress)
        async def keeps(run: Any, task: Any, body: Any = body) -> Any:
            return await body(run)

        with open_store(url) as house:
            endings.append(life(house, keeps))
    return endings, open_store(url)


async def died(run: Any) -> None:
    """Make a checkpoint and die."""
    await run.checkpoint()
    raise Killed


# --- state ---


def test_a_run_sees_the_state_of_its_newest_checkpoint_as_its_type(url: str) -> None:
    seen: list[Any] = []

    async def first(run: Any) -> None:
        assert run.state == Progress()
        run.state.done.append("a")
        await run.checkpoint()
        run.state.done.append("b")
        run.state.tally = 7
        await run.checkpoint()
        run.state.tally = 8  # which nobody carried
        raise Killed

    async def second(run: Any) -> str:
        seen.append(run.state)
        return "done"

    endings, house = lives(url, first, second)
    with house:
        assert endings[1] == "done"
        assert seen == [Progress(done=["a", "b"], tally=7)]
        assert len(of(Checkpoint, house)) == 2


def test_a_run_without_a_checkpoint_starts_from_its_beginning_and_answers_from_the_log(url: str) -> None:
    world = World()

    async def body(run: Any) -> str:
        answer = await world.once("a")
        if not run.state.tally and len(world.did) == 1 and not deaths:
            deaths.append(1)
            raise Killed
        return answer

    deaths: list[int] = []
    endings, house = lives(url, body, body)
    with house:
        assert endings[1] == "a 1"
        assert world.did == ["a"]


def test_a_checkpoint_tells_its_node(url: str) -> None:
    nodes: list[str] = []

    async def body(run: Any) -> None:
        nodes.append(await run.checkpoint())

    _, house = lives(url, body)
    with house:
        assert nodes == ["r@3"]
        assert story(house) == "started checkpoint finished"


def test_a_state_that_cannot_be_written_down_makes_no_checkpoint(url: str) -> None:
    async def body(run: Any) -> None:
        run.state = object()
        await run.checkpoint()

    (ending,), house = lives(url, body)
    with house:
        assert isinstance(ending, Misuse)
        assert "declare its type" in ending.fix
        assert not of(Checkpoint, house)


def test_a_checkpoint_of_an_agent_without_state_does_not_cut_its_past_off(url: str) -> None:
    world, lived = World(), []

    @agent
    async def stateless(run: Any, task: Any) -> list[Any]:
        drawn = [await run.random(), await world.each("a")]
        await run.checkpoint()
        drawn += [await run.random(), await world.each("a")]
        lived.append(drawn)
        if len(lived) == 1:
            raise Killed
        return drawn

    for _ in range(2):
        with open_store(url) as house:
            life(house, stateless)
    assert lived[0] == lived[1]
    assert world.did == ["a", "a"]


# --- what was done before ---


def test_what_happened_before_the_checkpoint_is_adopted_and_not_done_again(url: str) -> None:
    world = World()

    async def first(run: Any) -> None:
        await world.once("a")
        await died(run)

    async def second(run: Any) -> str:
        return await world.once("a")

    endings, house = lives(url, first, second)
    with house:
        assert endings[1] == "a 1"
        assert world.did == ["a"]


def test_calls_are_counted_on_behind_the_checkpoint(url: str) -> None:
    world = World()

    async def first(run: Any) -> None:
        for _ in range(3):
            await world.each("a")
        await died(run)

    async def second(run: Any) -> str:
        return await world.each("a")

    endings, house = lives(url, first, second)
    with house:
        assert endings[1] == "a 4"
        assert [intent.n for intent in of(Intent, house)] == [0, 1, 2, 3]
        assert len(set(world.keys)) == 4


def test_calls_after_the_checkpoint_are_replayed_and_not_counted_twice(url: str) -> None:
    world = World()

    async def first(run: Any) -> None:
        await world.each("a")
        await run.checkpoint()
        await world.each("a")
        raise Killed

    async def second(run: Any) -> list[str]:
        return [await world.each("a"), await world.each("a")]

    endings, house = lives(url, first, second)
    with house:
        assert endings[1] == ["a 2", "a 3"]
        assert [intent.n for intent in of(Intent, house)] == [0, 1, 2]


def test_a_call_that_asks_before_it_is_repeated_asks_over_a_checkpoint_too(url: str) -> None:
    world = World()

    async def first(run: Any) -> None:
        await world.ask("a")
        await died(run)

    async def second(run: Any) -> str:
        return await world.ask("a")

    endings, house = lives(url, first, second)
    with house:
        assert isinstance(endings[1], Held)
        assert world.did == ["a"]


def test_what_lies_behind_the_checkpoint_is_neither_stranded_nor_a_divergence(url: str) -> None:
    world, told = World(), []

    async def first(run: Any) -> None:
        await world.once("a")
        await run.checkpoint()
        await world.once("b")
        raise Killed

    async def second(run: Any) -> str:
        told.extend(await run.stranded())
        await world.once("b")
        return await world.once("c")

    endings, house = lives(url, first, second)
    with house:
        assert endings[1] == "c 3"
        assert [(stranded.node, stranded.arguments) for stranded in told] == [("r@6", {"what": "b"})]
        assert not of(Divergence, house)


def test_draws_decisions_sleeps_and_signals_are_counted_from_the_checkpoint(url: str) -> None:
    drawn: list[list[Any]] = []
    asked: list[int] = []

    def model() -> int:
        asked.append(1)
        return len(asked)

    async def draws(run: Any) -> list[Any]:
        await run.sleep(0.001)
        return [await run.random(), await run.decide(model), await run.wait_for("go")]

    async def first(run: Any) -> None:
        drawn.append(await draws(run))
        await run.checkpoint()
        drawn.append(await draws(run))
        raise Killed

    async def second(run: Any) -> None:
        drawn.append(await draws(run))
        drawn.append(await draws(run))

    with open_store(url) as house:

        @agent(state=Progress)
        async def waiting(run: Any, task: Any) -> None:
            await run.wait_for("go")

        life(house, waiting)
        for number in range(3):
            house.signal("r", "go", number)
    _, house = lives(url, first, second)
    with house:
        assert drawn[1] == drawn[2]
        assert drawn[0][0] != drawn[1][0] != drawn[3][0]
        assert [draw[1] for draw in drawn] == [1, 2, 2, 3]
        assert [draw[2] for draw in drawn] == [0, 1, 1, 2]


def test_a_life_that_went_through_its_checkpoint_and_one_that_was_restored_from_it_agree(url: str) -> None:
    """Three lives die at other places; what the program is given after the checkpoint is the same in all of them."""
    world, given = World(), []

    async def body(run: Any) -> list[Any]:
        for number in range(run.state.tally, 4):
            piece = [number, await run.random(), await world.each("x")]
            given.append(piece)
            if len(given) in (2, 4):
                raise Killed  # between the effect and the checkpoint
            run.state.done.append(str(piece))
            run.state.tally = number + 1
            await run.checkpoint()
        return run.state.done

    endings, house = lives(url, body, body, body)
    with house:
        assert len(world.did) == 4
        assert [piece[0] for piece in given] == [0, 1, 1, 2, 2, 3]
        assert given[1] == given[2]
        assert given[3] == given[4]
        assert len(endings[2]) == 4


# --- a closure ---


def test_a_checkpoint_waits_for_calls_in_flight(url: str) -> None:
    @tool(kind="irreversible", name="slow")
    async def slow() -> str:
        await asyncio.sleep(0.1)
        return "done"

    async def body(run: Any) -> str:
        async def then() -> str:
            answer: str = await slow()
            run.state.done.append(answer)
            return answer

        beside = asyncio.ensure_future(then())
        await asyncio.sleep(0.02)
        await run.checkpoint()
        assert beside.done()
        raise Killed

    async def second(run: Any) -> Any:
        return run.state.done

    endings, house = lives(url, body, second)
    with house:
        assert endings[1] == ["done"]
        assert story(house) == "started intent seal checkpoint finished"


def test_a_checkpoint_does_not_stand_on_a_doubt(url: str) -> None:
    @tool(kind="irreversible", name="fire")
    async def fire() -> None:
        raise Killed

    async def first(run: Any) -> None:
        await fire()

    async def another_way(run: Any) -> None:
        await run.decide(lambda: "no fire", lane="main")
        await run.checkpoint()

    endings, house = lives(url, first, another_way)
    with house:
        assert isinstance(endings[1], InDoubt)
        assert "a checkpoint cannot stand on a doubt" in str(endings[1])
        assert endings[1].where == "r@3"
        assert not of(Checkpoint, house)
        house.settle("r@3", happened=None, by="ann")
    endings, house = lives(url, another_way)
    with house:
        assert len(of(Checkpoint, house)) == 1


# --- what lies behind the newest checkpoint is not put behind a newer one before it was asked for ---


def loop(world: World, deaths: list[str], *steps: Any) -> Any:
    """An agent that closes at the top of each turn and then takes its steps; it dies where `deaths` says, in order."""

    async def body(run: Any) -> list[Any]:
        while len(run.state.done) < 3:
            await run.checkpoint()
            told: list[Any] = []
            for at, step in enumerate(steps):
                if deaths and deaths[0] == f"turn {len(run.state.done)} before {at}":
                    del deaths[0]
                    raise Killed
                told.append(await step(run, len(run.state.done)))
            if deaths and deaths[0] == f"turn {len(run.state.done)} end":
                del deaths[0]
                raise Killed
            run.state.done.append(json.dumps(told))
        return [json.loads(each) for each in run.state.done]

    return body


DEATHS = [
    ["turn 1 end", "turn 1 before 0", "turn 1 before 0", "turn 1 end"],
    ["turn 1 before 1", "turn 1 before 0", "turn 1 before 1", "turn 2 before 1", "turn 2 before 0"],
    ["turn 0 end", "turn 0 before 0", "turn 0 before 1", "turn 0 end", "turn 1 before 1"],
]


@pytest.mark.parametrize("deaths", DEATHS)
def test_an_agent_that_closes_before_it_acts_acts_once(url: str, deaths: list[str]) -> None:
    world = World()
    left = list(deaths)

    async def one(run: Any, turn: int) -> Any:
        return await world.each(f"one {turn}")

    async def other(run: Any, turn: int) -> Any:
        return await world.each(f"other {turn}")

    endings, house = lives(url, *[loop(world, left, one, other)] * (len(deaths) + 1))
    house.close()
    assert world.did == [f"{which} {turn}" for turn in range(3) for which in ("one", "other")]
    assert len(endings[-1]) == 3


@pytest.mark.parametrize("deaths", DEATHS)
def test_an_agent_that_closes_before_it_is_given_something_is_given_it_once(url: str, deaths: list[str]) -> None:
    """Times, ids and the model's answers, as long as the program goes the same way: told again, not made again."""
    world, told = World(), list[list[Any]]()
    left = list(deaths)

    async def drawn(run: Any, turn: int) -> Any:
        found = [turn, str(await run.uuid()), await run.now(), await run.decide(think, turn)]
        told.append(found)
        return found

    async def act(run: Any, turn: int) -> Any:
        return await world.each(f"act {turn}")

    def think(turn: int) -> str:
        return os.urandom(4).hex()

    _, house = lives(url, *[loop(world, left, drawn, act)] * (len(deaths) + 1))
    house.close()
    assert {turn: len({str(each) for each in told if each[0] == turn}) for turn in range(3)} == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("deaths", DEATHS)
def test_an_agent_that_closes_before_it_listens_loses_no_signal(url: str, deaths: list[str]) -> None:
    world = World()
    left = list(deaths)

    async def listen(run: Any, turn: int) -> Any:
        return await run.wait_for("word")

    async def act(run: Any, turn: int) -> Any:
        return await world.each(f"act {turn}")

    endings: list[Any] = []
    for number in range(len(deaths) + 4):
        found, house = lives(url, loop(world, left, listen, act))
        with house:
            if number < 3:
                house.signal("r", "word", number)
        endings += found
    assert [told[0] for told in endings[-1]] == [0, 1, 2]
    assert world.did == ["act 0", "act 1", "act 2"]


def test_an_agent_that_closes_before_it_sleeps_wakes(url: str) -> None:
    """Each life would begin its sleep anew, and none would ever end."""
    slept: list[Any] = []

    async def body(run: Any) -> str:
        await run.checkpoint()
        await run.sleep(1.0)
        slept.append(True)
        raise Killed

    async def again(run: Any) -> str:
        await run.checkpoint()
        await run.sleep(1000.0)  # it was one second when it was asked for first
        return "woken"

    endings, house = lives(url, body, again)
    with house:
        assert endings[1] == "woken"
        assert len(of(Sleep, house)) == 1


def test_an_approval_is_not_asked_for_again_by_an_agent_that_closes_before_its_call(url: str) -> None:
    did: list[int] = []

    @tool(kind="irreversible", name="pay", approval="one", repeat="each")
    async def pay(cents: int) -> int:
        did.append(cents)
        return cents

    @agent(state=Progress)
    async def pays(run: Any, task: Any) -> int:
        await run.checkpoint()
        if dies and dies.pop():
            raise Killed
        return await pay(7)

    dies = [False]
    with open_store(url) as house:
        held = life(house, pays)
        assert isinstance(held, Held)
        for _ in range(3):
            dies.append(True)
            assert isinstance(life(house, pays), Killed)
        house.approve(held.where, by="ann")
        dies.append(True)
        assert isinstance(life(house, pays), Killed)
        assert life(house, pays) == 7
        assert did == [7]
        assert len(of(Hold, house)) == 1


def test_what_an_agent_asks_for_no_more_does_not_keep_it_from_closing(url: str) -> None:
    world = World()

    async def first(run: Any) -> None:
        await run.checkpoint()
        await world.each("given up")
        raise Killed

    async def another_way(run: Any) -> str:
        await run.checkpoint()
        await world.each("done instead")
        run.state.tally = 1
        assert await run.checkpoint() is not None
        raise Killed

    async def last(run: Any) -> int:
        return run.state.tally

    endings, house = lives(url, first, another_way, last)
    house.close()
    assert endings[2] == 1
    assert world.did == ["given up", "done instead"]


# --- cost ---


@pytest.mark.parametrize("mixed", [False, True])
def test_a_restore_reads_as_much_of_a_long_run_as_of_a_short_one(url: str, *, mixed: bool) -> None:
    """Counted, not timed: what is read from the store, entries and payloads, until the restored run has ended."""

    @tool(kind="idempotent", name="put")
    async def put(what: str) -> str:
        return what

    @agent(state=Progress)
    async def steps(run: Any, task: Any) -> int:
        while run.state.tally < task:
            await put(f"step {run.state.tally}")
            if mixed:
                await run.random()
                await run.decide(str, run.state.tally)
            run.state.tally += 1
            if run.state.tally % 10 == 0:
                await run.checkpoint()
            if run.state.tally == task - 3 and task not in died_at:
                died_at.append(task)
                raise Killed
        return run.state.tally

    died_at: list[int] = []
    read: list[tuple[int, int]] = []
    for length in (23, 403):
        with open_store(url) as house:
            assert isinstance(life(house, steps, length, id=f"run{length}"), Killed)
        with open_store(url) as house:
            counted = house.store = Counted(house.store)  # type: ignore[assignment]
            assert life(house, steps, length, id=f"run{length}") == length
            read.append((counted.entries, counted.payloads))
            # a step behind the checkpoint was recorded, and not asked for again
            assert len(of(Intent, house, f"run{length}")) == length
    assert read[0] == read[1]
    assert read[0][0] < 60


def stands_on_nothing_open(house: House) -> int:
    """How many checkpoints the log holds; none of them stands on a call that is open."""
    open_: set[int] = set()
    for seq, record in enumerate(records(house), 1):
        match record:
            case Intent():
                open_.add(seq)
            case Seal(intent=int(intent)):
                open_.discard(intent)
            case Checkpoint():
                assert not open_, f"the checkpoint at {seq} stands on open calls"
            case _:
                pass
    return len(of(Checkpoint, house))


def test_a_call_that_begins_while_a_checkpoint_is_made_is_not_behind_it_unfinished(url: str) -> None:
    """At whatever turn of the loop it begins."""
    world = World()

    async def body(run: Any) -> None:
        async def later(turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await world.each(f"after {turns} turns")

        for turns in range(40):
            await asyncio.gather(run.checkpoint(), later(turns))

    _, house = lives(url, body)
    with house:
        assert stands_on_nothing_open(house) == 40


class Signalled:
    """A store in which somebody sends a signal right before the first checkpoint is placed."""

    def __init__(self, house: House) -> None:
        self._inner: Any = house.store
        self._house = house
        self._sent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, branch: str, drafts: Any, **how: Any) -> Any:
        if not self._sent and [draft.key for draft in drafts] == [b"checkpoint"]:
            self._sent = True
            await self._house.desk.signal("r@main", "news", pack_text(b"1", 1, lambda _: False), by="ann")
            await asyncio.sleep(0.02)
        return await self._inner.append(branch, drafts, **how)


def test_a_call_that_begins_while_a_checkpoint_is_tried_again_is_not_behind_it_unfinished(url: str) -> None:
    @tool(kind="irreversible", name="slow", repeat="each")
    async def slow() -> int:
        await asyncio.sleep(0.1)
        return 1

    @agent(state=Progress)
    async def keeps(run: Any, task: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(0.01)
            await slow()

        await asyncio.gather(run.checkpoint(), later())

    with open_store(url) as house:
        house.store = Signalled(house)  # type: ignore[assignment]
        life(house, keeps)
        assert stands_on_nothing_open(house) == 1
