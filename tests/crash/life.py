"""One life of a run, or one deed of a person, in a process of its own: what a child of the nursery does.

    {"url", "world", "agent", "task", "id"}      advance a run until it ends or must wait
    {"url", "world", "verdict": NAME, "with": {…}}   a person's: approve, refuse, settle, signal, cancel, fork, …
    "deaths": ["before Seal 1"], "stops": ["in acted 1"]    where it is killed, or stopped
    "census": true                                   the result tells how many `writes` SQLite asked for

The result is {"answer": …}, or {"waits": CLASS, "text", "where", "fix"}, or {"raised": CLASS, "text"}.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - everything that a life needs is imported before it is born
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydantic_core  # noqa: F401
from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401

from holdfast import Claimed, HoldfastError, House, Waiting, open_store
from tests.crash.deaths import Boundary, Census, arm
from tests.crash.programs import AGENTS
from tests.crash.tools import enter


def live(life: dict[str, Any]) -> dict[str, Any]:
    """The child's life; its result, if it lives to tell."""
    enter(Path(life["world"]))
    for where in life.get("deaths", ()):
        arm(Boundary.of(where))
    for where in life.get("stops", ()):
        arm(Boundary.of(where, signal.SIGSTOP))
    census = Census().stand_in() if life.get("census") else None
    result = _lived(life)
    return result if census is None else {**result, "writes": census.operations}


def _lived(life: dict[str, Any]) -> dict[str, Any]:
    try:
        with open_store(life["url"]) as house:
            return _deed(house, life) if "verdict" in life else {"answer": _advance(house, life)}
    except Waiting as waiting:
        return {"waits": type(waiting).__name__, "text": waiting.what, "where": waiting.where, "fix": waiting.fix}
    except HoldfastError as error:
        return {"raised": type(error).__name__, "text": str(error)}


def _advance(house: House, life: dict[str, Any]) -> Any:
    """Advance the run. Where another worker has it, come back until it is free, for at most `patience_s`."""
    until = time.monotonic() + life.get("patience_s", 0.0)
    while True:
        try:
            return house.run(
                AGENTS[life["agent"]], life["task"], id=life["id"], wait=life.get("wait", False),
                branch=life.get("branch"),
            )  # fmt: skip
        except Claimed:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)


def _deed(house: House, life: dict[str, Any]) -> dict[str, Any]:
    told = getattr(house, life["verdict"])(**life["with"])
    return {"answer": [asdict(each) for each in told] if isinstance(told, list) else told}


if __name__ == "__main__":
    print(json.dumps(live(json.loads(sys.argv[1]))))
