"""`holdfast worker`: one of a fleet that goes on with the runs of a store on PostgreSQL, until it is told to stop.

Rules
1. An agent is run because the user has allowed it, never because a log names it.
2. SIGTERM or Ctrl-C: nothing more is taken, what is under way reaches its seal, the claims are given back. The same
   signal once more ends the process at once: then its claims are those of a dead process, which the others take over.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Annotated, cast

import typer

from holdfast.cli.options import ALLOWED, StoreOption, allowed_names, is_allowed, is_name, store_url
from holdfast.cli.terminal import safe, say
from holdfast.errors import BadCall, Misuse
from holdfast.store.url import needing_psycopg, postgres_address, shown

if TYPE_CHECKING:
    from holdfast.cli.watch import Told
    from holdfast.fleet.worker import FleetWorker, Settings
    from holdfast.store.postgres import PostgresStore


LIMITS = "HOLDFAST_LIMITS"
MOST = 1_000_000
_TOOLS = re.compile(r"\*|[^\s*:,=]+(?:\.\*)?")  # as a capability names them
_FIX = "--limit MODULE:AGENT=N, for its runs; --limit TOOL=N, SYSTEM.*=N or *=N, for calls"

LOCAL = (
    "the store keeps nothing outside (`blobs=…`): files of agents stay on the machine that made them, and a run with a"
    " workspace can be taken over there only"
)


def verb(
    at_once: Annotated[int, typer.Option("--at-once", metavar="N", min=1, help="So many runs at a time.")] = 8,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="AGENT=N|TOOL=N",
            help=f"So many runs of an agent, or calls of a tool (SYSTEM.*, *), in the whole fleet; repeat. [{LIMITS}]",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed runs again, after growing pauses.")
    ] = False,
    on_divergence: Annotated[
        str,
        typer.Option(
            "--on-divergence", metavar="brief|ask|stop", help="When a program no longer asks for what its log holds."
        ),
    ] = "brief",
    health: Annotated[
        str | None, typer.Option("--health", metavar="HOST:PORT", help="Where /healthz, /readyz and /metrics are told.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Work on the runs of a store on PostgreSQL, as one of a fleet, until told to stop.

    Which agents may be run is said by HOLDFAST_AGENTS, or in the pyproject.toml of this directory."""
    from holdfast.cli.run import divergence

    setting, (limits, calls) = divergence(on_divergence), _limits(limit or [])
    url, names = fleet_url(store), allowed_names()
    if not names:
        fix = f'{ALLOWED}=MODULE; or agents = ["MODULE"] under [tool.holdfast] in the pyproject.toml of this directory'
        raise Misuse("no agent may be run: which modules are imported is for you to say", fix=fix)
    with needing_psycopg():
        from holdfast.fleet.worker import Settings
    for name in ("procrastinate", "psycopg", "asyncio"):  # what they would say is said by the worker
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _work(url, Settings(frozenset(names), at_once, limits, calls, retry_failed, setting), health)
    say("stopped")


def _work(url: str, settings: Settings, health: str | None) -> None:
    from holdfast.cli.watch import allowed_agent, until_told
    from holdfast.embedded import open_store
    from holdfast.fleet.schema import install
    from holdfast.fleet.worker import FleetWorker

    address = postgres_address(url)
    with open_store(url) as house:
        held = cast("PostgresStore", house.store)
        if held.committer.lane.server.pooled:
            fix = "name the server itself for workers: they listen for jobs on a connection of their own"
            raise Misuse("a pooler stands between, which passes on no notifications", where=shown(url), fix=fix)
        install(address)
        if held.depot is None:
            say(LOCAL)
        worker = FleetWorker(house, held, address, allowed_agent, is_allowed, _tell, settings)
        names = safe(", ".join(sorted(settings.names)))
        begun = f"worker {held.worker.host}:{held.worker.pid} on {safe(shown(url))} for {names}"
        until_told(house, _tended(worker, held, health), f"{begun}, {settings.at_once} at a time")


def _tended(worker: FleetWorker, store: PostgresStore, address: str | None) -> Told:
    """The worker, and its health told at an address."""
    if address is None:
        return worker
    from holdfast.gateway.health import Health, Tended, broken, number, queued, writable

    health = Health(
        {"store": writable(store)},
        broken=lambda: broken(store),
        metrics=lambda: [number("holdfast_runs", "Runs under way.", "gauge", worker.advancing), queued(store)],
    )
    return Tended(worker, health, address, lambda port: say(f"health at port {port}"))


def fleet_url(store: str | None) -> str:
    """The URL of a store that can have a fleet. Raises Misuse."""
    url = store_url(store)
    if not url.startswith(("postgresql:", "postgres:")):
        raise Misuse(
            "a fleet needs a store on PostgreSQL",
            where=shown(url),
            fix="--store postgresql://USER@HOST/DATABASE; on one machine: holdfast run --watch",
        )
    return url


def _limits(given: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Limits of agents, and limits of tools: those of the environment, and these, which come before them."""
    agents: dict[str, int] = {}
    tools: dict[str, int] = {}
    there = [text.strip() for text in os.environ.get(LIMITS, "").split(",")]
    for text in [*filter(None, there), *given]:
        name, _, number = text.rpartition("=")
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= MOST):
            raise BadCall(f"`{text}` is no limit", fix=_FIX)
        if ":" in name and is_name(name):
            agents[name] = int(number)
        elif _TOOLS.fullmatch(name):
            tools[name] = int(number)
        else:
            raise BadCall(f"`{text}` limits neither an agent nor a tool", fix=_FIX)
    return agents, tools


def _tell(run: str, what: str) -> None:
    from holdfast.cli.ending import safe_lines

    say(safe_lines(f"{run}  {what}" if run else what))
