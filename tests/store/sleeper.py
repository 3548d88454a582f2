"""A worker that stops itself between reading how its branch stands and writing what it has decided.

python -m tests.store.sleeper PLACE BRANCH
"""

import asyncio
import signal
import sys
import threading

from holdfast.errors import HoldfastError
from holdfast.store import Draft
from holdfast.store import postgres_lane as lane
from holdfast.store.postgres_batch import Batch
from tests.store.shelf import open_at


async def main(place: str, branch: str) -> None:
    store = open_at(place)
    grant = await store.claim(branch)
    await store.append(branch, [Draft(b"", b"mine")], epoch=grant.epoch, barrier=True)
    print(f"claimed {grant.epoch}", flush=True)
    placing = lane.Lane.place

    def stopping(self: lane.Lane, batch: Batch, *, flush: bool) -> frozenset[str]:
        lane.Lane.place = placing  # pyright: ignore[reportAttributeAccessIssue]
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # else this thread runs on for a moment
        return placing(self, batch, flush=flush)

    lane.Lane.place = stopping  # pyright: ignore[reportAttributeAccessIssue]
    try:
        drafts = [Draft(b"", b"too late")]
        await store.append(branch, drafts, epoch=grant.epoch, barrier=True, watch={"other@main": 0})
        print("placed", flush=True)
    except HoldfastError as error:
        print(type(error).__name__, flush=True)
    await store.close()


asyncio.run(main(sys.argv[1], sys.argv[2]))
