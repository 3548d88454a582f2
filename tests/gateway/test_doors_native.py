"""The native door as its own description tells it, and bodies that were not written by a client of ours."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from holdfast.core.canonical import canonical
from holdfast.core.record import Refusal
from holdfast.errors import BadCall
from holdfast.gateway.doors import agent
from holdfast.gateway.doors.native import LARGEST_BODY, CallBody, model_of
from holdfast.gateway.doors.openapi import document
from holdfast.gateway.doors.strict import object_of
from holdfast.gateway.gate import handle_in
from tests.examples import examples
from tests.gateway.threshold import Threshold, request, threshold

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
ASKED = [(path, method) for path, methods in document()["paths"].items() for method in methods]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Threshold]:
    async with threshold(tmp_path) as found:
        yield found


@pytest.fixture
def apart(tmp_path: Path) -> Generator[Threshold]:
    """A threshold with a loop of its own, for clients that know none."""
    found: list[Threshold] = []
    ready, done = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def stand() -> None:
        async with threshold(tmp_path) as here:
            found.append(here)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(stand()))
    thread.start()
    assert ready.wait(60)
    yield found[0]
    loop.call_soon_threadsafe(done.set)
    thread.join(60)
    loop.close()


@pytest.mark.hypothesis  # what schemathesis makes, hypothesis draws
@pytest.mark.parametrize(("path", "method"), ASKED)
def test_the_door_answers_as_its_description_says_and_never_fails(apart: Threshold, path: str, method: str) -> None:
    operation = schemathesis.openapi.from_dict(document())[path][method.upper()]
    url = f"http://127.0.0.1:{apart.port}"

    @settings(max_examples=examples(8), deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call(base_url=url)
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    ask()
    assert not_a_server_error not in CHECKS  # what waits is 503, and says so


async def test_the_description_is_served_and_names_every_route(here: Threshold) -> None:
    answer = await here.get("/openapi.json")
    assert json.loads(answer.body) == document()
    routes = {(route.path, route.method.lower()) for route in agent.routes(here.gate, None)}
    assert routes <= set(ASKED)


BODIES = {
    "a name twice": (b'{"tool": "post.send", "tool": "post.look"}', "a name stands twice"),
    "a name twice, deeper": (b'{"tool": "post.send", "args": {"to": "a", "to": "b"}}', "a name stands twice"),
    "a name twice, spelled in two ways": (b'{"tool": "post.send", "args": {"to": 1, "t\\u006f": 2}}', "a name stands"),
    "no number": (b'{"tool": "post.send", "args": {"to": NaN}}', "NaN is no JSON number"),
    "no end": (b'{"tool": "post.send", "args": {"to": Infinity}}', "Infinity is no JSON number"),
    "a number beyond all": (b'{"tool": "post.send", "args": {"to": 1e999}}', "cannot be written down"),
    "digits beyond all": (b'{"tool": "post.send", "args": {"to": ' + b"9" * 5000 + b"}}", "the body is not JSON"),
    "half a letter": (b'{"tool": "post.send", "args": {"to": "\\ud800"}}', "cannot be written down"),
    "half a letter in a name": (b'{"tool": "post.send", "args": {"\\udfff": 1}}', "cannot be written down"),
    "depth": (b'{"tool": "post.send", "args": {"to": ' + b"[" * 300 + b"]" * 300 + b"}}", "cannot be written down"),
    "depth beyond all": (b'{"tool": "post.send", "args": {"to": ' + b"[" * 100_000, "the body is not JSON"),
    "no UTF-8": (b'{"tool": "post.send", "args": {"to": "\xff"}}', "the body is not JSON"),
    "UTF-16": ('{"tool": "post.send"}'.encode("utf-16"), "the body is not JSON"),
    "a mark before it": (b'\xef\xbb\xbf{"tool": "post.send"}', "the body is not JSON"),
    "something behind it": (b'{"tool": "post.send"}{}', "the body is not JSON"),
    "a list": (b"[]", "the body is no JSON object"),
    "nothing": (b"", "the body is not JSON"),
    "a field that is not known": (b'{"tool": "post.send", "approved": true}', "approved"),
    "a tool that is no text": (b'{"tool": ["post.send"]}', "tool"),
    "arguments that are none": (b'{"tool": "post.send", "args": [1]}', "args"),
    "a count beyond all": (b'{"tool": "post.send", "n": 1e3}', "n"),
    "a negative count": (b'{"tool": "post.send", "n": -1}', "n"),
    "a resend that is a text": (b'{"tool": "post.send", "resend": "true"}', "resend"),
    "an empty label": (b'{"tool": "post.send", "again": ""}', "again"),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_that_has_no_one_meaning_is_refused_and_nothing_is_sent(here: Threshold, kind: str) -> None:
    body, why = BODIES[kind]
    answer = await here.post("/v1/call", body)
    assert (answer.status, here.office.sent) == (400, [])
    assert why in answer.what


async def test_a_nul_in_an_argument_is_an_argument(here: Threshold) -> None:
    assert (await here.post("/v1/call", b'{"tool": "post.send", "args": {"to": "a\\u0000b"}}')).status == 200
    assert [to for to, _ in here.office.sent] == ["a\0b"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_all_measure_is_refused_and_nothing_is_sent(here: Threshold, *, chunked: bool) -> None:
    start = b'{"tool": "post.send", "args": {"to": "'
    body = start + b"a" * (LARGEST_BODY + 1 - len(start))
    data = request("POST", "/v1/call", body)
    if chunked:
        head = request("POST", "/v1/call", None, None, "Transfer-Encoding: chunked")
        data = head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    answer = await here.raw(data)
    assert (answer.status, here.office.sent) == (400, [])
    assert answer.what == f"the body is larger than {LARGEST_BODY} bytes"


@pytest.mark.parametrize("size", [1, 16 << 20])
async def test_what_is_asked_once_is_answered_once(here: Threshold, size: int) -> None:
    """A second answer to one request would be taken for that of the next one on the same connection."""
    body = json.dumps({"tool": "post.send", "args": {"to": "a" * size}})
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(request("POST", "/v1/call", body))  # it asks for the connection to be closed behind the answer
    async with asyncio.timeout(60):
        said = await reader.read()
    writer.close()
    assert said.count(b"HTTP/1.1 ") == 1


async def test_arguments_that_are_too_large_to_be_written_down_are_refused(here: Threshold) -> None:
    answer = await here.call(args={"to": "a" * (16 << 20)})
    assert (answer.status, here.office.sent) == (400, [])
    assert "at most 16777216 are written down" in answer.what
    refused = [each.reason for each in await here.records() if isinstance(each, Refusal)]
    assert refused == [answer.what]


NARROWED = {
    "a tool that is not there": ({"tools": ["*", "*"] * 200}, 400),
    "a prefix beyond all": (
        {"tools": ["post.send"], "limits": [{"tool": "*", "argument": "to", "prefix": "a" * 70_000}]}, 400,
    ),
    "values beyond all": (
        {"tools": ["post.send"], "limits": [{"tool": "*", "argument": "to", "one_of": list(range(300))}]}, 400,
    ),
    "a bound below nothing": ({"tools": ["post.send"], "calls": -1}, 400),
    "a level that is none": ({"tools": ["post.send"], "approval": "never"}, 400),
}  # fmt: skip


@pytest.mark.parametrize("kind", NARROWED)
async def test_a_capability_that_cannot_be_written_down_is_not_given(here: Threshold, kind: str) -> None:
    body, status = NARROWED[kind]
    before = len(await here.records())
    assert (await here.post("/v1/narrow", body)).status == status
    assert len(await here.records()) == before


async def test_decisions_that_nobody_comes_back_for_are_so_many_and_no_more(
    here: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "MOST", 5)
    statuses = [
        (await here.post("/v1/decide", {"name": str(each), "asked": each, "lane": str(each)})).status
        for each in range(7)
    ]
    assert statuses == [200] * 5 + [409] * 2


@pytest.mark.parametrize("ticket", ["0" * 32, "x", "é", "../etc"])
async def test_a_ticket_that_nobody_was_given_decides_nothing(here: Threshold, ticket: str) -> None:
    await here.post("/v1/decide", {"name": "a", "asked": 1})
    answer = await here.post("/v1/decided", {"ticket": ticket, "answer": 1})
    assert (answer.status, answer.what) == (409, "nobody waits for this decision")


# --- whatever comes ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode()))
FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("tool", "args", "again", "n", "resend", "more"), JSON)
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@settings(max_examples=examples(80), deadline=None)
@given(TEXTS)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 100_000)
@example(b'"\\ud800"')
def test_what_is_read_can_be_written_down_and_read_again(data: bytes) -> None:
    try:
        found = object_of(data)
    except BadCall:
        return
    assert canonical(object_of(canonical(found))) == canonical(found)


@settings(max_examples=examples(80), deadline=None)
@given(st.one_of(TEXTS, FIELDS))
def test_a_body_is_a_call_or_refused(data: bytes) -> None:
    try:
        found = model_of(data, CallBody)
    except BadCall as error:
        refused = error.what
    else:
        assert isinstance(found.args, dict)
        return
    assert len(refused) < 1000


@settings(max_examples=examples(80), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["authorization", "x-api-key", "api-key", "proxy-authorization", "x-holdfast-capability"]),
        st.one_of(
            st.text(max_size=40), st.text(max_size=20).map("Bearer ".__add__),
            st.text(max_size=20).map("Basic ".__add__),
            st.just("Basic aGZjX2E6aGZjX2I="), st.just("Bearer hfc_a"),
        ),
    )
)  # fmt: skip
def test_a_handle_is_found_whole_or_not_at_all(headers: dict[str, str]) -> None:
    found = handle_in(headers)
    assert found is None or found.startswith("hfc_")
