"""Death at any moment: of who captures, of who restores, of who collects. What was captured before stays in force."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.workspace import Packs, Workspace
from tests.workspace.census import census
from tests.workspace.conftest import Place

DEATHS = 25


def life(work: Callable[[], object]) -> int:
    """A child that does `work` and ends; its pid. It shares nothing with us but what is on the disk."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def die_in(work: Callable[[], object], after_s: float) -> bool:
    """Whether the child was killed before it had finished."""
    pid = life(work)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def duration(work: Callable[[], object]) -> float:
    """How long a child needs that is not killed."""
    began = time.monotonic()
    os.waitpid(life(work), 0)
    return time.monotonic() - began


def sow(root: Path, seed: int) -> None:
    """Change a third of a tree of 150 files, some of them large enough to spill; remove some, and add some."""
    roll = random.Random(seed)
    for number in range(150):
        path = root / f"d{number % 10}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or roll.random() < 0.3:
            path.unlink(missing_ok=True)
            if roll.random() < 0.9:
                path.write_bytes(roll.randbytes(roll.choice([10, 3_000, 90_000])))
    link = root / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(str(seed))


def trial(place: Place, deaths: int) -> None:
    """Capture, change, die while capturing; then the capture before is whole, and the next one is right."""
    sow(place.root, 0)
    tree, told = place.files.capture().tree, census(place.root)
    needed = duration(lambda: place.again().capture())
    killed = 0
    elsewhere = place.folder / "elsewhere"
    for number in range(1, deaths + 1):
        sow(place.root, number)
        died = die_in(lambda: place.again().capture(), random.Random(number).random() * needed * 3)
        killed, needed = killed + died, needed * (1.2 if died else 0.8)  # however fast the machine is at this moment
        place.again(root=elsewhere).restore(tree)
        assert census(elsewhere) == told
        tree, told = place.again().capture().tree, census(place.root)
    assert killed > deaths // 5, "hardly anybody was killed at work: this shows nothing"


def test_a_death_while_capturing_leaves_the_capture_before_in_force(place: Place) -> None:
    trial(place, DEATHS)


@pytest.mark.soak
def test_a_thousand_deaths_while_capturing(place: Place) -> None:
    trial(place, 1000)


def restore_trial(place: Place, deaths: int) -> None:
    captured = []
    for seed in range(3):
        sow(place.root, seed)
        captured.append((place.files.capture().tree, census(place.root)))
    needed = duration(lambda: place.again().restore(captured[0][0]))
    killed = 0
    for number in range(deaths):
        tree, told = captured[number % 3]
        died = die_in(lambda tree=tree: place.again().restore(tree), random.Random(number).random() * needed)
        killed, needed = killed + died, needed * (1.2 if died else 0.8)
        half = census(place.root)
        for path, entry in half.items():
            if entry[0] == "file" and b"/.holdfast-" not in path:
                known = [one[path][5] for _, one in captured if path in one]
                assert entry[5] in known, "a file that is neither the old one nor the new one"
        place.again().restore(tree)
        assert census(place.root) == told
    assert killed > deaths // 5, "hardly anybody was killed at work: this shows nothing"


def test_a_death_while_restoring_is_mended_by_the_same_restore(place: Place) -> None:
    restore_trial(place, DEATHS)


@pytest.mark.soak
def test_a_thousand_deaths_while_restoring(place: Place) -> None:
    restore_trial(place, 1000)


COLLECTOR = """
import sys
from pathlib import Path
from holdfast.workspace import Packs, collect
print("begun", flush=True)
collect(Packs(Path(sys.argv[1])), lambda: [bytes.fromhex(tree) for tree in sys.argv[2:]], waste=0.01)
"""


def test_a_death_while_collecting_takes_nothing_that_is_referred_to(place: Place) -> None:
    captured = []
    for number in range(12):
        sow(place.root, number)
        captured = [*captured, (place.again().capture().tree, census(place.root))][-2:]
        trees = [tree.hex() for tree, _ in captured]
        process = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(place.store), *trees], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(number).random() * 0.06)
        process.kill()
        process.communicate()
        for tree, told in captured:
            elsewhere = place.folder / "elsewhere"
            elsewhere.mkdir(exist_ok=True)
            Workspace(elsewhere, Packs(place.store)).restore(tree)
            assert census(elsewhere) == told
