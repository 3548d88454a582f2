"""The operations of a system that speaks HTTP: what a request is, by its method and path.

Rules
1. A request is exactly one declared operation, or it is refused.
2. A contract is what is declared, and never looser. What selectors name must be there: a call without it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.core.canonical import JSON
from holdfast.core.contract import Contract, breach, default_drift, default_repeat
from holdfast.errors import BadCall, BadContract
from holdfast.gateway.hosts import take_apart
from holdfast.gateway.upstreams.http_answer import select
from holdfast.gateway.upstreams.http_config import HttpConfig, Route
from holdfast.gateway.upstreams.http_path import Template, path_of, segments_of, template_of

_SELECTOR: Final = re.compile(r"(path|query|header|body)\.(.+)")
_REFERENCE: Final = re.compile(r"\{([^{}]*)\}")
_REQUEST: Final = re.compile(r"([A-Za-z]{1,20}) (/.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A declared operation."""

    name: str
    route: Route
    template: Template
    contract: Contract
    labels: frozenset[str]

    def chosen(self, selectors: Iterable[str] | None, view: JSON) -> dict[str, JSON] | None:
        """What selectors name, by selector. Raises BadCall where they name nothing."""
        if selectors is None:
            return None
        found: dict[str, JSON] = {}
        for selector in selectors:
            there, value = select(view, selector)
            if not there or value is None:
                raise BadCall(f"`{self.contract.name}` needs `{selector}`, which this call does not have")
            found[selector] = value
        return found

    def blast(self, view: JSON) -> int | None:
        """How much a call touches. Raises BadCall where its contract says how to tell, and it cannot be told."""
        if not isinstance(self.route.blast, str):
            return self.route.blast
        _, value = select(view, self.route.blast)
        match value:
            case bool():
                pass
            case int() if value >= 0:
                return value
            case str() if value.isascii() and value.isdigit() and len(value) <= 18:
                return int(value)
            case list() | tuple():
                return len(value)
            case _:
                pass
        raise BadCall(
            f"`{self.contract.name}` must say how much it touches: `{self.route.blast}` is no number and no list"
        )


class Table:
    """The operations of the system `name`. Raises BadContract for what contradicts itself."""

    def __init__(self, name: str, config: HttpConfig, routes: Iterable[Route]) -> None:
        self.system = name
        self._base = _base_of(config.base)
        self.by_name: dict[str, Operation] = {}
        self._by_shape: dict[tuple[str, tuple[str | None, ...]], Operation] = {}
        for route in routes:
            self._add(_operation(name, config, route))

    def _add(self, operation: Operation) -> None:
        name, shape = operation.name, (operation.route.method, operation.template.parts)
        if name in self.by_name or shape in self._by_shape:
            raise BadContract(
                f"`{operation.contract.name}` is declared twice", fix="give each route a name, and its own path"
            )
        self.by_name[name] = operation
        self._by_shape[shape] = operation

    def match(self, method: str, segments: tuple[str, ...]) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a request; None if it is none. A literal goes before a name, from the left."""
        found = [
            (operation, params)
            for (known, _), operation in self._by_shape.items()
            if known == method and (params := operation.template.match(segments)) is not None
        ]
        return min(found, key=lambda pair: [part is None for part in pair[0].template.parts], default=None)

    def find(self, operation: str, args: Mapping[str, JSON]) -> tuple[Operation, str, dict[str, str]]:
        """The operation that is asked for, the path in its one spelling, and the values of its names. `operation` is a
        name, `METHOD /path`, or empty where the arguments say both. Raises BadCall."""
        method, path = args.get("method"), args.get("path")
        named = self.by_name.get(operation)
        if named is not None:
            return self._named(named, method, path, args.get("params"))
        asked = _REQUEST.fullmatch(operation)
        if asked:
            if method not in (None, asked[1]) or path not in (None, asked[2]):
                raise BadCall("the arguments name another method or path than the operation")
            method, path = asked[1], asked[2]
        elif operation:
            raise self._unknown(operation)
        if not isinstance(method, str) or not isinstance(path, str):
            raise BadCall("a request has a method and a path", fix='give {"method": "GET", "path": "/…"}')
        asked_for = segments_of(path)
        for segments in (asked_for, self._below(asked_for)):
            found = None if segments is None else self.match(method.upper(), segments)
            if segments is not None and found is not None:
                return found[0], path_of(segments), found[1]
        raise self._unknown(f"{method.upper()} {path}")

    def _below(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """The path relative to the base, of a program that believes that it speaks to the system itself."""
        count = len(self._base)
        return segments[count:] if count and segments[:count] == self._base and len(segments) > count else None

    def _named(
        self, operation: Operation, method: JSON, path: JSON, params: JSON
    ) -> tuple[Operation, str, dict[str, str]]:
        if method is not None and (not isinstance(method, str) or method.upper() != operation.route.method):
            raise BadCall(f"`{operation.contract.name}` is a {operation.route.method}")
        if not isinstance(path, str):
            given = path if isinstance(path, dict) else params if isinstance(params, dict) else {}
            path = operation.template.fill(given)
        segments = segments_of(path)
        found = self.match(operation.route.method, segments)
        if found is None or found[0] is not operation:
            raise BadCall(
                f"the path is none of `{operation.contract.name}`", fix=f"its path: {operation.template.text}"
            )
        return operation, path_of(segments), found[1]

    def _unknown(self, asked: str) -> BadCall:
        return BadCall(
            f"`{ascii(asked[:200])[1:-1]}` is no declared operation of `{self.system}`",
            fix=f"declare it under [[upstreams.{self.system}.routes]]",
        )


def _operation(system: str, config: HttpConfig, route: Route) -> Operation:
    template = template_of(route.path)
    name = route.name or _slug(route)
    kind = route.meant
    contract = Contract(
        name=f"{system}.{name}",
        kind=kind,
        identity=route.identity,
        resource=route.resource,
        repeat=route.repeat or default_repeat(kind, route.identity),
        drift=route.drift or default_drift(kind),
        key_ttl_ms=_ms(route.key_ttl_s),
        late_ms=_ms(route.late_s),
        timeout_ms=_ms(route.timeout_s),
        probe=route.probe is not None,
        undo=route.undo is not None,
        approval=route.approval,
    )
    why = breach(contract, {*(route.identity or ()), *(route.resource or ())}) or _fault(route, template)
    if why is not None:
        raise BadContract(f"`{contract.name}` cannot be: {why}")
    labels = route.labels if route.labels is not None else config.labels
    marks = frozenset((f"untrusted:{system}",) if labels is None else labels)
    return Operation(name=name, route=route, template=template, contract=contract, labels=marks)


def _fault(route: Route, template: Template) -> str | None:
    """What is wrong with the selectors and templates of a route."""
    selectors = [*(route.identity or ()), *(route.resource or ())]
    if isinstance(route.blast, str):
        selectors.append(route.blast)
    for follow in (route.probe, route.undo):
        if follow is not None:
            if not follow.path.startswith("/"):
                return f"the path `{follow.path}` does not begin with a slash"
            texts = [follow.path, *follow.query.values()]
            selectors += [
                name
                for text in texts
                for name in _REFERENCE.findall(text)
                if name != "key" and not (follow is route.undo and name.startswith("answer."))
            ]
    for selector in selectors:
        found = _SELECTOR.fullmatch(selector)
        if not found:
            return f"`{selector}` is no selector: it begins with `path.`, `query.`, `header.` or `body.`"
        if found[1] == "path" and found[2] not in template.names:
            return f"`{selector}` names nothing in the path `{template.text}`"
    for mint in route.mints:
        if not mint.startswith(("body.", "header.")):
            return f"`{mint}` is no selector of an answer: it begins with `body.` or `header.`"
    return None


def _base_of(base: str) -> tuple[str, ...]:
    """The segments of the base's path."""
    try:
        path = take_apart(base)[1].removesuffix("/")
        return segments_of(path) if path else ()
    except BadCall as error:
        raise BadContract(f"the base of a system cannot be: {error.what}", fix=error.fix) from None


def _slug(route: Route) -> str:
    """The name of a route that has none: its method and its path."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", route.path).strip("_")
    return f"{route.method.lower()}_{words}".strip("_")[:80]


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
