"""The demo, as a stranger runs it; its claims are checked against what it left behind, not against what it said."""

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.core.codec import decode
from holdfast.core.effect import Happened
from holdfast.core.entry import Entry
from holdfast.core.record import Claim, Finished, Intent, Seal, Settled
from holdfast.demo import legacy, pages, post, story, world
from holdfast.demo.story import RUN

HOLDFAST = [sys.executable, "-m", "holdfast"]
DEMO = [*HOLDFAST, "demo", "--into"]
WIDE = {"COLUMNS": "100", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Told:
    """A finished demo: what it said, how it ended, and what it left behind."""

    status: int
    said: str
    place: Path

    def counts(self, which: str) -> dict[str, int]:
        return {each["name"]: each["found"] for each in json.loads((self.place / "census.json").read_text())[which]}

    def log(self) -> list[Entry]:
        with open_store(f"sqlite:///{self.place / 'runs.db'}") as house:
            return asyncio.run(house.store.read(f"{RUN}@main"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("demo")
    ran = subprocess.run(
        [*DEMO, str(place)],
        env={**os.environ, **WIDE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    return Told(ran.returncode, ran.stdout, place)


def test_the_demo_ends_well_and_says_so(told: Told) -> None:
    assert told.status == 0, told.said
    assert "Nothing happened twice and nothing is missing." in told.said


def test_the_legacy_database_was_altered_once_with_holdfast_and_twice_without(told: Told) -> None:
    for name, times in (("world", 1), ("world-without", 2)):
        database = sqlite3.connect(told.place / name / "legacy.db")
        assert database.execute("SELECT count(*) FROM alterations").fetchone() == (times,)
        euros = sum(balance for _, balance in legacy.ACCOUNTS)
        assert database.execute("SELECT sum(balance) FROM accounts").fetchone() == (euros * 100**times,)
        database.close()


def test_the_customers_got_each_mail_once_with_holdfast_and_one_twice_without(told: Told) -> None:
    def subjects(name: str) -> list[str]:
        mails = post.mails(told.place / name / "mails")
        return [str(message_from_bytes(mail.read_bytes())["Subject"]) for mail in mails]

    assert subjects("world") == ["We move tonight", "We have moved"]
    assert subjects("world-without") == ["We move tonight", "We move tonight", "We have moved"]


def test_the_clouds_hold_one_of_each_with_holdfast_and_two_without(told: Told) -> None:
    ours, theirs = told.counts("with"), told.counts("without")
    doubled = {"networks (VPCs)": 1, "subnets": 2, "machines: web": 2, "machines: database": 1}
    assert {name: ours[name] for name in doubled} == doubled
    assert {name: theirs[name] for name in doubled} == {name: 2 * count for name, count in doubled.items()}


def test_the_model_was_asked_three_times_and_answered_no_more(told: Told) -> None:
    assert told.counts("with")["answers of the model"] == 3
    assert told.counts("without")["answers of the model"] == 5


def test_the_log_has_every_effect_once_and_step_13_settled_by_its_probe(told: Told) -> None:
    records = [(entry.seq, entry.epoch, decode(entry.body)) for entry in told.log()]
    intents = {seq: record for seq, _, record in records if isinstance(record, Intent)}
    outcomes = [
        (record.intent, record.outcome)
        for _, _, record in records
        if isinstance(record, Seal | Settled) and record.intent is not None
    ]
    assert sorted(intent for intent, _ in outcomes) == sorted(intents)
    assert all(isinstance(outcome, Happened) for _, outcome in outcomes)
    settled = [(epoch, intents[record.intent].tool, record.by) for _, epoch, record in records
               if isinstance(record, Settled)]  # fmt: skip
    assert settled == [(2, "legacy.alter", "probe")]
    assert [epoch for _, epoch, record in records if isinstance(record, Claim)] == [1, 2]
    assert [epoch for _, epoch, record in records if isinstance(record, Finished)] == [2]


def test_the_table_shows_each_step_its_kind_and_what_the_log_did(told: Told) -> None:
    table = told.said[told.said.index("What the log did") :]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if re.match(r"\s*\d+\s", line)]
    steps = [row for row in rows if len(row) >= 4][:17]
    assert [int(row[0]) for row in steps] == list(range(1, 18))
    assert steps[12] == ["13", "legacy.alter", "irreversible", "sent; no seal", "settled by probe"]
    assert steps[6] == ["7", "west.run_instances", "idempotent", "performed (429)", "answered from the log"]
    assert {row[-1] for row in steps[:12]} == {"answered from the log"}
    assert steps[16] == ["17", "mail.send", "irreversible", "performed"]


def test_the_kill_was_a_kill(told: Told) -> None:
    assert "(status -9)" in told.said


def test_no_process_is_left(told: Told) -> None:
    pids = [int(pid) for pid in re.findall(r"process (\d+)", told.said)]
    assert len(pids) >= 9
    assert [pid for pid in pids if not gone(pid)] == []


@pytest.mark.parametrize("verb", ["show", "log", "verify"])
def test_what_it_hints_at_works(told: Told, verb: str) -> None:
    hint = next(line for line in told.said.splitlines() if line.startswith(f"Hint: holdfast {verb} "))
    arguments = shlex.split(hint.split("#")[0])[2:]
    ran = subprocess.run([*HOLDFAST, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip()


def test_ctrl_c_ends_every_server(tmp_path: Path) -> None:
    demo = subprocess.Popen([*DEMO, str(tmp_path)], env={**os.environ, **WIDE}, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "west.create_vpc" in line:
                break
        pids = [int(pid) for pid in re.findall(r"process (\d+)", said)]
        assert len(pids) == len(story.ABOUT)
        assert all(alive(pid) for pid in pids)
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=120)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 130, rest
    assert [pid for pid in pids if not gone(pid)] == []


def test_a_census_that_is_not_right_fails_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(story.Story, "tell", lambda _: [world.Count(name="mails", found=2, right=1).problem])
    assert story.main(["--into", str(tmp_path)]) == 1


def test_without_its_extra_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(story, "find_spec", lambda name: None if name == "moto" else object())
    assert story.main(["--into", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "`moto` is not installed" in said
    assert "fix: pip install 'holdfast[demo]'" in said


def test_each_wrong_count_is_named() -> None:
    assert world.Count(name="mails", found=2, right=1).problem == "mails: 2 instead of 1"
    assert world.Count(name="mails", found=0, right=1).problem == "mails: 0 instead of 1"
    assert world.Count(name="mails", found=1, right=1).problem == ""


def test_the_verdict_does_not_praise_a_wrong_world(capsys: pytest.CaptureFixture[str]) -> None:
    pages.Page(pages.Console(highlight=False, width=100)).verdict(["mails: 2 instead of 1"], 8, 1.0)
    said = capsys.readouterr().out
    assert "mails: 2 instead of 1" in said
    assert "Nothing happened twice" not in said


@pytest.mark.parametrize(
    ("given", "upstream"),
    [
        ({}, ""),
        ({"OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1"),
        ({"OPENAI_BASE_URL": "http://here/v1"}, "http://here/v1"),
        ({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://here/v1"}, "http://here/v1"),
    ],
)
def test_a_real_model_is_used_when_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], upstream: str
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _, arguments = world.servers(tmp_path)["model"]
    assert (arguments[-2:] == ["--upstream", upstream]) if upstream else ("--upstream" not in arguments)
    assert "OPENAI_API_KEY" not in world.environment()


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def gone(pid: int) -> bool:
    """Whether the process has ended, or does so within ten seconds."""
    until = time.monotonic() + 10
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)
