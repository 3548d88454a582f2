"""How the tests put agents on a stage: run them, let them die, run them again, and read what the log says of it."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Waiting
from holdfast.agent.run import Agent
from holdfast.core.codec import decode
from holdfast.core.record import Record
from holdfast.embedded import House

RUN = "r"


class Killed(BaseException):
    """Stands for the death of the process: raised in a tool or an agent, nothing after it is carried out or written."""


def life(house: House, agent: Agent, task: Any = None, *, id: str = RUN, **options: Any) -> Any:
    """What one life of a run comes to: its answer, or what it was ended by."""
    try:
        return house.run(agent, task, id=id, wait=False, **options)
    except (Exception, Waiting, Killed) as ending:  # noqa: BLE001 - the ending is what is asked for
        return ending


def records(house: House, run: str = RUN) -> list[Record]:
    """The log of a run."""
    return [decode(entry.body) for entry in asyncio.run(house.store.read(f"{run}@main"))]


def of(kind: type[Any], house: House, run: str = RUN) -> list[Any]:
    """The records of one type in the log of a run."""
    return [record for record in records(house, run) if isinstance(record, kind)]


def story(house: House, run: str = RUN) -> str:
    """The log of a run as the names of its records, without the claims."""
    names = (type(record).__name__.lower() for record in records(house, run))
    return " ".join(name for name in names if name != "claim")
