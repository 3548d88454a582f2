"""Is this process alive, may it be given work, and how much has it done: for whoever runs it, and for nobody else.

    /healthz    200 while it can still do its work; 503 once it must be started anew
    /readyz     200 while every check passes, else 503
    /metrics    numbers, as Prometheus reads them

Rules
1. Alive is not ready: a store that is away for a while makes a process unready, and starting it anew would not help.
   One that has stopped writing for good says so, and is to be started anew.
2. A check is made at most once a second, once for all who ask, and is not waited for longer than its patience.
3. Over TCP only the names of what fails are told. Why it fails is told at the admin door.
4. What is asked is never believed to be well-formed, soon to end, or asked by one alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from holdfast.errors import HoldfastError, Misuse, Stopped
from holdfast.store import Store

LARGEST_HEAD = 8 << 10  # bytes
PATIENCE_S = 5.0
FRESH_S = 1.0
MOST_AT_ONCE = 32  # connections
STARTING, ENDING = "it is starting", "it is ending"
PROBED = "holdfast.ready@main"  # a branch that stays empty
_LAST = 2**62
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], Awaitable[None]]
"""Raises HoldfastError unless all is well."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number, or one for each set of labels (pairs of name and value)."""

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    values: Mapping[tuple[tuple[str, str], ...], float]


def number(name: str, help: str, kind: Literal["counter", "gauge"], value: float) -> Metric:
    """A metric without labels."""
    return Metric(name, help, kind, {(): value})


def exposition(metrics: Iterable[Metric]) -> str:
    """Metrics as Prometheus reads them. Source: its text-based exposition format, version 0.0.4."""
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in metric.values.items():
            said = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(f"{metric.name}{f'{{{said}}}' if said else ''} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def writable(store: Store) -> Check:
    """The check that a store can be written: nothing is placed, by the way that everything takes."""

    async def check() -> None:
        await store.append(PROBED, [], epoch=0, after=_LAST, barrier=True)

    return check


def queued(store: Store) -> Metric:
    """How much a store has before it."""
    waiting = getattr(getattr(store, "committer", None), "queued", 0)
    return number("holdfast_appends_queued", "Appends that were asked for and are not written yet.", "gauge", waiting)


def broken(store: Store) -> Stopped | None:
    """Why a store will write nothing any more until it is opened anew, or None."""
    return getattr(getattr(store, "committer", None), "failed", None)


class Health:
    """What is known of a process. `checks`: what must hold, by name, before it is given work; `broken`: why it must be
    started anew, or None; `metrics`: its numbers. `stage`: why it is not to be given work whatever the checks say (it
    starts, it ends), or empty."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        broken: Callable[[], Stopped | None],
        metrics: Callable[[], Iterable[Metric]],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.stage = STARTING
        self._checks = checks
        self._broken = broken
        self._metrics = metrics
        self._patience_s = patience_s
        self._checking: dict[str, tuple[float, asyncio.Task[str]]] = {}

    def dead(self) -> str | None:
        """Why the process must be started anew, or None."""
        why = self._broken()
        return None if why is None else why.what

    async def failing(self) -> dict[str, str]:
        """What keeps the process from being given work, by name; empty if nothing does."""
        if self.stage:
            return {"process": self.stage}
        told = await asyncio.gather(*(self._asked(name) for name in self._checks))
        return {name: why for name, why in zip(self._checks, told, strict=True) if why}

    async def _asked(self, name: str) -> str:
        known = self._checking.get(name)
        if known is None or (known[1].done() and time.monotonic() - known[0] > FRESH_S):
            known = self._checking[name] = (time.monotonic(), asyncio.ensure_future(_outcome(self._checks[name])))
        begun, task = known
        left_s = begun + self._patience_s - time.monotonic()
        await asyncio.wait([task], timeout=max(0.0, left_s))
        return task.result() if task.done() else f"no answer in {self._patience_s:g} s"

    async def answer(self, path: str, *, detail: bool) -> tuple[int, str, str]:
        """The status, type and body of an answer. `detail`: why something fails is told, too."""
        if path == "/healthz":
            why = self.dead()
            return (200 if why is None else 503), "application/json", json.dumps({"alive": why is None})
        if path == "/readyz":
            failing = await self.failing()
            body = json.dumps({"ready": not failing, "failing": failing if detail else sorted(failing)})
            return (503 if failing else 200), "application/json", body
        if path == "/metrics":
            return 200, TEXT, exposition(self._metrics())
        return 404, "application/json", json.dumps({"paths": ["/healthz", "/readyz", "/metrics"]})

    def close(self) -> None:
        """Wait for no check any more."""
        for _, task in self._checking.values():
            task.cancel()


async def _outcome(check: Check) -> str:
    try:
        await check()
    except HoldfastError as error:
        return error.what
    except Exception as error:  # noqa: BLE001 - whatever it is, all is not well
        return f"{type(error).__name__} inside"
    return ""


class HealthDoor:
    """Tells the health of a process at a TCP address, to whoever comes: bind it where agents cannot reach."""

    def __init__(self, health: Health, address: str) -> None:
        self._health = health
        self._address = address
        self._server: asyncio.Server | None = None
        self._inside = 0

    async def open(self) -> None:
        """Begin to listen. Raises Misuse where that is not possible."""
        host, _, port = self._address.rpartition(":")
        try:
            self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=LARGEST_HEAD)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "write HOST:PORT"
            raise Misuse(f"nobody can listen at `{self._address}`: {why}", fix="choose another address") from None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it was opened"
        found: socket.socket = self._server.sockets[0]
        return int(found.getsockname()[1])

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        self._health.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._inside += 1
        try:
            if self._inside <= MOST_AT_ONCE:
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    async with asyncio.timeout(2 * PATIENCE_S):
                        await self._told(reader, writer)
        finally:
            self._inside -= 1
            writer.close()

    async def _told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method in ("GET", "HEAD"):
            status, kind, text = await self._health.answer(path, detail=False)
        else:
            status, kind, text = 405, "application/json", "{}"
        body = text.encode()
        words = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
        writer.write(
            f"HTTP/1.1 {status} {words[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
            + (b"" if method == "HEAD" else body)
        )
        await writer.drain()


class Work(Protocol):
    """What goes on until it is told to stop."""

    async def run(self) -> None:
        """Work."""
        ...

    def stop(self) -> None:
        """Bring what is under way to its end."""
        ...


class Tended:
    """Work that tells its health at a TCP address for as long as it goes on. `opened` is given the port."""

    def __init__(self, work: Work, health: Health, address: str, opened: Callable[[int], None]) -> None:
        self._work = work
        self._health = health
        self._address = address
        self._opened = opened

    async def run(self) -> None:
        """As `Work.run`. Raises Misuse too, where nobody can listen at the address."""
        door = HealthDoor(self._health, self._address)
        await door.open()
        self._opened(door.port)
        if self._health.stage == STARTING:
            self._health.stage = ""
        try:
            await self._work.run()
        finally:
            await door.close()

    def stop(self) -> None:
        """As `Work.stop`. It is not ready any more from now on."""
        self._health.stage = ENDING
        self._work.stop()
