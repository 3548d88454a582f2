"""The native door: what a run may ask for, as JSON over HTTP.

Rules
1. A body is read strictly: JSON, no name twice, no field that is not known, nothing larger than `LARGEST_BODY`.
2. The answer counts as delivered when the last byte of it was written; until then the same call joins.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.core.canonical import JSON
from holdfast.core.capability import Budget, Limit, Terms
from holdfast.core.contract import Level
from holdfast.core.effect import Encoding
from holdfast.errors import BadCall, HoldfastError, Refused, Waiting
from holdfast.gateway.doors.strict import object_of
from holdfast.gateway.doors.told import told
from holdfast.gateway.gate import Gate, Visit, handle_in
from holdfast.gateway.order import Mark
from holdfast.gateway.upstreams import Declined, Reply

LARGEST_BODY = 17 << 20  # bytes
BODY_S = 120.0  # for the whole of a body
ANSWER_S = 300.0  # for an answer to be taken
DOOR = "native"
B = TypeVar("B", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Asking(BaseModel):
    """A body of the native door: nothing but its fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CallBody(Asking):
    """`POST /v1/call`: call a tool."""

    tool: Name = Field(description="SYSTEM.OPERATION")
    args: dict[str, Any] = Field(default_factory=dict, description="The arguments, JSON values by name.")
    again: Name | None = Field(default=None, description="The label of a deliberate further effect.")
    maker: Name | None = Field(default=None, description="The client's own random name, if it numbers its calls.")
    made: int = Field(
        default=0, ge=0, le=2**53, description="With `maker`: the number of this call among those of this tool, from 0."
    )
    resend: bool = Field(default=False, description="The same call was sent before, and its answer did not come.")


class LimitBody(Asking):
    """What an argument may be."""

    tool: Name
    argument: Name
    most: int | None = Field(default=None, ge=0)
    one_of: list[str | int | float | bool | None] | None = None
    prefix: str | None = None


class NarrowBody(Asking):
    """`POST /v1/narrow`: a capability that allows less, for a part of the agent."""

    tools: list[Name] = Field(min_length=1, max_length=256)
    limits: list[LimitBody] = Field(default_factory=list[LimitBody], max_length=256)
    calls: int | None = Field(default=None, ge=0)
    money: int | None = Field(default=None, ge=0, description="Millionths of a US dollar.")
    blast: int | None = Field(default=None, ge=0)
    expires_ms: int | None = Field(default=None, ge=0, description="Wall clock, ms since 1970.")
    approval: Level = Field(default=Level.NONE, strict=False)


def routes(gate: Gate, run: str | None) -> list[web.RouteDef]:
    """The door's routes, on a listener of `run`, or on one that is shared (None)."""
    door = _Native(gate, run)
    return [
        web.post("/v1/call", door.call),
        web.post("/v1/narrow", door.narrow),
        web.get("/v1/operations", door.operations),
        web.get("/v1/run", door.whoami),
        web.get("/openapi.json", door.openapi),
    ]


class _Native:
    def __init__(self, gate: Gate, run: str | None) -> None:
        self._gate = gate
        self._run = run

    async def call(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, self._call)

    async def _call(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        asked = await body_of(request, CallBody)
        system, _, operation = asked.tool.partition(".")
        mark = None if asked.maker is None else Mark(f"{visit.right.id} {asked.maker}", asked.made)
        try:
            prepared = await self._gate.prepare(visit, system, operation, cast("dict[str, JSON]", asked.args))
        except BaseException:
            visit.ward.passed(asked.tool, mark)
            raise
        try:
            reply = await visit.ward.call(visit.right, prepared, resend=asked.resend, again=asked.again, mark=mark)
        except (HoldfastError, Waiting) as error:
            if isinstance(error, Waiting):
                raise
            sent = await send(request, refused(error))
        else:
            sent = await send(request, web.json_response(_answer(reply)))
        if mark is None:
            visit.ward.delivered(prepared)
        return sent

    async def narrow(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, self._narrow)

    async def _narrow(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        asked = await body_of(request, NarrowBody)
        limits = tuple(
            Limit(
                tool=each.tool, argument=each.argument, most=each.most, prefix=each.prefix,
                one_of=None if each.one_of is None else tuple(each.one_of),
            )
            for each in asked.limits
        )  # fmt: skip
        wanted = Terms(
            tools=tuple(asked.tools), limits=limits, expires_ms=asked.expires_ms, level=asked.approval,
            budget=Budget(calls=asked.calls, money=asked.money, blast=asked.blast),
        )  # fmt: skip
        right, handle = await visit.ward.rights.narrow(visit.right, wanted, by=f"the agent ({visit.right.id})")
        return await send(request, web.json_response({"capability": right.id, "handle": handle}))

    async def operations(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, self._operations)

    async def _operations(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        allowed = {
            f"{system.name}.{name}": told_of
            for system in self._gate.systems.values()
            for name, told_of in system.operations().items()
            if visit.right.terms.covers(f"{system.name}.{name}", {}) is None or visit.right.terms.limits
        }
        return await send(request, web.json_response({"operations": allowed}))

    async def whoami(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, self._whoami)

    async def _whoami(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        about: dict[str, JSON] = {
            "run": visit.ward.rights.run,
            "agent": visit.ward.agent,
            "capability": visit.right.id,
            "terms": json.loads(visit.right.terms.text()),
        }
        return await send(request, web.json_response(about))

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        from holdfast.gateway.doors.openapi import document

        return await send(request, web.json_response(document()))

    async def _answered(
        self, request: web.Request, work: Callable[[web.Request, Visit], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            async with visiting(self._gate, self._run, request, DOOR) as visit:
                return await work(request, visit)
        except (HoldfastError, Waiting) as error:
            return await send(request, refused(error))


@contextlib.asynccontextmanager
async def visiting(gate: Gate, run: str | None, request: web.Request, door: str) -> AsyncGenerator[Visit]:
    """Who sent a request. While the block lasts a revocation ends it. Raises Refused; where the run is known, its log
    says that somebody was turned away."""
    try:
        visit = gate.visit(run, handle_in(request.headers), door)
    except Refused as error:
        taken = None if run is None else gate.wards.by_run.get(run)
        if taken is not None:
            await taken.ward.refuse("holdfast.door", f"{door} {error.what}", f"door {door}", error.what)
        raise Unshown(error) from None
    with gate.inside(visit):
        yield visit


class Unshown(Refused):
    """Nobody knows who asks: 401."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.what, where=error.where, fix=error.fix)


async def handle_refused(
    gate: Gate, run: str | None, request: web.Request, why: str, error: HoldfastError
) -> web.Response:
    """Turn a request away that is for no door; where the run is known, its log says so."""
    taken = None if run is None else gate.wards.by_run.get(run)
    if taken is not None:
        await taken.ward.refuse("holdfast.door", why, "door", why)
    return await send(request, web.json_response(told(error).body(), status=403))


async def send(request: web.Request, response: web.Response) -> web.Response:
    """Write a response to its last byte. Raises what the connection raises when the client is gone, or does not read
    what it has asked for."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    cut: list[None] = []

    def end() -> None:
        cut.append(None)
        transport.abort()

    late = asyncio.get_running_loop().call_later(ANSWER_S, end)
    try:
        await response.prepare(request)
        await response.write_eof()
    finally:
        late.cancel()
    if cut:
        raise ConnectionResetError("the answer was not taken")
    return response


async def body_of(request: web.Request, model: type[B]) -> B:
    """The body of a request. Raises BadCall."""
    return model_of(await bytes_of(request, LARGEST_BODY), model)


async def bytes_of(request: web.Request, most: int) -> bytes:
    """The bytes of a body, at most `most`. Raises BadCall."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BadCall("the body is packed", fix="send it as it is")
    if not request.body_exists:
        return b""
    data = bytearray()
    try:
        if request.content.is_eof():  # it is all there
            data += request.content.read_nowait()
        else:
            async with asyncio.timeout(BODY_S):
                async for chunk in request.content.iter_any():
                    data += chunk
                    if len(data) > most:
                        break
    except TimeoutError:
        raise BadCall(f"the body did not come within {BODY_S:.0f} s", fix="send it at once") from None
    except web.RequestPayloadError:
        raise BadCall("the body cannot be read: it does not end as it began", fix="send it anew") from None
    if len(data) > most:
        raise BadCall(f"the body is larger than {most} bytes", fix="send less, or a reference")
    return bytes(data)


def model_of(data: bytes, model: type[B]) -> B:
    """A body as its model has it. Raises BadCall."""
    found = object_of(data)
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise BadCall(f"the body is not understood: {place or 'it'}: {first['msg']}", fix="see /openapi.json") from None


def _answer(reply: Reply) -> dict[str, JSON]:
    return {**sealed(reply.data, reply.encoding), "etag": reply.etag}


def sealed(data: bytes, encoding: Encoding) -> dict[str, JSON]:
    """Sealed bytes as they go out: `answer` where they are JSON, else `answer_b64`."""
    if encoding is Encoding.JSON:
        return {"answer": cast(JSON, json.loads(data))}
    return {"answer_b64": base64.b64encode(data).decode()}


def refused(error: BaseException) -> web.Response:
    """What a door says about an error."""
    about = told(error)
    body = about.body()
    if isinstance(error, Declined):
        body |= _answer(error.reply)
    headers = {} if about.retry_s is None else {"Retry-After": str(about.retry_s)}
    status = 401 if isinstance(error, Unshown) else 422 if about.kind == "not_happened" else about.status
    return web.json_response(body, status=status, headers=headers)
