"""One shelf per kind of store: a test that asks for `shelf` is run for each of them."""

from pathlib import Path

import pytest

from holdfast.store.postgres import PostgresStore
from tests.postgres import Postgres
from tests.store.shelf import Shelf


def made(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    if kind not in ("postgres", "partitioned"):
        return Shelf(kind, tmp_path / "runs.db")
    server: Postgres = request.getfixturevalue("postgres")
    shelf = Shelf("postgres", tmp_path, server.empty())
    if kind == "partitioned":
        PostgresStore(shelf.url).let_go()
        with server.connect() as connection:
            for name in ("entry", "recall", "blob"):
                connection.execute("SELECT holdfast.partition_1(%s, 3)", (name,))
    return shelf


PARTITIONED = pytest.param("partitioned", marks=pytest.mark.soak)  # the same tables, as far as a store can tell


@pytest.fixture(params=["memory", "sqlite", "postgres", PARTITIONED])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return made(request.param, tmp_path, request)


@pytest.fixture(params=["sqlite", "postgres", PARTITIONED])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """A shelf whose store outlives its handle."""
    return made(request.param, tmp_path, request)
