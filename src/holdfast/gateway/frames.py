"""Messages between the gateway and a tool host: JSON objects behind their length (4 bytes, big-endian).

Rules
1. Reading is closed and bounded: what is too long, no JSON object, or of another form than is asked for, is Corrupt.
2. What a host says is data. Nothing in it names code of the gateway.
"""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from holdfast.core.effect import Encoding, legible
from holdfast.errors import Corrupt

LARGEST_BYTES = 96 << 20  # of one message
LARGEST_ANSWER = 64 << 20
HEADER = 4
CAME = frozenset(
    "opened bound begun reply happened absent unknown not_happened retry_after bad_call refused failed".split()
)
"""What a host may answer with: see `toolwork.py`."""


def packed(message: dict[str, Any]) -> bytes:
    """A message as it goes over the wire. Total for what this package builds: texts are made legible before."""
    data = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode()
    assert len(data) <= LARGEST_BYTES, "what is put into a message is bounded"
    return len(data).to_bytes(HEADER, "big") + data


def size_of(header: bytes) -> int:
    """The length of the message behind a header. Raises Corrupt for one that is too long."""
    size = int.from_bytes(header, "big")
    if size > LARGEST_BYTES:
        raise Corrupt(f"a message of {size} bytes is too long")
    return size


def unpacked(data: bytes) -> dict[str, Any]:
    """The message in these bytes. Raises Corrupt."""
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        raise Corrupt("a message is no JSON") from None
    if not isinstance(found, dict):
        raise Corrupt("a message is no object")
    return cast("dict[str, Any]", found)


def answer_of(data: bytes) -> dict[str, Any]:
    """What a host has said: `id`, `came`, and fields of that. Raises Corrupt."""
    found = unpacked(data)
    if type(found.get("id")) is not int or found.get("came") not in CAME:
        raise Corrupt("a tool host says what is not understood")
    return found


def text_in(message: dict[str, Any], name: str, most: int = 4000) -> str:
    """A text of a message. Raises Corrupt."""
    found = message.get(name)
    if not isinstance(found, str):
        raise Corrupt(f"`{name}` of a message is no text")
    return legible(found, most)


def bytes_in(message: dict[str, Any], name: str) -> bytes:
    """Bytes of a message, which stand there as base64. Raises Corrupt."""
    try:
        return base64.b64decode(message[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise Corrupt(f"`{name}` of a message is no base64") from None


def encoding_in(message: dict[str, Any]) -> Encoding:
    """How the bytes of a message are to be read. Raises Corrupt."""
    try:
        return Encoding(message["encoding"])
    except (KeyError, TypeError, ValueError):
        raise Corrupt("a message has no encoding that is known") from None


def as_text(data: bytes) -> str:
    """Bytes as they stand in a message."""
    return base64.b64encode(data).decode()
