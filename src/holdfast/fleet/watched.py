"""A store on PostgreSQL, as it is read to find out how a run goes on."""

from __future__ import annotations

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.fleet.queue import Queue
from holdfast.store import Branch
from holdfast.store.clock import clock_of
from holdfast.store.postgres_reading import PostgresReading


class WatchedStore:
    """As `embedded.outlook.Watched`."""

    def __init__(self, store: PostgresReading, queue: Queue) -> None:
        self._store = store
        self._queue = queue

    def now_ms(self) -> int:
        """The store's clock."""
        return clock_of(self._store)()

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
        return await self._store.read(branch, after=after, key=key, unclaimed=unclaimed, newest=newest, upto=upto)

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        return await self._store.blob(digest)

    async def branches(self, prefix: str = "") -> list[Branch]:
        """As `Store.branches`."""
        return await self._store.branches(prefix)

    async def beside(self, branch: str, claim_seq: int, mark_seq: int) -> bool:
        """As `Watched.beside`."""
        return await self._queue.beside(branch, claim_seq, mark_seq)
