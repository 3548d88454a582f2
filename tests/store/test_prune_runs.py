"""Runs are pruned while others go on, and while the prune itself is killed: the log verifies, what goes on goes on, and
nothing is done twice."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from holdfast import AwaitingSignal, open_store
from holdfast.cli import main
from holdfast.embedded import House
from tests.postgres import Postgres
from tests.stage import life
from tests.store.shelf import ROOT, heard, start
from tests.store.talkers import answerer, quoter, talker, walker

STEP = 9  # every ninth write here, all of them in the soak


@dataclass(frozen=True, slots=True)
class Place:
    """A store, its anchor, and the world of its runs."""

    folder: Path
    database: str = ""

    @property
    def url(self) -> str:
        if self.database:
            apart = "&" if "?" in self.database else "?"
            return f"{self.database}{apart}key={self.folder}/key&anchor={self.folder}/anchor"
        return f"sqlite:///{self.folder}/runs.db?anchor={self.folder}/anchor"

    def copy(self, to: Path) -> Place:
        return Place(Path(shutil.copytree(self.folder, to)))

    def typed(self, *words: str) -> Any:
        """What a command says as JSON, which must succeed."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()) as complained:
            code = main([*words, "--store", self.url, "--json"])
        assert code == 0, said.getvalue() + complained.getvalue()
        return json.loads(said.getvalue())

    def stored(self) -> set[bytes]:
        if self.database:
            with psycopg.connect(self.database) as database:
                return {digest for (digest,) in database.execute("SELECT digest FROM holdfast.blob")}
        with contextlib.closing(apsw.Connection(f"{self.folder}/runs.db")) as connection:
            return {digest for (digest,) in connection.execute("SELECT digest FROM blob")}

    def told(self) -> list[str]:
        return sorted(self.folder.joinpath("told").read_text().split("\n"))


IN_A_FILE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Three runs that have ended, and two that wait for a signal, one of which keeps a state."""
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    found = Place(tmp_path / "place", "" if server is None else server.empty())
    found.folder.mkdir()
    monkeypatch.chdir(found.folder)
    with open_store(found.url) as house:
        for number in range(3):
            assert life(house, talker, {"turns": number + 2, "name": f"t{number}"}, id=f"t{number}") == 2 * number + 5
        assert isinstance(life(house, talker, {"turns": 4, "name": "w", "waits": True}, id="waits"), AwaitingSignal)
        assert isinstance(life(house, walker, {"turns": 4, "stops": 3}, id="walks"), AwaitingSignal)
    return found


def go_on(house: House) -> list[Any]:
    """Both that wait come to their end."""
    answers: list[Any] = []
    for run, performer in (("waits", talker), ("walks", walker)):
        house.signal(run, "go", "the word")
        answers.append(life(house, performer, id=run))
    return answers


ANSWERS = [10, [0, 1, 2, 3]]


def test_runs_that_go_on_share_what_they_need_with_runs_that_were_pruned(place: Place) -> None:
    before = place.stored()
    done = place.typed("prune", "--older-than", "0s")
    assert [row["run"] for row in done["runs"]] == ["t0", "t1", "t2"]
    assert len(before - place.stored()) == done["payloads"] > 0
    assert place.typed("verify")["pruned"] > 0
    with open_store(place.url) as house:
        assert go_on(house) == ANSWERS
    assert place.typed("verify")["ok"]
    assert len(place.told()) == len(set(place.told())), "something was done twice"


def test_a_run_goes_on_from_its_checkpoint_without_what_it_thought_before(place: Place) -> None:
    done = place.typed("prune", "walks", "--before-checkpoint")
    (row,) = done["runs"]
    assert (row["run"], row["extent"]) == ("walks", "behind")
    assert row["payloads"] > 5
    assert place.typed("verify")["pruned"] > 5
    with open_store(place.url) as house:
        assert go_on(house) == ANSWERS
    assert place.typed("verify")["ok"]
    assert len(place.told()) == len(set(place.told())), "something was done twice"


def test_a_living_run_does_not_rest_on_pieces_that_nothing_holds(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that another run has stored whole is cut once more: its pieces are stored, and nothing names them."""
    with open_store(place.url) as house:
        life(house, answerer, id="answerer")
        assert life(house, quoter, {"url": place.url}, id="quoter") == "quoted"
    assert "(left over)" in capsys.readouterr().out
    assert place.typed("verify")["ok"]


def test_processes_that_run_agents_beside_a_prune_lose_nothing(place: Place) -> None:
    talking = [start_in(place.folder, "talk", place.url, str(seed), "20") for seed in range(2)]
    went = 0
    try:
        while any(process.poll() is None for process in talking):
            went += place.typed("prune", "--older-than", "0s")["payloads"]
            assert place.typed("verify")["ok"]
        for process in talking:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    finally:
        for process in talking:
            process.kill()
            process.wait()
    assert went > 50, "nothing was pruned meanwhile"
    assert place.typed("prune", "--older-than", "0s")["left"] is None
    assert place.typed("verify")["ok"]
    assert len(place.told()) == len(set(place.told())), "something was done twice"
    with open_store(place.url) as house:
        assert go_on(house) == ANSWERS


# --- killed ---


def start_in(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The same as `start`, in a directory of its own."""
    import os

    paths = [str(ROOT), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.talkers", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def pruner() -> Iterator[subprocess.Popen[str]]:
    """Where children that prune come from."""
    process = start("tests.store.talkers", "prune")
    yield process
    process.communicate(timeout=60)


def child(pruner: subprocess.Popen[str], place: Place, boundary: str) -> str:
    """How a child ended that was to die at a boundary."""
    assert pruner.stdin is not None
    pruner.stdin.write(f"{place.url} {boundary}\n")
    pruner.stdin.flush()
    return heard(pruner)


def through(
    pruner: subprocess.Popen[str], place: Place, ground: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = place.copy(ground / "whole")
    assert child(pruner, whole, "-") == "left 0"
    monkeypatch.chdir(whole.folder)
    with open_store(whole.url) as house:
        assert go_on(house) == ANSWERS
    whole.typed("prune", "--older-than", "0s")
    deaths = 0
    for nth in range(1, 1000, step):
        for side in ("before", "after"):
            tried = place.copy(ground / f"{side}-{nth}")
            ended = child(pruner, tried, f"{side} write {nth}")
            deaths += ended == "killed"
            monkeypatch.chdir(tried.folder)
            assert tried.typed("verify")["ok"], f"{side} write {nth}"
            with open_store(tried.url) as house:
                assert go_on(house) == ANSWERS, f"{side} write {nth}"
            tried.typed("prune", "--older-than", "0s")
            assert tried.stored() == whole.stored(), f"{side} write {nth}"
            assert tried.typed("verify")["pruned"] == whole.typed("verify")["pruned"]
            assert tried.told() == whole.told(), f"{side} write {nth}: something was done twice"
            shutil.rmtree(tried.folder)
        if ended != "killed":
            break
    assert deaths > 3, "nobody was killed"


@IN_A_FILE
def test_a_prune_that_is_killed_leaves_a_whole_log_and_is_ended_by_the_next(
    pruner: subprocess.Popen[str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(pruner, place, tmp_path, monkeypatch, STEP)


@pytest.mark.soak
@IN_A_FILE
def test_a_prune_may_be_killed_at_every_write(
    pruner: subprocess.Popen[str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(pruner, place, tmp_path, monkeypatch, 1)
