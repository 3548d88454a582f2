"""A process that keeps one store open, and so remembers what it has stored.

python -m tests.store.rememberer PLACE

Each line that it is told is `BRANCH TEXT…`: it places an entry that names these texts as payloads, and says `placed`.
A text `A+B` is a rope of the payloads `A` and `B`, which are placed with it; not those of `~A+B`.
"""

import asyncio
import sys

from tests.store.shelf import naming, open_at, texts


async def main(place: str) -> None:
    store = open_at(place)
    print("open", flush=True)
    for line in sys.stdin:
        branch, *words = line.split()
        await store.append(branch, [naming(*words)], epoch=0, barrier=True, blobs=texts(*words))
        print("placed", flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
