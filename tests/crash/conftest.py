"""What the crash tests stand on: a place without a slow disk, and a process that bears children."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.nursery import Nursery

MEMORY = Path("/dev/shm")


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory, in memory where that is possible: SIGKILL takes nothing from the system, so no disk is needed
    here."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30
    folder = Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=MEMORY if roomy else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where children come from."""
    bearing = Nursery()
    yield bearing
    bearing.close()
