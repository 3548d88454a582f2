"""Names inside a sandbox: a declared host is here, and there is no other.

Rules
1. Only a name that a system is declared for is answered, with this machine's own address: what is connected to it comes
   to a door. Every other name does not exist, and nobody is asked about it: names carry nothing out.
2. What is no plain question for one name is not answered at all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

A, AAAA, ANY_CLASS = 1, 28, 1
NO_SUCH_NAME = 3
LARGEST = 512  # bytes of a question over UDP
TTL_S = 60
_HEADER = struct.Struct("!6H")
_HERE = {A: ipaddress.ip_address("127.0.0.1").packed, AAAA: ipaddress.ip_address("::1").packed}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name in lower case without its last dot, a type, and the bytes of the question."""

    id: int
    name: str
    type: int
    asked: bytes


class Names(asyncio.DatagramProtocol):
    """Answers questions about names. `known`: whether a name is one of a declared host; `told` is called with each name
    that is not."""

    def __init__(self, known: Callable[[str], bool], told: Callable[[str], object]) -> None:
        self._known = known
        self._told = told
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        question = question_of(data)
        if question is None or self._transport is None:
            return
        here = self._known(question.name)
        if not here:
            self._told(question.name)
        self._transport.sendto(answer_to(question, here=here), addr)


def question_of(data: bytes) -> Question | None:
    """The question in a packet, or None if it is not exactly one."""
    if not _HEADER.size < len(data) <= LARGEST:
        return None
    number, flags, questions, answers, authorities, _more = _HEADER.unpack_from(data)
    if flags & 0xF800 or questions != 1 or answers or authorities:  # an answer, or no standard question
        return None
    labels, at = list[str](), _HEADER.size
    while at < len(data) and (size := data[at]) != 0:
        label = data[at + 1 : at + 1 + size]
        if size > 63 or len(label) != size or not label.isascii():
            return None
        labels.append(label.decode().lower())
        at += 1 + size
    if at + 5 > len(data):
        return None
    kind, family = struct.unpack_from("!2H", data, at + 1)
    name = ".".join(labels)
    if family != ANY_CLASS or len(name) > 253 or any("." in label for label in labels):
        return None
    return Question(number, name, kind, data[_HEADER.size : at + 5])


def answer_to(question: Question, *, here: bool) -> bytes:
    """The packet that answers: this machine's address, nothing of that type, or that there is no such name."""
    address = _HERE.get(question.type) if here else None
    flags = 0x8580 | (0 if here else NO_SUCH_NAME)  # an answer, with authority, as asked
    head = _HEADER.pack(question.id, flags, 1, 0 if address is None else 1, 0, 0)
    if address is None:
        return head + question.asked
    return head + question.asked + struct.pack("!HHHIH", 0xC00C, question.type, 1, TTL_S, len(address)) + address
