"""Death while checkpoints with files are made, or put back: the one before stays in force, state and files together.

What the files must be after so many steps is worked out a second time, in a directory that the product never sees.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast import agent, open_store
from tests.crash.deaths import Boundary, arm
from tests.workspace.census import Census, census

STEPS = 40
FILES = 60


@dataclass
class Steps:
    """What the agent remembers."""

    done: int = 0


def work(root: Path, step: int) -> None:
    """What a step does to the files; from the same files it always makes the same."""
    roll = random.Random(step)
    for number in roll.sample(range(FILES), 12):
        path = root / f"d{number % 7}" / f"f{number}"
        if path.parent.is_symlink():
            path.parent.unlink()
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if roll.random() < 0.8:
            path.write_bytes(roll.randbytes(roll.choice([3, 3_000, 40_000])))
            path.chmod(roll.choice([0o600, 0o644, 0o755]))
    link = root / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(f"step{step}")
    for empty in [path for path in root.iterdir() if path.is_dir() and not any(path.iterdir())]:
        empty.rmdir()


def model(folder: Path) -> list[Census]:
    """The files after each number of steps."""
    folder.mkdir()
    found = [census(folder, times=False)]
    for step in range(STEPS):
        work(folder, step)
        found.append(census(folder, times=False))
    return found


class Trial:
    """One run, through many lives; what each life began with is told in a file outside its workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'runs.db'}?anchor=none"
        self.told = folder / "told"
        self.model = model(folder / "model")
        self.run = 0

    def live(self, *deaths: str, steps: int = STEPS) -> None:
        """One life, in this process: as many steps as are left, or until it dies."""

        @agent(state=Steps, workspace=True)
        def walks(run: Any, task: Any) -> int:
            found = census(run.workspace, times=False)
            same = found == self.model[run.state.done]
            with self.told.open("a") as told:
                told.write(json.dumps([run.state.done, same]) + "\n")
            while run.state.done < task:
                work(run.workspace, run.state.done)
                run.state.done += 1
                run.checkpoint()
            return run.state.done

        for death in deaths:
            arm(Boundary.of(death))
        with open_store(self.url) as house:
            house.run(walks, steps, id=f"r{self.run}")

    def child(self, *deaths: str, after_s: float | None = None) -> bool:
        """One life in a child, killed after a time if one is given; whether it was killed."""
        pid = os.fork()
        if pid == 0:
            try:
                self.live(*deaths)
            finally:
                os._exit(0)
        if after_s is not None:
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def began(self) -> list[tuple[int, bool]]:
        """The steps that were behind each life when it began, and whether its files were those of its state."""
        return [tuple(json.loads(line)) for line in self.told.read_text().splitlines()]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


@pytest.mark.parametrize("boundary", [f"{side} Checkpoint {nth}" for nth in (1, 2, 3) for side in ("before", "after")])
def test_a_death_around_a_checkpoint_leaves_one_whole_checkpoint_in_force(trial: Trial, boundary: str) -> None:
    side, _, nth = boundary.split()
    assert trial.child(boundary)
    assert not trial.child()
    behind = int(nth) - (1 if side == "after" else 2)  # the first checkpoint of a run is of how it begins
    # no life tells anything before the first checkpoint of the run is there
    assert trial.began()[-1] == (max(behind, 0), True)


def deaths(trial: Trial, most: int) -> None:
    """Kill one life after another at a random moment."""
    roll = random.Random(most)
    killed, needed = 0, 0.4
    for _ in range(most):
        died = trial.child(after_s=roll.random() * needed)
        killed, needed = killed + died, needed * (1.1 if died else 0.7)
        trial.run += not died  # it has come to its end: another one begins
    assert not trial.child()
    began = trial.began()
    assert [each for each in began if not each[1]] == []
    assert killed > most // 5, "hardly anybody was killed at work: this shows nothing"
    assert len({done for done, _ in began}) > 3, "no life went on from anything"


def test_deaths_at_any_moment_leave_state_and_files_together(trial: Trial) -> None:
    deaths(trial, 30)


@pytest.mark.soak
def test_a_thousand_deaths_leave_state_and_files_together(trial: Trial) -> None:
    deaths(trial, 1000)
