"""`python -m holdfast.agent MODULE:AGENT`: an agent as a program of its own, behind the gateway that its environment
names.

Rules
1. It ends with 0 when the agent has returned, with 75 when the run waits, with 1 when the agent raised.
2. The answer goes to stdout as JSON, and to the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import traceback
from functools import cache
from importlib import import_module
from typing import Any, cast

from holdfast.agent.client import Client, RemoteBranches, RemoteDoor
from holdfast.agent.run import Agent, Run
from holdfast.errors import BadCall, HoldfastError, Waiting

FAILED, USAGE, WAITS = 1, 2, 75


def main(arguments: list[str]) -> int:
    """Run the agent that is named; the exit code."""
    url, handle = os.environ.get("HOLDFAST_DOOR"), os.environ.get("HOLDFAST_HANDLE")
    if len(arguments) != 1 or url is None or handle is None:
        sys.stderr.write("usage: python -m holdfast.agent MODULE:AGENT, behind a gateway (holdfast run --sandbox)\n")
        return USAGE
    try:
        answer = asyncio.run(_advance(_found(arguments[0]), Client(url, handle)))
    except Waiting as waiting:
        sys.stderr.write(f"{type(waiting).__name__}: {waiting}\n")
        return WAITS
    except HoldfastError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return FAILED
    except Exception:  # noqa: BLE001 - whatever an agent raises, it is told, and the run goes on later
        traceback.print_exc()
        return FAILED
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


def _found(name: str) -> Agent:
    module, _, path = name.partition(":")
    sys.path.insert(0, os.getcwd())
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Agent):
        raise BadCall(f"`{name}` is no agent", fix="name MODULE:AGENT, a function that is decorated with @agent")
    return found


async def _advance(agent: Agent, client: Client) -> object:
    begun = await client.get("/v1/begin")
    offered = (await client.get("/v1/operations"))["operations"]
    names = {full.partition(".")[2]: full for full in cast("dict[str, object]", offered)}
    door = RemoteDoor(client, names)
    state = None if agent.state is None else _state(agent, begun)
    run = Run(
        begun["run"], begun["branch"], door, RemoteBranches(begun["settings"]), state, _side,
        services=tuple(begun["services"]),
    )  # fmt: skip
    answer = await agent.advance(run, begun["input"])
    await client.post("/v1/finish", answer=answer)
    return answer


@cache
def _side() -> asyncio.AbstractEventLoop:
    """A loop of its own for synchronous calls made on the agent's thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="holdfast side", daemon=True).start()
    return loop


def _state(agent: Agent, begun: dict[str, Any]) -> object:
    if not begun["restored"]:
        return agent.state()
    from pydantic import TypeAdapter

    return TypeAdapter[Any](agent.state).validate_python(begun["state"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
