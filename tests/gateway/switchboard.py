"""What the tests of the model door stand on: a provider in a process of its own, and a gateway with a real store, vault
and dialer, served by a real server on loopback."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from openai import AsyncOpenAI

from holdfast.core.capability import Budget, Terms
from holdfast.core.codec import decode
from holdfast.core.policy import Allowed, Facts, Verdict
from holdfast.core.record import Decision, Record
from holdfast.demo import server
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.table import application
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.upstreams.model import ModelConfig, open_model
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store import Store
from holdfast.store.memory import MemoryStore

SECRET = "sk-canary-5f1d9c0a77b34e21"
RUN = "r"
PRICE = {"input": "2.5", "cached": "1.25", "output": "10", "max_output": 1000}
SAY = [{"role": "user", "content": "hello"}]


class Permissive:
    """Rules that allow everything: what is denied in these tests, is denied by something else."""

    digest = "0" * 32

    def judge(self, facts: Facts) -> Verdict:
        return Allowed("all")


@contextlib.contextmanager
def provider(folder: Path) -> Generator[Provider]:
    environment = {**os.environ, "PROVIDER_KEY": SECRET, "PYTHONPATH": os.pathsep.join(["src", "."])}
    started = server.start("provider", "tests.gateway.provider", directory=folder, environment=environment)
    try:
        yield Provider(started.url)
    finally:
        started.leave()


@dataclass
class Provider:
    """A hand on the provider's process."""

    url: str

    async def plan(self, *plans: Mapping[str, Any]) -> None:
        async with aiohttp.ClientSession() as client:
            await (await client.post(f"{self.url}/plan", json=list(plans))).read()

    async def raw(self, data: bytes, kind: str, **more: Any) -> None:
        """The next request is answered by these bytes."""
        await self.plan({"raw": base64.b64encode(data).decode(), "type": kind, **more})

    async def forget(self) -> None:
        async with aiohttp.ClientSession() as client:
            await (await client.post(f"{self.url}/forget")).read()

    async def go(self) -> None:
        async with aiohttp.ClientSession() as client:
            await (await client.post(f"{self.url}/go")).read()

    async def memory(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as client:
            return await (await client.get(f"{self.url}/heard")).json()

    async def heard(self) -> list[dict[str, Any]]:
        return (await self.memory())["heard"]


@dataclass
class Board:
    """A gateway that serves its model door at `url`."""

    store: Store
    gate: Gate
    url: str
    taken: Taken

    @property
    def handle(self) -> str:
        return self.taken.handle

    def openai(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/model/oai/v1", api_key=self.handle, **{"max_retries": 0, **options})

    @contextlib.asynccontextmanager
    async def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A request on the raw wire: `body` as JSON, or as these bytes."""
        data = body if isinstance(body, bytes) else None
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            shown = {"x-api-key": self.handle, "content-type": "application/json", **(headers or {})}
            async with client.post(
                f"{self.url}{path}", data=data, json=None if data is not None else body, headers=shown
            ) as response:
                yield response

    async def said(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self.post(path, body, headers) as response:
            return response.status, response.headers, await response.read()

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.store.read(f"{RUN}@main")]

    async def decisions(self) -> list[Decision]:
        return [record for record in await self.records() if isinstance(record, Decision)]


def config(provider: Provider, protocol: str, **options: Any) -> ModelConfig:
    base = provider.url + ("/v1" if protocol == "openai" else "")
    given = {
        "kind": "model", "protocol": protocol, "base_url": base, "credential": "provider", "private": ["127.0.0.1"],
        "models": {"gpt-test" if protocol == "openai" else "claude-test": PRICE}, **options,
    }  # fmt: skip
    return ModelConfig.model_validate(given)


@contextlib.asynccontextmanager
async def board(
    folder: Path,
    provider: Provider,
    *,
    store: Store | None = None,
    budget: Budget | None = None,
    **options: Any,
) -> AsyncGenerator[Board]:
    """One life of the run: taken up, served, and let go of as a crash would. `options` go into the configuration."""
    store = store or MemoryStore()
    (folder / "key").write_text(SECRET)
    (folder / "key").chmod(0o600)
    vault = Vault({"provider": "file:key"}, store, uses={"provider": {"oai", "ant"}}, folder=folder)
    kit = Kit(vault=vault, dialer=Dialer())
    systems = {
        "oai": await open_model("oai", config(provider, "openai", **options), kit),
        "ant": await open_model("ant", config(provider, "anthropic", **options), kit),
    }
    wards = Wards(store, Permissive, patience_s=0.2)
    terms = Terms(tools=("*",), budget=budget or Budget())
    taken = await wards.open(Wanted(run=RUN, agent="tests", terms=terms, by="tests"))
    gate = Gate(wards, systems, kinds=dict.fromkeys(systems, "model"))
    runner = web.AppRunner(application(gate, None, 17 << 20), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, server.LOOPBACK, 0).start()
    try:
        yield Board(store, gate, f"http://{server.LOOPBACK}:{runner.addresses[0][1]}", taken)
    finally:
        await runner.cleanup()
        await wards.close(RUN, ended=False)
        for system in systems.values():
            await system.close()
