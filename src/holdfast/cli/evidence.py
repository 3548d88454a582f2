"""Proofs that leave the store: that an entry is in the log, and that the log has only grown. See docs/log-format.md.

Rules
1. A proof stands under the first head that covers what it is about: the same log gives the same bytes at any time.
2. What no head covers yet cannot be shown; that is said, and nothing is written.
"""

from __future__ import annotations

from holdfast.cli.keys import ed25519
from holdfast.cli.view import look_from, many
from holdfast.core.entry import Entry, origin
from holdfast.core.note import VerifierKey, open_head, parse_vkey
from holdfast.core.proof import consistency, extra_of, format_growth, format_proof, inclusion, roots
from holdfast.errors import Misuse, Unknown
from holdfast.gateway.desk import parse_node
from holdfast.store.reader import Reader


async def proof_of(reader: Reader, node: str, vkey: str) -> str:
    """The evidence file of the entry at `node`. Raises Unknown if there is none, Misuse if no head covers it."""
    branch, seq = parse_node(node)
    entry, before = await _entries(reader, branch, seq)
    leaves = reader.leaves()
    index = leaves.index(entry.branch, entry.seq)
    note = None if index is None else leaves.note(index)
    if index is None or note is None:
        raise Misuse("no head covers this entry yet", where=node, fix="wait for a second, while a worker is there")
    size = _size(note, parse_vkey(vkey))
    edge = leaves.frontier(index)
    path = roots(inclusion(index, size), edge, leaves.hashes(edge.size, size))
    previous = before.digest if before is not None else origin(entry.branch)
    return format_proof(index, path, note, extra=extra_of(entry, previous))


async def _entries(reader: Reader, branch: str, seq: int) -> tuple[Entry, Entry | None]:
    """An entry of a branch's history, and the one before it."""
    lineage = (await look_from(reader, branch)).lineage
    found: list[Entry] = []
    for home, upto in lineage:
        last = seq if upto is None else min(seq, upto)
        found += await reader.read(home, after=max(found[-1].seq if found else 0, seq - 2), upto=last)
    if not found or found[-1].seq != seq:
        raise Unknown("there is no such entry", where=f"{branch}:{seq}", fix="holdfast log RUN shows what there is")
    return found[-1], found[-2] if len(found) > 1 else None


def growth_since(reader: Reader, old: int, vkey: str) -> str:
    """The proof that the newest head only adds to the one over the first `old` entries. Raises Misuse."""
    leaves = reader.leaves()
    note = leaves.note()
    size = 0 if note is None else _size(note, parse_vkey(vkey))
    if note is None or old > size:
        raise Misuse(f"the newest head covers {many(size, 'entry')}", fix=f"--since with a number up to {size}")
    edge = leaves.frontier(old)
    path = roots(consistency(old, size), edge, leaves.hashes(edge.size, size))
    return format_growth(old, path, note)


def _size(note: str, key: VerifierKey) -> int:
    return open_head(note, key, lambda message, signature: ed25519(key.public_key, message, signature)).size
