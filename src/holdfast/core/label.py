"""Whose words a run was given, and which of its arguments nobody trusted has said.

Rules
1. A value is of whoever said it first: what a trusted source repeats after somebody else had said it stays that
   somebody's.
2. What the agent itself asks for vouches for nothing: else whatever echoes it would.
3. What is not known vouches for nothing. Where there is no more room, nothing said later vouches.
4. What is said is only put aside; it is read when somebody asks, which most policies never do.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping

from holdfast.core.canonical import JSON

TRUSTED = "trusted"
LARGEST, LEAST = 512 << 10, 256  # bytes of all that was said and is remembered; what each saying counts for at least
MOST, LONGEST = 64, 4096  # values of one call that are looked for, and the signs of one
LOOKS = 20_000  # places at which the values of one call are looked at
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def marked(labels: Iterable[str]) -> bool:
    """Whether words with these labels may be anybody's."""
    return any(label.partition(":")[0] != TRUSTED for label in labels)


class Heard:
    """What one life of a run was told, in order. `whole`: nothing was said before that is not here."""

    def __init__(self, *, whole: bool = True) -> None:
        self._said: list[tuple[bool, str]] = []
        self._unread: list[tuple[bool, bytes | Mapping[str, JSON]]] = []
        self._room = LARGEST
        self._whole = whole

    def begin(self, data: bytes) -> None:
        """The task of the run: it vouches for what stands in it."""
        self._said.insert(0, (True, _plain(data[:LARGEST])))

    def take(self, data: bytes, *, trusted: bool) -> None:
        """A source has said this."""
        self._put_aside(data, len(data), trusted)

    def asked(self, args: Mapping[str, JSON], size_bytes: int) -> None:
        """The agent has said this, in so many bytes."""
        self._put_aside(args, size_bytes, trusted=False)

    def _put_aside(self, said: bytes | Mapping[str, JSON], size_bytes: int, trusted: bool) -> None:
        self._room -= max(LEAST, size_bytes)
        self._whole = self._whole and self._room >= 0  # else nobody can tell who has said something first
        if self._whole:
            self._unread.append((trusted, said))

    def unvouched(self, args: Mapping[str, JSON]) -> frozenset[str]:
        """The arguments that hold a text or a number which nobody trusted has said first: by their names, those inside
        objects by dotted ones, as policies write them, and what these are parts of."""
        self._said += [
            (trusted, _plain(each if isinstance(each, bytes) else _words(each))) for trusted, each in self._unread
        ]
        self._unread.clear()
        found, looks = set[str](), _Looks()
        for number, (path, value) in enumerate(_leaves(args, ())):
            if ".".join(path) not in found and (number >= MOST or not self._vouched(value, looks)):
                found.update(".".join(path[:depth]) for depth in range(1, len(path) + 1))
        return frozenset(found)

    def _vouched(self, value: str, looks: _Looks) -> bool:
        wanted = value.strip().casefold()
        if not wanted or len(wanted) > LONGEST:
            return not wanted
        return (
            next((trusted for trusted, text in self._said if looks.stands_in(wanted, text)), False) and looks.left > 0
        )


class _Looks:
    """Looks for the values of one call; after so many there is no answer any more."""

    def __init__(self) -> None:
        self.left = LOOKS

    def stands_in(self, value: str, text: str) -> bool:
        """Whether a text holds a value by itself, and not as a part of a longer one."""
        at = text.find(value)
        while at >= 0 and self.left > 0:
            self.left -= 1
            end = at + len(value)
            ends = text[end : end + 1] == "." and not text[end + 1 : end + 2].isalnum()  # the sentence
            if not _joins(text[at - 1 : at], value[0]) and (ends or not _joins(text[end : end + 1], value[-1])):
                return True
            at = text.find(value, at + 1)
        return self.left <= 0


def _joins(beside: str, sign: str) -> bool:
    """Whether a sign beside a value makes it a part of something longer."""
    return all(each.isalnum() or each in "@._-+%" for each in (beside, sign) if each) and beside != ""


def _leaves(value: JSON | Mapping[str, JSON], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts and numbers of arguments, each with the names on the way to it; what is packed is unpacked."""
    match value:
        case Mapping():
            for name, each in value.items():
                inner = _unpacked(each) if name.endswith("_b64") else each
                yield from _leaves(inner, (*path, name.replace("~", "~0").replace(".", "~1")))
        case list() | tuple():
            for each in value:
                yield from _leaves(each, path)
        case bool() | None:
            return
        case _:
            yield path, str(value)


def _words(args: Mapping[str, JSON]) -> bytes:
    return "\n".join(value for _, value in _leaves(args, ())).encode("utf-8", "replace")


def _unpacked(value: JSON) -> JSON:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace") if isinstance(value, str) else value
    except (binascii.Error, ValueError):
        return value


def _plain(data: bytes) -> str:
    """Words as they are compared: of one case; as they are, and without the escapes of JSON."""
    text = data.decode("utf-8", "replace")
    if "\\" in text:
        read = _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else _PLAIN.get(found[2], found[2]), text)
        text += "\n" + read.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two halves are one letter
    return text.casefold()
