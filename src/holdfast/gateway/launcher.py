"""Whoever starts an agent's program: takes its run up at a gateway, confines it, and sees it to its end.

Rules
1. The program starts when its run is claimed and its listeners are at work, and is killed when the gateway is gone.
2. Its environment is exactly what is named: what programs need to run at all, what the configuration lets through, and
   where the doors are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from holdfast.core.canonical import JSON
from holdfast.errors import HoldfastError, Misuse, Refused, Stopped, Waiting
from holdfast.gateway.closure import Capture
from holdfast.gateway.confinement import Confinement, own_python
from holdfast.gateway.doors.told import for_people
from holdfast.gateway.launching import LATE, receive, say, whole_of
from holdfast.gateway.room import CAPTURE
from holdfast.gateway.sandbox import Doors, launch
from holdfast.gateway.whole import whole
from holdfast.store.remote import error_of

AUTHORITY = "/etc/holdfast/ca.pem"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WAITS = 75  # the exit code of a program that is to be started again when what it waits for has come
PASSED = ("LANG", "LC_ALL", "TERM", "TZ", "COLUMNS", "LINES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to be started for a run. `passed`: names of variables of this process that it gets, too."""

    run: str
    agent: str
    argv: Sequence[str]
    input: JSON = None
    on_divergence: str = "brief"
    passed: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (-n: by signal n), and what its run waits for, if it does. `heard`: what
    `until_news` is to be told then; empty if it may go on at once. `answer`: of a run that had ended before, what it
    came to (`answer`, JSON, or `answer_b64`); nothing was started then."""

    code: int
    waiting: Waiting | None
    heard: Mapping[str, JSON] | None = field(default=None, compare=False)
    answer: Mapping[str, JSON] | None = None


class Starting:
    """A connection to the door of a gateway for those who start programs. Raises Stopped where nobody listens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setblocking(False)
        self._late = self._wanted = False

    async def __aenter__(self) -> Starting:
        try:
            self._connection.connect(str(self._path))
        except PermissionError:
            self._connection.close()
            fix = "ask whoever runs it to put you into its [gateway] group, and under [people]"
            raise Refused("this user may not connect to the gateway", where=str(self._path), fix=fix) from None
        except OSError as error:
            self._connection.close()
            why = f"no gateway listens: {error.strerror or error}"
            raise Stopped(why, where=str(self._path), fix="start one: holdfast gateway") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()

    async def ask(self, message: Mapping[str, JSON], sockets: Sequence[socket.socket] = ()) -> dict[str, Any]:
        """What the gateway answers. Raises what it says, Stopped if it is gone."""
        with contextlib.suppress(OSError):  # it may be gone, and have said why before it went
            await say(self._connection, message, sockets)
        try:
            answer = await self._answer()
        except OSError:
            answer = None
        if answer is None:
            raise Stopped("the gateway is gone", where=str(self._path), fix="start it, then the same command again")
        if "error" in answer:
            raise error_of(answer["error"])
        return answer

    async def _answer(self) -> dict[str, Any] | None:
        """What the gateway answers; what it has said unasked meanwhile is passed over."""
        first = await self._next()
        return None if first is None else await whole_of(first, self._next)

    async def _next(self) -> dict[str, Any] | None:
        while (message := await receive(self._connection)) is not None:
            if not self._unasked(message[0]):
                return message[0]
        return None

    def _unasked(self, message: Mapping[str, Any]) -> bool:
        """Take up what the gateway says of itself; whether this is such a message."""
        self._late, self._wanted = self._late or LATE in message, self._wanted or CAPTURE in message
        return LATE in message or CAPTURE in message

    async def attend(self, room: HeldRoom | None, one: asyncio.Lock) -> bool:
        """Do what the gateway asks for while the program runs: capture its files, in `room`, holding `one`. True when
        the gateway says that the run waits and its program should have ended, False when it is gone."""
        while not self._late:
            if not self._wanted:
                message = await receive(self._connection)
                if message is None:
                    return False
                self._unasked(message[0])
            if self._wanted:
                self._wanted = False
                async with one:
                    await self._capture(room)
        return True

    async def _capture(self, room: HeldRoom | None) -> None:
        """Until the gateway has answered, nothing of what was captured is collected."""
        try:
            if room is None:
                raise Misuse("nothing is captured here", fix="use the Holdfast that the gateway is of")
            async with room.held():
                captured = await whole(asyncio.to_thread(room.capture))
                await self.ask({"captured": {"tree": captured.tree}})
        except Stopped as error:
            if error.where == str(self._path):  # it is the gateway that is gone
                raise
            await self.ask({"captured": for_people(error).body()})
        except (HoldfastError, OSError) as error:
            told = error if isinstance(error, HoldfastError) else Stopped(f"the files cannot be captured: {error}")
            await self.ask({"captured": for_people(told).body()})


class HeldRoom(Protocol):
    """The files of one life of a run, at `path`: a `Room` whose `capture` may be called in a thread."""

    @property
    def path(self) -> Path: ...

    def held(self) -> AbstractAsyncContextManager[None]:
        """As `Room.held`."""
        ...

    def capture(self) -> Capture:
        """As `Room.capture`. The sandbox stands still meanwhile."""
        ...


class Rooms(Protocol):
    """Where the files of a starter's runs are."""

    def open(self, told: Mapping[str, Any]) -> AbstractAsyncContextManager[HeldRoom]:
        """The files with which a run goes on, as its gateway says (`files` of what it was taken up with)."""
        ...


async def run_confined(
    program: Program, confinement: Confinement, path: Path, receipt: JSON, *, standing: bool = True,
    rooms: Rooms | None = None,
) -> Ended:  # fmt: skip
    """Start a program in a sandbox for its run, and see it to its end. `path`: the gateway's door for starters;
    `receipt`: what was proven of this class of sandbox. `standing`: it has this process's standard streams. `rooms`:
    where the files are of agents whose checkpoints hold them."""
    async with Starting(path) as gateway, AsyncExitStack() as own:
        taken = await gateway.ask({"open": _wanted(program, receipt, "sandbox")})
        if "ended" in taken:
            return Ended(0, None, answer=taken["ended"])
        room: HeldRoom | None = None
        if (taken.get("files") is None) is not (rooms is None):
            what = "the gateway that runs, and this configuration, do not agree on whether it keeps this agent's files"
            raise Misuse(what, where=str(path), fix="start the gateway again with this configuration")
        if rooms is not None:
            room = await own.enter_async_context(rooms.open(taken["files"]))
            confinement = replace(confinement, workspace=room.path)

        async def listen(doors: Doors) -> None:
            flat = [each for sockets in doors.values() for each in sockets]
            try:
                await gateway.ask({"listen": {str(port): len(each) for port, each in doors.items()}}, flat)
            finally:
                for each in flat:
                    each.close()

        streams = {"stdin": 0, "stdout": 1, "stderr": 2} if standing else {}
        files = {AUTHORITY: str(taken["authority"])}
        confined = await launch(
            confinement, program.argv, _environment(program, taken), listen=listen, files=files, **streams
        )
        return await _seen_through(gateway, confined, room)


async def run_beside(program: Program, path: Path) -> Ended:
    """Start a program without a sandbox: it reaches the gateway by its local door, and everything else besides."""
    async with Starting(path) as gateway:
        taken = await gateway.ask({"open": _wanted(program, None, "local")})
        if "ended" in taken:
            return Ended(0, None, answer=taken["ended"])
        environment = {**os.environ, **_environment(program, taken)}
        try:
            process = await asyncio.create_subprocess_exec(*program.argv, env=environment)
        except OSError as error:
            what = f"`{program.argv[0]}` cannot be started: {error.strerror}"
            raise Misuse(what, fix="name a command that exists and may be run, or its whole path") from None
        return await _seen_through(gateway, _Beside(process))


async def hold_for(program: Program, path: Path, told: Callable[[Mapping[str, str]], None]) -> Ended:
    """Hold a run for a program elsewhere, until that says that it is over. `told` is given its environment."""
    async with Starting(path) as gateway:
        taken = await gateway.ask({"open": _wanted(program, None, "remote")})
        if "ended" in taken:
            fix = f"holdfast show {program.run} shows how; use a new id"
            raise Misuse("the run has ended", where=program.run, fix=fix)
        told(taken["environment"])
        over = await gateway.ask({"wait": {}})
        return await _ended(gateway, 1 if over["failed"] else WAITS if over["waits"] else 0)


class _Beside:
    """A program that nothing confines, as `Running`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def kill(self) -> None:
        """As `Running.kill`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """As `Running.wait`."""
        return await self._process.wait()


class Running(Protocol):
    """A program that was started."""

    def kill(self) -> None:
        """End it, now. Idempotent."""
        ...

    async def wait(self) -> int:
        """Its exit code, when it has ended (-n: by signal n)."""
        ...


async def _seen_through(gateway: Starting, running: Running, room: HeldRoom | None = None) -> Ended:
    one = asyncio.Lock()
    ending = asyncio.ensure_future(running.wait())
    late = asyncio.ensure_future(gateway.attend(room, one))
    try:
        await asyncio.wait([ending, late], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done() and not late.result():
            raise Stopped("the gateway is gone: its program was ended", fix="start it, then the same command again")
        outlasted = not ending.done()  # it knows that its run waits, and is started again when that is over
        async with one:  # a capture that has begun comes to its end: what is said next is said after it
            late.cancel()
    finally:
        late.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, Stopped):
            await late
        running.kill()
        await ending
    if outlasted:
        found = await _ended(gateway, WAITS)
        return replace(found, heard=found.heard or {})
    return await _ended(gateway, ending.result())


async def _ended(gateway: Starting, code: int) -> Ended:
    if code < 0:
        return Ended(code, None)  # as after a crash: the connection ends, and the claim is given back
    ended: dict[str, JSON] = {"answer": {"exit": 0}} if code == 0 else {"error": f"the program ended with {code}"}
    if code == WAITS:
        ended = {"waits": True}
    told = await gateway.ask({"end": ended})
    waiting = told.get("waiting")
    return Ended(code, None if waiting is None else waiting_of(waiting), told.get("heard"))


def waiting_of(told: Mapping[str, Any]) -> Waiting:
    """What a gateway says that a run waits for."""
    found = error_of(told)
    assert isinstance(found, Waiting), "nothing else waits"
    found.until_ms = told["until_ms"]
    return found


async def until_news(heard: Mapping[str, JSON], path: Path) -> None:
    """Return when the run that had `heard` this may go on. `path`: the gateway's door for starters. Raises Stopped."""
    if not heard:
        return
    async with Starting(path) as gateway:
        await gateway.ask({"news": dict(heard)})


def _wanted(program: Program, receipt: JSON, place: str) -> dict[str, JSON]:
    return {
        "run": program.run, "agent": program.agent, "input": program.input, "containment": receipt,
        "on_divergence": program.on_divergence, "place": place,
    }  # fmt: skip


def _environment(program: Program, taken: Mapping[str, Any]) -> dict[str, str]:
    found = {"PATH": PATH, "HOME": "/tmp", "USER": "agent"}
    found |= {name: os.environ[name] for name in (*PASSED, *program.passed) if name in os.environ}
    return {**found, **program.extra, **taken["environment"]}


def shown_for(command: str) -> tuple[str, tuple[Path, ...]]:
    """A command as it is found inside a sandbox (absolute, where it lies outside the system's own directories), and
    what must be shown there for it to run. Raises Misuse if there is no such command."""
    found = shutil.which(command)
    if found is None:
        raise Misuse(f"there is no command `{command}`", fix="name one that exists, or its whole path")
    path = Path(found).absolute()
    if path.is_relative_to("/usr") or path.is_relative_to("/bin"):
        return command, ()
    if path == Path(sys.executable) or path.is_relative_to(sys.prefix):
        return str(path), own_python()
    real = path.resolve()
    home = real.parent.parent if real.parent.name == "bin" else real.parent
    if home.is_relative_to("/usr"):
        return str(path), () if path.parent == home else (path.parent,)
    return str(path), tuple(dict.fromkeys((home, path.parent.parent if path.parent.name == "bin" else path.parent)))
