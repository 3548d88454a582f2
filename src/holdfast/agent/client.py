"""The native door's client: a run whose gateway is another process.

Rules
1. The body of a tool is never run here: its name and its arguments go to the gateway, which has what it needs.
2. Arguments and answers are JSON values, or types that pydantic can dump and load by the annotation.
3. Calls are numbered here, when they are made, and counted there in that order: equal calls in parallel stay two.
4. Nothing is sent twice, but for what only asks. Any other request that is not answered stops the program; started
   again, it goes on from its log.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import inspect
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from holdfast.agent.note import Note
from holdfast.agent.run import Agent, Attempt, Stranded, in_thread
from holdfast.agent.still import Stillness
from holdfast.agent.tool import Tool
from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Encoding
from holdfast.errors import (
    AnswerLost,
    Asleep,
    AwaitingSignal,
    BadCall,
    Busy,
    Cancelled,
    Held,
    HoldfastError,
    InDoubt,
    Misuse,
    NotHappened,
    Refused,
    RetryAfter,
    Stopped,
    Waiting,
)
from holdfast.shape import Function, Shape, Written

CONNECT_S = 30.0
IDLE_S = 20.0  # after which a connection is not used again: the other side may be about to close it
TRIES = 3  # of what only asks
TURNS = 4
_ANY = Shape(object)
_WAITING: Mapping[str, type[Waiting]] = {"held": Held, "in_doubt": InDoubt, "asleep": Asleep, "waiting": AwaitingSignal}
_RAISED: Mapping[str, type[HoldfastError]] = {
    "refused": Refused, "bad_call": BadCall, "not_happened": NotHappened, "cancelled": Cancelled, "busy": Busy,
    "misuse": Misuse, "stopped": Stopped, "answer_lost": AnswerLost,
}  # fmt: skip


class Client:
    """A connection to the native door at `url` (`http://HOST:PORT`, `https://…`, or `unix:PATH`), with a handle. Its
    requests may be made from any loop."""

    def __init__(self, url: str, handle: str) -> None:
        self.still = Stillness()
        self._url = url
        self._headers = {"Authorization": f"Bearer {handle}", "Content-Type": "application/json"}
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()

    async def post(self, path: str, **asked: object) -> dict[str, Any]:
        """What the gateway answers, when it does. Raises what it says, Stopped where it cannot be reached."""
        data = json.dumps(asked)
        return cast("dict[str, Any]", await in_thread(lambda: self.still.moving(lambda: self._ask("POST", path, data))))

    async def post_still(self, path: str, **asked: object) -> dict[str, Any]:
        """As `post`, inside a block of `still.held`."""
        data = json.dumps(asked)
        return cast("dict[str, Any]", await in_thread(lambda: self._ask("POST", path, data)))

    def post_at_once(self, path: str, **asked: object) -> dict[str, Any]:
        """As `post_still`, and nothing else of this loop goes on meanwhile."""
        return self._ask("POST", path, json.dumps(asked))

    async def get(self, path: str) -> dict[str, Any]:
        """As `post`, for what only asks: where no answer comes, it is asked again."""
        return cast("dict[str, Any]", await in_thread(lambda: self._ask("GET", path, None)))

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        tries = TRIES if body is None else 1
        while True:
            tries -= 1
            connection = self._taken()
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                status, data = answer.status, answer.read()
                told: object = json.loads(data)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                if not tries:
                    why = f"the gateway does not answer: {_why(error)}"
                    raise Stopped(why, where=self._url, fix="is it running?") from None
            except BaseException:
                connection.close()
                raise
        with self._lock:
            self._idle.append((time.monotonic(), connection))
        if status == 200 and isinstance(told, dict):
            return cast("dict[str, Any]", told)
        raise _error(told, status)

    def _taken(self) -> http.client.HTTPConnection:
        """A connection that nobody uses."""
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE_S:
                    return connection
                connection.close()
        return self._made()

    def _made(self) -> http.client.HTTPConnection:
        if self._url.startswith("unix:"):
            return _Local(self._url.removeprefix("unix:"))
        try:
            parts = urlsplit(self._url)
            kind = {"http": _Plain, "https": _Tls}[parts.scheme]
            return kind(parts.hostname or "", parts.port, timeout=CONNECT_S)
        except (ValueError, KeyError):
            raise Misuse(f"`{self._url}` is no door", fix="HOLDFAST_DOOR is https://HOST:PORT, or unix:PATH") from None


class RemoteDoor:
    """The door of a run of `agent` that is elsewhere, as `Door`. `offered`: the tools that the gateway offers."""

    def __init__(self, client: Client, agent: Agent, offered: Sequence[str]) -> None:
        self._client = client
        self._agent = agent
        self._offered = offered
        self._functions: dict[object, Function] = {}
        self._name = secrets.token_hex(8)
        self._made: dict[str, int] = {}

    async def call(self, tool: Tool, values: Mapping[str, object], again: str | None) -> object:
        """As `Door.call`."""
        contract, function = tool.contract, self._function(tool.function)
        name = self._named(contract.name)
        args = {each: _sendable(function, contract.name, each, value) for each, value in values.items()}
        made = self._made.get(name, 0)
        self._made[name] = made + 1
        told = await self._client.post("/v1/call", tool=name, args=args, again=again, maker=self._name, made=made)
        return _value(told, function.shape("return"))

    def _named(self, tool: str) -> str:
        """The gateway's name of a tool: as it is, or that of the one system that offers it."""
        if tool in self._offered:
            return tool
        for own in (tool, tool.rpartition(".")[2]):
            found = [each for each in self._offered if each.partition(".")[2] == own]
            if len(found) > 1:
                raise Misuse(f"`{tool}` is offered by more than one system: {', '.join(found)}",
                             fix="say which: @tool(name='SYSTEM.OPERATION')")  # fmt: skip
            if found:
                return found[0]
        raise Refused(f"the gateway offers no tool `{tool}` to this agent",
                      fix="name its module under [upstreams], and the tool under [agents.NAME]")  # fmt: skip

    def _function(self, call: Callable[..., object]) -> Function:
        found = self._functions.get(call)
        if found is None:
            found = self._functions[call] = Function(call)
        return found

    async def decide(
        self, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], lane: str, fresh: bool
    ) -> object:
        """As `Door.decide`."""
        name = f"{getattr(ask, '__module__', '')}.{getattr(ask, '__qualname__', type(ask).__name__)}"
        asked = _request(name, args, kwargs)
        told = await self._client.post("/v1/decide", name=name, asked=asked, lane=lane, fresh=fresh)
        shape = self._function(ask).shape("return")
        if "ticket" in told:
            told = await self._found_out(told["ticket"], ask, args, kwargs, name, shape)
        return _value(told, shape)

    async def _found_out(
        self, ticket: str, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], name: str,
        shape: Shape,
    ) -> dict[str, Any]:  # fmt: skip
        try:
            if inspect.iscoroutinefunction(ask):
                answer = await ask(*args, **kwargs)
            else:
                answer = await in_thread(lambda: ask(*args, **kwargs))
                answer = await answer if inspect.isawaitable(answer) else answer
            sent = sent_as(shape.write(answer), f"the decision of `{name}`")
        except BaseException:
            with contextlib.suppress(HoldfastError):
                await self._client.post("/v1/decided", ticket=ticket, failed=True)
            raise
        return await self._client.post("/v1/decided", ticket=ticket, **sent)

    async def draw(self, name: str, make: Callable[[], str]) -> str:
        """As `Door.draw`."""
        return str((await self._client.post("/v1/draw", name=name, value=make()))["value"])

    async def wait(self, what: float | str) -> object:
        """As `Door.wait`."""
        asked = {"signal": what} if isinstance(what, str) else {"seconds": what}
        return (await self._client.post("/v1/wait", **asked))["value"]

    async def checkpoint(self, state: Callable[[], object], note: Note) -> str | None:
        """As `Door.checkpoint`. Nothing else is asked for between the moment of the state and the checkpoint."""
        agent, turn = self._agent, None
        if note.turn is not None:
            kinds = sorted({tool.contract.kind.value for tool in note.turn})
            turn = {"kinds": kinds, "every": agent.checkpoint_every, "before": agent.checkpoint_before}
        async with self._client.still.held():
            for _ in range(TURNS):  # whoever waited for an answer that is there has heard it
                await asyncio.sleep(0)
            stated = agent.state is not None
            written = Shape(agent.state if stated else object).write(state() if stated else None)
            if written.encoding is not Encoding.JSON:
                what = f"the state could not be written down: {written.value!r}"
                raise Misuse(what, fix="declare its type: @agent(state=T)")
            asked = {"state": written.woven, "services": note.services, "labels": note.labels, "turn": turn}
            if agent.workspace:  # state and files are of one moment
                told = self._client.post_at_once("/v1/checkpoint", **asked)
            else:
                told = await self._client.post_still("/v1/checkpoint", **asked)
        return cast("str | None", told["node"])

    async def stranded(self, *, undone: bool) -> list[Stranded]:
        """As `Door.stranded`."""
        told = await self._client.get(f"/v1/stranded{'?undone' if undone else ''}")
        return [Stranded(**each) for each in told["stranded"]]


class RemoteBranches:
    """What a run behind a gateway can do about branches: be on one. As `Branches`."""

    def __init__(self, settings: Mapping[str, JSON]) -> None:
        self._settings = settings

    async def explore(
        self, candidates: Sequence[JSON], score: Callable[[Attempt], object] | None, keep: int, so_far: object
    ) -> JSON:
        """Not here."""
        raise Misuse("a program behind a gateway does not explore", fix="run the agent embedded, or fork by the CLI")

    async def offer(self, value: object) -> None:
        """Nothing: it is on no speculative branch."""

    async def fork(self, seq: int, why: str, settings: Mapping[str, JSON]) -> None:
        """Not here."""
        raise Misuse("a program behind a gateway does not fork itself", fix="holdfast fork RUN@NODE")

    async def setting(self, name: str, default: JSON) -> JSON:
        """As `Branches.setting`."""
        return self._settings.get(name, default)


class _Plain(http.client.HTTPConnection):
    """HTTP over TCP: connecting has an end, waiting for an answer has none."""

    def connect(self) -> None:
        super().connect()
        _patient(self.sock)


class _Tls(http.client.HTTPSConnection):
    """HTTP over TLS, whose certificate is checked."""

    def connect(self) -> None:
        super().connect()
        _patient(self.sock)


class _Local(http.client.HTTPConnection):
    """HTTP over a local socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _patient(connection: socket.socket) -> None:
    """Wait for as long as the other side lives: the system asks it now and then."""
    connection.settimeout(None)
    for option, seconds in (("SO_KEEPALIVE", 1), ("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        level = socket.SOL_SOCKET if option.startswith("SO_") else socket.IPPROTO_TCP
        if hasattr(socket, option):
            connection.setsockopt(level, getattr(socket, option), seconds)


def _why(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "it has closed the connection"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _error(told: object, status: int) -> BaseException:
    about = cast("Mapping[str, Any]", told).get("error") if isinstance(told, dict) else None
    found: Mapping[str, Any] = cast("Mapping[str, Any]", about) if isinstance(about, dict) else {}
    kind, what = str(found.get("kind", "")), str(found.get("what", f"the gateway answered {status}"))
    where, fix = str(found.get("where", "")), str(found.get("fix", ""))
    if kind in _WAITING:
        return _WAITING[kind](what, where=where, fix=fix)
    if kind == "retry_after":
        return RetryAfter(5.0, what)
    return _RAISED.get(kind, Stopped)(what, where=where, fix=fix)


def _sendable(function: Function, tool: str, parameter: str, value: object) -> JSON:
    """An argument as JSON. Raises BadCall."""
    try:
        canonical(cast(JSON, value))
        return cast(JSON, value)
    except Uncanonical:
        try:
            found = function.shape(parameter).to_json(value)
            canonical(found)
        except (TypeError, ValueError) as error:
            raise BadCall(
                f"`{parameter}` of `{tool}` cannot be sent: {error}",
                fix="pass JSON values, or annotate the parameter with a type that pydantic can dump",
            ) from None
        return found


def _request(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> JSON:
    """What a decision is asked for, as JSON. Raises BadCall."""
    request = cast("JSON", {"args": list(args), "kwargs": dict(kwargs)})
    try:
        canonical(request)
    except Uncanonical:
        try:
            request = _ANY.to_json(request)
            canonical(request)
        except (TypeError, ValueError) as error:
            raise BadCall(
                f"the request to `{name}` cannot be written down: {error}",
                fix="pass what the model sees as arguments; bind clients and sockets outside",
            ) from None
    return request


def sent_as(written: Written, what: str) -> dict[str, Any]:
    """A written value as it goes to the gateway. Raises AnswerLost."""
    if written.encoding is Encoding.LOST:
        raise AnswerLost(
            f"{what} could not be written down: {written.value}", fix="return JSON values, or annotate what it returns"
        )
    if written.encoding is Encoding.BYTES:
        return {"answer_b64": base64.b64encode(written.data).decode()}
    return {"answer": written.woven}


def _value(told: Mapping[str, Any], shape: Shape) -> object:
    """An answer as the annotation of its function says."""
    if "answer_b64" in told:
        return base64.b64decode(told["answer_b64"])
    return shape.read(json.dumps(told["answer"]).encode(), Encoding.JSON).value
