"""Who claims the branches of a store, as its own process tells those who cannot read it."""

from __future__ import annotations

from holdfast.store.url import sqlite_files
from holdfast.store.worker import Worker


def owners_of(url: str) -> dict[str, Worker]:
    """Whoever claimed a branch of the store at `url` and has not given it back, by branch: alive or not."""
    if url.startswith("sqlite:"):
        from holdfast.store.reader import Reader

        with Reader(sqlite_files(url).path) as reader:
            return reader.owners()
    if url.startswith(("postgresql:", "postgres:")):
        from holdfast.store.postgres_reader import PostgresReader
        from holdfast.store.url import postgres_address

        with PostgresReader(postgres_address(url)) as postgres:
            return postgres.owners()
    return {}
