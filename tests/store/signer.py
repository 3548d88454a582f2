"""A worker that writes an entry, says when it is signed, and goes on writing until it is killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.store.shelf import drafts
from tests.store.test_sequencer import newest, signing


async def main(url: str, anchor: Path) -> None:
    store = signing(url, anchor)
    await store.append("signer@main", drafts("1"), epoch=0)
    said = False
    while True:
        await asyncio.sleep(0.02)
        if not said and newest(anchor, store.log_id):
            said = True
            print("signed", flush=True)
        if said:
            await store.append("signer@main", drafts("more"), epoch=0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
