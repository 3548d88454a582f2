"""A process that goes for the same things as its rival: each is to be written by one of the two, on its own branch.

python -m tests.store.rival PLACE NAME OTHER COUNT
"""

import asyncio
import sys

from holdfast.errors import Conflict
from holdfast.store import Draft
from tests.store.shelf import open_at


async def main(place: str, name: str, other: str, count: int) -> None:
    store = open_at(place)
    own, rival = f"run@{name}", f"run@{other}"
    grant = await store.claim(own)
    print("ready", flush=True)
    sys.stdin.readline()
    seen, known = 0, set[bytes]()
    for number in range(count):
        thing = b"%d" % number
        while True:
            for entry in await store.read(rival, after=seen):
                seen = entry.seq
                known.add(entry.body)
            if thing in known:
                break
            try:
                await store.append(
                    own, [Draft(b"", thing)], epoch=grant.epoch, barrier=number % 2 == 0, watch={rival: seen}
                )
            except Conflict:
                continue
            print(number, flush=True)
            break
    await store.close()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
