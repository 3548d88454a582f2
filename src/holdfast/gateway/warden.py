"""The warden: starts sandboxes, makes their doors, and outlives its gateway by nothing.

It is a program of its own (`python -I -S warden.py`), because what it does a gateway cannot do well itself: a process
with threads cannot enter another user namespace, a process with credentials should not be copied, and a sandbox dies
with the thread that started it.

Rules
1. It imports nothing of the product, holds no credential, has one thread, no environment, and one descriptor: a socket
   on which requests come (a description in memory, the other end for answers, and three descriptors for the program).
2. The program starts when the gateway says so, and not before: until then bubblewrap waits in front of it.
3. When the gateway dies, closes a sandbox's socket, or the warden dies, the sandbox is killed.

What a request leads to: bubblewrap (`_become`), started with nothing but what is named in the request; and a
short-lived child (`_doors`) that sets the limits, enters the sandbox's empty network, makes listeners there, and hands
them out.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

Wanted = dict[str, Any]  # what `sandbox.py` sends; see its `_request`

_NS_GET_USERNS = 0xB701
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_DEADLINE_S = 60.0
_CLOSED = select.POLLHUP | select.POLLERR | select.POLLNVAL
_REQUEST_FDS = 5


class _Started:
    """A process of the warden's: a sandbox (with a socket for answers), or a maker of doors."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.reply: socket.socket | None = None
        self.blocked = -1  # the write end: while it is open here, bubblewrap cannot read an end, and waits
        self.groups: list[str] = []


class _Warden:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        control.set_inheritable(False)  # or the program could ask the warden for anything
        self.poll = select.poll()
        self.ended: dict[int, _Started] = {}  # by pidfd
        self.hung: dict[int, _Started] = {}  # by the descriptor of its socket
        self.stale: list[str] = []  # control groups that the kernel had not let go of yet
        self.number = 0

    def serve(self) -> None:
        gateway = os.pidfd_open(os.getppid())
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(gateway, select.POLLIN)
        while True:
            for fd, _what in self.poll.poll():
                if fd == gateway or (fd == self.control.fileno() and not self._request()):
                    return self._end()
                if fd in self.ended:
                    self._reap(self.ended.pop(fd))
                elif fd in self.hung:
                    self._drop(self.hung.pop(fd))

    def _end(self) -> None:
        """Killed here, and not only by the kernel once this process is gone: a blocked one must not slip through."""
        for one in self.ended.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)
        for one in list(self.ended.values()):
            os.waitpid(one.pid, 0)
            _leave([*one.groups, *self.stale])

    def _request(self) -> bool:
        found = _received(self.control, 1)
        if found is None:
            return False
        request, answers, *streams = found[1]
        reply = socket.socket(fileno=answers)
        try:
            with open(request, "rb") as file:
                file.seek(0)
                self._start(json.load(file), reply, streams)
        except OSError as error:
            _tell(reply, {"error": f"{error.strerror}: {error.filename}" if error.filename else error.strerror})
            reply.close()
        finally:
            for fd in streams:
                os.close(fd)
        return True

    def _start(self, wanted: Wanted, reply: socket.socket, streams: list[int]) -> None:
        groups = self._groups(wanted["groups"])
        info_r, info_w = os.pipe()
        blocked_r, blocked_w = os.pipe()
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(lambda: _become(wanted, groups, warden, streams, info_w, blocked_r), info_w)
        sandbox = _Started(pid)
        os.close(info_w)
        os.close(blocked_r)
        pid = os.fork()
        if pid == 0:
            self.control.close()
            _child(lambda: _doors(wanted, reply, info_r, blocked_w), -1)
        os.close(info_r)
        maker = _Started(pid)
        sandbox.reply, sandbox.blocked, sandbox.groups = reply, blocked_w, groups
        self.ended[sandbox.pidfd], self.ended[maker.pidfd] = sandbox, maker
        self.hung[reply.fileno()] = sandbox
        self.poll.register(sandbox.pidfd, select.POLLIN)
        self.poll.register(maker.pidfd, select.POLLIN)
        self.poll.register(reply, 0)  # only that its other end was closed

    def _groups(self, wanted: list[tuple[str, dict[str, str]]]) -> list[str]:
        """Make the control groups of one sandbox: each a directory and what is written into its files."""
        self.stale = _leave(self.stale)
        self.number += 1
        made: list[str] = []
        for parent, limits in wanted:
            path = f"{parent}/holdfast-{os.getpid()}-{self.number}"
            os.mkdir(path)
            made.append(path)
            for name, value in limits.items():
                _write(f"{path}/{name}", value)
        return made

    def _reap(self, one: _Started) -> None:
        self.poll.unregister(one.pidfd)
        os.close(one.pidfd)
        _pid, status = os.waitpid(one.pid, 0)
        if one.reply is not None:
            if self.hung.pop(one.reply.fileno(), None) is not None:
                self.poll.unregister(one.reply)
            _tell(one.reply, {"exit": os.waitstatus_to_exitcode(status)})
            one.reply.close()
            os.close(one.blocked)
            self.stale += _leave(one.groups)

    def _drop(self, one: _Started) -> None:
        """Nobody listens any more: nobody would know what this sandbox does."""
        assert one.reply is not None, "only a sandbox has a socket"
        self.poll.unregister(one.reply)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)


def _child(act: Callable[[], None], told: int) -> None:
    """Run the rest of a forked child's life. What goes wrong is told to `told`, a descriptor, if there is one."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - nothing may return into the loop of the warden
        if told >= 0:
            os.write(told, json.dumps({"error": str(error)}).encode())
        else:
            sys.stderr.write(f"holdfast warden: {error!r}\n")
    finally:
        os._exit(127)


def _become(wanted: Wanted, groups: list[str], warden: int, streams: list[int], info: int, blocked: int) -> None:
    """Become bubblewrap, with no environment of its own: what the program gets is written in the arguments, which go
    through memory and not through a command line that others could read."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != warden:
        os._exit(127)
    for group in groups:
        _write(f"{group}/cgroup.procs", "0")
    with contextlib.suppress(OSError):  # where memory runs out, the kernel shall look here first
        _write("/proc/self/oom_score_adj", "1000")
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    files: list[str] = []
    for place, content in wanted["files"].items():
        files += ["--perms", "0444", "--file", str(_memory(content.encode())), place]
    gates = ["--seccomp", str(_memory(bytes.fromhex(wanted["seccomp"])))]
    gates += ["--info-fd", str(info), "--block-fd", str(blocked)]
    options = [*wanted["options"], *files, *wanted["last"], *gates]
    given = _memory(b"".join(os.fsencode(option) + b"\0" for option in options))
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in (info, blocked):
        os.set_inheritable(fd, True)
    os.execve(wanted["bwrap"], ["bwrap", "--args", str(given), "--", *wanted["argv"]], {})


def _doors(wanted: Wanted, reply: socket.socket, info: int, blocked: int) -> None:
    """Set the limits of a sandbox that waits, make its listeners, hand them out, and open the gate when told to."""
    about = _about(info)
    if "child-pid" not in about:
        if "error" in about:
            _tell(reply, about)
        return
    init = about["child-pid"]
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        pidfd = os.pidfd_open(init)
        network = os.open(f"/proc/{init}/ns/net", os.O_RDONLY)
        if os.fstat(network).st_ino != about["net-namespace"]:
            return  # it is dead, and its number belongs to somebody else
        for name, most in wanted["limits"].items():
            resource.prlimit(init, getattr(resource, name), (most, most))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            _tell(reply, {"error": f"the sandbox cannot be reached: {error.strerror}"})
        return
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    for fd, kind in ((owner, _CLONE_NEWUSER), (network, _CLONE_NEWNET)):
        if _LIBC.setns(fd, kind) != 0:
            number = ctypes.get_errno()
            _tell(reply, {"error": f"the sandbox's network cannot be entered: {os.strerror(number)}"})
            return
    if not _loopback_is_up(pidfd):
        return
    doors = [(port, door) for port in wanted["ports"] for door in _listeners(port)]
    doors += [(53, _bound(socket.AF_INET, socket.SOCK_DGRAM, 53))] if wanted["dns"] else []
    fds = array.array("i", [pidfd, *(door.fileno() for _port, door in doors)])
    told = json.dumps({"pid": init, "doors": [port for port, _door in doors]}).encode()
    reply.sendmsg([told], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    if reply.recv(16) == b"go":
        os.write(blocked, b"g")
    else:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _about(info: int) -> dict[str, Any]:
    """What bubblewrap says of itself; empty if it ended before it could."""
    text = b""
    while chunk := os.read(info, 4096):
        text += chunk
        if text.rstrip().endswith(b"}"):
            return json.loads(text)
    return {}


def _loopback_is_up(pidfd: int) -> bool:
    """Wait until bubblewrap has brought the loopback up: a socket that is bound before would be bound to nothing."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    alive = select.poll()
    alive.register(pidfd, select.POLLIN)
    until = time.monotonic() + _DEADLINE_S
    while time.monotonic() < until and not alive.poll(0):
        said = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        if struct.unpack("16sH22x", said)[1] & _IFF_UP:
            return True
        time.sleep(0.0003)
    return False


def _listeners(port: int) -> list[socket.socket]:
    """Listeners of `port` on both loopback addresses; on one, where the kernel has no IPv6."""
    made = [_bound(socket.AF_INET, socket.SOCK_STREAM, port)]
    with contextlib.suppress(OSError):
        made.append(_bound(socket.AF_INET6, socket.SOCK_STREAM, port))
    for door in made:
        door.listen(512)
    return made


def _bound(family: int, kind: int, port: int) -> socket.socket:
    """No address is ever reused: nobody else can bind it while it is ours."""
    door = socket.socket(family, kind)
    if family == socket.AF_INET6:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    door.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    return door


def _memory(content: bytes) -> int:
    """A descriptor from which `content` is read, and which the next program inherits."""
    fd = os.memfd_create("holdfast", 0)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _leave(groups: list[str]) -> list[str]:
    """Remove control groups; those that the kernel does not let go of yet are given back."""
    left: list[str] = []
    for path in groups:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            left.append(path)
    return left


def _tell(reply: socket.socket, said: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # whoever asked may have gone
        reply.send(json.dumps(said).encode())


def _received(control: socket.socket, size: int) -> tuple[bytes, list[int]] | None:
    """One message with its descriptors; None if the other end was closed."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(_REQUEST_FDS * fds.itemsize)
    message, extra, _flags, _from = control.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return (message, list(fds)) if message else None


if __name__ == "__main__":
    if os.getppid() == int(sys.argv[2]):
        _Warden(socket.socket(fileno=int(sys.argv[1]))).serve()
