"""What a Python agent's program asks the gateway for besides calls, over a wire that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from holdfast.agent.client import Client
from holdfast.errors import Misuse, Stopped
from holdfast.store.memory import MemoryStore
from tests.gateway.threshold import Threshold, heard, threshold


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Threshold]:
    async with threshold(tmp_path) as found:
        yield found


class Wire:
    """A way to the door on which the first `lose` answers are lost."""

    def __init__(self, to: int, lose: int) -> None:
        self._to = to
        self._lose = lose
        self.asked = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._passed_on, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()

    async def _passed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._to)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                outer.write(await reader.readuntil(b"\r\n\r\n"))  # a question without a body
                answer = await heard(inner)
                self.asked += 1
                if self.asked <= self._lose:
                    break
                writer.write(answer.head + answer.body)
        outer.close()
        writer.close()


async def test_a_program_begins_although_the_answer_was_lost(here: Threshold) -> None:
    wire = Wire(here.port, lose=2)
    async with wire.open() as url:
        begun = await Client(url, here.taken.handle).get("/v1/begin?maker=m")
    assert (begun["run"], begun["branch"], wire.asked) == ("r", "main", 3)


async def test_whose_answers_are_always_lost_stops(here: Threshold) -> None:
    wire = Wire(here.port, lose=100)
    async with wire.open() as url:
        with pytest.raises(Stopped, match="closed the connection"):
            await Client(url, here.taken.handle).get("/v1/begin?maker=m")
    assert wire.asked == 3


async def test_a_second_program_does_not_begin_whatever_it_calls_itself(here: Threshold) -> None:
    client = Client(f"http://127.0.0.1:{here.port}", here.taken.handle)
    first = await client.get("/v1/begin?maker=m")
    assert await client.get("/v1/begin?maker=m") == first
    for other in ("/v1/begin?maker=n", "/v1/begin?maker=", "/v1/begin"):
        with pytest.raises(Misuse, match="has begun already"):
            await client.get(other)


async def test_a_program_without_a_name_begins_once(here: Threshold) -> None:
    client = Client(f"http://127.0.0.1:{here.port}", here.taken.handle)
    await client.get("/v1/begin")
    for again in ("/v1/begin", "/v1/begin?maker=m"):
        with pytest.raises(Misuse, match="has begun already"):
            await client.get(again)


# --- whose run it is ---

ASKED: dict[str, Any] = {
    "/v1/decide": {"name": "a", "asked": 1}, "/v1/decided": {"ticket": "a", "answer": 1},
    "/v1/draw": {"name": "a", "value": "1"}, "/v1/wait": {"signal": "a"}, "/v1/checkpoint": {"state": 1},
    "/v1/finish": {"answer": 1}, "/v1/begin": None, "/v1/stranded": None,
}  # fmt: skip


@pytest.mark.parametrize("path", ASKED)
async def test_a_narrowed_capability_is_not_the_agent_of_its_run(here: Threshold, path: str) -> None:
    """It was given for calls: it neither decides for the agent, nor ends its run, nor learns its input."""
    handle = json.loads((await here.post("/v1/narrow", {"tools": ["*"]})).body)["handle"]
    before = len(await here.records())
    body = ASKED[path]
    answer = await (here.get(path, handle) if body is None else here.post(path, body, handle))
    assert (answer.status, "the run is its agent's own" in answer.what) == (403, True)
    assert len(await here.records()) == before
    assert not here.taken.over.is_set()
    assert here.taken.begun is None


# --- labels ---


async def test_what_was_read_before_a_checkpoint_marks_what_is_asked_behind_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with threshold(tmp_path, store=store, restore=True) as here:
        here.office.labels = frozenset({"untrusted:post"})
        await here.call("post.look")
        made = await here.post("/v1/checkpoint", {"state": 1, "labels": ["trusted:own"]})
        assert json.loads(made.body)["node"]
        await here.call("post.look", args={"to": "b"})
    async with threshold(tmp_path, store=store, restore=True) as here:
        await here.call()
        assert here.rules.judged[-1].labels == {"untrusted:post", "trusted:own"}
        assert here.office.looked == 0
