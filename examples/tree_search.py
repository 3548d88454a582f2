"""Tree search: every way to the goal is tried to its end, and only the best one is taken.

    python examples/tree_search.py     # books the cheapest way from Oslo to Rome
    python examples/tree_search.py     # the run has finished: the recorded answer

An agent that explores at every step searches a tree: each branch goes on with the whole program, comes to the next step
and explores there. The best way below a branch is what that branch has to show. Fares are looked up as the search goes;
bookings, which nobody gives back, are made on the one way that wins, and are the lines of `bookings.txt`.
"""

import asyncio
import sys
from pathlib import Path

from holdfast import Attempt, Happened, NotHappened, Run, agent, open_store, tool

BOOKINGS = Path("bookings.txt")
PACE_S = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
FARES = {
    "Oslo": {"Hamburg": 90, "London": 60, "Warsaw": 80},
    "Hamburg": {"Vienna": 70, "Zurich": 110},
    "London": {"Zurich": 130, "Paris": 40},
    "Warsaw": {"Vienna": 50},
    "Vienna": {"Rome": 90},
    "Zurich": {"Rome": 60},
    "Paris": {"Rome": 150},
}


@tool(kind="read")
async def fares(place: str) -> dict[str, int]:
    """Stands for a timetable."""
    return FARES[place]


def is_booked(start: str, goal: str) -> Happened[str] | NotHappened:
    made = BOOKINGS.read_text().splitlines(keepends=True) if BOOKINGS.exists() else []
    return Happened(f"{start}-{goal}") if f"{start}-{goal}\n" in made else NotHappened("no such booking")


@tool(kind="irreversible", probe=is_booked)
async def book(start: str, goal: str) -> str:
    """Book a leg of the way."""
    await asyncio.sleep(PACE_S)
    return note(f"{start}-{goal}")


def note(booking: str) -> str:
    """Stands for an airline, whose bookings are lines of a file."""
    with BOOKINGS.open("a") as bookings:
        bookings.write(f"{booking}\n")
    return booking


def cheap(attempt: Attempt) -> float:
    return -attempt.offer["price"]


@agent
async def travel(run: Run, task: dict[str, str]) -> dict[str, object]:
    way, price = [task["from"]], 0
    while way[-1] != task["to"]:
        onward = await fares(way[-1])
        place = await run.explore(sorted(onward), score=cheap)
        await book(way[-1], place)  # on a branch that is not promoted this is only written down
        way.append(place)
        price += onward[place]
    return {"way": way, "price": price}  # the end of a branch is what it has to show


if __name__ == "__main__":
    with open_store("sqlite:///runs.db") as house:
        print(house.run(travel, {"from": "Oslo", "to": "Rome"}, id="oslo-rome"))
