"""The containment receipt: what the probe battery found in a fresh sandbox of a class.

Rules
1. What must be unreachable is really there while the probes run: a listener on the host's loopback, an abstract
   socket, a socket and a file in a directory, an inheritable descriptor.
2. A probe that neither reached nor was refused has shown nothing, and is no reason to trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.core.canonical import JSON
from holdfast.errors import Refused
from holdfast.gateway import ways
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.groups import groups
from holdfast.gateway.sandbox import Doors, bubblewrap, launch

DEADLINE_S = 300.0
EXPECTED = frozenset({"door", "own_environment"})
_PROGRAM = "/etc/holdfast/probes.py"
_PYTHON = os.path.realpath(sys.executable)


async def receipt(confinement: Confinement) -> dict[str, JSON]:
    """Run the battery in a fresh sandbox of this class (with a workspace of its own, and this interpreter to read).

    Gives `class` (its digest), `probes` (each name with "blocked" or "open"; open are only the door and the program's
    own environment), `kernel`, `machine`, `bwrap`, `user` (root or ordinary) and `memory` ("sandbox" or "process": what
    its limit is a limit of). Raises Refused if another way is open, or a probe has shown nothing; Misuse if no sandbox
    can be made."""
    expected = EXPECTED if confinement.ports else EXPECTED - {"door"}
    probes = await battery(confinement)
    wrong = sorted(name for name, found in probes.items() if (found == "open") is not (name in expected))
    broken = sorted(name for name, found in probes.items() if found not in {"open", "blocked"})
    if wrong or broken:
        raise Refused(f"the sandbox does not hold: {', '.join([*wrong, *broken])}", fix="holdfast doctor")
    return {
        "class": confinement.digest(),
        "probes": {**probes},
        "kernel": platform.release(),
        "machine": platform.machine(),
        "bwrap": await asyncio.to_thread(_version),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "memory": "process" if groups().memory is None else "sandbox",
    }


async def battery(confinement: Confinement) -> dict[str, str]:
    """What each probe found: "open", "blocked", or "broken"."""
    held: list[socket.socket] = []
    read, write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="holdfast-probe-") as folder, contextlib.ExitStack() as after:
        after.callback(lambda: [door.close() for door in held])
        probed = _probed(confinement, Path(folder))
        targets = after.enter_context(_targets(Path(folder), probed))

        async def listen(doors: Doors) -> None:
            held.extend(door for some in doors.values() for door in some)
            targets["ipv6"] = any(door.family == socket.AF_INET6 for door in held)

        async with asyncio.timeout(DEADLINE_S):
            try:
                confined = await launch(
                    probed,
                    [_PYTHON, "-I", "-S", _PROGRAM],
                    {"HOLDFAST_PROBE": json.dumps(targets)},
                    listen=listen,
                    stdout=write,
                    files={_PROGRAM: Path(__file__).with_name("probes.py").read_text()},
                )
            except BaseException:
                os.close(read)
                raise
            finally:
                os.close(write)
            async with confined:
                said = await asyncio.to_thread(_all, read)
                code = await confined.wait()
    if code != 0:
        raise Refused(f"the probes could not be run: they ended with {code}", fix="holdfast doctor")
    return json.loads(said)


def _probed(confinement: Confinement, folder: Path) -> Confinement:
    workspace = folder / "workspace"
    workspace.mkdir()
    prefix = Path(sys.base_prefix).resolve()
    more = () if prefix.is_relative_to("/usr") else (prefix,)
    shown = (*(path for path in confinement.read_only if path not in more), *more)
    return replace(confinement, workspace=workspace, read_only=shown)


def _all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _targets(folder: Path, confinement: Confinement) -> Generator[dict[str, Any]]:
    """Things of the host that are there to be reached, and what the battery is told of them."""
    abstract = f"holdfast-{secrets.token_hex(8)}"
    (folder / "file").write_text("of the host")
    loop = asyncio.get_running_loop()
    shown = confinement.read_only
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX) as named,
        open(folder / "file") as file,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        loop.add_reader(udp, _echo, udp)
        for listener, address in ((hidden, "\0" + abstract), (named, str(folder / "socket"))):
            listener.bind(address)
            listener.listen()
        os.set_inheritable(file.fileno(), True)
        try:
            yield {
                "ports": list(confinement.ports),
                "dns": confinement.dns,
                "ipv6": True,
                "pid": os.getpid(),
                "folder": str(folder),
                "abstract": abstract,
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "processes": confinement.processes,
                "memory_bytes": confinement.memory_bytes,
                "open_files": confinement.open_files,
                "file_bytes": confinement.file_bytes,
                "tmp_bytes": confinement.tmp_bytes,
                "home": _hidden(shown),
                "ways": {
                    "calls": ways.CALLS,
                    "sockets": ways.SOCKETS,
                    "files": {name: path for name, path in ways.FILES.items() if not _touches(Path(path), shown)},
                    "writes": ways.WRITES,
                    "nowhere": ways.NOWHERE,
                },
            }
        finally:
            loop.remove_reader(udp)


def _hidden(shown: tuple[Path, ...]) -> list[str]:
    """What is in this user's home, but for the ways to what is shown on purpose."""
    try:
        return [str(path) for path in Path.home().iterdir() if not _touches(path, shown)]
    except (OSError, RuntimeError):
        return []


def _touches(path: Path, shown: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(one) or one.is_relative_to(path) for one in shown)


def _echo(udp: socket.socket) -> None:
    with contextlib.suppress(OSError):
        said, whom = udp.recvfrom(16)
        udp.sendto(said, whom)


def _version() -> str:
    ran = subprocess.run([bubblewrap(), "--version"], capture_output=True, text=True, timeout=60, check=False)
    return ran.stdout.strip().removeprefix("bubblewrap ")
