"""An agent's process, physically confined: no network but the gateway's own listeners, no file but its workspace.

Rules
1. The gateway accepts on sockets that it owns inside the sandbox's empty network: there is no way beside them.
2. The program starts only after whoever launched it has its listeners at work; if that fails, the sandbox is killed.
3. A sandbox never outlives the process that launched it, however that ends.
4. Nothing of this process goes in: no environment, no descriptor but the three that are named.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.errors import Misuse
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.groups import groups
from holdfast.gateway.seccomp import program

DEADLINE_S = 60.0  # for a sandbox to be made: a machine that needs longer is out of order
_LARGEST_ANSWER, _MOST_DOORS = 65_536, 250
_SIGNALLED = 128  # bubblewrap ends with 128 + n when the program was ended by signal n, as shells do

Doors = Mapping[int, list[socket.socket]]
Listen = Callable[[Doors], Awaitable[None]]


class Confined:
    """A running sandbox. `pid` is that of its first process, as this process sees it.

    As a context manager it is killed at the end, if it still runs."""

    def __init__(self, pid: int, pidfd: int, reply: socket.socket) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._reply = reply
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    async def wait(self) -> int:
        """The exit code of the program, once nothing of the sandbox lives any more; -n if signal n ended it (a program
        that itself ends with 128 + n cannot be told from that)."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """Kill every process of the sandbox, now. Nothing, if it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def __aenter__(self) -> Confined:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        await self.wait()

    def _go(self) -> None:
        """Let the program start."""
        self._loop.add_reader(self._reply, self._heard)
        with contextlib.suppress(OSError):  # it was ended meanwhile, and the end is told in its turn
            self._reply.send(b"go")

    def _heard(self) -> None:
        said, fds = _message(self._reply)
        _close(fds)
        self.kill()  # if it was the warden that ended, nobody else would
        self._let_go()
        if not self._ended.done():
            self._ended.set_result(_exit_code(said.get("exit", -signal.SIGKILL)))

    def _let_go(self) -> None:
        self._loop.remove_reader(self._reply)
        self._reply.close()
        os.close(self._pidfd)
        self._pidfd = -1


async def launch(
    confinement: Confinement,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    listen: Listen,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    files: Mapping[str, str] | None = None,
) -> Confined:
    """Start `argv` in a fresh sandbox with exactly `environment` (bubblewrap adds PWD).

    `listen` is given the listening sockets by port (53: datagrams), which are its own from then on, and the program
    starts when it has returned. `stdin` None reads nothing; `stdout` and `stderr` None are this process's own.
    `files`: further texts, read-only, by their place inside.

    Raises Misuse if the sandbox cannot be made (nothing was started), and whatever `listen` raises."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            _ask(_request(confinement, argv, environment, files or {}), theirs, stdin, stdout, stderr)
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    confined: Confined | None = None
    try:
        said, fds = await asyncio.wait_for(_answer(ours), DEADLINE_S)
        if "pid" not in said:
            raise await _why_not(confinement, said)
        confined = Confined(said["pid"], fds[0], ours)
        await listen(_doors(said["doors"], fds[1:]))
        confined._go()  # pyright: ignore[reportPrivateUsage] - only `launch` may
    except BaseException:
        if confined is not None:
            confined.kill()
            confined._let_go()  # pyright: ignore[reportPrivateUsage]
        ours.close()  # the warden kills a sandbox that nobody listens to
        raise
    return confined


def _request(
    confinement: Confinement, argv: Sequence[str], environment: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, Any]:
    if not argv or any("\0" in word for word in argv):
        raise Misuse("this is no command", where=repr(list(argv)))
    if confinement.workspace is not None and not confinement.workspace.is_dir():
        raise Misuse("the workspace is not a directory", where=str(confinement.workspace))
    options, last = confinement.options(environment)
    return {
        "bwrap": bubblewrap(),
        "argv": list(argv),
        "options": options,
        "last": last,
        "files": {**confinement.files(), **files},
        "seccomp": program(platform.machine()).hex(),
        "limits": confinement.limits(),
        "groups": groups().limits(confinement),
        "ports": list(confinement.ports),
        "dns": confinement.dns,
    }


@cache
def bubblewrap() -> str:
    """The program that makes the sandbox, looked for once. Raises Misuse if there is none."""
    found = shutil.which("bwrap", path=os.environ.get("PATH", os.defpath))
    if found is None:
        raise Misuse("bubblewrap is not installed: nothing can be confined", fix="holdfast doctor")
    return found


# --- the warden, one for this process ---


class _Warden:
    """The running warden, and the socket on which it is asked."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        file = Path(__file__).with_name("warden.py")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(file), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End it, and with it every sandbox that it started."""
        self.control.close()
        self.process.wait()


_wardens: dict[int, _Warden] = {}  # by process: a copy of this one, made by a fork, needs its own
_one_at_a_time = threading.Lock()


def warm() -> None:
    """Start the warden now, so that the first sandbox need not wait for it (some 20 ms)."""
    _its_warden()


def _its_warden() -> _Warden:
    with _one_at_a_time:
        found = _wardens.get(os.getpid())
        if found is not None and found.process.poll() is None:
            return found
        if found is not None:
            found.close()
        made = _wardens[os.getpid()] = _Warden()
        if found is None:
            atexit.register(_end, os.getpid())
        return made


def _end(pid: int) -> None:
    if pid == os.getpid():
        _wardens[pid].close()


def _ask(
    request: dict[str, Any], theirs: socket.socket, stdin: int | None, stdout: int | None, stderr: int | None
) -> None:
    """Send a request to the warden; a warden that died is replaced once."""
    content = os.memfd_create("request")
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        with open(content, "wb", closefd=False) as file:
            file.write(json.dumps(request).encode())
        streams = [
            nothing if stdin is None else stdin,
            1 if stdout is None else stdout,
            2 if stderr is None else stderr,
        ]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [content, theirs.fileno(), *streams]))]
        for last in (False, True):
            warden = _its_warden()
            try:
                warden.control.sendmsg([b"?"], rights)
                return
            except ConnectionError:
                if last:
                    raise Misuse("the warden of the sandboxes does not start", fix="holdfast doctor") from None
                warden.process.wait()
    finally:
        os.close(content)
        os.close(nothing)


# --- its answers ---


async def _answer(reply: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message of the warden."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(reply, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(reply)
    return _message(reply)


def _message(reply: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A message and its descriptors; empty if the warden is gone."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DOORS * fds.itemsize)
    try:
        text, extra, _flags, _from = reply.recvmsg(_LARGEST_ANSWER, room, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return {}, []
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return (json.loads(text) if text else {}), list(fds)


def _doors(ports: list[int], fds: list[int]) -> dict[int, list[socket.socket]]:
    found: dict[int, list[socket.socket]] = {}
    for port, fd in zip(ports, fds, strict=True):
        door = socket.socket(fileno=fd)
        door.setblocking(False)
        found.setdefault(port, []).append(door)
    return found


def _exit_code(status: int) -> int:
    return _SIGNALLED - status if _SIGNALLED < status <= _SIGNALLED + signal.NSIG else status


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


async def _why_not(confinement: Confinement, said: dict[str, Any]) -> Misuse:
    text = said.get("error") or await asyncio.to_thread(complaint, confinement)
    return Misuse(f"the sandbox cannot be made: {text or 'it ended at once'}", fix="holdfast doctor")


def complaint(confinement: Confinement) -> str:
    """What bubblewrap itself says when it makes a sandbox of this class that does nothing; empty if it works."""
    first, last = confinement.options({})
    command = [bubblewrap(), *first, *last, "--", "/usr/bin/env", "true"]
    try:
        ran = subprocess.run(
            command, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    text = ran.stderr.decode(errors="replace").strip().removeprefix("bwrap: ")
    return "" if ran.returncode == 0 else text or f"it ended with {ran.returncode}"
