"""A store with a gateway in this process: where runs are started, resumed and attended to.

Rules
1. A run that must wait is unwound and costs nothing; it is entered again when what it waits for has come.
2. An agent's exception does not end a run for good: running it again goes on from its log.
3. A claim is given back with the last thing that is written, or when the process dies.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Coroutine, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar, cast

from holdfast.agent.run import Agent
from holdfast.core.canonical import JSON
from holdfast.core.record import Abandoned, Claim, Promoted, Started
from holdfast.core.tree import MAIN, ForkKind
from holdfast.embedded.drift import drift_at, hold_to_the_world, why_stale
from holdfast.embedded.explore import packed_json
from holdfast.embedded.lives import Lives, checked_id, same_input
from holdfast.errors import BadCall, Drifted, Misuse, Superseded, Waiting
from holdfast.gateway.closing import Residue, worker_name
from holdfast.gateway.desk import Desk, parse_node
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.drift import Drift
from holdfast.gateway.family import read_tree
from holdfast.gateway.fork import Cutting, Edit, change, fork
from holdfast.gateway.forking import edits_as_json
from holdfast.gateway.history import read_log
from holdfast.gateway.line import Line
from holdfast.store.remote import RemoteStore
from holdfast.store.url import Opening, open_url

T = TypeVar("T")


def open_store(url: str) -> House:
    """The house at `url`: `sqlite:///runs.db` (relative), `sqlite:////var/lib/runs.db` (absolute),
    `postgresql://USER@HOST/DATABASE`, `memory://`.

    SQLite takes `?claim_ttl_s=15&flush_s=1&key=FILE&anchor=FILE`. Raises Stopped where the store cannot be trusted or
    written.
    """
    return House(open_url(url))


class Unsaid(Enum):
    """What was not said: None is an answer like any other."""

    UNSAID = 0


class House(Lives):
    """Runs, and what people do about them. A context manager; also an asynchronous one."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        self.desk = Desk(self.store)

    # --- running ---

    def run(
        self,
        agent: Agent,
        task: JSON = None,
        *,
        id: str | None = None,
        wait: bool = True,
        on_divergence: str = "brief",
        branch: str | None = None,
        check_drift: bool = False,
        workspace: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Run `agent` on `task` to its end; its answer. An `id` that exists resumes, on the run's line or on `branch`.
        With `wait`, a run that is held, asleep or in doubt blocks here until it can go on; without, it raises Waiting.
        With `check_drift` it raises Drifted, before anything is started and each time that it goes on, if the world is
        not as the run has seen it. `workspace`: a directory for the agent's files, instead of one of the branch's own.
        Raises Claimed if another worker is at it, Cancelled, and what the agent raises."""
        self._own_loop = True
        return self._plainly(
            self.arun(
                agent,
                task,
                id=id,
                wait=wait,
                on_divergence=on_divergence,
                branch=branch,
                check_drift=check_drift,
                workspace=workspace,
            )
        )

    async def arun(
        self,
        agent: Agent,
        task: JSON = None,
        *,
        id: str | None = None,
        wait: bool = True,
        on_divergence: str = "brief",
        branch: str | None = None,
        check_drift: bool = False,
        workspace: str | os.PathLike[str] | None = None,
    ) -> Any:
        """As `run`, to be awaited."""
        if not isinstance(cast(object, agent), Agent):
            raise BadCall("what is run must be an agent", fix="decorate the function with @agent")
        run = checked_id(uuid.uuid4().hex if id is None else id)
        if on_divergence not in tuple(OnDivergence):
            raise BadCall(f"`{on_divergence}` is nothing to do on a divergence", fix="choose brief, ask or stop")
        at = self.files.checked(agent, workspace)
        while True:
            place = f"{run}@{branch or (await read_tree(self.store, run)).line}"
            if wait:
                await self._at_rest(place)
            if check_drift:
                await hold_to_the_world(self.store, place)
            try:
                return await self.life(agent, place, task, OnDivergence(on_divergence), at)
            except Superseded:
                if branch is not None:
                    raise
            except Waiting as waiting:
                if not wait:
                    raise
                await self.news(place, waiting)

    async def begin(self, agent: Agent, task: JSON, *, id: str) -> bool:
        """Write down that a run of `agent` on `task` begins, for others to advance; whether it is new. Its claim is
        given back with the same transaction. Raises BadCall if it exists with another input, Claimed if somebody is at
        its beginning just now."""
        place = f"{checked_id(id)}@{MAIN}"
        if await self._has_begun(place, task):
            return False
        grant = await self._claimed(place)
        line: Line | None = None
        try:
            if await self._has_begun(place, task):
                return False
            line = Line(self.store, await read_log(self.store, place), grant.epoch, await self._family(place))
            packed = packed_json(task)
            claim = Claim(worker=worker_name(), previous=grant.previous)
            started = Started(agent=agent.name, input=packed.payload)
            await line.write(claim, started, blobs=packed.blobs, barrier=True, release=True)
            return True
        finally:
            await self._let_go(place, line, grant.epoch)

    async def _has_begun(self, place: str, task: JSON) -> bool:
        opened = await read_log(self.store, place)
        if opened.started is not None:
            same_input(place, opened.log.settings.get("input", opened.started.input), task)
        return opened.started is not None

    async def until(self, run: str, waiting: Waiting) -> None:
        """Return when a run that `waiting` stopped here may go on: somebody has placed something in it, one of its
        branches has moved, it has come to its end, or it is time. Costs no claim."""
        await self.news(f"{checked_id(run)}@{(await read_tree(self.store, run)).line}", waiting)

    # --- branches ---

    def fork(
        self,
        node: str,
        *,
        kind: str = "recovery",
        answers: Mapping[int, JSON] | None = None,
        settings: Mapping[str, JSON] | None = None,
        by: str,
        why: str = "",
    ) -> str:
        """Begin a branch at `node`; its name. `kind`: recovery (it becomes the run's line), what-if or speculative.
        `answers` replaces those of the decisions and reads at these places, `settings` is what `run.setting` gives
        there; `input` and `code` are those of the run. Raises Unknown, BadCall, Misuse, InDoubt."""
        place, at = parse_node(node)
        if kind not in tuple(ForkKind):
            raise BadCall(f"there is no fork of the kind `{kind}`", fix="choose recovery, what-if or speculative")
        if isinstance(self.store, RemoteStore):  # what has become of the place since, its gateway alone can say
            told = edits_as_json(answers or {}, settings or {})
            return self._plainly(self.store.fork(node, kind=kind, by=by, why=why, edits=told))
        edits = [Edit(target, "", packed_json(value)) for target, value in (answers or {}).items()]
        edits += [Edit(0, name, packed_json(value)) for name, value in (settings or {}).items()]
        return self._plainly(fork(self.store, Cutting(place, at, ForkKind(kind), by, why, None, edits)))

    def promote(self, run: str, branch: str, *, by: str, check_drift: bool = True) -> str:
        """Make `branch` the run's line: what it planned is done when the run is resumed. The place of the record.
        Raises Drifted if something that it has read, and whose version was told, is another one now."""
        return self._plainly(self._promote(checked_id(run), branch, by, check_drift))

    async def _promote(self, run: str, branch: str, by: str, check_drift: bool) -> str:
        limb = (await read_tree(self.store, run)).limbs.get(branch)
        group = None if limb is None else limb.group
        why = await why_stale(self.store, f"{run}@{branch}") if check_drift and limb is not None else None
        if why is not None:
            fix = f"holdfast drift {run}@{branch} shows how; let it read again, or promote it unchecked"
            raise Drifted(why, where=f"{run}@{branch}", fix=fix)
        return await change(self.store, run, Promoted(branch=branch, group=group, by=by))

    def abandon(self, run: str, branch: str, *, by: str, reason: str = "no reason was given") -> str:
        """Give `branch` up: nothing new is begun there, and what it did is taken back when the run ends, or by
        `clear`. The place of the record."""
        return self._plainly(change(self.store, checked_id(run), Abandoned(branch=branch, by=by, reason=reason)))

    def clear(self, run: str) -> list[Residue]:
        """Take back now what branches did that were given up and that the run's line has not adopted; what cannot be
        taken back. The tools must be imported."""
        return self._plainly(self._clear(checked_id(run)))

    async def _clear(self, run: str) -> list[Residue]:
        return await self.clear_up(f"{run}@{(await read_tree(self.store, run)).line}")

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
        outcome = packed_json(happened) if not isinstance(happened, Unsaid) else did_not_happen or ""
        return self._plainly(self.desk.settle(node, outcome, by=by))

    def signal(self, run: str, name: str, value: JSON = None, *, by: str = "house") -> str:
        """Send `value` to whoever waits for `name` in a run (its line), or on RUN@BRANCH, now or later."""
        return self._plainly(self.desk.signal(_checked_place(run), name, packed_json(value), by=by))

    def cancel(self, run: str, *, by: str, reason: str = "no reason was given") -> str:
        """End a run (its line), or RUN@BRANCH: nothing new is started."""
        return self._plainly(self.desk.cancel(_checked_place(run), by=by, reason=reason))

    def drift(self, node: str) -> list[Drift]:
        """How everything that a run relied on, at a node or at its end, stands in the world now. Only reads are called
        and probes asked, of the tools declared in this process; nothing is written."""
        return self._plainly(drift_at(self.store, node))

    # --- the life of the house ---

    def _plainly(self, work: Coroutine[Any, Any, T]) -> T:
        if not _inside_a_loop():
            try:
                return asyncio.run(work)
            finally:
                work.close()  # where an interruption came before it was begun
        work.close()
        raise Misuse("this would block the event loop that it is called in", fix="await house.arun(…), or house.desk")

    def close(self) -> None:
        """Flush and let go of the store."""
        if self._side_loop is not None:
            self._side_loop.call_soon_threadsafe(self._side_loop.stop)
        self._plainly(self.store.close())
        self.files.close()

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
        self.files.close()


def _checked_place(run: str) -> str:
    """RUN or RUN@BRANCH, as it was given. Raises Misuse for what cannot name one."""
    name, at, branch = run.partition("@")
    checked_id(name)
    return f"{name}@{checked_id(branch)}" if at else name


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
