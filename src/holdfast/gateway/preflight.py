"""Can this machine confine a process, and if not: what exactly is missing, and what mends it.

Rules
1. It is tried, not guessed: the last check makes a sandbox with a door. Settings only explain a failure.
2. Each finding says what to type.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.groups import groups
from holdfast.gateway.sandbox import Doors, bubblewrap, complaint, launch
from holdfast.gateway.seccomp import MACHINES

OLDEST_BWRAP = (0, 8, 0)  # the first that can forbid further user namespaces
OLDEST_KERNEL = (5, 9)  # pidfds that can be waited for, and a list of what a filter may be asked
APPARMOR, CLONE, MOST = (
    "kernel/apparmor_restrict_unprivileged_userns", "kernel/unprivileged_userns_clone", "user/max_user_namespaces",
)  # fmt: skip
_SETTINGS = (APPARMOR, CLONE, MOST)
_INSTALLERS = {
    "apt-get": "apt-get install bubblewrap", "dnf": "dnf install bubblewrap", "apk": "apk add bubblewrap",
    "pacman": "pacman -S bubblewrap", "zypper": "zypper install bubblewrap",
}  # fmt: skip
_PROFILE = (
    "printf 'abi <abi/4.0>,\\nprofile bwrap {path} flags=(unconfined) {{ userns, }}\\n' | sudo tee"
    " /etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What stands in the way of confinement here, and what to do about it."""

    what: str
    fix: str


def preflight() -> list[Missing]:
    """What is missing for confinement on this machine, for this user; empty if a sandbox was made and worked."""
    if sys.platform != "linux":
        return [Missing(what="only Linux can confine a process so", fix="run agents in a Linux virtual machine")]
    found = [missing for missing in (_machine(), _kernel(platform.release()), _bubblewrap(), _counting()) if missing]
    if found:
        return found
    if said := complaint(Confinement()):
        return [explained(said, settings(), path=bubblewrap(), container=_in_container())]
    with ThreadPoolExecutor(1) as own:  # the caller may have a loop of its own
        failed = own.submit(lambda: asyncio.run(_tried())).result()
    return [] if failed is None else [failed]


def explained(said: str, values: Mapping[str, str], *, path: str, container: bool) -> Missing:
    """Why bubblewrap said this. `values`: of those settings of the kernel that exist here, by their path."""
    if values.get(MOST) == "0":
        return Missing(what="user namespaces are switched off", fix=f"sudo sysctl -w {_dotted(MOST)}=10000")
    if values.get(CLONE) == "0":
        return Missing(what="user namespaces are for root only here", fix=f"sudo sysctl -w {_dotted(CLONE)}=1")
    if values.get(APPARMOR) == "1" and re.search(r"uid map|RTM_NEWADDR|namespace|Permission denied", said):
        return Missing(what=f"AppArmor refuses user namespaces to {path}", fix=_PROFILE.format(path=path))
    if container:
        return Missing(
            what=f"the container that this runs in does not allow a sandbox inside: {said}",
            fix="start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
            " --security-opt systempaths=unconfined",
        )
    return Missing(
        what=f"bubblewrap cannot make a sandbox: {said}", fix=f"see what stops it: {path} --ro-bind / / true"
    )


def settings() -> dict[str, str]:
    """Those settings of the kernel that decide about user namespaces, if they exist here."""
    paths = {name: Path("/proc/sys") / name for name in _SETTINGS}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def version(text: str) -> tuple[int, ...]:
    """The first three numbers in a text; missing ones are 0."""
    numbers = [int(number) for number in re.findall(r"\d+", text)[:3]]
    return (*numbers, 0, 0, 0)[:3]


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _machine() -> Missing | None:
    if platform.machine() in MACHINES:
        return None
    return Missing(
        what=f"no filter of system calls is known for {platform.machine()}", fix=f"use {' or '.join(MACHINES)}"
    )


def _kernel(release: str) -> Missing | None:
    if version(release) >= OLDEST_KERNEL:
        return None
    oldest = ".".join(str(number) for number in OLDEST_KERNEL)
    return Missing(what=f"Linux {release} is too old to hold a sandbox", fix=f"use {oldest} or newer")


def _bubblewrap() -> Missing | None:
    install = next((fix for name, fix in _INSTALLERS.items() if shutil.which(name)), "install bubblewrap")
    try:
        path = bubblewrap()
    except HoldfastError:
        return Missing(what="bubblewrap (bwrap) is not installed", fix=install)
    ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    if version(ran.stdout) >= OLDEST_BWRAP:
        return None
    oldest = ".".join(str(number) for number in OLDEST_BWRAP)
    return Missing(
        what=f"{ran.stdout.strip() or path} cannot forbid new namespaces inside", fix=f"use {oldest} or newer"
    )


def _counting() -> Missing | None:
    """The kernel does not limit the number of root's processes; only a control group does."""
    if os.geteuid() != 0 or groups().processes is not None:
        return None
    return Missing(
        what="root's processes can only be counted by a control group, and none can be made here",
        fix="run the gateway as an ordinary user, or give it a cgroup that it may write",
    )


def _in_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


async def _tried() -> Missing | None:
    """Make one sandbox, with a door."""

    async def listen(doors: Doors) -> None:
        for door in doors[8080]:
            assert isinstance(door, socket.socket), "doors are sockets"
            door.close()

    try:
        async with await launch(Confinement(), ["true"], {"PATH": "/usr/bin:/bin"}, listen=listen) as confined:
            code = await confined.wait()
    except (HoldfastError, TimeoutError) as error:
        return Missing(
            what=str(getattr(error, "what", error) or "a sandbox took too long"), fix="report this: it is new"
        )
    if code != 0:
        return Missing(what=f"`true` ended with {code} in a sandbox", fix="report this: it is new")
    return None
