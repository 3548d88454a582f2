"""A run's files: they come back with its state, nobody's work is lost, nothing outside their directory is touched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast import House, agent, open_store, tool
from holdfast.core.log import Log
from holdfast.core.record import Checkpoint, Intent, Seal
from holdfast.embedded.files import Files
from holdfast.errors import BadCall, Busy, Misuse, Unreadable
from holdfast.store.url import Opening
from holdfast.workspace import Kept, Packs, Workspace
from holdfast.workspace.manifest import File
from holdfast.workspace.reach import walk
from tests.stage import Killed, life, of, records
from tests.workspace.census import Census, census


@dataclass
class Steps:
    """What the agents of these tests remember."""

    done: int = 0


class Ground:
    """A store in a directory, the world outside beside it, and what agents saw when they began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "runs.db-files"
        self.work = self.root / "work"
        self.seen: list[tuple[Any, Census]] = []

    def open(self) -> House:
        return open_store(f"sqlite:///{self.folder / 'runs.db'}?anchor=none")

    def lives(self, *bodies: Any, id: str = "r", workspace: Path | None = None, **declared: Any) -> list[Any]:
        """What the lives of one run come to, each in a house that was opened anew."""
        endings: list[Any] = []
        for body in bodies:

            @agent(workspace=True, **{"state": Steps, **declared})
            async def works(run: Any, task: Any, body: Any = body) -> Any:
                self.seen.append((run.state, census(run.workspace)))
                return await body(run)

            with self.open() as house:
                endings.append(life(house, works, id=id, workspace=workspace))
        return endings

    def restored(self, tree: str) -> Census:
        """What a capture holds, restored to a place of its own."""
        place = self.folder / f"restored-{tree[:8]}-{time.monotonic_ns()}"
        place.mkdir()
        Workspace(place, Packs(self.root)).restore(bytes.fromhex(tree))
        return census(place)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def sow(root: Path) -> None:
    """One of each kind of thing."""
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "deep" / "er" / "file").write_bytes(os.urandom(5000))
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    (root / "link").symlink_to("deep/er/file")
    os.link(root / "script", root / "deep" / "tied")
    os.utime(root / "deep", ns=(1, 1))


def spoil(root: Path) -> None:
    """Change, remove and add."""
    (root / "deep" / "er" / "file").write_text("spoilt")
    (root / "script").unlink()
    shutil.rmtree(root / "empty")
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/passwd")
    (root / "more").mkdir()
    (root / "more" / "precious").write_text("an hour of work")


async def ends(run: Any) -> str:
    return "done"


# --- coming back ---


def test_files_come_back_with_the_state_that_was_closed_with_them(ground: Ground) -> None:
    closed: list[Census] = []

    async def dies(run: Any) -> None:
        sow(run.workspace)
        run.state.done = 1
        closed.append(census(run.workspace))
        await run.checkpoint()
        spoil(run.workspace)
        run.state.done = 2
        raise Killed

    endings = ground.lives(dies, ends)
    assert endings[1] == "done"
    assert ground.seen[1] == (Steps(1), closed[0])


def test_a_run_that_dies_before_its_first_checkpoint_begins_again_with_the_files_it_began_with(ground: Ground) -> None:
    mine = ground.folder / "mine"
    mine.mkdir()
    sow(mine)
    before = census(mine)

    async def dies(run: Any) -> None:
        spoil(run.workspace)
        raise Killed

    assert ground.lives(dies, ends, workspace=mine)[1] == "done"
    assert ground.seen == [(Steps(), before), (Steps(), before)]


def test_an_agent_that_is_replayed_finds_its_files_as_they_are(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        spoil(run.workspace)
        ground.seen.append((None, census(run.workspace)))
        raise Killed

    assert ground.lives(dies, ends, state=None)[1] == "done"
    assert ground.seen[2] == ground.seen[1]


@pytest.mark.parametrize("state", [Steps, None])
def test_files_that_are_gone_are_restored_from_the_newest_checkpoint(ground: Ground, state: Any) -> None:
    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        ground.seen.append((None, census(run.workspace)))
        raise Killed

    ground.lives(dies, state=state)
    shutil.rmtree(ground.work)  # as on another machine
    assert ground.lives(ends, state=state) == ["done"]
    assert ground.seen[2][1] == ground.seen[1][1]


def test_a_directory_that_was_only_half_made_is_made_again(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        ground.seen.append((None, census(run.workspace)))
        raise Killed

    ground.lives(dies, state=None)
    shutil.rmtree(ground.work / "r@main" / "deep")
    (ground.work / "r@main.new").touch()
    assert ground.lives(ends, state=None) == ["done"]
    assert ground.seen[2][1] == ground.seen[1][1]
    assert not (ground.work / "r@main.new").exists()


def test_a_run_goes_on_from_files_of_which_nothing_differs_without_touching_them(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        raise Killed

    ground.lives(dies)
    before = {path: os.lstat(path).st_ctime_ns for path in ground.work.rglob("*")}
    ground.lives(ends)
    assert {path: os.lstat(path).st_ctime_ns for path in ground.work.rglob("*")} == before
    assert Kept(ground.root).all() == []


def test_a_new_run_does_not_begin_with_the_files_of_another_log(ground: Ground) -> None:
    async def first(run: Any) -> None:
        (run.workspace / "file").write_text("an hour of work")

    ground.lives(first)
    for path in ground.folder.glob("runs.db*"):
        if path.is_file():
            path.unlink()
    ground.lives(first)
    assert [sorted(found) for _, found in ground.seen] == [[b""], [b""]]
    assert sorted(path.read_text() for path in ground.work.rglob("file")) == ["an hour of work"] * 2


def test_the_services_of_the_checkpoint_that_a_run_goes_on_from_are_told(ground: Ground) -> None:
    told: list[tuple[str, ...]] = []

    async def dies(run: Any) -> None:
        told.append(run.services)
        await run.checkpoint(services=["npm run dev", "redis-server"], labels=["green"])
        raise Killed

    async def again(run: Any) -> None:
        told.append(run.services)
        await run.checkpoint()
        raise Killed

    async def third(run: Any) -> None:
        told.append(run.services)

    ground.lives(dies, again, third)
    assert told == [(), ("npm run dev", "redis-server"), ()]
    with ground.open() as house:
        assert [record.labels for record in of(Checkpoint, house)] == [(), ("green",), ()]


# --- nobody's work is lost ---


def test_what_is_there_is_kept_before_other_files_are_put_back(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt: list[Census] = []

    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        spoil(run.workspace)
        spoilt.append(census(run.workspace))
        raise Killed

    with caplog.at_level(logging.WARNING, logger="holdfast"):
        ground.lives(dies, ends)
    (kept,) = Kept(ground.root).all()
    assert ground.restored(kept.tree) == spoilt[0]
    assert kept.name == "r@main"
    (message,) = [record.getMessage() for record in caplog.records if record.name == "holdfast"]
    assert f"holdfast files kept:{kept.tree[:16]} --into DIR" in message


def test_what_cannot_be_kept_is_not_replaced(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        await run.checkpoint()
        deep = run.workspace
        for _ in range(210):
            deep = deep / "d"
            deep.mkdir()
        (deep / "precious").write_text("an hour of work")
        raise Killed

    endings = ground.lives(dies, ends)
    assert isinstance(endings[1], Unreadable)
    assert len(list((ground.work / "r@main").rglob("precious"))) == 1
    assert len(ground.seen) == 1, "the agent began with files that are not those of its state"


def test_a_checkpoint_whose_files_cannot_be_captured_leaves_the_one_before_in_force(ground: Ground) -> None:
    heard: list[Exception] = []

    async def fails(run: Any) -> None:
        sow(run.workspace)
        run.state.done = 1
        await run.checkpoint()
        ground.seen.append((None, census(run.workspace)))
        deep = run.workspace
        for _ in range(210):
            deep = deep / "d"
            deep.mkdir()
        run.state.done = 2
        try:
            await run.checkpoint()
        except Unreadable as error:
            heard.append(error)
        shutil.rmtree(run.workspace / "d")
        raise Killed

    assert ground.lives(fails, ends)[1] == "done"
    assert len(heard) == 1
    assert ground.seen[2] == (Steps(1), ground.seen[1][1])


# --- where ---


@pytest.mark.parametrize("state", [Steps, None])
def test_each_branch_has_a_directory_of_its_own(ground: Ground, state: Any) -> None:
    """A fork begins with the files of the newest checkpoint at or before its node."""
    began: list[tuple[str, Path, dict[str, str]]] = []

    @agent(state=state, workspace=True)
    async def works(run: Any, task: Any) -> str:
        files = {path.name: path.read_text() for path in run.workspace.iterdir()}
        began.append((run.branch, run.workspace, files))
        for name in ("one", "two"):
            if name not in files:
                (run.workspace / name).write_text(run.branch)
                await run.checkpoint()
        return run.branch

    with ground.open() as house:
        assert life(house, works) == "main"
        first = next(
            seq for seq, record in enumerate(records(house), 1)
            if isinstance(record, Checkpoint) and sorted(walked(ground, record)) == [b"one"]
        )  # fmt: skip
        branch = house.fork(f"r@{first}", by="ann")
        assert life(house, works, branch=branch) == branch
    assert began[1] == (branch, ground.work / f"r@{branch}", {"one": "main"})
    assert {path.name: path.read_text() for path in (ground.work / f"r@{branch}").iterdir()} == {
        "one": "main", "two": branch,
    }  # fmt: skip
    assert {path.name: path.read_text() for path in (ground.work / "r@main").iterdir()} == {
        "one": "main", "two": "main",
    }  # fmt: skip


def walked(ground: Ground, record: Checkpoint) -> set[bytes]:
    """The names in the files of a checkpoint."""
    assert record.workspace is not None
    return {path for path, _ in walk(Packs(ground.root).get, bytes.fromhex(record.workspace))}


def test_a_branch_that_is_given_its_users_directory_puts_its_files_there(ground: Ground) -> None:
    mine = ground.folder / "mine"
    mine.mkdir()
    (mine / "file").write_text("an hour of work")

    async def dies(run: Any) -> None:
        (run.workspace / "file").write_text("by the agent")
        await run.checkpoint()
        raise Killed

    ground.lives(dies, state=None)
    assert ground.lives(ends, state=None, workspace=mine) == ["done"]
    assert (mine / "file").read_text() == "by the agent"
    (kept,) = Kept(ground.root).all()
    assert ground.restored(kept.tree)[b"file"][4] == len("an hour of work")


def test_a_directory_that_its_user_names_is_remembered(ground: Ground) -> None:
    mine = ground.folder / "mine"
    mine.mkdir()
    where: list[Path] = []

    async def dies(run: Any) -> None:
        where.append(run.workspace)
        (run.workspace / "file").write_text("x")
        await run.checkpoint()
        raise Killed

    async def again(run: Any) -> None:
        where.append(run.workspace)

    ground.lives(dies, workspace=mine)
    ground.lives(again)
    assert where == [mine, mine]
    shutil.rmtree(mine)
    (ending,) = ground.lives(again, id="r2", workspace=ground.folder / "nowhere")
    assert isinstance(ending, Misuse)


def test_two_runs_do_not_work_in_one_directory(ground: Ground) -> None:
    mine = ground.folder / "mine"
    mine.mkdir()

    async def meets(run: Any) -> Any:
        raised: list[Any] = []

        @agent(state=Steps, workspace=True)
        async def other(run: Any, task: Any) -> None: ...

        async with open_store(f"sqlite:///{ground.folder / 'other.db'}?anchor=none") as house:
            with pytest.raises(Busy) as told:
                await house.arun(other, id="o", workspace=mine, wait=False)
            raised.append(told.value)
        return len(raised)

    assert ground.lives(meets, workspace=mine) == [1]


@pytest.mark.parametrize("inside", ["runs.db", "runs.db-key", "runs.db-files", "anchor"])
def test_the_stores_own_files_are_never_in_a_workspace(tmp_path: Path, inside: str) -> None:
    mine, outside = tmp_path / "mine", tmp_path / "outside"
    mine.mkdir()
    outside.mkdir()
    place = {name: (mine if name == inside else outside) / name
             for name in ("runs.db", "runs.db-key", "runs.db-files", "anchor")}  # fmt: skip
    url = (
        f"sqlite:///{place['runs.db']}?key={place['runs.db-key']}"
        f"&workspaces={place['runs.db-files']}&anchor={place['anchor']}"
    )
    ran: list[Any] = []

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> None:
        ran.append(task)

    with open_store(url) as house:
        for named in (mine, tmp_path, tmp_path / "outside" / ".." / "mine"):
            told = life(house, works, workspace=named)
            assert isinstance(told, Misuse)
            assert "lies in the workspace" in told.what
        assert records(house) == []
    assert ran == []


def test_a_store_behind_a_link_is_not_in_a_workspace_either(tmp_path: Path) -> None:
    mine, outside = tmp_path / "mine", tmp_path / "outside"
    mine.mkdir()
    outside.mkdir()
    key = outside / "key"
    with open_store(f"sqlite:///{mine / 'runs.db'}?anchor=none&key={key}"):
        pass
    (outside / "runs.db").symlink_to(mine / "runs.db")

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> None: ...

    with open_store(f"sqlite:///{outside / 'runs.db'}?anchor=none&key={key}") as house:
        assert isinstance(life(house, works, workspace=mine), Misuse)


def test_what_belongs_to_the_store_is_no_workspace(ground: Ground) -> None:
    async def first(run: Any) -> None: ...

    ground.lives(first)
    for named in (ground.root, ground.work, ground.work / "r@main"):
        assert isinstance(ground.lives(first, id="other", workspace=named)[0], Misuse)


def test_an_agent_that_declares_no_workspace_has_none(ground: Ground) -> None:
    @agent
    async def plain(run: Any, task: Any) -> Any:
        with pytest.raises(Misuse):
            _ = run.workspace
        return await run.checkpoint()

    with ground.open() as house:
        assert life(house, plain) == "r@3"
        assert of(Checkpoint, house)[0].workspace is None
        assert isinstance(life(house, plain, id="other", workspace=ground.folder), BadCall)
    assert not ground.root.exists()


def test_a_state_that_is_not_there_from_the_beginning_is_refused(ground: Ground) -> None:
    @dataclass
    class Late:
        must: int

    (ending,) = ground.lives(ends, state=Late)
    assert isinstance(ending, BadCall)


def test_what_is_ignored_is_neither_carried_nor_touched(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        (run.workspace / "build").mkdir()
        (run.workspace / "build" / "big").write_text("1")
        (run.workspace / "file").write_text("1")
        await run.checkpoint()
        (run.workspace / "build" / "big").write_text("2")
        (run.workspace / "file").write_text("2")
        raise Killed

    async def looks(run: Any) -> list[str]:
        return [(run.workspace / name).read_text() for name in ("build/big", "file")]

    assert ground.lives(dies, looks, ignore=["build/"])[1] == ["2", "1"]


def test_the_files_of_a_store_in_memory_end_with_it() -> None:
    where: list[Path] = []

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> str:
        where.append(run.workspace)
        if not run.state.done:
            run.state.done = 1
            (run.workspace / "file").write_text("kept")
            await run.checkpoint()
            (run.workspace / "file").write_text("spoilt")
            raise ValueError
        return (run.workspace / "file").read_text()

    with open_store("memory://") as house:
        assert isinstance(life(house, works), ValueError)
        assert life(house, works) == "kept"
        assert where[0].is_dir()
    assert not where[0].exists()


# --- hostile files ---


def test_a_link_in_the_place_of_the_directory_is_refused(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        (run.workspace / "file").write_text("x")
        await run.checkpoint()
        raise Killed

    ground.lives(dies)
    outside = ground.folder / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    before = census(outside)
    (ground.work / "r@main").rename(ground.work / "aside")
    (ground.work / "r@main").symlink_to(outside)
    (ending,) = ground.lives(ends)
    assert isinstance(ending, Misuse)
    assert census(outside) == before


def test_links_that_an_agent_left_in_its_files_lead_no_restore_outside(ground: Ground) -> None:
    outside = ground.folder / "outside"
    for folder in ("deep", "deep/er"):
        (outside / folder).mkdir(parents=True)
        (outside / folder / "file").write_text("precious")
    before = census(outside), {path: os.lstat(path).st_ctime_ns for path in outside.rglob("*")}

    async def dies(run: Any) -> None:
        sow(run.workspace)
        await run.checkpoint()
        ground.seen.append((None, census(run.workspace)))
        for place, target in (("deep", outside / "deep"), ("empty", outside)):
            shutil.rmtree(run.workspace / place)
            (run.workspace / place).symlink_to(target)
        (run.workspace / "script").unlink()
        (run.workspace / "script").symlink_to(outside / "deep" / "file")
        (run.workspace / "up").symlink_to("..")
        raise Killed

    assert ground.lives(dies, ends)[1] == "done"
    assert ground.seen[2][1] == ground.seen[1][1]
    assert (census(outside), {path: os.lstat(path).st_ctime_ns for path in outside.rglob("*")}) == before


# --- what a checkpoint costs, and what it holds ---


class Counted:
    """A store that tells of each append whether it was a barrier."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.barriers: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, *given: Any, **how: Any) -> Any:
        self.barriers.append(how.get("barrier", False))
        return await self._inner.append(*given, **how)


def written(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Every file and directory below, by what changes when it is written."""
    told = {path: os.lstat(path) for path in [root, *root.rglob("*")]}
    return {path: (one.st_ino, one.st_size, one.st_ctime_ns) for path, one in told.items()}


def test_a_checkpoint_of_files_that_did_not_change_writes_its_entry_and_nothing_else(ground: Ground) -> None:
    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> Any:
        sow(run.workspace)
        await run.checkpoint()
        await asyncio.sleep(0.05)  # what changed a moment ago could not be told from a next change: it is read again
        await run.checkpoint()
        before = written(ground.root)
        counted.barriers.clear()
        await run.checkpoint()
        return len(counted.barriers), counted.barriers[0], written(ground.root) == before

    with ground.open() as house:
        house.store = counted = Counted(house.store)  # type: ignore[assignment]
        assert life(house, works) == [1, True, True]
        trees = [record.workspace for record in of(Checkpoint, house)]
        assert len(set(trees[1:])) == 1


def test_no_checkpoint_stands_between_an_intent_and_its_seal(ground: Ground) -> None:
    """An agent that closes while others of its tasks call: in the log no call is open where a checkpoint stands."""

    @tool(kind="irreversible", name="do", repeat="each")
    async def do(what: int) -> int:
        await asyncio.sleep(0.001 * (what % 4))
        return what

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> None:
        async def calls(first: int) -> None:
            for number in range(12):
                await do(first + number)
                (run.workspace / f"{first + number}").write_text("x")
                await asyncio.sleep(0)

        async def closes() -> None:
            for _ in range(8):
                await run.checkpoint()
                await asyncio.sleep(0.002)

        await asyncio.gather(calls(100), calls(200), closes(), calls(300))

    with ground.open() as house:
        life(house, works)
        found = records(house)
    open_: set[int] = set()
    stood = 0
    for seq, record in enumerate(found, 1):
        match record:
            case Intent():
                open_.add(seq)
            case Seal(intent=int(intent)):
                open_.discard(intent)
            case Checkpoint():
                stood += 1
                assert not open_, f"a checkpoint at {seq} stands on the open calls at {open_}"
            case _:
                pass
    assert stood == 9


WRITER = """
import itertools, os, sys
print("begun", flush=True)
for number in itertools.count():
    for name in ("a/first", "m/second", "z/third"):
        path = os.path.join(sys.argv[1], name)
        with open(path + ".new", "w") as file:
            file.write(str(number))
        os.rename(path + ".new", path)
"""


@contextlib.contextmanager
def writer(root: Path) -> Iterator[None]:
    """A process that writes one number into three files, one after another, then the next. It stands elsewhere."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, cwd="/")
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def test_files_that_a_process_writes_are_captured_as_they_once_were(ground: Ground) -> None:
    async def closes(run: Any) -> None:
        for number in range(800):  # so that a look at all of them takes a while
            path = run.workspace / "abcdefghijklmnopqrstuvwxyz"[number % 26] / f"file {number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        with writer(run.workspace):
            await asyncio.sleep(0.05)
            for _ in range(25):
                await run.checkpoint()

    ground.lives(closes)
    packs, whole = Packs(ground.root), 0
    with ground.open() as house:
        found = of(Checkpoint, house)[1:]
    for record in found:
        assert record.workspace is not None
        entries = dict(walk(packs.get, bytes.fromhex(record.workspace)))
        numbers = [
            int(packs.get(entry.content))
            for name in (b"a/first", b"m/second", b"z/third")
            if isinstance(entry := entries.get(name), File)
        ]
        assert len(numbers) == 3
        assert numbers[0] >= numbers[1] >= numbers[2] >= numbers[0] - 1, f"{numbers} never stood there together"
        whole += 1
    assert whole == 25
    assert len({record.workspace for record in found}) > 5, "the writer hardly wrote: this shows nothing"


def busy() -> subprocess.Popen[bytes]:
    """A process that never rests. It stands elsewhere."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"], cwd="/")


def test_the_processes_of_a_run_stand_still_while_its_files_are_captured(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, seen, working = Workspace.capture, list[str](), list[subprocess.Popen[bytes]]()

    def watched(self: Workspace) -> object:
        for process in working:
            asked = ["/bin/ps", "-o", "state=", "-p", str(process.pid)]
            seen.append(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()[:1])
        return capture(self)

    monkeypatch.setattr(Workspace, "capture", watched)

    async def closes(run: Any) -> None:
        working.append(busy())
        try:
            await run.checkpoint()
        finally:
            working[0].kill()
            working[0].wait()

    ground.lives(closes)
    assert seen == ["T"]


def test_ten_thousand_files_are_carried_and_only_the_changed_ones_are_stored(ground: Ground) -> None:
    async def dies(run: Any) -> None:
        for number in range(10_000):
            path = run.workspace / f"d{number // 100}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number)
        await run.checkpoint()
        before = sum(path.stat().st_size for path in (ground.root / "packs").iterdir())
        for number in range(0, 10_000, 1_000):
            (run.workspace / f"d{number // 100}" / f"f{number}").write_bytes(b"changed %d" % number)
        run.state.done = 1
        await run.checkpoint()
        after = sum(path.stat().st_size for path in (ground.root / "packs").iterdir())
        ground.seen.append((after - before, census(run.workspace)))
        shutil.rmtree(run.workspace / "d7")
        (run.workspace / "d0" / "f0").write_bytes(b"spoilt")
        raise Killed

    assert ground.lives(dies, ends)[1] == "done"
    assert ground.seen[2] == (Steps(1), ground.seen[1][1])
    assert len(ground.seen[2][1]) == 10_101
    assert ground.seen[1][0] < 200_000


def test_a_relative_store_keeps_its_files_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where: list[Path] = []

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> None:
        where.append(run.workspace)

    with open_store("sqlite:///runs.db?anchor=none") as house:
        monkeypatch.chdir("/")
        life(house, works)
    assert where == [tmp_path / "runs.db-files" / "work" / "r@main"]


def test_nothing_is_made_where_nobody_works_with_files(ground: Ground) -> None:
    files = Files(Opening(None, b"", ground.root))  # type: ignore[arg-type]

    @agent
    async def plain(run: Any, task: Any) -> None: ...

    async def there() -> object:
        async with files.open(Log("r@main"), plain) as room:
            return room

    assert asyncio.run(there()) is None
    assert not ground.root.exists()


def test_each_candidate_of_a_search_works_on_files_of_its_own(ground: Ground) -> None:
    """Also where the program closes before it searches: the candidates come by that place again, and search no more."""
    lives: list[str] = []

    @tool(kind="irreversible", name="send")
    async def send(what: str) -> str:
        return what

    @agent(state=Steps, workspace=True)
    async def works(run: Any, task: Any) -> Any:
        lives.append(run.branch)
        assert len(lives) < 20, f"searches within searches: {lives}"
        (run.workspace / "base").write_text("base")
        await run.checkpoint()
        chosen = await run.explore(["a", "b", "c"], score=lambda attempt: attempt.offer)
        (run.workspace / "choice").write_text(chosen)
        await run.offer(ord(chosen))
        await send(chosen)
        return {path.name: path.read_text() for path in run.workspace.iterdir()}

    with ground.open() as house:
        assert house.run(works, id="r") == {"base": "base", "choice": "c"}
    branches = [path for path in sorted(ground.work.iterdir()) if path.is_dir()]
    assert {path.name: sorted(os.listdir(path)) for path in branches} == {
        "r@main": ["base"],
        "r@b2": ["base", "choice"],
        "r@b3": ["base", "choice"],
        "r@b4": ["base", "choice"],
    }


COLLECTOR = """
import sys
from holdfast.cli import main
print("begun", flush=True)
while True:
    main(["files", "--collect", "--store", sys.argv[1]])
"""


@contextlib.contextmanager
def collector(store: Path) -> Iterator[None]:
    """A process that collects, again and again."""
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def test_what_is_collected_beside_a_run_is_nothing_that_a_checkpoint_names(ground: Ground) -> None:
    closed: list[Census] = []

    async def closes(run: Any) -> None:
        with collector(ground.folder / "runs.db"):
            for number in range(30):
                (run.workspace / f"file {number % 5}").write_bytes(os.urandom(20_000))
                closed.append(census(run.workspace))
                await run.checkpoint()
                await asyncio.sleep(0.02)

    ground.lives(closes)
    with ground.open() as house:
        found = of(Checkpoint, house)[1:]
    assert [ground.restored(record.workspace) for record in found] == closed
