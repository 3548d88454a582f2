"""What the crash tests stand on: a place without a slow disk, and a process that bears children."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.gateway_trial import GatewayTrial, Systems
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


@pytest.fixture(scope="session")
def gateways() -> Iterator[Nursery]:
    """Where gateways and programs come from."""
    bearing = Nursery("tests.crash.gateway_life")
    yield bearing
    bearing.close()


@pytest.fixture(scope="session")
def systems() -> Iterator[Systems]:
    """The systems outside."""
    started = Systems()
    yield started
    started.close()


@pytest.fixture
def behind(
    gateways: Nursery, nursery: Nursery, systems: Systems, ground: Path
) -> Generator[Callable[..., GatewayTrial]]:
    """Makes trials behind gateways, and ends what lives of them."""
    made: list[GatewayTrial] = []

    def make(*tools: str, **more: Any) -> GatewayTrial:
        made.append(GatewayTrial(ground / f"t{len(made)}", gateways, nursery, systems, tools, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()
