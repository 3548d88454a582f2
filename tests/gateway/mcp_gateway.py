"""A gateway with one MCP server and the MCP door: in this process, or (as a program) in one of its own.

python -m tests.gateway.mcp_gateway FOLDER     reads FOLDER/gateway.json, writes FOLDER/door
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from holdfast.core.capability import Terms
from holdfast.core.codec import decode
from holdfast.core.contract import Level
from holdfast.core.policy import Allowed, Facts, Held, Verdict
from holdfast.core.record import Record
from holdfast.errors import Claimed
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.mcp import routes
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams.kit import Kit, Start
from holdfast.gateway.upstreams.mcp import McpSystem, open_mcp
from holdfast.gateway.upstreams.mcp_tools import McpConfig
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store.url import open_url

ROOT = Path(__file__).parents[2]
SECRET = "canary/7Q-wren\\owl-5521"
DEADLINE_S = 60.0


class AllowsAll:
    """Rules by which everything may be done; what is named `held…` needs a person."""

    digest = "0" * 32

    def judge(self, facts: Facts) -> Verdict:
        """The verdict on a call."""
        if ".held" in facts.tool:
            return Held("held", "a person must look", Level.ONE)
        return Allowed("all")


@dataclass
class Gateway:
    """A running gateway."""

    port: int
    handle: str
    taken: Taken
    system: McpSystem
    wards: Wards

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.wards.store.read("r@main")]


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, /, *, store_at: str = "memory://", start: Start | None = None, **config: Any
) -> AsyncIterator[Gateway]:
    token = folder / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    opening = open_url(store_at)
    store = opening.store
    vault = Vault({"kv": "file:token"}, store, uses={"kv": {"kv"}}, folder=folder)
    kit = Kit(vault=vault, dialer=Dialer(), folder=folder, start=start)
    system = await open_mcp("kv", McpConfig.model_validate({"kind": "mcp", **config}), kit)
    wards = Wards(store, AllowsAll, patience_s=0.05)
    taken = await _taken(wards)
    gate = Gate(wards, {"kv": system})
    app = web.Application()
    app.add_routes(routes(gate, None))
    runner = web.AppRunner(app, handle_signals=False, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Gateway(port, taken.handle, taken, system, wards)
    finally:
        await runner.cleanup()
        await wards.close("r", ended=False)
        await system.close()
        await store.close()


async def _taken(wards: Wards) -> Taken:
    """The run, as soon as whoever had it is known to be dead."""
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await wards.open(Wanted(run="r", agent="tester", terms=Terms(tools=("*",)), by="the test"))
        except Claimed:
            assert time.monotonic() < end_s, "the run was never free"
            await asyncio.sleep(0.02)


class Client:
    """An agent's MCP client, one message at a time."""

    def __init__(self, port: int, handle: str) -> None:
        self.url = f"http://127.0.0.1:{port}/mcp/kv"
        self.headers = {
            "Authorization": f"Bearer {handle}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        self.number = 0

    async def post(self, data: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession() as client,
            client.post(self.url, data=data, headers={**self.headers, **headers}) as answer,
        ):
            return answer.status, dict(answer.headers), await answer.read()

    async def ask(self, method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
        """The whole answer to a request, whatever its status."""
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params or {}}
        _, _, data = await self.post(json.dumps(message).encode(), **headers)
        return json.loads(data)

    async def learn(self) -> None:
        """Ask for the tools, as every client does first."""
        answer = await self.ask("tools/list")
        assert "result" in answer, answer

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.ask("tools/call", {"name": tool, "arguments": arguments})

    async def text(self, tool: str, **arguments: Any) -> str:
        """What a tool says."""
        answer = await self.call(tool, **arguments)
        assert "result" in answer, answer
        return answer["result"]["content"][0]["text"]


def define(name: str, **annotations: bool) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"does {name}",
        "inputSchema": {"type": "object", "properties": {"x": {"type": "number"}}},
        **({"annotations": annotations} if annotations else {}),
    }


class Server:
    """A scripted server's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script("ok", "put", "look")

    def forget(self) -> None:
        """As if nothing had happened."""
        for path in self.folder.iterdir():
            if path.name != "port":
                path.unlink()
        self.script("ok", "put", "look")

    def script(self, does: str | dict[str, str], *tools: Any, **more: Any) -> None:
        """What its tools do (all of them the same, or each its own), and which it lists."""
        listed = [define(tool) if isinstance(tool, str) else tool for tool in tools]
        whole = does if isinstance(does, dict) else {tool["name"]: does for tool in listed}
        path = self.folder / "script.new"
        path.write_text(json.dumps({"tools": listed, "does": whole, **more}))
        os.replace(path, self.folder / "script.json")

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def effects(self) -> list[dict[str, Any]]:
        return self.lines("effects.jsonl")

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [each for each in self.lines("heard.jsonl") if each["message"].get("method") == method]

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "tests/gateway/mcp_server.py"), str(self.folder)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.folder / 'port').read_text()}/mcp"


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """A scripted server over HTTP."""
    server = Server(folder)
    with subprocess.Popen([*server.command, *options]) as process:
        try:
            until((folder / "port").exists)
            yield server
        finally:
            process.kill()


def until(true: Any) -> None:
    """Wait for something that happens in another process."""
    end_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)


async def until_async(true: Any) -> None:
    await asyncio.to_thread(until, true)


def config_of(server: Server, **config: Any) -> dict[str, Any]:
    found = {
        "url": server.url,
        "headers": {"Authorization": "Bearer {credential:kv}"},
        "private": ["127.0.0.1"],
        "recheck_s": 0,
    }
    return {**found, **config}


@contextlib.contextmanager
def living(folder: Path) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """A gateway in a process of its own, and a client of it that knows the tools."""
    (folder / "door").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.gateway.mcp_gateway", str(folder)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}) as process:
        try:
            until(lambda: (folder / "door").exists() or process.poll() is not None)
            client = Client(*json.loads((folder / "door").read_text()))
            asyncio.run(client.learn())
            yield client, process
        finally:
            process.kill()


async def _main(folder: Path) -> None:
    config = json.loads((folder / "gateway.json").read_text())
    async with gateway(folder, store_at=f"sqlite:///{folder}/runs.db?claim_ttl_s=1", **config) as opened:
        (folder / "door.new").write_text(json.dumps([opened.port, opened.handle]))
        os.replace(folder / "door.new", folder / "door")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
