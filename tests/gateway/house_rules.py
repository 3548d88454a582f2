"""A whole gateway inside a test: its real doors for people and for starters, and people whom the system tells apart.

Rules
1. Who is somebody else is another process under another user: nobody is pretended to be.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.codec import decode
from holdfast.core.record import Record
from holdfast.gateway.config import load
from holdfast.gateway.launcher import Starting
from holdfast.gateway.process import Gateway
from holdfast.store.remote import RemoteStore

ANN, STRANGER = 65534, 54321  # `nobody`, whom the configuration calls ann, and somebody without a name
RUN = "r"
CONFIG = """
[gateway]
store = "runs.db"
[upstreams.shop]
kind = "http"
base = "http://127.0.0.1:9"
private = ["127.0.0.1"]
[[upstreams.shop.routes]]
method = "POST"
path = "/mails"
name = "mail"
kind = "irreversible"
[policy]
files = ["policy.cedar"]
[agents.clerk]
tools = ["shop.*"]
[agents.boss]
tools = ["shop.*"]
[people.ann]
user = "nobody"
may = {may}
"""
POLICY = '@id("held") @level("two") @reason("mail costs money") permit(principal, action, resource);'
ASK = """
import contextlib, os, socket, sys
uid, path, kind, data = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.stdin.buffer.read()
os.setgroups([]); os.setgid(uid); os.setuid(uid)
with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as there:
    there.connect(path)
    with contextlib.suppress(BrokenPipeError):  # who is not known is not listened to
        there.sendall(data)
    if kind == "SOCK_SEQPACKET":
        sys.stdout.buffer.write(there.recv(1 << 20))
    else:
        while piece := there.recv(65536):
            sys.stdout.buffer.write(piece)
"""


@dataclass
class House:
    """A gateway at work."""

    gateway: Gateway
    place: Path

    @property
    def admin(self) -> Path:
        return self.gateway.config.socket

    @property
    def launching(self) -> Path:
        return self.gateway.config.launching

    @property
    def people(self) -> RemoteStore:
        """The admin door, for the gateway's own user."""
        return RemoteStore(self.admin)

    def wanted(self, run: str = RUN, **more: Any) -> dict[str, Any]:
        return {"run": run, "agent": "clerk", "place": "local", **more}

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncGenerator[Starting]:
        async with Starting(self.launching) as found:
            yield found

    async def records(self, branch: str = f"{RUN}@main") -> list[Record]:
        return [decode(entry.body) for entry in await self.gateway.opening.store.read(branch)]

    def said_by(self, uid: int, what: str, asked: Mapping[str, Any] | bytes) -> tuple[int, Any]:
        """What the admin door answers to somebody else."""
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        head = f"POST /{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = self._as(uid, self.admin, "SOCK_STREAM", head.encode() + body)
        first, _, rest = answer.partition(b"\r\n\r\n")
        return int(first.split(b" ")[1]), json.loads(rest)

    def start_by(self, uid: int, message: Mapping[str, Any]) -> Any:
        """What the door for starters answers to somebody else."""
        return json.loads(self._as(uid, self.launching, "SOCK_SEQPACKET", json.dumps(message).encode()))

    def _as(self, uid: int, path: Path, kind: str, data: bytes) -> bytes:
        if os.geteuid() != 0:
            pytest.skip("only root can be somebody else")
        path.chmod(0o666)  # what a group of the system would be for
        ran = subprocess.run(
            ["/usr/bin/python3", "-c", ASK, str(uid), str(path), kind], input=data, capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@contextlib.asynccontextmanager
async def house(may: Sequence[str] = ("approve", "read")) -> AsyncGenerator[House]:
    """A gateway, in a directory that others can reach."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.chmod(made, 0o711)
        (place / "policy.cedar").write_text(POLICY)
        (place / "holdfast.toml").write_text(CONFIG.format(may=json.dumps(list(may))))
        async with Gateway(load(place / "holdfast.toml")) as gateway:
            gateway.wards._patience_s = 0.0
            gateway.config.state.chmod(0o711)
            yield House(gateway, place)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pair() -> tuple[socket.socket, socket.socket]:
    """A socket that listens, and one that does not."""
    return socket.create_server(("127.0.0.1", 0)), socket.socket()
