"""Python agents behind a gateway: the same program, the same answers, the same log, and nothing twice."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from holdfast import open_store
from holdfast.core.codec import decode
from holdfast.core.effect import Encoding
from holdfast.core.payload import pack_bytes
from holdfast.core.record import Checkpoint, Decision, Finished, Hold, Issued, Record
from holdfast.errors import Cancelled
from holdfast.gateway.desk import Desk
from holdfast.gateway.launcher import Ended, Program, run_beside
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader
from holdfast.store.remote import RemoteStore

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
AGENTS = (("clerk", "false"), ("stepper", "true"), ("cautious", "false"), ("barred", "false"))
POLICY = """
@id("all") permit(principal, action, resource);
@id("ask") @level("one") @reason("somebody must look") permit(principal == Agent::"cautious", action, resource);
@id("never") forbid(principal == Agent::"barred", action, resource);
"""


class Place:
    """A gateway in a process of its own, and the programs behind it, each in one of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = folder / "world"
        self.processes: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(HERE)]),
            "WORLD": str(self.world), "HOLDFAST_STORE": f"sqlite:///{folder}/runs.db",
            "HOLDFAST_GATEWAY": str(folder / "s" / "admin.sock"),
        }  # fmt: skip
        (folder / "policy.cedar").write_text(POLICY)
        agents = "".join(f'[agents.{name}]\ntools = ["ledger.*"]\nrestores = {restores}\n' for name, restores in AGENTS)
        (folder / "holdfast.toml").write_text(f"""
[gateway]
store = "runs.db"
state = "s"
[upstreams.ledger]
kind = "python"
modules = ["ledger"]
path = ["{HERE}"]
environment = {{ WORLD = "{self.world}" }}
labels = []
[policy]
files = ["policy.cedar"]
{agents}
""")

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def gateway(self) -> subprocess.Popen[str]:
        process = self.start("-m", "holdfast", "gateway")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), process.communicate()[1]
        return process

    @property
    def desk(self) -> Desk:
        return Desk(RemoteStore(self.folder / "s" / "admin.sock"))

    async def live(self, program: str, run: str, task: Any = None, agent: str = "clerk") -> tuple[Ended, Any, str]:
        """One life of a program: how it ended, its answer, what it complained of."""
        out, err = self.folder / f"{run}.out", self.folder / f"{run}.err"
        script = f"{shlex.quote(sys.executable)} -m holdfast.agent ledger:{program} >{out} 2>{err}"
        line = ("/bin/sh", "-c", f"cd {shlex.quote(str(self.folder))}; exec {script}")
        wanted = Program(
            run=run, agent=agent, argv=line, input=task, extra={"PYTHONPATH": self.environment["PYTHONPATH"]}
        )
        ended = await run_beside(wanted, self.folder / "s" / "admin.start")
        text = out.read_text()
        return ended, json.loads(text) if text else None, err.read_text()

    async def answer(self, program: str, run: str, task: Any = None, agent: str = "clerk") -> Any:
        """The answer of a program that comes to its end."""
        ended, answer, complaint = await self.live(program, run, task, agent)
        assert ended == Ended(0, None), complaint
        return answer

    async def records(self, run: str) -> list[Record]:
        with Reader(self.folder / "runs.db") as reader:
            return [decode(entry.body) for entry in await reader.read(f"{run}@main")]

    async def answers(self, run: str, kind: type[Decision]) -> list[bytes]:
        """The recorded answers of a run's decisions."""
        with Reader(self.folder / "runs.db") as reader:
            found = [decode(entry.body) for entry in await reader.read(f"{run}@main")]
            return [await read_payload(reader, each.answer) for each in found if isinstance(each, kind)]

    @property
    def done(self) -> list[str]:
        return self.world.read_text().splitlines() if self.world.exists() else []

    @property
    def thought(self) -> list[str]:
        file = self.folder / "thought"
        return file.read_text().splitlines() if file.exists() else []

    def forget(self) -> None:
        for file in (self.world, self.folder / "thought", self.folder / "die"):
            file.unlink(missing_ok=True)

    def to_die(self, at: str) -> None:
        (self.folder / "die").write_text(at)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    found = Place(tmp_path_factory.mktemp("agents"))
    found.gateway()
    yield found
    found.close()


@pytest.fixture
def place(premises: Place) -> Place:
    premises.forget()
    return premises


TASK = {"name": "ann"}
GIVEN = ("first", "pondered", "now", "uuid", "random", "lanes")  # what is another each time, until it is recorded


def embedded(place: Place, name: str, task: Any, run: str) -> tuple[Any, list[tuple[str, str]]]:
    """The same program in this process: its answer, and the shape of its log."""
    module = importlib.import_module("tests.agent.ledger")
    with open_store(f"sqlite:///{place.folder}/embedded.db") as house:
        answer = house.run(getattr(module, name), task, id=run)
        entries = asyncio.run(house.store.read(f"{run}@main"))
    return answer, shape_of([decode(entry.body) for entry in entries])


def shape_of(records: list[Record]) -> list[tuple[str, str]]:
    """The names of records and of what they are about, without what only a gateway adds. Reads aside calls in parallel
    may be sealed in any order: so they are sorted."""
    told = [
        (type(each).__name__, str(getattr(each, "tool", getattr(each, "name", ""))).rpartition(".")[2])
        for each in records
        if not isinstance(each, Issued)
    ]
    return sorted(told)


async def test_the_same_program_gives_the_same_answer_and_the_same_log_as_embedded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await place.answer("everything", "same", TASK)
    done, thought = place.done, place.thought
    place.forget()
    monkeypatch.setenv("WORLD", str(place.world))
    monkeypatch.chdir(place.folder)
    other, shape = await asyncio.to_thread(embedded, place, "everything", TASK, "same")
    assert sorted(place.done) == sorted(done)
    assert sorted(place.thought) == sorted(thought)
    assert {name: value for name, value in answer.items() if name not in GIVEN} == {
        name: value for name, value in other.items() if name not in GIVEN
    }
    assert shape_of(await place.records("same")) == shape


async def test_a_program_that_is_killed_again_and_again_does_nothing_twice_and_decides_nothing_anew(
    place: Place,
) -> None:
    for at in ("decided", "mailed", "late"):
        place.to_die(at)
        ended, _, complaint = await place.live("everything", "killed", TASK)
        assert ended == Ended(-9, None), complaint
    answer = await place.answer("everything", "killed", TASK)
    assert place.done == ["mail 1 hello", "mail 2 left", "mail 2 right", "mail 2 right", "mail 1 hello", "bill 7 100"]
    assert [place.thought.count(each) for each in ("ann", "a", "b")] == [2, 1, 1]  # by two models each, once
    assert answer["types"] == ["Invoice", "Invoice"]
    assert answer["left"] == []


@pytest.mark.soak
async def test_a_program_that_dies_between_its_question_and_its_answer_asks_again(place: Place) -> None:
    place.to_die("asked")
    ended, _, complaint = await place.live("hesitates", "hesitant")
    assert ended == Ended(-9, None), complaint
    answer = await place.answer("hesitates", "hesitant")
    assert place.thought == ["x", "x"]
    assert [answer] == [json.loads(each) for each in await place.answers("hesitant", Decision)]


@pytest.mark.soak
async def test_a_synchronous_agent_calls_plainly(place: Place) -> None:
    assert await place.answer("plainly", "plain") == ["p", "posted 5", "sent 6", True]
    assert place.done == ["post 5", "mail 6 sync"]


@pytest.mark.soak
async def test_more_calls_run_side_by_side_than_a_pool_has_room_for(place: Place) -> None:
    assert await place.answer("deep", "deep") == 40
    assert len(place.done) == 40


async def test_an_agent_with_a_state_goes_on_from_its_checkpoint(place: Place) -> None:
    place.to_die("step 1")
    ended, _, complaint = await place.live("steps", "stepping", agent="stepper")
    assert ended == Ended(-9, None), complaint
    before = place.done
    assert await place.answer("steps", "stepping", agent="stepper") == ["sent 0", "sent 1", "sent 2"]
    assert before == ["mail 0 step", "mail same 0", "mail same 0", "mail 1 step"]
    assert place.done == [*before, "mail 2 step", "mail same 2", "mail same 2"]
    records = await place.records("stepping")
    made = [each for each in records if isinstance(each, Checkpoint)]
    assert all(each.capability is not None and "ledger.*" in each.capability for each in made)
    assert not any("hfc_" in str(each) for each in records)
    assert len({each.handle for each in records if isinstance(each, Issued)}) == 2


async def test_a_checkpoint_made_beside_a_call_carries_what_the_call_came_to(place: Place) -> None:
    place.to_die("beside")
    ended, _, complaint = await place.live("besides", "beside", agent="stepper")
    assert ended == Ended(-9, None), complaint
    assert await place.answer("besides", "beside", agent="stepper") == ["lane"]
    assert place.done == ["slow lane"]


@pytest.mark.soak
async def test_a_turn_makes_a_checkpoint_only_where_the_agents_policy_wants_one(place: Place) -> None:
    assert await place.answer("turns", "turning", agent="stepper") == [False, True, False]


@pytest.mark.soak
@pytest.mark.parametrize(("program", "agent"), [("asks", "stepper"), ("steps", "clerk")])
async def test_an_agent_and_a_gateway_that_do_not_agree_about_restoring_do_not_begin(
    place: Place, program: str, agent: str
) -> None:
    ended, _, complaint = await place.live(program, f"unlike-{program}", agent=agent)
    assert ended.code == 2
    assert "restore" in complaint
    assert place.done == []


async def test_a_signal_ends_a_wait_in_a_task_group(place: Place) -> None:
    ended, _, complaint = await place.live("waits", "waiting")
    assert (ended.code, ended.waiting and ended.waiting.what) == (75, "the run waits for the signal `go`"), complaint
    await place.desk.signal("waiting", "go", pack_bytes(b'{"a":1}', Encoding.JSON), by="root")
    assert await place.answer("waits", "waiting") == [{"a": 1}, "sent 9"]
    assert not [each for each in await place.records("waiting") if isinstance(each, Finished) and each.error]


@pytest.mark.soak
async def test_what_is_refused_by_policy_is_told_to_the_agent_and_ends_it(place: Place) -> None:
    ended, _, complaint = await place.live("asks", "barred", agent="barred")
    assert ended == Ended(1, None)
    assert "never" in complaint
    (finished,) = [each for each in await place.records("barred") if isinstance(each, Finished)]
    assert finished.error is not None
    assert "Refused" in finished.error
    assert place.done == []


@pytest.mark.soak
async def test_what_an_agent_raises_stands_in_the_log_and_it_may_be_started_again(place: Place) -> None:
    for _ in range(2):
        ended, _, complaint = await place.live("fails", "failing")
        assert ended == Ended(1, None)
        assert "ValueError: a mistake in the agent" in complaint
    errors = [each.error for each in await place.records("failing") if isinstance(each, Finished)]
    assert errors == ["ValueError: a mistake in the agent"] * 2
    assert place.done == ["mail 1 first"]


@pytest.mark.soak
async def test_a_long_sleep_ends_the_program_and_a_cancelled_run_stays_cancelled(place: Place) -> None:
    ended, _, complaint = await place.live("sleeps", "sleepy", {"seconds": 3600})
    assert (ended.code, ended.waiting is not None) == (75, True), complaint
    await place.desk.cancel("sleepy", by="root", reason="too late")
    with pytest.raises(Cancelled, match="too late"):
        await place.live("sleeps", "sleepy", {"seconds": 3600})


@pytest.mark.soak
async def test_a_held_call_waits_for_people_while_its_program_waits(place: Place) -> None:
    living = asyncio.ensure_future(place.live("asks", "held", agent="cautious"))
    while not (held := [each for each in await place.records("held") if isinstance(each, Hold)]):
        assert not living.done(), living.result()
        await asyncio.sleep(0.05)
    assert held[0].tool == "ledger.mail"
    seq = [isinstance(each, Hold) for each in await place.records("held")].index(True) + 1
    await place.desk.approve(f"held@{seq}", by="ann")
    ended, answer, complaint = await living
    assert (ended, answer) == (Ended(0, None), "sent 1"), complaint
