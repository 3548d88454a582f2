"""A worker in a process of its own: claims a branch, says so, and appends one entry for every line that it is told.

python -m tests.store.claimant PLACE BRANCH
"""

import asyncio
import sys

from holdfast.errors import HoldfastError
from holdfast.store import Draft
from tests.store.shelf import open_at


async def main(place: str, branch: str) -> None:
    store = open_at(place, flush_s=0.05)
    grant = await store.claim(branch)
    print(f"claimed {grant.epoch} {grant.previous}", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            placed = await store.append(branch, [Draft(b"", line.encode())], epoch=grant.epoch, barrier=True)
            print(f"placed {placed[0].seq}", flush=True)
        except HoldfastError as error:
            print(type(error).__name__, flush=True)
    await store.close()


asyncio.run(main(sys.argv[1], sys.argv[2]))
