"""What a Python agent asks for besides calls: decisions, times, waits, checkpoints, what it left behind.

Rules
1. A decision is made in the agent's process and recorded here before the agent sees it: it asks, is told to go and find
   out, and says what it found. Whoever does not come back has decided nothing.
2. The state of a checkpoint is JSON; with it stands what the agent may do, never its handle.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from aiohttp import web
from pydantic import Field

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Encoding, Kind
from holdfast.core.payload import Packed, pack_text
from holdfast.errors import BadCall, Busy, HoldfastError, Misuse, Waiting
from holdfast.gateway.closure import Closure, Roomless
from holdfast.gateway.decide import Decided
from holdfast.gateway.doors.native import DOOR, Asking, Name, body_of, refused, send, visiting
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.left import left_behind
from holdfast.gateway.line import read_payload
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.wards import Taken
from holdfast.shape import Shape

PATIENCE_S = 600.0  # how long an agent may take to decide
MOST = 1000  # decisions of one run that are being made
_ANY = Shape(object)


class DecideBody(Asking):
    """`POST /v1/decide`: has this been decided?"""

    name: Name
    asked: Any = Field(description="The request, JSON: the same request is the same decision.")
    lane: Name = "main"
    fresh: bool = False


class DecidedBody(Asking):
    """`POST /v1/decided`: what was decided, for a ticket of `/v1/decide`; without an answer: nothing was."""

    ticket: Annotated[str, Field(min_length=1, max_length=64)]
    answer: Any = None
    failed: bool = False


class DrawBody(Asking):
    """`POST /v1/draw`: the recorded value of this name, or else this one."""

    name: Name
    value: Annotated[str, Field(max_length=1000)]


class WaitBody(Asking):
    """`POST /v1/wait`: so many seconds, or for the next signal of this name."""

    seconds: float | None = Field(default=None, ge=0, lt=1e10, strict=False)
    signal: Name | None = None


class CheckpointBody(Asking):
    """`POST /v1/checkpoint`: go on from here after a crash."""

    state: Any = None
    services: list[Name] = Field(default_factory=list[str], max_length=100)
    labels: list[Name] = Field(default_factory=list[str], max_length=100)
    turn: list[Kind] | None = Field(default=None, max_length=100, strict=False)


class FinishBody(Asking):
    """`POST /v1/finish`: what the agent came to; the run ends with it when its program does."""

    answer: Any = None


def routes(gate: Gate, run: str | None) -> list[web.RouteDef]:
    """The door's routes, on a listener of `run`, or on one that is shared (None)."""
    door = _Agent(gate, run)
    return [
        web.post("/v1/decide", door.serving(door.decide)),
        web.post("/v1/decided", door.serving(door.decided)),
        web.post("/v1/draw", door.serving(door.draw)),
        web.post("/v1/wait", door.serving(door.wait)),
        web.post("/v1/checkpoint", door.serving(door.checkpoint)),
        web.get("/v1/stranded", door.serving(door.stranded)),
        web.post("/v1/finish", door.serving(door.finish)),
        web.get("/v1/begin", door.serving(door.begin)),
    ]


Work = Callable[[web.Request, Visit, Taken], Awaitable[dict[str, JSON]]]


class _Agent:
    def __init__(self, gate: Gate, run: str | None) -> None:
        self._gate = gate
        self._run = run
        self._tickets: dict[str, asyncio.Future[Reply]] = {}

    def serving(self, work: Work) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                async with visiting(self._gate, self._run, request, DOOR) as visit:
                    taken = self._gate.wards.by_run[visit.ward.rights.run]
                    return await send(request, web.json_response(await work(request, visit, taken)))
            except (HoldfastError, Waiting) as error:
                return await send(request, refused(error))

        return serve

    # --- decisions ---

    async def decide(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, DecideBody)
        told: asyncio.Future[dict[str, JSON]] = asyncio.get_running_loop().create_future()
        ticket = secrets.token_hex(16)

        async def ask() -> Reply:
            answer = self._tickets[ticket] = asyncio.get_running_loop().create_future()
            if not told.done():
                told.set_result({"ticket": ticket})
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await answer
            except TimeoutError:
                raise BadCall("nothing was decided in time", fix="ask again") from None
            finally:
                self._tickets.pop(ticket, None)

        if len(taken.deciding) >= MOST:
            raise Busy(f"{MOST} decisions are being made already", fix="say what was decided: /v1/decided")
        packed = _packed(asked.asked, visit)
        memory = visit.ward.memory

        async def decided() -> dict[str, JSON]:
            found, reply = await memory.decide(
                asked.lane, asked.name, packed, ask, fresh=asked.fresh, right=visit.right.id
            )
            return {"answer": await self._answer(visit, found, reply)}

        task = asyncio.ensure_future(decided())
        taken.deciding[ticket] = task
        task.add_done_callback(lambda _: taken.deciding.pop(ticket, None))
        task.add_done_callback(lambda _: None if told.done() else _pass_on(task, told))
        return await told

    async def _answer(self, visit: Visit, found: Decided | None, reply: Reply | None) -> JSON:
        if found is None:
            assert reply is not None, "what is not recorded was asked for"
            return cast(JSON, json.loads(reply.data))
        payload = found.decision.answer
        return _ANY.read(await visit.ward.mediator.line.payload(payload), payload.encoding).woven

    async def decided(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, DecidedBody)
        waiting, task = self._tickets.get(asked.ticket), taken.deciding.pop(asked.ticket, None)
        if waiting is None or task is None or waiting.done():
            raise Misuse("nobody waits for this decision", fix="ask first: /v1/decide")
        if asked.failed:
            waiting.set_exception(BadCall("the agent decided nothing"))
            await asyncio.wait([task])
            return {}
        data = _canonical(asked.answer)
        waiting.set_result(Reply(data, Encoding.JSON, asked.answer, asked.answer))
        return await task

    # --- what a run is given ---

    async def draw(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, DrawBody)
        return {"value": await visit.ward.memory.draw(asked.name, lambda: asked.value)}

    async def wait(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, WaitBody)
        ward = visit.ward
        if asked.signal is None:
            await ward.memory.sleep(asked.seconds or 0.0, lambda: time.time_ns() // 1_000_000)
            return {"value": None}
        signal = await ward.memory.wait_for(asked.signal)
        data = await ward.mediator.line.payload(signal.value)
        return {"value": _ANY.read(data, signal.value.encoding).woven}

    async def checkpoint(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, CheckpointBody)
        closure = Closure(
            state=lambda: _packed(asked.state, visit),
            room=Roomless(),
            services=tuple(asked.services),
            labels=tuple(dict.fromkeys((*asked.labels, *sorted(visit.ward.labels)))),
            restores=taken.restores,
            capability=visit.right.terms.text(),
        )
        return {"node": await visit.ward.memory.checkpoint(closure)}

    async def stranded(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        found = await left_behind(visit.ward.mediator.line, undone="undone" in request.query)
        return {
            "stranded": [
                {
                    "node": each.node, "tool": each.tool, "arguments": each.arguments, "happened": each.happened,
                    "answer": _plain(each.answer), "undone": each.undone,
                }
                for each in found
            ]
        }  # fmt: skip

    # --- beginning and end ---

    async def begin(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        """What a run's program begins with: its input, settings, and the state that it goes on from."""
        line, opened = visit.ward.mediator.line, taken.opened
        assert opened.started is not None or line.log.started is not None, "a run that was taken up has begun"
        started = opened.started or line.log.started
        assert started is not None
        given = line.log.settings.get("input", started.input)
        settings = {
            name: _ANY.read(await read_payload(line.store, value), value.encoding).woven
            for name, value in line.log.settings.items()
            if "/" not in name
        }
        restored = opened.restored
        state = None if restored is None else await read_payload(line.store, restored.state)
        return {
            "run": visit.ward.rights.run,
            "branch": line.family.name,
            "input": _ANY.read(await read_payload(line.store, given), given.encoding).woven,
            "settings": cast(JSON, settings),
            "restored": restored is not None,
            "state": None if state is None or restored is None else _ANY.read(state, restored.state.encoding).woven,
            "services": [] if restored is None else [*restored.services],
        }

    async def finish(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, FinishBody)
        _canonical(asked.answer)
        taken.answer = cast(JSON, asked.answer)
        return {}


def _pass_on(task: asyncio.Task[dict[str, JSON]], told: asyncio.Future[dict[str, JSON]]) -> None:
    if task.cancelled():
        told.cancel()
    elif (error := task.exception()) is not None:
        told.set_exception(error)
    else:
        told.set_result(task.result())


def _packed(value: Any, visit: Visit) -> Packed:
    return pack_text(_canonical(value), cast(JSON, value), visit.ward.mediator.line.knows)


def _canonical(value: Any) -> bytes:
    try:
        return canonical(cast(JSON, value))
    except Uncanonical as error:
        raise BadCall(f"it cannot be written down: {error}", fix="send JSON") from None


def _plain(value: Any) -> JSON:
    try:
        canonical(value)
    except (Uncanonical, TypeError):
        return None
    return cast(JSON, value)
