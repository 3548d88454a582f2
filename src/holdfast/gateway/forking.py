"""A fork that somebody asks for at the admin door, as it comes in.

Rules
1. What may be edited, and where, is judged by `fork` alone, as for a store in a file.
2. Nothing of it is larger, and there is no more of it, than a person has to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.payload import pack_text
from holdfast.core.tree import ForkKind
from holdfast.errors import BadCall
from holdfast.gateway.desk import parse_node
from holdfast.gateway.fork import Cutting, Edit

MOST_EDITS, LARGEST_VALUE = 1000, 16 << 20  # edits of one fork; bytes of a value
_NAME = re.compile(r"[^\W\d][\w./-]{0,199}")


def cutting_in(asked: Mapping[str, Any]) -> Cutting:
    """The fork that is asked for: `node`, `kind`, `by`, `why`, `edits` (each a `target` or 0, a `name` or "", a
    `value`). Raises Misuse, BadCall."""
    branch, at = parse_node(str(asked["node"]))
    kind, edits = str(asked["kind"]), cast("list[Mapping[str, Any]]", asked["edits"])
    if kind not in tuple(ForkKind):
        raise BadCall(f"there is no fork of the kind `{kind[:40]}`", fix="choose recovery, what-if or speculative")
    if len(edits) > MOST_EDITS:
        raise BadCall(f"{len(edits)} edits are too many for one fork", fix=f"at most {MOST_EDITS}")
    found = [_edit(each) for each in edits]
    if len({(edit.target, edit.name) for edit in found}) != len(found):
        raise BadCall("something is set twice", where=str(asked["node"]), fix="set it once")
    return Cutting(branch, at, ForkKind(kind), str(asked["by"]), str(asked["why"]), None, found)


def edits_as_json(answers: Mapping[int, JSON], settings: Mapping[str, JSON]) -> list[JSON]:
    """Edits as `cutting_in` takes them."""
    found: list[JSON] = [{"target": target, "name": "", "value": value} for target, value in answers.items()]
    return found + [{"target": 0, "name": name, "value": value} for name, value in settings.items()]


def _edit(asked: Mapping[str, Any]) -> Edit:
    target, name, value = asked["target"], asked["name"], asked["value"]
    if type(target) is not int or not 0 <= target < 1 << 63 or not isinstance(name, str):
        raise BadCall("an edit names a place, or 0 and a setting")
    if (target == 0) is not (_NAME.fullmatch(name) is not None):
        raise BadCall("a setting cannot have this name", fix="use letters, digits, `.`, `-` and `_`")
    try:
        text = canonical(cast(JSON, value))
    except Uncanonical as error:
        raise BadCall(f"this value cannot be written down: {error}", fix="send JSON") from None
    if len(text) > LARGEST_VALUE:
        raise BadCall(f"a value of {len(text)} bytes is too large", fix=f"at most {LARGEST_VALUE}")
    return Edit(target, name, pack_text(text, cast(JSON, value), lambda _digest: False))
