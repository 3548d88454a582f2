"""The warden: starts sandboxes, makes their doors, and outlives its gateway by nothing.

It is a program of its own (`python -I -S warden.py`), because what it does a gateway cannot do well itself: a process
with threads cannot enter another user namespace, a process with credentials should not be copied, and a sandbox dies
with the thread that started it.

Rules
1. It imports nothing of the product, holds no credential, has one thread, no environment, and one descriptor: a socket
   on which requests come (a description in memory, the other end for answers, and three descriptors for the program).
2. The program starts when the gateway says so, and not before: until then bubblewrap waits in front of it.
3. When the gateway dies, closes a sandbox's socket, or the warden dies, the sandbox is killed. What is killed is its
   first process, and with it the kernel kills all others: until that process follows bubblewrap into death, which is
   late (`_follows`), the maker of doors watches over it, whoever else dies.

A request leads to bubblewrap (`_become`), started with nothing but what the request names; and to a short-lived maker
of doors (`_doors`): it sets the limits, enters the sandbox's empty network, makes listeners there, and hands them out.
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
_PR_SET_CHILD_SUBREAPER = 36
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_DEADLINE_S = 60.0
_REQUEST_FDS = 5


class _Sandbox:
    """A sandbox, from the start of its bubblewrap until nothing of it lives."""

    def __init__(self, pid: int, reply: socket.socket, blocked: int, handed: socket.socket, groups: list[str]) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.reply = reply
        self.blocked = blocked  # the write end: while it is open here, bubblewrap cannot read an end, and waits
        self.handed = handed  # through which the maker of doors hands us its first process
        self.groups = groups
        self.init = -1

    def kill(self) -> None:
        """End all of it. Before its first process is known, the maker of its doors does that."""
        with contextlib.suppress(OSError):
            if self.init < 0 and (found := _received(self.handed, 1, socket.MSG_DONTWAIT)):
                self.init = found[1][0]
        if self.init >= 0:
            _kill(self.init)


class _Warden:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        control.set_inheritable(False)  # or the program could ask the warden for anything
        self.poll = select.poll()
        self.ended: dict[int, Callable[[], None]] = {}  # by pidfd: what follows on an end
        self.hung: dict[int, _Sandbox] = {}  # by the descriptor of its socket
        self.living: set[_Sandbox] = set()
        self.makers: set[int] = set()
        self.stale: list[str] = []  # control groups that the kernel had not let go of yet
        self.number = 0
        self.mark = os.urandom(4).hex()  # a process before this one may have had its number, and left groups behind

    def serve(self) -> None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a living sandbox needs five
        gateway = os.pidfd_open(os.getppid())
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(gateway, select.POLLIN)
        while True:
            fd, _what = self.poll.poll()[-1]  # one at a time: what it leads to may give a number to another descriptor
            if fd == gateway or (fd == self.control.fileno() and not self._request()):
                return self._end()
            if fd in self.ended:
                self.poll.unregister(fd)
                self.ended.pop(fd)()
            elif fd in self.hung:
                self.poll.unregister(fd)
                self.hung.pop(fd).kill()  # nobody listens any more: nobody would know what it does

    def _end(self) -> None:
        """The makers of doors end by themselves, and each kills what it has not yet let go."""
        for pid in self.makers:
            os.waitpid(pid, 0)
        for sandbox in self.living:
            sandbox.kill()
            _kill(sandbox.pidfd)
        for sandbox in self.living:
            os.waitid(os.P_PIDFD, sandbox.pidfd, os.WEXITED | os.WNOWAIT)
            self.stale += sandbox.groups
        until_s = time.monotonic() + _DEADLINE_S
        while self.stale and time.monotonic() < until_s:  # what was killed ends a moment later
            self.stale = _leave(self.stale)
            time.sleep(0.01)

    def _request(self) -> bool:
        if (found := _received(self.control, 1)) is None:
            return False
        request, answer, *streams = found[1]
        reply = socket.socket(fileno=answer)
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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        watched = os.pidfd_open(os.getpid())
        maker = os.fork()  # first: whoever dies from now on, there is one that watches
        if maker == 0:
            for fd in (self.control.detach(), info_w, blocked_r):
                os.close(fd)
            _child(lambda: _doors(wanted, reply, info_r, blocked_w, theirs, watched), -1)
        pid = os.fork()
        if pid == 0:
            _child(lambda: _become(wanted, groups, streams, info_w, blocked_r), info_w)
        for fd in (info_r, info_w, blocked_r, watched, theirs.detach()):
            os.close(fd)
        sandbox = _Sandbox(pid, reply, blocked_w, ours, groups)
        self.makers.add(maker)
        making = os.pidfd_open(maker)
        self._when_ended(making, lambda: self._made(maker, making))
        self._when_ended(sandbox.pidfd, lambda: self._bubblewrap_ended(sandbox))
        self.living.add(sandbox)
        self.hung[reply.fileno()] = sandbox
        self.poll.register(reply, 0)  # only that its other end was closed

    def _when_ended(self, pidfd: int, then: Callable[[], None]) -> None:
        self.ended[pidfd] = then
        self.poll.register(pidfd, select.POLLIN)

    def _made(self, maker: int, making: int) -> None:
        os.waitpid(maker, 0)
        os.close(making)
        self.makers.discard(maker)

    def _groups(self, wanted: list[tuple[str, dict[str, str]]]) -> list[str]:
        """Make the control groups of one sandbox: each a directory and what is written into its files."""
        self.stale = _leave(self.stale)
        self.number += 1
        made: list[str] = []
        for parent, limits in wanted:
            path = f"{parent}/holdfast-{os.getpid()}-{self.mark}-{self.number}"
            os.mkdir(path)
            made.append(path)
            for name, value in limits.items():
                _write(f"{path}/{name}", value)
        return made

    def _bubblewrap_ended(self, sandbox: _Sandbox) -> None:
        """It ends when the program has ended; the first process inside, and what else is there, a moment later."""
        sandbox.kill()
        if sandbox.init < 0:
            return self._over(sandbox)
        return self._when_ended(sandbox.init, lambda: self._over(sandbox))

    def _over(self, sandbox: _Sandbox) -> None:
        if sandbox.init >= 0:
            with contextlib.suppress(ChildProcessError):  # who has no parent any more is ours to bury
                os.waitid(os.P_PIDFD, sandbox.init, os.WEXITED | os.WNOHANG)
            os.close(sandbox.init)
        if self.hung.pop(sandbox.reply.fileno(), None) is not None:
            self.poll.unregister(sandbox.reply)
        _pid, status = os.waitpid(sandbox.pid, 0)
        _tell(sandbox.reply, {"exit": os.waitstatus_to_exitcode(status)})
        sandbox.reply.close()
        sandbox.handed.close()
        os.close(sandbox.blocked)
        os.close(sandbox.pidfd)
        self.living.discard(sandbox)
        self.stale += _leave(sandbox.groups)


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


def _become(wanted: Wanted, groups: list[str], streams: list[int], info: int, blocked: int) -> None:
    """Become bubblewrap, with no environment: the program's is in the arguments, which are in memory for it alone."""
    os.write(info, b"%d\n" % os.getpid())
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


def _doors(wanted: Wanted, reply: socket.socket, info: int, blocked: int, handed: socket.socket, warden: int) -> None:
    """Set the limits of a sandbox that waits, make its listeners, and open the gate when told to; or else kill it."""
    about = _about(info)
    if "child-pid" not in about:
        _kill_unheard(blocked)
        _tell(reply, about)  # an error, or nothing
        return
    init = about["child-pid"]
    opened, pidfd = False, -1
    try:
        pidfd = os.pidfd_open(init)
        network = os.open(f"/proc/{init}/ns/net", os.O_RDONLY)
        if os.fstat(network).st_ino != about["net-namespace"]:
            pidfd = -1  # it is dead, and its number belongs to somebody else
            return
        _send(handed, b"i", [pidfd])
        opened = _opened(wanted, reply, init, pidfd, network, warden)
        if opened:
            os.write(blocked, b"g")
            opened = _follows(init, about["outer"], pidfd, warden)
    except ConnectionError:  # the gateway, or the sandbox, has ended meanwhile
        opened = False
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            _tell(reply, {"error": f"its doors cannot be made: {error.strerror}"})
    finally:
        if not opened and pidfd >= 0:
            _kill(pidfd)


def _kill_unheard(blocked: int) -> None:
    """Bubblewrap has died before it could name its first process, which then waits for it for ever. We know it by the
    pipe that it shares with us."""
    name = f"pipe:[{os.fstat(blocked).st_ino}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as words:
            if words.read(6) == b"bwrap\0" and any(
                os.readlink(fd.path) == name for fd in os.scandir(f"/proc/{pid}/fd")
            ):
                os.kill(int(pid), signal.SIGKILL)


def _opened(wanted: Wanted, reply: socket.socket, init: int, pidfd: int, network: int, warden: int) -> bool:
    """Set the limits, make the doors, hand them out, and wait for the gateway's word; False if it is no."""
    for name, most in wanted["limits"].items():
        resource.prlimit(init, getattr(resource, name), (most, most))
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    for fd, kind in ((owner, _CLONE_NEWUSER), (network, _CLONE_NEWNET)):
        if _LIBC.setns(fd, kind) != 0:
            raise OSError(ctypes.get_errno(), "its network cannot be entered")
    if not _loopback_is_up(pidfd, warden):
        return False
    doors = [(port, door) for port in wanted["ports"] for door in _listeners(port)]
    doors += [(53, _bound(socket.AF_INET, socket.SOCK_DGRAM, 53))] if wanted["dns"] else []
    if not _waits(init, pidfd, warden):
        return False
    told = json.dumps({"pid": init, "doors": [port for port, _door in doors]}).encode()
    _send(reply, told, [pidfd, *(door.fileno() for _port, door in doors)])
    return _first(reply.fileno(), warden) == reply.fileno() and reply.recv(16) == b"go"


def _about(info: int) -> dict[str, Any]:
    """What bubblewrap says of itself, and its own pid (`outer`); nothing if it ended before."""
    text = b""
    while chunk := os.read(info, 4096):
        text += chunk
        if text.rstrip().endswith(b"}"):
            outer, said = text.split(b"\n", 1)
            return {**json.loads(said), "outer": int(outer)}
    return {}


def _loopback_is_up(*lives: int) -> bool:
    """Wait until bubblewrap has brought the loopback up: a socket that is bound before would be bound to nothing."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    asked = struct.pack("16sH22x", b"lo", 0)
    up = lambda: struct.unpack("16sH22x", fcntl.ioctl(probe, _SIOCGIFFLAGS, asked))[1] & _IFF_UP  # noqa: E731
    return _came(up, *lives)


def _waits(init: int, *lives: int) -> bool:
    """Wait until the sandbox is made as far as it can fail: it gives up its last capability, and waits for our word."""
    return _came(lambda: b"\nCapPrm:\t0000000000000000\n" in _status(init), *lives)


def _follows(init: int, outer: int, *lives: int) -> bool:
    """Wait until the first process would die with bubblewrap outside (it has asked for that when it is filtered), and
    tell whether that still lives. False too if it has ended itself."""
    return _came(lambda: b"\nSeccomp:\t2\n" in _status(init), *lives) and b"\nPPid:\t%d\n" % outer in _status(init)


def _status(pid: int) -> bytes:
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        return file.read(8192)


def _came(true: Callable[[], object], *lives: int) -> bool:
    """Wait until something is true of a sandbox. False if that, or the warden, ends before; or if it takes too long."""
    until = time.monotonic() + _DEADLINE_S
    while not true():
        if time.monotonic() > until or _first(*lives, wait_ms=0) is not None:
            return False
        time.sleep(0.0003)
    return True


def _first(*fds: int, wait_ms: int | None = None) -> int | None:
    """The last of these descriptors that can be read; None if none can in time."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    ready = poll.poll(wait_ms)
    return ready[-1][0] if ready else None


def _listeners(port: int) -> list[socket.socket]:
    """Listeners of `port` on both loopback addresses; on one, where the kernel has no IPv6."""
    made = [_bound(socket.AF_INET, socket.SOCK_STREAM, port)]
    with contextlib.suppress(OSError):
        made.append(_bound(socket.AF_INET6, socket.SOCK_STREAM, port))
    return made


def _bound(family: int, kind: int, port: int) -> socket.socket:
    """No address is ever reused: nobody else can bind it while it is ours."""
    door = socket.socket(family, kind)
    if family == socket.AF_INET6:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    door.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    if kind == socket.SOCK_STREAM:
        door.listen(512)
    return door


def _memory(content: bytes) -> int:
    """A descriptor to read `content` from, which the next program inherits."""
    fd = os.memfd_create("holdfast", 0)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _leave(groups: list[str]) -> list[str]:
    """Remove control groups; those that the kernel does not let go of yet are given back."""
    for path in groups:
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return [path for path in groups if os.path.exists(path)]


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _send(way: socket.socket, text: bytes, fds: list[int]) -> None:
    way.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def _tell(reply: socket.socket, said: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # whoever asked may have gone
        reply.send(json.dumps(said).encode())


def _received(control: socket.socket, size: int, flags: int = 0) -> tuple[bytes, list[int]] | None:
    """One message with its descriptors; None if the other end was closed."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(_REQUEST_FDS * fds.itemsize)
    message, extra, _flags, _from = control.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC | flags)
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return (message, list(fds)) if message else None


if __name__ == "__main__":
    if os.getppid() == int(sys.argv[2]):
        _Warden(socket.socket(fileno=int(sys.argv[1]))).serve()
