"""`python -m bench.gateway`: what a mediated read costs, beside the system itself and a plain reverse proxy.

Rules
1. The system, the proxy, the gateways and whoever asks are processes of their own. Everybody is asked over one
   connection that is kept, a request at a time, and all take turns in one run.
2. What is told of a gateway is the time that its process was on a processor, by the system's own count, and the time
   until the whole answer was there. Every read is recorded: it stands in the log before it is answered.
3. A quiet machine is not assumed: floor and proxy stand beside every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from holdfast.core.policy import Allowed, Facts, Verdict
from holdfast.gateway.config import load
from holdfast.gateway.launcher import Starting
from holdfast.gateway.process import Gateway, runner
from holdfast.gateway.rules import FOLDER

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, READS, WARM, CUTS = 7, 300, 100, 40
MOST_CPU_MS, MOST_POLICY_MS, MOST_CUT_MS = 0.6, 0.5, 50.0
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
BODY = b'{"id": 7, "name": "Ada Lovelace", "email": "ada@example.com", "plan": "basic"}'


class Everything:
    """Rules that allow everything: the read without a policy."""

    digest = "0" * 32

    def judge(self, facts: Facts) -> Verdict:
        """As `Policy.judge`."""
        return Allowed("all")


# --- the processes ---


class System(asyncio.Protocol):
    """The system itself: an answer to every GET; to a POST the beginning of a stream that does not end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
            self._transport.write(head.encode() + BODY)
        elif data.startswith(b"POST "):
            chunk = {
                "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}],
            }  # fmt: skip
            said = f"data: {json.dumps(chunk)}\n\n"
            head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(f"{head}{len(said):x}\r\n{said}\r\n".encode())


async def be_system() -> None:
    """Listen, until the owner leaves."""
    server = await asyncio.get_running_loop().create_server(System, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def be_gateway(file: Path, plain: bool) -> None:
    """A gateway; `plain`: without a policy."""
    async with Gateway(load(file)) as gateway:
        if plain:
            gateway.policy = Everything()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


CONFIG = """
[gateway]
store = "runs.db"
[credentials]
key = "file:key"
[upstreams.shop]
kind = "http"
base = "http://127.0.0.1:{port}"
private = ["127.0.0.1"]
inject = [{{ credential = "key", header = "authorization", prefix = "Bearer " }}]
[[upstreams.shop.routes]]
method = "GET"
path = "/customers/{{id}}"
name = "customer"
[upstreams.llm]
kind = "model"
protocol = "openai"
base_url = "http://127.0.0.1:{port}/v1"
credential = "key"
private = ["127.0.0.1"]
[upstreams.llm.models.m]
input = 1
output = 1
max_output = 100
[policy]
files = ["{policy}"]
[agents.clerk]
tools = ["shop.*", "llm.*"]
"""
PROXY = """
daemon off; master_process off; error_log stderr crit; pid {place}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;
  uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
  upstream system {{ server 127.0.0.1:{port}; keepalive 8; }}
  server {{
    listen unix:{place}/nginx.sock; keepalive_requests 1000000;
    location / {{ proxy_pass http://system; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer x"; }}
  }}
}}
"""


@dataclass
class Way:
    """A way to the system. `ask` makes the request number n; `pid`: whose time is counted."""

    name: str
    connection: http.client.HTTPConnection
    pid: int
    ask: Callable[[int], tuple[str, str, str | None]]
    headers: dict[str, str] = field(default_factory=dict)
    cpu_ms: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)

    def read(self, n: int) -> float:
        """One request to its whole answer: how long it took, in ms."""
        method, path, body = self.ask(n)
        began = time.perf_counter()
        self.connection.request(method, path, body, self.headers)
        answer = self.connection.getresponse()
        said = answer.read()
        took = (time.perf_counter() - began) * 1000
        assert answer.status == 200, f"{self.name} answers {answer.status}: {said!r}"
        assert b"ada@example.com" in said or b"answer" in said, said
        return took

    def round(self, reads: range) -> None:
        """Some reads after another."""
        before = on_processor_ms(self.pid)
        took = [self.read(n) for n in reads]
        self.cpu_ms.append((on_processor_ms(self.pid) - before) / len(reads))
        self.took_ms.append(statistics.median(took))


def on_processor_ms(pid: int) -> float:
    """How long a process, with all its threads, has been on a processor."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_MS


class Local(http.client.HTTPConnection):
    """HTTP over a local socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


@contextlib.contextmanager
def started(*line: str, ready: bool = True) -> Generator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip() if ready else ""
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def proxy(place: Path, port: int) -> Generator[Way | None]:
    """nginx as a plain reverse proxy; None where there is none."""
    if NGINX is None:
        yield None
        return
    (place / "nginx.conf").write_text(PROXY.format(place=place, port=port))
    line = (NGINX, "-p", str(place), "-c", str(place / "nginx.conf"))
    with started(*line, ready=False) as (process, _):
        until = time.monotonic() + 30
        while not (place / "nginx.sock").exists():
            assert time.monotonic() < until, "nginx does not start"
            time.sleep(0.01)
        yield Way("nginx, a reverse proxy", Local(place / "nginx.sock"), process.pid, _asked)


@contextlib.contextmanager
def gateway(place: Path, port: int, policy: Path, *, plain: bool) -> Generator[tuple[int, Path]]:
    """A gateway in `place`: its pid."""
    place.mkdir()
    (place / "key").write_text("canary-0f9d3a77c1b84e52")
    (place / "key").chmod(0o600)
    (place / "holdfast.toml").write_text(CONFIG.format(port=port, policy=policy))
    line = [sys.executable, "-m", "bench.gateway", "--gateway", str(place / "holdfast.toml")]
    with started(*line, *(["--plain"] if plain else [])) as (process, said):
        assert said == "ready", said
        yield process.pid, place


@contextlib.asynccontextmanager
async def run_at(place: Path, run: str) -> Any:
    """A run that is taken up: its handle."""
    async with Starting(load(place / "holdfast.toml").launching) as starting:
        taken = await starting.ask({"open": {"run": run, "agent": "clerk", "place": "local"}})
        yield taken["handle"]


def _asked(n: int) -> tuple[str, str, str | None]:
    return "GET", f"/customers/{n}", None


def _by_http(n: int) -> tuple[str, str, str | None]:
    return "GET", f"/http/shop/customers/{n}", None


def _natively(n: int) -> tuple[str, str, str | None]:
    return "POST", "/v1/call", json.dumps({"tool": "shop.customer", "args": {"params": {"id": str(n)}}})


# --- reads ---


async def reads(place: Path, port: int, rounds: int, each: int) -> list[Way]:
    """All ways in turns."""
    starter = FOLDER / "starter.cedar"
    with contextlib.ExitStack() as open_:
        ways = [Way("the system itself", http.client.HTTPConnection("127.0.0.1", port), os.getpid(), _asked)]
        found = open_.enter_context(proxy(place, port))
        ways += [found] if found else []
        async with contextlib.AsyncExitStack() as runs:
            for name, plain in (("no policy", True), ("starter policy", False)):
                pid, where = open_.enter_context(gateway(place / name.replace(" ", "-"), port, starter, plain=plain))
                for door, ask in (("http", _by_http), ("native", _natively)):
                    handle = await runs.enter_async_context(run_at(where, door))
                    headers = {"Authorization": f"Bearer {handle}", "Content-Type": "application/json"}
                    at = Local(load(where / "holdfast.toml").door)
                    ways.append(Way(f"gateway, {door} door, {name}", at, pid, ask, headers))
            for way in ways:
                for n in range(WARM):
                    way.read(n)
            for number in range(rounds):
                turn = number % len(ways)
                for way in ways[turn:] + ways[:turn]:
                    way.round(range(WARM + number * each, WARM + (number + 1) * each))
    return ways


# --- revocations ---


async def cuts(place: Path, port: int, times: int) -> tuple[list[float], int]:
    """How long, in ms, after a revocation was asked for a live stream of its right was cut; and how many of the next
    calls were refused."""
    took, refused = list[float](), 0
    with gateway(place / "cuts", port, FOLDER / "starter.cedar", plain=True) as (_, where):
        config = load(where / "holdfast.toml")
        async with run_at(where, "cuts") as handle:
            for _ in range(times):
                ms, said_no = await asyncio.to_thread(_cut, config.door, config.socket, handle)
                took.append(ms)
                refused += said_no
    return took, refused


def _cut(door: Path, admin: Path, handle: str) -> tuple[float, bool]:
    shown = {"Authorization": f"Bearer {handle}", "Content-Type": "application/json"}
    other = Local(door)
    other.request("POST", "/v1/narrow", json.dumps({"tools": ["shop.*", "llm.*"]}), shown)
    given = json.loads(other.getresponse().read())
    narrowed = {**shown, "Authorization": f"Bearer {given['handle']}"}
    streaming = Local(door)
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": given["capability"]}]}
    streaming.request("POST", "/model/llm/v1/chat/completions", json.dumps(asked), narrowed)
    answer = streaming.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.read1(), "it streams"
    people = Local(admin)
    people.connect()
    assert people.sock is not None
    body = json.dumps({"run": "cuts", "capability": given["capability"], "reason": "bench"}).encode()
    head = f"POST /revoke HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    began = time.perf_counter()
    people.sock.sendall(head.encode() + body)
    with contextlib.suppress(OSError, http.client.HTTPException):
        while answer.read1():
            pass
    took = (time.perf_counter() - began) * 1000
    said = people.sock.recv(1 << 16)
    assert b" 200 " in said, said
    other.request("GET", "/http/shop/customers/1", headers=narrowed)
    refused = other.getresponse()
    refused.read()
    for each in (other, streaming, people):
        each.close()
    return took, refused.status in (401, 403)


# --- the whole ---


async def measured(rounds: int, each: int, times: int) -> dict[str, Any]:
    (ROOT / "build").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-gateway-", dir=ROOT / "build") as folder,
        started(sys.executable, "-m", "bench.gateway", "--system") as (_, port),
    ):
        ways = await reads(Path(folder), int(port), rounds, each)
        took, refused = await cuts(Path(folder), int(port), times)
    floor = statistics.median(ways[0].took_ms)
    return {
        "run": {**machine.state(ROOT), "load": machine.load(), "rounds": rounds, "reads": rounds * each},
        "reads": {
            way.name: {
                "cpu_ms": None if number == 0 else statistics.median(way.cpu_ms),
                "cpu_least_ms": None if number == 0 else min(way.cpu_ms),
                "took_ms": statistics.median(way.took_ms),
                "of_floor": statistics.median(way.took_ms) / floor,
            }
            for number, way in enumerate(ways)
        },
        "cuts": {
            "p50_ms": statistics.median(took), "most_ms": max(took), "times": times, "next_refused": refused,
        },
        "proxy": NGINX or "skipped: no nginx is installed",
    }  # fmt: skip


def show(result: dict[str, Any], console: Console) -> bool:
    """The table; whether all bars are reached."""
    table = Table("a read", "on a processor, ms", "least round", "until answered, ms", "of the floor")
    for name, row in result["reads"].items():
        cpu = ["-", "-"] if row["cpu_ms"] is None else [f"{row['cpu_ms']:.3f}", f"{row['cpu_least_ms']:.3f}"]
        table.add_row(name, *cpu, f"{row['took_ms']:.3f}", f"{row['of_floor']:.1f}")
    console.print(table)
    plain = {door: result["reads"][f"gateway, {door} door, no policy"]["cpu_ms"] for door in ("http", "native")}
    more = {
        door: result["reads"][f"gateway, {door} door, starter policy"]["cpu_ms"] - cpu for door, cpu in plain.items()
    }
    cut = result["cuts"]
    bars = {
        f"on a processor for a read without policy: {plain['http']:.2f} (http), {plain['native']:.2f} (native) ms, "
        f"at most {MOST_CPU_MS}": max(plain.values()) <= MOST_CPU_MS,
        f"the starter policy adds {more['http']:.2f}, {more['native']:.2f} ms, at most {MOST_POLICY_MS}": max(
            more.values()
        )
        <= MOST_POLICY_MS,
        f"after a revocation {cut['next_refused']} of {cut['times']} next calls were refused": cut["next_refused"]
        == cut["times"],
        f"a live stream was cut after {cut['p50_ms']:.1f} ms (most {cut['most_ms']:.1f}), at most {MOST_CUT_MS:g}": cut[
            "p50_ms"
        ]
        <= MOST_CUT_MS,
    }
    for what, reached in bars.items():
        console.print(f"{'reached' if reached else 'missed '}  {what}")
    if not NGINX:
        console.print("no nginx here: the reverse proxy is left out")
    return all(bars.values())


def main() -> int:
    """Measure, tell, write; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--reads", type=int, default=READS, help="in each round, on each way")
    parser.add_argument("--cuts", type=int, default=CUTS, help="revocations")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gateway.json")
    parser.add_argument("--system", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--gateway", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.system or options.gateway:
        with runner() if options.gateway else asyncio.Runner() as loop:
            loop.run(be_gateway(options.gateway, options.plain) if options.gateway else be_system())
        return 0
    result = asyncio.run(measured(options.rounds, options.reads, options.cuts))
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(not show(result, Console()))


if __name__ == "__main__":
    sys.exit(main())
