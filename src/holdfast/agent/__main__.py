"""`python -m holdfast.agent MODULE:AGENT`: an agent as a program of its own, behind the gateway that its environment
names.

Rules
1. It ends with 0 when the agent has returned, with 75 when the run waits, with 1 when the agent raised, with 2 when it
   cannot be run like this.
2. The answer goes to stdout as JSON, as the gateway has it: whoever asks for it again later is told the same.
3. An agent that is restored from checkpoints is one that its gateway restores, and the other way round.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any, cast

from holdfast.agent.client import Client, RemoteBranches, RemoteDoor, sent_as
from holdfast.agent.named import agent_named
from holdfast.agent.run import Agent, Run
from holdfast.core.effect import legible
from holdfast.errors import HoldfastError, Misuse, waiting_in
from holdfast.shape import Shape

FAILED, USAGE, WAITS, INTERRUPTED = 1, 2, 75, 130
_ANY = Shape(object)


def main(arguments: list[str]) -> int:
    """Run the agent that is named; the exit code."""
    url, handle = os.environ.get("HOLDFAST_DOOR"), os.environ.get("HOLDFAST_HANDLE")
    if len(arguments) != 1 or not url or not handle:
        sys.stderr.write("usage: python -m holdfast.agent MODULE:AGENT, behind a gateway (holdfast run --sandbox)\n")
        return USAGE
    try:
        answer = asyncio.run(_advance(agent_named(arguments[0]), Client(url, handle)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) and error.code else FAILED
    except BaseException as error:  # noqa: BLE001 - whatever an agent raises, it is told, and the run goes on later
        return _told(error)
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()
    return 0


def _told(error: BaseException) -> int:
    """Say on stderr what an agent was ended by; the exit code."""
    waiting = waiting_in(error)
    if waiting is None and not isinstance(error, HoldfastError):
        traceback.print_exception(error)
        return FAILED
    told = waiting or error
    sys.stderr.write(f"{type(told).__name__}: {told}\n")
    return WAITS if waiting is not None else USAGE if isinstance(error, Misuse) else FAILED


async def _advance(agent: Agent, client: Client) -> object:
    """The agent's answer, which the gateway has then, too."""
    begun = await client.get(f"/v1/begin?maker={secrets.token_hex(8)}")
    _check(agent, begun)
    offered = (await client.get("/v1/operations"))["operations"]
    door = RemoteDoor(client, agent, sorted(cast("dict[str, object]", offered)))
    state = None if agent.state is None else _state(agent, begun)
    run = Run(
        begun["run"], begun["branch"], door, RemoteBranches(begun["settings"]), state, _side,
        workspace=Path.cwd() if agent.workspace else None, services=tuple(begun["services"]),
    )  # fmt: skip
    try:
        answer = _ANY.write(await agent.advance(run, begun["input"]))
        sent = sent_as(answer, "the agent's answer")
    except BaseException as raised:
        waits = waiting_in(raised) is not None
        if waits or isinstance(raised, Exception | SystemExit):
            why = None if waits else legible(f"{type(raised).__name__}: {legible(raised)}")
            with contextlib.suppress(HoldfastError):
                await client.post("/v1/finish", error=why, waits=waits)
        raise
    await client.post("/v1/finish", **sent)
    return {"base64": base64.b64encode(answer.data).decode()} if "answer_b64" in sent else json.loads(answer.data)


def _check(agent: Agent, begun: dict[str, Any]) -> None:
    """Raises Misuse for an agent that would not go on from where its gateway believes that it does."""
    if begun["restores"] and agent.state is None:
        fix = "declare its state, @agent(state=T), or take `restores = true` out of its [agents.NAME]"
        raise Misuse("the gateway restores this agent from its checkpoints, and it has no state", where=begun["run"],
                     fix=fix)  # fmt: skip
    if agent.state is not None and not begun["restores"]:
        raise Misuse("this agent has a state, and its gateway does not restore it", where=begun["run"],
                     fix="write `restores = true` into its [agents.NAME] of holdfast.toml")  # fmt: skip
    if agent.workspace and agent.state is not None:
        raise Misuse("behind a gateway, checkpoints do not hold the files of a workspace", where=begun["run"],
                     fix="take workspace=True out, or the state")  # fmt: skip


@cache
def _side() -> asyncio.AbstractEventLoop:
    """A loop of its own for synchronous calls made on the agent's thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="holdfast side", daemon=True).start()
    return loop


def _state(agent: Agent, begun: dict[str, Any]) -> object:
    return Shape(agent.state).from_json(begun["state"]) if begun["restored"] else agent.state()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
