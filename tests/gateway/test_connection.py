"""One connection, by the byte: what is an answer, where it ends, and what may follow it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.gateway.connection import Heard, Unanswered
from tests.examples import examples
from tests.gateway.far_end import BOTH_LOOPS, NO_LOOPS_WARNING, OK, Line, authority, caller, far_end, saying

pytestmark = NO_LOOPS_WARNING


@pytest.fixture(**BOTH_LOOPS)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """A gateway runs on either loop, and their connections end in different ways."""
    return request.param()


LENGTH = ("content-length", "2")
CHUNKED = ("Transfer-Encoding", "chunked")
HEAD = b"HTTP/1.1 200 OK\r\n"
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# What was asked, what is said, whether the far end hangs up then: what was heard.
WHOLE: dict[str, tuple[str, bytes, bool, Heard]] = {
    "a length": ("GET", OK, False, Heard(200, "OK", [LENGTH], b"ok")),
    "no body": ("POST", b"HTTP/1.1 201 \r\ncontent-length: 0\r\n\r\n", False,
                Heard(201, "", [("content-length", "0")], b"")),
    "no reason": ("GET", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", False, Heard(200, "", [LENGTH], b"ok")),
    "a reason in other letters": ("GET", b"HTTP/1.1 200 d\xc3\xa9\xff\r\ncontent-length: 2\r\n\r\nok", False,
                                  Heard(200, "d\xe9\ufffd", [LENGTH], b"ok")),
    "headers in their order": ("GET", HEAD + b"A: 1\r\nb:2\r\na:\t3 \t\r\nC:\r\ncontent-length: 2\r\n\r\nok", False,
                               Heard(200, "OK", [("A", "1"), ("b", "2"), ("a", "3"), ("C", ""), LENGTH], b"ok")),
    "a header that is no UTF-8": ("GET", HEAD + b"a: \xff\r\ncontent-length: 2\r\n\r\nok", False,
                                  Heard(200, "OK", [("a", "\udcff"), LENGTH], b"ok")),
    "chunks": ("GET", IN_CHUNKS + b"2\r\nab\r\n0A\r\n0123456789\r\n0\r\n\r\n", False,
               Heard(200, "OK", [CHUNKED], b"ab0123456789")),
    "no chunk": ("GET", IN_CHUNKS + b"0\r\n\r\n", False, Heard(200, "OK", [CHUNKED], b"")),
    "chunks with extensions": ("GET", IN_CHUNKS + b'2;a=b;c="d"\r\nok\r\n0;z\r\n\r\n', False,
                               Heard(200, "OK", [CHUNKED], b"ok")),
    "trailers are not headers": ("GET", IN_CHUNKS + b"2\r\nok\r\n0\r\nSet-Cookie: a\r\nX: y\r\n\r\n", False,
                                 Heard(200, "OK", [CHUNKED], b"ok")),
    "until the end": ("GET", HEAD + b"a: b\r\n\r\nall of it", True, Heard(200, "OK", [("a", "b")], b"all of it")),
    "nothing until the end": ("GET", HEAD + b"\r\n", True, Heard(200, "OK", [], b"")),
    "HTTP/1.0": ("GET", b"HTTP/1.0 200 OK\r\n\r\nold", True, Heard(200, "OK", [], b"old")),
    "HTTP/1.0 with a length": ("GET", b"HTTP/1.0 404 No\r\ncontent-length: 2\r\n\r\nok", False,
                               Heard(404, "No", [LENGTH], b"ok")),
    "HEAD with a length": ("HEAD", HEAD + b"content-length: 2\r\n\r\n", False, Heard(200, "OK", [LENGTH], b"")),
    "HEAD in chunks": ("HEAD", IN_CHUNKS, False, Heard(200, "OK", [CHUNKED], b"")),
    "HEAD without a length": ("HEAD", HEAD + b"\r\n", False, Heard(200, "OK", [], b"")),
    "204": ("DELETE", b"HTTP/1.1 204 No\r\n\r\n", False, Heard(204, "No", [], b"")),
    "304 with a length": ("GET", b"HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\n", False,
                          Heard(304, "Same", [LENGTH], b"")),
    "it goes on first": ("POST", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False, Heard(200, "OK", [LENGTH], b"ok")),
    "it hints first": ("GET", b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n" + OK, False,
                       Heard(200, "OK", [LENGTH], b"ok")),
    "it announces ten times": ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" * 10 + OK, False,
                               Heard(200, "OK", [LENGTH], b"ok")),
    "it says that it closes": ("GET", HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok", False,
                               Heard(200, "OK", [("connection", "close"), LENGTH], b"ok")),
}  # fmt: skip

# What is said before the far end hangs up.
NO_ANSWER = {
    "half a status": b"HTTP/1.1 20",
    "half a header": HEAD + b"content-le",
    "no end of the headers": HEAD + b"content-length: 0\r\n",
    "less than its length": HEAD + b"content-length: 3\r\n\r\nok",
    "no last chunk": IN_CHUNKS + b"2\r\nok\r\n",
    "half a chunk": IN_CHUNKS + b"5\r\nok",
    "no end of the trailers": IN_CHUNKS + b"2\r\nok\r\n0\r\na: b\r\n",
    "only that there will be one": b"HTTP/1.1 100 Continue\r\n\r\n",
    "only a hint": b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n",
    "a hint and half an answer": b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n",
    "it announces eleven times": b"HTTP/1.1 100 Continue\r\n\r\n" * 11 + OK,
    "an announcement with a body": b"HTTP/1.1 150 Wait\r\ncontent-length: 3\r\n\r\nabc" + OK,
    "an announcement with a body that is too large": b"HTTP/1.1 150 Wait\r\ncontent-length: 9\r\n\r\n123456789" + OK,
    "another protocol": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + OK,
    "another protocol, unnamed": b"HTTP/1.1 101 Switching\r\n\r\n" + OK,
    "a status below all": b"HTTP/1.1 099 Low\r\n\r\nok",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\nok",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\nok",
    "a version that there is not": b"HTTP/1.7 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "a greeting": b"220 mail.example ESMTP\r\n",
    "chunks and a length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a length and chunks": HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"transfer-encoding: cloudy\r\n\r\nok",
    "a coding inside of the chunks": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a coding around the chunks": HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunks twice": HEAD + b"transfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "nearly chunks": HEAD + b"transfer-encoding: chunked\xc2\x85\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 1\r\n\r\nok",
    "two lengths in one": HEAD + b"content-length: 2, 1\r\n\r\nok",
    "a length with a sign": HEAD + b"content-length: +2\r\n\r\nok",
    "a length below nothing": HEAD + b"content-length: -2\r\n\r\nok",
    "a length in hex": HEAD + b"content-length: 0x2\r\n\r\nok",
    "an empty length": HEAD + b"content-length:\r\n\r\nok",
    "a length beyond all": HEAD + b"content-length: 99999999999999999999\r\n\r\nok",
    "a folded header": HEAD + b"a: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
    "a folded first header": HEAD + b" a: b\r\ncontent-length: 2\r\n\r\nok",
    "bare LF": HEAD.replace(b"\r", b"") + b"content-length: 2\n\nok",
    "one bare LF": HEAD + b"content-length: 2\na: b\r\n\r\nok",
    "a bare CR": HEAD + b"a: b\rc\r\ncontent-length: 2\r\n\r\nok",
    "a NUL": HEAD + b"a: b\0c\r\ncontent-length: 2\r\n\r\nok",
    "another control character": HEAD + b"a: \x01\r\ncontent-length: 2\r\n\r\nok",
    "a NUL in a name": HEAD + b"a\0: b\r\ncontent-length: 2\r\n\r\nok",
    "a blank before the colon": HEAD + b"content-length : 2\r\n\r\nok",
    "a header without a colon": HEAD + b"abc\r\ncontent-length: 2\r\n\r\nok",
    "a header without a name": HEAD + b": b\r\ncontent-length: 2\r\n\r\nok",
    "a blank behind the size of a chunk": IN_CHUNKS + b"2 \r\nok\r\n0\r\n\r\n",
    "chunks with bare LF": IN_CHUNKS + b"2\nok\n0\n\n",
    "more than the chunk": IN_CHUNKS + b"2\r\nokX\r\n0\r\n\r\n",
    "a chunk below nothing": IN_CHUNKS + b"-2\r\nok\r\n0\r\n\r\n",
    "a chunk beyond all": IN_CHUNKS + b"10000000000000002\r\nok\r\n0\r\n\r\n",
    "a length behind the chunks": IN_CHUNKS + b"2\r\nok\r\n0\r\ncontent-length: 2\r\n\r\n",
    "a header that is too large": HEAD + b"a: " + b"x" * (32 << 10) + b"\r\ncontent-length: 2\r\n\r\nok",
    "headers that are too large": HEAD + b"a: bcdefgh\r\n" * (6 << 10) + b"content-length: 2\r\n\r\nok",
    "announcements that are too large": (b"HTTP/1.1 103 E\r\na: " + b"x" * 30_000 + b"\r\n\r\n") * 3 + OK,
    "trailers that are too large": IN_CHUNKS + b"2\r\nok\r\n0\r\n" + b"a: bcdefgh\r\n" * (6 << 10) + b"\r\n",
    "a reason that is too large": b"HTTP/1.1 200 " + b"x" * (70 << 10) + b"\r\ncontent-length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_is_heard_as_it_was_said(name: str) -> None:
    method, said, ends, heard = WHOLE[name]

    async def script(line: Line) -> None:
        await line.request()
        await line.say(said)
        if not ends:
            await line.gone()

    async with far_end(script) as there, caller(there.port) as here:
        assert await here.ask(method) == heard


@pytest.mark.parametrize("name", NO_ANSWER)
async def test_what_is_no_whole_answer_is_not_heard(name: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(NO_ANSWER[name])

    async with far_end(script) as there, caller(there.port) as here:
        with pytest.raises(Unanswered) as raised:
            await here.ask(most=8)
    assert not raised.value.silent


@settings(max_examples=examples(40))
@given(name=st.sampled_from(sorted(WHOLE)), cuts=st.lists(st.integers(0, 200), max_size=40))
def test_an_answer_is_the_same_whatever_the_pieces_in_which_it_comes(name: str, cuts: list[int]) -> None:
    method, said, ends, heard = WHOLE[name]
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})

    async def script(line: Line) -> None:
        await line.request()
        await line.say(*(said[a:b] for a, b in itertools.pairwise(places)))
        if not ends:
            await line.gone()

    async def main() -> None:
        async with far_end(script) as there, caller(there.port) as here:
            assert await here.ask(method) == heard

    asyncio.run(main())


@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_that_comes_byte_by_byte_is_the_same(name: str) -> None:
    method, said, ends, heard = WHOLE[name]

    async def script(line: Line) -> None:
        await line.request()
        await line.say(*(said[i : i + 1] for i in range(len(said))))
        if not ends:
            await line.gone()

    async with far_end(script) as there, caller(there.port) as here:
        assert await here.ask(method) == heard


def mutated(said: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for how, place, piece in changes:
        at = place % (len(said) + 1)
        if how == "insert":
            said = said[:at] + piece + said[at:]
        elif how == "cut":
            said = said[:at] + said[at + len(piece) :]
        elif how == "replace":
            said = said[:at] + piece + said[at + len(piece) :]
        else:
            said = said[:at] + said
    return said


PIECES = st.sampled_from([
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0", b"1", b"2", b"f", b"\xff", b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1 ",
    b"content-length: 1\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"HTTP/1.1 100 C\r\n\r\n",
    OK,
])  # fmt: skip
CHANGES = st.tuples(st.sampled_from(["insert", "cut", "replace", "twice"]), st.integers(0, 300), PIECES)


@settings(max_examples=examples(40))
@given(name=st.sampled_from(sorted(WHOLE)), changes=st.lists(CHANGES, max_size=4), ends=st.booleans())
def test_the_answer_behind_a_broken_one_is_its_own(
    name: str, changes: list[tuple[str, int, bytes]], ends: bool
) -> None:
    """Whatever the first answer is made of, it is heard or it is none, and the second is what was said to it."""
    method, said, _, _ = WHOLE[name]
    broken = mutated(said, changes)

    async def main() -> None:
        all_said = asyncio.Event()

        async def script(line: Line) -> None:
            while True:
                if b"/second" in await line.request():
                    await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond")
                    continue
                await line.say(broken)
                all_said.set()
                if ends:
                    return

        async with far_end(script) as there, caller(there.port) as here:
            first = asyncio.ensure_future(here.ask(method, "/first"))
            await all_said.wait()
            for _ in range(20):  # what is not answered by now waits for more
                await asyncio.sleep(0)
            first.cancel()
            with contextlib.suppress(Unanswered, asyncio.CancelledError):
                assert isinstance(await first, Heard)
            try:
                second = await here.ask("GET", "/second")
            except Unanswered as error:
                if not (ends and error.silent):  # it hung up while it was asked
                    raise
                second = await here.ask("GET", "/second", fresh=True)
            assert (second.status, second.body) == (200, b"second")

    asyncio.run(main())


ENDLESS = {
    "a reason": (b"HTTP/1.1 200 x", b"x" * 1000),
    "a header": (HEAD + b"a: x", b"x" * 1000),
    "the name of a header": (HEAD + b"a", b"x" * 1000),
    "headers": (HEAD, b"a: b\r\n" * 100),
    "blanks behind a header": (HEAD + b"a: b", b" " * 1000),
    "the extension of a chunk": (IN_CHUNKS + b"2;a", b"x" * 1000),
    "a trailer": (IN_CHUNKS + b"0\r\na: ", b"x" * 1000),
    "trailers": (IN_CHUNKS + b"0\r\n", b"a: b\r\n" * 100),
    "empty lines": (b"", b"\r\n" * 500),
    "announcements": (b"", b"HTTP/1.1 100 C\r\n\r\n" * 10),
    "a body": (HEAD + b"\r\n", b"x" * 1000),
    "chunks": (IN_CHUNKS, b"1\r\nx\r\n" * 100),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_has_no_end_is_given_up(name: str) -> None:
    first, more = ENDLESS[name]
    given_up = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.writer.write(first)
        try:
            while True:
                await line.say(more)
        except ConnectionError:
            given_up.set()

    async with far_end(script) as there, caller(there.port) as here:
        if name in ("a body", "chunks"):
            assert (await here.ask(most=50_000)).body is None
        else:
            with pytest.raises(Unanswered, match=r"header|announces"):
                await here.ask(most=50_000)
        await given_up.wait()


LARGE = {
    "a length": HEAD + b"content-length: 1001\r\n\r\n" + b"x" * 1001,
    "chunks": IN_CHUNKS + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n",
    "until the end": HEAD + b"\r\n" + b"x" * 1001,
}


@pytest.mark.parametrize("name", LARGE)
async def test_a_body_that_is_too_large_is_not_kept_and_neither_is_its_connection(name: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(LARGE[name])
        if name != "until the end":
            await line.gone()

    async with far_end(script) as there, caller(there.port) as here:
        heard = await here.ask(most=1000)
        assert (heard.status, heard.body) == (200, None)
        heard = await here.ask(most=1001)
        assert heard.body == b"x" * 1001
    assert there.on == [1, 2]


KEPT = {
    "a length": ("GET", OK, True),
    "chunks": ("GET", IN_CHUNKS + b"2\r\nok\r\n0\r\na: b\r\n\r\n", True),
    "HEAD": ("HEAD", HEAD + b"content-length: 2\r\n\r\n", True),
    "HEAD in chunks": ("HEAD", IN_CHUNKS, True),
    "204": ("GET", b"HTTP/1.1 204 No\r\n\r\n", True),
    "304": ("GET", b"HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\n", True),
    "announced": ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True),
    "HTTP/1.0 that stays": ("GET", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", True),
    "HTTP/1.0": ("GET", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", False),
    "it says that it closes": ("GET", HEAD + b"Connection: Close\r\ncontent-length: 2\r\n\r\nok", False),
    "it says so among others": ("GET", HEAD + b"connection: a, close\r\ncontent-length: 2\r\n\r\nok", False),
    "HEAD without a length": ("HEAD", HEAD + b"\r\n", False),
}


@pytest.mark.parametrize("name", KEPT)
async def test_a_connection_is_used_again_if_its_answer_has_an_end_and_does_not_close_it(name: str) -> None:
    method, said, again = KEPT[name]
    async with far_end(saying(said)) as there, caller(there.port) as here:
        for _ in range(3):
            await here.ask(method)
    assert there.on == ([1, 1, 1] if again else [1, 2, 3])


FORGED = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
BEHIND = {
    "another answer": ("GET", OK + FORGED),
    "the beginning of one": ("GET", OK + FORGED[:8]),
    "a byte": ("GET", OK + b"x"),
    "a body of 204": ("GET", b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\nok"),
    "a body of 304": ("GET", b"HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\nok"),
    "a body of HEAD": ("HEAD", OK),
    "chunks of HEAD": ("HEAD", IN_CHUNKS + b"2\r\nok\r\n0\r\n\r\n"),
    "the last chunk of HEAD": ("HEAD", IN_CHUNKS + b"0\r\n\r\n"),
    "an answer behind HEAD": ("HEAD", OK.removesuffix(b"ok") + FORGED),
    "an answer behind a HEAD of nothing": ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" + FORGED),
    "the beginning of a chunk of HEAD": ("HEAD", IN_CHUNKS + b"2"),
    "an answer behind chunks": ("GET", IN_CHUNKS + b"2\r\nok\r\n0\r\n\r\n" + FORGED),
    "more than the length": ("GET", OK + b"ay"),
}


@pytest.mark.parametrize("name", BEHIND)
async def test_what_comes_behind_an_answer_is_never_the_next_one(name: str) -> None:
    method, said = BEHIND[name]
    async with far_end(saying(said, OK)) as there, caller(there.port) as here:
        await here.ask(method)
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 2]


async def test_what_comes_unasked_later_ends_the_connection() -> None:
    unasked, gone = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        if line.number == 1:
            await unasked.wait()
            await line.say(FORGED)
            await line.gone()
            gone.set()

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        unasked.set()
        await gone.wait()
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 2]


@pytest.mark.parametrize("late", [FORGED, b"x", b""])
async def test_what_has_come_but_was_not_read_yet_ends_the_connection(late: bytes) -> None:
    """The far end has said it (or has hung up), and the loop has not run since: a request would be put behind it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        async with caller(server.getsockname()[1]) as here:
            first = asyncio.ensure_future(here.ask())
            line, _ = await loop.sock_accept(server)
            assert await loop.sock_recv(line, 1 << 16)
            line.send(OK)
            await first

            async def again() -> None:
                other, _ = await loop.sock_accept(server)
                with other:
                    assert await loop.sock_recv(other, 1 << 16)
                    other.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond")

            answering = asyncio.ensure_future(again())
            await asyncio.sleep(0)
            if late:
                line.send(late)
            else:
                line.close()
            second = here.ask()
            with contextlib.closing(line):
                assert (await second).body == b"second"
            await answering


async def test_a_kept_connection_that_ends_before_a_byte_was_silent() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        with pytest.raises(Unanswered) as raised:
            await here.ask()
    assert raised.value.silent
    assert there.on == [1, 1]


async def test_a_kept_connection_that_is_reset_before_a_byte_was_silent() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.head()  # its body is not read: the end is a reset
        line.cut()

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        with pytest.raises(Unanswered) as raised:
            await here.ask("POST", data=b"x" * (4 << 20))
    assert raised.value.silent


async def test_a_connection_that_ends_in_the_middle_was_not_silent() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()
        await line.say(b"H")

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask()
        with pytest.raises(Unanswered) as raised:
            await here.ask()
    assert not raised.value.silent


async def test_one_that_stops_listening_and_says_nothing_does_not_hold_a_large_request() -> None:
    async def script(line: Line) -> None:
        await line.head()
        line.writer.write_eof()
        await asyncio.Event().wait()

    async with far_end(script) as there, caller(there.port) as here:
        with pytest.raises(Unanswered, match="closed"):
            await here.ask("POST", data=b"x" * (32 << 20))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_after_an_answer_before_all_was_sent_the_connection_is_not_used_again(
    scheme: str, tmp_path: Path
) -> None:
    server, client = authority(tmp_path, ["127.0.0.1"])

    async def script(line: Line) -> None:
        if b"POST" in await line.head():
            await line.say(OK)
            await asyncio.Event().wait()
        await line.say(OK)

    async with (
        far_end(script, secure=server if scheme == "https" else None) as there,
        caller(there.port, scheme=scheme, ca=client) as here,
    ):
        assert (await here.ask("POST", data=b"x" * (32 << 20))).body == b"ok"
        assert (await here.ask()).body == b"ok"
    assert there.on == [1, 2]


async def test_a_large_request_is_sent_as_it_is() -> None:
    data = bytes(range(256)) * (64 << 10)
    got: list[bytes] = []

    async def script(line: Line) -> None:
        got.append(await line.request())
        await line.say(OK)

    async with far_end(script) as there, caller(there.port) as here:
        await here.ask("PUT", "/a?b=c", {"x": "y"}, data)
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"PUT /a?b=c HTTP/1.1", f"host: 127.0.0.1:{there.port}".encode(), b"x: y", b"content-length: 16777216",
    ]  # fmt: skip
    assert body == data


@pytest.mark.parametrize(("cut", "said", "body"), [
    (False, HEAD + b"\r\nall", b"all"),
    (True, HEAD + b"\r\nall", None),
    (True, HEAD + b"content-length: 3\r\n\r\nall", b"all"),
])  # fmt: skip
async def test_over_tls_a_body_without_a_length_ends_only_with_the_word_of_tls(
    cut: bool, said: bytes, body: bytes | None, tmp_path: Path
) -> None:
    server, client = authority(tmp_path, ["127.0.0.1"])

    async def script(line: Line) -> None:
        await line.request()
        await line.say(said)
        if cut:
            line.cut()

    async with far_end(script, secure=server) as there, caller(there.port, scheme="https", ca=client) as here:
        if body is None:
            with pytest.raises(Unanswered):
                await here.ask()
        else:
            assert (await here.ask()).body == body


async def test_over_tls_a_connection_is_used_again(tmp_path: Path) -> None:
    server, client = authority(tmp_path, ["127.0.0.1"])
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    async with far_end(saying(OK), secure=server) as there, caller(there.port, scheme="https", ca=client) as here:
        for _ in range(3):
            assert (await here.ask()).body == b"ok"
    assert there.on == [1, 1, 1]
