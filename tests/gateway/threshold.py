"""What the tests of attacks stand on: real listeners of a run on loopback, a real store, vault and dialer, a post
office that counts, and a shop over HTTP in a process of its own.

Rules
1. Everything is said on the raw wire: no client library mends what an attacker would send.
2. Whatever is sent to the shop or the office is there to be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.capability import Terms
from holdfast.core.codec import decode
from holdfast.core.record import Intent, Record, Refusal
from holdfast.gateway.ca import Authority
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.table import application
from holdfast.gateway.gate import Gate
from holdfast.gateway.serve import HTTPS, Listeners
from holdfast.gateway.upstreams.http import HttpConfig, open_http
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store import Store
from holdfast.store.memory import MemoryStore
from tests.gateway.lodge import ALL, Office, Rules
from tests.gateway.premises import SECRET, SHOP

DEADLINE_S = 60
NAME = "shop.example"
RUN = "r"


@dataclass(frozen=True)
class Shop:
    """The shop's process: where it listens, and what it was made to do."""

    place: Path
    port: int

    @property
    def sent(self) -> list[str]:
        file = self.place / "sent"
        return [json.loads(line)[0] for line in file.read_text().splitlines()] if file.exists() else []


@contextlib.contextmanager
def shop(place: Path) -> Generator[Shop]:
    process = subprocess.Popen([sys.executable, "-c", SHOP, str(place), SECRET], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Shop(place, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@dataclass
class Answer:
    """What came back on the wire: status (0: nothing did), head and body."""

    status: int
    head: bytes
    body: bytes

    @property
    def what(self) -> str:
        """Why it was refused, as the answer says."""
        try:
            return str(json.loads(self.body)["error"]["what"])
        except (ValueError, KeyError):
            return self.body.decode("utf-8", "replace")


@dataclass
class Threshold:
    """A run at its listeners: plain at `port`, TLS by name at `tls`."""

    store: Store
    gate: Gate
    listeners: Listeners
    taken: Taken
    office: Office
    rules: Rules
    authority: Authority
    port: int
    tls: int

    async def raw(self, *pieces: bytes, to: int | None = None, context: ssl.SSLContext | None = None) -> Answer:
        """Say these bytes, and hear what comes until the gateway closes or has answered in full."""
        name = None if context is None else NAME
        reader, writer = await asyncio.open_connection("127.0.0.1", to or self.port, ssl=context, server_hostname=name)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await heard(reader)
        except ConnectionError:
            return Answer(0, b"", b"")
        finally:
            writer.close()

    async def call(self, tool: str = "post.send", handle: str | None = None, **more: Any) -> Answer:
        """`POST /v1/call`."""
        return await self.post("/v1/call", {"tool": tool, "args": {"to": "a"}, **more}, handle)

    async def post(self, path: str, body: Any, handle: str | None = None) -> Answer:
        return await self.raw(request("POST", path, body if isinstance(body, bytes) else json.dumps(body), handle))

    async def get(self, path: str, handle: str | None = None) -> Answer:
        return await self.raw(request("GET", path, None, handle))

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.store.read(f"{RUN}@main")]

    async def reasons(self) -> str:
        """All that the run's log says about what was refused."""
        return "\n".join(
            f"{each.tool} {each.by} {each.reason}" for each in await self.records() if isinstance(each, Refusal)
        )

    async def intents(self) -> int:
        return sum(isinstance(each, Intent) for each in await self.records())


def request(method: str, path: str, body: str | bytes | None = None, handle: str | None = None, *more: str) -> bytes:
    """A request, byte by byte as it is meant to be."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *more]
    if data is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    if handle is not None:
        lines.append(f"Authorization: Bearer {handle}")
    return "\r\n".join([*lines, "", ""]).encode() + (data or b"")


async def heard(reader: asyncio.StreamReader) -> Answer:
    """The next answer, or what there is of it when the connection ends."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            return Answer(0, error.partial, b"")
        status = int(head.split(b" ", 2)[1])
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = b""
        if length:
            with contextlib.suppress(asyncio.IncompleteReadError):
                body = await reader.readexactly(int(length[0].partition(b":")[2]))
        elif b"chunked" in head.lower():
            body = await reader.read()
        return Answer(status, head, body)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextlib.asynccontextmanager
async def threshold(
    place: Path,
    port: int = 9,
    *,
    terms: Terms = ALL,
    store: Store | None = None,
    strict: bool = False,
    restore: bool = False,
    **shop_terms: Any,
) -> AsyncGenerator[Threshold]:
    """A run that was taken up, at its listeners. `port`: of the shop; `shop_terms`: what else its system declares."""
    store = store or MemoryStore()
    (place / "key").write_text(SECRET)
    (place / "key").chmod(0o600)
    vault = Vault({"shop": "file:key"}, store, uses={"shop": {"shop"}}, folder=place)
    office, rules = Office(), Rules()
    routes = [
        {"method": "GET", "path": "/customers"},
        {"method": "POST", "path": "/mails", "name": "mail", "kind": "irreversible", "identity": ["body.invoice"],
         "repeat": "each"},
    ]  # fmt: skip
    given = {
        "kind": "http", "base": f"http://127.0.0.1:{port}", "private": ["127.0.0.1"], "routes": routes,
        "inject": [{"credential": "shop", "header": "authorization", "prefix": "Bearer "}], **shop_terms,
    }  # fmt: skip
    system = await open_http("shop", HttpConfig.model_validate(given), Kit(vault=vault, dialer=Dialer()))
    wards = Wards(store, lambda: rules, patience_s=0.0)
    taken = await wards.open(Wanted(run=RUN, agent="clerk", terms=terms, by="tester", restore=restore))
    hosts = {f"127.0.0.1:{port}": "shop", f"{NAME}:443": "shop", f"{NAME}:80": "shop"}
    gate = Gate(
        wards, {"shop": system, "post": office}, kinds={"shop": "http", "post": "python"}, hosts=hosts,
        strict=frozenset({"clerk"}) if strict else frozenset(),
    )  # fmt: skip
    listeners, authority = Listeners(gate, application), Authority(RUN)
    plain, secure = listening(), listening()
    numbers = plain.getsockname()[1], secure.getsockname()[1]
    await listeners.inside(RUN, {8080: [plain], HTTPS: [secure]}, authority)
    try:
        yield Threshold(store, gate, listeners, taken, office, rules, authority, *numbers)
    finally:
        await listeners.close()
        await wards.close(RUN, ended=False)
        await system.close()
