"""What models are asked: read in one way only, and looked through for what nobody here would see."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.canonical import canonical
from holdfast.errors import BadCall, Unknown
from holdfast.gateway.upstreams.model_wire import WIRES, Form, Terms, Wire, read_object, read_question, take_form

TERMS = Terms(models={"m": 1000})
CHAT, RESPONSES, MESSAGES = WIRES["chat"], WIRES["responses"], WIRES["messages"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = read_object(data)
    except BadCall:
        return
    assert canonical(found) == canonical(json.loads(data))


@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3))
def test_what_is_read_is_what_was_written(value: dict[str, Any]) -> None:
    assert canonical(read_object(json.dumps(value).encode())) == canonical(value)


def test_how_an_answer_is_to_come_is_no_part_of_what_is_asked() -> None:
    body: dict[str, Any] = {"model": "m", "stream": True, "stream_options": {"include_usage": True, "more": 1}}
    assert take_form(body) == Form(streamed=True, usage=True, options={"more": 1})
    assert body == {"model": "m"}
    question = read_question(CHAT, {"model": "m", "messages": []}, TERMS)
    assert question.asked == {"model": "m", "messages": []}
    sent = json.loads(question.body(Form(streamed=True)))
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    assert "stream" not in json.loads(question.body(Form()))


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


URL = "https://192.0.2.1/?q=secret"
PICTURE = {"type": "image", "source": {"type": "url", "url": URL}}
ELSEWHERE: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": user({"type": "image_url", "image_url": {"url": URL}})}),
    ("chat", {"messages": user({"type": "image_url", "image_url": URL})}),
    ("chat", {"messages": user({"type": "video_url", "video_url": {"url": URL}})}),
    ("chat", {"messages": user({"type": "file", "file": {"file_id": "file-1"}})}),
    ("responses", {"input": user({"type": "input_image", "image_url": URL})}),
    ("responses", {"input": user({"type": "input_file", "file_url": URL})}),
    ("responses", {"input": user({"type": "input_file", "file_id": "file-1"})}),
    ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("responses", {"input": [{"type": "computer_call_output", "output": {"image_url": URL}}]}),
    ("messages", {"messages": user(PICTURE)}),
    ("messages", {"messages": user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})}),
    ("messages", {"system": [PICTURE]}),
    ("messages", {"messages": user({"type": "tool_result", "content": [PICTURE]})}),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "fields"), ELSEWHERE)
def test_what_the_provider_would_fetch_is_refused_unless_that_is_declared(
    operation: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(BadCall, match="lies elsewhere"):
        read_question(WIRES[operation], {"model": "m", **fields}, TERMS)
    read_question(WIRES[operation], {"model": "m", **fields}, Terms(models={"m": 1000}, elsewhere=True))


PIXEL = "data:image/png;base64,AAAA"
HARMLESS: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": user({"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": URL})}),
    ("chat", {"messages": [{"role": "tool", "content": json.dumps({"image_url": URL})}]}),
    ("responses", {"input": "see https://192.0.2.1"}),
    ("messages", {"messages": user({"type": "tool_use", "id": "t", "name": "f", "input": {"image_url": URL}})}),
    ("messages", {"messages": user({"type": "image", "source": {"type": "base64", "data": "AAAA"}})}),
    ("chat", {"messages": [], "tools": [{"type": "function", "function": {"parameters": {"image_url": URL}}}]}),
]


@pytest.mark.parametrize(("operation", "fields"), HARMLESS)
def test_what_is_only_text_is_no_reference(operation: str, fields: dict[str, Any]) -> None:
    read_question(WIRES[operation], {"model": "m", **fields}, TERMS)


TOOLS = [
    ("chat", {"type": "function"}, True),
    ("chat", {"type": "custom"}, True),
    ("chat", {"type": "web_search"}, False),
    ("responses", {"type": "function"}, True),
    ("responses", {"type": "local_shell"}, True),
    ("responses", {"type": "shell"}, False),
    ("responses", {"type": "mcp", "server_url": URL}, False),
    ("responses", {"type": "code_interpreter"}, False),
    ("responses", {"type": "web_search_preview"}, False),
    ("messages", {"name": "f"}, True),
    ("messages", {"type": "bash_20250124", "name": "bash"}, True),
    ("messages", {"type": "text_editor_20250728"}, True),
    ("messages", {"type": "web_fetch_20250910"}, False),
    ("messages", {"type": "code_execution_20250825"}, False),
    ("messages", {"type": "mcp_toolset"}, False),
]


@pytest.mark.parametrize(("operation", "tool", "own"), TOOLS)
def test_tools_that_the_provider_carries_out_are_refused_unless_they_are_declared(
    operation: str, tool: dict[str, Any], own: bool
) -> None:
    asked = {"model": "m", "tools": [tool]}
    if own:
        read_question(WIRES[operation], asked, TERMS)
        return
    with pytest.raises(BadCall, match="carried out by the provider"):
        read_question(WIRES[operation], asked, TERMS)
    read_question(WIRES[operation], asked, Terms(models={"m": 1000}, tools=[tool["type"]]))


UNKNOWN = [
    ("chat", "web_search_options"), ("chat", "service_tier"), ("chat", "store_elsewhere"), ("chat", "stream"),
    ("responses", "previous_response_id"), ("responses", "conversation"), ("responses", "background"),
    ("responses", "prompt"), ("messages", "mcp_servers"), ("messages", "container"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "field"), UNKNOWN)
def test_a_field_that_is_not_known_as_harmless_is_refused_unless_it_is_declared(operation: str, field: str) -> None:
    with pytest.raises(BadCall, match=f"`{field}` is not one"):
        read_question(WIRES[operation], {"model": "m", field: "x"}, TERMS)
    read_question(WIRES[operation], {"model": "m", field: "x"}, Terms(models={"m": 1000}, fields=[field]))


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 1000),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": 2}, 2000),
    ],
)
def test_the_most_tokens_of_an_answer_are_known_before_it_is_asked_for(fields: dict[str, Any], most: int) -> None:
    assert read_question(CHAT, {"model": "m", "messages": [], **fields}, TERMS).output_most == most


@given(st.text(max_size=300))
def test_a_request_has_no_more_tokens_than_bytes(text: str) -> None:
    question = read_question(CHAT, {"model": "m", "messages": [{"role": "user", "content": text}]}, TERMS)
    assert question.input_most >= len(question.body(Form()))


def test_a_picture_may_have_more_tokens_than_its_bytes_tell() -> None:
    few = read_question(CHAT, {"model": "m", "messages": user({"type": "text", "text": PIXEL})}, TERMS)
    more = read_question(CHAT, {"model": "m", "messages": user({"type": "image_url", "image_url": PIXEL})}, TERMS)
    assert more.input_most - few.input_most > 9000


FIELDS = st.sampled_from(
    sorted({name for wire in WIRES.values() for name in wire.fields} | {"stream", "anthropic-beta"})
)
NAMES = st.sampled_from(["type", "url", "image_url", "content", "source", "file_id", "role", "input", "n"])
PARTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2000)
    | st.text(max_size=3)
    | st.sampled_from(["url", "data:", "function"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(list(WIRES.values())), st.dictionaries(FIELDS, PARTS, max_size=5))
def test_whatever_is_asked_is_understood_or_refused(wire: Wire, fields: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": "m", **fields}
    try:
        form = take_form(asked)
        question = read_question(wire, asked, TERMS)
    except (BadCall, Unknown):
        return
    assert json.loads(question.body(form))["model"] == "m"
    assert 1 <= question.output_most <= 1000 * 128
