"""Runs and their house: started, resumed, waited for in another process, failed, ended; and what is written of them."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast import AnswerLost, Cancelled, Claimed, Held, House, NotHappened, agent, key, open_store, tool
from holdfast.core.record import Claim, Divergence, Finished, Intent, Record, Started
from holdfast.errors import BadCall, Misuse
from tests.stage import Killed, life, of, records, story

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


# --- the smallest program ---


def test_the_smallest_program_of_the_design_does_what_it_says(url: str) -> None:
    sent: list[tuple[str, str]] = []
    asked: list[str] = []

    async def ask_model(invoice: str) -> str:
        asked.append(invoice)
        return f"text {len(asked)} for {invoice}"

    @tool(kind="irreversible", identity=["invoice"])
    async def remind(invoice: str, body: str) -> str:
        sent.append((invoice, body))
        return f"mail {len(sent)}"

    @agent
    async def dun(run: Any, task: Any) -> str:
        text = await run.decide(ask_model, task["invoice"])
        return await remind(task["invoice"], text)

    for _ in range(3):
        with open_store(url) as house:
            assert house.run(dun, {"invoice": "77"}, id="dun-77") == "mail 1"
    assert sent == [("77", "text 1 for 77")]
    assert asked == ["77"]


def test_a_run_that_died_goes_on_under_its_id(url: str) -> None:
    done: list[str] = []

    @tool(kind="irreversible")
    def act(what: str) -> str:
        done.append(what)
        return what

    @agent
    def acts(run: Any, task: Any) -> list[str]:
        first = act("first")
        if dies:
            dies.clear()
            raise Killed
        return [first, act("second"), task]

    dies = [True]
    for ending in (Killed, list):
        with open_store(url) as house:
            assert isinstance(life(house, acts, "the task"), ending)
    with open_store(url) as house:
        assert house.run(acts, id="r") == ["first", "second", "the task"]
        assert [type(record) for record in records(house)].count(Claim) == 2
    assert done == ["first", "second"]


def test_a_run_without_an_id_is_a_new_one_each_time() -> None:
    done: list[int] = []

    @agent
    def counts(run: Any, task: Any) -> str:
        done.append(1)
        return run.id

    with open_store("memory://") as house:
        assert house.run(counts) != house.run(counts)
        assert len(done) == 2


# --- input and answer ---


@agent
def echo(run: Any, task: Any) -> Any:
    """Answers with what it was given."""
    return task


def test_a_resumed_run_needs_no_input_and_takes_no_other() -> None:
    dies = [True]

    @agent
    def echoes(run: Any, task: Any) -> Any:
        if dies:
            dies.clear()
            raise Killed
        return task

    with open_store("memory://") as house:
        life(house, echoes, {"a": 1})
        with pytest.raises(BadCall, match="with another input"):
            house.run(echoes, {"a": 2}, id="r")
        assert house.run(echoes, id="r") == {"a": 1}
        assert house.run(echoes, {"a": 1}, id="r") == {"a": 1}
        with pytest.raises(BadCall, match="with another input"):
            house.run(echoes, {"a": 2}, id="r")


@pytest.mark.parametrize("task", [None, 0, "", [], {}, False, 2**70, "\ud800", {"a": [None, 1.5]}])
def test_an_input_reaches_the_agent_as_it_was_given(task: Any) -> None:
    with open_store("memory://") as house:
        assert house.run(echo, task, id="r") == task
        assert house.run(echo, task, id="r") == task


def test_an_input_that_cannot_be_written_down_starts_no_run() -> None:
    with open_store("memory://") as house:
        with pytest.raises(BadCall, match="cannot be written down"):
            house.run(echo, object(), id="r")  # pyright: ignore[reportArgumentType]
        assert not records(house)


def test_an_answer_that_cannot_be_written_down_is_an_error_and_not_the_end() -> None:
    answers: list[Any] = [object(), "better"]

    @agent
    def answers_with(run: Any, task: Any) -> Any:
        return answers.pop(0)

    with open_store("memory://") as house:
        with pytest.raises(BadCall, match="the agent's answer could not be written down"):
            house.run(answers_with, id="r")
        assert house.run(answers_with, id="r") == "better"


def test_an_agent_that_leaves_or_answers_with_what_cannot_be_written_has_failed() -> None:
    """As one that raised: else its log would look like that of a run that was only interrupted."""

    @agent
    def leaves(run: Any, task: Any) -> None:
        raise SystemExit(7)

    @agent
    def answers(run: Any, task: Any) -> Any:
        return object()

    with open_store("memory://") as house:
        with pytest.raises(SystemExit):
            house.run(leaves, id="l")
        with pytest.raises(BadCall):
            house.run(answers, id="a")
        assert [record.error for record in of(Finished, house, "l")] == ["SystemExit: 7"]
        (ended,) = of(Finished, house, "a")
        assert ended.error.startswith("BadCall: the agent's answer could not be written down")
        assert house.run(agent(lambda run, task: 1), id="l") == 1


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a@b", "ü", "x" * 101, "a\n"])
def test_an_id_that_cannot_name_a_run_is_refused(name: str) -> None:
    with open_store("memory://") as house, pytest.raises(Misuse, match="cannot name a run"):
        house.run(echo, id=name)


def test_what_is_no_agent_is_not_run() -> None:
    with open_store("memory://") as house, pytest.raises(BadCall, match="must be an agent"):
        house.run(lambda run, task: task, 1)  # pyright: ignore[reportArgumentType]


def test_a_house_does_not_block_the_loop_that_it_is_called_in() -> None:
    with open_store("memory://") as house:

        async def inside() -> None:
            with pytest.raises(Misuse, match="await house"):
                house.run(echo, 1)
            assert await house.arun(echo, 1) == 1

        asyncio.run(inside())


# --- how a run ends ---


def test_an_agent_that_failed_can_go_on_and_its_error_is_written_down() -> None:
    done: list[str] = []
    troubles = [ValueError("not yet"), KeyError("nor now")]

    @tool(kind="irreversible")
    def act() -> str:
        done.append("act")
        return "acted"

    @agent
    def fails(run: Any, task: Any) -> str:
        answer = act()
        if troubles:
            raise troubles.pop(0)
        return answer

    with open_store("memory://") as house:
        assert isinstance(life(house, fails), ValueError)
        assert isinstance(life(house, fails), KeyError)
        assert life(house, fails) == "acted"
        assert done == ["act"]
        assert [(ended.error, ended.answer is None) for ended in of(Finished, house)] == [
            ("ValueError: not yet", True),
            ("KeyError: 'nor now'", True),
            (None, False),
        ]


def test_a_cancelled_run_never_goes_on() -> None:
    lived: list[int] = []

    @agent
    def fails(run: Any, task: Any) -> str:
        lived.append(1)
        if len(lived) == 1:
            raise ValueError
        return "went on"

    with open_store("memory://") as house:
        life(house, fails)
        house.cancel("r", by="ann", reason="enough")
        for _ in range(2):
            ending = life(house, fails)
            assert isinstance(ending, Cancelled)
            assert "cancelled by ann: enough" in str(ending)
        assert len(lived) == 1
        assert story(house) == "started finished cancelled"


def test_an_effect_whose_answer_is_lost_happened_and_is_not_repeated() -> None:
    done: list[int] = []

    @tool(kind="irreversible", identity=["to"])
    def send(to: str) -> Any:
        done.append(1)
        return object()

    @agent
    def sends(run: Any, task: Any) -> str:
        for _ in range(2):
            try:
                send("a")
            except NotHappened:
                return "it says that it did not happen"
            except AnswerLost as lost:
                said.append(lost)
        return "sent"

    said: list[AnswerLost] = []
    with open_store("memory://") as house:
        assert life(house, sends) == "sent"
        assert done == [1]
        assert [str(lost) for lost in said] == [str(said[0])] * 2
        assert "`tests.embedded.test_house.send` happened, but its answer could not be written down" in str(said[0])


def test_an_ended_run_answers_without_its_agent() -> None:
    with open_store("memory://") as house:
        assert house.run(echo, [1], id="r") == [1]

        @agent
        def never(run: Any, task: Any) -> None:
            pytest.fail("an ended run was entered")

        assert house.run(never, id="r") == [1]
        assert story(house) == "started finished"


# --- arguments and answers of any type ---


def test_types_of_pydantic_are_arguments_and_answers_also_from_the_log() -> None:
    from datetime import date

    from pydantic import BaseModel

    class Invoice(BaseModel):
        number: str
        due: date

    class Receipt(BaseModel):
        of: Invoice
        cents: int

    taken: list[Any] = []

    def book(invoice: Invoice, on: date = date(2026, 3, 4)) -> Receipt:
        taken.append((invoice, on))
        return Receipt(of=invoice, cents=5)

    book.__annotations__ = {"invoice": Invoice, "on": date, "return": Receipt}
    booking = tool(kind="irreversible", identity=["invoice"])(book)
    heard: list[Any] = []

    @agent
    def books(run: Any, task: Any) -> int:
        heard.append(booking(Invoice(number="77", due=date(2026, 1, 2))))
        if len(heard) == 1:
            raise Killed
        return heard[-1].cents

    with open_store("memory://") as house:
        life(house, books)
        assert life(house, books) == 5
    invoice = Invoice(number="77", due=date(2026, 1, 2))
    assert taken == [(invoice, date(2026, 3, 4))]
    assert heard == [Receipt(of=invoice, cents=5)] * 2


# --- another process ---


@contextmanager
def waiting(url: str, run: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a payer and waits with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.embedded.waiter", url, run],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def until_parted(house: House) -> None:
    """Return when the run waits at its divergence, and nobody holds its claim."""
    deadline_s = time.monotonic() + 60
    while not of(Divergence, house) or holder(house, "r"):
        assert time.monotonic() < deadline_s, story(house)
        time.sleep(0.01)


def until_held(house: House, run: str) -> str:
    """Where the run is held, and that nobody holds its claim meanwhile."""
    deadline_s = time.monotonic() + 60
    while not (story(house, run) == "started hold" and not holder(house, run)):
        assert time.monotonic() < deadline_s, story(house, run)
        time.sleep(0.02)
    return f"{run}@{len(records(house, run))}"


def holder(house: House, run: str) -> str:
    (branch,) = asyncio.run(house.store.branches(f"{run}@main"))
    return branch.holder


def said(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out.strip()


def test_a_held_run_goes_on_by_itself_when_it_is_approved_in_another_process(url: str, tmp_path: Path) -> None:
    with open_store(url) as house, waiting(url, "r") as process:
        place = until_held(house, "r")
        assert not (tmp_path / "paid").exists()
        house.approve(place, by="ann")
        assert said(process) == "answer paid ann"
        assert (tmp_path / "paid").read_text() == "ann\n"
        assert story(house) == "started hold approval intent seal finished"


@pytest.mark.parametrize("word", ["refuse", "cancel"])
def test_a_held_run_hears_a_no_of_another_process(url: str, tmp_path: Path, word: str) -> None:
    with open_store(url) as house, waiting(url, "r") as process:
        place = until_held(house, "r")
        if word == "refuse":
            house.refuse(place, by="ann", reason="no")
        else:
            house.cancel("r", by="ann", reason="no")
        assert said(process).startswith(f"error {'Refused' if word == 'refuse' else 'Cancelled'}")
        assert not (tmp_path / "paid").exists()


def test_a_held_run_needs_no_process_and_can_be_ended_by_another_one(url: str, tmp_path: Path) -> None:
    """The process that asked is gone; the next one that runs it finds the approval."""
    with open_store(url) as house:
        with waiting(url, "r") as process:
            place = until_held(house, "r")
            process.kill()
        house.approve(place, by="ann")
        with waiting(url, "r") as process:
            assert said(process) == "answer paid ann"
        assert (tmp_path / "paid").read_text() == "ann\n"


def test_a_process_that_waits_with_a_run_hears_how_it_ended_elsewhere() -> None:
    """Somebody took another way with a run that waited here: it ended there, and nothing was placed without a claim."""
    done: list[str] = []

    @tool(kind="idempotent")
    def put(what: str) -> str:
        done.append(what)
        return what

    @agent
    def old(run: Any, task: Any) -> None:
        put("old")
        raise Killed

    @agent
    def new(run: Any, task: Any) -> str:
        return put("new")

    async def elsewhere(house: House) -> list[Any]:
        here = asyncio.ensure_future(house.arun(new, id="r", on_divergence="ask"))
        await asyncio.to_thread(until_parted, house)
        assert not here.done()
        there = await house.arun(new, id="r", on_divergence="brief")
        return [await asyncio.wait_for(here, 30), there]

    with open_store("memory://") as house:
        life(house, old)
        assert asyncio.run(elsewhere(house)) == ["new", "new"]
        assert done == ["old", "new"]


def test_one_run_is_advanced_by_one_at_a_time() -> None:
    @agent
    async def slow(run: Any, task: Any) -> str:
        await asyncio.sleep(0.1)
        return "done"

    async def both(house: House) -> list[Any]:
        return await asyncio.gather(house.arun(slow, id="r"), house.arun(slow, id="r"), return_exceptions=True)

    with open_store("memory://") as house:
        first, second = asyncio.run(both(house))
        assert first == "done"
        assert isinstance(second, Claimed)


# --- what is written down ---


def test_a_secret_argument_is_nowhere_in_the_files_of_the_store(url: str, tmp_path: Path) -> None:
    secrets = ["hunter2-correct-horse", "tr0ub4dor-and-3-more"]
    got: list[str] = []

    @tool(kind="irreversible", identity=["user"], secret=["password", "token"], approval="one", blast=2)
    def login(user: str, password: str, token: dict[str, str]) -> str:
        got.append(password + token["value"])
        if len(got) == 1:
            raise OSError("lost")
        return "in"

    @agent
    def logs_in(run: Any, task: Any) -> str:
        return login("ann", secrets[0], {"value": secrets[1]})

    with open_store(url) as house:
        held = life(house, logs_in)
        assert isinstance(held, Held)
        house.approve(held.where, by="ann")
        doubt = life(house, logs_in)
        house.settle(doubt.where, did_not_happen="it did not", by="ann")
        life(house, logs_in)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for secret in secrets:
        assert got[0].count(secret) == 1
        for path in files:
            assert secret.encode() not in path.read_bytes(), path.name
    with open_store(url) as house:
        told = [asyncio.run(house.store.blob(bytes.fromhex(intent.args.digest))).data for intent in of(Intent, house)]
        assert len(told) == 1
        assert b"$secret" in told[0]
        assert not any(secret.encode() in data for secret in secrets for data in told)


def test_equal_secrets_are_equal_and_others_have_drifted(url: str) -> None:
    """A commitment is the same in every life of the store, so that a resume finds its call."""
    passwords, done = ["a", "a", "b"], []

    @tool(kind="irreversible", identity=["user"], secret=["password"])
    def login(user: str, password: str) -> str:
        done.append(password)
        return "in"

    @agent
    def logs_in(run: Any, task: Any) -> str:
        answer = login("ann", passwords.pop(0))
        if len(passwords) == 2:
            raise Killed
        if len(passwords) == 1:
            raise ValueError
        return answer

    endings: list[Any] = []
    for _ in range(3):
        with open_store(url) as house:
            endings.append(life(house, logs_in))
    assert [type(ending) for ending in endings] == [Killed, ValueError, Held]
    assert done == ["a"]


def test_an_intent_says_how_much_it_touches_and_what() -> None:
    @tool(kind="irreversible", repeat="each", resource=["table"], blast=lambda table, rows: len(rows))
    def erase(table: str, rows: list[int]) -> str:
        return key()

    @agent
    def erases(run: Any, task: Any) -> list[str]:
        return [erase("people", [1, 2, 3]), erase("people", []), erase("places", [1])]

    with open_store("memory://") as house:
        keys = life(house, erases)
        intents = of(Intent, house)
        assert [intent.blast for intent in intents] == [3, 0, 1]
        assert [intent.key for intent in intents] == keys
        assert intents[0].resource == intents[1].resource != intents[2].resource
        assert intents[0].resource is not None


def test_a_run_says_which_agent_it_is_and_who_worked_on_it() -> None:
    import os

    with open_store("memory://") as house:
        house.run(echo, 1, id="r")
        found: list[Record] = records(house)
        assert isinstance(found[0], Claim)
        assert isinstance(found[1], Started)
        assert found[0].worker.endswith(f":{os.getpid()}")
        assert found[1].agent == "tests.embedded.test_house:echo"
