"""Large payloads in an S3-compatible object store, through obstore.

Rules
1. An object is put only where none of its name is (`If-None-Match: *`). One that is there already is believed only once
   it was read and is the same; otherwise it is replaced.
2. A store that is away is asked again for about half a minute, then told of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from datetime import timedelta

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from holdfast.errors import Away, Unknown, Unwritable

PATIENCE = timedelta(seconds=30)
MOST_DELETED = 1000  # in one request
FIX = "check the bucket, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; then resume"


class S3Depot:
    """Objects of the bucket and prefix of `url` (`s3://BUCKET/PREFIX`). Where it is, and with which credentials it is
    reached, is read from the environment as AWS's own programs do (`AWS_…`; `AWS_ALLOW_HTTP=true` without TLS)."""

    def __init__(self, url: str) -> None:
        self._where = url
        self._pid = os.getpid()
        with self._translated():
            self._store = S3Store.from_url(
                url,
                client_options={
                    "connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60),
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),  # else it is not asked
                },
                retry_config={"max_retries": 10, "retry_timeout": PATIENCE},
            )  # fmt: skip

    def put(self, name: str, data: bytes) -> None:
        """As `Depot.put`."""
        with self._translated():
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                if self._there(name) != data:
                    obstore.put(self._store, name, data, mode="overwrite", use_multipart=False)

    def _there(self, name: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None  # it is being put at this moment, or was deleted

    def get(self, name: str) -> bytes:
        """As `Depot.get`."""
        with self._translated():
            found = self._there(name)
        if found is None:
            raise Unknown("there is no such object", where=f"{self._where}/{name}")
        return found

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As `Depot.names`."""
        with self._translated():
            for page in obstore.list(self._store, prefix):  # pyright: ignore[reportUnknownMemberType] - its Arrow form
                for found in page:
                    yield found["path"], found["size"]

    def delete(self, names: Sequence[str]) -> None:
        """As `Depot.delete`."""
        with self._translated():
            for start in range(0, len(names), MOST_DELETED):
                obstore.delete(self._store, list(names[start : start + MOST_DELETED]))

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        if os.getpid() != self._pid:  # obstore's threads stayed in the parent: its calls would never return here
            raise Unwritable(
                "the object store was opened before this process was forked",
                where=self._where, fix="start a process of its own (spawn), and open the store there",
            )  # fmt: skip
        try:
            yield
        except (BaseError, OSError) as error:
            said = str(error).split("Debug source", 1)[0].strip().replace("\n", " ")[:500]
            raise Away(f"the object store fails: {said}", where=self._where, fix=FIX) from error
