"""What a Python agent asks for besides calls: decisions, times, waits, checkpoints, what it left behind.

Rules
1. A decision is made in the agent's process and recorded here before the agent sees it: it asks, is told to go and find
   out, and says what it found. Whoever does not come back has decided nothing.
2. One program of a run begins. It may be told again what it begins with, as long as it says the same name.
3. Who asked for a decision and is gone before it has a ticket has asked for nothing.
4. The state of a checkpoint is JSON; with it stands what the agent may do, never its handle.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from aiohttp import web
from pydantic import Field

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Kind
from holdfast.core.log import Log
from holdfast.core.payload import Packed, pack_bytes, pack_text
from holdfast.errors import BadCall, Busy, HoldfastError, Misuse, Refused, Waiting
from holdfast.gateway.boundary import Policy
from holdfast.gateway.closure import Closure, Roomless
from holdfast.gateway.decide import Decided
from holdfast.gateway.doors.native import DOOR, Asking, Name, body_of, refused, sealed, send, visiting
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.left import left_behind
from holdfast.gateway.line import read_payload
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.wards import CONTAINMENT, Taken
from holdfast.shape import Shape, Written

MOST = 1000  # decisions of one run that are being made
_ANY = Shape(object)
Bytes = Annotated[str, Field(description="Bytes, in base64.")]


class DecideBody(Asking):
    """`POST /v1/decide`: has this been decided?"""

    name: Name
    asked: Any = Field(description="The request, JSON: the same request is the same decision.")
    lane: Name = "main"
    fresh: bool = False


class DecidedBody(Asking):
    """`POST /v1/decided`: what was decided, for a ticket of `/v1/decide`: JSON, or bytes; or that nothing was."""

    ticket: Annotated[str, Field(min_length=1, max_length=64)]
    answer: Any = None
    answer_b64: Bytes | None = None
    failed: bool = False


class DrawBody(Asking):
    """`POST /v1/draw`: the recorded value of this name, or else this one."""

    name: Name
    value: Annotated[str, Field(max_length=1000)]


class WaitBody(Asking):
    """`POST /v1/wait`: so many seconds, or for the next signal of this name."""

    seconds: float | None = Field(default=None, ge=0, lt=1e10, strict=False)
    signal: Name | None = None


class TurnBody(Asking):
    """At the boundary of a turn: the kinds of the tools that it may call (none: any), and the agent's policy."""

    kinds: list[Annotated[Kind, Field(strict=False)]] = Field(default_factory=list[Kind], max_length=100)
    every: int | None = Field(default=None, ge=1)
    before: Annotated[Kind, Field(strict=False)] | None = None


class CheckpointBody(Asking):
    """`POST /v1/checkpoint`: go on from here after a crash."""

    state: Any = None
    services: list[Name] = Field(default_factory=list[str], max_length=100)
    labels: list[Name] = Field(default_factory=list[str], max_length=100)
    turn: TurnBody | None = Field(default=None, description="Only if this wants it.")


class FinishBody(Asking):
    """`POST /v1/finish`: what the agent came to (JSON, or bytes), or why it failed, or that it waits; the run ends with
    it when the program does."""

    answer: Any = None
    answer_b64: Bytes | None = None
    error: Annotated[str, Field(max_length=10_000)] | None = None
    waits: bool = False


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
                    if visit.right.parent is not None:
                        raise Refused("a capability that was narrowed calls tools: the run is its agent's own")
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
                return await answer
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
            return await self._answer(visit, found, reply)

        def over(task: asyncio.Task[dict[str, JSON]]) -> None:
            taken.deciding.pop(ticket, None)
            _pass_on(task, told)

        task = asyncio.ensure_future(decided())
        taken.deciding[ticket] = task
        task.add_done_callback(over)
        try:
            return await told
        except asyncio.CancelledError:  # whoever asked is gone, and nobody else knows the ticket
            task.cancel()
            raise

    async def _answer(self, visit: Visit, found: Decided | None, reply: Reply | None) -> dict[str, JSON]:
        if found is None:
            assert reply is not None, "what is not recorded was asked for"
            return sealed(reply.data, reply.encoding)
        payload = found.decision.answer
        return sealed(await visit.ward.mediator.line.payload(payload), payload.encoding)

    async def decided(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, DecidedBody)
        task = taken.deciding.get(asked.ticket)  # first: a ticket of another run is none
        waiting = None if task is None else self._tickets.get(asked.ticket)
        if waiting is None or task is None or waiting.done():
            raise Misuse("nobody waits for this decision", fix="ask first: /v1/decide")
        if asked.failed:
            waiting.set_exception(BadCall("the agent decided nothing"))
            await asyncio.wait([task])
            return {}
        written = _written(asked.answer, asked.answer_b64)
        waiting.set_result(Reply(written.data, written.encoding, written.value, written.woven))
        return await asyncio.shield(task)

    # --- what a run is given ---

    async def draw(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, DrawBody)
        return {"value": await visit.ward.memory.draw(asked.name, lambda: asked.value)}

    async def wait(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, WaitBody)
        ward = visit.ward
        if asked.signal is None:
            await ward.memory.sleep(asked.seconds or 0.0, ward.mediator.sender.now_ms)
            return {"value": None}
        signal = await ward.memory.wait_for(asked.signal)
        data = await ward.mediator.line.payload(signal.value)
        return {"value": _ANY.read(data, signal.value.encoding).woven}

    async def checkpoint(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, CheckpointBody)
        mediator, turn = visit.ward.mediator, asked.turn
        if turn is not None:
            mediator.enter()
            wanted = Policy(turn.every, turn.before).wants(mediator.line.log, frozenset(turn.kinds))
            if mediator.plans or not wanted:
                return {"node": None}
        state = asked.state if taken.restores else None  # what nobody goes on from says nothing of what was before
        closure = Closure(
            state=lambda: _packed(state, visit),
            room=taken.room,
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
        """What a run's program begins with: its input, settings, and the state that it goes on from. A program that has
        given itself a name (`?maker=`) is told once more."""
        maker = request.query.get("maker", "")[:200]
        if taken.begun is not None and (not maker or maker != taken.begun):
            # what a second program asked for would be counted as the first one's
            raise Misuse("a program of this run has begun already", where=visit.ward.rights.run,
                         fix="end it, and take the run up anew: the same command as before")  # fmt: skip
        taken.begun = maker
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
            "restores": taken.restores,
            "restored": restored is not None,
            "state": None if state is None or restored is None else _ANY.read(state, restored.state.encoding).woven,
            "services": [] if restored is None else [*restored.services],
            "workspace": not isinstance(taken.room, Roomless),
            "untouched": _untouched(line.log),
        }

    async def finish(self, request: web.Request, visit: Visit, taken: Taken) -> dict[str, JSON]:
        asked = await body_of(request, FinishBody)
        taken.error, taken.waits = asked.error, asked.waits
        if asked.error is None and not asked.waits:
            written = _written(asked.answer, asked.answer_b64)
            taken.answer = pack_bytes(written.data, written.encoding)
        taken.over.set()
        return {}


def _untouched(log: Log) -> bool:
    """Whether a run has asked for nothing yet."""
    asked = any(slot.tool != CONTAINMENT for slot in log.slots.values())
    return not (asked or log.lanes or log.draws or log.sleeps or log.checkpoint)


def _pass_on(task: asyncio.Task[dict[str, JSON]], told: asyncio.Future[dict[str, JSON]]) -> None:
    """What came of a task, for whoever waits for it, if anybody does."""
    error = None if task.cancelled() else task.exception()
    if told.done():
        return
    if task.cancelled():
        told.cancel()
    elif error is not None:
        told.set_exception(error)
    else:
        told.set_result(task.result())


def _written(answer: Any, answer_b64: str | None) -> Written:
    """What an agent came to, as it is written down. Raises BadCall."""
    try:
        return _ANY.write(answer if answer_b64 is None else base64.b64decode(answer_b64, validate=True))
    except ValueError:
        raise BadCall("`answer_b64` is not base64", fix="send JSON as `answer`") from None


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
