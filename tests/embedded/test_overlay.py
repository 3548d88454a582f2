"""Branches whose directories are overlays: runs cannot tell, nothing is left mounted, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import House, agent, open_store
from holdfast.errors import Misuse
from holdfast.store.url import open_url
from holdfast.workspace import Layers, Packs
from holdfast.workspace.mount import mountable
from tests.stage import Killed, life
from tests.workspace.census import Census, census
from tests.workspace.test_layers import dies_at

FILES = 40


def url(folder: Path, overlay: str = "1") -> str:
    return f"sqlite:///{folder / 'runs.db'}?anchor=none&overlay={overlay}"


def overlays(folder: Path) -> list[str]:
    """What is mounted below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [words[4] for line in lines if (words := line.split(" "))[4].startswith(str(folder))]


def collect(root: Path) -> None:
    """Away with what nobody uses."""
    packs = Packs(root)
    Layers(root).collect(packs)
    packs.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if not mountable(tmp_path):
        pytest.skip("overlays can be mounted by root only, and not everywhere")
    yield tmp_path
    assert overlays(tmp_path) == [], "a mount was left behind"


class Story:
    """A run that makes files and a checkpoint, and then does what `then` says; what each life saw when it began."""

    def __init__(self, then: Any = None, **declared: Any) -> None:
        self.seen: list[tuple[str, Path, bool, Census]] = []

        @agent(workspace=True, **declared)
        async def works(run: Any, task: Any) -> Any:
            self.seen.append(
                (run.branch, run.workspace, str(run.workspace) in overlays(run.workspace), census(run.workspace))
            )
            if not (run.workspace / "file0").exists():
                for number in range(FILES):
                    (run.workspace / f"file{number}").write_text(str(number))
            await run.checkpoint()
            return await then(run) if then else "done"

        self.agent = works

    def forked(self, house: House) -> str:
        """The name of a branch that stands behind the checkpoint."""
        assert life(house, self.agent) == "done"
        self.told = census(self.seen[0][1])
        return house.fork("r@3", by="ann")


@pytest.mark.parametrize("overlay", ["0", "auto", "1"])
def test_a_fork_begins_with_the_same_files_whether_they_are_shown_or_made(folder: Path, overlay: str) -> None:
    story = Story()
    with open_store(url(folder, overlay)) as house:
        branch = story.forked(house)
        assert life(house, story.agent, branch=branch) == "done"
    name, path, shown, found = story.seen[-1]
    assert (name, path.name) == (branch, f"r@{branch}")
    assert shown == (overlay == "1"), "so few files are made by themselves"
    assert found == story.told
    assert path.exists() == (overlay != "1"), "what was shown is out of sight when the life is over"


def test_what_was_written_is_there_in_the_next_life(folder: Path) -> None:
    async def dies(run: Any) -> str:
        if run.branch == "main":
            return "done"
        if (run.workspace / "new").exists():
            return f"{(run.workspace / 'new').read_text()} {(run.workspace / 'file1').exists()}"
        (run.workspace / "new").write_text("work of a day")
        (run.workspace / "file1").unlink()
        raise Killed

    story = Story(dies)
    with open_store(url(folder)) as house:
        branch = story.forked(house)
        assert isinstance(life(house, story.agent, branch=branch), Killed)
    with open_store(url(folder, "0")) as house:  # what is an overlay stays one
        assert life(house, story.agent, branch=branch) == "work of a day False"
    assert [shown for _, _, shown, _ in story.seen] == [False, True, True]


def sleeper(path: Path) -> subprocess.Popen[bytes]:
    """A process that is in a directory."""
    return subprocess.Popen(["sleep", "60"], cwd=path)


def test_a_directory_that_is_in_use_stays_where_it_is(folder: Path) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    async def serves(run: Any) -> str:
        if run.branch != "main":
            begun.append(sleeper(run.workspace))
        return "done"

    story = Story(serves)
    with open_store(url(folder)) as house:
        branch = story.forked(house)
        assert life(house, story.agent, branch=branch) == "done"
        try:
            assert census(story.seen[-1][1]) == story.told
        finally:
            begun[0].kill()
            begun[0].wait()
    collect(folder / "runs.db-files")


DIES = """
import os, sys
from holdfast import agent, open_store
@agent(workspace=True)
async def works(run, task):
    (run.workspace / "new").write_text("work of a day")
    print(os.path.ismount(run.workspace), flush=True)
    os.kill(os.getpid(), 9)
with open_store(sys.argv[1]) as house:
    house.run(works, id="r", branch=sys.argv[2])
"""


def test_a_killed_process_leaves_it_shown_and_the_next_life_goes_on_in_it(folder: Path) -> None:
    story = Story()
    with open_store(f"{url(folder)}&claim_ttl_s=0.5") as house:
        branch = story.forked(house)
    command = [sys.executable, "-c", DIES, f"{url(folder)}&claim_ttl_s=0.5", branch]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "True\n"), done.stderr
    assert overlays(folder) == [str(folder / "runs.db-files" / "work" / f"r@{branch}")]
    with open_store(f"{url(folder)}&claim_ttl_s=0.5") as house:
        assert house.run(story.agent, id="r", branch=branch) == "done"
    assert {os.fsdecode(path) for path in story.seen[-1][3]} == {os.fsdecode(path) for path in story.told} | {"new"}


def test_candidates_of_a_search_work_on_one_checkout_apart_from_each_other(folder: Path) -> None:
    async def searches(run: Any) -> Any:
        chosen = await run.explore(["a", "b", "c"], score=lambda attempt: attempt.offer)
        (run.workspace / "file1").write_text(chosen)
        await run.offer(ord(chosen))
        return sorted({path.read_text() for path in run.workspace.iterdir()} & {"a", "b", "c"})

    story = Story(searches)
    with open_store(url(folder)) as house:
        assert house.run(story.agent, id="r") == ["c"]
    assert len(list((folder / "runs.db-files" / "checkouts").iterdir())) == 1
    assert len(list((folder / "runs.db-files" / "layers").iterdir())) == 3


def test_a_directory_that_a_user_names_is_never_an_overlay(folder: Path) -> None:
    mine = folder / "mine"
    mine.mkdir()
    story = Story()
    with open_store(url(folder)) as house:
        branch = story.forked(house)
        assert life(house, story.agent, branch=branch, workspace=mine) == "done"
    assert story.seen[-1][1:3] == (mine, False)
    assert not (folder / "runs.db-files" / "layers").exists()


def test_a_choice_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="overlay=yes"):
        open_url(url(tmp_path, "yes"))


def test_a_death_at_any_step_of_a_life_is_mended_by_the_next(folder: Path) -> None:
    """The child dies right before the step of a number; then the branch begins with the files of its node."""
    story, store = Story(), f"{url(folder)}&claim_ttl_s=0.5"
    with open_store(store) as house:
        first = story.forked(house)
    root, step, mended, branch = folder / "runs.db-files", 0, 0, first

    def begins(name: str) -> None:
        mountable.cache_clear()
        with open_store(store) as house:
            house.run(story.agent, id="r", branch=name)

    while dies_at(step, lambda name=branch: begins(name)):
        begins(branch)
        if story.seen[-1][0] == branch:  # or else it died after the run's end
            mended += 1
            assert story.seen[-1][2:] == (True, story.told)
        assert census(root / "checkouts" / os.listdir(root / "checkouts")[0]) == story.told
        with open_store(store) as house:
            branch = house.fork("r@3", by="ann")
        step += 1
        assert step < 500
    assert mended > 20, "hardly anything was done before it was killed: this shows nothing"
    collect(root)
    assert list(root.glob(".*")) == []
