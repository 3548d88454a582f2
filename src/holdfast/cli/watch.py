"""`holdfast run --watch`: a process that goes on with the runs of a store, until it is told to stop.

Rules
1. An agent is run because the user has allowed it, never because a log names it.
2. SIGTERM or Ctrl-C: nothing more is started, what is under way reaches its seal, the claims are given back. The same
   signal once more ends the process at once: then its claims are those of a dead process, which anybody may take over.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType
from typing import Protocol

from holdfast.agent.run import Agent
from holdfast.cli.agents import agent_named
from holdfast.cli.ending import safe_lines
from holdfast.cli.heap import for_many_runs
from holdfast.cli.options import ALLOWED, allowed_names, is_allowed, is_name, store_url
from holdfast.cli.terminal import safe, say
from holdfast.cli.view import many
from holdfast.embedded import House, open_store
from holdfast.embedded.watch import Settings, Watch
from holdfast.errors import Misuse
from holdfast.store.changes import Changes
from holdfast.store.url import shown, sqlite_files


def watch_store(store: str | None, *, at_once: int, retry_failed: bool, on_divergence: str, alone: bool = True) -> None:
    """Watch a store until it is told to stop. `alone`: nothing was asked for that goes with a run of its own. Raises
    Misuse if no agent may be run, Stopped if the store can no longer be written or trusted."""
    if not alone:
        fix = "leave out MODULE:AGENT, --input, --id, --workspace and --no-wait; allow agents with HOLDFAST_AGENTS"
        raise Misuse("`--watch` takes no run of its own: it goes on with those of the store", fix=fix)
    url, allowed = store_url(store), allowed_names()
    if not url.startswith("sqlite:"):
        raise Misuse(
            "only a store in a file can be watched", where=shown(url), fix="name a file: --store sqlite:///runs.db"
        )
    if not allowed:
        fix = f'{ALLOWED}=MODULE; or agents = ["MODULE"] under [tool.holdfast] in the pyproject.toml of this directory'
        raise Misuse("no agent may be run: which modules are imported is for you to say", fix=fix)
    with open_store(url) as house, Changes(sqlite_files(url).path) as changes:
        watch = Watch(
            house, changes, allowed_agent,
            lambda run, what: say(safe_lines(f"{run}  {what}")), Settings(at_once, retry_failed, on_divergence),
        )  # fmt: skip
        begun = f"watching {safe(url)} for {safe(', '.join(sorted(allowed)))}, {many(at_once, 'run')} at a time"
        until_told(house, watch, begun)
    say("stopped")


class Told(Protocol):
    """What works until it is told to stop."""

    async def run(self) -> None:
        """Work. Raises Stopped if the store can no longer be written or trusted."""
        ...

    def stop(self) -> None:
        """Bring what is under way to its seal, and end."""
        ...


def allowed_agent(name: str) -> Agent:
    """The agent of a name in a log. Raises Misuse where the user has not allowed it, or it cannot be imported."""
    if not is_allowed(name):
        fix = f"if you trust it: {ALLOWED}={name.partition(':')[0] if is_name(name) else 'MODULE'}"
        raise Misuse(f"its agent is `{name}`, which is not allowed: such runs are left alone", fix=fix)
    return agent_named(name)


def until_told(house: House, watch: Told, begun: str) -> None:
    """Let something work until a signal comes, and say so. Raises what it raises."""
    if (refused := getattr(house.store, "read_only", None)) is not None:
        raise refused
    for_many_runs()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def told(number: int, _frame: FrameType | None) -> None:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            loop.call_soon_threadsafe(watch.stop)
            name = signal.Signals(number).name
            loop.call_soon_threadsafe(say, f"stopping, once what is under way has its seal; {name} again: at once")

        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, told)
        say(begun)
        watching = loop.create_task(watch.run())
        while not watching.done():
            try:
                loop.run_until_complete(watching)
            except (SystemExit, KeyboardInterrupt):  # of a task that an agent made: it is told, and the others go on
                if watching.done():
                    raise
