"""Reading much of a PostgreSQL store at once: pages of branches, and the answers to many questions in one round trip.

Rules
1. Whoever looks at many branches says beforehand what will be asked of each. It is then asked as if nothing had been
   said: an answer that was read ahead is given, and anything else is read.
2. What was read ahead is believed until the next reading ahead. So it is for those who look, and end; whoever goes on
   with a run reads it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple, cast

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.store import Branch
from holdfast.store.postgres_arrays import byteas, int8s, texts
from holdfast.store.postgres_depot import OUTSIDE
from holdfast.store.postgres_large import STEP_BITS
from holdfast.store.postgres_reading import LAST, PostgresReading, branch_of
from holdfast.store.worker import Worker

_PAGE: LiteralString = (
    "SELECT b.name, b.seq, b.digest, b.epoch, b.at_ms, w.id, w.place, w.pid, w.born, w.host FROM (SELECT b.*"
    " FROM holdfast.branch b WHERE b.seq > 0 AND b.recent <= %s AND (b.at_ms, b.name) < (%s, %s)"
)
_ORDER: LiteralString = (
    " ORDER BY b.recent DESC, b.at_ms DESC, b.name DESC LIMIT %s) b LEFT JOIN holdfast.worker w ON w.id = b.worker"
    " ORDER BY b.at_ms DESC, b.name DESC"
)
_MEMBERS: LiteralString = (
    "SELECT b.name, b.seq, b.digest, b.epoch, b.at_ms, w.id, w.place, w.pid, w.born, w.host FROM unnest(%b) r(run)"
    " CROSS JOIN LATERAL (SELECT * FROM holdfast.branch b WHERE b.name >= r.run || '@' COLLATE \"C\""
    " AND b.name < r.run || 'A' COLLATE \"C\" AND b.seq > 0 ORDER BY b.name OFFSET 0) b"  # by the index, run by run
    " LEFT JOIN holdfast.worker w ON w.id = b.worker ORDER BY b.at_ms DESC, b.name DESC"
)
_ANSWER: LiteralString = (
    "SELECT q.n, e.seq, e.epoch, e.at_ms, coalesce(e.key, ''::bytea), e.body, e.digest"
    " FROM unnest(%b, %b, %b, %b) WITH ORDINALITY AS q(name, after, key, newest, n)"
    " JOIN holdfast.branch b ON b.name = q.name"
    " CROSS JOIN LATERAL (SELECT * FROM holdfast.entry e WHERE e.branch = b.id AND e.seq > q.after"
)
_NAMED: LiteralString = " AND e.key = q.key AND length(e.key) < 32"
_LIMIT: LiteralString = " ORDER BY e.seq DESC LIMIT q.newest) e ORDER BY q.n, e.seq"
_OWNERS: LiteralString = (
    "SELECT b.name, w.id, w.place, w.pid, w.born, w.host FROM holdfast.branch b"
    " JOIN holdfast.worker w ON w.id = b.worker WHERE b.name = ANY (%b)"
)


class Question(NamedTuple):
    """What `read` will be asked: the entries of a branch after a position; of a short key; only the newest so many."""

    branch: str
    after: int = 0
    key: bytes | None = None
    newest: int | None = None


class PostgresAhead(PostgresReading):
    """As `PostgresReading`, and it reads ahead. `paged`: the database knows pages; one that no writer has opened since
    they came (postgres_large.py) does not, and all of it is read for each."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo)
        self.paged = True
        self._answers: dict[Question, list[Entry]] = {}
        self._blobs: dict[bytes, Blob] = {}
        self._owned: dict[str, Worker | None] = {}

    async def page(self, most: int, *, after: Branch | None = None, open_only: bool = False) -> list[Branch]:
        """At most `most` branches that come after one (as it was read) when the newest come first. `open_only`: none
        whose newest entry is its end."""
        at_ms, name = (after.at_ms, after.name) if after else (LAST, "")
        if not self.paged:
            found = sorted(await self.branches(), key=lambda each: (each.at_ms, each.name), reverse=True)
            return [each for each in found if (each.at_ms, each.name) < (at_ms, name)][:most]
        sql: LiteralString = _PAGE + (" AND b.open" if open_only else "") + _ORDER
        rows = await self._rows(sql, (at_ms >> STEP_BITS, at_ms, name, most))
        return [branch_of(row) for row in rows]

    async def members(self, runs: Sequence[str]) -> dict[str, list[Branch]]:
        """The branches of these runs, the newest of each first."""
        found: dict[str, list[Branch]] = {run: [] for run in runs}
        for row in await self._rows(_MEMBERS, (texts(list(found)),)):
            branch = branch_of(row)
            found[branch.name.partition("@")[0]].append(branch)
        return found

    async def foresee(self, asked: Sequence[Question]) -> None:
        """Read what will be asked for, and who holds those branches."""
        names = sorted({each.branch for each in asked})
        self._owned.update(dict.fromkeys(names))
        for row in await self._rows(_OWNERS, (texts(names),)):
            self._owned[str(row[0])] = Worker(*cast(Any, row[1:]))
        for named in (False, True):
            some = [each for each in dict.fromkeys(asked) if (each.key is not None) == named]
            if not some:
                continue
            self._answers.update((each, []) for each in some)
            sql: LiteralString = _ANSWER + (_NAMED if named else "") + _LIMIT
            values = (
                texts([each.branch for each in some]), int8s([each.after for each in some]),
                byteas([each.key for each in some]),
                int8s([LAST if each.newest is None else each.newest for each in some]),
            )  # fmt: skip
            for row in await self._rows(sql, values):
                question = some[cast(int, row[0]) - 1]
                self._answers[question].append(Entry(question.branch, *cast(Any, row[1:])))

    async def foresee_blobs(self, digests: Sequence[bytes]) -> None:
        """Read payloads that will be asked for: those of them that are in the database."""
        asked = (byteas(list(dict.fromkeys(digests))),)
        for row in await self._rows("SELECT digest, form, data FROM holdfast.blob WHERE digest = ANY (%b)", asked):
            digest, form, data = cast("tuple[bytes, int, bytes]", row)
            if form < OUTSIDE:
                self._blobs[digest] = self._blob(digest, form, data)

    def forget(self) -> None:
        """What was read ahead is read anew from now on."""
        self._answers.clear()
        self._blobs.clear()
        self._owned.clear()

    async def read(
        self,
        branch: str,
        *,
        after: int = 0,
        key: bytes | None = None,
        unclaimed: bool = False,
        newest: int | None = None,
        upto: int | None = None,
    ) -> list[Entry]:
        """As `Store.read`."""
        if self._answers and not unclaimed and upto is None:
            known = self._answers.get(Question(branch, after, key, newest))
            if known is not None:
                return list(known)
        return await super().read(branch, after=after, key=key, unclaimed=unclaimed, newest=newest, upto=upto)

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        return self._blobs.get(digest) or await super().blob(digest)

    async def owner(self, branch: str) -> Worker | None:
        """Who has claimed a branch and not given it back: alive or not."""
        if branch in self._owned:
            return self._owned[branch]
        rows = await self._rows(_OWNERS, (texts([branch]),))
        return Worker(*cast(Any, rows[0][1:])) if rows else None
