"""A fleet on one real PostgreSQL: worker processes that are born from one that has imported everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.nursery import Nursery
from tests.fleet.yard import Fleet
from tests.postgres import Postgres


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where workers come from."""
    bearing = Nursery()
    yield bearing
    bearing.close()


@pytest.fixture
def fleet(nursery: Nursery, postgres: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet without workers, on an empty store. `@pytest.mark.parametrize("fleet", [TTL_S], indirect=True)` says how
    long a claim lasts."""
    made = Fleet(nursery, postgres, tmp_path, getattr(request, "param", 15.0))
    yield made
    made.close()
