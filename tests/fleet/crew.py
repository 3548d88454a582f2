"""The agents of these tests. Their world is the directory they stand in: whatever is done is a line in its file `book`.

Rules
1. `mail` cannot be asked about; `wire` can; `put` honours its key. Sent twice, `mail` and `wire` happen twice.
2. While there is a file `stuck-NAME`, what was done for NAME does not come back from the world.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from holdfast import Happened, NotHappened, Run, agent, key, tool


def lines() -> list[list[str]]:
    """The book, line by line, in words."""
    return [line.split() for line in Path("book").read_text().splitlines()] if Path("book").exists() else []


def write(*words: object) -> None:
    """One line in the book, in one write."""
    book = os.open("book", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(book, (" ".join(map(str, words)) + "\n").encode())
    os.close(book)


async def _while(name: str, look_s: float = 0.02) -> None:
    """As long as there is a file of this name."""
    while Path(name).exists():  # noqa: ASYNC110, ASYNC240 - it is another process that ends it
        await asyncio.sleep(look_s)


@tool(kind="irreversible", name="mail")
async def mail(name: str) -> str:
    write("mail", name, key())
    await _while(f"stuck-{name}")
    return f"mail {name}"


def _found(name: str) -> Any:
    there = any(line == ["wire", name, key()] for line in lines())
    return Happened(f"wire {name}") if there else NotHappened("it is not in the book")


@tool(kind="irreversible", name="wire", probe=_found)
async def wire(name: str) -> str:
    write("wire", name, key())
    await _while(f"stuck-{name}")
    return f"wire {name}"


@tool(kind="idempotent", name="put")
async def put(name: str) -> str:
    write("put", name, key())
    await _while(f"stuck-{name}")
    return f"put {name}"


@tool(kind="idempotent", name="note")
async def note(what: str) -> None:
    write("note", what)


def _asked(name: str) -> Any:
    write("asked", name)
    return _found(name)


@tool(kind="irreversible", name="post", probe=_asked, late_s=2)
async def post(name: str) -> str:
    """What may arrive two seconds after it was sent."""
    write("wire", name, key())
    await _while(f"stuck-{name}")
    return f"post {name}"


@tool(kind="idempotent", name="brief", key_ttl_s=1.5)
async def brief(name: str) -> str:
    """Its key is forgotten after a second and a half."""
    write("wire", name, key())
    await _while(f"stuck-{name}")
    return f"brief {name}"


@tool(kind="irreversible", name="grave", approval="one")
async def grave(name: str) -> str:
    """Somebody must agree."""
    write("wire", name, key())
    return f"grave {name}"


async def _counted(name: str) -> str:
    write("begins", name)
    await _while(f"stuck-{name}")
    write("ends", name)
    return name


@tool(kind="irreversible", name="crm.send")
async def crm_send(name: str) -> str:
    return await _counted(name)


@tool(kind="read", name="crm.find")
async def crm_find(name: str) -> str:
    return await _counted(name)


@tool(kind="idempotent", name="crm.put")
def crm_put(name: str) -> str:
    write("begins", name)
    write("ends", name)
    return name


CRM = {"crm.send": crm_send, "crm.find": crm_find, "crm.put": crm_put}
TOOLS = {"mail": mail, "wire": wire, "put": put, "post": post, "brief": brief, "grave": grave, **CRM}


@agent
async def errand(run: Run, task: Any) -> list[str]:
    """Some effects, one after another: `[[TOOL, NAME], …]`; what did not happen, as a person has found, is asked for
    anew."""
    return [await _surely(run, TOOLS[tool], name) for tool, name in task]


async def _surely(run: Run, what: Any, name: str) -> str:
    while True:
        try:
            return await run.call(what, name=name)
        except NotHappened:
            continue


@agent
async def plainly(run: Run, task: Any) -> str:
    """Calls without awaiting."""
    return crm_put(task)


@agent
async def waiter(run: Run, task: Any) -> str:
    """Waits for a word, then wires."""
    await run.wait_for("go")
    return await run.call(wire, name=task)


@agent
async def sleeper(run: Run, task: Any) -> str:
    await run.sleep(task)
    return "awake"


@agent
async def thinker(run: Run, task: Any) -> str:
    """Thinks, without asking for anything, while there is a file `thinking`."""
    write("begins", task)
    await _while("thinking")
    write("ends", task)
    return "thought"


@agent
async def working(run: Run, task: Any) -> str:
    """As `thinker`, between two effects."""
    await run.call(wire, name=f"{task}-first")
    await _while("thinking", 0.5)
    return await run.call(wire, name=f"{task}-second")


@agent
def deadly(run: Run, task: Any) -> str:
    """No process survives it while there is a file `deadly`."""
    write("dies", task)
    if Path("deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
