"""A right that can only be narrowed: which tools, with which arguments, how much of it, until when.

Rules
1. Deny by default: a tool that no pattern names, an argument that a limit speaks of and that is not there, are refused.
2. What is narrowed allows nothing that its parent does not allow, whatever was asked for.
3. Terms are data: they are written into the log and read back strictly; the handle that proves a right never is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import Level, strictest
from holdfast.errors import BadCall, Corrupt, Refused

LONGEST_TERMS = 64 << 10  # characters
MOST_PARTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """For the tools that `tool` (a pattern) names, the argument at `argument` (names joined by dots) must be there, and
    be at most `most`, one of `one_of`, begin with `prefix`: as far as these are given."""

    tool: str
    argument: str
    most: int | None = None
    one_of: tuple[JSON, ...] | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be used up: calls, money (millionths of a US dollar), units of blast radius. None: no bound."""

    calls: int | None = None
    money: int | None = None
    blast: int | None = None

    def within(self, other: Budget) -> Budget:
        """The smaller of each."""
        return Budget(
            calls=_least(self.calls, other.calls),
            money=_least(self.money, other.money),
            blast=_least(self.blast, other.blast),
        )

    def over(self, used: Used) -> str | None:
        """Which bound this goes over, or None."""
        for name, most, spent in (
            ("calls", self.calls, used.calls),
            ("money", self.money, used.money),
            ("blast radius", self.blast, used.blast),
        ):
            if most is not None and spent > most:
                return f"the budget of {name} is spent: {spent} would be used, {most} may be"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used up, in the units of `Budget`."""

    calls: int = 0
    money: int = 0
    blast: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(calls=self.calls + other.calls, money=self.money + other.money, blast=self.blast + other.blast)

    def __sub__(self, other: Used) -> Used:
        return Used(calls=self.calls - other.calls, money=self.money - other.money, blast=self.blast - other.blast)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a capability allows. `tools`: patterns, `SYSTEM.OPERATION` or `SYSTEM.*` or `*`. `expires_ms`: wall clock;
    None: as long as the run. `level`: what people must at least do before an effect. `doors`: the doors through which
    it may be shown; empty: all."""

    tools: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    budget: Budget = field(default_factory=Budget)
    expires_ms: int | None = None
    level: Level = Level.NONE
    doors: tuple[str, ...] = ()

    def covers(self, tool: str, args: Mapping[str, JSON]) -> str | None:
        """Why these terms do not cover a call, or None if they do."""
        if not any(matches(pattern, tool) for pattern in self.tools):
            return f"the capability does not name `{tool}`"
        for limit in self.limits:
            if matches(limit.tool, tool) and (why := _over_limit(limit, args)) is not None:
                return why
        return None

    def text(self) -> str:
        """The terms as they stand in the log: canonical JSON."""
        return canonical(_plain(self)).decode()


def matches(pattern: str, tool: str) -> bool:
    """Whether a pattern names a tool. A star stands for all that follows a whole `SYSTEM.`, or for everything."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return tool.startswith(pattern[:-1]) and len(tool) >= len(pattern)
    return pattern == tool


def narrow(parent: Terms, wanted: Terms) -> Terms:
    """The terms of a capability narrowed from `parent`. Raises Refused for a tool or a door that the parent does not
    have; everything else becomes the stricter of the two."""
    for pattern in wanted.tools:
        if not any(_within(pattern, of) for of in parent.tools):
            raise Refused(f"`{pattern}` is not in the capability: it can only be narrowed", fix="ask for less")
    if parent.doors and not set(wanted.doors) <= set(parent.doors):
        raise Refused("a door is asked for that the capability does not have", fix="ask for less")
    return Terms(
        tools=wanted.tools,
        limits=tuple(dict.fromkeys((*parent.limits, *wanted.limits))),
        budget=parent.budget.within(wanted.budget),
        expires_ms=_least(parent.expires_ms, wanted.expires_ms),
        level=strictest(parent.level, wanted.level),
        doors=wanted.doors or parent.doors,
    )


def terms_of(text: str) -> Terms:
    """The terms that `Terms.text` wrote. Raises Corrupt for anything else."""
    try:
        if len(text) > LONGEST_TERMS:
            raise Corrupt("terms are too long")
        found = _read(cast("JSON", json.loads(text)))
    except (ValueError, TypeError, KeyError, RecursionError, BadCall) as error:
        raise Corrupt("the terms of a capability cannot be read") from error
    if found.text() != text:
        raise Corrupt("the terms of a capability are not in their canonical spelling")
    return found


def _within(pattern: str, of: str) -> bool:
    """Whether everything that `pattern` names is named by `of`."""
    if pattern == "*":
        return of == "*"
    if pattern.endswith(".*"):
        return of == "*" or (of.endswith(".*") and pattern.startswith(of[:-1]))
    return matches(of, pattern)


def _over_limit(limit: Limit, args: Mapping[str, JSON]) -> str | None:
    found: JSON = cast("JSON", args)
    for name in limit.argument.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return f"`{limit.argument}` must be given: the capability limits it"
        found = cast("Mapping[str, JSON]", found)[name]
    if limit.most is not None and (type(found) not in (int, float) or not cast("float", found) <= limit.most):
        return f"`{limit.argument}` is more than {limit.most}, or no number"
    if limit.one_of is not None and not any(_same(found, each) for each in limit.one_of):
        return f"`{limit.argument}` is none of the values that the capability allows"
    if limit.prefix is not None and not (isinstance(found, str) and found.startswith(limit.prefix)):
        return f"`{limit.argument}` does not begin with `{limit.prefix}`"
    return None


def _same(one: JSON, other: JSON) -> bool:
    return type(one) is type(other) and one == other


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _plain(terms: Terms) -> JSON:
    limits: list[JSON] = [
        {
            "argument": each.argument,
            "most": each.most,
            "one_of": None if each.one_of is None else [*each.one_of],
            "prefix": each.prefix,
            "tool": each.tool,
        }
        for each in terms.limits
    ]
    budget = terms.budget
    return {
        "budget": {"blast": budget.blast, "calls": budget.calls, "money": budget.money},
        "doors": [*terms.doors],
        "expires_ms": terms.expires_ms,
        "level": terms.level.value,
        "limits": limits,
        "tools": [*terms.tools],
    }


def _read(found: JSON) -> Terms:
    body = _object(found, "budget doors expires_ms level limits tools")
    budget = _object(body["budget"], "blast calls money")
    return Terms(
        tools=_texts(body["tools"]),
        limits=tuple(_limit(each) for each in _list(body["limits"])),
        budget=Budget(
            calls=_natural(budget["calls"]), money=_natural(budget["money"]), blast=_natural(budget["blast"])
        ),
        expires_ms=_natural(body["expires_ms"]),
        level=Level(_text(body["level"])),
        doors=_texts(body["doors"]),
    )


def _limit(found: JSON) -> Limit:
    body = _object(found, "argument most one_of prefix tool")
    one_of, prefix = body["one_of"], body["prefix"]
    return Limit(
        tool=_text(body["tool"]),
        argument=_text(body["argument"]),
        most=_natural(body["most"]),
        one_of=None if one_of is None else tuple(_scalar(each) for each in _list(one_of)),
        prefix=None if prefix is None else _text(prefix),
    )


def _object(found: JSON, names: str) -> dict[str, JSON]:
    if not isinstance(found, dict) or found.keys() != set(names.split()):
        raise BadCall("an object with other fields was expected")
    return found


def _list(found: JSON) -> list[JSON]:
    if not isinstance(found, list) or len(found) > MOST_PARTS:
        raise BadCall("a list was expected")
    return found


def _texts(found: JSON) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(found))


def _text(found: JSON) -> str:
    if not isinstance(found, str):
        raise BadCall("a text was expected")
    return found


def _scalar(found: JSON) -> JSON:
    if isinstance(found, dict | list):
        raise BadCall("a text, a number, true, false or null was expected")
    return found


def _natural(found: JSON) -> int | None:
    if found is not None and (type(found) is not int or found < 0):
        raise BadCall("a natural number was expected")
    return found
