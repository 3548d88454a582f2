"""The far end of a connection, by the byte: what it reads, says, and when it hangs up; and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.gateway.connection import Heard
from holdfast.gateway.dial import Dialer
from holdfast.gateway.exchange import Client
from holdfast.gateway.hosts import Origin

BOTH_LOOPS = {"params": [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], "ids": ["asyncio", "uvloop"]}
"""What the fixture `event_loop_policy` of a file is made with, whose tests are to run on either."""
NO_LOOPS_WARNING = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
"""The other way, a hook, renames every other test."""

LONG_S = 60.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Line:
    """One connection at its far end. `number`: the how manyth it is."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: list[tuple[int, bytes]]

    async def head(self) -> bytes:
        """The next request, without its body."""
        found = await self.reader.readuntil(b"\r\n\r\n")
        self.got.append((self.number, found))
        return found

    async def request(self) -> bytes:
        """The next request."""
        found = await self.head()
        for line in found.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                found += await self.reader.readexactly(int(line.partition(b":")[2]))
        return found

    async def say(self, *pieces: bytes) -> None:
        """Send each by itself, and let the other side have a look at it."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until the other side has hung up."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass

    def cut(self) -> None:
        """Hang up without a word, not even of TLS."""
        self.writer.transport.abort()


Script = Callable[[Line], Awaitable[None]]


@dataclass
class FarEnd:
    """A server on loopback. `got`: what was asked, and on which connection."""

    port: int = 0
    lines: int = 0
    got: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def on(self) -> list[int]:
        """The connections on which requests came, in order."""
        return [number for number, _ in self.got]


@contextlib.asynccontextmanager
async def far_end(
    script: Script, *, secure: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[FarEnd]:
    """A server that does with each connection as `script` says, and hangs up at its end. What goes wrong in a script
    fails the test."""
    made, tasks = FarEnd(), set[asyncio.Task[None]]()
    wrong: list[BaseException] = []

    async def serve(line: Line) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await script(line)
        except Exception as error:  # noqa: BLE001 - it is raised where the test ends
            wrong.append(error)
        finally:
            line.writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.lines += 1
        task = asyncio.ensure_future(serve(Line(made.lines, reader, writer, made.got)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, host, port, limit=1 << 20, ssl=secure)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if wrong:
        raise wrong[0]


def saying(*answers: bytes) -> Script:
    """One that gives each request the next of these answers, and the last of them from then on."""
    left = list(answers)

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.say(left.pop(0) if len(left) > 1 else left[0])

    return script


@dataclass
class Caller:
    """A client that asks one origin."""

    client: Client
    origin: Origin

    async def ask(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        *,
        timeout_s: float = LONG_S,
        most: int = 1 << 20,
        fresh: bool = False,
    ) -> Heard:
        """What is answered."""
        return await self.client.exchange(
            self.origin, method, target, headers or {}, data, timeout_s=timeout_s, most=most, fresh=fresh
        )


@contextlib.asynccontextmanager
async def caller(
    port: int,
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    addresses: Sequence[str] = ("127.0.0.1",),
    ca: ssl.SSLContext | None = None,
) -> AsyncIterator[Caller]:
    """A client for one origin on loopback, whose name (if it is one) has these addresses."""

    async def resolve(_: str) -> Sequence[str]:
        return addresses

    origin = Origin(scheme, host, port)
    client = Client(Dialer([host, "127.0.0.0/8"], resolve=resolve), [origin], ca)
    try:
        yield Caller(client, origin)
    finally:
        await client.close()


@contextlib.contextmanager
def deaf(host: str) -> Generator[int]:
    """A port at which nobody takes a connection, and nobody refuses one."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((host, 0))
        server.listen(0)
        for _ in range(8):  # its queue is full, and the kernel drops what comes
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(server.getsockname())
        yield server.getsockname()[1]


def authority(folder: Path, names: Iterable[str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side of TLS for these names and addresses, and the side of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "far end")])
    now = dt.datetime.now(dt.UTC)
    known = [x509.IPAddress(ipaddress.ip_address(each)) if each[0].isdigit() else x509.DNSName(each) for each in names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{certificate.serial_number}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))
