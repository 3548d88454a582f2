"""A bundle: a store, or one run of it, as a text that can be verified without Holdfast. See docs/log-format.md.

Rules
1. A bundle is of one moment, in one order, in one spelling: the same log gives the same bytes.
2. Payloads are whole; one that was pruned is left out; one that cannot be read stops the export.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator

from holdfast.cli.terminal import Tick
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.note import leaf
from holdfast.core.retention import payloads_of
from holdfast.errors import Unknown
from holdfast.store.reader import Reader

LEAVES = 10_000  # hashes in one line


async def bundle(reader: Reader, vkey: str, run: str | None, tick: Tick) -> AsyncIterator[bytes]:
    """The lines of the bundle of a whole store, or of one `run`. `tick` is called for each entry and payload."""
    yield _line({"holdfast": "bundle/1", "origin": vkey.partition("+")[0], "vkey": vkey,
                 "scope": "run" if run else "all", "run": run})  # fmt: skip
    digests: dict[str, None] = {}
    others: list[tuple[int, bytearray]] = []
    entries = 0
    for index, entry in reader.places():
        tick()
        if run is not None and entry.branch.partition("@")[0] != run:
            _leave_out(others, index, entry)
            continue
        entries += 1
        digests.update((payload.digest, None) for payload in payloads_of(decode(entry.body)))
        yield _line({"entry": _entry(index, entry)})
    for start, hashes in others:
        yield _line({"leaf": {"from": start, "hashes": _base64(bytes(hashes))}})
    blobs = 0
    for digest in sorted(digests):
        tick()
        try:
            data = await reader.whole(bytes.fromhex(digest))
        except Unknown:
            continue
        blobs += 1
        yield _line({"blob": {"digest": digest, "data": _base64(data)}})
    heads = reader.heads(-1 if run is None else 1)
    for note in heads:
        yield _line({"head": note})
    yield _line({"end": {"entries": entries, "blobs": blobs, "heads": len(heads)}})


def _leave_out(others: list[tuple[int, bytearray]], index: int, entry: Entry) -> None:
    """Of another run's entry only its leaf's hash is told."""
    hashed = leaf(entry.branch, entry.digest)
    if others and others[-1][0] + len(others[-1][1]) // 32 == index and len(others[-1][1]) < 32 * LEAVES:
        others[-1][1].extend(hashed)
    else:
        others.append((index, bytearray(hashed)))


def _entry(index: int, entry: Entry) -> dict[str, object]:
    return {
        "index": index, "branch": entry.branch, "seq": entry.seq, "epoch": entry.epoch, "at_ms": entry.at_ms,
        "key": _base64(entry.key), "body": _base64(entry.body), "digest": entry.digest.hex(),
    }  # fmt: skip


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
