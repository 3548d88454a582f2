"""A process that appends, and says what it placed: many of them at once must neither lose nor double anything.

python -m tests.store.appender PLACE NAME COUNT

Opens the store anew every 25 entries, so that openings, closings and extensions of the write-ahead file meet the
others' writing.
"""

import asyncio
import sys

from holdfast.errors import Conflict
from holdfast.store import Draft, Store
from tests.store.shelf import open_at

LIFE = 25


async def life(place: str, name: str, numbers: range) -> None:
    store = open_at(place)
    own = await store.claim(f"{name}@main")
    for number in numbers:
        body = [Draft(b"", f"{name}/{number}".encode())]
        barrier = number % 3 == 0
        (mine,) = await store.append(f"{name}@main", body, epoch=own.epoch, barrier=barrier)
        (ours,) = await store.append("all@main", body, epoch=0, barrier=not barrier)
        await guarded(store, body[0])
        print(f"{name}/{number} {mine.seq} {ours.seq}", flush=True)
    await store.close()


async def guarded(store: Store, body: Draft) -> None:
    """Place on a third branch, where everybody looks first and writes only if nobody was faster."""
    while True:
        seen = await store.read("guarded@main", newest=1)
        try:
            await store.append("guarded@main", [body], epoch=0, after=seen[0].seq if seen else 0)
        except Conflict:
            continue
        return


def main(place: str, name: str, count: int) -> None:
    sys.stdin.readline()
    for first in range(0, count, LIFE):
        asyncio.run(life(place, name, range(first, min(first + LIFE, count))))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
