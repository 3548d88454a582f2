"""What a sandboxed process gets of this machine, and how much: the class of a sandbox, as arguments for bubblewrap.

Rules
1. What is not named does not exist in the sandbox. Of the host it sees `/usr`, some public files of `/etc`, what
   `read_only` names, and its workspace; only the workspace, `/tmp` and `/dev/shm` can be written.
2. No file of the host is shown that only root may read: whoever starts the sandbox as root is, inside, the owner of
   root's files, though without any privilege.
3. The environment is given as arguments, and bubblewrap itself starts with none: a variable for the loader of programs
   (`LD_LIBRARY_PATH`) would otherwise let a file of the workspace run outside.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from holdfast.core.canonical import JSON, canonical
from holdfast.errors import Misuse
from holdfast.gateway.seccomp import program

WORKSPACE = "/workspace"
USER_ID = 1000  # inside
VIRTUAL_BYTES = 64 << 30  # address space is not memory: programs reserve much that they never touch
OWN_PROCESSES = 3  # bubblewrap outside, its first process inside, and the one that becomes the program
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PUBLIC = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs", "/etc/protocols", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
)  # fmt: skip
_FILES = {
    "/etc/passwd": f"agent:x:{USER_ID}:{USER_ID}::/tmp:/bin/sh\n",
    "/etc/group": f"agent:x:{USER_ID}:\n",
    "/etc/hosts": "127.0.0.1 localhost agent\n::1 localhost agent\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_NOT_TO_SHOW = ("/", "/proc", "/sys", "/dev", "/run", "/etc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """A class of sandbox. Sizes in bytes, `cpu_s` in seconds of computing per process.

    `workspace` is shown at `/workspace` and can be written; without one the program starts in `/tmp`. `read_only`: host
    paths shown at the same place. `ports`: what the gateway listens to inside, on TCP at 127.0.0.1 and ::1; with `dns`
    also UDP port 53, which the sandbox then asks for names.

    `processes`, `memory_bytes`, `open_files`, `file_bytes` (of one file), `tmp_bytes` (of `/tmp`, and again of
    `/dev/shm`) are upper limits. Memory is that of the whole sandbox where control groups can be used, else that of
    each process."""

    workspace: Path | None = None
    read_only: tuple[Path, ...] = ()
    ports: tuple[int, ...] = (8080,)
    dns: bool = False
    processes: int = 256
    memory_bytes: int = 4 << 30
    open_files: int = 1024
    file_bytes: int = 4 << 30
    tmp_bytes: int = 64 << 20
    cpu_s: int | None = None

    def __post_init__(self) -> None:
        for path in self.read_only:
            if not path.is_absolute() or str(path) in _NOT_TO_SHOW or path.parts[1] in {"proc", "sys", "dev"}:
                raise Misuse("this path cannot be shown to a sandbox", where=str(path), fix="name what is needed in it")
        for name in ("processes", "memory_bytes", "open_files", "file_bytes", "tmp_bytes"):
            if getattr(self, name) < 1:
                raise Misuse(f"{name} of a sandbox must be at least 1", where=str(getattr(self, name)))

    def describe(self) -> dict[str, JSON]:
        """What holds for every sandbox of this class; where its workspace lies on the host does not matter."""
        return {
            "workspace": self.workspace is not None,
            "read_only": [str(path) for path in self.read_only],
            "ports": list(self.ports),
            "dns": self.dns,
            "processes": self.processes,
            "memory_bytes": self.memory_bytes,
            "open_files": self.open_files,
            "file_bytes": self.file_bytes,
            "tmp_bytes": self.tmp_bytes,
            "cpu_s": self.cpu_s,
            "system_calls": hashlib.sha256(program(platform.machine())).hexdigest(),
        }

    def digest(self) -> str:
        """SHA-256 of the description, as 64 hexadecimal digits."""
        return hashlib.sha256(canonical(self.describe())).hexdigest()

    def limits(self) -> dict[str, int]:
        """Limits of each process, by the names of the module `resource`."""
        found = {
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_DATA": self.memory_bytes,
            "RLIMIT_AS": self.memory_bytes + VIRTUAL_BYTES,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_MEMLOCK": 64 << 10,
        }
        return found if self.cpu_s is None else {**found, "RLIMIT_CPU": self.cpu_s}

    def files(self) -> dict[str, str]:
        """The files that are made for the sandbox, by their place in it."""
        resolver = "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n" if self.dns else ""
        return {**_FILES, "/etc/resolv.conf": resolver}

    def options(self, environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """The arguments for bubblewrap: those before the files are made, and those after.

        Raises Misuse if the environment has a name or value that no environment can have."""
        first = list(_host())
        tmp = ["--perms", "1777", "--size", str(self.tmp_bytes), "--tmpfs"]
        first += [*tmp, "/tmp", *tmp, "/dev/shm"]
        for path in self.read_only:
            first += ["--ro-bind", str(path), str(path)]
        if self.workspace is not None:
            first += ["--bind", str(self.workspace.resolve()), WORKSPACE]
        for name, value in environment.items():
            if not name or "=" in name or "\0" in name + value:
                raise Misuse("an environment cannot have this variable", where=repr(name))
            first += ["--setenv", name, value]
        place = "/tmp" if self.workspace is None else WORKSPACE
        return first, [*_sealed(), "--chdir", place]


def own_python() -> tuple[Path, ...]:
    """Where the running interpreter and its packages lie, and this one, if not in `/usr`: for `read_only`."""
    found = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    here = Path(__file__).resolve().parents[1]  # elsewhere, where it is installed to be edited
    if not any(here.is_relative_to(path) for path in found):
        found.add(here)
    return tuple(sorted(path for path in found if not path.is_relative_to("/usr")))


def _sealed() -> list[str]:
    """After everything has its place, nothing can be put into a file system that only holds the places together; and
    `/proc` is for reading, since the kernel takes root's word there without asking for a privilege."""
    return ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]


@cache
def _host() -> tuple[str, ...]:
    """What every sandbox has, found once per process."""
    options = [
        "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--uid", str(USER_ID),
        "--gid", str(USER_ID), "--hostname", "agent", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    for name in _MERGED:
        path = f"/{name}"
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    for path in (*_PUBLIC, "/nix/store"):
        if os.path.exists(path):
            options += ["--ro-bind", path, path]
    return (*options, "--proc", "/proc", "--dev", "/dev")
