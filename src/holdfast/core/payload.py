"""Bytes by name, stored so that what repeats is stored once.

A payload is whole, or a rope: literal pieces and other payloads whose concatenation has the payload's digest. A list
that grows at its end (a transcript) becomes a chain of ropes, each one longer than the one before by what is new; a
long string becomes a payload of its own, so that a tool's answer costs nothing again when it comes back inside a
message.

Rules
1. A payload's name is the SHA-256 of its bytes, however they are stored: a rope can be checked by anyone who has its
   pieces.
2. Ropes never refer forward: every piece is stored before, or together with, the rope that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Encoding, Payload

WEAVE_FROM = 1024  # bytes: below this a rope costs more than it saves
LONG_STRING = 512  # characters
_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored payload: its digest (32 bytes) and its data, which are pieces (`rope`) or the bytes themselves. One
    that was just cut knows the `whole`, should a piece that it rests on be gone."""

    digest: bytes
    data: bytes
    rope: bool = False
    whole: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Packed:
    """A payload and what must be stored for it, in order."""

    payload: Payload
    blobs: tuple[Blob, ...]


def pack_bytes(data: bytes, encoding: Encoding) -> Packed:
    """`data` as one whole payload."""
    digest = hashlib.sha256(data)
    return Packed(Payload(digest.hexdigest(), encoding, len(data)), (Blob(digest.digest(), data),))


def pack_text(text: bytes, value: JSON, known: Callable[[bytes], bool]) -> Packed:
    """`text`, the JSON text of `value`, in pieces where that saves something. `known` tells of a digest (32 bytes) that
    it is stored already; it may forget, at the price of storing again. Total: what cannot be cut is stored whole."""
    if len(text) < WEAVE_FROM:
        return pack_bytes(text, Encoding.JSON)
    weaver = _Weaver(text, known)
    try:
        weaver.walk(value, 0)
    except RecursionError:
        return pack_bytes(text, Encoding.JSON)
    return weaver.packed()


def pieces(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """The pieces of a rope: (True, digest) or (False, literal bytes). Raises ValueError if it is not one."""
    at = 0
    while at < len(data):
        mark = data[at]
        if mark == 0 and at + 5 <= len(data):
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            piece, at = data[at + 5 : at + 5 + size], at + 5 + size
            if at > len(data):
                raise ValueError("a rope is cut short")
            yield False, piece
        elif mark == 1 and at + 33 <= len(data):
            yield True, data[at + 1 : at + 33]
            at += 33
        else:
            raise ValueError("a rope has an unknown piece")


def _literal(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data if data else b""


class _Weaver:
    """Cuts one JSON text along the value that it says. The walk meets strings in the order of the text; what lies
    between two cuts stays literal, so the result is exact whatever the text's spelling is."""

    def __init__(self, text: bytes, known: Callable[[bytes], bool]) -> None:
        self._text = text
        self._known = known
        self._at = 0
        self._rope: list[bytes] = []
        self._blobs: list[Blob] = []

    def packed(self) -> Packed:
        digest = hashlib.sha256(self._text)
        payload = Payload(digest.hexdigest(), Encoding.JSON, len(self._text))
        if not self._rope:
            return Packed(payload, (Blob(digest.digest(), self._text),))
        self._rope.append(_literal(self._text[self._at :]))
        rope = b"".join(self._rope)
        if rope == b"\1" + digest.digest():  # the whole text is one piece, stored under the same name
            return Packed(payload, tuple(self._blobs))
        return Packed(payload, (*self._blobs, Blob(digest.digest(), rope, rope=True, whole=self._text)))

    def walk(self, value: JSON, depth: int) -> None:
        if isinstance(value, str):
            if len(value) >= LONG_STRING:
                self._string(value)
        elif isinstance(value, dict):
            for name in sorted(value) if self._sorted(value) else value:
                self.walk(value[name], depth + 1)
        elif isinstance(value, list | tuple):
            if depth <= 3 and len(value) >= 2 and self._transcript(value):
                return
            for item in value:
                self.walk(item, depth + 1)

    def _sorted(self, value: dict[str, JSON]) -> bool:
        """Whether the text has this object's names in sorted order: asked of the text itself, by its first name."""
        first = _spelled(min(value)) if value else b""
        here = self._text.find(b"{", self._at)
        return first is not None and self._text.startswith(first + b":", here + 1)

    def _string(self, value: str) -> None:
        spelled = _spelled(value)
        start = -1 if spelled is None else self._text.find(spelled, self._at)
        if spelled is not None and start >= 0:
            self._cut(start, start + len(spelled), self._whole(spelled))

    def _cut(self, start: int, end: int, digest: bytes) -> None:
        literal = _literal(self._text[self._at : start])
        if literal:
            self._rope.append(literal)
        self._rope.append(b"\1" + digest)
        self._at = end

    def _whole(self, data: bytes) -> bytes:
        digest = hashlib.sha256(data).digest()
        if not self._known(digest):
            self._blobs.append(Blob(digest, data))
        return digest

    def _transcript(self, items: list[JSON] | tuple[JSON, ...]) -> bool:
        """Cut a list into its longest known beginning and what is new. False if the text spells it in another way."""
        try:
            texts = [canonical(item) for item in items]
        except Uncanonical:  # an answer may hold what has no canonical text (NaN, a lone surrogate)
            return False
        body = b",".join(texts)
        start = self._text.find(b"[" + body + b"]", self._at) + 1
        if len(body) < WEAVE_FROM or not start:
            return False
        prefixes = _prefixes(texts)
        have = next((i for i in range(len(items) - 1, 0, -1) if self._known(prefixes[i])), -1)
        if have < 0 and self._known(prefixes[0]):
            have = 0
        inner = _Weaver(b",".join(texts[have + 1 :]), self._known)
        for item in items[have + 1 :]:
            inner.walk(item, 9)
        rope = b"" if have < 0 else b"\1" + prefixes[have] + _literal(b",")
        rope += b"".join(inner._rope) + _literal(inner._text[inner._at :])
        if have < len(items) - 1:
            self._blobs += [*inner._blobs, Blob(prefixes[-1], rope, rope=True, whole=body)]
        self._cut(start, start + len(body), prefixes[-1])
        return True


def _spelled(text: str) -> bytes | None:
    """The JSON text of a string as most texts spell it; None if UTF-8 cannot."""
    try:
        return _text(text).encode()
    except UnicodeEncodeError:
        return None


def _prefixes(texts: list[bytes]) -> list[bytes]:
    """The digests of the list's beginnings: after one item, after two, … all with one pass over the bytes."""
    running = hashlib.sha256()
    found: list[bytes] = []
    for number, text in enumerate(texts):
        running.update(text if number == 0 else b"," + text)
        found.append(running.copy().digest())
    return found
