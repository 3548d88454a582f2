"""JSON-RPC as the Model Context Protocol uses it: messages as bytes, with the places of what they say.

Rules
1. What is passed on is passed on byte for byte: a message is read for what it says, and cut where its members stand.
2. What two readers could take for two different things is refused: duplicate keys, numbers that are none, more than
   `DEEPEST` levels, text that is not UTF-8. So are batches, which the protocol no longer has.
3. An id goes back as the bytes in which it came.

Source: JSON-RPC 2.0; Model Context Protocol, revisions 2025-06-18, 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import legible

LARGEST = 16 << 20  # bytes of one message
DEEPEST = 100
PARSE_ERROR, BAD_REQUEST, NO_METHOD, BAD_PARAMS = -32700, -32600, -32601, -32602

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_BARE = re.compile(rb"[^ \t\r\n,\]}]+")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Malformed(ValueError):
    """Bytes that are no message; `code` is what JSON-RPC calls the reason."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """One message: a request (method and id), a notification (method only), or an answer (id only). `places` are where
    its members stand in `data`."""

    data: bytes
    value: Mapping[str, JSON]
    places: Mapping[str, tuple[int, int]]

    @property
    def method(self) -> str | None:
        """What is asked for or told; None for an answer."""
        return cast("str | None", self.value.get("method"))

    @property
    def id(self) -> bytes | None:
        """The id, as it is written; None for a notification."""
        return self.raw("id")

    @property
    def params(self) -> dict[str, JSON]:
        """The parameters by name."""
        return cast("dict[str, JSON]", self.value.get("params") or {})

    @property
    def meta(self) -> dict[str, JSON]:
        """The metadata of the parameters."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}

    def raw(self, name: str) -> bytes | None:
        """A member, as it is written."""
        place = self.places.get(name)
        return None if place is None else self.data[place[0] : place[1]]

    @property
    def said(self) -> bytes:
        """What an answer says, without its id: `{"result":…}` or `{"error":…}`."""
        name = "result" if "result" in self.places else "error"
        return b'{"' + name.encode() + b'":' + (self.raw(name) or b"null") + b"}"


def parse(data: bytes) -> Message:
    """The message that these bytes are. Raises Malformed."""
    value = load(data)
    if isinstance(value, list):
        raise Malformed(BAD_REQUEST, "a batch of messages is not accepted: send one at a time")
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise Malformed(BAD_REQUEST, "not a message of JSON-RPC 2.0")
    method, answers = value.get("method"), "result" in value or "error" in value
    if "method" in value:
        if answers or not isinstance(method, str) or not method:
            raise Malformed(BAD_REQUEST, "a message either asks or answers")
        if not isinstance(value.get("params", {}), dict):
            raise Malformed(BAD_REQUEST, "parameters are an object")
    elif ("result" in value) is ("error" in value) or "id" not in value:
        raise Malformed(BAD_REQUEST, "an answer has an id, and one of result and error")
    mark = value.get("id", 0)
    known = isinstance(mark, str | int | float) and not isinstance(mark, bool)
    if not known and not (answers and mark is None):
        raise Malformed(BAD_REQUEST, "an id is text or a number")
    return Message(data, value, members(data))


def load(data: bytes) -> JSON:
    """The value that a JSON text says, read strictly. Raises Malformed."""
    if len(data) > LARGEST:
        raise Malformed(BAD_REQUEST, f"a message has at most {LARGEST} bytes, and this one {len(data)}")
    depth = 0
    for mark in _MARK.finditer(data):
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(mark[0], 0)
        if depth > DEEPEST:
            raise Malformed(PARSE_ERROR, f"nested more than {DEEPEST} deep")
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(PARSE_ERROR, f"not JSON: {legible(error, 200)}") from None


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed(PARSE_ERROR, "an object names a member twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed(PARSE_ERROR, "a number is out of range")
    return number


def _no_number(text: str) -> NoReturn:
    raise Malformed(PARSE_ERROR, f"`{text}` is not a number in JSON")


# --- where things stand ---


def members(data: bytes, at: int = 0) -> dict[str, tuple[int, int]]:
    """Where the values of the object at `at` stand, by name. The text must be valid."""
    found: dict[str, tuple[int, int]] = {}
    at = _after(data, at) + 1
    while data[at := _after(data, at)] != ord("}"):
        end = _end(data, at)
        name = json.loads(data[at:end])
        at = _after(data, _after(data, end) + 1)
        end = _end(data, at)
        found[name] = (at, end)
        at = _after(data, end)
        at += data[at] == ord(",")
    return found


def elements(data: bytes, at: int = 0) -> list[tuple[int, int]]:
    """Where the values of the list at `at` stand. The text must be valid."""
    found: list[tuple[int, int]] = []
    at = _after(data, at) + 1
    while data[at := _after(data, at)] != ord("]"):
        end = _end(data, at)
        found.append((at, end))
        at = _after(data, end)
        at += data[at] == ord(",")
    return found


def spliced(data: bytes, pieces: Mapping[tuple[int, int], bytes]) -> bytes:
    """The text with other bytes in these places."""
    parts: list[bytes] = []
    at = 0
    for (start, end), piece in sorted(pieces.items()):
        parts += [data[at:start], piece]
        at = end
    return b"".join([*parts, data[at:]])


def _after(data: bytes, at: int) -> int:
    """The first place from `at` on that is no white space."""
    found = _SPACE.match(data, at)
    return at if found is None else found.end()


def _end(data: bytes, at: int) -> int:
    """Where the value at `at` ends."""
    if data[at] not in b"{[":
        found = (_STRING if data[at] == ord('"') else _BARE).match(data, at)
        assert found is not None, "the text is valid"
        return found.end()
    depth = 0
    for mark in _MARK.finditer(data, at):
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(mark[0], 0)
        if not depth:
            return mark.end()
    raise AssertionError("the text is valid")


# --- making messages ---


def request(id: bytes | None, method: str, params: Mapping[str, JSON]) -> bytes:
    """A request, or without an id a notification. Raises Malformed for parameters that are no JSON."""
    try:
        written = canonical({"method": method, "params": dict(params)})
    except Uncanonical as error:
        raise Malformed(BAD_PARAMS, legible(error, 300)) from None
    head = b'{"jsonrpc":"2.0",' + (b"" if id is None else b'"id":' + id + b",")
    return head + written[1:]


def answer(id: bytes | None, said: bytes) -> bytes:
    """An answer that says what `Message.said` gives."""
    return b'{"jsonrpc":"2.0","id":' + (id or b"null") + b"," + said[1:]


def failure(code: int, what: str, data: Mapping[str, JSON] | None = None) -> bytes:
    """What an answer says with which something went wrong (see `Message.said`)."""
    error: dict[str, JSON] = {"code": code, "message": legible(what)}
    if data:
        error["data"] = dict(data)
    return canonical({"error": error})


class Feed:
    """Takes messages out of a stream of server-sent events, whatever its pieces are."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The messages that this piece ends. Raises Malformed for one that is too large."""
        found: list[bytes] = []
        text = self._rest + piece
        held = b"\r" if text.endswith(b"\r") else b""  # it may be half of a line's end
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._rest = rest + held
        for line in lines:
            if line.startswith(b"data:"):
                self._lines.append(line[5:].removeprefix(b" "))
                self._size += len(line)
            elif not line and self._lines:
                found.append(b"\n".join(self._lines))
                self._lines, self._size = [], 0
        if self._size + len(self._rest) > LARGEST:
            raise Malformed(BAD_REQUEST, f"a message has at most {LARGEST} bytes")
        return found


def streamed(message: bytes) -> bytes:
    """A message as one server-sent event."""
    lines = _LINE_END.split(message)
    return b"event: message\n" + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
