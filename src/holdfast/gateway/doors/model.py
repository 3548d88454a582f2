"""The model door: an unmodified SDK of OpenAI or Anthropic is pointed at it, with its capability as the API key.

Rules
1. An answer is passed on as it comes, but its end only when it is recorded: nobody can act on an answer that a crash
   would make another one. What was recorded before is given at once.
2. A client that is gone does not end its question: the answer is heard to the end and recorded. Who then asks the same
   again, or says that it asks once more (an SDK's retry), is given that answer.
3. What goes wrong is told in the provider's own form. A stream that broke off is cut: no SDK takes it for whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from aiohttp import web

from holdfast.core.canonical import JSON, canonical
from holdfast.core.capability import matches
from holdfast.errors import BadCall, HoldfastError, Unknown, Waiting
from holdfast.gateway.doors.native import Unshown, bytes_of, send, visiting
from holdfast.gateway.doors.told import told
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Prepared, Reply, System
from holdfast.gateway.upstreams.model import ModelSystem, ModelUpstream
from holdfast.gateway.upstreams.model_answer import Answer, read_answer
from holdfast.gateway.upstreams.model_forms import delivered
from holdfast.gateway.upstreams.model_hearing import JSON_TYPE, Tap
from holdfast.gateway.upstreams.model_wire import (
    BETAS,
    LARGEST_ASKED,
    WIRES,
    Form,
    Protocol,
    Wire,
    error_of,
    read_object,
    shown,
    spelt,
    take_form,
)
from holdfast.gateway.ward import Told

DOOR = "model"
LANE = "x-holdfast-lane"
REMEMBERED = 4096  # answers that were not delivered; keys of requests
_LANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,99}")
_RETRIED = {429, 502, 503}


async def serve(request: web.Request, gate: Gate, run: str | None, system: System, path: str) -> web.StreamResponse:
    """Answer a request to a provider of models, at the raw `path` behind its host, on a listener of `run`, or on one
    that is shared (None). The base URL of OpenAI's SDK is this door's with `/v1`, that of Anthropic's without."""
    assert isinstance(system, ModelSystem), "the model door serves systems of models"
    protocol = system.config.protocol
    try:
        async with visiting(gate, run, request, DOOR) as visit:
            return await _served(request, gate, visit, system, _place(system, path.partition("?")[0]))
    except _TooLarge as error:
        return await send(request, _refused(protocol, error, 413))
    except (HoldfastError, Waiting) as error:
        return await send(request, _refused(protocol, error))


async def _served(
    request: web.Request, gate: Gate, visit: Visit, system: ModelSystem, place: str
) -> web.StreamResponse:
    protocol = system.config.protocol
    before, _, model = place.removeprefix("/v1").rpartition("/")
    if request.method == "GET" and (before, model) == ("", "models"):
        return await send(request, web.json_response(_listing(protocol, _allowed(visit, system))))
    if request.method == "GET" and before == "/models":
        return await send(request, web.json_response(_one(protocol, _allowed(visit, system), unquote(model))))
    wire = next((each for each in WIRES.values() if (each.protocol, each.path) == (protocol, place)), None)
    if wire is None or request.method != "POST":
        await visit.ward.refuse(f"{system.name}.{request.method}", place, f"door {DOOR}", "it is not served")
        raise Unknown(f"`{request.method} {shown(place)}` is not served by the model door")
    asked, form = await _read(request, wire, system, visit)
    prepared = await gate.prepare(visit, system.name, wire.operation, asked)
    waiters = _waiters.setdefault(gate, _Waiters())
    return await _Answering(waiters, request, visit, prepared, form).answer()


def _place(system: ModelSystem, path: str) -> str:
    """A path as it stands behind the base URL, which programs know as the provider's own or as the usual one."""
    for base in ("/v1" if system.config.protocol == "openai" else "", system.base):
        if path.startswith(f"{base}/"):
            return path[len(base) :]
    return path


async def _read(request: web.Request, wire: Wire, system: ModelSystem, visit: Visit) -> tuple[dict[str, JSON], Form]:
    """What is asked, and how it is to be answered. What cannot be read is refused, and the log says so."""
    try:
        asked = read_object(await _body(request))
        form = take_form(asked)
    except BadCall as error:
        await visit.ward.refuse(f"{system.name}.{wire.operation}", "", f"door {DOOR}", error.what)
        raise
    if wire.protocol == "anthropic" and (betas := request.headers.get(BETAS)):
        asked[BETAS] = betas
    return asked, form


@dataclass(slots=True)
class _Waiters:
    """Who waits for which answer, and which answer did not reach whoever asked for it."""

    asking: dict[object, list[web.Request]] = field(default_factory=dict[object, list[web.Request]])
    lost: dict[object, None] = field(default_factory=dict[object, None])
    keys: dict[object, object] = field(default_factory=dict[object, object])

    def resent(self, question: object, request: web.Request, ward: object) -> bool:
        """Whether this question is one that was asked before and whose answer did not come."""
        given = request.headers.get("idempotency-key")
        known = given is not None and self.keys.get((ward, given)) == question
        if given is not None:
            _remember(self.keys, (ward, given), question)
        marked = request.headers.get("x-stainless-retry-count", "0").strip() not in ("0", "")
        return marked or known or question in self.lost or any(map(_gone, self.asking.get(question, ())))

    def begin(self, question: object, request: web.Request) -> None:
        """Somebody asks."""
        self.lost.pop(question, None)
        self.asking.setdefault(question, []).append(request)

    def end(self, question: object, request: web.Request, *, reached: bool) -> None:
        """Somebody was answered, or is gone."""
        waiting = self.asking[question]
        waiting.remove(request)
        if not waiting:
            del self.asking[question]
        if not reached:
            _remember(self.lost, question, None)


_waiters: WeakKeyDictionary[Gate, _Waiters] = WeakKeyDictionary()


class _TooLarge(BadCall):
    """413."""


class _Answering:
    """One request, from the question to the last byte of the answer."""

    def __init__(self, waiters: _Waiters, request: web.Request, visit: Visit, prepared: Prepared, form: Form) -> None:
        upstream = prepared.upstream
        assert isinstance(upstream, ModelUpstream), "a system of models prepares questions"
        self._waiters = waiters
        self._request = request
        self._visit = visit
        self._prepared = prepared
        self._form = form
        self._wire = upstream.question.wire
        self._upstream = upstream
        self._tap = Tap()
        self._response: web.StreamResponse | None = None
        self._sent = 0

    async def answer(self) -> web.StreamResponse:
        """Ask, and pass on what comes."""
        lane = self._request.headers.get(LANE, "main")
        if not _LANE.fullmatch(lane):
            raise BadCall(f"`{LANE}` names no lane", fix="use letters, digits and . _ / : -")
        ward, name = self._visit.ward, self._prepared.contract.name
        digest = hashlib.sha256(canonical(cast("JSON", dict(self._prepared.args)))).digest()
        question = (id(ward), self._visit.right.id, lane, name, digest)
        resent = self._waiters.resent(question, self._request, id(ward))
        self._waiters.begin(question, self._request)
        reached = False
        try:
            deciding = asyncio.ensure_future(
                ward.decide(self._visit.right, self._prepared, self._ask, lane=lane, resend=resent)
            )
            deciding.add_done_callback(self._decided)
            try:
                await self._pass_on(deciding)
                answer = read_answer((await deciding).reply.data, self._wire.operation)
                done = await self._give(delivered(answer, self._wire.operation, self._form))
            except (HoldfastError, Waiting) as error:
                done = await self._fail(error)
            reached = not _gone(self._request)
            return done
        finally:
            self._waiters.end(question, self._request, reached=reached)

    def _decided(self, deciding: asyncio.Future[Told]) -> None:
        """Wake whoever passes on; look at what came of it, since the client may be gone, and nobody else would."""
        self._tap.news.set()
        if not deciding.cancelled():
            deciding.exception()

    async def _ask(self, receipt: Receipt) -> Reply:
        return await self._upstream.ask(self._form, receipt, self._tap)

    async def _pass_on(self, deciding: asyncio.Future[Told]) -> None:
        """Pass on what may be passed on, until the answer is decided. Where the client is gone, nothing is."""
        tap = self._tap
        while not deciding.done():
            await tap.news.wait()
            tap.news.clear()
            if self._form.streamed and tap.begun is not None and len(tap.passed) > self._sent:
                with contextlib.suppress(ConnectionError):
                    await self._write(tap.begun, bytes(tap.passed[self._sent :]))
                self._sent = len(tap.passed)

    async def _write(self, begun: Answer, data: bytes) -> web.StreamResponse:
        if self._response is None:
            self._response = web.StreamResponse(status=begun.status, headers=_headers(begun))
            await self._response.prepare(self._request)
        if data:
            await self._response.write(data)
        return self._response

    async def _give(self, answer: Answer) -> web.StreamResponse:
        """The answer, or what is left of it."""
        if self._sent and not answer.body.startswith(self._tap.passed[: self._sent]):
            return await self._cut("the answer is another one than what was passed on")
        if not answer.streamed:
            whole = web.Response(status=answer.status, body=answer.body, headers=_headers(answer))
            return await send(self._request, whole)
        response = await self._write(answer, answer.body[self._sent :])
        await response.write_eof()
        return response

    async def _fail(self, error: HoldfastError | Waiting) -> web.StreamResponse:
        if isinstance(error, Declined):
            said = read_answer(error.reply.data, self._wire.operation)
            if said.status != 200 and self._response is None:
                return await self._give(said)
            if said.status == 200 and said.streamed == self._form.streamed:  # an error in the midst of an answer
                return await self._give(delivered(said, self._wire.operation, self._form))
        if self._response is None:
            return await send(self._request, _refused(self._wire.protocol, error))
        return await self._cut(error.what)

    async def _cut(self, why: str) -> web.StreamResponse:
        """End a stream so that nobody takes it for whole: an error in the provider's form, and no end."""
        assert self._response is not None, "something was passed on"
        told_so = error_of(self._wire.protocol, 502, why, "upstream_broken")
        if self._wire.operation == "responses":
            told_so |= {"type": "error", "code": "upstream_broken", "message": why, "param": None}
        named = b"" if self._wire.operation == "chat" else b"event: error\n"
        await self._response.write(named + b"data: " + spelt(told_so) + b"\n\n")
        if self._request.transport is not None:
            self._request.transport.close()
        return self._response


def _remember(among: dict[object, object] | dict[object, None], key: object, value: object) -> None:
    cast("dict[object, object]", among)[key] = value
    if len(among) > REMEMBERED:
        among.pop(next(iter(among)))


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _body(request: web.Request) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BadCall("the request is packed", fix="send it plain")
    try:
        return await bytes_of(request, LARGEST_ASKED)
    except BadCall as error:
        raise _TooLarge(error.what, fix=error.fix) from None


def _headers(answer: Answer) -> dict[str, str]:
    more = {"cache-control": "no-cache"} if answer.streamed else {}
    return {"content-type": answer.kind, **answer.headers, **more}


def _allowed(visit: Visit, system: ModelSystem) -> Mapping[str, str]:
    """The models that this right may ask."""
    terms = visit.right.terms
    asks = any(matches(each, f"{system.name}.{name}") for each in terms.tools for name in system.operations())
    return dict.fromkeys(system.config.models, system.name) if asks else {}


def _listing(protocol: Protocol, allowed: Mapping[str, str]) -> JSON:
    """The models that may be asked, as the provider lists them."""
    items: list[JSON] = [_item(protocol, name, allowed[name]) for name in sorted(allowed)]
    if protocol == "openai":
        return {"object": "list", "data": items}
    first, last = min(allowed, default=None), max(allowed, default=None)
    return {"data": items, "has_more": False, "first_id": first, "last_id": last}


def _one(protocol: Protocol, allowed: Mapping[str, str], name: str) -> JSON:
    if name not in allowed:
        raise Unknown(f"the model `{shown(name)}` is not declared")
    return _item(protocol, name, allowed[name])


def _item(protocol: Protocol, name: str, system: str) -> JSON:
    if protocol == "openai":
        return {"id": name, "object": "model", "created": 0, "owned_by": system}
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _refused(protocol: Protocol, error: HoldfastError | Waiting, status: int | None = None) -> web.Response:
    about = told(error)
    if status is None:
        status = 401 if isinstance(error, Unshown) else 404 if isinstance(error, Unknown) else about.status
    place, mend = f" [{about.where}]" if about.where else "", f" (fix: {about.fix})" if about.fix else ""
    headers = {"x-should-retry": "true" if status in _RETRIED else "false"}
    if about.retry_s is not None:
        headers["retry-after"] = str(about.retry_s)
    body = error_of(protocol, status, f"{about.what}{place}{mend}", about.kind)
    return web.Response(status=status, body=spelt(body), headers={"content-type": JSON_TYPE, **headers})
