"""What is unlike in two JSON values, in a few short lines.

Rules
1. There are at most so many lines, and each of them is short, whatever the values are.
2. A value under a name that speaks of a secret is never shown: only that it is another one.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Final, TypeAlias

from holdfast.core.canonical import JSON

LINES: Final = 5
VALUE: Final = 60  # characters of a value
PLACE: Final = 80  # characters of its place
DEPTH: Final = 20  # levels of a value that are looked into to show it
SECRET = re.compile("passw|passphrase|secret|token|credential|api.?key|private.?key|authoriz|cookie", re.IGNORECASE)


class _Absent(Enum):
    """What is not there: null is a value like any other."""

    ABSENT = 0


_Value: TypeAlias = "JSON | _Absent"
_Pair: TypeAlias = tuple[str, bool, _Value, _Value]  # place, whether it is hidden, the two values


def changes(then: JSON, now: JSON, most: int = LINES) -> list[str]:
    """The places at which `now` is unlike `then`, as `PLACE: THEN → NOW`, at most `most` lines."""
    found: list[str] = []
    more = 0
    waiting: list[_Pair] = [("", False, then, now)]
    while waiting:
        place, hidden, one, other = waiting.pop()
        inner = _inside(place, one, other, hidden=hidden)
        if inner is not None:
            waiting.extend(reversed(inner))
        elif not _alike(one, other):
            more += len(found) >= most
            if len(found) < most:
                found.append(_line(place, one, other, hidden=hidden))
    return [*found, f"… and {more} more"] if more else found


def _inside(place: str, one: _Value, other: _Value, *, hidden: bool) -> list[_Pair] | None:
    """What lies inside two values of one sort; None if they are not to be looked into."""
    if isinstance(one, dict) and isinstance(other, dict):
        at = f"{place}." if place else ""
        names = [*one, *(name for name in other if name not in one)]
        absent = _Absent.ABSENT
        return [
            (f"{at}{name}", hidden or _is_secret(name), one.get(name, absent), other.get(name, absent))
            for name in names
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            (f"{place}[{number}]", hidden, old, new) for number, (old, new) in enumerate(zip(one, other, strict=True))
        ]
    return None


def _is_secret(name: str) -> bool:
    return SECRET.search(name) is not None


def _alike(one: _Value, other: _Value) -> bool:
    both_nan = one != one and other != other
    return both_nan or (one == other and isinstance(one, bool) is isinstance(other, bool))


def _line(place: str, one: _Value, other: _Value, *, hidden: bool) -> str:
    at = f"{_cut(place, PLACE)}: " if place else ""
    if hidden and not (isinstance(one, _Absent) or isinstance(other, _Absent)):
        return f"{at}(another one; not shown)"
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return f"{at}{len(one)} items → {len(other)} items"
    return f"{at}{_shown(one, hidden=hidden)} → {_shown(other, hidden=hidden)}"


def _shown(value: _Value, *, hidden: bool) -> str:
    if isinstance(value, _Absent):
        return "(absent)"
    return "(not shown)" if hidden else _cut(json.dumps(_masked(value, DEPTH), ensure_ascii=False), VALUE)


def _masked(value: JSON, depth: int) -> JSON:
    """The value without what lies under the names of secrets, or too deep."""
    if isinstance(value, dict | list | tuple) and not depth:
        return "…"
    if isinstance(value, dict):
        return {name: "(not shown)" if _is_secret(name) else _masked(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, depth - 1) for inner in value]
    return value


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
