"""A process that is killed while it extends the write-ahead file, when so many percent of the bytes are written.

python -m tests.store.extender PATH PERCENT
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from holdfast.store import Draft, wal
from holdfast.store.sqlite import SqliteStore


async def main(path: Path, percent: int) -> None:
    store = SqliteStore(path, anchor=None)
    for number in range(5):
        await store.append("run@main", [Draft(b"", b"%d" % number)], epoch=0)
    print("five", flush=True)

    def dying(size: int) -> bytes:
        with path.with_name(path.name + "-wal").open("ab", buffering=0) as file:
            file.write(bytearray(size * percent // 100))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    wal.EXTEND_AFTER = 1  # at the next barrier
    setattr(wal, "bytes", dying)  # noqa: B010 - what the extension makes its zeroes with
    await store.append("run@main", [Draft(b"", b"never acknowledged")], epoch=0, barrier=True)


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
