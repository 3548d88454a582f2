"""Requests to a declared system: where they go, over which connection, and what was certainly not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.errors import Refused
from holdfast.gateway import exchange
from holdfast.gateway.connection import Unanswered, Unreached
from holdfast.gateway.dial import Dialer
from holdfast.gateway.exchange import Client
from holdfast.gateway.hosts import Origin
from tests.gateway.far_end import BOTH_LOOPS, NO_LOOPS_WARNING, OK, Line, authority, caller, deaf, far_end, saying

pytestmark = NO_LOOPS_WARNING


@pytest.fixture(**BOTH_LOOPS)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """A gateway runs on either loop, and their connections end in different ways."""
    return request.param()


async def silence(line: Line) -> None:
    """Read, and say nothing until the other side hangs up."""
    await line.request()
    await line.gone()


async def test_a_request_is_written_as_it_was_asked_for() -> None:
    async with far_end(saying(OK)) as there, caller(there.port) as here:
        await here.ask("GET", "/a%20b?c=d&e", {"accept": "*/*", "x-tab": "a\tb", "x-none": ""})
        await here.ask("POST", data=b"{}")
        await here.ask("POST")
        await here.ask("DELETE", fresh=True)
    host = f"host: 127.0.0.1:{there.port}".encode()
    assert [request.split(b"\r\n")[:-2] for _, request in there.got] == [
        [b"GET /a%20b?c=d&e HTTP/1.1", host, b"accept: */*", b"x-tab: a\tb", b"x-none: "],
        [b"POST / HTTP/1.1", host, b"content-length: 2"],
        [b"POST / HTTP/1.1", host, b"content-length: 0"],
        [b"DELETE / HTTP/1.1", host, b"content-length: 0", b"connection: close"],
    ]


async def test_what_is_fresh_goes_over_a_connection_of_its_own_and_says_so() -> None:
    async with far_end(saying(OK)) as there, caller(there.port) as here:
        for fresh in (False, True, True, False):
            await here.ask(fresh=fresh)
    assert there.on == [1, 2, 3, 1]
    assert [b"connection: close" in request for _, request in there.got] == [False, True, True, False]


NO_REQUEST = {
    "a line more in the target": {"target": "/\r\nx: y"},
    "a bare LF in the target": {"target": "/\nx: y"},
    "a bare CR in the target": {"target": "/\rx"},
    "a blank in the target": {"target": "/ HTTP/1.1"},
    "a tab in the target": {"target": "/\tHTTP/1.1"},
    "a NUL in the target": {"target": "/\0"},
    "other letters in the target": {"target": "/é"},
    "no target": {"target": ""},
    "a target that is relative": {"target": "a"},
    "a target that is another origin": {"target": "http://other.example/"},
    "no method": {"method": ""},
    "a line more in the method": {"method": "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"},
    "a method in small letters": {"method": "get"},
    "a line more in a header": {"headers": {"x": "y\r\nz: a"}},
    "a request more in a header": {"headers": {"x": "y\r\n\r\nGET /other HTTP/1.1"}},
    "a bare LF in a header": {"headers": {"x": "y\nz: a"}},
    "a bare CR in a header": {"headers": {"x": "y\rz"}},
    "a NUL in a header": {"headers": {"x": "y\0"}},
    "a control character in a header": {"headers": {"x": "y\x7f"}},
    "other letters in a header": {"headers": {"x": "é"}},
    "a lone surrogate in a header": {"headers": {"x": "\udcff"}},
    "a header without a name": {"headers": {"": "x"}},
    "a colon in a name": {"headers": {"host: other.example": "x"}},
    "a blank in a name": {"headers": {"content-length ": "5"}},
    "a line more in a name": {"headers": {"x\r\ny": "z"}},
    "a name in capitals": {"headers": {"X": "y"}},
    "other letters in a name": {"headers": {"é": "y"}},
    "a host": {"headers": {"host": "other.example"}},
    "a host in capitals": {"headers": {"Host": "other.example"}},
    "a length": {"headers": {"content-length": "5"}},
    "a coding": {"headers": {"transfer-encoding": "chunked"}},
    "a word on the connection": {"headers": {"connection": "upgrade"}},
}


@pytest.mark.parametrize("name", NO_REQUEST)
async def test_what_would_be_read_as_another_request_is_not_sent(name: str) -> None:
    async with far_end(saying(OK)) as there, caller(there.port) as here:
        await here.ask()  # there is a connection on which it could go
        with pytest.raises(Unreached):
            await here.ask(**NO_REQUEST[name])
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 1]


async def test_an_origin_that_is_not_declared_is_not_even_looked_up() -> None:
    asked: list[str] = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with far_end(saying(OK)) as there:
        client = Client(Dialer(["127.0.0.1"], resolve=resolve), [Origin("http", "a.example", there.port)])
        for origin in (
            Origin("http", "b.example", there.port),
            Origin("http", "127.0.0.1", there.port),
            Origin("http", "a.example", 1),
            Origin("https", "a.example", there.port),
        ):
            with pytest.raises(Refused, match="none of the declared hosts"):
                await client.exchange(origin, "GET", "/", {}, None, timeout_s=60, most=1, fresh=False)
    assert not asked
    assert not there.lines


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_name_with_an_address_that_may_not_be_dialled_is_refused(addresses: list[str]) -> None:
    async def resolve(_: str) -> Sequence[str]:
        return addresses

    async with far_end(saying(OK)) as there:
        origin = Origin("http", "a.example", there.port)
        client = Client(Dialer(resolve=resolve), [origin])
        with pytest.raises(Refused, match="is not dialled"):
            await client.exchange(origin, "GET", "/", {}, None, timeout_s=60, most=1, fresh=False)
    assert not there.lines


class Careless(Dialer):
    """One whose resolver has been got round."""

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        return ("127.0.0.1",)


async def test_an_address_that_nobody_has_looked_at_is_looked_at_where_it_is_dialled() -> None:
    async with far_end(saying(OK)) as there:
        origin = Origin("http", "a.example", there.port)
        with pytest.raises(Refused, match="loopback"):
            await Client(Careless(), [origin]).exchange(origin, "GET", "/", {}, None, timeout_s=60, most=1, fresh=False)
    assert not there.lines


async def test_a_name_without_an_address_was_not_reached() -> None:
    async with caller(80, host="none.example", addresses=()) as here:
        with pytest.raises(Unreached, match=r"`none\.example` has no address"):
            await here.ask()


async def test_where_nobody_listens_nothing_was_sent() -> None:
    async with far_end(saying(OK)) as there:
        pass
    async with caller(there.port) as here:
        with pytest.raises(Unreached, match="ConnectionRefused"):
            await here.ask()


async def test_the_first_address_is_dead_and_the_second_answers() -> None:
    async with (
        far_end(saying(OK)) as there,
        caller(there.port, host="a.example", addresses=["127.0.0.2", "127.0.0.1"]) as here,
    ):
        assert (await here.ask()).body == b"ok"
    assert there.got[0][1].split(b"\r\n")[1] == f"host: a.example:{there.port}".encode()


async def test_the_first_address_never_answers_and_the_second_has_time_left() -> None:
    with deaf("127.0.0.2") as port:
        async with (
            far_end(saying(OK), port=port) as there,
            caller(port, host="a.example", addresses=["127.0.0.2", "127.0.0.1"]) as here,
        ):
            assert (await here.ask(timeout_s=4)).body == b"ok"
    assert there.lines == 1


async def test_the_address_that_answered_is_asked_first_from_then_on() -> None:
    async with (
        far_end(saying(OK)) as second,
        caller(second.port, host="a.example", addresses=["127.0.0.2", "127.0.0.1"]) as here,
    ):
        await here.ask(fresh=True)
        async with far_end(saying(OK), host="127.0.0.2", port=second.port) as first:
            await here.ask(fresh=True)
    assert (first.lines, second.lines) == (0, 2)


async def test_who_does_not_take_a_connection_in_time_was_not_reached() -> None:
    with deaf("127.0.0.1") as port:
        async with caller(port) as here:
            with pytest.raises(Unreached, match="in time"):
                await here.ask(timeout_s=0.1)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"])
async def test_who_does_not_answer_in_time_may_have_done_it(said: bytes) -> None:
    async def script(line: Line) -> None:
        if line.number == 1:
            await line.request()
            await line.say(OK)
            await line.request()
            await line.say(said)
            await line.gone()
        await saying(OK)(line)

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        with pytest.raises(Unanswered, match="Timeout") as raised:
            await here.ask(timeout_s=0.1)
        assert not raised.value.silent, "what is silent may be asked once more"
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 1, 2]


async def test_more_than_there_is_room_for_wait_and_those_whose_time_is_up_were_not_sent() -> None:
    all_here, go = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        if line.number == exchange.CONNECTIONS:
            all_here.set()
        await go.wait()
        await line.say(OK)
        await saying(OK)(line)

    async with far_end(script) as there, caller(there.port) as here:
        asked = [asyncio.ensure_future(here.ask()) for _ in range(exchange.CONNECTIONS)]
        await all_here.wait()
        with pytest.raises(Unreached, match="100 requests are on their way"):
            await here.ask(timeout_s=0.05)
        late = asyncio.ensure_future(here.ask())
        await asyncio.sleep(0)
        go.set()
        assert {heard.body for heard in await asyncio.gather(*asked, late)} == {b"ok"}
    assert there.lines == exchange.CONNECTIONS


@pytest.mark.parametrize(
    "trouble", ["cancelled", "late", "broken", "unreached", "unwritable", "cancelled while dialling"]
)
async def test_whatever_becomes_of_a_request_its_room_is_free_and_its_connection_is_gone(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "CONNECTIONS", 1)
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.head()
        if b"/good" not in line.got[-1][1]:
            asked.set()
            await line.say(b"x" if trouble == "broken" else b"")
            await line.gone()
            gone.set()
        await line.say(OK)

    async def resolve(_: str) -> Sequence[str]:
        return ["127.0.0.1"]

    with deaf("127.0.0.1") as nobody:
        async with far_end(script) as there:
            good, bad = Origin("http", "127.0.0.1", there.port), Origin("http", "127.0.0.1", nobody)
            client = Client(Dialer(["127.0.0.1"], resolve=resolve), [good, bad])

            async def ask(origin: Origin, target: str, timeout_s: float = 60.0) -> bytes | None:
                heard = await client.exchange(
                    origin, "GET", target, {}, None, timeout_s=timeout_s, most=100, fresh=False
                )
                return heard.body

            match trouble:
                case "cancelled":
                    task = asyncio.ensure_future(ask(good, "/bad"))
                    await asked.wait()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                case "cancelled while dialling":
                    task = asyncio.ensure_future(ask(bad, "/bad"))
                    for _ in range(5):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                case "late":
                    with pytest.raises(Unanswered):
                        await ask(good, "/bad", 0.1)
                case "broken":
                    with pytest.raises(Unanswered):
                        await ask(good, "/bad")
                case "unreached":
                    with pytest.raises(Unreached):
                        await ask(bad, "/bad", 0.1)
                case _:
                    with pytest.raises(Unreached):
                        await ask(good, "/b a d")
            if asked.is_set():
                await gone.wait()
            assert await ask(good, "/good") == b"ok"
            await client.close()


async def test_a_connection_that_nobody_uses_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "IDLE_S", 0.01)
    gone = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.gone()
        gone.set()

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        await gone.wait()
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 2]


async def test_a_connection_that_is_too_old_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_end(saying(OK)) as there, caller(there.port) as here:
        await here.ask()
        monkeypatch.setattr(exchange, "IDLE_S", 0.0)
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 2]


async def test_a_client_that_is_closed_lets_its_answers_come_and_keeps_no_connection() -> None:
    asked, go, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        asked.set()
        await go.wait()
        await line.say(OK)
        await line.gone()
        gone.set()

    async with far_end(script) as there, caller(there.port) as here:
        task = asyncio.ensure_future(here.ask())
        await asked.wait()
        await here.client.close()
        go.set()
        assert (await task).body == b"ok"
        await gone.wait()


# --- TLS ---


async def test_over_tls_a_system_is_known_by_the_authority_that_was_named(tmp_path: Path) -> None:
    server, ca = authority(tmp_path, ["a.example", "127.0.0.1"])
    async with far_end(saying(OK), secure=server) as there:
        for host in ("a.example", "127.0.0.1"):
            async with caller(there.port, scheme="https", host=host, ca=ca) as here:
                assert (await here.ask()).body == b"ok"


@pytest.mark.parametrize("wrong", ["authority", "no authority", "name", "address", "no TLS"])
async def test_over_tls_nothing_is_sent_to_who_is_not_known(wrong: str, tmp_path: Path) -> None:
    server, ca = authority(tmp_path, ["a.example"])
    if wrong == "authority":
        _, ca = authority(tmp_path, ["a.example"])
    host = {"name": "b.example", "address": "127.0.0.1"}.get(wrong, "a.example")
    heard: list[bytes] = []

    async def script(line: Line) -> None:
        heard.append(await line.reader.read(1 << 16))

    async with (
        far_end(script, secure=None if wrong == "no TLS" else server) as there,
        caller(there.port, scheme="https", host=host, ca=None if wrong == "no authority" else ca) as here,
    ):
        with pytest.raises(Unreached):
            await here.ask("POST", "/secret", {"x-key": "secret"}, b"secret", timeout_s=20)
    assert b"secret" not in b"".join(heard)


async def test_over_tls_who_speaks_first_is_not_asked(tmp_path: Path) -> None:
    _, ca = authority(tmp_path, ["127.0.0.1"])

    async def script(line: Line) -> None:
        await line.say(b"220 mail.example ESMTP\r\n")
        await line.gone()

    async with far_end(script) as there, caller(there.port, scheme="https", ca=ca) as here:
        with pytest.raises(Unreached):
            await here.ask(timeout_s=20)
