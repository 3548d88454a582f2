"""The probe battery: a program that is run in a sandbox, tries every way out, and says which of them are open.

It imports nothing but the standard library, and is told what there is to reach (`HOLDFAST_PROBE`, JSON): living targets
of the host, so that "blocked" means that something was there and was not reached.

Rules
1. Each probe runs in a child of its own. It answers, or fails as a blocked one fails (an OSError), or dies by a signal
   of the kernel; anything else is a broken probe and is told as such: it has shown nothing.
2. A system call is blocked if it is refused before it is looked at: EPERM, ENOSYS or EACCES. That it complains about
   its arguments means that it is open.
3. No probe harms the machine if its way is open: arguments are such that the kernel would not do what was asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import mmap
import os
import platform
import resource
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

Probe = Callable[[], bool]  # True: the way is open

TARGETS: dict[str, Any] = json.loads(os.environ.get("HOLDFAST_PROBE", "{}"))
PROBES: dict[str, Probe] = {}
OPEN, BLOCKED, BROKEN = 0, 10, 11
KILLED = (signal.SIGSYS, signal.SIGSEGV, signal.SIGKILL)  # by the filter, or by what it left undone
PATIENCE_S = 20
_REFUSED = (errno.EPERM, errno.ENOSYS, errno.EACCES)
_LIBC = ctypes.CDLL(None, use_errno=True)
_X86 = platform.machine() == "x86_64"


def probe(act: Probe) -> Probe:
    """Add a probe under the name of its function."""
    PROBES[act.__name__] = act
    return act


def asked(number: int, *arguments: int | str) -> bool:
    """Did the kernel look at this system call?"""
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word.encode() for word in arguments]
    _LIBC.syscall.restype = ctypes.c_long
    answer = _LIBC.syscall(ctypes.c_long(number), *words)
    return answer >= 0 or ctypes.get_errno() not in _REFUSED


def _tables() -> None:
    """Add the probes that the host has told of."""
    ways = TARGETS["ways"]
    for name, (x86, arm, arguments) in ways["calls"].items():
        number = x86 if _X86 else arm
        if number is not None:
            PROBES[name] = lambda number=number, arguments=arguments: asked(number, *arguments)
    for name, words in ways["sockets"].items():
        PROBES[f"socket_{name}"] = lambda words=words: socket.socket(*words).fileno() >= 0
    for name, path in ways["files"].items():
        PROBES[f"file_{name}"] = lambda path=path: readable(path)
    for name, path in ways["writes"].items():
        PROBES[f"write_{name}"] = lambda path=path: os.open(path, os.O_WRONLY | os.O_CREAT) >= 0
    for address in ways["nowhere"]:
        PROBES[f"tcp_{address}"] = lambda address=address: reached(socket.AF_INET, (address, 80))
        PROBES[f"udp_{address}"] = lambda address=address: bool(dgram(socket.AF_INET).sendto(b"x", (address, 53)))
    PROBES["tcp_ipv6"] = lambda: reached(socket.AF_INET6, ("2001:db8::1", 80))
    PROBES["multicast"] = lambda: bool(dgram(socket.AF_INET).sendto(b"x", ("224.0.0.251", 5353)))


def dgram(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


def readable(path: str) -> bool:
    if os.path.isdir(path):
        os.listdir(path)
        return True
    with open(path, "rb", buffering=0) as file:
        file.read(1)
    return True


def reached(family: int, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as way:
        way.settimeout(5)
        way.connect(address)
    return True


# --- what is expected to be open ---


@probe
def door() -> bool:
    return bool(TARGETS["ports"]) and all(reached(socket.AF_INET, ("127.0.0.1", port)) for port in TARGETS["ports"])


@probe
def own_environment() -> bool:
    return bool(TARGETS)


# --- the host's processes, and what they could have left to us ---


@probe
def environment_of_others() -> bool:
    return bool(texts("environ"))


@probe
def command_lines_of_others() -> bool:
    return any(TARGETS["folder"] in text or "--setenv" in text for _path, text in texts("cmdline"))


def texts(name: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in glob.glob(f"/proc/[0-9]*/{name}"):
        with contextlib.suppress(OSError), open(path, errors="replace") as file:
            found.append((path, file.read()))
    return [(path, text) for path, text in found if text and f"/{os.getpid()}/" not in path and not ours(path)]


def ours(path: str) -> bool:
    """Is this the battery itself?"""
    return path.split("/")[2] == str(os.getppid())


@probe
def inherited_descriptors() -> bool:
    return bool(INHERITED)


@probe
def descriptors_of_init() -> bool:
    links = [os.readlink(path) for path in glob.glob("/proc/1/fd/*")]
    return any(link.startswith(("socket:", "/proc", "anon_inode:[pidfd", "/memfd")) for link in links)


@probe
def processes_of_the_host() -> bool:
    parents = {text.split(")")[-1].split()[1] for _path, text in texts("stat")}
    return not parents <= {"0", "1", str(os.getpid()), str(os.getppid())}


PROBES["signal_to_the_host"] = lambda: os.kill(TARGETS["pid"], 0) is None


@probe
def working_directory_outside() -> bool:
    return os.getcwd() not in {"/workspace", "/tmp"}


# --- the host's network ---


PROBES["host_loopback_tcp"] = lambda: reached(socket.AF_INET, ("127.0.0.1", TARGETS["tcp"]))
PROBES["host_abstract_socket"] = lambda: reached(socket.AF_UNIX, "\0" + TARGETS["abstract"])
PROBES["host_path_socket"] = lambda: reached(socket.AF_UNIX, TARGETS["folder"] + "/socket")
PROBES["host_file"] = lambda: readable(TARGETS["folder"] + "/file")
PROBES["home_of_the_user"] = lambda: any(os.path.lexists(path) for path in TARGETS["home"])


@probe
def host_loopback_udp() -> bool:
    with dgram(socket.AF_INET) as way:
        way.settimeout(5)
        way.connect(("127.0.0.1", TARGETS["udp"]))
        way.send(b"x")
        return bool(way.recv(1))


@probe
def interfaces() -> bool:
    with open("/proc/net/dev") as file:
        return [line.split(":")[0].strip() for line in file if ":" in line] != ["lo"]


def rebound(family: int, host: str, option: int | None) -> bool:
    for port in TARGETS["ports"]:
        with socket.socket(family) as thief:
            if option is not None:
                thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with contextlib.suppress(OSError):
                thief.bind((host, port))
                thief.listen()
                return True
    return False


@probe
def rebind_the_door() -> bool:
    return any(
        rebound(socket.AF_INET, host, option)
        for host in ("127.0.0.1", "0.0.0.0")
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    )


@probe
def rebind_the_door_of_ipv6() -> bool:
    return TARGETS["ipv6"] and rebound(socket.AF_INET6, "::1", socket.SO_REUSEPORT)


@probe
def rebind_names() -> bool:
    if not TARGETS["dns"]:
        return False
    with dgram(socket.AF_INET) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        thief.bind(("127.0.0.1", 53))
    return True


# --- privileges ---


@probe
def capabilities() -> bool:
    return any(int(status(f"Cap{kind}"), 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))


@probe
def set_user_id_programs() -> bool:
    return status("NoNewPrivs") != "1"


@probe
def unfiltered_init() -> bool:
    return status("Seccomp", "1") != "2"


def status(name: str, pid: str = "self") -> str:
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))


@probe
def give_a_file_away() -> bool:
    with open("/tmp/holdfast-given", "w") as file:
        os.fchown(file.fileno(), 0, 0)
    return True


PROBES["become_root"] = lambda: os.setuid(0) is None
PROBES["higher_priority"] = lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) is None
PROBES["real_time"] = lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) is None


@probe
def device_node() -> bool:
    os.mknod("/tmp/holdfast-node", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return True


@probe
def raise_a_limit() -> bool:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    with contextlib.suppress(ValueError):  # how this module says EPERM
        resource.setrlimit(resource.RLIMIT_NPROC, (hard + 1, hard + 1))
        return True
    return False


@probe
def core_dump() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE) != (0, 0)


def terminal(request: int) -> bool:
    """A request to a terminal of our own, which is the controlling one."""
    _master, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    text = ctypes.create_string_buffer(b"x")
    answer = _LIBC.ioctl(ctypes.c_int(slave), ctypes.c_ulong(request), text)
    return answer == 0 or ctypes.get_errno() not in (*_REFUSED, errno.EIO)


PROBES["type_into_terminal"] = lambda: terminal(0x5412)
PROBES["type_into_terminal_with_high_bits"] = lambda: terminal(0x7_0000_5412)
PROBES["console_selection"] = lambda: terminal(0x541C)
PROBES["line_discipline"] = lambda: terminal(0x5423)


@probe
def call_of_32_bits() -> bool:
    """`mov eax, 20; int 0x80; ret`: getpid, through the door of another instruction set."""
    if not _X86:
        return False
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0


# --- more than its share ---


@probe
def fork_bomb() -> bool:
    born: list[int] = []
    try:
        while len(born) <= TARGETS["processes"]:
            born.append(os.fork())
            if born[-1] == 0:
                time.sleep(PATIENCE_S)
                os._exit(0)
        return True
    finally:
        for pid in born:
            os.kill(pid, signal.SIGKILL)
        for pid in born:
            os.waitpid(pid, 0)


@probe
def memory_bomb() -> bool:
    held = mmap.mmap(-1, TARGETS["memory_bytes"] + (1 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return len(held) > 0


@probe
def descriptor_bomb() -> bool:
    held = [os.dup(0) for _ in range(TARGETS["open_files"] + 1)]
    return bool(held)


@probe
def file_bomb() -> bool:
    with open("/tmp/holdfast-large", "wb") as file:
        file.truncate(TARGETS["file_bytes"] + 1)
    return True


def filled(folder: str) -> bool:
    path = f"{folder}/holdfast-full"
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, TARGETS["tmp_bytes"] + (1 << 20))
        return True
    finally:
        os.unlink(path)


PROBES["tmp_bomb"] = lambda: filled("/tmp")
PROBES["shared_memory_bomb"] = lambda: filled("/dev/shm")


def run(act: Probe) -> str:
    """What one probe found, in a child of its own."""
    pid = os.fork()
    if pid == 0:
        code = BROKEN
        try:
            signal.alarm(PATIENCE_S)
            code = OPEN if act() else BLOCKED
        except OSError:
            code = BLOCKED
        except BaseException as error:  # noqa: BLE001 - said below, whatever it is
            sys.stderr.write(f"broken probe: {error!r}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == OPEN:
        return "open"
    return "blocked" if status == BLOCKED or -status in KILLED else "broken"


INHERITED: list[str] = []

if __name__ == "__main__":
    listing = os.open("/proc/self/fd", os.O_RDONLY)
    INHERITED.extend(fd for fd in os.listdir(listing) if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}"))
    INHERITED.remove(str(listing))
    os.close(listing)
    _tables()
    print(json.dumps({name: run(act) for name, act in PROBES.items()}))
