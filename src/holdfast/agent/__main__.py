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
from holdfast.errors import BadCall, HoldfastError, Misuse, waiting_in
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
    if waiting is not None:  # what ends the wait, whoever has started this program says
        sys.stderr.write(f"{type(waiting).__name__}: {waiting.what} [{waiting.where}]\n")
        return WAITS
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return USAGE if isinstance(error, Misuse) else FAILED


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
        await _begin(run, agent, untouched=begun["untouched"])
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
    if agent.workspace and agent.state is not None and not begun["workspace"]:
        raise Misuse("this agent's checkpoints hold its files, and its gateway keeps none", where=begun["run"],
                     fix="write `workspace = true` into its [agents.NAME] of holdfast.toml")  # fmt: skip
    if begun["workspace"] and not agent.workspace:
        raise Misuse("the gateway keeps the files of this agent, and it has none", where=begun["run"],
                     fix="declare @agent(workspace=True), or take `workspace` out of its [agents.NAME]")  # fmt: skip


async def _begin(run: Run, agent: Agent, *, untouched: bool) -> None:
    """Before the first step of a run that will go on from its checkpoints: one of how its files are now. Raises BadCall
    if there is no state yet."""
    if not (agent.workspace and agent.state is not None and untouched):
        return
    if run.state is None:
        fix = "let its type be made without arguments: give its fields defaults"
        raise BadCall("the state of an agent with a workspace must be there from the beginning", fix=fix)
    await run.checkpoint()


@cache
def _side() -> asyncio.AbstractEventLoop:
    """A loop of its own for synchronous calls made on the agent's thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="holdfast side", daemon=True).start()
    return loop


def _state(agent: Agent, begun: dict[str, Any]) -> object:
    if begun["restored"]:
        return Shape(agent.state).from_json(begun["state"])
    try:
        return agent.state()
    except TypeError:  # it cannot be made without arguments: the agent makes it
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
