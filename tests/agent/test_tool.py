"""Tools: what a declaration promises, how arguments are bound, and what a decorated function is outside a run."""

import asyncio
import functools
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest

from holdfast import Waiting, agent, open_store, tool
from holdfast.agent.tool import tool_named
from holdfast.core.contract import Drift, Level, Repeat
from holdfast.core.effect import Kind
from holdfast.errors import BadCall, BadContract, Misuse


def ran(call: Any, *, times: int = 1) -> list[Any]:
    """What an agent that does nothing but `call()` answers, in one run after another."""

    @agent
    def caller(run: Any, task: Any) -> Any:
        return call()

    with open_store("memory://") as house:
        return [house.run(caller, wait=False) for _ in range(times)]


# --- outside a run ---


def test_outside_a_run_a_tool_is_the_plain_function() -> None:
    @tool(kind="irreversible")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    assert double(4) == 8
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."
    assert list(inspect.signature(double).parameters) == ["number"]


async def test_outside_a_run_an_async_tool_is_the_plain_coroutine_function() -> None:
    @tool(kind="irreversible")
    async def double(number: int) -> int:
        return 2 * number

    assert inspect.iscoroutinefunction(double)
    assert await double(4) == 8
    assert await double.again("once more")(4) == 8


def test_a_tool_can_be_bound_in_advance_like_any_function() -> None:
    @tool(kind="idempotent")
    def add(left: int, right: int) -> int:
        return left + right

    assert ran(lambda: functools.partial(add, 1)(right=2)) == [3]


# --- names and defaults of a contract ---


def test_a_tool_is_named_after_its_module_and_function_unless_it_says_otherwise() -> None:
    @tool()
    def send() -> None: ...

    @tool(name="mail.send")
    def other() -> None: ...

    assert send.holdfast.contract.name == f"{__name__}.send"
    assert other.holdfast.contract.name == "mail.send"


def test_a_tool_that_says_nothing_promises_nothing() -> None:
    @tool()
    def send(body: str) -> None: ...

    contract = send.holdfast.contract
    assert contract.kind is Kind.IRREVERSIBLE
    assert (contract.identity, contract.resource) == (None, None)
    assert (contract.key_ttl_ms, contract.late_ms, contract.timeout_ms) == (None, None, None)
    assert (contract.probe, contract.undo, contract.approval, contract.secret) == (False, False, Level.NONE, ())


def undo(**_: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "identity", "repeat", "drift"),
    [
        ("read", None, "each", "adopt"),
        ("read", ["a"], "each", "adopt"),
        ("idempotent", None, "each", "ask"),
        ("idempotent", ["a"], "once", "ask"),
        ("reversible", None, "each", "ask"),
        ("reversible", ["a"], "once", "ask"),
        ("irreversible", None, "ask", "ask"),
        ("irreversible", ["a"], "once", "ask"),
    ],
)
def test_repeat_and_drift_follow_from_kind_and_identity(
    kind: str, identity: list[str] | None, repeat: str, drift: str
) -> None:
    @tool(kind=kind, identity=identity, undo=undo if kind == "reversible" else None)
    def act(a: int, b: int) -> None: ...

    assert act.holdfast.contract.repeat is Repeat(repeat)
    assert act.holdfast.contract.drift is Drift(drift)


def test_seconds_are_kept_as_milliseconds() -> None:
    @tool(kind="idempotent", key_ttl_s=86400, late_s=0.25, timeout_s=1.5)
    def act() -> None: ...

    contract = act.holdfast.contract
    assert (contract.key_ttl_ms, contract.late_ms, contract.timeout_ms) == (86_400_000, 250, 1500)


# --- contracts that contradict themselves ---


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"kind": "sometimes"}, "'sometimes' is not a valid"),
        ({"repeat": "maybe"}, "'maybe' is not a valid"),
        ({"drift": "maybe"}, "'maybe' is not a valid"),
        ({"approval": "three"}, "'three' is not a valid"),
        ({"identity": "to"}, "identity is a list of names, not a text"),
        ({"secret": "to"}, "secret is a list of names, not a text"),
        ({"identity": ["nobody"]}, "identity names `nobody`, which is no parameter"),
        ({"resource": ["nobody"]}, "resource names `nobody`, which is no parameter"),
        ({"secret": ["nobody"], "identity": ["to"]}, "secret names `nobody`, which is no parameter"),
        ({"secret": ["body"]}, "has secret arguments, so its identity must be named"),
        ({"secret": ["body"], "identity": ["to", "body"]}, "`body` is secret and cannot be part of the identity"),
        ({"secret": ["body"], "identity": ["to"], "resource": ["body"]}, "`body` is secret and cannot be part of"),
        ({"kind": "read", "probe": undo}, "is a read: it needs neither probe nor undo"),
        ({"kind": "reversible"}, "is reversible but has no undo"),
        ({"kind": "irreversible", "key_ttl_s": 60}, "has a key lifetime but is not idempotent"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused_when_it_is_declared(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(BadContract) as refusal:

        @tool(**declared)
        def send(to: str, body: str) -> None: ...

    assert says in str(refusal.value)
    assert "fix:" in str(refusal.value)


def test_arguments_that_cannot_be_passed_by_name_are_refused_when_the_tool_is_declared() -> None:
    with pytest.raises(BadContract, match="cannot be passed by name"):

        @tool()
        def star(*numbers: int) -> None: ...

    with pytest.raises(BadContract, match="cannot be passed by name"):

        @tool()
        def positional(number: int, /) -> None: ...


def test_what_takes_all_other_names_is_no_name_itself() -> None:
    with pytest.raises(BadContract, match="`rest`, which is no parameter"):

        @tool(identity=["to"], secret=["rest"])
        def send(to: str, **rest: str) -> None: ...


# --- binding ---


def test_a_call_is_the_same_however_its_arguments_are_spelled() -> None:
    sent: list[tuple[str, str, int]] = []

    @tool(kind="irreversible", repeat="once")
    def send(to: str, body: str = "hello", copies: int = 1) -> int:
        sent.append((to, body, copies))
        return len(sent)

    def spelled() -> list[int]:
        return [
            send("a"),
            send("a", "hello"),
            send("a", "hello", 1),
            send(to="a", copies=1),
            send(copies=1, body="hello", to="a"),
        ]

    assert ran(spelled) == [[1] * 5]
    assert sent == [("a", "hello", 1)]


def test_keyword_only_arguments_and_all_other_names_reach_the_function() -> None:
    @tool(kind="idempotent")
    def act(a: int, *, b: int = 2, **others: int) -> list[Any]:
        return [a, b, others]

    assert ran(lambda: act(1)) == [[1, 2, {}]]
    assert ran(lambda: act(1, b=3, c=4, d=5)) == [[1, 3, {"c": 4, "d": 5}]]


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"nobody": 1}), ((), {"b": 1})]
)
def test_arguments_that_do_not_fit_are_refused_before_anything_happens(args: Any, kwargs: Any) -> None:
    done: list[int] = []

    @tool(kind="irreversible")
    def act(a: int, b: int = 2) -> None:
        done.append(1)

    with pytest.raises(BadCall, match="act"):
        ran(lambda: act(*args, **kwargs))
    assert not done


def test_a_blast_radius_may_be_a_number_or_reckoned_from_the_arguments() -> None:
    seen: list[int] = []

    @tool(kind="irreversible", blast=3)
    def fixed(rows: list[int]) -> None: ...

    @tool(kind="irreversible", blast=lambda rows: seen.append(len(rows)) or len(rows))
    def reckoned(rows: list[int]) -> None: ...

    ran(lambda: [fixed([1]), reckoned([1, 2])])
    assert seen == [2]


@pytest.mark.parametrize("radius", [-1, 2.5, True, "many"])
def test_a_blast_radius_that_is_no_natural_number_is_refused_before_anything_happens(radius: Any) -> None:
    done: list[int] = []

    @tool(kind="irreversible", blast=lambda: radius)
    def act() -> None:
        done.append(1)

    with pytest.raises(BadCall, match="blast radius"):
        ran(act)
    assert not done


async def test_a_function_that_is_no_tool_cannot_be_called_through_the_run() -> None:
    @agent
    async def caller(run: Any, task: Any) -> Any:
        return await run.call(len, obj=[])

    async with open_store("memory://") as house:
        with pytest.raises(BadCall, match="`len` is not a tool"):
            await house.arun(caller)


# --- colours ---


def sync_tool(done: list[int]) -> Any:
    @tool(kind="irreversible", repeat="each")
    def act(number: int) -> int:
        done.append(number)
        return number + 1

    return act


def async_tool(done: list[int]) -> Any:
    @tool(kind="irreversible", repeat="each")
    async def act(number: int) -> int:
        await asyncio.sleep(0)
        done.append(number)
        return number + 1

    return act


def test_a_sync_agent_calls_sync_tools_plainly() -> None:
    done: list[int] = []
    act = sync_tool(done)
    assert ran(lambda: act(1) + act(1)) == [4]
    assert done == [1, 1]


def test_a_sync_agent_reaches_async_tools_through_the_run() -> None:
    done: list[int] = []
    act = async_tool(done)

    @agent
    def caller(run: Any, task: Any) -> int:
        return run.call(act, number=1) + run.call(act, number=2)

    with open_store("memory://") as house:
        assert house.run(caller) == 5
    assert done == [1, 2]


async def test_an_async_agent_awaits_async_tools_and_calls_sync_ones_plainly() -> None:
    done: list[int] = []
    plain, awaited = sync_tool(done), async_tool(done)

    @agent
    async def caller(run: Any, task: Any) -> int:
        return plain(1) + await awaited(2) + await run.call(plain, number=3) + await run.call(awaited, number=4)

    async with open_store("memory://") as house:
        assert await house.arun(caller) == 14
    assert done == [1, 2, 3, 4]


async def test_a_tool_keeps_its_run_in_another_thread_that_has_its_context() -> None:
    done: list[int] = []
    act = sync_tool(done)

    @agent
    async def caller(run: Any, task: Any) -> list[int]:
        return sorted(await asyncio.gather(*(asyncio.to_thread(act, number) for number in range(8))))

    async with open_store("memory://") as house:
        assert await house.arun(caller, id="x") == list(range(1, 9))
        assert sorted(done) == list(range(8))
        entries = await house.store.read("x@main")
        assert sum(b'"t":"intent"' in entry.body for entry in entries) == 8


@pytest.mark.parametrize("outer_awaits", [False, True])
async def test_a_tool_inside_a_tool_is_the_plain_function(*, outer_awaits: bool) -> None:
    done: list[int] = []
    inner = sync_tool(done)

    @tool(kind="irreversible")
    def outer() -> int:
        return inner(1) + inner(1)

    @tool(kind="irreversible", name="outer")
    async def outer_async() -> int:
        return inner(1) + inner(1)

    @agent
    async def caller(run: Any, task: Any) -> int:
        return await (outer_async() if outer_awaits else run.call(outer))

    async with open_store("memory://") as house:
        assert await house.arun(caller, id="x") == 4
        entries = await house.store.read("x@main")
    assert sum(b'"t":"intent"' in entry.body for entry in entries) == 1


def test_a_function_that_raises_stop_iteration_does_not_hang_its_run() -> None:
    @tool(kind="read")
    def first(of: list[int]) -> int:
        return next(iter(of))

    def caught() -> str:
        try:
            first([])
        except Exception as error:  # noqa: BLE001
            return str(error)
        return "no error"

    (said,) = ran(caught)
    assert "StopIteration" in said


def test_an_agent_that_raises_stop_iteration_does_not_hang_its_run() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        ran(lambda: next(iter([])))


def test_an_unfinished_thought_is_a_doubt_and_not_an_answer() -> None:
    @tool(kind="irreversible")
    def act() -> None:
        raise StopIteration

    with pytest.raises(Waiting, match="may have happened"):
        ran(act)


# --- finding a tool by the name that a log has for it ---


def test_a_tool_is_found_by_its_name_while_somebody_holds_it() -> None:
    @tool(name="found.by.name")
    def send() -> None: ...

    assert tool_named("found.by.name") is send.holdfast
    assert tool_named("found.by") is None
    del send
    assert tool_named("found.by.name") is None


def test_a_further_effect_is_the_same_tool() -> None:
    @tool(name="found.again")
    def send() -> None: ...

    assert tool_named("found.again") is send.again("reminder").holdfast  # type: ignore[attr-defined]


def test_a_module_that_is_loaded_once_more_has_the_newest_tool(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text(
        'from holdfast import tool\n@tool(name="found.reloaded")\ndef send() -> None: ...\n'
    )
    first, second = (runpy.run_path(str(tmp_path / "loaded.py")) for _ in range(2))
    assert first["send"].holdfast is not second["send"].holdfast
    assert tool_named("found.reloaded") is second["send"].holdfast


def test_different_functions_under_one_name_are_not_chosen_between() -> None:
    @tool(name="found.twice")
    def send() -> None: ...

    @tool(name="found.twice")
    def post() -> None: ...

    with pytest.raises(Misuse) as raised:
        tool_named("found.twice")
    assert "send" in str(raised.value)
    assert "post" in str(raised.value)
    del post, raised  # the error still holds what it speaks of
    assert tool_named("found.twice") is send.holdfast


def test_what_nobody_holds_any_more_stands_in_nobodys_way() -> None:
    @tool(name="found.once")
    def send() -> None: ...

    @tool(name="found.once")
    def post() -> None: ...

    around: list[object] = [post]
    around.append(around)
    del post, around
    assert tool_named("found.once") is send.holdfast


def test_functions_behind_one_decorator_are_told_apart_by_where_they_are_written(tmp_path: Path) -> None:
    text = (
        "import functools\nfrom holdfast import tool\nfrom tests.agent.test_tool import plainly\n"
        '@tool(name="found.behind")\n@plainly\ndef send() -> None: ...\n'
    )
    for name in ("one.py", "other.py"):
        (tmp_path / name).write_text(text)
    first = runpy.run_path(str(tmp_path / "one.py"))
    second = runpy.run_path(str(tmp_path / "other.py"))
    with pytest.raises(Misuse):
        tool_named("found.behind")
    assert first["send"] is not second["send"]


def plainly(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call
