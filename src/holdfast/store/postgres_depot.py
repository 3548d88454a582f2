"""Large payloads of a store on PostgreSQL, kept outside of it: the database has digest, size and place.

Rules
1. First the object, durable; then, in one transaction, its row and the entry that names it.
2. An object is put in an age, a number that the database keeps. A sweep first begins the next age: from then on no row
   that names an object of an older one can be written (a trigger refuses it, under a lock on the number). Only then it
   asks what the rows name, and deletes the objects of older ages that none does. No clock has a say.
3. What a writer has put in an age that is over, it puts again.
4. An object is named by the digest of its bytes, and is checked against it whenever it is read.
5. Where the objects are is written in the database, once: whoever opens the store finds them.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from dataclasses import dataclass
from typing import LiteralString, Protocol, cast

from holdfast.errors import Corrupt, Misuse, Unknown
from holdfast.store.depot import Depot, open_depot
from holdfast.store.postgres_arrays import byteas
from holdfast.store.postgres_batch import Row

LARGE = 256 << 10  # bytes of a packed payload, from which on it is kept outside
OUTSIDE = 4  # added to the form of a row that says where its payload is
_PLACE = struct.Struct(">Q32sQ")
WHERE = "SELECT value FROM holdfast.meta WHERE name = 'blobs'"
_SET = (  # from now on no Holdfast may write here that would not find them
    "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)),"
    " needing AS (UPDATE holdfast.meta SET value = greatest(value::int, 3)::text FROM durable WHERE name = 'needs')"
    " INSERT INTO holdfast.meta SELECT 'blobs', %s FROM durable ON CONFLICT DO NOTHING RETURNING name"
)
_AGE = "SELECT value::bigint FROM holdfast.meta WHERE name = 'age'"
_NEXT_AGE = (
    "WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))"
    " UPDATE holdfast.meta SET value = (value::bigint + 1)::text FROM durable WHERE name = 'age'"
    " RETURNING value::bigint"
)
_STORED = "SELECT digest FROM holdfast.blob WHERE digest = ANY (%b)"
_NAMED = "SELECT substring(data FROM 1 FOR 40) FROM holdfast.blob WHERE form >= 4"


class Asking(Protocol):
    """A database that answers."""

    def fetch(self, sql: LiteralString, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """The rows of a query that may be made twice. Raises Stopped."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload is: the age and digest of its object, and its size (bytes)."""

    age: int
    digest: bytes
    size: int

    @classmethod
    def unpacked(cls, packed: bytes) -> Place:
        """The place that a row has. Raises Corrupt."""
        try:
            return cls(*_PLACE.unpack(packed))
        except struct.error:
            raise Corrupt("the place of a payload cannot be read", where=packed.hex(), fix="restore a backup") from None

    def packed(self) -> bytes:
        """As its row has it."""
        return _PLACE.pack(self.age, self.digest, self.size)

    def name(self, log_id: str) -> str:
        """The object's name."""
        return f"{log_id}/{self.age:016x}/{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has deleted, or would delete; and which objects are missing that rows name (`AGE/DIGEST`)."""

    objects: int
    bytes: int
    missing: list[str]


class PostgresDepot:
    """The objects of the log `log_id`, whose database answers through `database`."""

    def __init__(self, database: Asking, log_id: str, url: str) -> None:
        self.url = url
        self._database = database
        self._log_id = log_id
        self._depot: Depot = open_depot(url)
        self._age = 0

    async def put(self, rows: list[Row], *, all_of_them: bool = False) -> list[Row]:
        """These rows, with a place instead of the payload where that is large: its object is durable then. One whose
        digest is stored already is left out, unless `all_of_them` are wanted. Raises Stopped."""
        large = [row for row in rows if len(row[2]) >= LARGE]
        if not large:
            return rows
        age, stored = await asyncio.to_thread(self._known, [] if all_of_them else [row[0] for row in large])
        waiting = [self._put(row, age) for row in large if row[0] not in stored]
        moved = {row[0]: row for row in await asyncio.gather(*waiting)}
        return [moved.get(row[0], row) for row in rows if row[0] not in stored]

    async def _put(self, row: Row, age: int) -> Row:
        digest, form, data = row
        place = Place(age, hashlib.sha256(data).digest(), len(data))
        await asyncio.to_thread(self._depot.put, place.name(self._log_id), data)
        return digest, form + OUTSIDE, place.packed()

    def _known(self, digests: list[bytes]) -> tuple[int, set[bytes]]:
        """The age that it is, as far as is known, and which of these payloads are stored already."""
        age = self._age or cast(int, self._database.fetch(_AGE)[0][0])
        self._age = age
        return age, {cast(bytes, row[0]) for row in self._database.fetch(_STORED, (byteas(digests),))}

    def grow_old(self) -> None:
        """The age that objects were put in is over."""
        self._age = 0

    async def get(self, packed: bytes) -> bytes:
        """The payload at a place, as its row would have it. Raises Unknown if it is not there, Corrupt if it is not
        what was put, Unwritable if it cannot be asked for."""
        return await asyncio.to_thread(self.fetch, packed)

    def fetch(self, packed: bytes) -> bytes:
        """As `get`; the calling thread waits."""
        fix = "restore the object from a copy or an older version; `holdfast show` tells which runs need it"
        place = Place.unpacked(packed)
        where = f"{self.url}/{place.name(self._log_id)}"
        try:
            data = self._depot.get(place.name(self._log_id))
        except Unknown:
            raise Unknown("a large payload is not where it was put", where=where, fix=fix) from None
        if hashlib.sha256(data).digest() != place.digest:
            raise Corrupt("a large payload is not what was put there", where=where, fix=fix)
        return data

    def sweep(self, *, dry_run: bool = False) -> Swept:
        """Delete what killed and refused writers have left behind: objects that no row names, and none ever will. Tell
        which are missing. Others may write meanwhile; with `dry_run`, what those have put and not named yet counts."""
        age = cast(int, self._database.fetch(_AGE if dry_run else _NEXT_AGE)[0][0]) + dry_run
        there = self._there()
        named = {_named(cast(bytes, row[0])) for row in self._database.fetch(_NAMED)}
        missing = named - there.keys()
        if missing:  # what was put since is there by now
            missing -= self._there().keys()
        doomed = [name for name in there if name not in named and _before(name, age)]
        if not dry_run:
            self._depot.delete([f"{self._log_id}/{name}" for name in doomed])
        return Swept(len(doomed), sum(there[name] for name in doomed), sorted(missing))

    def place(self, name: str) -> str:
        """Where an object is that a sweep has told of, as people are told."""
        return f"{self.url}/{self._log_id}/{name}"

    def _there(self) -> dict[str, int]:
        """All objects of this log: age and digest as their names have them, and their sizes in bytes."""
        prefix = f"{self._log_id}/"
        return {name.removeprefix(prefix): size for name, size in self._depot.names(prefix)}


def _before(name: str, age: int) -> bool:
    """Whether an object was put before an age. One whose name is not ours stays."""
    first, _, rest = name.partition("/")
    try:
        return len(first) == 16 and "/" not in rest and int(first, 16) < age
    except ValueError:
        return False


def _named(packed: bytes) -> str:
    age, digest = struct.unpack(">Q32s", packed)
    return f"{age:016x}/{digest.hex()}"


def depot_of(database: Asking, log_id: str, given: str | None, *, where: str) -> PostgresDepot | None:
    """The depot of a store, or None: its rows are all in the database. `given`: where large payloads are from now on.
    Raises Misuse if they are elsewhere already."""
    rows = database.fetch(WHERE)
    if given is not None and not rows:
        open_depot(given)
        database.fetch(_SET, (given,))
        rows = database.fetch(WHERE)
    if not rows:
        return None
    url = str(rows[0][0])
    if given not in (None, url):
        raise Misuse(
            f"large payloads of this store are in `{url}`",
            where=where,
            fix="leave out `blobs=…`: the store knows where they are; docs/operations.md says how to move them",
        )
    return PostgresDepot(database, log_id, url)
