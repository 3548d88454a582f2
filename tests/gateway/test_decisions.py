"""What a model said: asked once, binding as soon as something was done on it, and the same on every resume."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import agent, open_store, tool
from holdfast.core.record import Decision, Divergence, Draw
from holdfast.errors import BadCall
from tests.stage import Killed, life, of, story


class Model:
    """Says something else each time that it is asked."""

    def __init__(self, *troubles: Exception | None) -> None:
        self.asked: list[str] = []
        self.troubles = list(troubles)

    async def says(self, prompt: str) -> str:
        await asyncio.sleep(0)
        self.asked.append(prompt)
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble
        return f"answer {len(self.asked)}"


@tool(kind="irreversible", name="act", repeat="each")
async def act(what: str) -> str:
    """The smallest effect."""
    return what


def lives(*bodies: Callable[[Any], Any]) -> list[Any]:
    """What the lives of one run come to, when its program is another in each of them."""
    endings: list[Any] = []
    with open_store("memory://") as house:
        for body in bodies:

            @agent
            async def program(run: Any, task: Any, body: Callable[[Any], Any] = body) -> Any:
                return await body(run)

            endings.append(life(house, program))
        return [*endings, Left(house)]


class Left:
    """What a run leaves behind, read before its store is closed."""

    def __init__(self, house: Any) -> None:
        self.story = story(house)
        self.divergences: list[Divergence] = of(Divergence, house)
        self.decisions: list[Decision] = of(Decision, house)
        self.draws: list[Draw] = of(Draw, house)


# --- asked once ---


@pytest.mark.parametrize("then_acts", [False, True])
def test_a_model_is_asked_once_and_its_answer_comes_back(*, then_acts: bool) -> None:
    model, heard = Model(), []

    async def body(run: Any) -> str:
        heard.append(await run.decide(model.says, "hello"))
        if then_acts:
            await act(heard[-1])
        if len(heard) < 3:
            raise Killed
        return heard[-1]

    assert lives(body, body, body)[2] == "answer 1"
    assert heard == ["answer 1"] * 3
    assert model.asked == ["hello"]


def test_the_same_question_again_is_another_decision() -> None:
    model, heard = Model(), []

    async def body(run: Any) -> list[str]:
        heard.append([await run.decide(model.says, "hello") for _ in range(3)])
        if len(heard) < 2:
            raise Killed
        return heard[-1]

    lives(body, body)
    assert heard == [["answer 1", "answer 2", "answer 3"]] * 2


def test_a_synchronous_model_and_one_with_keywords_are_asked_as_well() -> None:
    told: list[Any] = []

    def model(prompt: str, *, size: int = 1) -> list[Any]:
        told.append((prompt, size))
        return [prompt, size, len(told)]

    @agent
    def program(run: Any, task: Any) -> list[Any]:
        answers = [run.decide(model, "a"), run.decide(model, "a", size=2), run.decide(model, "a", size=2)]
        if not task_done:
            task_done.append(1)
            raise Killed
        return answers

    task_done: list[int] = []
    with open_store("memory://") as house:
        life(house, program)
        assert life(house, program) == [["a", 1, 1], ["a", 2, 2], ["a", 2, 3]]


def test_a_model_that_fails_leaves_no_decision_and_is_asked_again() -> None:
    model = Model(OSError("overloaded"))

    async def body(run: Any) -> str:
        try:
            return await run.decide(model.says, "hello")
        except OSError:
            return await run.decide(model.says, "hello")

    ending, left = lives(body)
    assert ending == "answer 2"
    assert [decision.n for decision in left.decisions] == [0]
    assert left.story == "started decision finished"


def test_a_request_that_cannot_be_written_down_is_not_made() -> None:
    model = Model()

    async def body(run: Any) -> str:
        return await run.decide(model.says, object())

    ending, _ = lives(body)
    assert isinstance(ending, BadCall)
    assert "bind clients and sockets outside" in str(ending)
    assert not model.asked


# --- binding ---


def prompted(model: Model, prompt: str, *, acts: bool, dies: bool, **options: Any) -> Callable[[Any], Any]:
    """A program that asks, may act, and may die."""

    async def body(run: Any) -> str:
        answer: str = await run.decide(model.says, prompt, **options)
        if acts:
            await act(answer)
        if dies:
            raise Killed
        return answer

    return body


def test_a_decision_that_has_touched_the_world_binds_though_the_prompt_has_changed() -> None:
    model = Model()
    first = prompted(model, "old words", acts=True, dies=True)
    second = prompted(model, "new words", acts=True, dies=False)
    _, ending, left = lives(first, second)
    assert ending == "answer 1"
    assert model.asked == ["old words"]
    (drift,) = left.divergences
    assert drift.why == "answered by the decision at 3, which binds"
    assert left.story == "started decision intent seal divergence finished"


def test_a_decision_that_has_touched_nothing_does_not_bind_another_prompt() -> None:
    model = Model()
    first = prompted(model, "old words", acts=False, dies=True)
    second = prompted(model, "new words", acts=True, dies=False)
    assert lives(first, second)[1] == "answer 2"


def test_fresh_asks_anew_before_an_effect_and_not_after_it() -> None:
    model = Model()
    asks = prompted(model, "hello", acts=False, dies=True, fresh=True)
    acts = prompted(model, "hello", acts=True, dies=True, fresh=True)
    ends = prompted(model, "hello", acts=True, dies=False, fresh=True)
    *_, ending, left = lives(asks, asks, acts, acts, ends)
    assert ending == "answer 3"  # the one that the effect stands on
    assert len(model.asked) == 3
    assert left.story == "started decision decision decision intent seal finished"


def test_a_decision_made_anew_is_the_decision_though_the_model_had_failed_once() -> None:
    model = Model(None, OSError("overloaded"))
    heard: list[str] = []

    async def body(run: Any) -> str:
        try:
            answer = await run.decide(model.says, "hello", fresh=True)
        except OSError:
            answer = await run.decide(model.says, "hello", fresh=True)
        heard.append(answer)
        if len(heard) == 1:
            raise Killed
        await act(answer)
        if len(heard) == 2:
            raise Killed
        return answer

    lives(body, body, body)
    assert heard == ["answer 1", "answer 3", "answer 3"]


def test_a_question_that_was_put_before_does_not_make_a_binding_one_be_asked_again() -> None:
    """The program was edited: it asks something else first. The first is answered by order; the second still knows its
    own answer."""
    model, heard = Model(), []

    async def old(run: Any) -> None:
        await act(await run.decide(model.says, "what shall I do?"))
        raise Killed

    async def new(run: Any) -> str:
        await run.decide(model.says, "who am I?")
        heard.append(await run.decide(model.says, "what shall I do?"))
        return await act(heard[-1])

    *_, left = lives(old, new)
    assert heard == ["answer 1"]
    assert model.asked == ["what shall I do?"]
    assert len(left.divergences) == 2
    assert "was also given to another request" in left.divergences[1].why


# --- lanes ---


def test_lanes_keep_parallel_decisions_apart_whatever_comes_first() -> None:
    model, order = Model(), [["a", "b", "c"], ["c", "a", "b"]]
    heard: list[dict[str, str]] = []

    async def body(run: Any) -> dict[str, str]:
        names, words = order[len(heard)], f"words of life {len(heard)}"

        async def sub(name: str) -> str:
            return await run.decide(model.says, f"{name}: {words}", lane=name)

        answers = await asyncio.gather(*(sub(name) for name in names))
        heard.append(dict(zip(names, answers, strict=True)))
        await act("done")
        if len(heard) == 1:
            raise Killed
        return heard[-1]

    lives(body, body)
    assert heard[0] == heard[1]
    assert len(model.asked) == 3


def test_equal_requests_of_parallel_lanes_are_decisions_of_their_own() -> None:
    model, heard = Model(), []

    async def body(run: Any) -> list[str]:
        heard.append(await asyncio.gather(*(run.decide(model.says, "hello", lane=name) for name in "abc")))
        if len(heard) == 1:
            raise Killed
        return heard[-1]

    lives(body, body)
    assert sorted(heard[0]) == ["answer 1", "answer 2", "answer 3"]
    assert heard[0] == heard[1]


def test_parallel_requests_of_one_lane_come_back_by_their_text_in_any_order() -> None:
    model, order = Model(), ["abcdef", "fbdace"]
    heard: list[dict[str, str]] = []

    async def body(run: Any) -> None:
        names = order[len(heard)]
        answers = await asyncio.gather(*(run.decide(model.says, name) for name in names))
        heard.append(dict(zip(names, answers, strict=True)))
        await act("done")
        if len(heard) == 1:
            raise Killed

    lives(body, body)
    assert heard[0] == heard[1]


def test_a_changed_request_beside_one_that_is_being_asked_is_ambiguous_and_a_divergence() -> None:
    """Two requests of one lane are under way, and the log has one answer that binds: nobody can say whose it is."""
    model, heard = Model(), []

    async def old(run: Any) -> None:
        await act(await run.decide(model.says, "one"))
        await run.decide(model.says, "two")
        raise Killed

    async def new(run: Any) -> None:
        async def late() -> str:
            await asyncio.sleep(0)
            return await run.decide(model.says, "one, in other words")

        heard.extend(await asyncio.gather(run.decide(model.says, "two", fresh=True), late()))

    *_, left = lives(old, new)
    assert "match no record: name their lanes" in left.divergences[-1].why
    assert "answer 1" not in heard


def test_parallel_requests_of_one_lane_that_all_have_changed_are_ambiguous_and_a_divergence() -> None:
    model, heard = Model(), []

    async def body(run: Any) -> None:
        words = "old" if not heard else "new"
        heard.append(await asyncio.gather(*(run.decide(model.says, f"{words} {name}") for name in "ab")))
        await act("done")
        if len(heard) == 1:
            raise Killed

    *_, left = lives(body, body)
    assert [divergence.why for divergence in left.divergences[:2]] == [
        "two requests in lane `main` match no record: name their lanes"
    ] * 2
    assert not set(heard[0]) & set(heard[1])


def test_a_changed_request_beside_unchanged_ones_takes_what_they_leave() -> None:
    model, heard = Model(), []

    async def body(run: Any) -> None:
        first = "first" if not heard else "first, in other words"
        names = [first, "second", "third"] if not heard else ["third", first, "second"]
        answers = await asyncio.gather(*(run.decide(model.says, name) for name in names))
        heard.append(dict(zip([name[:5] for name in names], answers, strict=True)))
        await act("done")
        if len(heard) == 1:
            raise Killed

    lives(body, body)
    assert heard[0] == heard[1]


@pytest.mark.parametrize("lane", ["", "x" * 200, "sub agent 7"])
def test_a_lane_may_be_called_anything_that_can_be_printed(lane: str) -> None:
    model = Model()

    async def body(run: Any) -> str:
        return await run.decide(model.says, "hello", lane=lane)

    assert lives(body)[0] == "answer 1"


@pytest.mark.parametrize("lane", ["x" * 201, "a\nb", "\ud800", 7])
def test_a_lane_that_cannot_be_written_down_is_refused(lane: Any) -> None:
    model = Model()

    async def body(run: Any) -> str:
        return await run.decide(model.says, "hello", lane=lane)

    assert isinstance(lives(body)[0], BadCall)
    assert not model.asked


# --- times, ids and random numbers ---


def test_times_ids_and_random_numbers_are_the_same_on_every_resume() -> None:
    drawn: list[list[Any]] = []

    async def body(run: Any) -> list[Any]:
        drawn.append([await draw() for draw in (run.now, run.uuid, run.random, run.now, run.uuid, run.random)])
        if len(drawn) < 3:
            raise Killed
        return [str(value) for value in drawn[-1]]

    *_, left = lives(body, body, body)
    assert drawn[0] == drawn[1] == drawn[2]
    now, some_id, number, later, other_id, other_number = drawn[0]
    assert 1.6e9 < now <= later
    assert isinstance(some_id, uuid.UUID)
    assert some_id.version == 4
    assert some_id != other_id
    assert 0 <= number < 1
    assert number != other_number
    assert [(draw.name, draw.n) for draw in left.draws] == [
        ("now", 0),
        ("uuid", 0),
        ("random", 0),
        ("now", 1),
        ("uuid", 1),
        ("random", 1),
    ]


def test_numbers_drawn_in_parallel_belong_to_whoever_drew_them() -> None:
    drawn: list[list[float]] = []

    async def body(run: Any) -> None:
        drawn.append(await asyncio.gather(*(run.random() for _ in range(20))))
        if len(drawn) < 2:
            raise Killed

    lives(body, body)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 20


# --- the shape of an answer ---


def test_an_answer_is_the_type_of_the_annotation_also_from_the_log() -> None:
    from datetime import date

    from pydantic import BaseModel

    class Plan(BaseModel):
        steps: list[str]
        due: date

    heard: list[Any] = []

    async def model(prompt: str) -> Plan:
        return Plan(steps=[prompt], due=date(2026, 1, 2))

    model.__annotations__ = {"prompt": str, "return": Plan}

    async def body(run: Any) -> None:
        heard.append(await run.decide(model, "hello"))
        if len(heard) < 2:
            raise Killed

    lives(body, body)
    assert heard == [Plan(steps=["hello"], due=date(2026, 1, 2))] * 2
