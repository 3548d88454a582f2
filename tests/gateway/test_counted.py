"""Calls at a door that are found again: by whom, for how long, and how many of them there may be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.capability import Terms
from holdfast.gateway.rights import Right
from holdfast.gateway.wards import Taken
from tests.gateway.lodge import Lodge


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db")


async def eventually(holds: Any) -> None:
    """Wait until something holds; at most a minute."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.005)


async def call(lodge: Lodge, taken: Taken, right: Right, to: str = "a", **more: Any) -> Any:
    """The answer to a letter that is sent by a right; it is not delivered."""
    prepared = await lodge.office.prepare("send", {"to": to})
    return json.loads((await taken.ward.call(right, prepared, **more)).data)


async def narrowed(taken: Taken, terms: Terms) -> Right:
    right, _ = await taken.ward.rights.narrow(taken.right, terms, by="the agent")
    return right


# --- until when ---


async def test_an_answer_that_is_delivered_late_ends_no_call_but_its_own(lodge: Lodge) -> None:
    """Two wait for one call; when the first has its answer, the same call is made anew. Then the second has it."""
    office = lodge.office
    async with lodge.open() as taken:
        ward, asked = taken.ward, [await office.prepare("send", {"to": "a"}) for _ in range(4)]
        await asyncio.gather(ward.call(taken.right, asked[0]), ward.call(taken.right, asked[1]))
        ward.delivered(asked[0])
        office.gate = asyncio.Event()
        anew = asyncio.ensure_future(ward.call(taken.right, asked[2]))
        await eventually(lambda: len(office.receipts) == 2)
        ward.delivered(asked[1])
        again = asyncio.ensure_future(ward.call(taken.right, asked[3]))
        await asyncio.sleep(0)
        office.gate.set()
        assert (await anew).data == (await again).data == b'{"number":2}'
    assert len(office.sent) == 2
