"""A Python agent in a sandbox, `holdfast run --sandbox MODULE:AGENT`: killed anywhere, it goes on, nothing is twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.cell import ROOT, of_process, until
from tests.gateway.premises import DEADLINE_S, Premises, premises

ERRAND = '''
"""Letters, one after another. It stands still where `stop` says, until `go` is there."""
import asyncio, os, time
from pathlib import Path
from holdfast import agent, tool

def stand(folder, place):
    if (folder / "stop").exists() and (folder / "stop").read_text() == place:
        (folder / "stands").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)

@tool(kind="irreversible", identity=["number"], repeat="each")
async def mail(number: int, body: str) -> str:
    world = Path(os.environ["WORLD"])
    stand(world, f"before {number}")
    with (world / "sent").open("a") as file:
        file.write(f"{number} {body}\\n")
    stand(world, f"after {number}")
    return f"sent {number}"

def think(number: int) -> str:
    stand(Path("."), f"thinking {number}")
    return f"letter {number} of {time.time_ns()}"

@agent
async def errand(run, task):
    return {"zeal": [await mail(number, await run.decide(think, number)) for number in range(task)], "answer": "ä"}
'''
LETTERS = 4
PLACES = [f"{what} {number}" for what in ("thinking", "before", "after") for number in range(LETTERS)]


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        folder = tmp_path / "agents"
        folder.mkdir()
        (folder / "errand.py").write_text(textwrap.dedent(ERRAND))
        (tmp_path / "world").mkdir()
        (tmp_path / "work").mkdir()
        found.configure(f"""
            [upstreams.post]
            kind = "python"
            modules = ["errand"]
            path = ["agents"]
            environment = {{ WORLD = "{tmp_path}/world" }}
            [agents.errand]
            tools = ["post.*"]
            [sandbox]
            read_only = ["agents", "{ROOT}/src"]
            """)
        yield found


def begin(here: Premises, *options: str) -> subprocess.Popen[str]:
    line = [
        sys.executable, "-m", "holdfast", "run", "--sandbox", "--agent", "errand", "--id", "e", "--workspace", "work",
        "--input", str(LETTERS), *options, "errand:errand",
    ]  # fmt: skip
    process = subprocess.Popen(
        line, cwd=here.place, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    here.processes.append(process)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def inside(parent: int, agent: str = "errand:errand") -> list[int]:
    """The agent's own process: it runs Python, below the command that started it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        words = of_process(pid, "cmdline").split(b"\0")
        if words[1:4] == [b"-m", b"holdfast.agent", agent.encode()] and _below(pid, parent):
            found.append(pid)
    return found


def _below(pid: int, parent: int) -> bool:
    while pid > 1:
        if pid == parent:
            return True
        status = of_process(pid, "status").decode().split()
        pid = int(status[status.index("PPid:") + 1]) if "PPid:" in status else 0
    return False


def killed_at(here: Premises, place: str) -> int:
    """The exit code of a life whose agent is killed where it stands still."""
    folder = here.place / ("work" if place.startswith("thinking") else "world")
    (folder / "stop").write_text(place)
    process = begin(here)
    assert until(lambda: (folder / "stands").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    (agent,) = inside(process.pid)
    os.kill(agent, signal.SIGKILL)
    assert until(lambda: not inside(process.pid))
    (folder / "go").touch()
    code, _, err = ended(process)
    assert "Traceback" not in err
    for name in ("stop", "stands", "go"):
        (folder / name).unlink()
    return code


def sent(here: Premises) -> list[str]:
    return [line.partition(" ")[0] for line in (here.place / "world" / "sent").read_text().splitlines()]


def check_killed_at(here: Premises, places: list[str]) -> None:
    for place in places:
        assert killed_at(here, place) == 128 + signal.SIGKILL, place
    code, out, err = ended(begin(here))
    assert code == 0, err
    assert sent(here) == [str(number) for number in range(LETTERS)], places
    assert json.loads(out) == {"zeal": [f"sent {number}" for number in range(LETTERS)], "answer": "ä"}
    log = [json.loads(line)["record"] for line in here.holdfast("log", "e", "--json").splitlines()]
    assert sum(each["t"] == "decision" for each in log) == LETTERS
    assert ended(begin(here))[:2] == (0, out), "the run has ended: its answer is told again, to the letter"
    assert sent(here) == [str(number) for number in range(LETTERS)]


def test_an_agent_that_is_killed_at_a_random_place_does_nothing_twice_and_its_answer_is_told_again(
    here: Premises,
) -> None:
    check_killed_at(here, [random.SystemRandom().choice(PLACES)])


@pytest.mark.soak
@pytest.mark.parametrize("place", PLACES)
def test_an_agent_that_is_killed_at_any_place_does_nothing_twice(here: Premises, place: str) -> None:
    check_killed_at(here, [place])


@pytest.mark.soak
def test_an_agent_that_is_killed_again_and_again_does_nothing_twice(here: Premises) -> None:
    check_killed_at(here, [place for place in PLACES if place.startswith("thinking")])


@pytest.mark.soak
def test_an_agent_that_cannot_be_found_ends_with_what_is_wrong(here: Premises) -> None:
    line = [sys.executable, "-m", "holdfast", "run", "--sandbox", "--agent", "errand", "errand:nobody"]
    ran = subprocess.run(
        line, cwd=here.place, env=here.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ran.returncode == 2
    assert "`errand:nobody` does not exist" in ran.stderr
