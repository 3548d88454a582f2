"""Policy files: what is read from them, and what is refused before anything is judged by it.

Rules
1. A rule has a name (`@id`), which stands in the log. Of other annotations only `@level` (permits) and `@reason` are
   known: one that is misspelt would loosen a policy in silence.
2. Everything a rule speaks of is in the schema, or the file is refused, with its name and the line of the rule.
3. The names of arguments are written out in the rules, so that it is known which of them must be looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from cedarpy import Schema, policies_to_json_str
from cedarpy import validate_policies as _validated  # pyright: ignore[reportUnknownVariableType]

from holdfast.core.contract import Level
from holdfast.core.effect import Kind
from holdfast.errors import Misuse

OURS: Final = "holdfast."
"""What the names of verdicts begin with that no rule of a file has given."""
FOLDER: Final = Path(__file__).with_name("policies")
SCHEMA: Final = FOLDER / "holdfast.cedarschema"
LARGEST_BYTES: Final = 1 << 20
_POLICY = re.compile(r"`?policy(\d+)`?")
_SORTS: Final = ("text", "number", "flag", "texts")


@dataclass(frozen=True, slots=True)
class Mention:
    """An argument that a rule speaks of: its `path` (parts joined by dots), and as what (`text`, `number`, `flag`,
    `texts`)."""

    sort: str
    path: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, whether it permits, how many people must agree, why it is there, and where it stands
    (`FILE:LINE`). `action` and `resource` are its scope, as Cedar's JSON tells it."""

    name: str
    permits: bool
    level: Level
    reason: str
    where: str
    body: str
    mentions: frozenset[Mention]
    action: Mapping[str, object]
    resource: Mapping[str, object]

    def may_speak_of(self, kind: Kind, system: str, tool: str) -> bool:
        """Whether its scope can hold for a call."""
        actions = {kind.value} if kind is Kind.READ else {kind.value, "write"}
        return _in_scope(self.action, {("Action", each) for each in actions}) and _in_scope(
            self.resource, {("Tool", tool), ("System", system)}
        )


def schema_text() -> str:
    """The schema that all policies are written against."""
    return SCHEMA.read_text(encoding="utf-8")


def found_in(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The policy files named, or in the directories named: their names and texts. Raises Misuse."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.cedar")) if path.is_dir() else [path]
        if not inside:
            raise Misuse("there is no policy file here", where=str(path), fix=f"holdfast policy init {path}")
        files += inside
    return [(str(path), _text_of(path)) for path in files]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise Misuse(f"the policy cannot be read: {reason}", where=str(path), fix="holdfast policy init") from None
    except UnicodeDecodeError:
        raise Misuse("the policy is no text in UTF-8", where=str(path), fix="save it as UTF-8") from None


def read_rules(files: Sequence[tuple[str, str]], schema: Schema) -> tuple[Rule, ...]:
    """The rules of these files (name, text), in order, checked against the schema. Raises Misuse, which names the file
    and the line."""
    if sum(len(text) for _, text in files) > LARGEST_BYTES:
        raise Misuse(f"the policies have more than {LARGEST_BYTES} signs", where=files[0][0], fix="make them shorter")
    rules = tuple(_rule(statement, f"{name}:{line}") for name, text in files for line, statement in statements(text))
    known: dict[str, str] = {}
    for rule in rules:
        if rule.name in known:
            what = f"another rule is called `{rule.name}` too, at {known[rule.name]}"
            raise Misuse(what, where=rule.where, fix="give each rule a name of its own")
        known[rule.name] = rule.where
    _check(rules, schema)
    return rules


def statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a file, each with the line on which it begins. What follows the last one comes too, if it is
    more than blanks and comments."""
    begun, at, end = -1, 0, len(text)
    while at < end:
        sign = text[at]
        if text.startswith("//", at):
            at = _or_end(text.find("\n", at), end)
            continue
        if not sign.isspace() and begun < 0:
            begun = at
        if sign == '"':
            at = _string_end(text, at)
            continue
        at += 1
        if sign == ";":
            yield text.count("\n", 0, begun) + 1, text[begun:at]
            begun = -1
    if begun >= 0:
        yield text.count("\n", 0, begun) + 1, text[begun:]


def _or_end(found: int, end: int) -> int:
    return end if found < 0 else found


def _string_end(text: str, at: int) -> int:
    """Behind the text in quotes that begins at `at`."""
    at += 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return at + 1


def joined(rules: Sequence[Rule]) -> str:
    """All rules as one text: the n-th is what Cedar calls `policyN`."""
    return "\n".join(rule.body for rule in rules)


def _rule(statement: str, where: str) -> Rule:
    try:
        parsed = cast("dict[str, Any]", json.loads(policies_to_json_str(statement)))
    except ValueError as error:
        raise Misuse(f"this is no rule of Cedar: {error}", where=where, fix="mend the rule that begins here") from None
    found = list(cast("dict[str, dict[str, Any]]", parsed["staticPolicies"]).values())
    if parsed["templates"] or len(found) != 1:
        raise Misuse("a rule stands for itself: no templates", where=where, fix="write the name in place of `?`")
    (rule,) = found
    permits = rule["effect"] == "permit"
    noted = {name: text or "" for name, text in cast("dict[str, str | None]", rule.get("annotations", {})).items()}
    level = _level(noted, where, permits=permits)
    return Rule(
        _name(noted, where), permits, level, noted.get("reason", "")[:500], where, statement,
        frozenset(_mentions(rule["conditions"], where)), rule["action"], rule["resource"],
    )  # fmt: skip


def _name(noted: Mapping[str, str], where: str) -> str:
    name = noted.get("id", "")
    if not name or len(name) > 100 or not name.isprintable() or name.startswith(OURS):
        raise Misuse(
            "the rule has no name that can stand in a log",
            where=where,
            fix=f'write @id("what-it-says") before it: at most 100 signs, not beginning with `{OURS}`',
        )
    return name


def _level(noted: Mapping[str, str], where: str, *, permits: bool) -> Level:
    unknown = noted.keys() - {"id", "level", "reason"}
    if unknown:
        raise Misuse(f"`@{min(unknown)}` is no annotation", where=where, fix="write @id, @level or @reason")
    if "level" not in noted:
        return Level.NONE
    if not permits:
        raise Misuse("who forbids asks nobody", where=where, fix="leave @level out, or permit at this level")
    try:
        return Level(noted["level"])
    except ValueError:
        levels = ", ".join(Level)
        raise Misuse(f"`{noted['level'][:40]}` is no level", where=where, fix=f"write one of {levels}") from None


def _mentions(conditions: object, where: str) -> Iterator[Mention]:
    """The arguments that the conditions of a rule speak of."""
    open_ = [conditions]
    while open_:
        node = open_.pop()
        if isinstance(node, list):
            open_ += cast("list[object]", node)
        elif isinstance(node, dict):
            found = cast("dict[str, object]", node)
            open_ += found.values()
            for asks in found.keys() & {"hasTag", "getTag"}:
                yield _mention(cast("dict[str, object]", found[asks]), where)


def _mention(asked: Mapping[str, object], where: str) -> Mention:
    for sort in _SORTS:
        if asked["left"] == {".": {"left": {"Var": "context"}, "attr": sort}}:
            match asked["right"]:
                case {"Value": str(path)} if 0 < len(path) <= 200:
                    return Mention(sort, path)
                case _:
                    pass
    raise Misuse(
        "the name of an argument is not written out", where=where,
        fix=f'write context.SORT.hasTag("NAME"), with one of {", ".join(_SORTS)} as SORT',
    )  # fmt: skip


def _in_scope(scope: Mapping[str, object], names: set[tuple[str, str]]) -> bool:
    """Whether a part of a rule's scope can hold for something of these names (type, id). In doubt it can."""
    named = [scope["entity"]] if "entity" in scope else scope.get("entities")
    if scope.get("op") not in ("==", "in") or not isinstance(named, list):
        return True
    entities = cast("list[dict[str, str]]", named)
    return any((entity.get("type", ""), entity.get("id", "")) in names for entity in entities)


def _check(rules: Sequence[Rule], schema: Schema) -> None:
    found = _validated(joined(rules), schema)
    if found:
        return
    first = found.errors[0]
    number = _POLICY.search(first.policy_id)
    rule = rules[int(number[1])] if number and int(number[1]) < len(rules) else None
    what = str(first.error).removeprefix(f"for policy `{first.policy_id}`, ")
    called = f" `{rule.name}`" if rule else ""
    raise Misuse(
        f"the rule{called} does not fit the schema: {what}",
        where=rule.where if rule else "",
        fix=f"see {SCHEMA.name} for what rules may speak of; ask `has`, or `hasTag`, before what may not be there",
    )
