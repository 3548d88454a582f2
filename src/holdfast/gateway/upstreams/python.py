"""The user's own Python functions, in this process (embedded mode).

Rules
1. The function runs outside the run's context: a tool called inside a tool is a plain function.
2. A synchronous function runs in a thread of its own. If it is left behind by a timeout, it counts as running until it
   returns.
3. A function may tell the version of what it read or wrote: it answers `Happened(answer, etag)`. The seal keeps the
   version; whoever called sees the answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import cast

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, Happened, NotHappened, legible
from holdfast.errors import BadCall, Misuse
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Reply
from holdfast.shape import Function, Shape, Written

_key: ContextVar[str | None] = ContextVar("holdfast_key", default=None)
LONGEST_ETAG = 500  # characters; a longer one is kept by its digest
_at_work: list[str | None] = []  # the keys under which functions are at work in threads of this process


def key() -> str:
    """The idempotency key (32 hex digits) of the effect that is being performed. Raises Misuse where none is: outside a
    run, in an agent, in a read."""
    found = _key.get()
    if found is None:
        raise Misuse(
            "`holdfast.key()` was called where no effect is performed",
            fix="call it in the body of a tool that writes, and call the tool in a run",
        )
    return found


def at_work(key: str) -> bool:
    """Whether a function that was called under this key, in whatever life of the run, is still at work here."""
    return key in _at_work


class PythonUpstream:
    """One call of a user's function with the arguments `values`. `outside` is a block that belongs to no run."""

    def __init__(
        self, function: Function, values: Mapping[str, object], outside: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._function = function
        self._values = values
        self._outside = outside

    def running(self, key: str) -> bool:
        """Whether a function that was called under this key has not returned yet."""
        return at_work(key)

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Call the function."""
        function, values = self._function, self._load(args)
        if function.awaited:
            with self._outside():
                token = _key.set(receipt.key or None)
                try:
                    answer = await cast("Awaitable[object]", function.call(**values))
                finally:
                    _key.reset(token)
        else:
            answer = await self._run(function.call, values, receipt.key or None)
        return self._told(answer)

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Ask the tool's probe."""
        assert self._function.probe is not None, "the contract says that there is a probe"
        try:
            values = _fitting(self._function.probe, self._load(args))
            found = await self._run(self._function.probe, values, receipt.key, sends=False)
        except DidNotHappen as absent:
            return NotHappened(absent.what)
        if isinstance(found, Happened):
            reply = self._told(cast("Happened[object]", found))
            return Happened(reply, reply.etag)
        if isinstance(found, DidNotHappen):
            return NotHappened(found.what)
        if found is None:
            return None
        raise Misuse(
            f"a probe answered {type(found).__name__}", fix="answer Happened(answer), NotHappened(reason) or None"
        )

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """Call the tool's undo."""
        assert self._function.undo is not None, "the contract says that there is an undo"
        values = dict(self._load(args))
        if "answer" in inspect.signature(self._function.undo).parameters:
            values["answer"] = None if answer is None else answer.value
        undone = await self._run(self._function.undo, _fitting(self._function.undo, values), receipt.key)
        return _reply(Shape(object).write(undone))

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As the function's annotation says."""
        return _reply(self._function.shape("return").read(data, encoding))

    def _told(self, answer: object) -> Reply:
        """What a function answered, with the version that it told."""
        etag = None
        if isinstance(answer, Happened):
            told = cast("Happened[object]", answer)
            answer, etag = told.answer, _etag(told.etag)
        return _reply(self._function.shape("return").write(answer), etag)

    def _load(self, args: bytes | None) -> Mapping[str, object]:
        if args is None:
            return self._values
        import json

        recorded = cast("dict[str, JSON]", json.loads(args))
        try:
            return {name: self._function.shape(name).from_json(value) for name, value in recorded.items()}
        except ValueError as error:
            raise BadCall(f"recorded arguments no longer fit the function: {error}") from error

    async def _run(
        self, function: Callable[..., object], values: Mapping[str, object], key: str | None, *, sends: bool = True
    ) -> object:
        if inspect.iscoroutinefunction(function):
            with self._outside():
                token = _key.set(key)
                try:
                    return await function(**values)
                finally:
                    _key.reset(token)
        context = contextvars.copy_context()

        def plainly() -> object:
            with self._outside():
                _key.set(key)
                return function(**values)

        return await self._in_thread(lambda: context.run(plainly), key if sends else None)

    async def _in_thread(self, work: Callable[[], object], key: str | None) -> object:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()

        def body() -> None:
            try:
                result, error = work(), None
            except StopIteration as ended:  # which no coroutine can raise
                result, error = (
                    None,
                    RuntimeError("the function raised StopIteration").with_traceback(ended.__traceback__),
                )
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                result, error = None, raised
            finally:
                _at_work.remove(key)
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:  # the loop has closed: nobody waits any more
                return

        def finish(result: object, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        _at_work.append(key)
        try:
            threading.Thread(target=body, name="holdfast tool", daemon=True).start()
        except RuntimeError:  # no more threads: it was not called
            _at_work.remove(key)
            raise DidNotHappen("no thread could be started for it") from None
        return await done


def _fitting(function: Callable[..., object], values: Mapping[str, object]) -> Mapping[str, object]:
    """Those of the values that the function names; all, if it takes any name."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return values
    return {name: value for name, value in values.items() if name in parameters}


def _reply(written: Written, etag: str | None = None) -> Reply:
    return Reply(written.data, written.encoding, written.value, written.woven, etag)


def _etag(told: object) -> str | None:
    """A version as it may stand in a record. One that may not is kept by its digest, so that two versions stay two; one
    that has no text is none. Total: never raises."""
    if told is None:
        return None
    try:
        text = str(told)
        data = text.encode("utf-8", "surrogatepass")
    except Exception:  # noqa: BLE001 - somebody else's class: it may do anything
        return None
    fits = legible(text, LONGEST_ETAG) == text
    return (text or None) if fits else f"sha256:{hashlib.sha256(data).hexdigest()}"
