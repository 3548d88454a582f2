"""Many agents behind one gateway that is killed again and again: each is told the same in all its lives, and what it
asked for is in the world once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Awaitable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast import House, open_store
from holdfast.errors import HoldfastError, Stopped
from holdfast.gateway.config import load
from holdfast.gateway.launcher import Starting
from holdfast.gateway.preflight import preflight
from holdfast.gateway.upstreams.http_answer import unpack
from tests.crash.gateway_trial import SHOP
from tests.crash.nursery import ROOT, Nursery

TURN = ("look", "put", "pay", "build", "mail")
DEADLINE_S = 600.0
PYTHON = "/usr/bin/python3"
BOXED, BOXED_STEPS = 6, 60  # sandboxed programs, and what each of them asks for
SANDBOXED = """
    import json, os, sys, urllib.request
    for number in range(int(sys.argv[2])):
        request = urllib.request.Request(os.environ["SHOP"] + f"/pay/{sys.argv[1]}-{number}", b"", method="POST")
        with urllib.request.urlopen(request) as answer:
            print(json.load(answer)["answer"], flush=True)
"""


class Ended(Exception):
    """This life is over; the next one begins."""


class Crowd:
    """Agents behind the gateway of `folder`, which this kills `kills` times while they work."""

    def __init__(self, folder: Path, nursery: Nursery, agents: int, steps: int, kills: int) -> None:
        self.folder = folder
        self.config = load(folder / "holdfast.toml")
        self.nursery = nursery
        self.agents = agents
        self.steps = steps
        self.told: dict[str, Any] = {}
        self.lives = 0
        self.killed = 0
        self._kills = [agents * steps * (number + 1) // (kills + 1) for number in range(kills)]
        self._news = asyncio.Event()

    async def run(self, house: House, *others: Awaitable[Any]) -> None:
        """Until every agent has ended, and the others, too."""
        gateway = await asyncio.to_thread(self._up)
        killer = asyncio.ensure_future(self._kill(gateway))
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(self._lives(f"agent-{number}", house) for number in range(self.agents)), *others)
        last = await killer
        self.nursery.signal(last, 15)
        assert await asyncio.to_thread(self.nursery.wait, last) == ("left", {"stopped": True})

    async def _kill(self, gateway: int) -> int:
        """Kill the gateway each time so much is done; the one that lives at the end."""
        for many in self._kills:
            while len(self.told) < many:
                self._news.clear()
                await self._news.wait()
            self.nursery.signal(gateway, 9)
            assert (await asyncio.to_thread(self.nursery.wait, gateway))[0] == "killed by 9"
            self.killed += 1
            gateway = await asyncio.to_thread(self._up)
        return gateway

    def _up(self) -> int:
        """A gateway. A sandboxed program that found none has one of its own, as long as it lives: then ours waits."""
        while True:
            gateway = self.nursery.bear(gateway=str(self.folder))
            ended, told = self.nursery.wait(gateway, 0.3)
            if ended is None:
                return gateway
            assert told["raised"] == "Busy", told

    # --- one agent ---

    async def _lives(self, run: str, house: House) -> None:
        while True:
            self.lives += 1
            try:
                await self._life(run, house)
                return
            except (Ended, Stopped, OSError, aiohttp.ClientError, HoldfastError):
                await asyncio.sleep(0.05)

    async def _life(self, run: str, house: House) -> None:
        async with AsyncExitStack() as open_:
            starting = await open_.enter_async_context(Starting(self.config.launching))
            taken = await starting.ask({"open": {"run": run, "agent": "clerk", "place": "local"}})
            if "ended" in taken:  # the gateway had died before it could say so
                return
            to = aiohttp.UnixConnector(str(self.config.door))
            shown = {"authorization": f"Bearer {taken['handle']}"}
            client = await open_.enter_async_context(aiohttp.ClientSession(connector=to, headers=shown))
            for step in range(self.steps):
                place = f"{TURN[step % len(TURN)]} {run}-{step}"
                answer = await self._call(client, *place.split(), house)
                assert self.told.setdefault(place, answer) == answer, f"it was told two things about {place}"
                self._news.set()
            await starting.ask({"end": {"answer": run}})

    async def _call(self, client: aiohttp.ClientSession, what: str, name: str, house: House) -> Any:
        while True:
            asked = {"tool": f"shop.{what}", "args": {"params": {"name": name}}}
            async with client.post("http://door/v1/call", json=asked) as response:
                told = await response.json()
            if response.status == 200:
                return json.loads(unpack(base64.b64decode(told["answer_b64"])).body)
            error = told["error"]
            if error["kind"] == "in_doubt":
                await asyncio.to_thread(self._settle, house, error["where"], name)
                raise Ended
            if error["kind"] != "not_happened":  # what certainly did not happen is asked for anew
                raise Ended

    def _settle(self, house: House, node: str, name: str) -> None:
        """What a person would do: look at the world, and say it."""
        there = census(self.folder)["living"].get(f"mail/{name}", [])
        if there:
            house.settle(node, happened={"answer": there[0][1]}, by="ann")
        else:
            house.settle(node, did_not_happen="it is not there", by="ann")


def census(folder: Path) -> dict[str, Any]:
    with urllib.request.urlopen((folder / "ledger").read_text()) as answer:
        return json.load(answer)


@pytest.fixture
def nursery() -> Generator[Nursery]:
    bearing = Nursery("tests.crash.gateway_life")
    yield bearing
    bearing.close()


@pytest.fixture
def place(tmp_path: Path) -> Generator[Path]:
    """A directory with a configuration, and the ledger that it speaks of."""
    line = [sys.executable, "-m", "tests.gateway.ledger"]
    ledger = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert ledger.stdout is not None
    port = int(ledger.stdout.readline())
    (tmp_path / "ledger").write_text(f"http://127.0.0.1:{port}/x/census")
    (tmp_path / "key").write_text("canary-91e0c7f35ab24d68")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
    (tmp_path / "holdfast.toml").write_text(
        SHOP.format(store=tmp_path / "runs.db", port=port, place="x", tools='"shop.*", "llm.*"', state="state")
        + '[agents.clerk.environment]\nSHOP = "{url:shop}"\n'
    )
    yield tmp_path
    ledger.communicate()


def counted(crowd: Crowd) -> None:
    """Everything that was asked for is in the world once, and nothing was sent again that could not be."""
    found = census(crowd.folder)
    for number in range(crowd.agents):
        for step in range(crowd.steps):
            what, name = TURN[step % len(TURN)], f"agent-{number}-{step}"
            if what != "look":
                assert len(found["living"][f"{what}/{name}"]) == 1, f"{what} {name}: {found['ever']}"
            if what in ("pay", "mail", "put"):
                assert len(found["ever"][f"{what}/{name}"]) == 1, f"{what} {name} was done twice"


def test_ten_agents_outlive_their_gateway(place: Path, nursery: Nursery) -> None:
    crowd = Crowd(place, nursery, agents=10, steps=5, kills=2)
    with open_store(f"gateway://{place}/state/admin.sock") as house:
        asyncio.run(crowd.run(house))
    assert crowd.killed == 2
    assert crowd.lives > crowd.agents
    counted(crowd)


@pytest.mark.soak
def test_two_hundred_agents_outlive_their_gateway(place: Path, nursery: Nursery) -> None:
    crowd = Crowd(place, nursery, agents=200, steps=10, kills=8)

    async def together(house: House) -> list[int]:
        boxed = [asyncio.ensure_future(asyncio.to_thread(sandboxed, place, number)) for number in range(BOXED)]
        await crowd.run(house, *boxed)
        return await asyncio.gather(*boxed)

    with open_store(f"gateway://{place}/state/admin.sock") as house:
        lives = asyncio.run(together(house))
    assert crowd.killed == 8
    counted(crowd)
    found = census(place)
    for number in range(BOXED if not preflight() else 0):
        for step in range(BOXED_STEPS):
            assert len(found["ever"][f"pay/boxed-{number}-{step}"]) == 1
    assert preflight() or sum(lives) > BOXED, "no sandboxed program has met the death of its gateway"


def sandboxed(place: Path, number: int) -> int:
    """A sandboxed program, started again until it has ended well; how often it was started."""
    if preflight():
        return 0
    (place / "programs").mkdir(exist_ok=True)
    program = place / "programs" / f"{number}.py"
    program.write_text(textwrap.dedent(SANDBOXED))
    line = [
        sys.executable, "-m", "holdfast", "run", "--sandbox", "--id", f"boxed-{number}", "--read-only",
        str(place / "programs"), "--config", str(place / "holdfast.toml"), "--", PYTHON, str(program),
        f"boxed-{number}", str(BOXED_STEPS),
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    for lives in range(1, 1000):
        ran = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode == 0:
            return lives
        assert lives < 200, ran.stderr
        time.sleep(0.2)
    raise AssertionError
