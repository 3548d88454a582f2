"""One run as the product wrote it, made into a stencil: what any other run of its shape looks like.

Rules
1. What differs from run to run is found, not assumed: each payload that holds the number, the identities and keys that
   follow from it, and nothing else. All of it is computed by the product's own rules, and the stencil is checked: it
   must draw the run that it was made from, and another one as the product writes that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.big_agents import SHAPES, shopper
from holdfast import open_store
from holdfast.core.codec import decode
from holdfast.core.effect import Call, Encoding, Payload, identity_of, key_of
from holdfast.core.entry import Entry, chain, origin
from holdfast.core.record import Claim, Finished, Hold, Intent, Seal, Sleep
from holdfast.errors import Waiting
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader
from holdfast.store.reading import packer

T = TypeVar("T")
MARK, OTHER = "00000000", "73519246"
TIMED = rb'"(expires_ms|until_ms)":\d+|"worker":"[^"]*"'
COMPRESS_FROM = 256  # bytes: as the store does
_PACK = packer()


def run_of(number: str) -> str:
    """The id of a run."""
    return f"order-{number}"


@dataclass(frozen=True, slots=True)
class Line:
    """One entry. `key`: its key, or which identity that is; `parts`: its body, with the numbers of the values between
    what is always the same."""

    key: bytes | int
    parts: tuple[bytes | int, ...]
    step_ms: int


@dataclass(frozen=True, slots=True)
class Stencil:
    """A shape. The values of a run are, in this order: the digests of `payloads` (which are cut where the number
    stands), then the identities of `calls` (tool, which payload its arguments are), their keys, and the names that an
    approval of them is bound to. `recalled`: the seq of the newest checkpoint; `same`: payloads that all runs of the
    shape share; `held`: tools that wait for approval."""

    shape: str
    payloads: tuple[tuple[bytes, ...], ...]
    calls: tuple[tuple[str, int], ...]
    lines: tuple[Line, ...]
    recalled: int
    same: tuple[bytes, ...]
    held: frozenset[str]

    def values(self, number: str) -> tuple[list[bytes], list[bytes]]:
        """The payloads of a run, and its values as they stand in bodies."""
        mark = number.encode()
        texts = [mark.join(cuts) for cuts in self.payloads]
        digests = [hashlib.sha256(text).hexdigest().encode() for text in texts]
        identities = [identity_of(tool, texts[of], None) for tool, of in self.calls]
        run = run_of(number)
        keys = [key_of(run, identity, 0).encode() for identity in identities]
        exact = [Call(tool, b"", 0, texts[of], None).digest.encode() for tool, of in self.calls if tool in self.held]
        return texts, [*digests, *(each.hex().encode() for each in identities), *keys, *exact]

    def entries(self, number: str, begun_ms: int, values: Sequence[bytes], stretch_by: int = 1) -> list[Entry]:
        """The entries of a run that began at a moment; the pauses between them are so many times as long as they were
        when the stencil was made."""
        branch = f"{run_of(number)}@main"
        first = len(self.payloads)
        digest, at_ms, found = origin(branch), begun_ms, list[Entry]()
        for seq, line in enumerate(self.lines, 1):
            at_ms += line.step_ms * stretch_by
            key = bytes.fromhex(values[first + line.key].decode()) if isinstance(line.key, int) else line.key
            body = b"".join([values[part] if isinstance(part, int) else part for part in line.parts])
            digest = chain(digest, seq, 1, at_ms, key, body)
            found.append(Entry(branch, seq, 1, at_ms, key, body, digest))
        return found

    def check(self, _shape: str, written: list[Entry], _reader: object) -> None:
        """Whether this is how the product writes another run."""
        _, values = self.values(OTHER)
        for drawn, entry in zip(self.entries(OTHER, 0, values), written, strict=True):
            timed = isinstance(decode(entry.body), Claim | Sleep | Hold)
            same = (drawn.key, re.sub(TIMED, b"", drawn.body)) == (entry.key, re.sub(TIMED, b"", entry.body))
            assert same if timed else (drawn.key, drawn.body) == (entry.key, entry.body), (drawn, entry)


def row_of(payload: bytes) -> tuple[bytes, int, bytes]:
    """A payload as the store keeps it: digest, form, data."""
    if len(payload) >= COMPRESS_FROM and len(small := _PACK(payload)) < len(payload):
        return hashlib.sha256(payload).digest(), 1, small
    return hashlib.sha256(payload).digest(), 0, payload


def stencil(shape: str) -> Stencil:
    """Let the product take a run of this shape, and cut it up."""
    made = _taken(shape, MARK, _cut_up)
    if len(made.lines) < 1000:
        _taken(shape, OTHER, made.check)
    return made


def _taken(shape: str, number: str, use: Callable[[str, list[Entry], Reader], T]) -> T:
    with tempfile.TemporaryDirectory(prefix="bench-stencil-") as folder:
        path = Path(folder) / "runs.db"
        with open_store(f"sqlite:///{path}?anchor={folder}/anchor") as house, contextlib.suppress(Waiting, ValueError):
            house.run(shopper, {"number": number, "shape": shape}, id=run_of(number), wait=False)
        with Reader(path) as reader:
            return use(shape, _ended(shape, [entry for _, entry in reader.places()]), reader)


def _ended(shape: str, entries: list[Entry]) -> list[Entry]:
    """The run as its process would have left it, had it died where the shape says so."""
    end = SHAPES[shape][1]
    if end == "doubt":  # after the intent of the last effect
        last = max(entry.seq for entry in entries if isinstance(decode(entry.body), Intent))
        return entries[:last]
    if end == "stopped":
        return [entry for entry in entries if not isinstance(decode(entry.body), Finished)]
    return entries


def _cut_up(shape: str, entries: list[Entry], reader: Reader) -> Stencil:
    payloads: dict[str, bytes] = {}
    calls: dict[str, tuple[str, str, str]] = {}  # identity: tool, digest of the arguments, key
    for entry in entries:
        record = decode(entry.body)
        for found in re.findall(rb'\["([0-9a-f]{64})","(\w+)",(\d+)\]', entry.body):
            digest = found[0].decode()
            named = Payload(digest, Encoding(found[1].decode()), int(found[2]))
            payloads[digest] = asyncio.run(read_payload(reader, named))
        if isinstance(record, Intent | Hold | Seal) and record.args is not None:
            key = record.key if isinstance(record, Intent) else key_of(run_of(MARK), bytes.fromhex(record.identity), 0)
            calls[record.identity] = (record.tool, record.args.digest, key)
    own = {digest: text for digest, text in payloads.items() if MARK.encode() in text}
    calls = {identity: call for identity, call in calls.items() if call[1] in own}
    places = {digest.encode(): number for number, digest in enumerate(own)}
    places |= {identity.encode(): len(own) + number for number, identity in enumerate(calls)}
    places |= {key.encode(): len(own) + len(calls) + number for number, (_, _, key) in enumerate(calls.values())}
    held = frozenset(
        tool for entry in entries if isinstance(record := decode(entry.body), Hold) for tool in [record.tool]
    )
    for tool, args, _ in calls.values():
        if tool in held:
            places[Call(tool, b"", 0, payloads[args], None).digest.encode()] = len(places)
    order = {bytes.fromhex(identity): number for number, identity in enumerate(calls)}
    checkpoints = [entry.seq for entry in entries if entry.key == b"checkpoint"]
    made = Stencil(
        shape,
        tuple(tuple(text.split(MARK.encode())) for text in own.values()),
        tuple((tool, places[args.encode()]) for tool, args, _ in calls.values()),
        tuple(
            Line(order.get(entry.key, entry.key), _parts(entry.body, places), entry.at_ms - before)
            for entry, before in zip(entries, [entries[0].at_ms, *(each.at_ms for each in entries)], strict=False)
        ),
        checkpoints[-1] if checkpoints else 0,
        tuple(text for digest, text in payloads.items() if digest not in own),
        held,
    )
    _, values = made.values(MARK)
    assert made.entries(MARK, entries[0].at_ms, values) == entries, "a stencil draws the run that it was made from"
    return made


def _parts(body: bytes, places: dict[bytes, int]) -> tuple[bytes | int, ...]:
    """A body, cut where a value stands."""
    parts = re.split(rb"([0-9a-f]{64}|[0-9a-f]{32})", body)
    return tuple(places.get(part, part) for part in parts if part)
