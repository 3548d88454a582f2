"""One shelf per kind of store: a test that asks for `shelf` is run for each of them."""

from pathlib import Path

import pytest

from tests.store.shelf import Shelf


@pytest.fixture(params=["memory", "sqlite"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return Shelf(request.param, tmp_path / "runs.db")


@pytest.fixture
def lasting(tmp_path: Path) -> Shelf:
    """A shelf whose store outlives its handle."""
    return Shelf("sqlite", tmp_path / "runs.db")
