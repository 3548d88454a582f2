"""What has changed in a SQLite store since one last looked: for whoever waits for something to be written in it.

Rules
1. Nobody is asked to tell: SQLite counts the commits of all processes, and asking for that count reads no page.
2. Entries are numbered in the order of their commits. So what is new is found from a number on, however many runs have
   ended before.
3. What is remembered here is where one looked, nothing else: it may be forgotten at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from holdfast.store.reader import Reader
from holdfast.store.schema import UNREADABLE, translate
from holdfast.store.worker import Worker, dead

_SINCE = (  # by the number of the entry: an index by branch would group better, and be read from end to end
    "SELECT b.name, max(e.id) FROM entry e NOT INDEXED JOIN branch b ON b.id = e.branch WHERE e.id > ?"
    " GROUP BY e.branch ORDER BY max(e.id)"
)
_NEWEST = (
    "SELECT b.id, b.name, ifnull(e.key, x''), e.body FROM branch b JOIN entry e ON e.branch = b.id"
    " AND e.seq = (SELECT max(seq) FROM entry WHERE branch = b.id) WHERE b.id > ? ORDER BY b.id LIMIT ?"
)
_HOLDER = (
    "SELECT w.id, w.place, w.pid, w.born, w.host, w.beat_ms FROM claim c JOIN worker w ON w.id = c.worker"
    " WHERE c.branch = (SELECT id FROM branch WHERE name = ?)"
)
_BESIDE = (
    "SELECT 1 FROM branch b JOIN entry e ON e.branch = b.id WHERE b.name >= ?1 AND b.name < ?2 AND b.name <> ?3"
    " AND (e.id > (SELECT id FROM entry WHERE branch = (SELECT id FROM branch WHERE name = ?3) AND seq = ?5)"
    " OR (e.epoch = 0 AND e.id > (SELECT id FROM entry WHERE branch = (SELECT id FROM branch WHERE name = ?3)"
    " AND seq = ?4))) LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest entry of a branch: what it is looked up by, and its body."""

    id: int
    branch: str
    key: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a claim, when it last showed that it lives (wall clock, ms), and whether it is known to be dead."""

    worker: Worker
    beat_ms: int
    dead: bool


class Changes(Reader):
    """As `Reader`, and what is new. Used by one thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._version = -1

    def moved(self) -> bool:
        """Whether anybody has committed anything since this was last asked; True the first time."""
        try:
            version = cast(int, self._reader.execute("PRAGMA data_version").fetchall()[0][0])
        except UNREADABLE as error:
            raise translate(error, str(self.path)) from error
        moved, self._version = version != self._version, version
        return moved

    def last(self) -> int:
        """The number of the newest entry of the store; 0 if there is none."""
        return cast("int | None", next(self._each("SELECT max(id) FROM entry", ()))[0]) or 0

    def since(self, number: int) -> tuple[int, list[str]]:
        """The branches that have got entries after entry `number` of the store, and the number of the newest."""
        rows = list(self._each(_SINCE, (number,)))
        return max((cast(int, row[1]) for row in rows), default=number), [cast(str, row[0]) for row in rows]

    def newest(self, after: int, most: int) -> list[Newest]:
        """At most `most` branches, in the order of their beginning, from the one after the branch with id `after`
        on."""
        return [Newest(*cast(Any, row)) for row in self._each(_NEWEST, (after, most))]

    async def beside(self, branch: str, claim_seq: int, mark_seq: int) -> bool:
        """Whether another branch of a run got an entry after entry `mark_seq` of this one, or, without a claim, after
        `claim_seq`."""
        run = branch.partition("@")[0]
        return bool(await self._rows(_BESIDE, (f"{run}@", f"{run}A", branch, claim_seq, mark_seq)))

    async def holder(self, branch: str) -> Holder | None:
        """Who has claimed a branch and not given it back."""
        for row in await self._rows(_HOLDER, (branch,)):
            worker = Worker(*cast(Any, row[:5]))
            return Holder(worker, cast(int, row[5]), dead(worker))
        return None
