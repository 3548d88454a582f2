"""Advancing a run to its end from the command line, through every wait.

Rules
1. A run that waits is unwound; its process only looks, now and then, whether it may go on.
2. What it waits for, and the command that ends the wait, is said once for each wait.
3. If another process goes on with it when the wait is over (`holdfast run --watch`), this one waits for what comes of
   that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
import traceback

from holdfast.agent.run import Agent
from holdfast.cli.ending import AgentFailed
from holdfast.cli.remedies import ways_on
from holdfast.cli.terminal import busy, hint, json_text, out, safe, say
from holdfast.cli.view import when
from holdfast.core.canonical import JSON
from holdfast.embedded import House
from holdfast.errors import Asleep, Cancelled, Claimed, Ready, Superseded, Waiting

PAUSE_S = 0.5


def advance(
    house: House, agent: Agent, task: JSON, run: str, *, wait: bool, on_divergence: str, store: str,
    check_drift: bool = False, workspace: str | None = None,
) -> None:  # fmt: skip
    """Write the answer of RUN (its line) or RUN@BRANCH to stdout, once it has one. Raises Waiting if it must wait and
    may not, AgentFailed if the agent raised, and what stops a run."""
    name, _, branch = run.partition("@")
    told, waited, elsewhere = "", False, False
    while True:
        try:
            answer = house.run(
                agent, task, id=name, branch=branch or None, wait=False, on_divergence=on_divergence,
                check_drift=check_drift, workspace=workspace,
            )  # fmt: skip
            break
        except Waiting as waiting:
            if not wait or isinstance(waiting, Superseded):
                _offered(waiting)
                ways = ways_on(waiting, run, agent.name, store)
                waiting.fix = " | ".join(way.partition("   #")[0] for way in ways)
                raise
            told = _tell(waiting, run, agent.name, store, told)
            news = house.news(f"{name}@{branch}", waiting) if branch else house.until(name, waiting)
            with busy(f"waiting; {safe(waiting.what)}"), contextlib.closing(news) as until:
                asyncio.run(until)  # closed if an interruption comes before it is begun
            waited, elsewhere = True, False
            if not branch:
                say("going on")
        except Claimed:
            if not waited:
                raise
            if not elsewhere:
                say("another process goes on with it")
            elsewhere = True
            time.sleep(PAUSE_S)
        except (Exception, SystemExit) as error:
            if not isinstance(error, Cancelled) and _raised_inside(agent, error):
                raise AgentFailed(error) from error
            raise
    out(answer_text(answer))


def answer_text(answer: object) -> str:
    """An answer as JSON; bytes as `{"base64": …}`."""
    if isinstance(answer, bytes):
        return json_text({"base64": base64.b64encode(answer).decode()})
    return json_text(answer)


def _raised_inside(agent: Agent, error: BaseException) -> bool:
    code = getattr(agent.function, "__code__", None)
    return any(frame.f_code is code for frame, _ in traceback.walk_tb(error.__traceback__))


def _tell(waiting: Waiting, run: str, agent: str, store: str, told: str) -> str:
    """Say what is waited for, if that is not what was `told` last; what is told now."""
    until = f", until {when(waiting.until_ms)}" if waiting.until_ms is not None else ""
    place = f" [{safe(waiting.where)}]" if waiting.where else ""
    text = f"waiting: {safe(waiting.what)}{until}{place}"
    if "@" in run and text == told:
        return told
    say(text)
    _offered(waiting)
    if isinstance(waiting, Asleep):
        hint("nothing to do: it goes on by itself; Ctrl-C is safe, and `holdfast resume` comes back to it")
        return text
    for way in ways_on(waiting, run, agent, store):
        hint(safe(way))
    return text


def _offered(waiting: Waiting) -> None:
    """What a speculative branch has to show."""
    if not isinstance(waiting, Ready) or waiting.offer is None:
        return
    try:
        text = answer_text(waiting.offer)
    except (TypeError, ValueError):  # nothing that JSON knows
        text = safe(repr(waiting.offer), 2000)
    say(f"it offers: {text}")
