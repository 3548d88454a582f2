"""The native door's client: a run whose gateway is another process.

Rules
1. The body of a tool is never run here: its name and its arguments go to the gateway, which has what it needs.
2. Arguments and answers are JSON values, or types that pydantic can dump and load by the annotation.
3. Equal calls in parallel stay two: they are counted here, when they are made.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import inspect
import json
import socket
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from holdfast.agent.note import Note
from holdfast.agent.run import Attempt, Stranded, in_thread
from holdfast.agent.tool import Tool
from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.effect import Kind, identity_of
from holdfast.errors import (
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

TIMEOUT_S = 900.0
_WAITING: Mapping[str, type[Waiting]] = {"held": Held, "in_doubt": InDoubt, "asleep": Asleep, "waiting": AwaitingSignal}
_RAISED: Mapping[str, type[HoldfastError]] = {
    "refused": Refused, "bad_call": BadCall, "not_happened": NotHappened, "cancelled": Cancelled, "busy": Busy,
    "misuse": Misuse, "stopped": Stopped,
}  # fmt: skip


class Client:
    """A connection to the native door at `url` (`http://HOST:PORT`, `https://…`, or `unix:PATH`), with a handle."""

    def __init__(self, url: str, handle: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {handle}", "Content-Type": "application/json"}
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    async def post(self, path: str, **asked: object) -> dict[str, Any]:
        """What the gateway answers. Raises what it says, Stopped where it cannot be reached."""
        return await asyncio.to_thread(self._ask, "POST", path, json.dumps(asked))

    async def get(self, path: str) -> dict[str, Any]:
        """As `post`, for what only asks."""
        return await asyncio.to_thread(self._ask, "GET", path, None)

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        with self._lock:
            connection = self._idle.pop() if self._idle else self._made()
        try:
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError):  # one that was idle for too long
                connection.close()
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
            status, data = answer.status, answer.read()
            told = cast("dict[str, Any]", json.loads(data))
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise Stopped(f"the gateway does not answer: {error}", where=self._url, fix="is it running?") from None
        with self._lock:
            self._idle.append(connection)
        if status == 200:
            return told
        raise _error(cast("dict[str, str]", told.get("error", {})), status)

    def _made(self) -> http.client.HTTPConnection:
        if self._url.startswith("unix:"):
            return _Local(self._url.removeprefix("unix:"))
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


class RemoteDoor:
    """A run's door that is elsewhere, as `Door`. `names`: the gateway's name of each tool, by its own name."""

    def __init__(self, client: Client, names: Mapping[str, str]) -> None:
        self._client = client
        self._names = names
        self._counts: dict[bytes, int] = {}

    async def call(self, tool: Tool, values: Mapping[str, object], again: str | None) -> object:
        """As `Door.call`."""
        contract = tool.contract
        name = self._names.get(contract.name) or self._names.get(contract.name.rpartition(".")[2])
        if name is None:
            raise Refused(f"the gateway offers no tool `{contract.name}`", fix="name its module under [upstreams]")
        args = {parameter: _plain(value, parameter, contract.name) for parameter, value in values.items()}
        chosen = args if contract.identity is None else {each: args[each] for each in contract.identity}
        identity = identity_of(name, canonical(cast(JSON, chosen)), again)
        n = self._counts.get(identity, 0)
        self._counts[identity] = n + 1
        told = await self._client.post("/v1/call", tool=name, args=args, again=again, n=n)
        if "answer_b64" in told:
            return base64.b64decode(told["answer_b64"])
        return _loaded(told["answer"], tool.function)

    async def decide(
        self, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], lane: str, fresh: bool
    ) -> object:
        """As `Door.decide`."""
        name = f"{getattr(ask, '__module__', '')}.{getattr(ask, '__qualname__', type(ask).__name__)}"
        asked = _plain({"args": list(args), "kwargs": dict(kwargs)}, "request", name)
        told = await self._client.post("/v1/decide", name=name, asked=asked, lane=lane, fresh=fresh)
        if "ticket" in told:
            told = await self._found_out(told["ticket"], ask, args, kwargs, name)
        return _loaded(told["answer"], ask)

    async def _found_out(
        self, ticket: str, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], name: str
    ) -> dict[str, Any]:
        try:
            if inspect.iscoroutinefunction(ask):
                answer = await ask(*args, **kwargs)
            else:
                answer = await in_thread(lambda: ask(*args, **kwargs))
                answer = await answer if inspect.isawaitable(answer) else answer
            plain = _plain(answer, "answer", name)
        except BaseException:
            with contextlib.suppress(HoldfastError):
                await self._client.post("/v1/decided", ticket=ticket, failed=True)
            raise
        return await self._client.post("/v1/decided", ticket=ticket, answer=plain)

    async def draw(self, name: str, make: Callable[[], str]) -> str:
        """As `Door.draw`."""
        return str((await self._client.post("/v1/draw", name=name, value=make()))["value"])

    async def wait(self, what: float | str) -> object:
        """As `Door.wait`."""
        asked = {"signal": what} if isinstance(what, str) else {"seconds": what}
        return (await self._client.post("/v1/wait", **asked))["value"]

    async def checkpoint(self, state: Callable[[], object], note: Note) -> str | None:
        """As `Door.checkpoint`."""
        turn = None if note.turn is None else [tool.contract.kind for tool in note.turn]
        if turn is not None and turn and Kind.IRREVERSIBLE not in turn:
            return None
        plain = _plain(state(), "state", "the checkpoint")
        told = await self._client.post(
            "/v1/checkpoint", state=plain, services=list(note.services), labels=list(note.labels)
        )
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


class _Local(http.client.HTTPConnection):
    """HTTP over a local socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def _error(told: Mapping[str, str], status: int) -> BaseException:
    kind, what = told.get("kind", ""), told.get("what", f"the gateway answered {status}")
    where, fix = told.get("where", ""), told.get("fix", "")
    if kind in _WAITING:
        return _WAITING[kind](what, where=where, fix=fix)
    if kind == "retry_after":
        return RetryAfter(5.0, what)
    return _RAISED.get(kind, Stopped)(what, where=where, fix=fix)


def _plain(value: object, what: str, name: str) -> JSON:
    """A value as JSON. Raises BadCall."""
    try:
        canonical(cast(JSON, value))
    except (Uncanonical, TypeError):
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        try:
            value = to_jsonable_python(value)
            canonical(cast(JSON, value))
        except (PydanticSerializationError, Uncanonical, ValueError, TypeError) as error:
            raise BadCall(f"`{what}` of `{name}` cannot be sent: {error}", fix="pass JSON values") from None
    return cast(JSON, value)


def _loaded(value: Any, function: Callable[..., object]) -> object:
    """An answer as the annotation of the function says."""
    try:
        hint = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return value
    if hint is None or hint in (Any, object, str, int, float, bool, dict, list):
        return value
    from pydantic import TypeAdapter

    return TypeAdapter[Any](hint).validate_python(value)
