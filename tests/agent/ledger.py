"""An agent and its tools as the tests of programs behind a gateway run them: the same module is embedded, and in a tool
host behind a gateway. What is done to the world stands in the file that `WORLD` names."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from holdfast import NotHappened, agent, tool


class Invoice(BaseModel):
    """A letter's content."""

    number: str
    cents: int


def _write(line: str) -> None:
    with Path(os.environ["WORLD"]).open("a") as file:
        file.write(f"{line}\n")


@tool(kind="irreversible", identity=["number"], repeat="each")
async def mail(number: str, body: str) -> str:
    """Send a letter."""
    _write(f"mail {number} {body}")
    return f"sent {number}"


@tool(kind="irreversible", identity=["invoice"], repeat="each")
async def bill(invoice: Invoice) -> Invoice:
    """Charge an invoice."""
    _write(f"bill {invoice.number} {invoice.cents}")
    return Invoice(number=invoice.number, cents=0)


@tool(kind="irreversible", repeat="each")
async def decline(why: str) -> str:
    """Always certain that nothing was done."""
    raise NotHappened(why)


@tool(kind="irreversible", repeat="each")
def post(number: str) -> str:
    """Send a letter, blocking."""
    _write(f"post {number}")
    return f"posted {number}"


@tool(kind="read")
async def look(name: str) -> bytes:
    """Bytes."""
    return name.encode() + b"\xff"


@tool(kind="irreversible", repeat="each")
async def slow(name: str) -> str:
    """Takes its time."""
    _write(f"slow {name}")
    await asyncio.sleep(0.2)
    return name


async def think(request: str) -> dict[str, Any]:
    """A model: it never says the same twice, and says when it is asked."""
    _thought(request)
    return {"to": request, "at": time.time_ns()}


def ponder(request: str) -> Invoice:
    """A model that blocks."""
    _thought(request)
    return Invoice(number=request, cents=time.time_ns())


async def stumble(request: str) -> str:
    """A model that is not there."""
    _thought(request)
    raise RuntimeError("no model")


async def hesitate(request: str) -> str:
    """A model whose program dies before it can say what it heard."""
    _thought(request)
    _die("asked")
    return "heard"


def _thought(request: str) -> None:
    with Path("thought").open("a") as file:
        file.write(f"{request}\n")


def _die(at: str) -> None:
    """End this process once, at a place that `die` names."""
    wanted = Path("die")
    if wanted.exists() and wanted.read_text() == at:
        wanted.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


@agent
async def everything(run: Any, task: Any) -> dict[str, Any]:
    """All that an agent can ask for but waits and checkpoints."""
    first = await run.decide(think, task["name"])
    _die("decided")
    pondered = await run.decide(ponder, task["name"], lane="side")
    try:
        await run.decide(stumble, "x", lane="bad")
    except RuntimeError as error:
        stumbled = str(error)
    now, uuid, random = await run.now(), str(await run.uuid()), await run.random()
    sent = await mail("1", "hello")
    _die("mailed")
    equal = await asyncio.gather(mail("2", "left"), mail("2", "right"), mail("2", "right"))
    again = await mail.again("more")("1", "hello")
    billed = await bill(Invoice(number="7", cents=100))
    try:
        await decline("no")
    except NotHappened as error:
        declined = error.what
    _die("late")
    lanes = await asyncio.gather(run.decide(think, "a", lane="a"), run.decide(think, "b", lane="b"))
    seen = await look("x")
    await run.sleep(0.01)
    return {
        "first": first, "pondered": pondered, "stumbled": stumbled, "now": now, "uuid": uuid, "random": random,
        "sent": sent, "equal": equal, "again": again, "billed": billed, "declined": declined, "lanes": lanes,
        "seen": seen.hex(), "types": [type(pondered).__name__, type(billed).__name__],
        "left": [each.tool for each in await run.stranded()],
    }  # fmt: skip


@agent
def plainly(run: Any, task: Any) -> list[Any]:
    """A synchronous agent."""
    return [run.decide(think, "p")["to"], post("5"), run.call(mail, number="6", body="sync"), run.now() > 0]


@dataclass
class Progress:
    """What a checkpoint carries."""

    done: list[str] = field(default_factory=list)


@agent(state=Progress, checkpoint_every=1, checkpoint_before="irreversible")
async def steps(run: Any, task: Any) -> list[str]:
    """One letter for each number, with a checkpoint at the boundary of each turn."""
    while len(run.state.done) < 3:
        await run.turn(mail)
        number = str(len(run.state.done))
        run.state.done.append(await mail(number, "step"))
        await run.checkpoint(labels=["step"])
        _die(f"step {number}")
        await asyncio.gather(mail("same", number), mail("same", number))
    return run.state.done


@agent(state=Progress)
async def besides(run: Any, task: Any) -> list[str]:
    """A checkpoint that is asked for while a call is under way carries what that call came to."""

    async def lane() -> None:
        run.state.done.append(await slow("lane"))

    if "lane" not in run.state.done:
        going = asyncio.ensure_future(lane())
        await asyncio.sleep(0.05)
        await run.checkpoint()
        _die("beside")
        await going
    return run.state.done


@agent
async def waits(run: Any, task: Any) -> Any:
    """A signal, in a task group."""
    async with asyncio.TaskGroup() as group:
        told = group.create_task(run.wait_for("go"))
    return [told.result(), await mail("9", "after")]


@agent
async def asks(run: Any, task: Any) -> str:
    """A call that a policy may hold or refuse."""
    return await mail("1", "may I?")


@agent
async def fails(run: Any, task: Any) -> None:
    """An agent that raises."""
    await mail("1", "first")
    raise ValueError("a mistake in the agent")


@agent
async def sleeps(run: Any, task: Any) -> str:
    """A long sleep."""
    await run.sleep(task["seconds"])
    return "awake"


@agent
async def deep(run: Any, task: Any) -> int:
    """More calls side by side than a pool of threads has room for, and one on which all depend."""
    return len(await asyncio.gather(*(slow(str(number)) for number in range(40))))


@agent
async def hesitates(run: Any, task: Any) -> str:
    """One decision."""
    return await run.decide(hesitate, "x")


@agent(state=Progress, checkpoint_before="irreversible")
async def turns(run: Any, task: Any) -> list[bool]:
    """Turns that may only look, that may do anything, and with nothing new."""
    await run.now()
    return [await run.turn(look) is not None, await run.turn(mail) is not None, await run.turn() is not None]
