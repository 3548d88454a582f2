"""A system that is reached over HTTP: its operations as calls, its answers as outcomes.

Rules
1. What an answer to a write means stands in one place, `_outcome`. A timeout, a connection that breaks, a 5xx, 408,
   409, 423 and 425 prove nothing, unless the route says what they mean.
2. To a read every answer is an answer.
3. A write carries its idempotency key. Only one that may be sent again goes over a connection that was kept.
4. A secret that an answer brings is kept in the vault; the agent is given its handle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import Contract
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, BadContract, HoldfastError, Refused, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.http_answer import Answer, lost, put, retry_after_s, select, unpack
from holdfast.gateway.upstreams.http_config import Follow, HttpConfig, Undo
from holdfast.gateway.upstreams.http_openapi import routes_of
from holdfast.gateway.upstreams.http_path import checked_fields, path_of
from holdfast.gateway.upstreams.http_request import Json, Request, allowed_header, recorded, understood
from holdfast.gateway.upstreams.http_routes import Operation, Table
from holdfast.gateway.upstreams.http_send import Sender
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault

__all__ = ["HttpConfig", "HttpSystem", "HttpUpstream", "open_http"]

UNPROVEN: Final = frozenset({408, 409, 423, 425})
"""Statuses of the 4xx that do not prove that nothing was changed."""
PAUSE_S: Final = 1.0  # after a 429 that does not say for how long
_REFERENCE: Final = re.compile(r"\{([^{}]*)\}")


async def open_http(name: str, config: HttpConfig, kit: Kit) -> HttpSystem:
    """The system `name`. Raises BadContract and Misuse for what is declared and cannot be."""
    more = {header.lower() for header in config.headers}
    carried = {inject.header.lower() for inject in config.inject if inject.header is not None}
    for header in sorted(more):
        if not allowed_header(header) or header in carried or header == config.idempotency_header.lower():
            raise BadContract(f"`{name}` lets an agent set the header `{header}`, which is not for it to set")
    table = _table(name, config, kit.folder)
    return HttpSystem(name, config, table, Sender(name, config, kit, table), kit.vault)


async def contracts_of(name: str, config: HttpConfig, folder: Path) -> Sequence[Contract]:
    """What the operations of the system `name` promise; files are relative to `folder`. Raises BadContract."""
    return [operation.contract for operation in _table(name, config, folder).by_name.values()]


def _table(name: str, config: HttpConfig, folder: Path) -> Table:
    described = () if config.openapi is None else routes_of(folder / config.openapi)
    declared = {(route.method, _unnamed(route.path)) for route in config.routes}
    routes = [*config.routes, *(route for route in described if (route.method, _unnamed(route.path)) not in declared)]
    if not routes:
        raise BadContract(f"`{name}` has no operation", fix=f"declare [[upstreams.{name}.routes]], or `openapi`")
    return Table(name, config, routes)


class HttpSystem:
    """As `System`."""

    def __init__(self, name: str, config: HttpConfig, table: Table, sender: Sender, vault: Vault) -> None:
        self._name = name
        self._config = config
        self._table = table
        self._more = frozenset(header.lower() for header in config.headers)
        self.sender = sender
        self.vault = vault

    @property
    def name(self) -> str:
        """As `System.name`."""
        return self._name

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System.prepare`. `operation`: the name of one, `METHOD /path`, or empty where the arguments name both.
        `args`: method, path (text, or an object of the path's names), query (text or object), headers, and body (JSON,
        or text), form or body_b64."""
        found, path, params = self._table.find(operation, args)
        request = understood(found.route.method, path, params, args, self._more, batch=found.route.batch)
        for inject in self._config.inject:
            taken = inject.query in request.query or (
                inject.body is not None and select(request.view(), f"body.{inject.body}")[0]
            )
            if taken:
                raise BadCall(f"`{inject.query or inject.body}` is not for an agent to set", fix="leave it out")
        view = request.view()
        return Prepared(
            system=self._name,
            contract=found.contract,
            args=request.args(),
            upstream=HttpUpstream(self, found, request),
            chosen=found.chosen(found.route.identity, view),
            touches=found.chosen(found.route.resource, view),
            blast=found.blast(view),
            labels=found.labels,
        )

    def undoing(self, operation: str) -> tuple[Contract, HttpUpstream] | None:
        """As `Undoes.undoing`."""
        found = self._table.by_name.get(operation)
        if found is None or found.route.undo is None:
            return None
        return found.contract, HttpUpstream(self, found, None)

    def operations(self) -> Mapping[str, JSON]:
        """As `System.operations`."""
        return {name: _told(operation) for name, operation in self._table.by_name.items()}

    async def close(self) -> None:
        """As `System.close`."""
        await self.sender.close()


class HttpUpstream:
    """One call, as `Upstream`."""

    def __init__(self, system: HttpSystem, operation: Operation, request: Request | None) -> None:
        self._system = system
        self._operation = operation
        self._request = request

    def running(self, key: str) -> bool:
        """Nothing runs here that nobody waits for."""
        return False

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """The reply of one HTTP message; or of what a person has said that it answered, which is JSON."""
        if encoding is Encoding.LOST:
            return Reply(data, encoding, data.decode())
        if encoding is Encoding.JSON:
            return Answer(200, "OK", (("content-type", "application/json"),), data).reply()
        return Reply(data, encoding, data, None, unpack(data).etag)

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Send it."""
        request, operation = self._load(args), self._operation
        route, kind = operation.route, operation.contract.kind
        if kind is not Kind.READ and receipt.read:
            raise Refused(f"`{operation.contract.name}` stays closed: it is no read, and its receipt is one of a read")
        key = "" if kind is Kind.READ else receipt.key
        again = kind in (Kind.READ, Kind.IDEMPOTENT)
        answer = await self._system.sender.answer(request, receipt, route.timeout_s, key=key, again=again)
        if 200 <= answer.status < 300 and route.mints:
            answer = await self._minted(answer, receipt)
        return self._answered(answer) if kind is Kind.READ else self._outcome(answer)

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Ask by the route that is declared for it. An answer that is neither yes nor no tells nothing."""
        probe, operation = self._operation.route.probe, self._operation
        assert probe is not None, "the contract says that there is a probe"
        try:
            request = _follow(probe.method, probe, {**self._load(args).view(), "key": receipt.key})
        except BadCall:
            return None
        answer = await self._system.sender.answer(request, receipt, operation.route.timeout_s, again=True)
        if answer.status in probe.absent:
            return NotHappened(f"its probe answered {answer.status}")
        if not 200 <= answer.status < 300 or answer.trouble is not None:
            return None
        if probe.exists is not None:
            there, value = select(answer.view(), probe.exists)
            if not there or value in (None, [], {}, "", False):
                return NotHappened("its probe found nothing")
        return Happened(answer.reply(), answer.etag)

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """Take it back by the route that is declared for it."""
        undo, operation = self._operation.route.undo, self._operation
        assert undo is not None, "the contract says that there is an undo"
        view: dict[str, JSON] = {**self._load(args).view(), "key": receipt.key}
        if answer is not None and answer.encoding is not Encoding.LOST:
            view["answer"] = unpack(answer.data).view()
        try:
            request = _follow(undo.method, undo, view)
        except BadCall as error:
            raise DidNotHappen(f"its undo was not sent: {error.what}") from None
        told = await self._system.sender.answer(
            request, receipt, operation.route.timeout_s, key=receipt.key, again=undo.method in ("PUT", "DELETE")
        )
        return told.reply() if told.status in undo.gone else self._outcome(told, "its undo")

    def _load(self, args: bytes | None) -> Request:
        if args is not None:
            return recorded(args, self._operation.template)
        assert self._request is not None, "who only takes back is told what was sent"
        return self._request

    def _answered(self, answer: Answer) -> Reply:
        """To a read every answer is one, but that it is to come back later."""
        seconds = retry_after_s(answer.header("retry-after"))
        if answer.status in (429, 503) and seconds is not None:
            raise RetryAfter(seconds, f"`{self._operation.contract.name}` answered {answer.status}")
        if answer.trouble is not None:
            raise DidNotHappen(f"`{self._operation.contract.name}`: {answer.trouble}")
        return answer.reply()

    def _outcome(self, answer: Answer, what: str = "it") -> Reply:
        """What an answer to a write means: an answer, a refusal (raised), or nothing for certain (raised)."""
        route, status, kind = self._operation.route, answer.status, self._operation.contract.kind
        said = f"`{self._operation.contract.name}`: {what} was answered {status} {answer.reason}".rstrip()
        seconds = retry_after_s(answer.header("retry-after"))
        if status in route.happened or 200 <= status < 307:
            return answer.reply() if answer.trouble is None else lost(answer.trouble)
        if status in route.refused:
            raise Declined(said, answer.reply())
        if status == 429 or (status == 503 and seconds is not None and kind is Kind.IDEMPOTENT):
            raise RetryAfter(PAUSE_S if seconds is None else seconds, said)
        if 307 <= status < 500 and status not in UNPROVEN:
            raise Declined(said, answer.reply())
        raise HoldfastError(f"{said}, which does not say whether it has happened")

    async def _minted(self, answer: Answer, receipt: Receipt) -> Answer:
        """The answer with handles in the place of the secrets that it brought. Where they cannot be kept, the answer is
        not given away."""
        view = cast("dict[str, JSON]", answer.view())
        secrets: list[_Brought] = []
        if (
            view["body"] is None
            and answer.body
            and any(mint.startswith("body.") for mint in self._operation.route.mints)
        ):
            return replace(answer, headers=(), body=b"", trouble="it should bring a secret, and is no JSON")
        for mint in self._operation.route.mints:
            there, value = select(view, mint)
            if not there or value is None:
                continue
            text = value if isinstance(value, str) else canonical(value).decode()
            name = f"{self._operation.contract.name}.{mint}"
            try:
                handle = await self._system.vault.keep(name, text, receipt)
                secrets.append(_Brought(name, text))
                put(view, mint.split("."), handle)
            except HoldfastError as error:
                return replace(answer, headers=(), body=b"", trouble=f"its secret could not be kept: {error.what}")
        return _without(answer, view, secrets)


class _Brought:
    """A secret that an answer brought, for the scrubber."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text

    def forms(self) -> tuple[bytes, ...]:
        return (self._text.encode(),) if len(self._text.encode()) >= 8 else ()


def _without(answer: Answer, view: Mapping[str, JSON], secrets: list[_Brought]) -> Answer:
    """The answer as `view` has it now, without these secrets wherever else they stand."""
    scrubber = Scrubber(secrets)
    shown = cast("dict[str, str]", view["header"])
    headers = tuple((name, scrubber.text(shown[name])) for name, _ in answer.headers)
    body = answer.body if view["body"] is None else canonical(view["body"])
    return replace(answer, headers=headers, body=scrubber.clean(body))


def _follow(method: str, follow: Follow, view: Mapping[str, JSON]) -> Request:
    """The request that a probe or an undo makes of a call. Raises BadCall where it needs what is not there."""
    segments = [_filled(segment, view) for segment in follow.path.removeprefix("/").split("/")]
    query = checked_fields([(name, _filled(text, view)) for name, text in follow.query.items()], "the query")
    body = Json(_filled_json(cast("JSON", follow.body), view)) if isinstance(follow, Undo) and follow.body else None
    headers = {} if body is None else {"content-type": "application/json"}
    return Request(method=method, path=path_of(segments), params={}, query=query, headers=headers, body=body)


def _filled(text: str, view: Mapping[str, JSON]) -> str:
    def one(found: re.Match[str]) -> str:
        value = _named(found[1], view)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return canonical(value).decode()
        raise BadCall(f"`{found[1]}` is neither text nor a number")

    return _REFERENCE.sub(one, text)


def _filled_json(value: JSON, view: Mapping[str, JSON]) -> JSON:
    match value:
        case str():
            whole = _REFERENCE.fullmatch(value)
            return _named(whole[1], view) if whole else _filled(value, view)
        case dict():
            return {key: _filled_json(item, view) for key, item in value.items()}
        case list() | tuple():
            return [_filled_json(item, view) for item in value]
        case _:
            return value


def _named(name: str, view: Mapping[str, JSON]) -> JSON:
    there, value = select(dict(view), name)
    if not there or value is None:
        raise BadCall(f"`{name}` is not known: what should be asked cannot be said")
    return value


def _unnamed(path: str) -> str:
    return _REFERENCE.sub("{}", path)


def _told(operation: Operation) -> JSON:
    """What an agent is told about an operation."""
    names: JSON = {name: {"type": "string"} for name in operation.template.names}
    properties: dict[str, JSON] = {
        "query": {"type": "object"},
        "headers": {"type": "object"},
        "body": {"description": "JSON, or text"},
        "body_b64": {"type": "string"},
    }
    if operation.template.names:
        properties["path"] = {"type": "object", "properties": names, "required": [*operation.template.names]}
    about = operation.route.description or f"{operation.route.method} {operation.route.path}"
    schema: JSON = {
        "type": "object",
        "properties": properties,
        "required": ["path"] if operation.template.names else [],
        "additionalProperties": False,
    }
    return {"description": about, "kind": operation.contract.kind.value, "schema": schema}
