"""One shelf per kind of store: a test that asks for `shelf` is run for each of them."""

from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.store.shelf import Shelf


def made(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    if kind != "postgres":
        return Shelf(kind, tmp_path / "runs.db")
    server: Postgres = request.getfixturevalue("postgres")
    return Shelf(kind, tmp_path, server.empty())


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return made(request.param, tmp_path, request)


@pytest.fixture(params=["sqlite", "postgres"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """A shelf whose store outlives its handle."""
    return made(request.param, tmp_path, request)
