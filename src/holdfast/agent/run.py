"""A run, as its agent sees it.

Rules
1. A run holds no state of its own but the agent's: everything it tells comes through its door.
2. In an async agent its methods are awaited; in a sync agent they are called plainly. There is one implementation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from holdfast.agent.note import Note, named, noted
from holdfast.core.canonical import JSON
from holdfast.core.effect import Kind
from holdfast.errors import BadCall, Misuse

if TYPE_CHECKING:
    from holdfast.agent.tool import Tool

T = TypeVar("T")
LONGEST_S = 1e10
_current: ContextVar[Run | None] = ContextVar("holdfast_run", default=None)


def current() -> Run | None:
    """The run that this code belongs to, or None outside one."""
    return _current.get()


class outside_run:  # noqa: N801 - a block, used like a function
    """Inside this block the code belongs to no run: tools are plain functions."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _current.set(None)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


@dataclass(frozen=True, slots=True)
class Stranded:
    """An effect that the log holds and the program has not asked for: what the run has already done in the world.
    `node` is where it stands; `happened` is False while nobody knows; `answer` is None then. `undone`: it was taken
    back since."""

    node: str
    tool: str
    arguments: JSON
    happened: bool
    answer: JSON
    undone: bool = False


class Door(Protocol):
    """How a run reaches its gateway."""

    async def call(self, tool: Tool, values: Mapping[str, object], again: str | None) -> object:
        """The answer to a call, performed or recorded."""
        ...

    async def decide(
        self, ask: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], lane: str, fresh: bool
    ) -> object:
        """The recorded result of `ask`, or its result now, recorded."""
        ...

    async def draw(self, name: str, make: Callable[[], str]) -> str:
        """The next recorded value of this name, or a new one."""
        ...

    async def wait(self, what: float | str) -> object:
        """Wait, durably: so many seconds, or for the next signal of this name, whose value is the answer."""
        ...

    async def checkpoint(self, state: Callable[[], object], note: Note) -> str | None:
        """Make a closure with the state and the files as they are when nothing is in flight; its node."""
        ...

    async def stranded(self, *, undone: bool) -> list[Stranded]:
        """What the log holds and the program has not asked for; with `undone`, also what was taken back."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a candidate came to on its branch: `offer` is what it has to show (the argument of `run.offer`, or the
    agent's answer), `planned` the calls that wait for its promotion (`tool`, `arguments`), `error` why it failed."""

    branch: str
    candidate: JSON
    offer: Any
    planned: tuple[dict[str, JSON], ...]
    error: str | None


class Branches(Protocol):
    """How a run makes branches of its own."""

    async def explore(
        self, candidates: Sequence[JSON], score: Callable[[Attempt], object] | None, keep: int, so_far: object
    ) -> JSON:
        """Try each candidate on a branch of its own; the one that this branch is to try. `keep` > 0: in a beam."""
        ...

    async def offer(self, value: object) -> None:
        """On a speculative branch: show `value` and wait for the promotion. Elsewhere: nothing."""
        ...

    async def fork(self, seq: int, why: str, settings: Mapping[str, JSON]) -> None:
        """Leave this branch for a new one from the entry at `seq`."""
        ...

    async def setting(self, name: str, default: JSON) -> JSON:
        """What a fork has set for this branch."""
        ...


class Run:
    """One task given to an agent. `id` names it, `branch` the line it is on, `state` is what a checkpoint carries.
    `services`: what the checkpoint that it goes on from says is to be started again."""

    def __init__(
        self,
        id: str,
        branch: str,
        door: Door,
        branches: Branches,
        state: Any,
        side: Callable[[], asyncio.AbstractEventLoop],
        *,
        workspace: Path | None = None,
        services: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self.branch = branch
        self.state = state
        self.services = services
        self._workspace = workspace
        self._door = door
        self._branches = branches
        self._side = side
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def workspace(self) -> Path:
        """The directory of this branch's files, which checkpoints carry. Raises Misuse if the agent declares none."""
        if self._workspace is None:
            raise Misuse("this agent has no workspace", where=self.id, fix="declare it: @agent(workspace=True)")
        return self._workspace

    async def call(self, tool: Callable[..., object], /, **arguments: object) -> Any:
        """Call a decorated tool, or its `again(label)`, by its arguments. Raises NotHappened, Refused as outcomes."""
        from holdfast.agent.tool import label_of, tool_of

        return await self.mediate(tool_of(tool), (), arguments, label_of(tool))

    async def mediate(
        self, tool: Tool, args: Sequence[object], kwargs: Mapping[str, object], again: str | None
    ) -> object:
        """What a decorated function does inside a run."""
        return await self._door.call(tool, tool.bind(args, kwargs), again)

    async def decide(
        self, ask: Callable[..., object], /, *args: object, lane: str = "main", fresh: bool = False, **kwargs: object
    ) -> Any:
        """The result of `ask(*args, **kwargs)`, a model's answer: asked once, then always the same. Parallel sub-agents
        name their `lane`. `fresh` asks anew if nothing was done on the strength of the recorded answer."""
        return await self._door.decide(ask, args, kwargs, named("a lane", lane), fresh)

    async def now(self) -> float:
        """The time, seconds since 1970 UTC; the same on every resume."""
        return int(await self._door.draw("now", lambda: str(time.time_ns() // 1000))) / 1_000_000

    async def uuid(self) -> uuid.UUID:
        """A random UUID (version 4); the same on every resume."""
        return uuid.UUID(await self._door.draw("uuid", lambda: str(uuid.uuid4())))

    async def random(self) -> float:
        """A random number in [0, 1); the same on every resume."""
        import random

        return float.fromhex(await self._door.draw("random", lambda: random.SystemRandom().random().hex()))

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` from the first time that this was asked; a long sleep costs no process."""
        if not seconds < LONGEST_S:
            raise BadCall(f"nobody sleeps for {seconds} s", where=self.id, fix=f"sleep less than {LONGEST_S:.0f} s")
        await self._door.wait(float(seconds))

    async def wait_for(self, signal: str) -> Any:
        """The value of the next signal of this name; waiting costs no process."""
        return await self._door.wait(named("a signal", signal))

    async def checkpoint(self, *, services: Sequence[str] = (), labels: Sequence[str] = ()) -> str | None:
        """Make `state`, the files of the workspace and everything before this moment the place from which the run goes
        on after a crash; its node. None while the run goes over what it did before it was stopped: the checkpoint that
        it goes on from stays in force. `services`: what has to be started again then (`run.services`)."""
        return await self._door.checkpoint(lambda: self.state, noted(services, labels, None))

    async def turn(
        self, *tools: Callable[..., object], services: Sequence[str] = (), labels: Sequence[str] = ()
    ) -> str | None:
        """Mark the boundary of a turn: a program that began here, from its top, with `state` as it is now, would go on
        the same. A checkpoint is made if the agent's policy wants one before a turn that may call these `tools` (none
        named: any); its node, or None."""
        from holdfast.agent.tool import tool_of

        return await self._door.checkpoint(lambda: self.state, noted(services, labels, tuple(map(tool_of, tools))))

    async def stranded(self, *, undone: bool = False) -> list[Stranded]:
        """What this run has done in the world, on this branch or another, and its program has not (yet) asked for. With
        `undone`, what was taken back since is there, too. `briefing` makes a text for a model of it."""
        return await self._door.stranded(undone=undone)

    async def explore(
        self,
        candidates: Sequence[JSON],
        score: Callable[[Attempt], object] | None = None,
        *,
        keep: int = 0,
        so_far: Any = None,
    ) -> Any:
        """Try each candidate (a JSON value) on a speculative branch of its own, where this returns that candidate, and
        the program goes on with every effect held: to its end, to `offer`, or to where it needs a held answer. The one
        with the highest `score` (asked once, as a decision) is promoted and goes on for all of them. Raises NoCandidate
        if all failed.

        With `keep`, a beam: a branch that comes to explore again, with `keep` too, stops there and shows `so_far`; of
        all that have come so far, the `keep` best explore on, and the others are given up."""
        return await self._branches.explore(candidates, score, keep, so_far)

    async def offer(self, value: object) -> None:
        """On a speculative branch: this is what there is to show, and nothing more is done before the promotion.
        Elsewhere this does nothing."""
        await self._branches.offer(value)

    async def fork(self, node: int, why: str = "", **settings: JSON) -> None:
        """A dead end: leave this branch for a new one from the entry `node` (a seq), where `setting` gives these
        `settings`. What was done after that entry is not done again there: the same call adopts it."""
        await self._branches.fork(node, why, settings)

    async def setting(self, name: str, default: JSON = None) -> Any:
        """What the fork of this branch has set under a name (`prompt`, `model`, …), else `default`."""
        return await self._branches.setting(named("a setting", name), default)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, from code that cannot await."""
        on_loop = threading.get_ident() == self._thread
        loop = self._side() if on_loop else self._loop
        if loop.is_closed():
            work.close()
            raise Misuse(
                "the run has ended: nothing more can be asked of it", where=self.id, fix="end its threads first"
            )
        return asyncio.run_coroutine_threadsafe(work, loop).result()


class BlockingRun:
    """A run for synchronous agents: the same methods, called plainly."""

    def __init__(self, run: Run) -> None:
        object.__setattr__(self, "_run", run)

    def __getattr__(self, name: str) -> Any:
        run: Run = object.__getattribute__(self, "_run")
        found = getattr(run, name)
        if not inspect.iscoroutinefunction(found):
            return found
        method = cast("Callable[..., Coroutine[Any, Any, object]]", found)

        @functools.wraps(method)
        def plainly(*args: object, **kwargs: object) -> object:
            return run.wait(method(*args, **kwargs))

        return plainly

    def __setattr__(self, name: str, value: object) -> None:
        if name != "state":
            raise Misuse(f"a run has no `{name}` to set", fix="set `run.state`")
        run: Run = object.__getattribute__(self, "_run")
        run.state = value


@dataclass(frozen=True, slots=True)
class Agent:
    """A function of a run and its input. `state`: the type of `run.state`; None if the agent is replayed from its
    beginning. `workspace`: it works with files, except for those that the patterns `ignore` cover.
    `checkpoint_every` (entries of the log) and `checkpoint_before` (a kind of effect) are its policy at the boundaries
    of turns.
    """

    function: Callable[..., object]
    name: str
    state: Any
    workspace: bool = False
    ignore: tuple[str, ...] = ()
    checkpoint_every: int | None = None
    checkpoint_before: Kind | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The plain function."""
        return self.function(*args, **kwargs)

    async def advance(self, run: Run, task: object) -> object:
        """Run the function to its end, in this loop or, if it is synchronous, in a thread of its own."""
        token = _current.set(run)
        try:
            if inspect.iscoroutinefunction(self.function):
                return await self.function(run, task)
            return await in_thread(lambda: self.function(BlockingRun(run), task))
        finally:
            _current.reset(token)


async def in_thread(work: Callable[[], object]) -> object:
    """The result of blocking `work`, in a thread of its own and in this context."""
    import contextvars

    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    done: asyncio.Future[object] = loop.create_future()

    def settle(result: object, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def body() -> None:
        try:
            result, error = context.run(work), None
        except StopIteration as ended:  # which no coroutine can raise
            result, error = None, RuntimeError("it raised StopIteration").with_traceback(ended.__traceback__)
        except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="holdfast agent", daemon=True).start()
    return await done


def agent(
    function: Callable[..., object] | None = None,
    /,
    *,
    state: Any = None,
    workspace: bool = False,
    ignore: Sequence[str] = (),
    checkpoint_every: int | None = None,
    checkpoint_before: str | None = None,
) -> Any:
    """Declare an agent: `def f(run, task)` or `async def f(run, task)`, returning a JSON value. `@agent(state=T)` gives
    `run.state`, a `T` that checkpoints carry, and from which the run goes on; `workspace=True` gives `run.workspace`, a
    directory whose files they carry, but for those that `ignore` covers (as in .gitignore). At each `run.turn()` a
    checkpoint is made if `checkpoint_every` entries were written since the last, or anything was and the turn may call
    a tool of the kind `checkpoint_before` ("irreversible")."""
    before = _policy(state, checkpoint_every, checkpoint_before)
    if isinstance(ignore, str) or (ignore and not workspace):
        raise BadCall("`ignore` is a list of patterns for a workspace", fix='workspace=True, ignore=["build/"]')

    def decorate(inner: Callable[..., object]) -> Agent:
        name = f"{inner.__module__}:{inner.__qualname__}"
        return Agent(inner, name, state, bool(workspace), tuple(ignore), checkpoint_every, before)

    return decorate if function is None else decorate(function)


def _policy(state: Any, every: int | None, before: str | None) -> Kind | None:
    """The kind that checkpoints are made before. Raises BadCall for a policy that cannot be."""
    if state is None and (every, before) != (None, None):
        raise BadCall("only an agent with a state goes on from its checkpoints", fix="declare it: @agent(state=T)")
    if every is not None and (type(every) is not int or every < 1):
        raise BadCall(f"`{every!r}` is no number of entries", fix="checkpoint_every=20")
    if before is None:
        return None
    if before != Kind.IRREVERSIBLE:
        raise BadCall(f"`{before}` is no kind to make checkpoints before", fix='checkpoint_before="irreversible"')
    return Kind(before)
