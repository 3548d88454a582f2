"""The door for starters, and those who come to it with something else in mind."""

from __future__ import annotations

import array
import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.record import Claim
from holdfast.errors import BadCall, HoldfastError
from holdfast.gateway.launching import LARGEST, receive, say
from tests.examples import examples
from tests.gateway.house_rules import ANN, RUN, STRANGER, House, descriptors, house, pair


@pytest.fixture
async def home() -> AsyncGenerator[House]:
    async with house() as found:
        yield found


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.01)


def raw(home: House) -> socket.socket:
    there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.setblocking(False)
    there.connect(str(home.launching))
    return there


async def said(there: socket.socket) -> str:
    """Why the door has refused."""
    async with asyncio.timeout(60):
        answer = await receive(there)
    assert answer is not None
    return answer[0]["error"]["what"]


GARBAGE = {
    "no JSON": (b"garbage", "the body is not JSON"),
    "no letters": (b"\xff\xfe", "the body is not JSON"),
    "no object": (b"[]", "the body is no JSON object"),
    "no number": (b'{"open": NaN}', "NaN is no JSON number"),
    "a name twice": (b'{"open": {}, "open": {}}', "a name stands twice"),
    "depth": (b'{"open":' * 5000 + b"1" + b"}" * 5000, ""),
    "half a letter": (b'{"open": {"run": "\\ud800"}}', "cannot be written down"),
    "a number beyond all": (b'{"open": {"run": 1e999}}', "cannot be written down"),
    "too much": (b" " * (LARGEST + 1), "a message is larger"),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_refused_with_its_reason_and_the_door_goes_on(home: House, kind: str) -> None:
    data, why = GARBAGE[kind]
    with raw(home) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        there.sendall(data)
        assert why in await said(there)
    async with home.starting() as starting:
        assert (await starting.ask({"open": home.wanted()}))["run"] == RUN


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "the message is not understood"),
    "an end before the beginning": ({"end": {}}, "the message is not understood"),
    "listeners before the beginning": ({"listen": {}}, "the message is not understood"),
    "no name": ({"open": {"agent": "clerk", "place": "local"}}, "a run and its agent must be named"),
    "a name with a path": ({"open": {"run": "../r", "agent": "clerk", "place": "local"}}, "this cannot name a run"),
    "a name with a branch": ({"open": {"run": "r@main", "agent": "clerk", "place": "local"}}, "this cannot name a run"),
    "a name with a line": ({"open": {"run": "r\n", "agent": "clerk", "place": "local"}}, "this cannot name a run"),
    "letters that look alike": ({"open": {"run": "ｒ", "agent": "clerk", "place": "local"}}, "this cannot name a run"),
    "an agent that nobody declared": (
        {"open": {"run": "r", "agent": "root", "place": "local"}}, "there is no agent `root`",
    ),
    "what is not known": (
        {"open": {"run": "r", "agent": "clerk", "terms": {}, "place": "local"}}, "`terms` is nothing",
    ),
    "another answer to divergence": (
        {"open": {"run": "r", "agent": "clerk", "on_divergence": "ignore", "place": "local"}},
        "`ignore` is nothing to do",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_asked_wrongly_is_refused_and_no_run_begins(home: House, kind: str) -> None:
    message, why = WRONG[kind]
    async with home.starting() as starting:
        with pytest.raises(HoldfastError, match=why.replace("|", r"\|")):
            await starting.ask(message)
    assert await home.gateway.opening.store.branches() == []


async def test_one_connection_takes_up_one_run(home: House) -> None:
    async with home.starting() as starting:
        await starting.ask({"open": home.wanted()})
        with pytest.raises(HoldfastError, match="the message is not understood"):
            await starting.ask({"open": home.wanted("other")})
        assert set(home.gateway.wards.by_run) == {RUN}


async def test_a_run_that_somebody_has_is_not_taken_up_by_another(home: House) -> None:
    async with home.starting() as one, home.starting() as other:
        await one.ask({"open": home.wanted()})
        with pytest.raises(HoldfastError, match="the run has a program already"):
            await other.ask({"open": home.wanted()})


async def test_who_is_gone_has_given_its_run_back(home: House) -> None:
    async with home.starting() as starting:
        await starting.ask({"open": home.wanted()})
    await until(lambda: not home.gateway.wards.by_run)
    async with home.starting() as starting:
        await starting.ask({"open": home.wanted()})
    assert sum(isinstance(each, Claim) for each in await home.records()) == 2


async def test_who_never_reads_keeps_nobody_else_waiting(home: House) -> None:
    with raw(home) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(200):
            try:
                there.send(b'{"nothing": {}}')
            except BlockingIOError:
                break
        async with home.starting() as starting:
            assert (await starting.ask({"open": home.wanted()}))["run"] == RUN


# --- what comes with a message ---


def sent_with(there: socket.socket, message: dict[str, Any], numbers: list[int]) -> None:
    there.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))])


@pytest.mark.parametrize("message", [{"nothing": {}}, {"listen": {"8080": 16}}, {"open": {"run": "r"}}])
async def test_a_flood_of_descriptors_is_closed(home: House, message: dict[str, Any]) -> None:
    before = descriptors()
    for each in (16, 250):
        with raw(home) as there:
            sent_with(there, message, [0] * each)
            assert await said(there)
    await until(lambda: descriptors() == before)


async def test_more_listeners_than_fit_are_refused(home: House) -> None:
    listener, _ = pair()
    with listener, raw(home) as there:
        sent_with(there, {"nothing": {}}, [listener.fileno()] * 100)
        assert "carries too many listeners" in await said(there)


@pytest.mark.parametrize("kind", ["a file", "a pipe", "UDP", "a local socket", "one that does not listen"])
async def test_what_is_no_listener_is_refused_and_closed(home: House, kind: str) -> None:
    made: dict[str, Any] = {
        "a file": lambda: os.open("/dev/null", os.O_RDONLY),
        "a pipe": lambda: os.pipe()[0],
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        "a local socket": lambda: socket.socket(socket.AF_UNIX).detach(),
        "one that does not listen": lambda: socket.socket().detach(),
    }
    number = made[kind]()
    before = descriptors()
    with raw(home) as there:
        await say(there, {"open": home.wanted(place="sandbox")})
        assert (await receive(there)) is not None
        sent_with(there, {"listen": {"8080": 1}}, [number])
        assert "what came is no socket" in await said(there)
    await until(lambda: descriptors() <= before)
    os.close(number)


@pytest.mark.parametrize("ports", [{"8080": 2}, {"8080": 0}, {"8080": True}, {"x": 1}, {"-1": 1}, {"٣": 1}, {}])
async def test_listeners_that_do_not_fit_their_ports_are_refused_and_closed(home: House, ports: dict[str, Any]) -> None:
    listener, idle = pair()
    idle.close()
    with listener, raw(home) as there:
        await say(there, {"open": home.wanted(place="sandbox")})
        assert (await receive(there)) is not None
        before = descriptors()
        sent_with(there, {"listen": ports}, [listener.fileno()])
        assert await said(there)
        assert descriptors() == before


async def test_a_run_has_its_listeners_once_and_they_end_with_it(home: House) -> None:
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in (first, second)]
    with raw(home) as there:
        await say(there, {"open": home.wanted(place="sandbox")})
        assert (await receive(there)) is not None
        await say(there, {"listen": {"8080": 1}}, [first])
        answer = await receive(there)
        assert answer is not None
        assert answer[0] == {"listening": True}
        await say(there, {"listen": {"8080": 1}}, [second])
        assert await said(there) == "this run has its listeners already"
        first.close()
        second.close()
    await until(lambda: not home.gateway.wards.by_run)
    for port in ports:
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_run_beside_the_gateway_has_no_listeners(home: House) -> None:
    listener, idle = pair()
    idle.close()
    with listener, raw(home) as there:
        await say(there, {"open": home.wanted()})
        assert (await receive(there)) is not None
        await say(there, {"listen": {"8080": 1}}, [listener])
        assert await said(there) == "this run has no listeners of its own"


# --- who may ---


def test_somebody_without_a_name_starts_nothing() -> None:
    async def attempt() -> None:
        async with house() as home:
            for uid in (STRANGER, ANN):  # ann may approve, and not start
                answer = await asyncio.to_thread(home.start_by, uid, {"open": home.wanted()})
                assert answer["error"]["what"] == "this user may not start runs"
            assert await home.gateway.opening.store.branches() == []

    asyncio.run(attempt())


def test_who_may_start_is_named_in_the_log_by_the_name_that_the_system_knows() -> None:
    async def attempt() -> None:
        async with house(may=["start"]) as home:
            answer = await asyncio.to_thread(home.start_by, ANN, {"open": home.wanted()})
            assert answer["run"] == RUN
            issued = [each for each in await home.records() if hasattr(each, "handle")]
            assert [each.by for each in issued] == ["ann"]

    asyncio.run(attempt())


async def test_a_door_without_descriptors_opens_again_when_there_are_some(home: House) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [raw(home) for _ in range(3)]
    there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(each) for each in os.listdir("/proc/self/fd")) + 1, hard))
    filler: list[int] = []
    try:
        try:
            while True:
                filler.append(os.dup(0))
        except OSError:
            pass
        there.connect(str(home.launching))
        await asyncio.sleep(0.3)  # the door finds no descriptor for it meanwhile
    finally:
        for each in filler:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await say(there, {"open": home.wanted()})
    async with asyncio.timeout(60):
        answer = await receive(there)
    assert answer is not None
    assert answer[0]["run"] == RUN
    for each in (*waiting, there):
        each.close()


# --- whatever comes ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.one_of(st.binary(min_size=1, max_size=200), JSON.map(lambda value: json.dumps(value).encode())),
    st.integers(0, 20),
)
@example(b"[" * 100_000, 0)
def test_a_message_is_an_object_or_refused_and_its_descriptors_are_never_lost(data: bytes, many: int) -> None:
    async def attempt() -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        before = descriptors()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [there.fileno()] * many))] if many else []
        there.sendmsg([data], rights)
        try:
            found = await receive(here)
        except BadCall:
            pass
        else:
            assert found is not None
            assert isinstance(found[0], dict)
            assert len(found[1]) == many
            for each in found[1]:
                each.close()
        assert descriptors() == before
        here.close()
        there.close()

    asyncio.run(attempt())
