"""`holdfast run`: give an agent a task, and see it through."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from holdfast.cli.detach import hand_over
from holdfast.cli.options import StoreOption, json_value, same_store, store_url
from holdfast.cli.terminal import hint, safe, say
from holdfast.errors import Misuse

_Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODULE:AGENT | -- CMD…",
        help="The agent (modules are looked for here first); with --sandbox, a program of any language.",
    ),
]
_Input = Annotated[
    str | None, typer.Option("--input", metavar="JSON", help="The task (JSON, @FILE, or - for stdin). [null]")
]
_Id = Annotated[
    str | None, typer.Option("--id", metavar="RUN", help="The run's id; one that exists resumes. [a new one]")
]
_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for people, signals and sleeps, or exit 3.")]
_Workspace = Annotated[
    str | None,
    typer.Option("--workspace", metavar="DIR", help="A directory for the agent's files. [one of the run's own]"),
]
_OnDivergence = Annotated[
    str,
    typer.Option(
        "--on-divergence", metavar="brief|ask|stop", help="When the program no longer asks for what the log holds."
    ),
]
_Watch = Annotated[
    bool, typer.Option("--watch", help="No agent: go on with every run of the store that can, until told to stop.")
]
_AtOnce = Annotated[int, typer.Option("--at-once", metavar="N", min=1, help="With --watch: so many runs at a time.")]
_RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="With --watch: try failed runs again, after growing pauses.")
]
_Detach = Annotated[
    bool, typer.Option("--detach", help="Only write down that the run begins: the fleet of the store advances it.")
]
_Priority = Annotated[
    int, typer.Option("--priority", metavar="N", help="With --detach: before runs of a lower one. [0]")
]
_Sandbox = Annotated[bool, typer.Option("--sandbox", help="Run CMD in a sandbox, behind the gateway of --config.")]
_NoSandbox = Annotated[
    bool, typer.Option("--unsafe-no-sandbox", help="Run CMD behind the gateway of --config, but unconfined.")
]
_Name = Annotated[
    str | None, typer.Option("--agent", metavar="NAME", help="Which [agents.NAME] CMD is. [the only one]")
]
_Config = Annotated[str, typer.Option("--config", metavar="FILE", help="The gateway's configuration.")]
_ReadOnly = Annotated[
    list[str] | None, typer.Option("--read-only", metavar="PATH", help="A path that CMD may read; repeat.")
]


def verb(
    command: _Command = None,
    input: _Input = None,
    id: _Id = None,
    wait: _Wait = True,
    workspace: _Workspace = None,
    on_divergence: _OnDivergence = "brief",
    watch: _Watch = False,
    at_once: _AtOnce = 8,
    sandbox: _Sandbox = False,
    unsafe_no_sandbox: _NoSandbox = False,
    name: _Name = None,
    config: _Config = "holdfast.toml",
    read_only: _ReadOnly = None,
    retry_failed: _RetryFailed = False,
    detach: _Detach = False,
    priority: _Priority = 0,
    store: StoreOption = None,
) -> int:
    """Run an agent; its answer goes to stdout as JSON. The same command with the same --id goes on after a crash.

    With --sandbox, run a program of any language that reaches nothing but its workspace and the gateway's doors."""
    setting = divergence(on_divergence)
    agent = command[0] if command else None
    if sandbox or unsafe_no_sandbox:
        from holdfast.cli.sandboxed import Asked, run_program

        if watch or detach or store is not None or (sandbox and unsafe_no_sandbox):
            fix = "the store is named in the configuration; --sandbox and --unsafe-no-sandbox exclude each other"
            raise Misuse("these options do not go together", fix=fix)
        asked = Asked(
            command=command or [], run=id, agent=name, config=config, read_only=read_only or [], sandbox=sandbox,
            input=None if input is None else json_value(input, "--input"), workspace=workspace, on_divergence=setting,
            wait=wait,
        )  # fmt: skip
        return run_program(asked)
    if command is not None and len(command) > 1:
        raise Misuse("one agent is run at a time", fix="holdfast run --sandbox -- CMD … runs a program")
    if watch:
        from holdfast.cli.watch import watch_store

        alone = (agent, input, id, workspace, wait) == (None, None, None, None, True)
        watch_store(store, at_once=at_once, retry_failed=retry_failed, on_divergence=setting, alone=alone)
    elif detach and agent is not None:
        hand_over(agent, input, id, store, priority=priority, alone=workspace is None and wait)
    elif agent is None:
        raise Misuse("no agent is named", fix="holdfast run MODULE:AGENT, or holdfast run --watch")
    else:
        _run(agent, input, id, workspace, store, wait=wait, on_divergence=setting)
    return 0


def _run(
    agent: str, input: str | None, id: str | None, workspace: str | None, store: str | None, *, wait: bool,
    on_divergence: str,
) -> None:  # fmt: skip
    from holdfast.cli.advance import advance
    from holdfast.cli.agents import agent_named
    from holdfast.embedded import open_store

    task = None if input is None else json_value(input, "--input")
    found = agent_named(agent)
    run = id or uuid.uuid4().hex[:12]
    with open_store(store_url(store)) as house:
        if id is None:
            say(f"run {run}")
            hint(f"to go on with it after a crash: holdfast run {safe(agent)} --id {run}{same_store(store)}")
        advance(
            house,
            found,
            task,
            run,
            wait=wait,
            on_divergence=on_divergence,
            store=same_store(store),
            workspace=workspace,
        )


def divergence(text: str) -> str:
    """A setting for divergences. Raises BadCall."""
    from holdfast.errors import BadCall
    from holdfast.gateway.diverge import OnDivergence

    if text not in set(OnDivergence):
        raise BadCall(f"`{text}` says nothing about divergences", fix="--on-divergence " + "|".join(OnDivergence))
    return text
