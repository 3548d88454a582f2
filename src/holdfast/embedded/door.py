"""The door in process: what a run asks for, handed to its mediator.

Rules
1. A call is counted when it is made, before anything is awaited.
2. Arguments that cannot be written down exactly are refused here, before anything has happened.
3. Secret arguments never leave this file: the log gets a commitment.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from holdfast.agent.run import Agent, Note, Stranded, current, in_thread, outside_run
from holdfast.agent.tool import Tool
from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Call, Encoding, identity_of, resource_of
from holdfast.core.payload import Packed, pack_text
from holdfast.errors import AnswerLost, BadCall, Misuse
from holdfast.gateway.boundary import Policy
from holdfast.gateway.closure import Closure, Room, Roomless
from holdfast.gateway.decide import Memory
from holdfast.gateway.left import left_behind
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.pending import stop_at_pending
from holdfast.gateway.send import Asked
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.python import PythonUpstream
from holdfast.shape import Function, Shape

LARGEST_ARGS = 16 << 20  # bytes


class EmbeddedDoor:
    """One run's door. `secret` keys the commitments to secret arguments (32 bytes)."""

    def __init__(
        self,
        mediator: Mediator,
        memory: Memory,
        functions: dict[object, Function],
        secret: bytes,
        state: Shape | None,
        agent: Agent,
        room: Room | None,
    ) -> None:
        self._mediator = mediator
        self._memory = memory
        self._functions = functions
        self._secret = secret
        self._state = state
        self._policy = Policy(agent.checkpoint_every, agent.checkpoint_before)
        self._room = room or Roomless()

    async def call(self, tool: Tool, values: Mapping[str, object], again: str | None) -> object:
        """As `Door.call`."""
        function = self._functions.get(tool)
        if function is None:
            function = self._functions[tool] = Function(tool.function, tool.probe, tool.undo)
        contract = tool.contract
        if self._mediator.held:
            stop_at_pending(values)
        wire = cast("Mapping[str, JSON]", values)
        try:
            written = self._masked(tool, wire) if contract.secret else wire
            args = canonical(cast("JSON", written))
        except Uncanonical:
            wire = _as_json(contract.name, function, values)
            written = self._masked(tool, wire) if contract.secret else wire
            args = _canonical(contract.name, cast("JSON", written))
        if len(args) > LARGEST_ARGS:
            raise BadCall(
                f"the arguments of `{contract.name}` are {len(args)} bytes; at most {LARGEST_ARGS} are written down",
                fix="pass a reference instead of the content",
            )
        fields = contract.identity
        chosen = args if fields is None else canonical({name: wire[name] for name in fields})
        identity = identity_of(contract.name, chosen, again)
        if not self._mediator.counted(identity):
            await self._mediator.recall(identity)
        blast = tool.radius(values)
        call = Call(
            contract.name,
            identity,
            self._mediator.count(identity),
            args,
            resource_of(contract.name, wire, contract.resource),
        )
        packed = pack_text(args, cast(JSON, written), self._mediator.line.knows)
        upstream = PythonUpstream(function, values, outside_run)
        return await self._mediator.call(Asked(contract, call, packed, blast, upstream))

    def _masked(self, tool: Tool, wire: Mapping[str, JSON]) -> dict[str, JSON]:
        return {
            name: {"$secret": hmac.digest(self._secret, canonical(value), "sha256").hex()}
            if name in tool.contract.secret
            else value
            for name, value in wire.items()
        }

    async def decide(
        self, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], lane: str, fresh: bool
    ) -> object:
        """As `Door.decide`."""
        function = self._functions.get(ask)
        if function is None:
            function = self._functions[ask] = Function(ask)
        name = f"{getattr(ask, '__module__', '')}.{getattr(ask, '__qualname__', type(ask).__name__)}"
        shape = function.shape("return")
        if self._mediator.held:
            stop_at_pending((args, kwargs))

        async def answer() -> Reply:
            written = shape.write(await _ask(ask, args, kwargs))
            if written.encoding is Encoding.LOST:
                raise AnswerLost(
                    f"the decision of `{name}` could not be written down: {written.value}",
                    fix="return JSON values, or annotate what it returns",
                )
            return Reply(written.data, written.encoding, written.value, written.woven)

        asked = self._request(name, args, kwargs)
        recorded, reply = await self._memory.decide(lane, name, asked, answer, fresh=fresh)
        if recorded is None:
            assert reply is not None
            return reply.value
        payload = recorded.decision.answer
        return shape.read(await self._mediator.line.payload(payload), payload.encoding).value

    def _request(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Packed:
        request = cast("JSON", {"args": list(args), "kwargs": dict(kwargs)})
        try:
            text = canonical(request)
        except Uncanonical:
            try:
                request = Shape(object).to_json(request)
            except (TypeError, ValueError) as error:
                raise BadCall(
                    f"the request to `{name}` cannot be written down: {error}",
                    fix="pass what the model sees as arguments; bind clients and sockets outside",
                ) from None
            text = _canonical(name, request)
        return pack_text(text, request, self._mediator.line.knows)

    async def draw(self, name: str, make: Callable[[], str]) -> str:
        """As `Door.draw`."""
        return await self._memory.draw(name, make)

    async def wait(self, what: float | str) -> object:
        """As `Door.wait`."""
        if not isinstance(what, str):
            return await self._memory.sleep(what, self._mediator.sender.now_ms)
        signal = await self._memory.wait_for(what)
        return Shape(object).read(await self._mediator.line.payload(signal.value), signal.value.encoding).value

    async def checkpoint(self, state: Callable[[], object], note: Note) -> str | None:
        """As `Door.checkpoint`."""
        if note.turn is not None:
            self._mediator.enter()
            kinds = frozenset(tool.contract.kind for tool in note.turn)
            if self._mediator.plans or not self._policy.wants(self._mediator.line.log, kinds):
                return None
        closure = Closure(
            state=lambda: self._dumped(state()),
            room=self._room,
            services=note.services,
            labels=note.labels,
            restores=self._state is not None,
        )
        return await self._memory.checkpoint(closure)

    def _dumped(self, state: object) -> Packed:
        if self._mediator.held:
            stop_at_pending(state)
        written = (self._state or Shape(object)).write(state if self._state else None)
        if written.encoding is Encoding.LOST:
            raise Misuse(
                f"the state could not be written down: {written.value}", fix="declare its type: @agent(state=T)"
            )
        return pack_text(written.data, written.woven, self._mediator.line.knows)

    async def stranded(self, *, undone: bool) -> list[Stranded]:
        """As `Door.stranded`."""
        found = await left_behind(self._mediator.line, undone=undone)
        return [
            Stranded(each.node, each.tool, each.arguments, each.happened, each.answer, each.undone) for each in found
        ]


async def _ask(ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """The model's answer, asked inside the run's context: a decorated tool that it calls still goes through the log."""
    if inspect.iscoroutinefunction(ask):
        return await ask(*args, **kwargs)
    assert current() is not None, "a decision is asked for inside a run"
    answer = await in_thread(lambda: ask(*args, **kwargs))
    return await answer if inspect.isawaitable(answer) else answer


def _as_json(name: str, function: Function, values: Mapping[str, object]) -> dict[str, JSON]:
    wire: dict[str, JSON] = {}
    for parameter, value in values.items():
        try:
            wire[parameter] = function.shape(parameter).to_json(value)
        except (TypeError, ValueError) as error:
            raise BadCall(
                f"`{parameter}` of `{name}` cannot be written down: {error}",
                fix="pass JSON values, or annotate the parameter with a type that pydantic can dump",
            ) from None
    return wire


def _canonical(name: str, value: JSON) -> bytes:
    try:
        return canonical(value)
    except Uncanonical as error:
        raise BadCall(f"the arguments of `{name}` cannot be written down: {error}", fix="pass JSON values") from None
