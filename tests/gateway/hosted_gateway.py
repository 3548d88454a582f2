"""A gateway without doors, as a process that a test may kill: a configuration, a store, a run, calls of hosted tools.

`python -m tests.gateway.hosted_gateway holdfast.toml OPERATION JSON …` makes the calls one after another, and prints a
line of JSON for each: `{"answer": …}`, or `{"raised": CLASS, "what": TEXT}`. The credential is in its environment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from holdfast.core.capability import Terms
from holdfast.errors import HoldfastError, Waiting
from holdfast.gateway.config import load
from holdfast.gateway.dial import Dialer
from holdfast.gateway.upstreams.kinds import open_upstream
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.wards import Wanted, Wards
from holdfast.store.url import open_url
from tests.gateway.lodge import Rules


async def main(file: Path, calls: list[str]) -> None:
    config = load(file)
    config.state.mkdir(mode=0o700, exist_ok=True)
    store = open_url(config.store).store
    kit = Kit(vault=config.vault(store), dialer=Dialer(), folder=config.folder, state=config.state)
    system = await open_upstream("crm", config.upstreams["crm"], kit)
    rules = Rules()
    wards = Wards(store, lambda: rules, patience_s=0.0)
    taken = await wards.open(Wanted(run="r", agent="clerk", terms=Terms(tools=("crm.*",)), by="tester"))
    for operation, args in zip(calls[::2], calls[1::2], strict=True):
        try:
            prepared = await system.prepare(operation, json.loads(args))
            reply = await taken.ward.call(taken.right, prepared)
            told: dict[str, object] = {"answer": reply.value}
            taken.ward.delivered(prepared)
        except (HoldfastError, Waiting) as error:
            told = {"raised": type(error).__name__, "what": error.what}
        print(json.dumps(told), flush=True)
    await system.close()
    await wards.close("r", answer=None, ended=False)
    await store.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
