"""What holds for every test: no deadline on a clock, and a test that needs root says so instead of failing."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.examples import examples
from tests.postgres import Postgres

# No deadline: a shared machine stalls, and time is never an assertion.
settings.register_profile("house", deadline=None, print_blob=True, max_examples=examples(100))
settings.load_profile("house")

# Anchors of the stores that tests make stay out of the user's own state directory, for the processes of tests too.
os.environ["HOLDFAST_HOME"] = tempfile.mkdtemp(prefix="holdfast-test-home-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests that ask for it."""
    server = Postgres()
    yield server
    server.stop()
