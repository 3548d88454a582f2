"""A system over HTTP to ask: a server on loopback that keeps what it got, and the system `shop` in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Kind, Payload
from holdfast.core.record import Intent
from holdfast.gateway.dial import Dialer
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams.http import HttpConfig, HttpSystem, open_http
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.store import Draft
from holdfast.store.memory import MemoryStore

TOOLS = ("shop.create", "shop.put", "shop.create.undo")
IDENTITY = "ab" * 32
SECRET = "sk-live-7Qv9zKw42hTnBx83LmRc"
KEY = "0123456789abcdef0123456789abcdef"


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
    port: int,
    *routes: Mapping[str, object],
    secrets: Mapping[str, str] | None = None,
    folder: Path | None = None,
    **more: object,
) -> AsyncIterator[HttpSystem]:
    """The system `shop` at a port of loopback, with a real vault over a store that holds the intents of `writing`. Its
    credential is a bearer token unless `inject` says otherwise."""
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
    with tempfile.TemporaryDirectory() as place:
        vault = await vault_of(Path(place), secrets or {"KEY": SECRET})
        made = await open_http("shop", config, Kit(vault=vault, dialer=Dialer(), folder=folder or Path()))
        try:
            yield made
        finally:
            await made.close()


async def vault_of(place: Path, secrets: Mapping[str, str]) -> Vault:
    """A vault whose credentials are for `shop`, with files in `place`."""
    store = MemoryStore()
    for name, value in secrets.items():
        (place / name).write_bytes(value.encode())
        (place / name).chmod(0o600)
    drafts = [Draft(bytes.fromhex(IDENTITY), encode(intent(tool))) for tool in TOOLS]
    claim = await store.claim("run@main")
    await store.append("run@main", drafts, epoch=claim.epoch, barrier=True, release=True)
    return Vault(
        {name: f"file:{name}" for name in secrets}, store, uses={name: {"shop"} for name in secrets}, folder=place
    )


def intent(tool: str) -> Intent:
    """The intent behind `writing(tool)`."""
    return Intent(
        tool=tool, kind=Kind.IRREVERSIBLE, identity=IDENTITY, n=0, args=Payload("00" * 32, Encoding.JSON, 2), key=KEY,
        contract="c" * 32, level="none", resource=None, blast=None, approval=None, undoes=None,
    )  # fmt: skip


def writing(tool: str = "shop.create") -> Receipt:
    """The receipt of an effect whose intent is durable."""
    return for_effect("run@main", TOOLS.index(tool) + 1, tool, KEY)


def reading(tool: str = "shop.list") -> Receipt:
    """The receipt of a read."""
    return for_read("run@main", tool)
