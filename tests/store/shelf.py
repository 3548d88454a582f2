"""How the tests open stores, and how they judge what is in them without asking the product.

The chain is computed here a second time, from docs/log-format.md alone, so that a mistake in the product is seen.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.store import Draft, Store
from holdfast.store.memory import MemoryStore
from holdfast.store.postgres import PostgresStore
from holdfast.store.sqlite import SqliteStore

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Shelf:
    """Opens one store again and again. `lasting`: it outlives the handle, and others may open it meanwhile."""

    kind: str
    path: Path
    url: str = ""

    @property
    def place(self) -> str:
        """How a process of its own names the store: see `open_at`."""
        return self.url or str(self.path)

    @property
    def lasting(self) -> bool:
        return self.kind != "memory"

    def open(self, *, claim_ttl_s: float = 15.0, flush_s: float = 1.0) -> Store:
        match self.kind:
            case "memory":
                return MemoryStore()
            case "sqlite":
                return SqliteStore(self.path, claim_ttl_s=claim_ttl_s, flush_s=flush_s, anchor=None)
            case "postgres":
                return PostgresStore(self.url, claim_ttl_s=claim_ttl_s, beat_s=flush_s)
            case _:
                raise AssertionError(self.kind)


def open_at(place: str, *, flush_s: float = 1.0) -> Store:
    """The store at a place that a process of a test was told: a URL of PostgreSQL, or a SQLite file."""
    if place.startswith("postgresql:"):
        return PostgresStore(place, beat_s=flush_s)
    return SqliteStore(Path(place), flush_s=flush_s, anchor=None)


def draft(body: bytes | str = b"{}", key: bytes = b"", *, recall: bool = False) -> Draft:
    return Draft(key, body.encode() if isinstance(body, str) else body, recall)


def drafts(*bodies: str) -> list[Draft]:
    return [draft(body) for body in bodies]


def blob(data: bytes, *, rope: bool = False) -> Blob:
    return Blob(hashlib.sha256(data).digest(), data, rope)


def said(word: str) -> bytes:
    """The bytes of a text, of a length at which they are worth storing; `A+B` is that of A, and then that of B."""
    return b"".join(f"{part} ".encode() * 100 for part in word.lstrip("~").split("+"))


def texts(*words: str) -> list[Blob]:
    """What must be stored for these texts. `A+B` is a rope of the payloads A and B; of `~A+B` the pieces are taken for
    stored."""
    found: list[Blob] = []
    for word in words:
        parts = [blob(said(part)) for part in word.lstrip("~").split("+")]
        if not word.startswith("~"):
            found += parts
        if len(parts) > 1:
            rope = b"".join(b"\1" + part.digest for part in parts)
            found.append(Blob(hashlib.sha256(said(word)).digest(), rope, rope=True, whole=said(word)))
    return found


def naming(*words: str) -> Draft:
    """An entry that names the payloads of these texts: of a rope, only the rope."""
    return draft(" ".join(texts(word)[-1].digest.hex() for word in words))


def named(entry: Entry) -> list[bytes]:
    """What an entry made by `naming` names."""
    return [bytes.fromhex(word) for word in entry.body.decode().split()]


def bodies(entries: Iterable[Entry]) -> list[str]:
    return [entry.body.decode() for entry in entries]


def assert_whole(branch: str, entries: Sequence[Entry]) -> None:
    """Positions without gaps from 1, and the digest of each over the one before, as docs/log-format.md says."""
    previous = hashlib.sha256(b"holdfast/branch/1\0" + branch.encode()).digest()
    for seq, entry in enumerate(entries, 1):
        assert (entry.branch, entry.seq) == (branch, seq)
        numbers = b"".join(number.to_bytes(8, "big") for number in (entry.seq, entry.epoch, entry.at_ms))
        said = b"holdfast/entry/1\0" + previous + numbers + bytes([len(entry.key)]) + entry.key + entry.body
        previous = hashlib.sha256(said).digest()
        assert entry.digest == previous, f"entry {seq} does not fit the one before it"


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs a module of the tests, with pipes for what it is told and what it says."""
    paths = [str(ROOT), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that a process says; its errors if it has died."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, errors = process.communicate(timeout=60)
        raise AssertionError(f"the process ended ({process.returncode}): {errors}")
    return line.rstrip("\n")
