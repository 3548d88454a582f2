"""What is said on the wire of a listener, byte by byte: what is no request, and what is no honest one, is refused with
its reason, in the answer and in the run's log, and nothing of it is sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.gateway import front, serve
from holdfast.gateway.doors import native
from tests.examples import examples
from tests.gateway.threshold import DEADLINE_S, NAME, RUN, Shop, Threshold, heard, request, shop, threshold

CALL = '{"tool":"post.send","args":{"to":"a"}}'
SIZE = len(CALL)
GET = "GET /v1/run HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def store_front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    with shop(tmp_path_factory.mktemp("shop")) as found:
        yield found


@pytest.fixture
async def here(tmp_path: Path, store_front: Shop) -> AsyncGenerator[Threshold]:
    async with threshold(tmp_path, store_front.port) as found:
        yield found


def said(*headers: str, body: str = CALL, line: str = "POST /v1/call HTTP/1.1") -> bytes:
    return ("\r\n".join([line, "Host: 127.0.0.1", *headers, "", ""]) + body).encode("latin-1")


def at_shop(path: str, *headers: str, method: str = "GET") -> bytes:
    return said(*headers, body="", line=f"{method} /http/shop{path} HTTP/1.1")


def proxied(url: str, host: str = NAME, *headers: str) -> bytes:
    return "\r\n".join([f"GET {url} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def connect(to: str, *headers: str, behind: str = "", end: str = "\r\n") -> bytes:
    return (end.join([f"CONNECT {to} HTTP/1.1", *headers, "", ""]) + behind).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"
LENGTH = f"Content-Length: {SIZE}"

NO_REQUEST = {
    "a length and chunks": (said(LENGTH, CHUNKED), "Transfer-Encoding can't be present with Content-Length"),
    "chunks that hide a second request": (
        said("Content-Length: 4", CHUNKED, body="0\r\n\r\n" + GET),
        "Transfer-Encoding can't be present with Content-Length",
    ),
    "two lengths": (said(LENGTH, "Content-Length: 1"), "Duplicate Content-Length"),
    "the same length twice": (said(LENGTH, LENGTH), "Duplicate Content-Length"),
    "a list of lengths": (said(f"{LENGTH}, {SIZE}"), "Invalid character in Content-Length"),
    "a length with a sign": (said(f"Content-Length: +{SIZE}"), "Invalid character in Content-Length"),
    "a negative length": (said("Content-Length: -1"), "Invalid character in Content-Length"),
    "a space before the colon": (said(f"Content-Length : {SIZE}"), "Invalid header field char"),
    "a folded header": (said(LENGTH, "X-A: b\r\n c"), "Unexpected whitespace after header value"),
    "lines that end in LF": (f"POST /v1/call HTTP/1.1\nHost: x\n{LENGTH}\n\n{CALL}".encode(), "Bad status line"),
    "a header that ends in LF": (said(LENGTH, "X-A: b\nX-B: c"), "Missing expected CR after header value"),
    "a header that ends in CR": (said(LENGTH, "X-A: b\rX-B: c"), "Missing expected LF after header value"),
    "a NUL in a header": (said(LENGTH, "X-A: b\0c"), "Invalid header value char"),
    "an unknown coding": (said("Transfer-Encoding: xchunked"), "invalid `Transfer-Encoding`"),
    "chunks inside another coding": (said("Transfer-Encoding: chunked, identity"), "Invalid `Transfer-Encoding`"),
    "two codings": (said("Transfer-Encoding: identity", CHUNKED), "Duplicate 'Transfer-Encoding'"),
    "a coding behind a control": (said("Transfer-Encoding: \x0bchunked"), "Invalid header value char"),
    "a chunk's extension with LF": (
        said(CHUNKED, body=f"{SIZE:x};a\nb\r\n{CALL}\r\n0\r\n\r\n"), "Missing expected CR after chunk extension",
    ),
    "a chunk's size in C's hex": (
        said(CHUNKED, body=f"0x{SIZE:x}\r\n{CALL}\r\n0\r\n\r\n"), "Invalid character in chunk size",
    ),
    "a negative chunk": (said(CHUNKED, body=f"-1\r\n{CALL}\r\n0\r\n\r\n"), "Invalid character in chunk size"),
    "chunks that end in LF": (said(CHUNKED, body=f"{SIZE:x}\n{CALL}\n0\n\n"), "Missing expected CR after chunk size"),
    "a chunk beyond all sizes": (said(CHUNKED, body="f" * 18 + f"\r\n{CALL}"), "Chunk size overflow"),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI/Upgrade"),
    "TLS where there is none": (b"\x16\x03\x01\x00\x00garbage\r\n\r\n", "Received HTTPS traffic on an HTTP port"),
    "a huge header": (said("X-A: " + "a" * 70_000), "Got more than 65536 bytes"),
    "many headers": (said(*[f"X-{each}: a" for each in range(200)]), "Too many headers"),
    "a huge line": (said(line="GET /" + "a" * 20_000 + " HTTP/1.1"), "Got more than 16384 bytes"),
    "no host": (b"GET /v1/run HTTP/1.1\r\n\r\n", "Missing 'Host'"),
    "two hosts": (b"GET /v1/run HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Duplicate 'Host'"),
    "a method in small letters": (at_shop("/customers", method="get"), "Invalid method"),
}  # fmt: skip

NO_DOOR = {
    "another protocol at a door": (said(LENGTH, "Upgrade: h2c"), 403, "another protocol is asked for"),
    "another protocol at a system": (at_shop("/customers", "Upgrade: websocket"), 403, "another protocol"),
    "a body that is packed": (said(LENGTH, "Content-Encoding: gzip"), 400, "the body is packed"),
    "the gateway as a proxy to itself": (
        proxied("http://127.0.0.1:8080/v1/run", "127.0.0.1:8080"), 403, "`127.0.0.1` is no host of a declared system",
    ),
    "a door's path at a declared host": (
        proxied(f"http://{NAME}/v1/run"), 400, "`GET /v1/run` is no declared operation of `shop`",
    ),
    "a way out of the host's paths": (proxied(f"http://{NAME}/../../v1/run"), 400, "a dot segment"),
    "the same, percent-encoded": (proxied(f"http://{NAME}/%2e%2e/%2e%2e/v1/run"), 400, "a dot segment"),
    "an empty segment": (proxied(f"http://{NAME}//v1/run"), 400, "an empty segment"),
    "a user who looks like the host": (
        proxied(f"http://{NAME}@evil.example/customers"), 403, "`evil.example` is no host of a declared system",
    ),
    "a user before the host": (proxied(f"http://evil@{NAME}/customers"), 403, "says another host"),
    "two hosts at once": (proxied(f"http://{NAME}/customers", "evil.example"), 403, "says another host"),
    "another scheme": (proxied(f"ftp://{NAME}:21/customers"), 403, "is no host of a declared system"),
    "a literal with zeros": (proxied("http://0177.0.0.1/customers", "0177.0.0.1"), 403, "is no host of a declared"),
    "a number for a host": (proxied("http://2130706433/customers", "2130706433"), 403, "is no host of a declared"),
    "a request for everything": (said(body="", line="OPTIONS * HTTP/1.1"), 403, "is no host of a declared system"),
    "a way out of a system's door": (at_shop("/../../v1/run"), 400, "a dot segment"),
    "a percent-encoded way out": (at_shop("/%2e%2e/%2e%2e/v1/run"), 400, "a dot segment"),
    "an encoded slash in a door": (said(body="", line="GET /http%2fshop/customers HTTP/1.1"), 403, "no door at"),
    "an encoded name of a system": (
        said(body="", line="GET /http/%73hop/customers HTTP/1.1"), 400, "is no declared operation of `shop`",
    ),
    "a door behind an empty segment": (said(body="", line="GET //v1/run HTTP/1.1"), 403, "no door at `//v1/run`"),
    "a host behind two slashes": (said(body="", line=f"GET //{NAME}/customers HTTP/1.1"), 403, "no door at"),
    "a header that overrides the method": (
        at_shop("/customers", "X-HTTP-Method-Override: DELETE"), 400, "a header overrides the method",
    ),
    "a query that overrides the method": (at_shop("/customers?_method=DELETE"), 400, "the query overrides the method"),
    "a path parameter": (at_shop("/customers;a=b"), 400, "read in two ways"),
    "a fragment": (at_shop("/customers#x"), 400, "read in two ways"),
    "a request that is echoed": (at_shop("/customers", method="TRACE"), 400, "is no declared operation"),
    "a header twice": (at_shop("/customers", "X-A: 1", "X-A: 2"), 400, "the header `x-a` is there twice"),
}  # fmt: skip

NO_TUNNEL = {
    "to the gateway": (connect("127.0.0.1:8080"), 403, "`127.0.0.1:8080` is no host of a declared system"),
    "to an address": (connect("192.0.2.1:443"), 403, "`192.0.2.1:443` is no host of a declared system"),
    "to another port": (connect(f"{NAME}:22"), 403, f"`{NAME}:22` is no host of a declared system"),
    "to a longer name": (connect(f"{NAME}.evil.example:443"), 403, "is no host of a declared system"),
    "to letters that look alike": (connect("xn--shp-fka.example:443"), 403, "is no host of a declared system"),
    "to letters that are not ASCII": (connect("shöp.example:443"), 400, "the CONNECT is not understood"),
    "to two dots": (connect(f"{NAME}..:443"), 403, "is no host of a declared system"),
    "with a user": (connect(f"a@{NAME}:443"), 400, "the CONNECT is not understood"),
    "with two ports": (connect(f"{NAME}:443:443"), 400, "the CONNECT is not understood"),
    "with a port beyond all ports": (connect(f"{NAME}:99999"), 400, "the CONNECT is not understood"),
    "with a path": (connect(f"{NAME}:443/v1/run"), 400, "the CONNECT is not understood"),
    "with two spaces": (connect(f" {NAME}:443"), 400, "the CONNECT is not understood"),
    "with another host": (connect(f"{NAME}:443", "Host: evil.example:443"), 400, "the CONNECT says two hosts"),
    "with a header twice": (connect(f"{NAME}:443", "X-A: 1", "x-a: 2"), 400, "a header of the CONNECT is there twice"),
    "with a folded header": (connect(f"{NAME}:443", "X-A: 1", " 2"), 400, "the CONNECT is not understood"),
    "with a body": (connect(f"{NAME}:443", "Content-Length: 5"), 400, "a CONNECT has no body"),
    "with chunks": (connect(f"{NAME}:443", CHUNKED), 400, "a CONNECT has no body"),
    "with another protocol": (connect(f"{NAME}:443", "Upgrade: h2c"), 400, "a CONNECT has no body"),
    "with a request behind it": (connect(f"{NAME}:443", behind=GET), 400, "something follows the CONNECT"),
    "with lines that end in LF": (connect(f"{NAME}:443", end="\n"), 400, "does not end as lines do"),
    "with headers beyond all measure": (
        connect(f"{NAME}:443", "X-A: " + "a" * 9000, end="\r\n")[:9000], 431, "the header of a CONNECT is too large",
    ),
    "with the handle of another run": (
        connect(f"{NAME}:443", f"Proxy-Authorization: Bearer hfc_{'a' * 43}_other"), 403,
        "the handle is of no capability of this run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", NO_REQUEST)
async def test_what_is_no_request_is_refused_and_the_log_says_why(
    here: Threshold, store_front: Shop, attack: str
) -> None:
    data, why = NO_REQUEST[attack]
    answer = await here.raw(data)
    assert (answer.status, here.office.sent, store_front.sent) == (400, [], [])
    assert why in answer.what
    assert why in await here.reasons()


@pytest.mark.parametrize("attack", NO_DOOR)
async def test_what_is_for_no_door_is_refused_and_the_log_says_why(
    here: Threshold, store_front: Shop, attack: str
) -> None:
    data, status, why = NO_DOOR[attack]
    answer = await here.raw(data)
    assert (answer.status, here.office.sent, store_front.sent) == (status, [], [])
    assert why.removeprefix("no door at").split("`")[0] in answer.what
    if attack != "a body that is packed":
        assert why in await here.reasons()


@pytest.mark.parametrize("attack", NO_TUNNEL)
async def test_a_tunnel_that_leads_nowhere_declared_is_refused_and_the_log_says_why(
    here: Threshold, attack: str
) -> None:
    data, status, why = NO_TUNNEL[attack]
    answer = await here.raw(data)
    assert answer.status == status
    assert why in answer.what
    assert why in await here.reasons()


@pytest.mark.parametrize("spelling", [NAME, NAME.upper(), f"{NAME}."])
async def test_a_tunnel_to_a_declared_host_opens_however_its_name_is_spelled(here: Threshold, spelling: str) -> None:
    assert (await here.raw(connect(f"{spelling}:443", f"Host: {NAME}:443"))).status == 200


async def test_what_a_chunk_carries_besides_goes_nowhere(here: Threshold) -> None:
    odd = f"{SIZE:x};smuggled=GET\r\n{CALL}\r\n0\r\nX-Holdfast-Again: more\r\n\r\n"
    assert (await here.raw(said(CHUNKED, "Connection: close", body=odd))).status == 200
    assert [to for to, _ in here.office.sent] == ["a"]


# --- what comes inside a tunnel ---


def trusting(here: Threshold) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=here.authority.pem.decode())


async def inside(here: Threshold, data: bytes, *, name: str = NAME) -> tuple[int, str]:
    """What a request inside a tunnel to the declared host is answered with. `name`: whose certificate is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    try:
        writer.write(connect(f"{NAME}:443"))
        assert (await heard(reader)).status == 200
        context = trusting(here)
        context.check_hostname = name == NAME
        await writer.start_tls(context, server_hostname=name)
        writer.write(data)
        answer = await heard(reader)
        return answer.status, answer.what
    finally:
        writer.close()


def inner(host: str, path: str = "/customers") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


async def test_what_comes_through_a_tunnel_reaches_its_system(here: Threshold) -> None:
    status, body = await inside(here, inner(NAME))
    assert (status, "ann@example.com" in body) == (200, True)


@pytest.mark.parametrize(
    "data",
    [inner("evil.example"), inner("127.0.0.1"), inner(NAME, "http://evil.example/customers"), inner(f"{NAME}:80")],
    ids=["another host", "the gateway", "another host in the line", "another port"],
)
async def test_another_host_inside_a_tunnel_is_refused_and_the_log_says_why(here: Threshold, data: bytes) -> None:
    status, what = await inside(here, data)
    assert (status, "says another host" in what) == (403, True)
    assert f"the request is for `{NAME}`, and says another host" in await here.reasons()


async def test_a_tunnel_does_not_lead_to_the_doors_of_the_gateway(here: Threshold) -> None:
    status, what = await inside(here, inner(NAME, "/v1/run"))
    assert (status, what) == (400, "`GET /v1/run` is no declared operation of `shop`")


async def test_a_tunnel_inside_a_tunnel_is_none(here: Threshold) -> None:
    status, _ = await inside(here, connect(f"{NAME}:443", f"Host: {NAME}"))
    assert status in (400, 403)
    assert await here.reasons()


async def test_whatever_name_the_handshake_says_a_tunnel_leads_where_it_was_asked_to(here: Threshold) -> None:
    status, what = await inside(here, inner("evil.example"), name="evil.example")
    assert (status, "says another host" in what) == (403, True)


# --- TLS at the port of HTTPS ---


async def by_name(here: Threshold, name: str, host: str) -> tuple[int, str]:
    context = trusting(here)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.tls, ssl=context, server_hostname=name)
    try:
        writer.write(inner(host))
        answer = await heard(reader)
        return answer.status, answer.what
    finally:
        writer.close()


async def test_who_comes_by_the_name_of_a_declared_host_reaches_it(here: Threshold) -> None:
    status, body = await by_name(here, NAME, NAME)
    assert (status, "ann@example.com" in body) == (200, True)


async def test_a_handshake_for_one_host_and_a_request_for_another_is_refused(here: Threshold) -> None:
    status, what = await by_name(here, NAME, "evil.example")
    assert (status, "says another host" in what) == (403, True)
    assert "says another host" in await here.reasons()


@pytest.mark.parametrize("name", ["evil.example", "gateway.invalid", f"a.{NAME}"])
async def test_a_handshake_for_a_host_that_is_not_declared_fails(here: Threshold, name: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await by_name(here, name, name)


async def test_a_handshake_for_nobody_fails(here: Threshold) -> None:
    context = trusting(here)
    context.check_hostname = False
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", here.tls, ssl=context, server_hostname="")


# --- those who are slow, and those who are many ---


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the gateway ends a connection by itself."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
    return True


HALVES = {
    "nothing": b"",
    "half a word": b"CONN",
    "a CONNECT that does not end": b"CONNECT shop.example:443 HTTP/1.1\r\nX-A: ",
    "a line that does not end": b"GET /v1/r",
    "headers that do not end": b"GET /v1/run HTTP/1.1\r\nHost: x\r\nX-A: ",
    "a second request that does not end": request("GET", "/v1/run").replace(b"close", b"keep-alive") + b"GET /v1",
}


@pytest.mark.parametrize("half", HALVES)
async def test_who_does_not_go_on_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str) -> None:
    monkeypatch.setattr(front, "PATIENCE_S", 0.3)
    monkeypatch.setattr(serve, "IDLE_S", 0.3)
    async with threshold(tmp_path) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(HALVES[half])
        assert await ended(reader)
        writer.close()


async def test_who_does_not_shake_hands_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PATIENCE_S", 0.3)
    async with threshold(tmp_path) as here:
        for port, begin in ((here.tls, b""), (here.tls, b"\x16\x03\x01"), (here.port, connect(f"{NAME}:443"))):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begin)
            assert await ended(reader)
            writer.close()


@pytest.mark.parametrize("body", [b"{", b"4\r\n{"], ids=["a length", "chunks"])
async def test_a_body_that_does_not_end_is_refused(
    here: Threshold, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(native, "BODY_S", 0.3)
    head = said(LENGTH if body == b"{" else CHUNKED, body="")
    answer = await here.raw(head + body)
    assert (answer.status, answer.what, here.office.sent) == (400, "the body did not come within 0 s", [])


async def test_a_chunk_that_breaks_off_in_another_packet_is_refused(
    here: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "BODY_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(said(CHUNKED, "Expect: 100-continue", body=""))
    assert (await heard(reader)).status == 100  # by then the door reads the body
    writer.write(b"4\r\n{\r\nwrong")
    assert (await heard(reader)).status == 400
    assert here.office.sent == []
    writer.close()


async def test_who_does_not_read_an_answer_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ANSWER_S", 0.3)
    lost = asyncio.Event()

    async def much(request: web.Request) -> web.StreamResponse:
        try:
            return await native.send(request, web.Response(body=b"a" * (64 << 20)))
        except ConnectionResetError:
            lost.set()
            raise

    app = web.Application()
    app.router.add_get("/", much)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = socket.create_connection(runner.addresses[0][:2])
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        await lost.wait()
    client.close()
    await runner.cleanup()


async def test_a_run_has_so_many_connections_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MOST", 8)
    async with threshold(tmp_path) as here:
        held = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(8)]
        for reader, writer in held[:4]:  # half of them are served by the doors
            writer.write(request("GET", "/v1/run").replace(b"close", b"keep-alive"))
            assert (await heard(reader)).status == 200
        assert (await here.get("/v1/run")).status == 0
        held[0][1].close()
        held[-1][1].close()
        async with asyncio.timeout(DEADLINE_S):
            while (await here.get("/v1/run")).status != 200:  # noqa: ASYNC110 - nobody tells this side
                await asyncio.sleep(0.02)
        for _, writer in held:
            writer.close()


async def test_a_listener_that_is_closed_takes_those_with_it_who_have_said_nothing(here: Threshold) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    asked, asking = await asyncio.open_connection("127.0.0.1", here.port)  # accepted after the first one
    asking.write(request("GET", "/v1/run"))
    assert (await heard(asked)).status == 200
    await here.listeners.leave(RUN)
    assert await ended(reader)
    writer.close()
    asking.close()


# --- whatever comes ---


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.protocol: Any = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Heard(asyncio.Protocol):
    """A protocol that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


WORDS = st.sampled_from(
    [b"CONNECT ", b"CONN", b"GET / HTTP/1.1", NAME.encode(), b":443", b" HTTP/1.1", b"\r\n", b"\n", b"\r\n\r\n", b": ",
     b"Host", b"[::1]", b"\0", b" ", b"99999999", b"\xff"]
)  # fmt: skip
PIECES = st.lists(st.one_of(WORDS, st.binary(max_size=40)), min_size=1, max_size=12)


@settings(max_examples=examples(60), deadline=None)
@given(PIECES)
def test_whatever_comes_first_is_handed_on_whole_or_read_as_a_connect(pieces: list[bytes]) -> None:
    admitted: list[front.Tunnel] = []

    async def admit(tunnel: front.Tunnel, headers: dict[str, str]) -> str:
        admitted.append(tunnel)
        return "no"

    async def say() -> None:
        doors, wire = Heard(), Wire()
        room = front.Room(lambda _tunnel: doors, lambda: 0, 10)
        protocol = front.Front(room, admit)
        protocol.connection_made(wire)
        for piece in pieces:
            if wire.closed:
                break
            (wire.protocol or protocol).data_received(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        whole = b"".join(pieces)
        if wire.protocol is not None:
            assert doors.data == whole
            assert not whole.startswith(b"CONNECT ")
            assert not wire.written
        if wire.written:
            assert wire.written.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ", b"HTTP/1.1 431 "))
            assert wire.closed
        assert len(admitted) <= 1
        protocol.drop()
        assert not room.waiting

    asyncio.run(say())
    for tunnel in admitted:
        assert tunnel.host
        assert 0 < tunnel.port < 65536
