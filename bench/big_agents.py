"""The runs that a large log is made of: real agents, which make one run of each shape; and what a run goes on with.

Rules
1. A run's number (eight digits) stands in its input, in what it changes and in what it is told; all runs look up the
   same, and ask their model the same. So one run of a shape, as the product wrote it, says how any other is written.
2. A turn is a decision, a read and an idempotent effect; each third one has an irreversible effect too. It asks nothing
   of the world, so that any run can be gone on with, or replayed, wherever it stands.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

from bench.text import Texts
from holdfast import Run, agent, tool

TEXTS: list[Texts] = []
CALLED: list[str] = []
"""What was really called in this process."""
NUMBER: ContextVar[str] = ContextVar("NUMBER")
EVERY = 10  # turns from checkpoint to checkpoint
SHAPES = {  # name: turns, and how it stands in the end
    "short": (4, "finished"),
    "usual": (20, "finished"),
    "large": (200, "finished"),
    "long": (3_000, "stopped"),
    "failed": (10, "failed"),
    "held": (20, "held"),
    "signal": (20, "waiting"),
    "asleep": (20, "asleep"),
    "doubt": (20, "doubt"),
    "stopped": (20, "stopped"),
}


def texts(path: Path) -> None:
    """Take the texts of all tools from a file."""
    TEXTS[:] = [Texts(path)]


def _say(kind: str, order: str, size: int) -> str:
    CALLED.append(kind)
    number, _, turn = order.partition("-")
    return f"{number} {TEXTS[0].answer(int(turn))[: size - 9]}"


@tool(kind="read", name="shop.look")
async def look(turn: int, about: str) -> str:
    CALLED.append("look")
    return TEXTS[0].answer(turn)[:400]


@tool(kind="idempotent", name="shop.put")
async def put(order: str, body: str) -> str:
    return _say("put", order, 300)


@tool(kind="irreversible", name="shop.send")
async def send(order: str, body: str) -> str:
    return _say("send", order, 60)


@tool(kind="irreversible", name="shop.pay", approval="one")
async def pay(order: str, body: str) -> str:
    return _say("pay", order, 60)


async def model(turn: int, question: str) -> str:
    return _say("model", f"{NUMBER.get()}-{turn:06}", 500)


@agent(state=dict)
async def shopper(run: Run, task: dict[str, str]) -> str:
    """Goes on from its newest checkpoint. `task`: number and shape."""
    number, (turns, end) = task["number"], SHAPES[task["shape"]]
    NUMBER.set(number)
    for turn in range(run.state.get("turn", 0), turns):
        order = f"{number}-{turn:06}"
        await run.decide(model, turn, TEXTS[0].argument(turn))
        await look(turn, TEXTS[0].argument(turn)[:60])
        await put(order, TEXTS[0].argument(turn + 7)[:160])
        if turn % 3 == 2:
            await send(order, TEXTS[0].argument(turn + 9)[:160])
        if turn % EVERY == EVERY - 1 and turn + 1 < turns:
            run.state = {"turn": turn + 1}
            await run.checkpoint()
    await _end(run, f"{number}-{turns:06}", end)
    return f"{number} is done"


async def _end(run: Run, order: str, end: str) -> None:
    match end:
        case "failed":
            raise ValueError("the shop has closed")
        case "held":
            await pay(order, "for all of it")
        case "waiting":
            await run.wait_for("paid")
        case "asleep":
            await run.sleep(300 * 86400)
        case "doubt":
            await send(order, "which is where its process died")
        case _:
            pass
