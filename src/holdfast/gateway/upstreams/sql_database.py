"""What the sql upstream asks of a database, and what a database answers.

Rules
1. A connection belongs to one call: nothing that a statement leaves in it (a setting, a lock, a temporary table) meets
   another call.
2. Before COMMIT is sent, whatever goes wrong proves that nothing happened. Afterwards only the database can tell.
3. A number that JSON has exactly is a number; all else is the database's own text, so no digit is ever lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.core.canonical import JSON, canonical
from holdfast.gateway.upstreams.sql_classify import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement with its parameters. `statement` is what it was found to do."""

    text: str
    parameters: Sequence[JSON] | dict[str, JSON]
    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an answer may hold at most (`rows`; `size_bytes` as JSON), and how long a statement may run."""

    rows: int
    size_bytes: int
    statement_s: float


class Said(Exception):
    """The database said no, and changed nothing. `code`: an SQLSTATE, SQLite's name of an error, or a word of ours.
    `fix`: what to do, where we know. `more`: numbers that belong to it."""

    def __init__(self, code: str, message: str, *, fix: str = "", **more: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.more = more

    def answer(self) -> dict[str, JSON]:
        """As the agent gets it."""
        told: dict[str, JSON] = {"code": self.code, "message": self.message[:2000], **self.more}
        if self.fix:
            told["fix"] = self.fix
        return {"error": told}


@dataclass(slots=True)
class Table:
    """The rows of an answer, gathered within limits. Of a write, `count`: how many rows the statement says it changed;
    `changed`: how many were changed by whatever it set off (triggers, foreign keys), too."""

    limits: Limits
    columns: list[JSON] = field(default_factory=list[JSON])
    rows: list[JSON] = field(default_factory=list[JSON])
    count: int | None = None
    changed: int = 0
    _size: int = 0

    def add(self, row: list[JSON]) -> None:
        """Keep one more row. Raises Said when the answer becomes too large."""
        self._size += len(canonical(row)) + 1
        if len(self.rows) >= self.limits.rows:
            raise Said(
                "too_many_rows",
                f"the answer has more than {self.limits.rows} rows",
                fix="ask for fewer: LIMIT, WHERE or an aggregate",
            )
        if self._size > self.limits.size_bytes:
            raise Said(
                "too_large",
                f"the answer is larger than {self.limits.size_bytes} bytes",
                fix="ask for fewer rows or columns",
            )
        self.rows.append(row)

    def answer(self) -> dict[str, JSON]:
        """As the agent gets it: `row_count` is how many rows are here, or how many a write changed."""
        told: dict[str, JSON] = {"columns": self.columns, "rows": self.rows}
        if self.count is None:
            return {**told, "row_count": len(self.rows)}
        return {**told, "row_count": self.count, "changed": self.changed}


def too_many(changed: int, most: int) -> Said:
    """A write that would change more than was agreed."""
    return Said(
        "too_many_changes",
        f"it would change {changed} rows; at most {most} were asked for: nothing was changed",
        fix=f"narrow it, or ask again with max_rows = {changed}: that call is judged anew",
        rows=changed,
        max_rows=most,
    )


class Database(Protocol):
    """A database by name. What its methods raise means: Said and NotHappened, nothing was changed; RetryAfter, the same
    and come back later; anything else, nobody knows."""

    def classify(self, text: str) -> Statement:
        """What a statement does. Raises BadCall for what is not proven. Changes nothing."""
        ...

    async def read(self, query: Query, password: str) -> Table:
        """The answer to a read, from where nothing can be written."""
        ...

    async def write(self, query: Query, password: str, *, key: str, most: int) -> bytes:
        """Carry it out once under `key`, if it changes `most` rows at most. The canonical JSON of `Table.answer`."""
        ...

    async def landed(self, key: str, password: str) -> bytes | None:
        """What the write under `key` answered; None if it certainly did not happen: one that is still at work is waited
        for. Only where keys are kept; raises whatever it likes when that cannot be told."""
        ...

    def running(self, key: str) -> bool:
        """Whether a write under this key is at work in this process."""
        ...
