"""The log key of a store on PostgreSQL: one file that every worker has, known to the database by its public half.

Rules
1. Whoever opens the store first makes the key. A worker without it, or with another, starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.core.note import format_vkey
from holdfast.errors import Unwritable
from holdfast.store.heads import LogKey, load_key
from holdfast.store.postgres_reading import PostgresReading


def log_key(store: PostgresReading, log_id: str, path: Path) -> LogKey:
    """The key in a file (made there if the log has none yet). Raises Unwritable if it is missing, or is not the log's,
    Corrupt if it is none."""
    known = store.fetch("SELECT value FROM holdfast.meta WHERE name = 'key'")
    if not known:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unwritable(
                f"the log key cannot be made: {error.strerror}", where=str(path), fix="name a writable file: ?key=FILE"
            ) from None
    key = load_key(path, log_id, new=not known)
    mine = format_vkey(key.verifier)
    store.fetch("INSERT INTO holdfast.meta VALUES ('key', %s) ON CONFLICT DO NOTHING RETURNING name", (mine,))
    if store.fetch("SELECT value FROM holdfast.meta WHERE name = 'key'") != [(mine,)]:
        raise Unwritable(
            "this is not the key of the log", where=str(path), fix="copy it from a worker that has it, or ?key=FILE"
        )
    return key
