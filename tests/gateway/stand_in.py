"""A vault of a few lines for tests of upstreams, with the signatures of the real one, and a system over HTTP to ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import Refused
from holdfast.gateway.dial import Dialer
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams.http import HttpConfig, HttpSystem, open_http

SECRET = "sk-live-7Qv9zKw42hTnBx83LmRc"
KEY = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Credential:
    name: str
    value: str

    def reveal(self) -> str:
        return self.value

    def forms(self) -> tuple[bytes, ...]:
        return (self.value.encode(),)


@dataclass
class Vault:
    values: Mapping[str, str] = field(default_factory=lambda: {"KEY": SECRET})
    opened: list[tuple[str, str]] = field(default_factory=list)
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)

    async def open(self, name: str, receipt: Receipt) -> Credential:
        assert receipt.genuine
        self.opened.append((name, receipt.tool))
        return Credential(name, self.values[name])

    async def keep(self, name: str, value: str, receipt: Receipt) -> str:
        handle = f"hfv_{len(self.kept):043d}"
        self.kept[handle] = (name, value)
        return handle

    async def resolve(self, handle: str, receipt: Receipt) -> Credential:
        if handle not in self.kept:
            raise Refused("this is no handle of this run")
        return Credential(*self.kept[handle])


@dataclass(frozen=True)
class Kit:
    vault: Vault
    dialer: Dialer
    folder: Path = Path()


@dataclass
class Peer:
    """A server that keeps each request as the bytes that came, and answers what it is told to, once each; then what it
    said last."""

    answers: list[bytes | Callable[[bytes], bytes]]
    got: list[bytes] = field(default_factory=list)
    port: int = 0
    hold: asyncio.Event | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                for line in request.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        request += await reader.readexactly(int(line.partition(b":")[2]))
                self.got.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if self.hold is not None:
                    await self.hold.wait()
                writer.write(answer(request) if callable(answer) else answer)
                await writer.drain()
                if not (callable(answer) or is_whole(answer)):
                    break
        writer.close()


def is_whole(answer: bytes) -> bool:
    """Whether an answer says how long it is, and is so long."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and int(length[0].partition(b":")[2]) == len(body)


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """An answer as a server writes it."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


@contextlib.asynccontextmanager
async def peer(*answers: bytes | Callable[[bytes], bytes], hold: asyncio.Event | None = None) -> AsyncIterator[Peer]:
    """A server on loopback."""
    made = Peer(list(answers) or [answer()], hold=hold)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def system(
    port: int, *routes: Mapping[str, object], vault: Vault | None = None, folder: Path | None = None, **more: object
) -> AsyncIterator[HttpSystem]:
    """The system `shop` at a port of loopback, whose credential is a bearer token unless `inject` says otherwise."""
    config = HttpConfig.model_validate(
        {
            "kind": "http",
            "base": f"http://127.0.0.1:{port}/v1",
            "private": ["127.0.0.1"],
            "inject": [{"credential": "KEY", "header": "Authorization", "prefix": "Bearer "}],
            "routes": list(routes),
            **more,
        }
    )
    made = await open_http("shop", config, Kit(vault or Vault(), Dialer(), folder or Path()))
    try:
        yield made
    finally:
        await made.close()


def writing(tool: str = "shop.create") -> Receipt:
    """The receipt of an effect."""
    return for_effect("run@main", 7, tool, KEY)


def reading(tool: str = "shop.list") -> Receipt:
    """The receipt of a read."""
    return for_read("run@main", tool)


Ask = Callable[[], Awaitable[object]]
