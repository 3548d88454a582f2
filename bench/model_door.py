"""`python -m bench.model_door`: from a question to the first token of its streamed answer, direct and through the door.

Rules
1. The provider, the gateway and whoever asks are three processes; the store is SQLite on the disk of this repository.
2. Both ways take turns, question by question; each question is a new one, so that nothing is answered from the log.
3. What is told is the difference of the medians of the same run. A quiet machine is not assumed: the times of both ways
   stand beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

from bench import machine
from holdfast.core.capability import Terms
from holdfast.core.policy import Allowed, Facts, Verdict
from holdfast.demo import server
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.table import application
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.upstreams.model import ModelConfig, open_model
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Wanted, Wards
from holdfast.store.url import open_url

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS, WARM = 300, 20
MOST_MS = 5.0
KEY = "sk-bench-0123456789abcdef"


class Everything:
    """Rules that allow everything: what a policy costs is measured elsewhere."""

    digest = "0" * 32

    def judge(self, facts: Facts) -> Verdict:
        """As `Policy.judge`."""
        return Allowed("all")


async def gateway(provider: str, folder: Path) -> None:
    """Serve the model door of one run, until the owner leaves."""
    opening = open_url(f"sqlite:///{folder / 'bench.db'}")
    (folder / "key").write_text(KEY)
    (folder / "key").chmod(0o600)
    vault = Vault({"provider": "file:key"}, opening.store, uses={"provider": {"llm"}}, folder=folder)
    given = {
        "kind": "model", "protocol": "openai", "base_url": f"{provider}/v1", "credential": "provider",
        "private": ["127.0.0.1"], "models": {"scripted": {"input": "1", "output": "1", "max_output": 1000}},
    }  # fmt: skip
    kit = Kit(vault=vault, dialer=Dialer())
    system = await open_model("llm", ModelConfig.model_validate(given), kit)
    wards = Wards(opening.store, Everything)
    taken = await wards.open(Wanted(run="bench", agent="bench", terms=Terms(tools=("llm.*",)), by="bench"))
    gate = Gate(wards, {"llm": system}, kinds={"llm": "model"})
    runner = web.AppRunner(application(gate, None, 17 << 20))
    await runner.setup()
    await web.TCPSite(runner, server.LOOPBACK, 0).start()
    (folder / "handle").write_text(taken.handle)
    server.ready(runner.addresses[0][1])
    await asyncio.Event().wait()


async def first_token_ms(client: aiohttp.ClientSession, url: str, key: str, number: int) -> float:
    """From the question to the first word of the answer; the answer is read to its end."""
    asked = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": f"question {number}"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data, began_ns, first_ms = json.dumps(asked).encode(), time.perf_counter_ns(), None
    async with client.post(f"{url}/chat/completions", data=data, headers=headers) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if first_ms is None and b'"content": "' in line and b'"content": ""' not in line:
                first_ms = (time.perf_counter_ns() - began_ns) / 1e6
    assert first_ms is not None, "an answer has words"
    return first_ms


async def measured(direct: str, through: str, handle: str, questions: int) -> dict[str, list[float]]:
    """The times of both ways, in ms."""
    times: dict[str, list[float]] = {"direct": [], "through the door": []}
    ways = {"direct": (direct, KEY), "through the door": (through, handle)}
    async with aiohttp.ClientSession() as client:
        for number in range(WARM + questions):
            order = list(ways) if number % 2 else list(reversed(ways))
            for way in order:
                taken_ms = await first_token_ms(client, *ways[way], number)
                if number >= WARM:
                    times[way].append(taken_ms)
    return times


def run(questions: int) -> dict[str, Any]:
    """Measure, with both servers in processes of their own."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-model-", dir=ROOT / "build") as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        provider = server.start("provider", "holdfast.demo.model", directory=folder, environment=environment)
        try:
            told = ("--gateway", provider.url, str(folder))
            door = server.start("gateway", "bench.model_door", *told, directory=folder, environment=environment)
            try:
                handle = (folder / "handle").read_text()
                times = asyncio.run(measured(f"{provider.url}/v1", f"{door.url}/model/llm/v1", handle, questions))
            finally:
                door.leave()
        finally:
            provider.leave()
    found = {way: _figures(each) for way, each in times.items()}
    added = found["through the door"]["p50"] - found["direct"]["p50"]
    return {
        "machine": machine.machine(ROOT / "build"),
        "ways": found,
        "added_p50_ms": round(added, 3),
        "most_ms": MOST_MS,
    }


def _figures(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": statistics.median(ordered), "p90": ordered[len(ordered) * 9 // 10], "n": len(ordered)}


def main() -> None:
    """Measure and print; a status of 1 if the bar is not reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.model_door", description=__doc__)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "model_door.json")
    parser.add_argument("--gateway", nargs=2, metavar=("PROVIDER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gateway:
        asyncio.run(gateway(options.gateway[0], Path(options.gateway[1])))
        return
    result = run(options.questions)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table(title="to the first token of a streamed answer (ms)")
    for column in ("way", "p50", "p90", "questions"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, figures in result["ways"].items():
        table.add_row(way, f"{figures['p50']:.2f}", f"{figures['p90']:.2f}", str(figures["n"]))
    console = Console()
    console.print(table)
    console.print(f"added: {result['added_p50_ms']:.2f} ms at p50; at most {MOST_MS:g} ms may be")
    sys.exit(result["added_p50_ms"] > MOST_MS)


if __name__ == "__main__":
    main()
