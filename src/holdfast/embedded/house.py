"""A store with a gateway in this process: where runs are started, resumed and attended to.

Rules
1. A run that must wait is unwound and costs nothing; it is entered again when what it waits for has come.
2. An agent's exception does not end a run for good: running it again goes on from its log.
3. A claim is given back with the last thing that is written, or when the process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar, cast

from holdfast.agent.run import Agent, Run
from holdfast.core.canonical import JSON
from holdfast.core.codec import decode
from holdfast.core.effect import Encoding, Payload, legible
from holdfast.core.log import Log
from holdfast.core.payload import Packed, pack_bytes, pack_text
from holdfast.core.record import Claim, Finished, Record, Started
from holdfast.embedded.door import EmbeddedDoor
from holdfast.errors import BadCall, Cancelled, HoldfastError, Misuse, StoreFull, Waiting
from holdfast.gateway.decide import Memory
from holdfast.gateway.desk import Desk
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.line import FINISHED_KEY, STARTED_KEY, Line, Opened, read_log, read_payload
from holdfast.gateway.mediate import Mediator, was_cancelled
from holdfast.gateway.upstreams.python import Function, at_work
from holdfast.gateway.whole import whole
from holdfast.shape import Shape
from holdfast.store import Grant, Store
from holdfast.store.url import Opening, open_url

T = TypeVar("T")
POLL_S = (0.02, 1.0)
_PLAIN = Shape(object)


def open_store(url: str) -> House:
    """The house at `url`: `sqlite:///runs.db` (relative), `sqlite:////var/lib/runs.db` (absolute), `memory://`.

    SQLite takes `?claim_ttl_s=15&flush_s=1&key=FILE&anchor=FILE`. Raises Stopped where the store cannot be trusted or
    written.
    """
    return House(open_url(url))


class Unsaid(Enum):
    """What was not said: None is an answer like any other."""

    UNSAID = 0


class House:
    """Runs, and what people do about them. A context manager; also an asynchronous one."""

    def __init__(self, opening: Opening) -> None:
        self.store: Store = opening.store
        self.desk = Desk(self.store)
        self._secret = opening.secret
        self._functions: dict[object, Function] = {}
        self._seen: dict[str, int] = {}
        self._side_loop: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()
        self._lives = 0
        self._busy: set[str] = set()
        self._own_loop = False

    # --- running ---

    def run(
        self, agent: Agent, task: JSON = None, *, id: str | None = None, wait: bool = True, on_divergence: str = "brief"
    ) -> Any:
        """Run `agent` on `task` to its end; its answer. An `id` that exists resumes. With `wait`, a run that is held,
        asleep or in doubt blocks here until it can go on; without, it raises Waiting. Raises Claimed if another worker
        is at it, Cancelled, and what the agent raises."""
        self._own_loop = True
        return self._plainly(self.arun(agent, task, id=id, wait=wait, on_divergence=on_divergence))

    async def arun(
        self, agent: Agent, task: JSON = None, *, id: str | None = None, wait: bool = True, on_divergence: str = "brief"
    ) -> Any:
        """As `run`, to be awaited."""
        if not isinstance(cast(object, agent), Agent):
            raise BadCall("what is run must be an agent", fix="decorate the function with @agent")
        branch = f"{_checked_id(uuid.uuid4().hex if id is None else id)}@main"
        if on_divergence not in tuple(OnDivergence):
            raise BadCall(f"`{on_divergence}` is nothing to do on a divergence", fix="choose brief, ask or stop")
        while True:
            if wait:
                await self._at_rest(branch)
            try:
                return await self._life(agent, branch, task, OnDivergence(on_divergence))
            except Waiting as waiting:
                if not wait:
                    raise
                await self.until(branch.partition("@")[0], waiting)

    async def _life(self, agent: Agent, branch: str, task: JSON, setting: OnDivergence) -> object:
        """One life of a run: from a claim to an end, a wait or a death."""
        ended = await self._ended(branch)
        if ended is not None:
            return await self._recorded(branch, ended, task)
        grant = await self._claimed(branch)
        line: Line | None = None
        self._lives += 1
        try:
            opened = await read_log(self.store, branch, restore=agent.state is not None)
            if opened.log.finished is not None and opened.log.finished.answer is not None:  # since it was looked at
                return await self._recorded(branch, opened.log.finished.answer, task)
            if opened.log.cancelled is not None:
                raise was_cancelled(opened.log.cancelled, branch)
            line = Line(self.store, opened, grant.epoch)
            task = await self._begin(line, opened, agent, task, grant.previous)
            return await self._drive(line, agent, task, setting)
        finally:
            self._lives -= 1
            await self._let_go(branch, line, grant.epoch)

    async def _claimed(self, branch: str) -> Grant:
        """The claim. One that came when nobody waited for it any more is given back."""
        lost: list[Grant] = []
        try:
            return await whole(self.store.claim(branch), lost)
        finally:
            for grant in lost:
                await self._let_go(branch, None, grant.epoch)

    async def _begin(self, line: Line, opened: Opened, agent: Agent, task: JSON, previous: str) -> JSON:
        """Write the claim, and for a new run its start. The task, as the log has it."""
        records: list[Record] = [Claim(worker=f"{socket.gethostname()}:{os.getpid()}", previous=previous)]
        packed = _packed_input(task)
        if opened.started is None:
            records.append(Started(agent=agent.name, input=packed.payload))
            await line.write(*records, blobs=packed.blobs)
            return cast(JSON, await self._value(packed.payload))
        _same_input(line.branch, opened.started, task)
        await line.write(*records)
        return cast(JSON, await self._value(opened.started.input))

    async def _drive(self, line: Line, agent: Agent, task: JSON, setting: OnDivergence) -> object:
        own_loop = self._own_loop
        mediator = Mediator(line, line.branch.partition("@")[0], _now_ms, setting)
        line.alone = lambda: own_loop and self._lives == 1 and mediator.alone
        shape = None if agent.state is None else Shape(agent.state)
        door = EmbeddedDoor(mediator, Memory(mediator), self._functions, self._secret, shape)
        run = Run(mediator.sender.run, "main", door, await self._state(line.log, agent, shape), self._side)
        try:
            answer = await agent.advance(run, task)
        except BaseException as raised:
            mediator.close(_left())
            await mediator.drain()
            self._seen[line.branch] = line.seen
            waiting = mediator.parked or _waiting_in(raised)
            if waiting is not None:
                raise waiting from None
            if isinstance(raised, Exception) and line.broken is None and not isinstance(raised, Cancelled):
                await line.write(Finished(answer=None, error=_text_of(raised)), barrier=True, release=True)
            raise
        stopped = mediator.closed
        mediator.close(_left())
        await mediator.drain()
        self._seen[line.branch] = line.seen
        if mediator.parked is not None or stopped is not None:
            raise mediator.parked or cast(HoldfastError, stopped)
        written = _PLAIN.write(answer)
        if written.encoding is Encoding.LOST:
            raise BadCall(
                f"the agent's answer could not be written down: {written.value}",
                where=line.branch,
                fix="return a JSON value",
            )
        packed = pack_bytes(written.data, written.encoding)
        await line.write(Finished(answer=packed.payload, error=None), blobs=packed.blobs, barrier=True, release=True)
        return written.value

    async def _let_go(self, branch: str, line: Line | None, epoch: int) -> None:
        """Give the claim back, if it is still ours and the store works, or will when there is room; while a function of
        the run that nobody waits for is still at work, only when it has returned: until then its effect is not in
        doubt."""
        if line is not None and (line.released or not isinstance(line.broken, StoreFull | None)):
            return
        keys = [] if line is None else [slot.intent.key for slot in line.log.doubts() if slot.intent is not None]
        if any(at_work(key) for key in keys):
            self._busy.add(branch)
            threading.Thread(target=self._let_go_later, args=(branch, keys, epoch), daemon=True).start()
            return
        with contextlib.suppress(HoldfastError):
            await self.store.append(branch, [], epoch=epoch, release=True)

    def _let_go_later(self, branch: str, keys: Sequence[str], epoch: int) -> None:
        while any(at_work(key) for key in keys):
            time.sleep(POLL_S[0])
        with contextlib.suppress(Exception):  # a store that was closed meanwhile has given it back
            asyncio.run(self.store.append(branch, [], epoch=epoch, release=True))
        self._busy.discard(branch)

    async def _state(self, log: Log, agent: Agent, shape: Shape | None) -> object:
        if shape is None:
            return None
        if log.checkpoint is None:
            try:
                return agent.state()
            except TypeError:
                return None
        payload = log.checkpoint.state
        return shape.read(await read_payload(self.store, payload), payload.encoding).value

    async def _ended(self, branch: str) -> Payload | None:
        newest = await self.store.read(branch, key=FINISHED_KEY, newest=1)
        if not newest:
            return None
        log = Log(branch)
        log.fold(newest[0])
        return log.finished.answer if log.finished is not None else None

    async def _recorded(self, branch: str, answer: Payload, task: JSON) -> object:
        """The answer of a run that has ended. Raises BadCall if it was given another input."""
        for entry in await self.store.read(branch, key=STARTED_KEY, newest=1):
            started = decode(entry.body)
            assert isinstance(started, Started), "what is looked up by this key is a start"
            _same_input(branch, started, task)
        return await self._value(answer)

    async def _value(self, payload: Payload) -> object:
        return _PLAIN.read(await read_payload(self.store, payload), payload.encoding).value

    async def until(self, run: str, waiting: Waiting) -> None:
        """Return when somebody has placed something in a run that `waiting` stopped here, or has brought it to its end,
        or when it is time. Costs no claim."""
        branch = f"{_checked_id(run)}@main"
        delay, most = POLL_S
        if branch in self._busy:
            await self._at_rest(branch)
            waiting.until_ms = 0  # the effect can be looked into now
        seen = self._seen.get(branch, 0)
        while not (
            await self.store.read(branch, after=seen, unclaimed=True, newest=1) or await self._ended(branch) is not None
        ):
            left_s = most if waiting.until_ms is None else (waiting.until_ms - _now_ms()) / 1000
            if left_s <= 0:
                return
            await asyncio.sleep(min(delay, left_s))
            delay = min(delay * 1.5, most)

    async def _at_rest(self, branch: str) -> None:
        """Return when no function that a timeout left behind is at work for a run: it holds the claim until then."""
        while branch in self._busy:  # noqa: ASYNC110 - it is a thread that lets go
            await asyncio.sleep(POLL_S[0])

    # --- people ---

    def approve(self, node: str, *, by: str) -> str:
        """Agree to the held call at `node`; the place of the approval."""
        return self._plainly(self.desk.approve(node, by=by))

    def refuse(self, node: str, *, by: str, reason: str = "no reason was given") -> str:
        """Say no to the held call at `node`."""
        return self._plainly(self.desk.refuse(node, by=by, reason=reason))

    def settle(
        self, node: str, *, happened: JSON | Unsaid = Unsaid.UNSAID, did_not_happen: str | None = None, by: str
    ) -> str:
        """End the doubt at `node`: it happened, with this answer, or it did not, for this reason."""
        if isinstance(happened, Unsaid) is (did_not_happen is None):
            raise BadCall("a verdict says one thing", where=node, fix="say happened=ANSWER or did_not_happen='why'")
        outcome = _packed_input(happened) if not isinstance(happened, Unsaid) else did_not_happen or ""
        return self._plainly(self.desk.settle(node, outcome, by=by))

    def signal(self, run: str, name: str, value: JSON = None, *, by: str = "house") -> str:
        """Send `value` to whoever waits for `name` in a run, now or later."""
        return self._plainly(self.desk.signal(f"{_checked_id(run)}@main", name, _packed_input(value), by=by))

    def cancel(self, run: str, *, by: str, reason: str = "no reason was given") -> str:
        """End a run: nothing new is started."""
        return self._plainly(self.desk.cancel(f"{_checked_id(run)}@main", by=by, reason=reason))

    # --- the life of the house ---

    def _plainly(self, work: Coroutine[Any, Any, T]) -> T:
        if not _inside_a_loop():
            try:
                return asyncio.run(work)
            finally:
                work.close()  # where an interruption came before it was begun
        work.close()
        raise Misuse("this would block the event loop that it is called in", fix="await house.arun(…), or house.desk")

    def _side(self) -> asyncio.AbstractEventLoop:
        """A loop of its own for synchronous calls made on an event loop's own thread."""
        with self._guard:
            if self._side_loop is None:
                self._side_loop = asyncio.new_event_loop()
                threading.Thread(target=self._side_loop.run_forever, name="holdfast side", daemon=True).start()
            return self._side_loop

    def close(self) -> None:
        """Flush and let go of the store."""
        if self._side_loop is not None:
            self._side_loop.call_soon_threadsafe(self._side_loop.stop)
        self._plainly(self.store.close())

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.close()


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _checked_id(run: str) -> str:
    if not run or len(run) > 100 or not all(sign.isascii() and (sign.isalnum() or sign in "-_.") for sign in run):
        raise Misuse(f"`{legible(run, 60)}` cannot name a run", fix="use up to 100 letters, digits, `-`, `_` and `.`")
    return run


def _same_input(branch: str, started: Started, task: JSON) -> None:
    if task is not None and started.input.digest != _packed_input(task).payload.digest:
        raise BadCall(
            "this run exists, with another input",
            where=branch,
            fix="leave the input out to resume it, or choose another id",
        )


def _left() -> HoldfastError:
    return Misuse("the agent has ended: what it left running cannot go on", fix="await every task before it returns")


def _packed_input(value: JSON) -> Packed:
    written = _PLAIN.write(value)
    if written.encoding is not Encoding.JSON:
        raise BadCall(f"this value cannot be written down: {written.value}", fix="pass a JSON value")
    return pack_text(written.data, written.woven, lambda _digest: False)


def _text_of(error: Exception) -> str:
    return legible(f"{type(error).__name__}: {legible(error)}")


def _waiting_in(raised: BaseException) -> Waiting | None:
    """The wait that unwound an agent, also from inside a task group."""
    if isinstance(raised, Waiting):
        return raised
    if isinstance(raised, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", raised).exceptions:
            found = _waiting_in(inner)
            if found is not None:
                return found
    return None
