"""The inside of a tool host: a process that runs the user's own tools for a gateway, and does nothing else.

Rules
1. A tool runs exactly as in embedded mode (`upstreams/python.py`): same key, same outcomes, same threads.
2. `begun` is said before a function is called: a host that dies without having said it has not called anything.
3. When the gateway has gone, the host ends at once, with all that its tools have started.
4. Nobody else reads the credentials here: no core is dumped, no descriptor is inherited, answers are
   all that is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import inspect
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NoReturn, Protocol, cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import Contract
from holdfast.core.effect import Encoding, Happened, NotHappened, legible
from holdfast.errors import BadCall, HoldfastError, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.frames import (
    HEADER,
    LARGEST_ANSWER,
    as_text,
    bytes_in,
    encoding_in,
    packed,
    size_of,
    unpacked,
)
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.python import PythonUpstream, at_work
from holdfast.shape import Function, hints_of

_NOT_DUMPABLE = 4  # prctl(PR_SET_DUMPABLE): neither a core nor /proc/PID/environ is shown to others of this user


class Made(Protocol):
    """What `@tool` makes of a function (`agent/tool.py`)."""

    contract: Contract
    function: Callable[..., object]
    probe: Callable[..., object] | None
    undo: Callable[..., object] | None
    signature: inspect.Signature

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """All arguments by name."""
        ...

    def radius(self, values: Mapping[str, object]) -> int | None:
        """How much a call touches."""
        ...


class Host:
    """Answers what is asked on `connection`, for as long as the gateway holds the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._made: dict[str, tuple[Made, Function]] = {}
        self._at: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the gateway has gone."""
        threading.Thread(target=self._listen, name="holdfast host", daemon=True).start()
        await asyncio.Event().wait()

    def _listen(self) -> None:
        try:
            while True:
                message = unpacked(self._exactly(size_of(self._exactly(HEADER))))
                self._loop.call_soon_threadsafe(self._hear, message)
        except (OSError, EOFError, HoldfastError, RuntimeError):
            _end()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _hear(self, message: dict[str, Any]) -> None:
        number = cast(int, message["id"])
        if message["do"] != "cancel":
            self._at[number] = self._loop.create_task(self._work(number, message))
        elif (task := self._at.get(number)) is not None:
            task.cancel()

    async def _work(self, id: int, message: dict[str, Any]) -> None:
        try:
            said = await self._done(id, message)
        except RetryAfter as later:
            said = {"came": "retry_after", "seconds": later.seconds, "what": legible(later.what)}
        except DidNotHappen as refusal:
            said = {"came": "not_happened", "what": legible(refusal.what)}
        except BadCall as error:
            said = {"came": "bad_call", "what": legible(error.what), "fix": legible(error.fix)}
        except BaseException as failure:  # noqa: BLE001 - whatever a tool raises: nobody knows what came of it
            said = {"came": "failed", "type": type(failure).__name__, "what": legible(failure)}
        key = cast(str, message.get("key", ""))
        while key and at_work(key):  # noqa: ASYNC110 - a thread that nobody waits for: it counts until it returns
            await asyncio.sleep(0.02)
        self._at.pop(id, None)
        self._say(id, said)

    def _say(self, id: int, said: dict[str, Any]) -> None:
        try:
            self._connection.sendall(packed({"id": id, **said}))
        except OSError:
            _end()

    # --- what may be asked ---

    async def _done(self, id: int, message: dict[str, Any]) -> dict[str, Any]:
        what = message["do"]
        if what == "open":
            return await asyncio.to_thread(self._open, message["modules"], message["path"])
        made, function = self._tool(message["tool"])
        if what == "bind":
            return await asyncio.to_thread(_bound, made, function, message["args"])
        upstream = PythonUpstream(function, {}, contextlib.nullcontext)
        args, key = canonical(message["args"]), cast(str, message["key"])
        receipt = Receipt("", 1 if key else 0, made.contract.name, key, b"")
        self._say(id, {"came": "begun"})
        if what == "call":
            return _told(await upstream.perform(args, receipt))
        if what == "undo":
            return _told(await upstream.undo(args, _answer(upstream, message.get("answer")), receipt))
        assert what == "probe", what
        match await upstream.probe(args, receipt):
            case Happened(reply):
                return {**_told(reply), "came": "happened"}
            case NotHappened(reason):
                return {"came": "absent", "what": legible(reason)}
            case None:
                return {"came": "unknown"}

    def _tool(self, name: str) -> tuple[Made, Function]:
        found = self._made.get(name)
        if found is None:
            raise DidNotHappen(f"there is no tool `{name}` in this host")
        return found

    def _open(self, modules: list[str], path: list[str]) -> dict[str, Any]:
        sys.path[:0] = path
        tools: list[dict[str, Any]] = []
        for name in modules:
            try:
                module = importlib.import_module(name)
            except BaseException as error:  # noqa: BLE001 - a module may raise anything when it is imported
                return {
                    "came": "refused",
                    "what": f"`{name}` cannot be imported: {type(error).__name__}: {legible(error)}",
                }
            for made in _tools_of(module):
                if made.contract.name not in self._made:
                    self._made[made.contract.name] = made, Function(made.function, made.probe, made.undo)
                    tools.append(_described(name, made))
        return {"came": "opened", "tools": tools}


def _tools_of(module: ModuleType) -> list[Made]:
    """The tools that are written in a module, not those that it has imported."""
    found: list[Made] = []
    for value in list(vars(module).values()):
        made = getattr(value, "holdfast", None) if inspect.isfunction(value) else None
        if isinstance(getattr(made, "contract", None), Contract):
            tool = cast(Made, made)
            if tool.function.__module__ == module.__name__:
                found.append(tool)
    return found


def _described(module: str, made: Made) -> dict[str, Any]:
    contract = made.contract
    return {
        "module": module,
        "name": contract.name,
        "kind": contract.kind.value,
        "identity": contract.identity,
        "resource": contract.resource,
        "repeat": contract.repeat.value,
        "drift": contract.drift.value,
        "key_ttl_ms": contract.key_ttl_ms,
        "late_ms": contract.late_ms,
        "timeout_ms": contract.timeout_ms,
        "probe": contract.probe,
        "undo": contract.undo,
        "approval": contract.approval.value,
        "secret": contract.secret,
        "description": legible(inspect.getdoc(made.function) or "", 10_000),
        "schema": _schema(made),
    }


def _schema(made: Made) -> JSON:
    """The JSON schema of the arguments."""
    from pydantic import TypeAdapter

    try:
        found = TypeAdapter(cast(Any, made.function)).json_schema()
        return cast(JSON, json.loads(json.dumps(found)))
    except Exception:  # noqa: BLE001 - an annotation that has no schema: then only the names are told
        names = list(made.signature.parameters)
        return {"type": "object", "properties": {name: {} for name in names}}


def _bound(made: Made, function: Function, args: dict[str, JSON]) -> dict[str, Any]:
    """A call's arguments with their defaults, as its annotations read them, and how much it touches."""
    values = made.bind((), cast("Mapping[str, object]", args))
    readers = _readers(made.function)
    wire: dict[str, JSON] = {}
    for name, value in values.items():
        try:
            if name in args and name in readers:
                values[name] = readers[name](value)
            wire[name] = function.shape(name).to_json(values[name])
        except (ValueError, TypeError) as error:
            raise BadCall(
                f"`{name}` of `{made.contract.name}` does not fit: {legible(error, 500)}", fix="see its schema"
            ) from None
    return {"came": "bound", "args": wire, "blast": made.radius(values)}


@cache
def _readers(function: Callable[..., object]) -> Mapping[str, Callable[[object], object]]:
    """What reads the value of each annotated parameter, or raises ValueError."""
    from pydantic import TypeAdapter

    return {name: TypeAdapter(cast(Any, hint)).validate_python for name, hint in hints_of(function).items()}


def _answer(upstream: PythonUpstream, told: dict[str, Any] | None) -> Reply | None:
    return None if told is None else upstream.read(bytes_in(told, "data"), encoding_in(told))


def _told(reply: Reply) -> dict[str, Any]:
    data, encoding = reply.data, reply.encoding
    if len(data) > LARGEST_ANSWER:
        text = {"reason": f"{len(data)} bytes are more than {LARGEST_ANSWER}", "type": type(reply.value).__name__}
        data, encoding = json.dumps(text).encode(), Encoding.LOST
    return {"came": "reply", "data": as_text(data), "encoding": encoding.value, "etag": reply.etag}


def _end() -> NoReturn:
    """Rule 3."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def _alone() -> None:
    """Let nobody look into this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0)


async def _serve(connection: socket.socket) -> None:
    await Host(connection).serve()


def main(descriptor: int) -> None:
    """Be a tool host on this descriptor, a connected stream socket."""
    _alone()
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    connection.setblocking(True)
    asyncio.run(_serve(connection))
