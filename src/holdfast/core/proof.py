"""Proofs about the tree over a log: that an entry is in it, and that a later head only added to an earlier one.

Rules
1. A proof is a list of roots of subtrees. Which ones, the numbers alone say; of the leaves only those are read that
   come after a head whose edge is known.
2. Nothing is checked here: that is `core/verify.py`'s, which shares no code with what makes proofs.

Source: RFC 6962 §2.1.1 and §2.1.2, c2sp.org/tlog-proof, c2sp.org/tlog-witness.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeAlias

from holdfast.core.entry import Entry
from holdfast.core.note import Frontier, to_base64

Span: TypeAlias = tuple[int, int]
"""The leaves from one index up to, and without, another."""


def inclusion(index: int, size: int) -> list[Span]:
    """The subtrees that lead from the leaf at `index` to the root over `size` leaves, from its sibling on."""
    assert 0 <= index < size, "only what is in a tree can be shown to be in it"
    return _path(index, (0, size))


def _path(index: int, span: Span) -> list[Span]:
    start, stop = span
    if stop - start == 1:
        return []
    middle = _middle(span)
    if index < middle:
        return [*_path(index, (start, middle)), (middle, stop)]
    return [*_path(index, (middle, stop)), (start, middle)]


def consistency(old: int, size: int) -> list[Span]:
    """The subtrees that show that the tree over `size` leaves begins with the one over the first `old`."""
    assert 0 <= old <= size, "a log does not shrink"
    return _rest(old, (0, size), known=True) if old else []


def _rest(old: int, span: Span, *, known: bool) -> list[Span]:
    """`known`: the subtree is the whole old tree, whose root the reader has."""
    start, stop = span
    if old == stop:
        return [] if known else [span]
    middle = _middle(span)
    if old <= middle:
        return [*_rest(old, (start, middle), known=known), (middle, stop)]
    return [*_rest(old, (middle, stop), known=False), (start, middle)]


def _middle(span: Span) -> int:
    """Where a tree is parted: after the largest power of two that is smaller than its size."""
    start, stop = span
    return start + (1 << ((stop - start - 1).bit_length() - 1))


def roots(spans: Sequence[Span], edge: Frontier, leaves: Iterable[bytes]) -> list[bytes]:
    """The roots of subtrees of a proof, in its order. `edge` is that of a head that is no larger than what the proof is
    about (the entry's index, or the old size), and `leaves` are those that follow it."""
    rest, at = iter(leaves), edge.size
    found: dict[Span, bytes] = {}
    for span in sorted(spans):
        start, stop = span
        known = [peak for place, peak in _peaks(edge) if start <= place < stop]
        tree = Frontier(max(0, min(stop, edge.size) - start), tuple(known))
        for _ in islice(rest, max(0, start - at)):
            at += 1
        new = list(islice(rest, max(0, stop - max(start, at))))
        at += len(new)
        found[span] = tree.extend(new).root()
    return [found[span] for span in spans]


def _peaks(edge: Frontier) -> list[tuple[int, bytes]]:
    """The full subtrees of an edge, by the index of their first leaf."""
    placed: list[tuple[int, bytes]] = []
    start = 0
    for peak in edge.peaks:
        placed.append((start, peak))
        start += 1 << ((edge.size - start).bit_length() - 1)
    return placed


def format_proof(index: int, path: Iterable[bytes], note: str, *, extra: bytes = b"") -> str:
    """An evidence file: the leaf at `index` is in the tree of the head in `note`. `extra` is vouched for by nobody but
    the leaf that can be made from it."""
    lines = ["c2sp.org/tlog-proof@v1", *([f"extra {to_base64(extra)}"] if extra else []), f"index {index}"]
    return "".join(f"{line}\n" for line in [*lines, *map(to_base64, path), ""]) + note


def format_growth(old: int, path: Iterable[bytes], note: str) -> str:
    """What a witness is told: the head in `note` only adds to the one over the first `old` entries."""
    return "".join(f"{line}\n" for line in [f"old {old}", *map(to_base64, path), ""]) + note


def extra_of(entry: Entry, previous: bytes) -> bytes:
    """All that the leaf of an entry is made from: itself, and the digest of the entry before it."""
    said = {
        "branch": entry.branch, "seq": entry.seq, "epoch": entry.epoch, "at_ms": entry.at_ms,
        "key": to_base64(entry.key), "body": to_base64(entry.body), "previous": previous.hex(),
    }  # fmt: skip
    return json.dumps({"entry": said}, ensure_ascii=False, separators=(",", ":")).encode()
