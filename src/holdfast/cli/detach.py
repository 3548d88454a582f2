"""`holdfast run --detach`: write down that a run begins, for the fleet of the store to advance."""

from __future__ import annotations

import asyncio
import uuid

from holdfast.cli.agents import agent_named
from holdfast.cli.options import json_value, same_store
from holdfast.cli.terminal import hint, out, safe, say
from holdfast.cli.worker import fleet_url
from holdfast.errors import Misuse
from holdfast.store.url import needing_psycopg, postgres_address

HIGHEST = 100_000  # below it is what waits for its time


def hand_over(agent: str, input: str | None, id: str | None, store: str | None, *, priority: int, alone: bool) -> None:
    """Begin a run, or have one looked at that exists; its id goes to stdout. `alone`: nothing was asked for that does
    not go with it. Raises BadCall if it exists with another input."""
    from holdfast.embedded import open_store

    if not alone:
        raise Misuse("`--detach` does not wait, and names no directory", fix="leave out --workspace and --no-wait")
    if abs(priority) > HIGHEST:
        raise Misuse(f"the priority {priority} is out of range", fix=f"--priority, from -{HIGHEST} to {HIGHEST}")
    url, task = fleet_url(store), None if input is None else json_value(input, "--input")
    with needing_psycopg():
        from holdfast.fleet.hand import look_at, rank
        from holdfast.fleet.schema import install
    found = agent_named(agent)
    run, address = id or uuid.uuid4().hex[:12], postgres_address(url)
    with open_store(url) as house:
        install(address)
        rank(address, run, found.name, priority)
        if not asyncio.run(house.begin(found, task, id=run)):
            look_at(address, run)
            say("it exists: it is looked at")
    out(run)
    hint(f"holdfast show {safe(run)}{same_store(store)}")
