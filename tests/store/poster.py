"""A process that appends until it is killed, and says what was acknowledged: barriers, others, and runs in parallel.

python -m tests.store.poster PLACE RUNS
"""

import asyncio
import sys

from holdfast.errors import Stopped
from holdfast.store import Draft, Store
from tests.store.shelf import open_at


async def post(store: Store, branch: str) -> None:
    grant = await store.claim(branch)
    number = 0
    while True:
        number += 1
        barrier = number % 3 == 0
        (entry,) = await store.append(branch, [Draft(b"", b"%d" % number)], epoch=grant.epoch, barrier=barrier)
        print(branch, entry.seq, "barrier" if barrier else "lazy", flush=True)


async def main(place: str, runs: int) -> None:
    store = open_at(place)
    try:
        await asyncio.gather(*(post(store, f"r{number}@main") for number in range(runs)))
    except Stopped as error:
        print("stopped", error.what, flush=True)
        raise SystemExit(5) from None


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
