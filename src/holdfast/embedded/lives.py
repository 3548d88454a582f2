"""The lives of runs: each from a claim to an end, a wait or a death.

Rules
1. A run that must wait is unwound and costs nothing; it is entered again when what it waits for has come.
2. An agent's exception does not end a run for good: running it again goes on from its log.
3. A claim is given back with the last thing that is written, or when the process dies.
4. A speculative branch has no end of its own: it shows what it has, and waits for its promotion.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

from holdfast.agent.run import Agent, Run, outside_run
from holdfast.agent.tool import tool_named
from holdfast.core.canonical import JSON
from holdfast.core.codec import decode
from holdfast.core.effect import Call, Encoding, Payload, legible
from holdfast.core.log import Log
from holdfast.core.payload import pack_bytes
from holdfast.core.record import Checkpoint, Claim, Finished, Intent, Record, Sleep, Started
from holdfast.core.tree import MAIN, Status
from holdfast.core.wake import KIN
from holdfast.embedded.door import EmbeddedDoor
from holdfast.embedded.explore import PLAIN, Explorer, packed_json, ready
from holdfast.embedded.files import Files, OpenRoom, begin
from holdfast.errors import Away, BadCall, Cancelled, HoldfastError, Misuse, StoreFull, Waiting, waiting_in
from holdfast.gateway.closing import Closer, Residue, worker_name
from holdfast.gateway.decide import Memory
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.family import Family, KnownTree, read_tree
from holdfast.gateway.history import FINISHED_KEY, Opened, read_log
from holdfast.gateway.line import Line, read_payload
from holdfast.gateway.mediate import Mediator, was_cancelled
from holdfast.gateway.send import Asked
from holdfast.gateway.turnstile import Turnstile
from holdfast.gateway.upstreams.python import PythonUpstream, at_work
from holdfast.gateway.whole import whole
from holdfast.shape import Function, Shape
from holdfast.store import Grant, Store
from holdfast.store.clock import clock_of
from holdfast.store.url import Opening

POLL_S = (0.02, 1.0)


class Lives:
    """The lives of the runs of one store, in this process. `turnstile`: what their calls go through, if anything."""

    def __init__(self, opening: Opening) -> None:
        self.store: Store = opening.store
        self.files = Files(opening)
        self._secret = opening.secret
        self._functions: dict[object, Function] = {}
        self._closer = Closer(self.store, clock_of(self.store), self._found)
        self._trees: WeakValueDictionary[str, KnownTree] = WeakValueDictionary()
        self._seen: dict[str, int] = {}
        self._kin_seen: dict[str, dict[str, int]] = {}
        self._held: dict[str, bool] = {}
        self._held_seen: dict[str, dict[str, int]] = {}
        self._side_loop: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()
        self._lives = 0
        self._busy: set[str] = set()
        self._own_loop = False
        self.turnstile: Turnstile | None = None

    async def life(
        self, agent: Agent, branch: str, task: JSON, setting: OnDivergence, at: Path | None = None
    ) -> object:
        """One life of a branch: from a claim to an end, a wait or a death. `at`: the directory that its user named."""
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
            family = await self._family(branch)
            line = Line(self.store, opened, grant.epoch, family)
            async with self.files.open(opened.log, agent, at) as room:
                await line.recall_adopted()
                task = await self._begin(line, opened, agent, task, grant.previous)
                return await self._drive(line, opened.restored, agent, task, setting, room)
        finally:
            self._lives -= 1
            await self._let_go(branch, line, grant.epoch)

    async def _family(self, branch: str) -> Family:
        run = branch.partition("@")[0]
        known = self._trees.get(run) or self._trees.setdefault(run, KnownTree(self.store, run))
        family = Family(self.store, branch, known)
        await family.refresh()
        return family

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
        records: list[Record] = [Claim(worker=worker_name(), previous=previous)]
        packed = packed_json(task)
        if opened.started is None:
            records.append(Started(agent=agent.name, input=packed.payload))
            await line.write(*records, blobs=packed.blobs)
            return cast(JSON, await self._value(packed.payload))
        given = line.log.settings.get("input", opened.started.input)
        same_input(line.branch, given, task)
        await line.write(*records)
        return cast(JSON, await self._value(given))

    async def _drive(
        self, line: Line, restored: Checkpoint | None, agent: Agent, task: JSON, setting: OnDivergence,
        room: OpenRoom | None,
    ) -> object:  # fmt: skip
        own_loop = self._own_loop
        mediator = Mediator(line, line.family.run, clock_of(self.store), setting, self._closer.open)
        mediator.entrance.goes_through(self.turnstile)
        line.alone = lambda: own_loop and self._lives == 1 and mediator.open <= 1
        line.lost = mediator.close
        shape = None if agent.state is None else Shape(agent.state)
        memory = Memory(mediator)
        door = EmbeddedDoor(mediator, memory, self._functions, self._secret, shape, agent, room)
        branches = Explorer(mediator, memory, door, lambda branch: self.life(agent, branch, None, setting))
        state = await self._state(restored, agent, shape)
        run = Run(
            mediator.sender.run, line.family.name, door, branches, state, self._side,
            workspace=room and room.path, services=restored.services if restored else (),
        )  # fmt: skip
        try:
            await begin(run, agent, line.log)
            answer = await agent.advance(run, task)
        except BaseException as raised:
            mediator.close(_left())
            await mediator.drain()
            self._look(mediator)
            waiting = mediator.parked or waiting_in(raised)
            if waiting is not None and line.log.cancelled is not None:
                raise was_cancelled(line.log.cancelled, line.branch) from None
            if waiting is not None:
                await self._mark(line, waiting)
                raise waiting from None
            failed = isinstance(raised, Exception | SystemExit) and not isinstance(raised, Cancelled)
            if failed and line.broken is None and not mediator.held:
                await line.write(Finished(answer=None, error=_text_of(raised)), barrier=True, release=True)
            raise
        stopped = mediator.closed
        mediator.close(_left())
        await mediator.drain()
        self._look(mediator)
        if mediator.parked is not None:
            await self._mark(line, mediator.parked)
        if mediator.parked is not None or stopped is not None:
            raise mediator.parked or cast(HoldfastError, stopped)
        return await self._end(line, mediator, answer)

    async def _mark(self, line: Line, waiting: Waiting) -> None:
        """Say in the log that this life waits for another branch: nothing else in it says so to whoever is to wake
        it."""
        run, _, place = waiting.where.rpartition("@")
        name, _, _ = place.partition(":")
        if run == line.family.run and (MAIN if name.isdigit() else name) != line.family.name and line.broken is None:
            with contextlib.suppress(HoldfastError):
                await line.write(Sleep(name=f"{KIN}{place}", n=0, until_ms=waiting.until_ms or 0))

    def _look(self, mediator: Mediator) -> None:
        """Remember how far this life had seen the run when it was parked, for whoever waits for something new."""
        branch, line, family = mediator.line.branch, mediator.line, mediator.line.family
        self._seen[branch], self._kin_seen[branch] = line.heard or (line.seen, dict(family.seen))
        self._held[branch] = mediator.held
        self._held_seen[branch] = {
            name: self._seen[name]
            for limb in family.tree
            if (name := f"{family.run}@{limb.name}") in self._seen
            and name not in (branch, *family.seen)
            and limb.status is Status.OPEN
        }

    async def _end(self, line: Line, mediator: Mediator, answer: object) -> object:
        """Write the answer of a line that has come to its end, after what its run left behind was taken back."""
        if mediator.held:
            raise ready(line.branch, answer)
        written = PLAIN.write(answer)
        if written.encoding is Encoding.LOST:
            lost = BadCall(
                f"the agent's answer could not be written down: {written.value}",
                where=line.branch,
                fix="return a JSON value",
            )
            await line.write(Finished(answer=None, error=_text_of(lost)), barrier=True, release=True)
            raise lost
        await line.refresh()
        mediator.check_place()  # who has lost it meanwhile has no end of its own
        if line.family.kin is not None and line.family.tree.line == line.family.name:
            await self.clear_up(line.branch)
        packed = pack_bytes(written.data, written.encoding)
        await line.write(Finished(answer=packed.payload, error=None), blobs=packed.blobs, barrier=True, release=True)
        return written.value

    def _side(self) -> asyncio.AbstractEventLoop:
        """A loop of its own for synchronous calls made on an event loop's own thread."""
        with self._guard:
            if self._side_loop is None:
                self._side_loop = asyncio.new_event_loop()
                threading.Thread(target=self._side_loop.run_forever, name="holdfast side", daemon=True).start()
            return self._side_loop

    # --- what branches left behind ---

    async def clear_up(self, branch: str) -> list[Residue]:
        """Take back what the run's other branches did that were given up, and what `branch` has not adopted; what is
        left of it."""
        log = (await read_log(self.store, branch)).log
        family = await self._family(branch)
        adopted = {slot.adopted.node for slot in log.effects if slot.adopted is not None}
        return await self._closer.close(family, lambda relative: relative.node in adopted)

    def _found(self, intent: Intent) -> Asked | None:
        """The call of a recorded intent, by the tool of that name in this process."""
        tool = tool_named(intent.tool)
        if tool is None or tool.contract.secret:
            return None
        function = self._functions.get(tool)
        if function is None:
            function = self._functions[tool] = Function(tool.function, tool.probe, tool.undo)
        call = Call(intent.tool, bytes.fromhex(intent.identity), intent.n, b"", intent.resource)
        return Asked(
            tool.contract, call, pack_bytes(b"", Encoding.JSON), None, PythonUpstream(function, {}, outside_run)
        )

    async def _let_go(self, branch: str, line: Line | None, epoch: int) -> None:
        """Give the claim back, if it is still ours and the store works, or will when there is room; while a function of
        the run that nobody waits for is still at work, only when it has returned: until then its effect is not in
        doubt."""
        if line is not None and (line.released or not isinstance(line.broken, StoreFull | Away | None)):
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

    async def _state(self, restored: Checkpoint | None, agent: Agent, shape: Shape | None) -> object:
        if shape is None:
            return None
        if restored is None:
            try:
                return agent.state()
            except TypeError:
                return None
        payload = restored.state
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
        if task is not None:
            opened = await read_log(self.store, branch)
            if opened.started is not None:
                same_input(branch, opened.log.settings.get("input", opened.started.input), task)
        return await self._value(answer)

    async def _value(self, payload: Payload) -> object:
        return PLAIN.read(await read_payload(self.store, payload), payload.encoding).value

    async def news(self, branch: str, waiting: Waiting) -> None:
        """Return when somebody has placed something on a branch that `waiting` stopped here, when another branch of its
        run has moved or it has come to its end, or when it is time. Costs no claim."""
        delay, most = POLL_S
        if branch in self._busy:
            await self._at_rest(branch)
            waiting.until_ms = 0  # the effect can be looked into now
        while not await self._has_news(branch):
            left_s = most if waiting.until_ms is None else (waiting.until_ms - clock_of(self.store)()) / 1000
            if left_s <= 0:
                return
            await asyncio.sleep(min(delay, left_s))
            delay = min(delay * 1.5, most)

    async def _has_news(self, branch: str) -> bool:
        if await self.store.read(branch, after=self._seen.get(branch, 0), unclaimed=True, newest=1):
            return True
        if await self._ended(branch) is not None:
            return True
        return await self._kin_moved(branch)

    async def _kin_moved(self, branch: str) -> bool:
        """Whether another branch of the run has written anything but that somebody came to it, and waits: two that wait
        for people would else wake each other for ever."""
        for name, after in self._held_seen.get(branch, {}).items():  # of a candidate that waits, only people are news
            for entry in await self.store.read(name, after=after, unclaimed=True, newest=1):
                self._seen[name] = entry.seq
                return True
        seen = self._kin_seen.get(branch)
        if not seen:
            return await self._has_moved(branch)
        for found in await self.store.branches(f"{branch.partition('@')[0]}@"):
            if found.name == branch or found.seq <= seen.get(found.name, 0):
                continue
            for entry in await self.store.read(found.name, after=seen.get(found.name, 0)):
                if not isinstance(decode(entry.body), Claim | Sleep):
                    return True
            seen[found.name] = found.seq
        return False

    async def _has_moved(self, branch: str) -> bool:
        """Whether a branch that looks at no other has got another place in its run: promoted, abandoned, superseded."""
        run, _, name = branch.partition("@")
        tree = await read_tree(self.store, run)
        limb = tree.limbs.get(name)
        return limb is not None and (
            limb.status is not Status.OPEN or tree.held(name) is not self._held.get(branch, False)
        )

    async def _at_rest(self, branch: str) -> None:
        """Return when no function that a timeout left behind is at work for a run: it holds the claim until then."""
        while branch in self._busy:  # noqa: ASYNC110 - it is a thread that lets go
            await asyncio.sleep(POLL_S[0])


def same_input(branch: str, given: Payload, task: JSON) -> None:
    """Raises BadCall if a run that exists was given another input."""
    if task is not None and given.digest != packed_json(task).payload.digest:
        raise BadCall(
            "this run exists, with another input",
            where=branch,
            fix="leave the input out to resume it, or choose another id",
        )


def _left() -> HoldfastError:
    return Misuse("the agent has ended: what it left running cannot go on", fix="await every task before it returns")


def _text_of(error: BaseException) -> str:
    return legible(f"{type(error).__name__}: {legible(error)}")


def checked_id(run: str) -> str:
    if not run or len(run) > 100 or not all(sign.isascii() and (sign.isalnum() or sign in "-_.") for sign in run):
        raise Misuse(f"`{legible(run, 60)}` cannot name a run", fix="use up to 100 letters, digits, `-`, `_` and `.`")
    return run
