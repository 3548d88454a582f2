"""JSON-RPC as bytes: what is refused, where things stand, and what a stream of any pieces says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.canonical import canonical
from holdfast.gateway.upstreams.mcp_wire import (
    DEEPEST,
    LARGEST,
    Feed,
    Malformed,
    answer,
    elements,
    load,
    members,
    parse,
    request,
    spliced,
    streamed,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
INDENTS = st.sampled_from([None, 1, 3])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", -32700),
        (b"\xff", -32700),
        (b"\xef\xbb\xbf{}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","id":2}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":{"b":1,"b":1}}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":NaN}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1e999}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"} {}', -32700),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"m"}', -32700),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), -32700),
        (b"[]", -32600),
        (b'"text"', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"m"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', -32600),
        (b'{"jsonrpc":"2.0","id":[1],"method":"m"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","result":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":1,"error":{}}', -32600),
        (b'{"jsonrpc":"2.0","result":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b" " * (LARGEST + 1), -32600),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_can_be_misread_is_no_message(data: bytes, code: int) -> None:
    with pytest.raises(Malformed) as refused:
        parse(data)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "id", [b"1", b"1.0", b"-0", b'"a"', b'"\\u0041"', b"12345678901234567890123", b"1e2", b'"\\ud800"']
)
def test_an_id_goes_back_as_it_came(id: bytes) -> None:
    message = parse(b'{"method":"m","jsonrpc":"2.0", "id" : ' + id + b"}")
    assert message.id == id
    assert b'"id":' + id + b"," in answer(message.id, b'{"result":{}}')


def test_what_an_answer_says_is_kept_byte_for_byte() -> None:
    said = b'{ "b":1.50, "a" : [ 1e2 , "\\u0041"] }'
    message = parse(b'{"jsonrpc":"2.0","result":' + said + b' ,"id":7}')
    assert message.said == b'{"result":' + said + b"}"
    assert answer(b'"x"', message.said) == b'{"jsonrpc":"2.0","id":"x","result":' + said + b"}"


@given(st.dictionaries(st.text(), VALUES, max_size=5), INDENTS, st.booleans())
def test_members_stand_where_they_are_said_to(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert {name: json.loads(data[start:end]) for name, (start, end) in members(data).items()} == value


@given(st.lists(VALUES, max_size=5), INDENTS)
def test_elements_stand_where_they_are_said_to(value: list[Any], indent: int | None) -> None:
    data = json.dumps(value, indent=indent).encode()
    assert [json.loads(data[start:end]) for start, end in elements(data)] == value


def test_a_splice_changes_nothing_else() -> None:
    data = b'{ "a" : 1.0 , "b":2}'
    assert spliced(data, {members(data)["b"]: b"[3]"}) == b'{ "a" : 1.0 , "b":[3]}'


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=4), st.data())
def test_a_stream_says_the_same_in_whatever_pieces_it_comes(values: list[Any], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = b"".join(streamed(json.dumps(value, indent=1).encode()) for value in values).replace(b"\n", end)
    feed, found = Feed(), list[bytes]()
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 40))
        found += feed.feed(stream[at : at + size])
        at += size
    found += feed.feed(b": the end" + end)
    assert [json.loads(message) for message in found] == values


def test_a_stream_that_never_ends_a_message_is_refused() -> None:
    feed, line = Feed(), b"data: " + b"a" * (1 << 20) + b"\n"
    for _ in range(15):
        assert feed.feed(line) == []
    with pytest.raises(Malformed):
        feed.feed(line * 2)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), VALUES, max_size=4))
def test_a_request_that_is_made_is_one_that_is_understood(params: dict[str, Any]) -> None:
    try:
        data = request(b"5", "m/n", params)
    except Malformed:  # a lone surrogate has no canonical text
        return
    message = parse(data)
    assert (message.method, message.id, canonical(message.params)) == ("m/n", b"5", canonical(params))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ 1etrun', max_size=60).map(str.encode))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    try:
        load(data)
        parse(data)
    except Malformed:
        pass
