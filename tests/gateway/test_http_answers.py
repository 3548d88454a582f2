"""What a system answers over HTTP, and what that proves."""

from __future__ import annotations

import asyncio
import json

import pytest

from holdfast.core.canonical import canonical
from holdfast.core.effect import Encoding, Happened, NotHappened
from holdfast.errors import HoldfastError, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Reply
from holdfast.gateway.upstreams.http import HttpSystem
from holdfast.gateway.upstreams.http_answer import Answer, pack, retry_after_s, unpack
from tests.gateway.stand_in import KEY, SECRET, answer, peer, reading, system, writing

LIST = {"method": "GET", "path": "/mails", "name": "list"}
CREATE = {"method": "POST", "path": "/mails", "name": "create"}
PUT = {"method": "PUT", "path": "/mails/{id}", "name": "put", "kind": "idempotent"}


async def carried_out(shop: HttpSystem, operation: str, receipt: Receipt, **args: object) -> Reply:
    prepared = await shop.prepare(operation, args)
    return await prepared.upstream.perform(None, receipt)


def head(request: bytes) -> list[bytes]:
    return request.partition(b"\r\n\r\n")[0].split(b"\r\n")


async def test_a_write_carries_its_key_and_its_credential() -> None:
    async with peer(answer(201, b'{"id": 7}', etag='"v1"')) as there, system(there.port, CREATE) as shop:
        reply = await carried_out(shop, "create", writing(), body={"to": "ann"}, headers={"X-Api-Key": "mine"})
    (request,) = there.got
    lines = head(request)
    assert lines[0] == b"POST /v1/mails HTTP/1.1"
    sent = {line.partition(b": ")[0].lower(): line.partition(b": ")[2] for line in lines[1:]}
    assert sent == {
        b"host": f"127.0.0.1:{there.port}".encode(),
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"connection": b"close",
        b"authorization": f"Bearer {SECRET}".encode(),
        b"content-length": b"12",
        b"content-type": b"application/json",
        b"idempotency-key": KEY.encode(),
        b"user-agent": b"holdfast",
    }
    assert request.endswith(b'\r\n\r\n{"to":"ann"}')
    assert reply.etag == '"v1"'
    assert reply.encoding is Encoding.BYTES
    assert unpack(reply.data).body == b'{"id": 7}'


async def test_a_read_carries_no_key() -> None:
    async with peer(answer()) as there, system(there.port, LIST) as shop:
        await carried_out(shop, "list", reading(), query={"a": "1"})
    assert head(there.got[0])[0] == b"GET /v1/mails?a=1 HTTP/1.1"
    assert b"idempotency-key" not in there.got[0].lower()


@pytest.mark.parametrize(("named", "sent"), [("X-Request-Id", True), ("", False)])
async def test_the_header_of_the_key_is_the_systems_own(named: str, sent: bool) -> None:
    async with peer(answer()) as there, system(there.port, CREATE, idempotency_header=named) as shop:
        await carried_out(shop, "create", writing(), body={})
    assert (f"x-request-id: {KEY}".encode() in there.got[0].lower()) is sent
    assert b"idempotency-key" not in there.got[0].lower()


@pytest.mark.parametrize(
    ("inject", "where"),
    [
        ({"query": "api_key"}, f"POST /v1/mails?api_key={SECRET} HTTP/1.1"),
        ({"body": "token"}, f'{{"to":"ann","token":"{SECRET}"}}'),
        ({"header": "X-Key"}, f"x-key: {SECRET}"),
        (
            {"header": "Authorization", "user": "shop"},
            "authorization: Basic c2hvcDpzay1saXZlLTdRdjl6S3c0MmhUbkJ4ODNMbVJj",
        ),
    ],
)
async def test_a_credential_goes_where_it_is_declared(inject: dict, where: str) -> None:
    async with peer(answer()) as there, system(there.port, CREATE, inject=[{"credential": "KEY", **inject}]) as shop:
        prepared = await shop.prepare("create", {"body": {"to": "ann"}})
        await prepared.upstream.perform(None, writing())
    assert where.lower() in there.got[0].decode().lower()
    assert SECRET not in str(prepared.args)


async def test_what_was_written_down_is_sent_again_byte_for_byte() -> None:
    args = {
        "path": {"id": "a b-ü"},
        "query": "z=1&a=%20x&l[]=2&l[]=1",
        "body": '{"b": 1.50, "a": [1e2, "\\u00e9", null]}',
        "headers": {"Content-Type": "application/json", "Accept": "text/plain"},
    }
    async with peer(answer()) as there, system(there.port, PUT) as shop:
        prepared = await shop.prepare("put", args)
        await prepared.upstream.perform(None, writing("shop.put"))
        other = await shop.prepare("put", {"path": {"id": "other"}, "body": {}})
        await other.upstream.perform(canonical(dict(prepared.args)), writing("shop.put"))
    assert there.got[0] == there.got[1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 412, 413, 415, 422, 451])
async def test_a_refusal_of_a_write_is_an_outcome_with_the_systems_words(status: int) -> None:
    async with peer(answer(status, b'{"why": "no"}')) as there, system(there.port, CREATE) as shop:
        with pytest.raises(Declined, match=str(status)) as refused:
            await carried_out(shop, "create", writing(), body={})
    told = unpack(refused.value.reply.data)
    assert (told.status, told.body) == (status, b'{"why": "no"}')


@pytest.mark.parametrize("status", [408, 409, 423, 425, 500, 502, 503, 504])
async def test_what_proves_nothing_is_doubt(status: int) -> None:
    async with peer(answer(status, retry_after="5")) as there, system(there.port, CREATE) as shop:
        with pytest.raises(HoldfastError, match="does not say whether") as raised:
            await carried_out(shop, "create", writing(), body={})
    assert not isinstance(raised.value, DidNotHappen | RetryAfter)


@pytest.mark.parametrize(
    ("status", "declared"), [(409, "refused"), (503, "refused"), (404, "happened"), (409, "happened")]
)
async def test_a_route_may_say_what_a_status_proves(status: int, declared: str) -> None:
    async with peer(answer(status)) as there, system(there.port, {**CREATE, declared: [status]}) as shop:
        if declared == "happened":
            assert unpack((await carried_out(shop, "create", writing(), body={})).data).status == status
        else:
            with pytest.raises(Declined):
                await carried_out(shop, "create", writing(), body={})


@pytest.mark.parametrize(
    ("route", "status", "header", "seconds"),
    [
        (CREATE, 429, {"retry_after": "7"}, 7.0),
        (CREATE, 429, {}, 1.0),
        (PUT, 503, {"retry_after": "3"}, 3.0),
        (LIST, 429, {"retry_after": "7"}, 7.0),
        (LIST, 503, {"retry_after": "0"}, 0.0),
    ],
)
async def test_a_system_that_says_when_to_come_back_is_asked_then(
    route: dict, status: int, header: dict, seconds: float
) -> None:
    async with peer(answer(status, **header)) as there, system(there.port, route) as shop:
        receipt = reading() if route is LIST else writing()
        args = {"path": {"id": "7"}} if route is PUT else {}
        with pytest.raises(RetryAfter) as later:
            await carried_out(shop, str(route["name"]), receipt, **args)
    assert later.value.seconds == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("99999999999999", None),
        (None, None),
    ],
)
def test_a_moment_to_come_back_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, now_s=100.0) == seconds


@pytest.mark.parametrize("status", [200, 304, 400, 404, 409, 500, 503])
async def test_to_a_read_every_answer_is_one(status: int) -> None:
    words = b"" if status == 304 else b"words"
    async with peer(answer(status, words)) as there, system(there.port, LIST) as shop:
        told = unpack((await carried_out(shop, "list", reading())).data)
    assert (told.status, told.body) == (status, words)


async def test_a_connection_that_is_cut_in_the_middle_of_an_answer_is_doubt() -> None:
    cut = b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{"
    async with peer(cut) as there, system(there.port, CREATE) as shop:
        with pytest.raises(HoldfastError, match="no whole answer") as raised:
            await carried_out(shop, "create", writing(), body={})
    assert not isinstance(raised.value, DidNotHappen)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 2",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 201 Created\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ],
)
async def test_an_answer_that_is_none_is_doubt(said: bytes) -> None:
    async with peer(said) as there, system(there.port, CREATE) as shop:
        with pytest.raises(HoldfastError, match="no whole answer") as raised:
            await carried_out(shop, "create", writing(), body={})
    assert not isinstance(raised.value, DidNotHappen)
    assert len(there.got) == 1


async def test_an_answer_that_does_not_come_in_time_is_doubt() -> None:
    async with peer(answer(), hold=asyncio.Event()) as there, system(there.port, {**CREATE, "timeout_s": 0.2}) as shop:
        with pytest.raises(HoldfastError, match="Timeout") as raised:
            await carried_out(shop, "create", writing(), body={})
    assert not isinstance(raised.value, DidNotHappen)
    assert len(there.got) == 1


async def test_a_system_that_is_not_there_was_not_reached() -> None:
    async with peer() as there:
        port = there.port
    async with system(port, CREATE) as shop:
        with pytest.raises(DidNotHappen, match="could not be reached"):
            await carried_out(shop, "create", writing(), body={})


@pytest.mark.parametrize(("route", "sent"), [(LIST, 3), ({**PUT, "path": "/put"}, 2)])
async def test_only_a_read_is_asked_once_more_where_a_kept_connection_was_closed(route: dict, sent: int) -> None:
    """The server closes after its first answer, as if it had done so while the second request was on its way."""
    closed = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    async with peer(closed, b"", closed) as there, system(there.port, route) as shop:
        name, receipt = str(route["name"]), reading() if route is LIST else writing("shop.put")
        await carried_out(shop, name, receipt)
        if route is LIST:
            assert unpack((await carried_out(shop, name, receipt)).data).body == b"{}"
        else:
            with pytest.raises(HoldfastError, match="no whole answer"):
                await carried_out(shop, name, receipt)
    assert len(there.got) == sent


@pytest.mark.parametrize(("size", "whole"), [(20_000, True), (40_000, False)])
async def test_a_header_of_an_answer_has_a_bound(size: int, whole: bool) -> None:
    async with peer(answer(200, b"", X_Long="x" * size)) as there, system(there.port, CREATE) as shop:
        if whole:
            reply = await carried_out(shop, "create", writing(), body={})
            assert len(unpack(reply.data).header("x-long") or "") == size
        else:
            with pytest.raises(HoldfastError, match="no whole answer") as raised:
                await carried_out(shop, "create", writing(), body={})
            assert not isinstance(raised.value, DidNotHappen)


async def test_a_write_that_may_not_be_repeated_goes_over_a_connection_of_its_own() -> None:
    ports: list[int] = []

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer())

    server = await asyncio.start_server(lambda r, w: asyncio.ensure_future(_quietly(begin(r, w), w)), "127.0.0.1", 0)
    async with server, system(server.sockets[0].getsockname()[1], LIST, {**CREATE, "path": "/m"}) as shop:
        for _ in range(3):
            await carried_out(shop, "list", reading())
        assert len(ports) == 1
        for _ in range(3):
            await carried_out(shop, "create", writing())
    assert len(set(ports)) == 4


async def _quietly(work: object, writer: asyncio.StreamWriter) -> None:
    try:
        await work  # type: ignore[misc]
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_an_answer_is_one_message_without_what_is_of_the_connection() -> None:
    said = answer(
        200,
        b'{"a":1}',
        Content_Type="application/json",
        Connection="close, X-Hop",
        X_Hop="1",
        Keep_Alive="timeout=5",
        Set_Cookie="a=b",
        ETag='W/"3"',
        X_Kept="yes",
    )
    async with peer(said) as there, system(there.port, LIST) as shop:
        reply = await carried_out(shop, "list", reading())
    assert reply.data == (
        b'HTTP/1.1 200 Said\r\ncontent-type: application/json\r\netag: W/"3"\r\nx-kept: yes\r\ncontent-length: 7\r\n'
        b'\r\n{"a":1}'
    )
    assert reply.etag == 'W/"3"'


async def test_cookies_are_shown_where_that_is_declared() -> None:
    async with peer(answer(200, b"", Set_Cookie="a=b")) as there, system(there.port, LIST, set_cookie=True) as shop:
        assert unpack((await carried_out(shop, "list", reading())).data).header("set-cookie") == "a=b"


async def test_a_bare_answer_has_no_length_and_no_body() -> None:
    async with peer(b"HTTP/1.1 204 No Content\r\n\r\n") as there, system(there.port, CREATE) as shop:
        reply = await carried_out(shop, "create", writing(), body={})
    assert reply.data == b"HTTP/1.1 204 No Content\r\n\r\n"
    upstream = (await shop.prepare("create", {})).upstream
    assert upstream.read(reply.data, reply.encoding) == reply


@pytest.mark.parametrize(
    "told",
    [
        Answer(200, "OK", (("a", "b"), ("a", "c")), b"x\r\n\r\ny"),
        Answer(204, "", (), b""),
        Answer(404, "Not Found", (("content-type", "text/plain"),), b""),
        Answer(200, "Ja, gern", (("x", "ü"),), bytes(range(256))),
    ],
)
def test_a_message_gives_back_the_answer_that_it_was_made_of(told: Answer) -> None:
    assert unpack(pack(told)) == told


async def test_an_answer_that_is_too_large_is_none_for_a_read_and_lost_for_a_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.gateway.upstreams.http_send.ANSWER_MAX", 1000)
    async with peer(answer(200, b"x" * 2000)) as there, system(there.port, LIST, CREATE) as shop:
        with pytest.raises(DidNotHappen, match="larger than 1000 bytes"):
            await carried_out(shop, "list", reading())
        reply = await carried_out(shop, "create", writing(), body={})
    assert reply.encoding is Encoding.LOST
    assert "larger" in json.loads(reply.data)["reason"]


# --- probes and undos ---

ASKED = {
    **CREATE,
    "identity": ["body.ref"],
    "probe": {"path": "/mails", "query": {"ref": "{body.ref}", "key": "{key}"}, "exists": "body.data.0"},
    "kind": "reversible",
    "undo": {"path": "/mails/{answer.body.id}"},
}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (answer(200, b'{"data": [{"id": 7}]}', etag="v"), Happened),
        (answer(200, b'{"data": []}'), NotHappened),
        (answer(200, b"{}"), NotHappened),
        (answer(404), NotHappened),
        (answer(500), type(None)),
        (answer(403), type(None)),
    ],
)
async def test_a_probe_says_yes_no_or_nothing(said: bytes, found: type) -> None:
    async with peer(said) as there, system(there.port, ASKED) as shop:
        prepared = await shop.prepare("create", {"body": {"ref": "a/b c"}})
        told = await prepared.upstream.probe(canonical(dict(prepared.args)), writing())
    assert isinstance(told, found)
    assert head(there.got[0])[0] == f"GET /v1/mails?key={KEY}&ref=a%2Fb%20c HTTP/1.1".encode()
    assert prepared.contract.probe


async def test_an_undo_is_made_of_the_answer() -> None:
    async with peer(answer(201, b'{"id": 7}'), answer(204, b"")) as there, system(there.port, ASKED) as shop:
        prepared = await shop.prepare("create", {"body": {"ref": "a"}})
        made = await prepared.upstream.perform(None, writing())
        made = prepared.upstream.read(made.data, made.encoding)
        undone = await prepared.upstream.undo(None, made, writing("shop.create.undo"))
    assert head(there.got[1])[0] == b"DELETE /v1/mails/7 HTTP/1.1"
    assert unpack(undone.data).status == 204


async def test_what_is_not_there_any_more_is_undone() -> None:
    async with peer(answer(404)) as there, system(there.port, ASKED) as shop:
        prepared = await shop.prepare("create", {"body": {"ref": "a"}})
        reply = prepared.upstream.read(pack(Answer(201, "", (), b'{"id": 7}')), Encoding.BYTES)
        assert unpack((await prepared.upstream.undo(None, reply, writing("shop.create.undo"))).data).status == 404


async def test_an_undo_that_needs_an_answer_that_nobody_knows_is_not_sent() -> None:
    async with peer() as there, system(there.port, ASKED) as shop:
        prepared = await shop.prepare("create", {"body": {"ref": "a"}})
        with pytest.raises(DidNotHappen, match=r"answer\.body\.id"):
            await prepared.upstream.undo(None, None, writing("shop.create.undo"))
    assert not there.got


async def test_an_undo_has_a_body_of_templates() -> None:
    undo = {"method": "POST", "path": "/undo", "body": {"of": "{answer.body.id}", "why": "undone {body.ref}", "n": 1}}
    async with peer(answer()) as there, system(there.port, {**ASKED, "undo": undo}) as shop:
        prepared = await shop.prepare("create", {"body": {"ref": "a"}})
        reply = prepared.upstream.read(pack(Answer(201, "", (), b'{"id": 7}')), Encoding.BYTES)
        await prepared.upstream.undo(None, reply, writing("shop.create.undo"))
    assert there.got[0].endswith(b'\r\n\r\n{"n":1,"of":7,"why":"undone a"}')


# --- secrets that an answer brings ---

MINT = {**CREATE, "mints": ["body.key.secret", "header.x-token"]}


async def test_a_secret_that_an_answer_brings_is_kept_and_named_by_a_handle() -> None:
    said = answer(
        201,
        b'{"key": {"id": 1, "secret": "minted-0123456789"}, "url": "https://x:minted-0123456789@y"}',
        x_token="tok-9876543210",
    )
    async with peer(said, answer()) as there, system(there.port, MINT, LIST) as shop:
        reply = await carried_out(shop, "create", writing(), body={})
        told = unpack(reply.data)
        handle = json.loads(told.body)["key"]["secret"]
        await carried_out(shop, "list", reading(), query={"with": f"key {handle}"})
        kept = await shop.vault.resolve(handle, reading())
        token = await shop.vault.resolve(told.header("x-token") or "", reading())
    assert b"minted" not in reply.data
    assert b"tok-9876543210" not in reply.data
    assert (kept.name, kept.reveal()) == ("shop.create.body.key.secret", "minted-0123456789")
    assert token.reveal() == "tok-9876543210"
    assert head(there.got[1])[0] == b"GET /v1/mails?with=key%20minted-0123456789 HTTP/1.1"


async def test_a_kept_secret_is_scrubbed_from_what_comes_back() -> None:
    async with peer(lambda request: answer(200, request)) as there, system(there.port, PUT) as shop:
        handle = await shop.vault.keep("shop.create.body.secret", "minted-0123456789", writing())
        prepared = await shop.prepare("put", {"path": {"id": handle}, "body": {"a": [f"<{handle}>"]}})
        told = unpack((await prepared.upstream.perform(None, writing("shop.put"))).data)
    assert handle in str(prepared.args)
    assert there.got[0].count(b"minted-0123456789") == 2
    assert b"minted" not in told.body


async def test_a_handle_that_opens_nothing_stops_the_call() -> None:
    async with peer() as there, system(there.port, LIST) as shop:
        with pytest.raises(DidNotHappen, match="no handle"):
            await carried_out(shop, "list", reading(), query={"a": "hfv_" + "x" * 43})
    assert not there.got


async def test_a_secret_in_an_answer_that_is_not_understood_is_not_given_away() -> None:
    async with peer(answer(201, b"secret=minted-0123456789")) as there, system(there.port, MINT) as shop:
        reply = await carried_out(shop, "create", writing(), body={})
    assert reply.encoding is Encoding.LOST
    assert b"minted" not in reply.data


async def test_what_a_person_says_that_it_answered_is_an_answer_of_the_system() -> None:
    async with peer() as there, system(there.port, CREATE) as shop:
        prepared = await shop.prepare("create", {"body": {"to": "ann"}})
        reply = prepared.upstream.read(b'{"id":7}', Encoding.JSON)
    told = unpack(reply.data)
    assert (reply.encoding, told.status, told.body) == (Encoding.BYTES, 200, b'{"id":7}')
    assert told.header("content-type") == "application/json"
