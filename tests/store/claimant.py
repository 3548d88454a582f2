"""A worker in a process of its own: claims a branch, says so, and appends one entry for every line that it is told.

python -m tests.store.claimant PATH BRANCH
"""

import asyncio
import sys
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore


async def main(path: Path, branch: str) -> None:
    store = SqliteStore(path, flush_s=0.05, anchor=None)
    grant = await store.claim(branch)
    print(f"claimed {grant.epoch} {grant.previous}", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            placed = await store.append(branch, [Draft(b"", line.encode())], epoch=grant.epoch, barrier=True)
            print(f"placed {placed[0].seq}", flush=True)
        except HoldfastError as error:
            print(type(error).__name__, flush=True)
    await store.close()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
