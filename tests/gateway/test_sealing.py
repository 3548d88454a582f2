"""Sealing is total: whatever a tool returns or raises, what came of its effect is written down, and a replay gives the
agent what it was given the first time: the same value, of the same type, from the same bytes."""

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from holdfast import Asleep, InDoubt, NotHappened, RetryAfter, Run, agent, open_store, tool
from holdfast.core.effect import Happened
from holdfast.core.slot import Slot
from holdfast.gateway.history import read_log
from holdfast.gateway.line import read_payload
from holdfast.store import Store

LOST = object()


class Died(Exception):
    """Ends the first life of a run, after its call was answered."""


# --- one call, its first answer, and the answer of a replay ---


@dataclasses.dataclass
class Told:
    """What the agent got in one life: a value, or the text of an error."""

    value: object
    error: str


def lives(url: str, kind: str, body: Callable[[], object]) -> tuple[list[Told], int, list[bytes]]:
    """Two lives of a run that makes one call: what the agent got, how often `body` ran, and the sealed bytes after each
    life."""
    told: list[Told] = []
    sealed: list[bytes] = []
    ran = 0

    def called() -> object:
        nonlocal ran
        ran += 1
        return body()

    called.__annotations__ = dict(body.__annotations__)
    called.__globals__.update({})
    call = tool(kind=kind, name="world.call")(called)

    @agent
    async def once(run: Run, _task: None) -> None:
        try:
            told.append(Told(await run.call(call), ""))
        except Exception as error:  # noqa: BLE001 - the tests look at whatever it is
            told.append(Told(None, f"{type(error).__name__}: {error}"))
        if len(told) == 1:
            raise Died

    for number in range(2):
        with open_store(url) as house:
            if number == 0:
                with pytest.raises(Died):
                    house.run(once, id="run", wait=False)
            else:
                house.run(once, id="run", wait=False)
            sealed.append(asyncio.run(sealed_bytes(house.store)))
    return told, ran, sealed


async def sealed_bytes(store: Store) -> bytes:
    """The answer as it was sealed; the reason, if it did not happen."""
    slot = await only_call(store)
    assert slot.outcome is not None, "the effect is in doubt"
    if isinstance(slot.outcome, Happened):
        return await read_payload(store, slot.outcome.answer)
    return slot.outcome.reason.encode()


async def only_call(store: Store) -> Slot:
    (slot,) = (await read_log(store, "run@main")).log.slots.values()
    return slot


def same(one: object, other: object) -> bool:
    """Equal in value and type, NaN and signed zeroes too, at any depth."""
    waiting = [(one, other)]
    while waiting:
        left, right = waiting.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, float) and isinstance(right, float):
            if struct.pack("d", left) != struct.pack("d", right):
                return False
        elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
            if len(left) != len(right):
                return False
            waiting.extend(zip(left, right, strict=True))
        elif isinstance(left, dict) and isinstance(right, dict):
            if list(left) != list(right):
                return False
            waiting.extend((left[key], right[key]) for key in left)
        elif left != right:
            return False
    return True


def check(url: str, kind: str, body: Callable[[], object], expected: object) -> None:
    told, ran, sealed = lives(url, kind, body)
    first, replayed = told
    assert ran == 1
    assert sealed[0] == sealed[1]
    assert first.error == replayed.error
    assert same(first.value, replayed.value)
    if expected is LOST:
        assert first.error.startswith("AnswerLost: `world.call` happened, but its answer could not be written down")
    else:
        assert not first.error
        assert same(first.value, expected)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db?anchor=none"


# --- values without annotations ---


def nested(depth: int, inside: object = 1) -> object:
    for _ in range(depth):
        inside = [inside]
    return inside


def circular() -> object:
    mine: list[object] = []
    mine.append(mine)
    return mine


class Hostile(dict[str, object]):
    """A dict that fails when it is looked at, with an error that fails when it is read."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def items(self) -> Any:
        raise self.Mute


LONG = "long " * 500
VALUES: dict[str, tuple[Callable[[], object], object]] = {
    "nothing": (lambda: None, None),
    "a lone surrogate": (lambda: "\ud800", "\ud800"),
    "a pair of surrogates that is one letter": (lambda: "\ud83d\ude00", "\U0001f600"),
    "a lone surrogate in a long text": (lambda: LONG + "\udfff", LONG + "\udfff"),
    "a lone surrogate in a long list": (lambda: [LONG, "\ud800", LONG], [LONG, "\ud800", LONG]),
    "a lone surrogate in a name": (lambda: {"\ud800": LONG, "a": 1}, {"\ud800": LONG, "a": 1}),
    "a file name that is no text": (lambda: os.fsdecode(b"caf\xe9.txt"), "caf\udce9.txt"),
    "NaN": (lambda: math.nan, math.nan),
    "infinities": (lambda: [math.inf, -math.inf], [math.inf, -math.inf]),
    "NaN in a long list": (lambda: [LONG, math.nan, LONG, 1], [LONG, math.nan, LONG, 1]),
    "NaN deep in a long list": (lambda: {"a": [{"b": math.nan}, LONG]}, {"a": [{"b": math.nan}, LONG]}),
    "NUL": (lambda: "a\0b", "a\0b"),
    "NUL in names": (lambda: {"\0": "\0" * 3000}, {"\0": "\0" * 3000}),
    "2^64+1": (lambda: 2**64 + 1, 2**64 + 1),
    "-2^64 in a long list": (lambda: [-(2**64), LONG, LONG], [-(2**64), LONG, LONG]),
    "4000 digits": (lambda: 10**3999, 10**3999),
    "5000 digits": (lambda: 10**5000, LOST),
    "-0.0": (lambda: -0.0, -0.0),
    "1.0 and 1": (lambda: [1.0, 1, True], [1.0, 1, True]),
    "the smallest and largest floats": (lambda: [5e-324, 1.7976931348623157e308], [5e-324, 1.7976931348623157e308]),
    "1e22 as float and integer": (lambda: [1e22, 10**22], [1e22, 10**22]),
    "a tuple": (lambda: (1, (2, ())), [1, [2, []]]),
    "names that become the same": (lambda: {1: "a", "1": "b"}, {"1": "b"}),
    "long names that become the same": (lambda: {1: LONG, "1": LONG + "b"}, {"1": LONG + "b"}),
    "names of other types": (lambda: {None: 1, True: 2, 3.5: 3}, {"null": 1, "true": 2, "3.5": 3}),
    "names out of order": (lambda: {"b": LONG, "a": LONG}, {"b": LONG, "a": LONG}),
    "names beyond the basic plane": (
        lambda: {"\U0001f600": LONG, "\uffff": LONG},
        {"\U0001f600": LONG, "\uffff": LONG},
    ),
    "150 levels": (lambda: nested(150), nested(150)),
    "300 levels": (lambda: nested(300), nested(300)),
    "300 levels around a long text": (lambda: [nested(300, LONG), LONG], [nested(300, LONG), LONG]),
    "100,000 levels": (lambda: nested(100_000), LOST),
    "itself": (circular, LOST),
    "bytes": (lambda: b"\xff\xfe\0", b"\xff\xfe\0"),
    "no bytes": (lambda: b"", b""),
    "a byte array": (lambda: bytearray(b"\xff"), b"\xff"),
    "bytes in a list that are no text": (lambda: [b"\xff"], LOST),
    "an object": (object, LOST),
    "a function": (lambda: print, LOST),
    "what fails when it is looked at": (lambda: Hostile(a=1), LOST),
    "a list that repeats itself": (lambda: [{"a": LONG}] * 50, [{"a": LONG}] * 50),
    "one text many times": (lambda: {str(n): LONG for n in range(50)}, {str(n): LONG for n in range(50)}),
    "text that looks like a rope": (lambda: "\x01" + "\0" * 2000, "\x01" + "\0" * 2000),
    "every control letter": (lambda: "".join(map(chr, range(33))) * 40, "".join(map(chr, range(33))) * 40),
    "line separators": (lambda: "\u2028\u2029\ufeff" * 400, "\u2028\u2029\ufeff" * 400),
}


@pytest.mark.parametrize("kind", ["irreversible", "read"])
@pytest.mark.parametrize("name", VALUES)
def test_what_a_tool_returns_is_sealed_and_comes_back_the_same(url: str, name: str, kind: str) -> None:
    make, expected = VALUES[name]

    def body():
        return make()

    check(url, kind, body, expected)


@pytest.mark.parametrize(
    "make", [lambda: "x" * 50_000_000, lambda: os.urandom(25_000_000) * 2, lambda: [LONG] * 20_000]
)
def test_50_megabytes_are_sealed_and_come_back_the_same(url: str, make: Callable[[], object]) -> None:
    value = make()

    def body():
        return value

    check(url, "idempotent", body, value)


# --- values whose types are known by annotation ---


class Colour(enum.Enum):
    RED = "red"


class Inner(pydantic.BaseModel):
    at: dt.datetime
    parts: tuple[int, ...] = ()
    price: decimal.Decimal = decimal.Decimal("0.10")


class Outer(pydantic.BaseModel):
    inner: Inner
    by_number: dict[int, Inner] = {}
    note: str | None = None


class Failing(pydantic.BaseModel):
    """Can be written but not read: with an error that pydantic does not make its own."""

    number: int

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def refuse(cls, value: object, handler: Callable[[object], "Failing"]) -> "Failing":
        if isinstance(value, dict) and "made" not in value:
            raise KeyError("made")
        return handler(value)


@dataclasses.dataclass
class Point:
    x: float
    y: float


NOON = dt.datetime(2026, 2, 3, 12, 0, 0, 1, tzinfo=dt.UTC)
MODEL = Outer(inner=Inner(at=NOON, parts=(1, 2)), by_number={7: Inner(at=NOON)}, note="\0 and \u2028")
TYPED: dict[str, tuple[object, Callable[[], object], object]] = {
    "a time": (dt.datetime, lambda: NOON, NOON),
    "a day": (dt.date, NOON.date, NOON.date()),
    "a while": (
        dt.timedelta,
        lambda: dt.timedelta(days=400, microseconds=1),
        dt.timedelta(400, 0, 1),
    ),
    "a decimal": (decimal.Decimal, lambda: decimal.Decimal("1.10"), decimal.Decimal("1.10")),
    "an id": (uuid.UUID, lambda: uuid.UUID(int=7), uuid.UUID(int=7)),
    "a colour": (Colour, lambda: Colour.RED, Colour.RED),
    "a path": (Path, lambda: Path("/a/b"), Path("/a/b")),
    "a model": (Outer, lambda: MODEL, MODEL),
    "a list of models": (list[Outer], lambda: [MODEL] * 30, [MODEL] * 30),
    "a model or none": (Outer | None, lambda: None, None),
    "a dataclass": (Point, lambda: Point(-0.0, 1.0), Point(-0.0, 1.0)),
    "a set": (set[int], lambda: {3, 1, 2}, {1, 2, 3}),
    "a tuple": (tuple[int, str], lambda: (1, "a"), (1, "a")),
    "numbers as names": (dict[int, str], lambda: {1: "a"}, {"1": "a"}),
    "bytes": (bytes, lambda: b"\xff\0", b"\xff\0"),
    "what is not of its type": (dt.datetime, lambda: "soon", "soon"),
    "what can be taken for its type": (dt.date, lambda: "2026-02-03", NOON.date()),
    "none where a model must stand": (Outer, lambda: None, None),
    "a model that cannot be read back": (Failing, lambda: Failing(number=1, made=True), LOST),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", TYPED)
def test_a_type_that_the_annotation_names_comes_back_as_that_type(url: str, name: str) -> None:
    annotation, make, expected = TYPED[name]

    def body() -> object:
        return make()

    body.__annotations__["return"] = annotation
    told, ran, sealed = lives(url, "irreversible", body)
    assert ran == 1
    assert sealed[0] == sealed[1]
    if expected is LOST:
        assert told[0].error.startswith("AnswerLost")
    elif name == "numbers as names":  # plain JSON all through: names are text
        assert told[0].value == {"1": "a"}
    else:
        assert (type(told[0].value), told[0].value) == (type(expected), expected)
    assert (type(told[1].value), told[1]) == (type(told[0].value), told[0])


# --- what is raised ---


class Mine(NotHappened):
    """A tool's own way to say that it did not happen."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


REASONS = {
    "plain": "the card was declined",
    "empty": "",
    "a lone surrogate": "\ud800",
    "NUL and other controls": "\0\x1b[31m",
    "a megabyte": "no " * 350_000,
}


@pytest.mark.parametrize("kind", ["irreversible", "read"])
@pytest.mark.parametrize("error", [NotHappened, Mine])
@pytest.mark.parametrize("reason", REASONS)
def test_a_proven_refusal_comes_back_with_the_same_words(
    url: str, reason: str, error: type[NotHappened], kind: str
) -> None:
    def body() -> None:
        raise error(REASONS[reason])

    told, ran, sealed = lives(url, kind, body)
    assert ran == 1
    assert sealed[0] == sealed[1]
    assert told[0].error.startswith("NotHappened: ")
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "error", [Mute, UnicodeError, lambda: Exception("\ud800" * 2000), StopIteration, RecursionError]
)
def test_any_other_error_of_a_read_is_an_answer_too(url: str, error: Callable[[], Exception]) -> None:
    def body() -> None:
        raise error()

    told, ran, sealed = lives(url, "read", body)
    assert ran == 1
    assert sealed[0] == sealed[1]
    assert told[0] == told[1]
    assert told[0].error.startswith("NotHappened: ")


@pytest.mark.parametrize("error", [Mute, lambda: Exception("\ud800" * 2000), StopIteration, RecursionError, KeyError])
def test_any_error_of_a_write_is_doubt_and_no_error_that_an_agent_could_take_for_a_no(
    url: str, error: Callable[[], Exception]
) -> None:
    swallowed: list[Exception] = []

    @tool(kind="irreversible", name="world.call")
    def call() -> None:
        raise error()

    @agent
    def greedy(run: Run, _task: None) -> None:
        try:
            call()
        except Exception as caught:  # noqa: BLE001 - what a careless agent does
            swallowed.append(caught)

    with open_store(url) as house:
        for _ in range(2):
            with pytest.raises(InDoubt, match="may have happened"):
                house.run(greedy, id="run", wait=False)
    assert not swallowed


SECONDS = {"NaN": math.nan, "less than none": -5.0, "text": "0", "a long time": math.inf}


@pytest.mark.parametrize("kind", ["irreversible", "read"])
@pytest.mark.parametrize("seconds", SECONDS)
def test_any_time_to_come_back_at_is_a_time(url: str, seconds: str, kind: str) -> None:
    ran = 0

    @tool(kind=kind, name="world.call")
    def call() -> str:
        nonlocal ran
        ran += 1
        if ran == 1:
            raise RetryAfter(SECONDS[seconds])  # pyright: ignore[reportArgumentType]
        return "done"

    @agent
    def patient(run: Run, _task: None) -> str:
        return call()

    with open_store(url) as house:
        if seconds == "a long time":
            with pytest.raises(Asleep):
                house.run(patient, id="run", wait=False)
        else:
            assert house.run(patient, id="run", wait=False) == "done"
    assert ran == (1 if seconds == "a long time" else 2)


# --- decisions and states are kept by the same rules ---

MADE = [name for name, (_, expected) in VALUES.items() if expected is not LOST]


@pytest.mark.parametrize("name", MADE)
def test_what_a_model_says_comes_back_the_same(url: str, name: str) -> None:
    make, expected = VALUES[name]
    told: list[object] = []

    async def model() -> object:
        return make() if not told else pytest.fail("asked twice")

    @agent
    async def asks(run: Run, _task: None) -> None:
        told.append(await run.decide(model))
        if len(told) == 1:
            raise Died

    for number in range(2):
        with open_store(url) as house:
            if number == 0:
                with pytest.raises(Died):
                    house.run(asks, id="run", wait=False)
            else:
                house.run(asks, id="run", wait=False)
    assert same(told[0], expected)
    assert same(told[1], expected)


@pytest.mark.parametrize("name", MADE)
def test_a_state_is_restored_the_same(url: str, name: str) -> None:
    make, expected = VALUES[name]
    if isinstance(expected, bytes):
        pytest.skip("bytes are no state: a state is JSON, or what its type says")
    told: list[object] = []

    @agent(state=object)
    async def keeps(run: Run, _task: None) -> None:
        if not told:
            run.state = make()
            told.append(None)
            await run.checkpoint()
            raise Died
        told.append(run.state)

    for number in range(2):
        with open_store(url) as house:
            if number == 0:
                with pytest.raises(Died):
                    house.run(keeps, id="run", wait=False)
            else:
                house.run(keeps, id="run", wait=False)
    assert same(told[1], expected)
