"""Agents that go wrong, for the tests of forks. Their world is the directory they stand in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from holdfast import Run, agent, tool
from tests.cli.troupe import HOSTILE


def told(what: str) -> None:
    with Path("world").open("a") as world:
        world.write(f"{what}\n")


@tool(kind="read", name="trip.price")
def price(city: str) -> str:
    return f"{city}: 90"


def unbook(city: str) -> None:
    told(f"unbook {city}")


@tool(kind="reversible", name="trip.book", resource=["city"], undo=unbook)
def book(city: str) -> str:
    told(f"book {city}")
    return f"room in {city}"


@tool(kind="irreversible", name="trip.mail")
def mail(to: str) -> str:
    """While there is a file `stuck`, it never comes back from the world."""
    told(f"mail {to}")
    while Path("stuck").exists():
        time.sleep(0.01)
    return f"mail to {to}"


@tool(kind="irreversible", name="trip.pay", approval="one")
def pay(cents: int) -> str:
    told(f"pay {cents}")
    return "paid"


@tool(kind="idempotent", name=HOSTILE.replace("\x00", "")[:60].strip())
def odd(text: str) -> str:
    return text


def choose(messages: list[dict[str, str]]) -> str:
    return "Paris"


@agent
def trip(run: Run, task: Any) -> str:
    """A read, a decision, an effect that can be taken back, a decision on what was said, and one that cannot."""
    price("Paris")
    talk = [{"role": "user", "content": f"where to, {task['who']}?"}]
    city = run.decide(choose, talk)
    room = book(city)
    run.decide(lambda messages: "fine", [*talk, {"role": "assistant", "content": city}])
    mail(task["who"])
    return f"{room}{run.setting('prompt', '')}"


@agent
def tour(run: Run, task: Any) -> str:
    """A mail first, and then the room."""
    city = run.decide(choose, [])
    mail(task["who"])
    return book(city)


@agent
def home(run: Run, task: Any) -> str:
    price("Paris")
    return "stays at home"


@agent
def buyer(run: Run, task: Any) -> str:
    price("Paris")
    return pay(task["cents"])


@agent
def offerer(run: Run, task: Any) -> str:
    price("Paris")
    sent = mail(task["who"])
    run.offer({"would": task["who"]})
    return sent


@agent
def searcher(run: Run, task: Any) -> str:
    price("Paris")
    city = run.explore(["Rome", "Oslo"], score=lambda attempt: float(attempt.candidate == "Oslo"))
    return book(city)


@agent
def strange(run: Run, task: Any) -> str:
    run.decide(lambda text: HOSTILE, HOSTILE)
    return odd(HOSTILE)
