"""The demo of forks, as a stranger runs it; its claims are checked against what it left behind, not what it said."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, replace
from email import message_from_bytes
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Payload
from holdfast.core.record import Adopted, Claim, Decision, Forked, Intent, Override, Planned, Promoted, Record, Seal
from holdfast.core.tree import Tree
from holdfast.demo import fork_story, legacy, post
from holdfast.demo.telling import Deeds, Telling
from holdfast.gateway.line import read_payload

RUN = "move-the-shop"
BUILT = ["cloud.create_vpc", "cloud.create_subnet", "cloud.start_machine"]


@dataclass(frozen=True)
class Told:
    """A finished demo: what it said, how it ended, and what it left behind."""

    status: int
    said: str
    place: Path
    log: dict[str, list[tuple[int, Record]]]
    spoken: dict[str, object]

    def of(self, branch: str, kind: type[Record]) -> list[Record]:
        return [record for _, record in self.log[branch] if isinstance(record, kind)]

    def value(self, payload: Payload) -> object:
        return self.spoken[payload.digest]

    @property
    def winner(self) -> str:
        (promoted,) = self.of("main", Promoted)
        assert isinstance(promoted, Promoted)
        return promoted.branch

    def happened(self, branch: str, *, undo: bool = False) -> list[str]:
        """The tools of the effects, or of the undos, that happened on a branch, in order."""
        intents = {seq: record for seq, record in self.log[branch] if isinstance(record, Intent)}
        return [
            intents[record.intent].tool
            for _, record in self.log[branch]
            if isinstance(record, Seal) and record.intent in intents and isinstance(record.outcome, Happened)
            if (intents[record.intent].undoes is not None) is undo
        ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("demo-fork")
    ran = subprocess.run(
        [sys.executable, "-m", "holdfast", "demo", "--fork", "--into", str(place)],
        env={**os.environ, "COLUMNS": "110", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    log: dict[str, list[tuple[int, Record]]] = {}
    spoken: dict[str, object] = {}

    async def read() -> None:
        for branch in await house.store.branches(f"{RUN}@"):
            entries = await house.store.read(branch.name)
            log[branch.name.partition("@")[2]] = [(entry.seq, decode(entry.body)) for entry in entries]
        for records in log.values():
            for _, record in records:
                payload = record.value if isinstance(record, Override) else None
                payload = record.answer if isinstance(record, Decision) else payload
                if payload is not None:
                    spoken[payload.digest] = json.loads(await read_payload(house.store, payload))

    if ran.returncode == 0:
        with open_store(f"sqlite:///{place / 'runs.db'}") as house:
            asyncio.run(read())
    return Told(ran.returncode, ran.stdout, place, log, spoken)


def test_the_demo_ends_well_and_says_so(told: Told) -> None:
    assert told.status == 0, told.said
    assert "Nothing happened twice" in told.said


def test_the_world_was_changed_once_where_it_should_be_and_cleared_where_not(told: Told) -> None:
    found = {
        each["name"]: (each["found"], each["right"]) for each in json.loads((told.place / "counts.json").read_text())
    }
    assert found == {
        "us-west-2: network, subnet, machine made": (3, 3),
        "us-west-2: taken down, the last one first": (3, 3),
        "us-west-2: still there": (0, 0),
        "eu-central-1: network, subnet, copier made": (3, 3),
        "eu-central-1: taken down": (0, 0),
        "machines of the size that won (t3.medium)": (2, 2),
        "machines of the three sizes that lost": (0, 0),
        "changes of the new cloud in all": (11, 11),
        "stops of the old machines (two branches asked)": (1, 1),
        "old machines stopped": (3, 3),
        "alterations of the database": (1, 1),
        "the customers' money, in cents": (55500, 55500),
        "names that point to eu-central-1": (1, 1),
        'mails "We move tonight" (before the fork)': (1, 1),
        'mails "We have moved"': (1, 1),
        "mails in all": (2, 2),
        "answers of the model": (5, 5),
    }


def test_the_database_was_altered_once_and_each_mail_sent_once(told: Told) -> None:
    database = sqlite3.connect(told.place / "world" / "legacy.db")
    assert database.execute("SELECT count(*) FROM alterations").fetchone() == (1,)
    euros = sum(balance for _, balance in legacy.ACCOUNTS)
    assert database.execute("SELECT sum(balance) FROM accounts").fetchone() == (euros * 100,)
    database.close()
    mails = post.mails(told.place / "world" / "mails")
    assert [str(message_from_bytes(mail.read_bytes())["Subject"]) for mail in mails] == [
        "We move tonight",
        "We have moved",
    ]


def test_the_operator_put_another_answer_at_node_9(told: Told) -> None:
    assert isinstance(dict(told.log["main"])[9], Decision)
    (forked,) = told.of("b2", Forked)
    assert isinstance(forked, Forked)
    assert (forked.parent, forked.at, forked.kind, forked.by) == ("main", 9, "recovery", "the operator")
    (override,) = told.of("b2", Override)
    assert isinstance(override, Override)
    assert (override.target, told.value(override.value)) == (9, "eu-central-1")


def test_what_was_stranded_is_taken_back_last_first_but_for_what_was_adopted(told: Told) -> None:
    assert told.happened("main") == ["mail.send", *BUILT, "east.stop"]
    assert told.happened("main", undo=True) == [f"{name}.undo" for name in reversed(BUILT)]
    assert told.happened("b2") == BUILT
    assert [record.tool for record in told.of("b2", Adopted) if isinstance(record, Adopted)] == ["east.stop"]


def test_of_four_branches_one_was_promoted_and_three_did_nothing(told: Told) -> None:
    assert list(told.log) != []
    losers = {"b3", "b4", "b5", "b6"} - {told.winner}
    assert len(losers) == 3
    for branch in losers:
        assert told.of(branch, Intent) == []
        assert [record.tool for record in told.of(branch, Planned) if isinstance(record, Planned)] == [BUILT[2]] * 2
    (tried,) = told.of(told.winner, Override)
    assert isinstance(tried, Override)
    assert told.value(tried.value) == "t3.medium"
    assert told.happened(told.winner)[:2] == [BUILT[2]] * 2


def test_the_winner_was_killed_and_taken_up_again(told: Told) -> None:
    assert "(status -9)" in told.said
    assert len(told.of(told.winner, Claim)) >= 2


def test_the_model_was_told_what_had_been_done_before_it_was_asked_again(told: Told) -> None:
    brief = next(record for record in told.of("b2", Decision) if isinstance(record, Decision))
    text = str(told.value(brief.answer))
    listed = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [(each["call"], each["state"]) for each in listed] == [(name, "happened") for name in [*BUILT, "east.stop"]]
    assert {each["arguments"].get("region") for each in listed} == {"us-west-2", None}


def test_the_dry_run_and_the_tree_are_shown(told: Told) -> None:
    dry, _, rest = told.said.partition("and forks the run")
    assert "becomes the run's line in place of main" in dry
    assert len(re.findall(r"main:\d+ +(?:cloud\.\w+|east\.stop) +taken back at the end", dry)) == 4
    tree = rest[rest.index("The run is a tree") :]
    assert re.search(r"└── main\n +superseded by its recovery fork `b2`", tree)
    assert re.search(r"└── b2  recovery fork at main:9  the answer at 9: eu-central-1", tree)
    assert len(re.findall(r"[├└]── b[3-6]  speculative fork at b2:\d+  tries \w+\.\w+", tree)) == 4
    assert len(re.findall(r"effects: 2 planned, 0 done", tree)) == 3


def test_no_process_is_left(told: Told) -> None:
    pids = [int(pid) for pid in re.findall(r"process (\d+)", told.said)]
    assert len(pids) == 6
    assert [pid for pid in pids if alive(pid)] == []


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_count_that_is_not_right_fails_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_story.ForkStory, "tell", lambda _: ["mails: 3 instead of 2"])
    assert fork_story.main(["--into", str(tmp_path)]) == 1


def grown() -> tuple[Telling, Tree]:
    """The story as it should be, by the log."""
    tree, told = Tree(), Telling()
    tree.fold(forked("b2", "main", 9, "recovery", None))
    for name in ("b3", "b4", "b5", "b6"):
        tree.fold(forked(name, "b2", 20, "speculative", "b2/0"))
    tree.fold(Promoted(branch="b4", group="b2/0", by="x"))
    told.winners = ["b4"]
    told.branches = {name: Deeds() for name in ("main", "b2", "b3", "b4", "b5", "b6")}
    told.branches["main"] = Deeds(undone=list(reversed(BUILT)))
    told.branches["b2"] = Deeds(adopted=["east.stop"])
    told.branches["b4"] = Deeds(finished=True, settled=["legacy.alter"])
    return told, tree


def forked(branch: str, parent: str, at: int, kind: str, group: str | None) -> Forked:
    return Forked(branch=branch, parent=parent, at=at, digest="", kind=kind, group=group, by="x", why="")


def test_the_right_story_has_nothing_untrue() -> None:
    assert fork_story.untrue(*grown()) == []


@pytest.mark.parametrize(
    ("branch", "deeds", "what"),
    [
        ("b3", Deeds(did=["mail.send"]), "b3 lost and has done"),
        ("b4", Deeds(finished=False, settled=["legacy.alter"]), "not finished"),
        ("b4", Deeds(finished=True), "not finished, or has settled"),
        ("main", Deeds(undone=BUILT), "were taken back"),
        ("b2", Deeds(), "has adopted"),
    ],
)
def test_another_story_is_found_out(branch: str, deeds: Deeds, what: str) -> None:
    told, tree = grown()
    told.branches[branch] = replace(deeds)
    (problem,) = fork_story.untrue(told, tree)
    assert what in problem


def test_two_winners_are_found_out() -> None:
    told, tree = grown()
    told.winners = ["b4", "b5"]
    (problem,) = fork_story.untrue(told, tree)
    assert "were promoted" in problem
