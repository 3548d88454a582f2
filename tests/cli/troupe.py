"""The agents that the tests of the command line put to work. Their world is the directory they stand in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from holdfast import Happened, NotHappened, Run, agent, key, tool

HOSTILE = "\x1b[31mred\x1b]0;title\x07 [red]markup[/red] \u202eevil\u2066 \x00 \r\nforged line\u200b \x9b2J"


@tool(kind="irreversible", name="mail", identity=["to"])
def mail(to: str) -> str:
    """Sent twice, it arrives twice. While there is a file `stuck`, it never comes back from the world."""
    with Path("mails").open("a") as mails:
        mails.write(f"{to}\n")
    while Path("stuck").exists():
        time.sleep(0.01)
    return f"mail to {to}"


@tool(kind="irreversible", name="pay", approval="one")
def pay(cents: int) -> str:
    with Path("paid").open("a") as paid:
        paid.write(f"{cents}\n")
    return f"paid {cents}"


@tool(kind="irreversible", name="wire", approval="two")
def wire(cents: int) -> str:
    with Path("paid").open("a") as paid:
        paid.write(f"{cents}\n")
    return f"wired {cents}"


@agent
def wirer(run: Run, task: Any) -> str:
    return wire(task["cents"])


@tool(kind="idempotent", name="put")
def put(name: str) -> str:
    return f"put {name}"


@tool(kind="read", name="look")
def look(name: str) -> str:
    return f"saw {name}"


@tool(kind="read", name="desk.sheet", resource=["sheet"])
def sheet(sheet: str) -> Happened[str]:
    """A sheet of paper on the desk; its version is how often it was written. `hostile` says what it likes to."""
    if sheet == "hostile" and Path("changed").exists():
        raise ValueError(HOSTILE)
    if not Path(sheet).exists():
        raise NotHappened("there is no such sheet")
    lines = Path(sheet).read_text().splitlines()
    return Happened(lines[-1], etag=f"v{len(lines)}")


@tool(kind="idempotent", name="desk.write", resource=["sheet"])
def write(sheet: str, text: str) -> Happened[None]:
    with Path(sheet).open("a") as paper:
        paper.write(f"{text}\n")
    return Happened(None, etag=f"v{len(Path(sheet).read_text().splitlines())}")


@agent
def clerk(run: Run, task: Any) -> str:
    """Reads some sheets, writes on others, and waits for a word."""
    for name in task["reads"]:
        with contextlib.suppress(NotHappened):
            sheet(name)
    for name in task.get("writes", ()):
        write(name, "from the clerk")
    return run.wait_for("go")


@agent
def dun(run: Run, task: Any) -> str:
    """A read, a decision, an idempotent effect and an irreversible one."""
    greeting = run.decide(lambda name: f"Dear {name}", task["to"])
    look("balance")
    put(greeting)
    return mail(task["to"])


@agent
def stubborn(run: Run, task: Any) -> str:
    """Tries anew what certainly did not happen."""
    try:
        return mail(task["to"])
    except NotHappened:
        return mail(task["to"])


@agent
def payer(run: Run, task: Any) -> str:
    return pay(task["cents"])


@agent
def asker(run: Run, task: Any) -> str:
    """Takes a refusal for an answer."""
    try:
        return pay(task["cents"])
    except NotHappened as refused:
        return f"not paid: {refused.what}"


@agent(state=dict)
def walker(run: Run, task: Any) -> Any:
    """So many steps, with a checkpoint at each 50th, and then a payment."""
    for step in range(run.state.get("step", 0), task["steps"]):
        if step % 50 == 49:
            run.state = {"step": step}
            run.checkpoint()
        put(f"step {step}")
    return pay(task["cents"]) if task["cents"] else "there"


@agent
def recorder(run: Run, task: Any) -> Any:
    """Keeps no state: whatever checkpoints it makes, it is replayed from its beginning. It hears of the world anew each
    time, and makes a checkpoint before it asks again for what it was held for."""
    run.decide(lambda text: text, f"life {len(Path('lives').read_text()) if Path('lives').exists() else 0}")
    with Path("lives").open("a") as lives:
        lives.write("x")
    if Path("lives").stat().st_size > 1:
        run.checkpoint()
    return pay(task["cents"])


@agent
def waiter(run: Run, task: Any) -> Any:
    return run.wait_for("paid")


@agent
def sleeper(run: Run, task: Any) -> str:
    run.sleep(task["seconds"])
    return "awake"


@agent
def failing(run: Run, task: Any) -> str:
    put("before")
    raise ValueError(HOSTILE)


@agent
def quitter(run: Run, task: Any) -> str:
    raise SystemExit(7)


@agent
def killer(run: Run, task: Any) -> str:
    """Its process does not survive it while there is a file `deadly`."""
    if Path("deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return mail(task["to"])


@agent
async def leaver(run: Run, task: Any) -> None:
    """Something that it started ends the whole program, as it believes."""

    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.gather(asyncio.create_task(leave()), asyncio.sleep(3600))


def _live() -> None:
    with Path("lives").open("a") as lives:
        lives.write("x")


@agent
async def quiet(run: Run, task: Any) -> None:
    """Ends in a way that leaves nothing in its log, each time."""
    _live()
    raise asyncio.CancelledError


def was_booked(book: str, number: int) -> Any:
    return Happened(number) if f"{key()} {number}" in _lines(book) else NotHappened("not in the book")


@tool(kind="irreversible", name="book", probe=was_booked)
def enter(book: str, number: int) -> int:
    """Written twice, it stands there twice; it can be asked about."""
    with Path(book).open("a") as lines:
        lines.write(f"{key()} {number}\n")
    time.sleep(0.03)
    return number


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


@agent
def bookkeeper(run: Run, task: Any) -> int:
    """Six lines in a book of its own, with a time and a decision between them; before the last, a word is needed."""
    for number in range(5):
        run.now()
        enter(task["book"], run.decide(lambda n: n, number))
    return enter(task["book"], run.wait_for("sign"))


@agent
async def chooser(run: Run, task: Any) -> Any:
    """Tries two ways, of which the second must be told a word before it can be judged; goes on with the better one."""
    way = await run.explore([1, 2], score=_points)
    if way == 2:
        await run.wait_for("go")
    await run.offer(way)
    return f"way {way}: {await run.call(mail, to=str(way))}"


def _points(attempt: Any) -> float:
    return float(attempt.offer)


@agent
def echo(run: Run, task: Any) -> Any:
    put(task)
    return task


@agent
def lonely(run: Run) -> str:
    return "never called"


not_an_agent = 7


@agent(state=dict, workspace=True)
def builder(run: Run, task: Any) -> int:
    """Builds `parts` files, one a turn; while there is a file `broken`, it fails after the second."""
    while len(run.state) < task["parts"]:
        part = len(run.state)
        (run.workspace / f"part {part}").write_text("x" * (part + 1))
        run.state[str(part)] = True
        run.checkpoint(services=[f"serve {part}"])
        if part == 1 and Path("broken").exists():
            (run.workspace / "part 0").unlink()
            (run.workspace / HOSTILE.replace("\x00", "").replace("/", "")).write_text("an hour of work")
            raise ValueError("broken")
    return len(run.state)
