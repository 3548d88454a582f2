"""What models answer: cut into frames, understood, counted, written down, and told in the other form."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.effect import Encoding
from holdfast.errors import Corrupt, Misuse
from holdfast.gateway.upstreams.model_answer import (
    Answer,
    Frames,
    Listener,
    Mark,
    Prices,
    Tokens,
    count,
    frames_of,
    read_answer,
    told_by,
)
from holdfast.gateway.upstreams.model_forms import delivered
from holdfast.gateway.upstreams.model_wire import Form

ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
LINES = st.binary(min_size=1, max_size=20).map(lambda data: b"data: " + data.translate(None, b"\r\n"))
FRAMES = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=8)


# --- frames ---


@given(FRAMES, st.data())
def test_frames_are_the_same_however_the_network_cuts_them(frames: list[bytes], data: st.DataObject) -> None:
    stream, cutting, found = b"".join(frames), Frames(), list[bytes]()
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 9))
        found += cutting.feed(stream[at : at + step])
        at += step
    assert b"".join([*found, cutting.rest]) == stream
    told = [told for frame in [*found, cutting.rest] if (told := frame.strip(b"\r\n"))]
    assert told == [frame.strip(b"\r\n") for frame in frames]


@given(st.binary(max_size=200))
def test_no_byte_of_a_stream_is_lost_or_made_up(data: bytes) -> None:
    assert b"".join(frames_of(data)) == data


@given(st.binary(max_size=60))
def test_any_frame_is_understood_or_taken_for_more_to_come(data: bytes) -> None:
    for operation in ("chat", "responses", "messages"):
        assert Listener(operation).hear(b"data: " + data + b"\n\n") in Mark


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (b'data: {"a": 1}\n\n', {"a": 1}),
        (b'data:{"a": 1}\r\n\r\n', {"a": 1}),
        (b'event: x\nid: 7\ndata: {"a":\ndata: 1}\n\n', {"a": 1}),
        (b"data: [DONE]\n\n", "[DONE]"),
        (b": a comment\n\n", None),
        (b"data: {\n\n", None),
        (b"event: ping\n\n", None),
    ],
)
def test_a_frame_tells_what_its_data_says(frame: bytes, told: object) -> None:
    assert told_by(frame) == told


def chunk(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}], "usage": None}


def call(index: int) -> dict[str, Any]:
    return chunk(delta={"tool_calls": [{"index": index, "function": {"arguments": "{"}}]})


def block(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "index": 1, **more}


TOOL = block("content_block_start", content_block={"type": "tool_use"})
TEXT = block("content_block_start", content_block={"type": "text"})
DONE = "response.output_item.done"
HEARD: list[tuple[str, list[Any], Mark]] = [
    ("chat", [chunk(delta={"content": "a"})], Mark.MORE),
    ("chat", [call(0), call(0)], Mark.MORE),
    ("chat", [call(0), call(1)], Mark.ENOUGH),
    ("chat", [chunk(finish_reason="stop")], Mark.ENOUGH),
    ("chat", [{"choices": [], "usage": {"prompt_tokens": 1}}], Mark.USAGE),
    ("chat", [{"choices": [], "prompt_filter_results": []}], Mark.MORE),
    ("chat", [{"error": {"message": "no"}}], Mark.FAILED),
    ("responses", [{"type": "response.output_text.delta"}], Mark.MORE),
    ("responses", [{"type": DONE, "item": {"type": "message"}}], Mark.MORE),
    ("responses", [{"type": DONE, "item": {"type": "function_call"}}], Mark.ENOUGH),
    ("responses", [{"type": "response.function_call_arguments.done"}], Mark.ENOUGH),
    ("responses", [{"type": "response.completed", "response": {}}], Mark.END),
    ("responses", [{"type": "response.incomplete", "response": {}}], Mark.END),
    ("responses", [{"type": "response.failed", "response": {"error": {}}}], Mark.FAILED),
    ("responses", [{"type": "error", "message": "no"}], Mark.FAILED),
    ("messages", [{"type": "ping"}], Mark.MORE),
    ("messages", [TEXT, block("content_block_stop")], Mark.MORE),
    ("messages", [TOOL, block("content_block_stop")], Mark.ENOUGH),
    ("messages", [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}], Mark.ENOUGH),
    ("messages", [{"type": "message_stop"}], Mark.END),
    ("messages", [{"type": "error", "error": {"type": "overloaded_error"}}], Mark.FAILED),
]


@pytest.mark.parametrize(("operation", "told", "mark"), HEARD)
def test_what_a_frame_means(operation: str, told: list[Any], mark: Mark) -> None:
    listener = Listener(operation)
    assert [listener.hear(f"data: {json.dumps(each)}\n\n".encode()) for each in told][-1] is mark


# --- counting ---

USAGE: list[tuple[str, Any, Tokens | None]] = [
    (
        "chat",
        {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
        Tokens(input=6, cached=4, written=0, output=3),
    ),
    ("chat", {"prompt_tokens": 10, "completion_tokens": 3}, Tokens(input=10, cached=0, written=0, output=3)),
    (
        "responses",
        {"input_tokens": 10, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 40}},
        Tokens(input=0, cached=10, written=0, output=3),
    ),
    (
        "messages",
        {"input_tokens": 10, "output_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 5},
        Tokens(input=10, cached=4, written=5, output=3),
    ),
    ("chat", None, None),
    ("chat", {"prompt_tokens": 10}, None),
    ("chat", {"prompt_tokens": -1, "completion_tokens": 3}, None),
    ("messages", {"input_tokens": "10", "output_tokens": 3}, None),
    ("messages", {"input_tokens": True, "output_tokens": 3}, None),
]


@pytest.mark.parametrize(("operation", "usage", "tokens"), USAGE)
def test_tokens_are_counted_as_the_provider_tells_them(operation: str, usage: Any, tokens: Tokens | None) -> None:
    assert count(operation, usage) == tokens


def test_the_usage_of_a_stream_is_the_last_that_it_tells() -> None:
    listener = Listener("messages")
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}
    for told in (start, {"type": "message_delta", "usage": {"output_tokens": 30}}):
        listener.hear(f"data: {json.dumps(told)}\n\n".encode())
    assert listener.tokens == Tokens(input=7, cached=0, written=0, output=30)


PRICES = Prices(input=Decimal("2.5"), cached=Decimal("0.25"), written=Decimal(5), output=Decimal(10))


def test_a_cost_is_rounded_up() -> None:
    assert PRICES.cost(Tokens(input=1, cached=1, written=1, output=1)) == 18  # 17.75


@given(*[st.integers(0, 10**6)] * 4)
def test_nothing_costs_more_than_the_most(read: int, cached: int, written: int, output: int) -> None:
    used = Tokens(input=read, cached=cached, written=written, output=output)
    assert PRICES.cost(used) <= PRICES.most(read + cached + written, output)


# --- written down ---

OPERATIONS = st.sampled_from(["chat", "responses", "messages"])


@given(OPERATIONS, st.binary(max_size=100), st.integers(100, 599))
def test_any_answer_is_written_down_exactly(operation: str, body: bytes, status: int) -> None:
    answer = Answer(operation=operation, status=status, kind="text/x; a", body=body, headers={"request-id": "r"})
    reply = answer.written(cost=7)
    assert (reply.encoding, reply.cost) == (Encoding.JSON, 7)
    assert read_answer(reply.data, "chat") == answer


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b'{"operation": "chat", "status": 200, "type": "x"}', b"[" * 10**5])
def test_what_is_no_recorded_answer_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        read_answer(data, "chat")


@pytest.mark.parametrize("operation", ["chat", "responses", "messages"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_that_a_person_puts_in_its_place_is_what_the_model_said(operation: str, streamed: bool) -> None:
    answer = delivered(read_answer(b'"use eu-west-1"', operation), operation, Form(streamed=streamed))
    assert answer.streamed is streamed
    assert b"use eu-west-1" in answer.body
    if streamed:
        assert Listener(operation).hear(frames_of(answer.body)[-1]) is Mark.END


def test_an_answer_to_another_operation_is_not_given() -> None:
    answer = Answer(operation="chat", status=200, kind="application/json", body=b"{}")
    with pytest.raises(Misuse, match="`chat`"):
        delivered(answer, "responses", Form())


# --- the other form ---

WHOLE: dict[str, Any] = {
    "chat": {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {
                "index": at, "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant", "content": "hé", "refusal": None,
                    "tool_calls": [
                        {"id": f"t{n}", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
                        for n in range(2)
                    ],
                },
                "logprobs": {"content": [{"token": "hé", "logprob": -0.5}]},
            }
            for at in range(2)
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    },
    "responses": {
        "id": "r", "object": "response", "status": "completed", "model": "m",
        "output": [
            {"type": "reasoning", "id": "rs", "summary": []},
            {
                "type": "message", "id": "m1", "role": "assistant", "status": "completed",
                "content": [
                    {"type": "output_text", "text": "hé", "annotations": []},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {
                "type": "function_call", "id": "f1", "call_id": "c1", "name": "f", "arguments": "{}",
                "status": "completed",
            },
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "messages": {
        "id": "m", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "hé", "citations": [{"type": "char_location", "cited_text": "é"}]},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": ["é", 1.5, None]}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2},
    },
}  # fmt: skip


@pytest.mark.parametrize("operation", WHOLE)
def test_a_stream_of_an_answer_says_what_the_whole_says(operation: str) -> None:
    body = json.dumps(WHOLE[operation]).encode()
    answer = Answer(operation=operation, status=200, kind="application/json", body=body)
    stream = delivered(answer, operation, Form(streamed=True, usage=True))
    back = delivered(stream, operation, Form())
    assert stream.streamed
    assert back.kind == "application/json"
    assert json.loads(back.body) == WHOLE[operation]


@pytest.mark.parametrize("operation", WHOLE)
def test_an_answer_in_the_form_that_is_asked_for_is_not_touched(operation: str) -> None:
    body = b' {"spelled":  "oddly"}\n'
    answer = Answer(operation=operation, status=200, kind="application/json", body=body)
    assert delivered(answer, operation, Form()) == answer


WORDS = st.sampled_from(
    "type index delta content choices message tool_calls finish_reason usage content_block text input output "
    "response partial_json message_start content_block_start content_block_delta message_delta error".split()
)
ODD = st.recursive(
    st.none() | st.integers(-1, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(OPERATIONS, st.lists(st.dictionaries(WORDS, ODD, max_size=3), min_size=1, max_size=3), st.booleans())
def test_whatever_a_provider_said_is_told_in_the_other_form_or_not_at_all(
    operation: str, told: list[Any], streamed: bool
) -> None:
    stream = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in told)
    body, kind = (stream, "text/event-stream") if streamed else (json.dumps(told[0]).encode(), "application/json")
    answer = Answer(operation=operation, status=200, kind=kind, body=body)
    try:
        other = delivered(answer, operation, Form(streamed=not streamed))
    except Misuse:
        return
    assert other.streamed is not streamed


@given(OPERATIONS, st.lists(st.dictionaries(WORDS, ODD, max_size=3), max_size=4))
def test_whatever_a_provider_says_is_heard(operation: str, told: list[Any]) -> None:
    listener = Listener(operation)
    for each in told:
        assert listener.hear(b"data: " + json.dumps(each).encode() + b"\n\n") in Mark
    assert isinstance(listener.tokens, Tokens | None)
