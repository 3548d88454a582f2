"""A process that appends large payloads to a store on PostgreSQL.

    python -m tests.store.depositor URL die     is killed between the payload and the entry that names it
    python -m tests.store.depositor URL wait    stops there, until it is continued; then ends as if nothing had been
    python -m tests.store.depositor URL NAME COUNT    appends so many, each to the branch NAME, and says their digests

The product knows nothing of it: the way to the database is wrapped in this process alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_batch import Job
from tests.store.shelf import blob, draft

SIZE = 300_000


def payload(seed: int) -> bytes:
    """Bytes that cannot be compressed, the same for the same seed."""
    import random

    return random.Random(seed).randbytes(SIZE)


async def deposit(url: str, number: int) -> None:
    store = PostgresStore(url)
    soon = store.committer.soon

    def interrupted(job: Job) -> asyncio.Future[object]:
        store.committer.soon = soon  # only the first time
        print("put", flush=True)
        os.kill(os.getpid(), number)
        return soon(job)

    store.committer.soon = interrupted
    big = blob(payload(1))
    await store.append("run@main", [draft(big.digest.hex())], epoch=0, barrier=True, blobs=[big])
    print("placed", flush=True)
    await store.close()


async def deposit_many(url: str, name: str, count: int) -> None:
    store = PostgresStore(url)
    for number in range(count):
        big = blob(payload(hash((len(name), name[-1] == "a", number))))
        await store.append(f"{name}@main", [draft(big.digest.hex())], epoch=0, barrier=True, blobs=[big])
        print(big.digest.hex(), flush=True)
    await store.close()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(deposit(sys.argv[1], signal.SIGKILL if sys.argv[2] == "die" else signal.SIGSTOP))
    else:
        asyncio.run(deposit_many(sys.argv[1], sys.argv[2], int(sys.argv[3])))
