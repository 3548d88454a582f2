"""JSON that others have written, read strictly.

Rules
1. It has one meaning, or it is refused: no name twice in an object, no NaN and no infinity.
2. What is read can be written down again: nothing nested deeper, and no text with half a letter, gets in.
"""

from __future__ import annotations

import json
from typing import cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.errors import BadCall

_FIX = "send a JSON object, each name once"


def object_of(data: bytes | str) -> dict[str, JSON]:
    """The JSON object in `data` (bytes: UTF-8). Raises BadCall."""
    try:
        text = data if isinstance(data, str) else data.decode()
        found: object = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        if not isinstance(found, dict):
            raise BadCall("the body is no JSON object", fix=_FIX)
        canonical(cast(JSON, found))
    except Uncanonical as error:
        raise BadCall(f"the body cannot be written down: {error}", fix=_FIX) from None
    except (ValueError, RecursionError) as error:
        raise BadCall(f"the body is not JSON: {error}", fix=_FIX) from None
    return cast("dict[str, JSON]", found)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
