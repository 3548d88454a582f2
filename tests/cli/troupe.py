"""The agents that the tests of the command line put to work. Their world is the directory they stand in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from holdfast import NotHappened, Run, agent, tool

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


@tool(kind="idempotent", name="put")
def put(name: str) -> str:
    return f"put {name}"


@tool(kind="read", name="look")
def look(name: str) -> str:
    return f"saw {name}"


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
def echo(run: Run, task: Any) -> Any:
    put(task)
    return task


@agent
def lonely(run: Run) -> str:
    return "never called"


not_an_agent = 7
