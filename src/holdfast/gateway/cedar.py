"""Policies in Cedar: rules of files turn the facts of a call into a verdict.

Rules
1. Only `Allow` without any error passes. Cedar skips a rule whose condition fails, also one that forbids, and then
   allows by the others: here that denies, and so does everything that Cedar cannot make sense of.
2. The strictest `@level` of all permits that hold for a call counts.
3. An argument that a rule speaks of, and whose scope holds for the call, must be what the rule takes it for; else the
   call is denied: who changes a number into a text passes by no rule.
4. What is given to Cedar is bounded. What is only counted (blast, budgets) is cut at 64 bits, which compares the same.
5. The text of an error of Cedar may hold an argument: what it quotes is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from cedarpy import AuthzResult, Decision, PolicySet, Schema
from cedarpy import is_authorized as _is_authorized  # pyright: ignore[reportUnknownVariableType]

from holdfast.core.canonical import JSON
from holdfast.core.contract import Level
from holdfast.core.effect import Kind
from holdfast.core.policy import Allowed, Denied, Facts, Held, Verdict
from holdfast.errors import Misuse
from holdfast.gateway.rules import OURS, Mention, Rule, found_in, joined, read_rules, schema_text

MOST_SIGNS: Final = 65_536
"""Of an argument that a rule speaks of."""
MOST_ITEMS: Final = 1_000
"""In a list that a rule speaks of; of labels."""
MOST_NAME: Final = 1_000
_I64: Final = 2**63 - 1
_SCOPES: Final = 4_096  # tools whose mentions are remembered
_HOUR_MS: Final = 3_600_000
_QUOTED = re.compile(r"`[^`]*`")
_POLICY = re.compile(r"policy(\d+)")
_HOLDERS: Final = {"text": "Texts", "number": "Numbers", "flag": "Flags", "texts": "Lists"}


class _Unfit(Exception):
    """An argument is not what a rule takes it for, or larger than is looked at."""


class Cedar:
    """The rules of some files, parsed once."""

    def __init__(self, files: Sequence[tuple[str, str]], schema: str | None = None) -> None:
        """`files`: names and texts. `schema`: other than the one that is shipped, for a test. Raises Misuse."""
        text = schema_text() if schema is None else schema
        self._schema = Schema.from_str(text)
        self.rules = read_rules(files, self._schema)
        self._set = PolicySet.from_str(joined(self.rules))
        if len(self._set) != len(self.rules):
            raise Misuse("the policy cannot be taken apart into rules", where=files[0][0] if files else "")
        self._asks_whose = any("unvouched" in rule.body or "\\" in rule.body for rule in self.rules)
        self._digest = _digest_of(text, files)
        self._known: dict[tuple[Kind, str, str], frozenset[Mention]] = {}

    @classmethod
    def load(cls, *paths: Path) -> Cedar:
        """The rules of these files, and of all `*.cedar` in these directories. Raises Misuse."""
        return cls(found_in(paths))

    @property
    def digest(self) -> str:
        """As `Policy.digest`: of the rules' and the schema's exact bytes."""
        return self._digest

    def judge(self, facts: Facts) -> Verdict:
        """As `Policy.judge`."""
        try:
            return self._verdict(facts)
        except _Unfit as unfit:
            return Denied(f"{OURS}arguments", str(unfit))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - also a panic of the engine, which is no Exception
            return Denied(f"{OURS}error", f"it could not be judged ({type(error).__name__})")

    # --- what is asked ---

    def _verdict(self, facts: Facts) -> Verdict:
        for name in (facts.agent, facts.run, facts.capability, facts.system, facts.tool, *facts.labels):
            if len(name) > MOST_NAME:
                raise _Unfit(f"a name has more than {MOST_NAME} signs")
        if len(facts.labels) > MOST_ITEMS:
            raise _Unfit(f"there are more than {MOST_ITEMS} labels")
        request = {
            "principal": {"type": "Agent", "id": facts.agent},
            "action": {"type": "Action", "id": facts.kind.value},
            "resource": {"type": "Tool", "id": facts.tool},
            "context": json.dumps(_context(facts, self._unvouched(facts))),
        }
        return self._said(_is_authorized(request, self._set, json.dumps(self._entities(facts)), self._schema))

    def _unvouched(self, facts: Facts) -> list[JSON]:
        """The arguments that nobody trusted has said first, where a rule may speak of them: it takes a search."""
        found = sorted(facts.unvouched()) if self._asks_whose else []
        if len(found) > MOST_ITEMS:
            raise _Unfit(f"there are more than {MOST_ITEMS} arguments that nobody vouches for")
        return [*found]

    def _entities(self, facts: Facts) -> list[JSON]:
        tags: dict[str, dict[str, JSON]] = {sort: {} for sort in _HOLDERS}
        for mention in self._mentions(facts):
            value = _argument(facts.args, mention)
            if value is not None:
                tags[mention.sort][mention.path] = value
        holders = [_entity(_HOLDERS[sort], "", tags=found) for sort, found in tags.items()]
        return [_entity("Tool", facts.tool, parents=[{"type": "System", "id": facts.system}]), *holders]

    def _mentions(self, facts: Facts) -> frozenset[Mention]:
        place = (facts.kind, facts.system, facts.tool)
        found = self._known.get(place)
        if found is None:
            if len(self._known) >= _SCOPES:
                self._known.clear()
            speaking = [rule.mentions for rule in self.rules if rule.may_speak_of(*place)]
            found = self._known[place] = frozenset[Mention]().union(*speaking)
        return found

    # --- what is answered ---

    def _said(self, result: AuthzResult) -> Verdict:
        reasons = [rule for rule in map(self._rule, result.diagnostics.reasons) if rule is not None]
        if result.diagnostics.errors:
            return self._failed(str(result.diagnostics.errors[0]))
        if result.decision is Decision.Allow and len(reasons) == len(result.diagnostics.reasons) > 0:
            return _allowed(min(reasons, key=lambda rule: (-list(Level).index(rule.level), self.rules.index(rule))))
        if result.decision is Decision.Deny and reasons:
            rule = min(reasons, key=self.rules.index)
            return Denied(rule.name, rule.reason or "a rule forbids it")
        if result.decision is Decision.Deny:
            return Denied(f"{OURS}default", "no rule allows it")
        return Denied(f"{OURS}error", "it could not be judged")

    def _failed(self, error: str) -> Denied:
        rule = self._rule(error)
        what = _QUOTED.sub("…", error).removeprefix("error while evaluating policy …: ")[:300]
        return Denied(rule.name if rule else f"{OURS}error", f"it could not be judged: {what}")

    def _rule(self, told: str) -> Rule | None:
        """The rule that Cedar speaks of by its place."""
        number = _POLICY.search(told)
        return self.rules[int(number[1])] if number and int(number[1]) < len(self.rules) else None


def _allowed(rule: Rule) -> Verdict:
    if rule.level.people:
        asks = "two people must agree" if rule.level is Level.TWO else "a person must agree"
        return Held(rule.name, rule.reason or asks, rule.level)
    return Allowed(rule.name, rule.reason, rule.level)


def _digest_of(schema: str, files: Sequence[tuple[str, str]]) -> str:
    found = hashlib.sha256(b"holdfast/policy/1\0")
    for text in (schema, *(text for _, text in files)):
        data = text.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()[:32]


def _entity(type_: str, id_: str, *, parents: list[JSON] | None = None, tags: dict[str, JSON] | None = None) -> JSON:
    return {"uid": {"type": type_, "id": id_}, "attrs": {}, "parents": parents or [], "tags": tags or {}}


def _context(facts: Facts, unvouched: list[JSON]) -> dict[str, JSON]:
    hours = facts.now_ms // _HOUR_MS
    labels: list[JSON] = [*sorted(facts.labels | {label.partition(":")[0] for label in facts.labels})]
    context: dict[str, JSON] = {sort: {"__entity": {"type": holder, "id": ""}} for sort, holder in _HOLDERS.items()}
    context |= {
        "labels": labels,
        "unvouched": unvouched,
        "now": _cut(facts.now_ms),
        "hour": hours % 24,
        "weekday": (hours // 24 + 3) % 7 + 1,  # the first day of 1970 was a Thursday
        "spent": {
            "calls": _cut(facts.spent_calls), "money": _cut(facts.spent_money), "blast": _cut(facts.spent_blast)
        },
        "run": facts.run,
        "capability": facts.capability,
    }  # fmt: skip
    if facts.blast is not None:
        context["blast"] = _cut(facts.blast)
    return context


def _cut(number: int) -> int:
    return max(-_I64, min(number, _I64))


# --- the arguments that rules speak of ---


def _argument(args: Mapping[str, JSON], mention: Mention) -> JSON:
    """The value of an argument as the rules take it; None if it is not there (null is not there either)."""
    values, listed = _at(args, mention.path)
    if mention.sort == "texts":
        texts = [_fit(value, mention, "text") for value in values]
        return texts if values or listed else None
    if not values and not listed:
        return None
    if listed or len(values) != 1:
        raise _Unfit(f"a rule speaks of `{mention.path}` as a {mention.sort}, and it is a list")
    return _fit(values[0], mention, mention.sort)


def _fit(value: JSON, mention: Mention, sort: str) -> JSON:
    match value:
        case bool() if sort == "flag":
            return value
        case str() if sort == "text":
            if len(value) > MOST_SIGNS:
                raise _Unfit(f"`{mention.path}` has more than {MOST_SIGNS} signs, and a rule speaks of it")
            return value
        case int() | float() if sort == "number" and not isinstance(value, bool):
            if value == value and abs(value) <= _I64 and value == int(value):  # a float may be a whole number
                return int(value)
        case _:
            pass
    raise _Unfit(f"a rule speaks of `{mention.path}` as a {mention.sort}, which this is not")


def _at(args: Mapping[str, JSON], path: str) -> tuple[list[JSON], bool]:
    """What stands at a path, in all the lists on the way; and whether there was one."""
    here, listed = [cast(JSON, args)], False
    for part in path.split("."):
        below: list[JSON] = []
        for each in here:
            if not isinstance(each, Mapping):
                raise _Unfit(f"a rule speaks of `{path}`, and there is no object that could hold it")
            name = part.replace("~1", ".").replace("~0", "~")
            if name in each:
                below.append(each[name])
        here, was = _flat(below, path)
        listed = listed or was
    return here, listed


def _flat(values: list[JSON], path: str) -> tuple[list[JSON], bool]:
    """The values, and those inside lists, without nulls; and whether there was a list."""
    found, listed, open_, seen = list[JSON](), False, values[::-1], 0
    while open_:
        value = open_.pop()
        seen += 1
        if seen > MOST_ITEMS:
            raise _Unfit(f"`{path}` has more than {MOST_ITEMS} items, and a rule speaks of it")
        if isinstance(value, list | tuple):
            listed = True
            if len(value) > MOST_ITEMS:
                raise _Unfit(f"`{path}` has more than {MOST_ITEMS} items, and a rule speaks of it")
            open_ += value[::-1]
        elif value is not None:
            found.append(value)
    return found, listed
