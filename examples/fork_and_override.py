"""The smallest recovery fork: a model answers badly, the run comes to a dead end, and goes on with a better answer.

    python examples/fork_and_override.py      # a dead end; then a fork of the run, which comes to its end
    python examples/fork_and_override.py      # the run has finished: the recorded answer

What is done is a line in `world.txt`. Kill it at any moment and start it again. In the end the lease in the wrong city
was given back, and the announcement, which both branches make, was made once.
"""

import sys
import time
from pathlib import Path
from typing import Any

from holdfast import Happened, NotHappened, agent, open_store, tool

WORLD = Path("world.txt")
ASKED_AT = 3  # the node of the model's answer, as `holdfast log shop-1` shows it
PACE_S = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0


class DeadEnd(Exception):
    """What was asked for cannot be reached from here."""


def do(what: str) -> str:
    """Stands for the world: a line is added, and none is ever taken away."""
    time.sleep(PACE_S)
    with WORLD.open("a") as world:
        world.write(what + "\n")
    return what


def look(what: str) -> Happened[str] | NotHappened:
    done = WORLD.exists() and f"{what}\n" in WORLD.read_text().splitlines(keepends=True)
    return Happened(what) if done else NotHappened("the world does not show it")


def give_back(city: str) -> None:
    if isinstance(look(f"give back the shop in {city}"), NotHappened):
        do(f"give back the shop in {city}")


@tool(kind="reversible", probe=lambda city: look(f"rent a shop in {city}"), undo=give_back)
def rent(city: str) -> str:
    return do(f"rent a shop in {city}")


@tool(kind="irreversible", probe=lambda text: look(f"announce: {text}"))
def announce(text: str) -> str:
    return do(f"announce: {text}")


def ask_model(question: str) -> str:
    """Stands for your model, which does not always listen."""
    return "Paris"


@agent
def open_shop(run: Any, task: dict[str, str]) -> str:
    city = run.decide(ask_model, f"Where in {task['country']} shall the shop open?")
    lease = rent(city)
    announce("We open on Monday.")
    if city not in task["cities"]:
        raise DeadEnd(f"{city} is not in {task['country']}")
    return lease


if __name__ == "__main__":
    with open_store("sqlite:///runs.db") as house:
        try:
            print(house.run(open_shop, {"country": "Norway", "cities": "Oslo, Bergen"}, id="shop-1"))
        except DeadEnd as dead:
            print("a dead end:", dead)
            branch = house.fork(f"shop-1@{ASKED_AT}", answers={ASKED_AT: "Oslo"}, by="the operator", why=str(dead))
            print(f"on {branch}:", house.run(open_shop, id="shop-1"))
