"""The files of a sandboxed agent: its checkpoints hold them, and a resume or a fork finds them as they were."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_sandboxed import ended, inside
from tests.gateway.cell import ROOT, until
from tests.gateway.premises import Premises, eventually, premises

SCRIBE = '''
"""Writes a chapter in each step, tells somebody, and stands still where `stop` of its task says."""
import os, subprocess, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from holdfast import agent, tool

@tool(kind="irreversible", identity=["chapter"], repeat="each")
async def tell(chapter: int) -> str:
    with Path(os.environ["WORLD"]).open("a") as file:
        file.write(f"{chapter}\\n")
    return f"told {chapter}"

@dataclass
class Book:
    chapters: int = 0
    seen: list = field(default_factory=list)

@agent(state=Book, workspace=True)
async def scribe(run, task):
    book, here = run.state, run.workspace
    while book.chapters < 3:
        number = book.chapters
        book.seen.append(sorted(path.name for path in here.iterdir()))
        (here / f"chapter-{number}").write_text(f"chapter {number}")
        await tell(number)
        book.chapters += 1
        await run.checkpoint()
        if task == f"stop {number}":
            (here / "chapter-0").write_text("spoilt")
            (here / "litter").mkdir()
            (here / "stands").touch()
            time.sleep(600)
    return {"seen": book.seen, "files": {path.name: path.read_text() for path in sorted(here.iterdir())}}

@agent(state=Book, workspace=True)
async def ticker(run, task):
    """Something of it writes all the time: two files that are always the same, but for a moment."""
    code = """
import os
n = 0
while True:
    n += 1
    for name in ("one", "two"):
        with open(name, "w") as file:
            file.write(str(n)); file.flush()
"""
    worker = subprocess.Popen([sys.executable, "-c", code])
    while not Path("two").exists() or not Path("two").read_text():
        time.sleep(0.01)
    nodes = [await run.checkpoint() for _ in range(5)]
    worker.kill()
    return nodes

@agent(state=Book, workspace=True)
async def counts(run, task):
    """As many files as its state says, whenever it begins."""
    book, here = run.state, run.workspace
    found = sorted(int(path.name) for path in here.iterdir())
    if found != list(range(book.chapters)):
        return {"state": book.chapters, "files": found}
    while book.chapters < task:
        (here / str(book.chapters)).touch()
        book.chapters += 1
        await run.checkpoint()
    return "whole"

@agent(state=Book, workspace=True)
async def hoarder(run, task):
    for number in range(task):
        Path(f"file-{number}").touch()
    await run.checkpoint()

@agent(state=Book, workspace=True)
async def linker(run, task):
    os.symlink("/etc/hostname", "out")
    os.symlink(task, "back")
    os.mkfifo("pipe")
    await run.checkpoint()
    return sorted(os.listdir())
'''


class Study(Premises):
    """A gateway's directory, and the agents of `scribe.py`."""

    def begin(self, agent: str, *options: str, task: Any = None, run: str = "s") -> subprocess.Popen[str]:
        line = [
            sys.executable, "-m", "holdfast", "run", "--sandbox", "--agent", "scribe", "--id", run,
            "--input", json.dumps(task), *options, f"scribe:{agent}",
        ]  # fmt: skip
        process = subprocess.Popen(
            line, cwd=self.place, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    @property
    def told(self) -> list[str]:
        return (self.place / "told").read_text().splitlines()

    def folder(self, branch: str) -> Path:
        return self.place / "runs.db-files" / "work" / branch

    def stopped(self, number: int) -> None:
        """Kill the agent behind its checkpoint number `number`."""
        process = self.begin("scribe", task=f"stop {number}")
        stands = self.folder("s@main") / "stands"
        assert until(lambda: stands.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        (agent,) = inside(process.pid, "scribe:scribe")
        os.kill(agent, signal.SIGKILL)
        assert ended(process)[0] == 128 + signal.SIGKILL


@pytest.fixture
def here(tmp_path: Path) -> Generator[Study]:
    with premises(tmp_path) as found:
        found.__class__ = Study
        assert isinstance(found, Study)
        (tmp_path / "agents").mkdir()
        (tmp_path / "agents" / "scribe.py").write_text(textwrap.dedent(SCRIBE))
        found.configure(f"""
            [upstreams.post]
            kind = "python"
            modules = ["scribe"]
            path = ["agents"]
            environment = {{ WORLD = "{tmp_path}/told" }}
            [agents.scribe]
            tools = ["post.*"]
            restores = true
            workspace = true
            [sandbox]
            read_only = ["agents", "{ROOT}/src"]
            workspace_entries = 50
            """)
        yield found


def test_an_agent_that_was_killed_finds_its_files_as_its_checkpoint_left_them(here: Study) -> None:
    here.stopped(1)
    assert (here.folder("s@main") / "chapter-0").read_text() == "spoilt"
    code, out, err = ended(here.begin("scribe", task="stop 1"))
    assert code == 0, err
    told = json.loads(out)
    assert told["files"] == {f"chapter-{number}": f"chapter {number}" for number in range(3)}
    assert told["seen"] == [[f"chapter-{number}" for number in range(before)] for before in range(3)]
    assert here.told == ["0", "1", "2"]
    assert "they are kept: holdfast files kept:" in err, "what was there is not lost"
    kept = [line.split()[0] for line in here.holdfast("files", "s").splitlines()[1:]]
    here.holdfast("files", next(name for name in kept if name.startswith("kept:")), "--into", str(here.place / "old"))
    assert (here.place / "old" / "chapter-0").read_text() == "spoilt"


@pytest.mark.soak
def test_a_fork_has_a_directory_of_its_own_with_the_files_of_its_place(here: Study) -> None:
    code, _, err = ended(here.begin("scribe"))
    assert code == 0, err
    log = [json.loads(line) for line in here.holdfast("log", "s", "--json").splitlines()]
    made = [each["seq"] for each in log if each["record"]["t"] == "checkpoint"]
    assert len(made) == 4, "one of how the files were at the beginning, and one behind each step"
    here.holdfast("fork", f"s@{made[1]}")
    code, out, err = ended(here.begin("scribe"))
    assert code == 0, err
    assert json.loads(out)["seen"] == [[], ["chapter-0"], ["chapter-0", "chapter-1"]]
    assert here.folder("s@b2").is_dir()
    assert here.told == ["0", "1", "2"]


@pytest.mark.soak
def test_what_is_captured_is_of_one_moment_whatever_of_the_sandbox_works_meanwhile(here: Study) -> None:
    code, out, err = ended(here.begin("ticker"))
    assert code == 0, err
    for node in json.loads(out):
        place = here.place / f"seen-{node.replace('@', '-').replace(':', '-')}"
        here.holdfast("files", node, "--into", str(place))
        one, two = ((place / name).read_text() for name in ("one", "two"))
        assert (one, two) in {(one, one), (one, ""), ("", two)} or int(one) - int(two) == 1


@pytest.mark.soak
def test_more_than_the_budget_is_not_captured_and_the_agent_is_told(here: Study) -> None:
    code, _, err = ended(here.begin("hoarder", task=60))
    assert code == 2
    assert "the workspace holds more than 50 entries" in err
    assert "workspace_entries" in err
    assert "Traceback" not in err


@pytest.mark.soak
def test_links_and_pipes_are_captured_as_what_they_are_and_lead_nowhere(here: Study) -> None:
    (here.place / "secret").write_text("a secret of the host")
    code, out, err = ended(here.begin("linker", task=str(here.place / "secret")))
    assert (code, json.loads(out)) == (0, ["back", "out", "pipe"]), err
    packs = (here.place / "runs.db-files" / "packs").rglob("*")
    kept = b"".join(path.read_bytes() for path in packs if path.is_file())
    assert kept
    assert b"a secret of the host" not in kept
    node = next(
        f"s@{each['seq']}"
        for each in map(json.loads, here.holdfast("log", "s", "--json").splitlines()[::-1])
        if each["record"]["t"] == "checkpoint"
    )
    here.holdfast("files", node, "--into", str(here.place / "out"))
    assert (here.place / "out" / "back").readlink() == here.place / "secret"


@pytest.mark.soak
def test_a_gateway_of_its_own_has_the_files_captured_by_whoever_started_the_program(here: Study) -> None:
    here.gateway()
    here.stopped(0)
    code, out, err = ended(here.begin("scribe", task="stop 0"))
    assert code == 0, err
    assert json.loads(out)["seen"] == [[], ["chapter-0"], ["chapter-0", "chapter-1"]]
    assert here.told == ["0", "1", "2"]


@pytest.mark.soak
def test_deaths_of_the_starter_at_any_moment_leave_state_and_files_together(here: Study) -> None:
    here.gateway()
    many, luck = 40, random.SystemRandom()
    for number in range(1, 5):
        process = here.begin("counts", task=many)
        assert until((here.folder("s@main") / str(number * 7)).exists)
        time.sleep(luck.random() / 20)  # anywhere in the next checkpoints
        process.kill()
        process.communicate()
        eventually(lambda: "not taken up" in here.holdfast("cap", "list", "s", check=False), "the run is given back")
    code, out, err = ended(here.begin("counts", task=many))
    assert (code, json.loads(out)) == (0, "whole"), err


@pytest.mark.soak
def test_a_directory_that_the_user_names_holds_the_files_and_no_other_run_works_there(here: Study) -> None:
    named = here.place / "named"
    named.mkdir()
    (named / "chapter-9").write_text("chapter 9")
    process = here.begin("scribe", "--workspace", "named", task="stop 0")
    assert until((named / "stands").exists)
    code, _, err = ended(here.begin("scribe", "--workspace", "named", run="other"))
    assert code == 4, err
    process.kill()
    process.communicate()
    code, out, err = ended(here.begin("scribe", "--workspace", "named", task="stop 0"))
    assert code == 0, err
    assert sorted(json.loads(out)["files"]) == ["chapter-0", "chapter-1", "chapter-2", "chapter-9"]


@pytest.mark.soak
@pytest.mark.parametrize("line", ["workspace = true", "restores = true"])
def test_an_agent_and_a_gateway_that_do_not_agree_about_its_files_do_not_begin(here: Study, line: str) -> None:
    file = here.place / "holdfast.toml"
    file.write_text(file.read_text().replace(line, ""))
    code, _, err = ended(here.begin("scribe"))
    assert code == 2
    assert f"`{line}`" in err
    assert not (here.place / "told").exists()


@pytest.mark.soak
def test_files_are_not_captured_without_a_sandbox(here: Study) -> None:
    line = [sys.executable, "-m", "holdfast", "run", "--unsafe-no-sandbox", "--agent", "scribe", "scribe:scribe"]
    ran = subprocess.run(line, cwd=here.place, env=here.environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "with a sandbox only" in ran.stderr


@pytest.mark.parametrize(("before", "after"), [("true", "false"), ("false", "true")])
def test_a_gateway_that_began_with_another_configuration_shows_the_program_nothing_of_the_host(
    here: Study, before: str, after: str
) -> None:
    file = here.place / "holdfast.toml"
    said = file.read_text()
    file.write_text(said.replace("workspace = true", f"workspace = {before}"))
    here.gateway()
    file.write_text(said.replace("workspace = true", f"workspace = {after}"))
    code, out, err = ended(here.begin("scribe"))
    assert (code, out) == (2, ""), err
    assert "start the gateway again with this configuration" in err
    assert not (here.place / "told").exists()
