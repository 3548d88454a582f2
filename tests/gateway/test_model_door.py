"""Unmodified programs ask their models through the gateway: SDK or raw wire, a real server, a provider in a process of
its own."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from holdfast.core.capability import Budget
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Decision, Refusal
from holdfast.errors import BadCall
from holdfast.gateway.dial import Dialer
from holdfast.gateway.line import read_payload
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.upstreams.model import open_model
from holdfast.gateway.vault import Vault
from holdfast.store.memory import MemoryStore
from tests.gateway.lodge import Office
from tests.gateway.switchboard import RUN, SAY, SECRET, Board, Provider, board, config, provider

CHAT, RESPONSES, MESSAGES = "/model/oai/v1/chat/completions", "/model/oai/v1/responses", "/model/ant/v1/messages"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": "gpt-test", "messages": SAY},
    RESPONSES: {"model": "gpt-test", "input": "hello"},
    MESSAGES: {"model": "claude-test", "max_tokens": 100, "messages": SAY},
}
PATHS = pytest.mark.parametrize("path", ASKED)
FORMS = pytest.mark.parametrize("streamed", [False, True])
CALLS = [{"name": "pay", "arguments": '{"to": "bob"}'}, {"name": "tell", "arguments": '{"whom": "bob"}'}]
DEADLINE_S = 60


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("provider")) as started:
        yield started


@pytest.fixture
async def model(bench: Provider) -> Provider:
    """The provider, which remembers nothing of other tests."""
    await bench.forget()
    return bench


def asked(path: str, **more: Any) -> dict[str, Any]:
    return {**ASKED[path], **more}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not await true():
        assert time.monotonic() < end_s, "it did not come about"
        await asyncio.sleep(0.01)


async def direct(model: Provider, path: str, body: dict[str, Any]) -> bytes:
    """What the provider itself says to that."""
    behind = path.split("/", 3)[3]
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{model.url}/{behind}", json=body, headers={"x-api-key": SECRET}) as response,
    ):
        return await response.read()


# --- passed on, recorded, given again ---


@PATHS
@FORMS
async def test_an_answer_is_passed_on_as_the_provider_gave_it(
    tmp_path: Path, model: Provider, path: str, streamed: bool
) -> None:
    plan = {"text": "näher, mein ☂", "calls": CALLS}
    body = asked(path, stream=streamed, **({"stream_options": {"include_usage": True}} if path == CHAT else {}))
    if path == CHAT and not streamed:
        del body["stream_options"]
    await model.plan(plan, {**plan, "cut": 7})
    expected = await direct(model, path, body)
    async with board(tmp_path, model) as door:
        status, headers, data = await door.said(path, body)
    assert (status, data) == (200, expected)
    assert headers["content-type"].startswith("text/event-stream" if streamed else "application/json")


@PATHS
@FORMS
async def test_a_recorded_answer_comes_back_byte_by_byte_and_nobody_is_asked_again(
    tmp_path: Path, model: Provider, path: str, streamed: bool
) -> None:
    store, heard = MemoryStore(), list[tuple[int, str, str, bytes]]()
    for _ in range(3):
        async with board(tmp_path, model, store=store) as door:
            for question in ("one", "two"):
                body = asked(path, stream=streamed, metadata={"of": question})
                status, headers, data = await door.said(path, body)
                heard.append((status, headers["content-type"], headers["request-id"], data))
    assert heard[0] != heard[1]
    assert heard == heard[:2] * 3
    assert len(await model.heard()) == 2


async def test_the_sdk_reads_all_that_it_asks_for(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model) as door, door.openai() as client:
        await model.plan({"text": "whole"}, {"text": "in pieces"}, {"text": "answered"}, {"text": "streamed"})
        whole = await client.chat.completions.create(model="gpt-test", messages=SAY)
        pieces = await client.chat.completions.create(model="gpt-test", messages=SAY, stream=True)
        chunks = [chunk async for chunk in pieces]
        answered = await client.responses.create(model="gpt-test", input="hello")
        frames = [each async for each in await client.responses.create(model="gpt-test", input="hello", stream=True)]
        listed = [each.id async for each in client.models.list()]
        one = await client.models.retrieve("gpt-test")
    assert whole.choices[0].message.content == "whole"
    assert whole._request_id == "req_1"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "in pieces"
    assert answered.output_text == "answered"
    assert frames[-1].type == "response.completed"
    assert frames[-1].response.output_text == "streamed"
    assert (listed, one.id) == (["gpt-test"], "gpt-test")


async def test_messages_are_listed_as_anthropic_lists_models(tmp_path: Path, model: Provider) -> None:
    async with (
        board(tmp_path, model) as door,
        aiohttp.ClientSession(headers={"x-api-key": door.handle, "anthropic-version": "2023-06-01"}) as client,
    ):
        listed = await (await client.get(f"{door.url}/model/ant/v1/models?limit=20")).json()
        one = await (await client.get(f"{door.url}/model/ant/v1/models/claude-test")).json()
        none = await client.get(f"{door.url}/model/ant/v1/models/claude-other")
    assert [each["id"] for each in listed["data"]] == ["claude-test"]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "claude-test", "claude-test")
    assert (one["type"], one["id"], none.status) == ("model", "claude-test", 404)


@pytest.mark.parametrize("wanted", [False, True])
async def test_the_chunk_of_usage_is_given_to_who_asked_for_it(tmp_path: Path, model: Provider, wanted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    async with board(tmp_path, model) as door, door.openai() as client:
        stream = await client.chat.completions.create(model="gpt-test", messages=SAY, stream=True, **options)
        chunks = [chunk async for chunk in stream]
        [decision] = await door.decisions()
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage is not None] == ([25] if wanted else [])
    assert [chunk for chunk in chunks if not chunk.choices] == (chunks[-1:] if wanted else [])
    assert decision.cost == 12 * 2.5 + 8 * 1.25 + 5 * 10


@PATHS
@FORMS
async def test_a_program_may_ask_again_in_the_other_form(
    tmp_path: Path, model: Provider, path: str, streamed: bool
) -> None:
    store = MemoryStore()
    await model.plan({"text": "as before", "calls": CALLS}, {"text": "as before", "calls": CALLS})
    expected = json.loads(await direct(model, path, asked(path)))
    async with board(tmp_path, model, store=store) as door:
        await door.said(path, asked(path, stream=streamed))
    async with board(tmp_path, model, store=store) as door:
        whole = await door.said(path, asked(path)) if streamed else None
        pieces = [] if streamed else await gathered(door, path)
    if whole is not None:
        told = json.loads(whole[2])
        for choice in told.get("choices", []):
            choice["message"].setdefault("refusal", None)
        assert told == expected
    else:
        assert pieces == ["as before", *(call["arguments"] for call in CALLS)]
    assert len(await model.heard()) == 2


async def gathered(door: Board, path: str) -> list[str]:
    """The text and the arguments that a stream tells, as its deltas give them."""
    _, _, data = await door.said(path, asked(path, stream=True))
    told = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
    if path == CHAT:
        deltas = [choice["delta"] for each in told for choice in each["choices"]]
        calls = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", [])]
        return ["".join(delta.get("content") or "" for delta in deltas), *calls]
    if path == RESPONSES:
        return [each["delta"] for each in told if each["type"].endswith(".delta")]
    deltas = [each["delta"] for each in told if each["type"] == "content_block_delta"]
    return [delta.get("text") or delta["partial_json"].replace(":", ": ") for delta in deltas]


async def test_a_question_may_come_through_the_native_door_as_well(tmp_path: Path, model: Provider) -> None:
    store, said = MemoryStore(), list[Any]()
    for _ in range(2):
        async with board(tmp_path, model, store=store) as door:
            prepared = await door.gate.systems["oai"].prepare("chat", ASKED[CHAT])
            reply = await door.taken.ward.call(door.taken.right, prepared)
            said.append(json.loads(json.loads(reply.data)["body"])["choices"][0]["message"]["content"])
    assert said == ["answer 1"] * 2


async def test_an_answer_that_touched_the_world_binds_however_the_program_asks_now(
    tmp_path: Path, model: Provider
) -> None:
    store, office = MemoryStore(), Office()
    await model.plan({"text": "write to ann"})
    body, changed = asked(CHAT, seed=1), asked(CHAT, seed=2, stream=True)
    async with board(tmp_path, model, store=store) as door:
        await door.said(CHAT, body)
        await door.taken.ward.call(door.taken.right, await office.prepare("send", {"to": "ann"}))
    async with board(tmp_path, model, store=store) as door, door.openai() as client:
        stream = await client.chat.completions.create(**changed)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "write to ann"
    async with board(tmp_path, model, store=store) as door:
        status, headers, data = await door.said(RESPONSES, asked(RESPONSES))
        assert (status, headers["x-should-retry"]) == (409, "false")
        assert "one to `chat`" in json.loads(data)["error"]["message"]
    assert len(await model.heard()) == 1


# --- the end is held back until it is recorded ---


class Slow(MemoryStore):
    """A store that is asked to keep a decision, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def append(self, branch: str, drafts: Any, **options: Any) -> list[Entry]:
        if any(isinstance(decode(draft.body), Decision) for draft in drafts):
            self.asked.set()
            await self.may.wait()
        return await super().append(branch, drafts, **options)


ENOUGH = {CHAT: '"finish_reason": "stop"', RESPONSES: '"response.completed"', MESSAGES: '"message_delta"'}
ENOUGH_OF_A_CALL = {
    CHAT: '"index": 1, "id"',
    RESPONSES: '"response.function_call_arguments.done"',
    MESSAGES: '"content_block_stop", "index": 1',
}


@PATHS
@pytest.mark.parametrize("calls", [False, True])
async def test_what_can_be_acted_on_comes_only_when_it_is_recorded(
    tmp_path: Path, model: Provider, path: str, calls: bool
) -> None:
    store, came = Slow(), bytearray()
    plan = {"text": "hello there", "calls": CALLS if calls else []}
    await model.plan(plan, plan)
    options = {"stream_options": {"include_usage": True}} if path == CHAT else {}
    body = asked(path, stream=True, **options)
    whole = await direct(model, path, body)
    upto = whole.index((ENOUGH_OF_A_CALL if calls else ENOUGH)[path].encode())
    before = whole[: whole.rindex(b"\n\n", 0, upto) + 2]
    async with board(tmp_path, model, store=store) as door, door.post(path, body) as response:
        async with asyncio.timeout(DEADLINE_S):
            await store.asked.wait()
            while len(came) < len(before):
                came += await response.content.readany()
            assert came == before
            assert not await door.decisions()
            store.may.set()
            came += await response.read()
    assert came == whole


# --- who asks again ---


async def test_a_client_that_goes_away_is_answered_when_it_comes_back(tmp_path: Path, model: Provider) -> None:
    await model.plan({"text": "a long story", "hold_after": 2})
    async with board(tmp_path, model) as door:
        async with door.post(CHAT, asked(CHAT, stream=True)) as response:
            await response.content.readany()
        await model.go()

        async def recorded() -> bool:
            return len(await door.decisions()) == 1

        await until(recorded)
        _, _, data = await door.said(CHAT, asked(CHAT, stream=True))
        assert b"[DONE]" in data
        assert len(await model.heard()) == 1
        _, _, other = await door.said(CHAT, asked(CHAT, stream=True))
        assert other != data
        assert len(await model.heard()) == 2


MARKS = [{"x-stainless-retry-count": "1"}, {"idempotency-key": "k-1"}]


@pytest.mark.parametrize("mark", MARKS, ids=["counted", "keyed"])
async def test_a_resend_joins_what_is_under_way(tmp_path: Path, model: Provider, mark: dict[str, str]) -> None:
    await model.plan({"hold_after": 0})
    first = mark if "idempotency-key" in mark else {}
    async with board(tmp_path, model) as door:
        asking = asyncio.create_task(door.said(CHAT, asked(CHAT), first))

        async def heard() -> bool:
            return len(await model.heard()) == 1

        await until(heard)
        again = asyncio.create_task(door.said(CHAT, asked(CHAT), mark))
        await asyncio.sleep(0.05)  # in which it may, wrongly, be asked a second time: then it is heard twice
        await model.go()
        async with asyncio.timeout(DEADLINE_S):
            (_, _, one), (_, _, other) = await asyncio.gather(asking, again)
        assert one == other
        assert len(await model.heard()) == len(await door.decisions()) == 1


async def test_two_who_ask_the_same_and_both_listen_are_told_two_things(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model) as door:
        said = await asyncio.gather(*(door.said(CHAT, asked(CHAT)) for _ in range(2)))
    assert said[0][2] != said[1][2]
    assert len(await model.heard()) == 2


async def test_an_sdk_that_tries_again_after_a_refusal_is_not_given_the_refusal_again(
    tmp_path: Path, model: Provider
) -> None:
    soon = {"retry-after-ms": "1"}
    await model.plan({"status": 429, "headers": soon}, {"status": 500, "headers": soon}, {"text": "at last"})
    async with board(tmp_path, model) as door, door.openai(max_retries=2) as client:
        answer = await client.chat.completions.create(model="gpt-test", messages=SAY)
        assert answer.choices[0].message.content == "at last"
        assert len(await door.decisions()) == 1


async def test_lanes_keep_their_own_answers(tmp_path: Path, model: Provider) -> None:
    store = MemoryStore()
    await model.plan({"text": "for a"}, {"text": "for b"})

    async def said(door: Board, lane: str) -> Any:
        _, _, data = await door.said(CHAT, asked(CHAT), {"x-holdfast-lane": lane})
        return json.loads(data)["choices"][0]["message"]["content"]

    async with board(tmp_path, model, store=store) as door:
        assert [await said(door, lane) for lane in ("a", "b")] == ["for a", "for b"]
    async with board(tmp_path, model, store=store) as door:
        assert [await said(door, lane) for lane in ("b", "a")] == ["for b", "for a"]
        status, _, _ = await door.said(CHAT, asked(CHAT), {"x-holdfast-lane": "no lane"})
    assert status == 400


# --- what goes wrong ---


@PATHS
@FORMS
async def test_what_the_provider_says_no_with_is_passed_on_and_is_no_decision(
    tmp_path: Path, model: Provider, path: str, streamed: bool
) -> None:
    plan = {"status": 429, "error": "slow down, {key}", "headers": {"retry-after": "7"}}
    await model.plan(plan)
    async with board(tmp_path, model) as door:
        status, headers, data = await door.said(path, asked(path, stream=streamed))
        assert (status, headers["retry-after"]) == (429, "7")
        assert json.loads(data)["error"]["message"] == "slow down, [credential:provider]"
        assert not await door.decisions()
        assert (await door.said(path, asked(path, stream=streamed)))[0] == 200


@PATHS
async def test_an_answer_that_never_came_is_a_502(tmp_path: Path, model: Provider, path: str) -> None:
    await model.plan({"break_after": 0})
    async with board(tmp_path, model) as door:
        status, _, data = await door.said(path, asked(path))
        assert (status, json.loads(data)["error"]["type"]) == (502, "api_error")
        assert "broke off, or never came" in json.loads(data)["error"]["message"]
        assert not await door.decisions()
        assert (await door.said(path, asked(path)))[0] == 200


async def test_a_provider_that_is_not_there_is_a_502_and_costs_nothing(tmp_path: Path, model: Provider) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        async with board(tmp_path, model, base_url=base) as door:
            status, _, data = await door.said(CHAT, asked(CHAT))
            assert (status, json.loads(data)["error"]["code"]) == (502, "upstream_broken")
            assert door.taken.ward.rights.spent.money == 0


async def test_an_answer_that_takes_too_long_is_a_502(tmp_path: Path, model: Provider) -> None:
    await model.plan({"hold_after": 0})
    async with board(tmp_path, model, timeout_s=0.05) as door:
        status, _, data = await door.said(CHAT, asked(CHAT))
        assert (status, "no answer within 0.05 s" in data.decode()) == (502, True)
    await model.go()


@PATHS
async def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(
    tmp_path: Path, model: Provider, path: str
) -> None:
    await model.plan({"break_after": 3})
    async with board(tmp_path, model) as door:
        with pytest.raises(aiohttp.ClientPayloadError):
            await door.said(path, asked(path, stream=True))
        assert not await door.decisions()
        assert (await door.said(path, asked(path, stream=True)))[0] == 200


async def test_an_sdk_does_not_take_half_an_answer_for_a_whole_one(tmp_path: Path, model: Provider) -> None:
    await model.plan({"break_after": 4}, {"break_after": 4})
    async with board(tmp_path, model) as door, door.openai() as client:
        for stream in (
            await client.chat.completions.create(model="gpt-test", messages=SAY, stream=True),
            await client.responses.create(model="gpt-test", input="hello", stream=True),
        ):
            with pytest.raises(openai.APIError):
                await exhaust(stream)


async def exhaust(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


@PATHS
async def test_an_error_in_a_stream_is_passed_on_and_nothing_is_recorded(
    tmp_path: Path, model: Provider, path: str
) -> None:
    plan = {"error_after": 4, "text": "a long story"}
    await model.plan(plan, plan)
    body = asked(path, stream=True, **({"stream_options": {"include_usage": True}} if path == CHAT else {}))
    expected = await direct(model, path, body)
    async with board(tmp_path, model) as door:
        status, _, data = await door.said(path, body)
        assert (status, data) == (200, expected)
        assert not await door.decisions()


async def test_an_error_that_is_no_json_is_passed_on_as_it_is(tmp_path: Path, model: Provider) -> None:
    await model.raw(b"<h1>no such place</h1>", "text/html", status=404)
    await model.raw(b"{}", "application/json", status=202)
    async with board(tmp_path, model) as door:
        status, headers, data = await door.said(CHAT, asked(CHAT))
        assert (status, headers["content-type"], data) == (404, "text/html", b"<h1>no such place</h1>")
        assert (await door.said(CHAT, asked(CHAT)))[0] == 202
        assert not await door.decisions()


async def test_a_redirect_is_not_followed(tmp_path: Path, model: Provider) -> None:
    await model.raw(b"", "text/plain", status=307, headers={"location": f"{model.url}/v1/responses"})
    async with board(tmp_path, model) as door:
        status, headers, _ = await door.said(CHAT, asked(CHAT))
    assert (status, "location" in headers) == (502, False)
    assert [each["path"] for each in await model.heard()] == ["/v1/chat/completions"]


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_an_answer_that_is_packed_is_unpacked_or_refused(tmp_path: Path, model: Provider, coding: str) -> None:
    """Nobody finds a credential in what is packed."""
    said = gzip.compress(json.dumps({"choices": [], "x": SECRET}).encode())
    await model.raw(said, "application/json", headers={"content-encoding": coding})
    await model.raw(said, "text/event-stream", headers={"content-encoding": coding})
    async with board(tmp_path, model) as door:
        status, headers, data = await door.said(CHAT, asked(CHAT))
        assert "content-encoding" not in headers
        assert (status, b"[credential:provider]" in data) == ((200, True) if coding == "gzip" else (502, False))
        assert (await door.said(CHAT, asked(CHAT, stream=True)))[0] == 502


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"<html>", "text/html"),
        (b"[1]", "application/json"),
        (b"", "application/json"),
        (b"data: x", "text/event-stream"),
    ],
    ids=["no JSON", "no object", "nothing", "no end"],
)
async def test_what_is_no_answer_at_all_is_a_502(
    tmp_path: Path, model: Provider, raw: bytes, kind: str, streamed: bool
) -> None:
    await model.raw(raw, kind)
    async with board(tmp_path, model) as door:
        status, _, data = await door.said(CHAT, asked(CHAT, stream=streamed))
        assert (status, json.loads(data)["error"]["type"]) == (502, "api_error")
        assert not await door.decisions()


# --- credentials and rights ---


@PATHS
@pytest.mark.parametrize("cut", [0, 1, 5])
async def test_the_credential_goes_out_and_never_comes_back(
    tmp_path: Path, model: Provider, path: str, cut: int
) -> None:
    """It comes back in one frame, which the network cuts anywhere."""
    text = json.dumps({"choices": [], "x": SECRET})
    raw = f"data: {text}\n\ndata: [DONE]\n\n" if path == CHAT else f"event: ping\ndata: {text}\n\n"
    end = {
        CHAT: "",
        RESPONSES: 'data: {"type": "response.completed", "response": {}}\n\n',
        MESSAGES: 'data: {"type": "message_stop"}\n\n',
    }
    await model.raw((raw + end[path]).encode(), "text/event-stream", cut=cut)
    await model.plan({"text": "the key is {key}"})
    async with board(tmp_path, model) as door:
        said = [await door.said(path, asked(path, stream=True)), await door.said(path, asked(path))]
        [one, other] = await door.decisions()
        kept = [await read_payload(door.store, decision.answer) for decision in (one, other)]
    for status, headers, data in said:
        assert status == 200
        assert b"[credential:provider]" in data
        assert SECRET not in f"{headers}{data!r}"
    assert not [data for data in kept if SECRET.encode() in data]
    for each in await model.heard():
        assert door.handle not in json.dumps(each)
        assert SECRET in json.dumps(each["headers"])


@pytest.mark.parametrize("handle", ["", "sk-mine", f"hfc_{'A' * 43}_{RUN}", f"hfc_{'A' * 43}_other"])
async def test_without_a_handle_nothing_is_asked(tmp_path: Path, model: Provider, handle: str) -> None:
    async with board(tmp_path, model) as door:
        shown = {"authorization": f"Bearer {handle}", "x-api-key": handle}
        for path in ASKED:
            status, _, data = await door.said(path, asked(path), shown)
            assert (status, json.loads(data)["error"]["type"]) == (401, "authentication_error")
    assert not await model.heard()


async def test_a_revoked_right_ends_its_streams_and_asks_nothing_more(tmp_path: Path, model: Provider) -> None:
    await model.plan({"hold_after": 2})
    async with board(tmp_path, model) as door:
        async with door.post(CHAT, asked(CHAT, stream=True)) as response:
            await response.content.readany()
            await door.gate.revoke(RUN, door.taken.right.id, by="tests", reason="enough")
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(DEADLINE_S):
                    await response.read()
        await model.go()
        assert (await door.said(CHAT, asked(CHAT)))[0] == 401
    assert len(await model.heard()) == 1


# --- money ---


async def test_what_may_cost_too_much_is_not_asked(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model, budget=Budget(money=10_000)) as door:  # 1,000 tokens of an answer cost so much
        status, _, data = await door.said(CHAT, asked(CHAT))
        assert (status, json.loads(data)["error"]["type"]) == (403, "permission_error")
        assert "budget of money" in json.loads(data)["error"]["message"]
        assert (await door.said(CHAT, asked(CHAT, max_tokens=10)))[0] == 200
    assert len(await model.heard()) == 1


async def test_an_answer_that_does_not_say_what_it_used_costs_the_most(tmp_path: Path, model: Provider) -> None:
    await model.plan({"silent": True})
    async with board(tmp_path, model) as door:
        await door.said(CHAT, asked(CHAT, max_tokens=10))
        [decision] = await door.decisions()
    [heard] = await model.heard()
    sent = len(json.dumps(heard["body"], separators=(",", ":")))
    assert decision.cost is not None
    assert decision.cost >= (sent * 2.5) + 10 * 10
    assert decision.cost <= ((sent + 1000) * 5) + 10 * 10


async def test_an_answer_that_broke_off_may_have_cost_the_most(tmp_path: Path, model: Provider) -> None:
    """Else an agent could have whole answers for nothing, by asking for longer ones than there is time for."""
    await model.plan({"break_after": 3}, {"status": 500})
    async with board(tmp_path, model, budget=Budget(money=20_000)) as door:
        with pytest.raises(aiohttp.ClientPayloadError):
            await door.said(CHAT, asked(CHAT, stream=True))
        status, _, data = await door.said(CHAT, asked(CHAT, max_tokens=900))
        assert (status, "budget of money" in data.decode()) == (403, True)
        assert (await door.said(CHAT, asked(CHAT, max_tokens=10)))[0] == 500
        spent = door.taken.ward.rights.spent.money
    assert 1000 * 10 <= spent <= 1000 * 10 + 2000 * 2.5


async def test_what_was_spent_is_counted_when_the_run_goes_on(tmp_path: Path, model: Provider) -> None:
    store = MemoryStore()
    async with board(tmp_path, model, store=store) as door:
        await door.said(CHAT, asked(CHAT))
    async with board(tmp_path, model, store=store) as door:
        await door.said(CHAT, asked(CHAT))
        assert door.taken.ward.rights.spent.money == 90


# --- what is refused ---


def chat(**more: Any) -> bytes:
    return json.dumps(asked(CHAT, **more)).encode()


def picture(url: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"hello", 400, "is not the JSON"),
    "no object": (b"[]", 400, "not a JSON object"),
    "a name twice": (b'{"model": "gpt-test", "model": "gpt-5", "messages": []}', 400, "`model` stands twice"),
    "a name twice, deep": (b'{"model": "gpt-test", "messages": [{"role": "a", "role": "b"}]}', 400, "`role` stands"),
    "no number": (b'{"model": "gpt-test", "messages": [], "seed": NaN}', 400, "NaN is not a number"),
    "half a character": (b'{"model": "gpt-test", "messages": ["\\ud800"]}', 400, "surrogate"),
    "no UTF-8": (b'{"model": "gpt-test", "messages": ["\xff"]}', 400, "is not the JSON"),
    "too deep": (b'{"model": "gpt-test", "messages": ' + b"[" * 300 + b"]" * 300 + b"}", 400, "nested"),
    "much too deep": (b"[" * 100_000, 400, "is not the JSON"),
    "an unknown model": (chat(model="gpt-5"), 404, "`gpt-5` is not declared"),
    "no model": (b'{"messages": []}', 404, "is not declared"),
    "an unknown field": (chat(web_search_options={}), 400, "`web_search_options` is not one"),
    "what others said": (chat(previous_response_id="resp_1"), 400, "`previous_response_id`"),
    "a tool that the provider carries out": (chat(tools=[{"type": "web_search"}]), 400, "carried out by the provider"),
    "a tool of no type": (chat(tools=[{}]), 400, "a tool is an object"),
    "a picture from elsewhere": (chat(messages=picture("https://192.0.2.1/?q=secret")), 400, "lies elsewhere"),
    "too many tokens": (chat(max_tokens=1001), 400, "from 1 to 1000"),
    "tokens that are none": (chat(max_completion_tokens=True), 400, "whole number"),
    "too many answers": (chat(n=1000), 400, "`n`"),
    "a stream that is none": (chat(stream="yes"), 400, "`stream`"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_understood_or_not_allowed_is_refused_and_the_log_says_so(
    tmp_path: Path, model: Provider, name: str
) -> None:
    body, expected, why = REFUSED[name]
    async with board(tmp_path, model) as door:
        status, headers, data = await door.said(CHAT, body)
        refusals = [record for record in await door.records() if isinstance(record, Refusal)]
    assert status == expected
    assert why in json.loads(data)["error"]["message"]
    assert headers["x-should-retry"] == "false"
    assert [why in each.reason for each in refusals] == [True]
    assert not await model.heard()


async def test_what_is_too_large_is_refused(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model) as door:
        status, _, data = await door.said(CHAT, chat(messages=[{"role": "user", "content": "x" * (16 << 20)}]))
    assert (status, json.loads(data)["error"]["type"]) == (413, "request_too_large")
    assert not await model.heard()


@pytest.mark.parametrize("place", ["oai/v1/embeddings", "oai/v1/files", "ant/v1/messages/batches"])
async def test_other_places_of_the_provider_are_not_reached(tmp_path: Path, model: Provider, place: str) -> None:
    async with board(tmp_path, model) as door:
        status, _, _ = await door.said(f"/model/{place}", {})
        assert status == 404
        assert [each.reason for each in await door.records() if isinstance(each, Refusal)] == ["it is not served"]
    assert not await model.heard()


async def test_only_what_is_known_goes_to_the_provider(tmp_path: Path, model: Provider) -> None:
    """Headers of the agent are an account, a project or a cookie of somebody else's."""
    given = {"openai-organization": "org-evil", "openai-project": "p", "cookie": "a=b", "x-forwarded-for": "192.0.2.1"}
    async with board(tmp_path, model) as door:
        await door.said(CHAT, asked(CHAT), given)
    [heard] = await model.heard()
    assert not set(given) & {name.lower() for name in heard["headers"]}


async def test_a_beta_is_asked_for_by_name(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model, betas=["known-2025-01-01"]) as door:
        status, _, data = await door.said(MESSAGES, asked(MESSAGES), {"anthropic-beta": "other-2025-01-01"})
        assert (status, "other-2025-01-01" in data.decode()) == (400, True)
        await door.said(MESSAGES, asked(MESSAGES), {"anthropic-beta": "known-2025-01-01"})
    [heard] = await model.heard()
    assert heard["headers"]["anthropic-beta"] == "known-2025-01-01"
    assert "anthropic-beta" not in heard["body"]


async def test_an_agent_that_sets_no_limit_gets_the_declared_one(tmp_path: Path, model: Provider) -> None:
    async with board(tmp_path, model) as door:
        await door.said(CHAT, asked(CHAT))
        await door.said(CHAT, asked(CHAT, max_tokens=7))
        await door.said(RESPONSES, asked(RESPONSES))
    bodies = [each["body"] for each in await model.heard()]
    assert [each.get("max_completion_tokens") for each in bodies] == [1000, None, None]
    assert [each.get("max_output_tokens") for each in bodies] == [None, None, 1000]


async def test_a_credential_is_not_sent_in_the_clear_over_public_networks(bench: Provider) -> None:
    declared = config(bench, "openai").model_copy(update={"private": ()})
    with pytest.raises(BadCall, match="in the clear"):
        await open_model("oai", declared, Kit(vault=Vault({}, MemoryStore(), uses={}), dialer=Dialer()))
