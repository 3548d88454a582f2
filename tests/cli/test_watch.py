"""`run --watch` as a process: it wakes what can go on, leaves the rest alone, shares the work, and may die any time."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import open_store
from holdfast.core.codec import decode, encode
from holdfast.core.log import Log
from holdfast.core.record import Claim, Finished, Promoted, Record, Sleep, Started
from holdfast.embedded.explore import packed_json
from holdfast.gateway.line import key_for
from holdfast.store import Draft
from holdfast.store.reader import Reader
from holdfast.store.sqlite import SqliteStore
from tests.cli.keyboard import TROUPE, command, play, process, read, soon, start, surroundings, typed

DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Watching:
    """A watcher, and the file that it speaks into."""

    process: subprocess.Popen[str]
    speech: Path

    def said(self) -> str:
        return self.speech.read_text()


Watchers = Callable[..., Watching]


@pytest.fixture
def watcher(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchers]:
    """Starts watchers of the store `holdfast.db`, which may run the troupe. What still lives in the end is ended."""
    begun: list[Watching] = []
    place = tmp_path_factory.mktemp("speech")

    def begin(*more: str) -> Watching:
        speech = place / str(len(begun))
        with speech.open("w") as into:
            process = subprocess.Popen(
                command("run", "--watch", *more), cwd=here, env=surroundings(HOLDFAST_AGENTS=TROUPE), text=True,
                stdout=subprocess.PIPE, stderr=into,
            )  # fmt: skip
        begun.append(Watching(process, speech))
        soon(lambda: process.poll() is not None or begun[-1].said() != "", "it watches")
        return begun[-1]

    yield begin
    for each in begun:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def told(watching: Watching) -> str:
    """Stop a watcher, as a service is stopped; what it has said."""
    watching.process.send_signal(signal.SIGTERM)
    out, _ = watching.process.communicate(timeout=60)
    assert (watching.process.returncode, out) == (0, ""), watching.said()
    assert watching.said().splitlines()[-1] == "stopped"
    return watching.said()


def status(run: str) -> str:
    return read("show", run)["status"]


def ended(*runs: str) -> Callable[[], bool]:
    return lambda: all(status(run) == "finished" for run in runs)


def log(run: str) -> list[Record]:
    """The log of a run, read beside whoever writes it."""
    return [decode(entry.body) for entry in asyncio.run(_entries(run))]


async def _entries(run: str) -> Any:
    with Reader(Path("holdfast.db")) as reader:
        return await reader.read(f"{run}@main")


def lives(run: str) -> int:
    return sum(isinstance(record, Claim) for record in log(run))


def logged(branch: str) -> str:
    """The log of a branch, as it is shown."""
    return typed("log", branch).stdout


def lines(name: str) -> list[str]:
    return Path(name).read_text().splitlines() if Path(name).exists() else []


def plant(run: str, agent: str, task: Any, *more: Record) -> None:
    """A run that has come so far, as the process that gave it up has left it."""

    async def placed() -> None:
        store = SqliteStore(Path("holdfast.db"))
        packed = packed_json(task)
        records = [Claim(worker="w", previous="none"), Started(agent=f"{TROUPE}:{agent}", input=packed.payload), *more]
        grant = await store.claim(f"{run}@main")
        drafts = [Draft(key_for(record, Log("")), encode(record)) for record in records]
        await store.append(f"{run}@main", drafts, epoch=grant.epoch, release=True, barrier=True, blobs=packed.blobs)
        await store.close()

    asyncio.run(placed())


# --- what it is asked with ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "Misuse: no agent is named\n  fix: holdfast run MODULE:AGENT, or holdfast run --watch\n"),
        (["run", "--watch"], "Misuse: no agent may be run"),
        (["run", "--watch", "a:b"], "Misuse: `--watch` takes no run of its own"),
        (["run", "--watch", "--id", "r"], "Misuse: `--watch` takes no run of its own"),
        (["run", "--watch", "--no-wait"], "Misuse: `--watch` takes no run of its own"),
        (["run", "--watch", "--store", "memory://"], "Misuse: only a store in a file can be watched"),
        (["run", "--watch", "--on-divergence", "perhaps"], "BadCall: `perhaps` says nothing about divergences"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_watch_that_cannot_be_is_refused_before_anything_is_opened(words: list[str], said: str, here: Path) -> None:
    result = typed(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert list(here.iterdir()) == []


# --- what wakes a run ---


def test_a_signal_wakes_a_run_that_waits_in_no_process(watcher: Watchers) -> None:
    play("waiter", None, "w")
    watching = watcher()
    typed("signal", "w", "paid", '"in full"')
    soon(ended("w"), "the signal is taken")
    assert lives("w") == 2
    assert "w  finished" in told(watching).splitlines()


def test_an_approval_and_a_refusal_wake_the_runs_that_they_are_for(watcher: Watchers) -> None:
    watching = watcher()
    for number in (1, 2, 3):
        play("asker", {"cents": number}, f"pay-{number}")
    typed("approve", "pay-1@3")
    typed("refuse", "pay-2@3")
    soon(ended("pay-1", "pay-2"), "both go on")
    assert (lines("paid"), status("pay-3"), lives("pay-3")) == (["1"], "held", 1)
    told(watching)


def test_a_sleep_of_days_costs_nothing_and_is_shown_and_one_that_is_over_ends_on_time(watcher: Watchers) -> None:
    play("sleeper", {"seconds": 30 * DAY_S}, "month")
    plant("soon", "sleeper", {"seconds": 1}, Sleep(name="sleep", n=0, until_ms=int(time.time() * 1000) + 3000))
    watching = watcher()
    soon(ended("soon"), "it wakes")
    (sleep,) = [record for record in log("soon") if isinstance(record, Sleep)]
    assert asyncio.run(_entries("soon"))[-1].at_ms >= sleep.until_ms
    (month,) = read("list", "--status", "asleep")
    assert (month["run"], month["holder"], month["entries"]) == ("month", None, 3)
    assert month["about"].startswith("until ")
    told(watching)
    assert lives("month") == 1


def test_a_run_whose_process_is_killed_is_taken_up_and_its_doubt_waits_for_a_person(
    watcher: Watchers, here: Path
) -> None:
    watching = watcher()
    Path("stuck").touch()
    run = start("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1", cwd=here)
    soon(lambda: lines("mails") == ["ann"], "the mail is sent")
    assert lives("dun-1") == 1
    run.kill()
    run.communicate()
    Path("stuck").unlink()
    soon(lambda: lives("dun-1") == 2, "it is taken over")
    soon(lambda: status("dun-1") == "doubt", "it is in doubt")
    typed("settle", "dun-1@7", "--happened", '"it arrived"')
    soon(ended("dun-1"), "the verdict wakes it")
    assert (lines("mails"), lives("dun-1")) == (["ann"], 3)
    told(watching)


def test_a_claim_of_another_machine_is_taken_over_when_it_shows_no_sign_of_life_and_one_of_this_machine_is_not(
    watcher: Watchers, here: Path
) -> None:
    store = "sqlite:///holdfast.db?claim_ttl_s=1"
    Path("stuck").touch()
    processes = []
    for run in ("here", "there"):
        words = ("run", f"{TROUPE}:dun", "--input", f'{{"to": "{run}"}}', "--id", run, "--store", store)
        processes.append(start(*words, cwd=here))
        soon(lambda: run in lines("mails"), "the mail is sent")  # noqa: B023
    near, far = processes
    near.send_signal(signal.SIGSTOP)
    far.kill()
    far.communicate()
    with apsw.Connection("holdfast.db") as connection:
        connection.execute("UPDATE worker SET host = 'there', place = 'there/1' WHERE pid = ?", (far.pid,))
    watching = watcher("--store", store)
    soon(lambda: lives("there") == 2, "it is taken over")
    soon(lambda: status("there") == "doubt", "a person is asked: it may still be running")
    told(watching)
    assert lives("here") == 1
    near.kill()
    near.communicate()


def test_a_run_that_was_interrupted_between_its_steps_goes_on(watcher: Watchers, here: Path) -> None:
    run = start("run", f"{TROUPE}:sleeper", "--input", '{"seconds": 5}', "--id", "s", cwd=here)
    soon(lambda: Path("holdfast.db").exists() and len(typed("log", "s").stdout.splitlines()) == 4, "it sleeps in place")
    run.send_signal(signal.SIGINT)
    run.communicate()
    watching = watcher()
    soon(ended("s"), "it goes on")
    told(watching)


# --- what it leaves alone ---


def test_an_agent_that_raised_is_not_tried_again(watcher: Watchers) -> None:
    play("failing", None, "f")
    play("waiter", None, "w")
    watching = watcher()
    typed("signal", "w", "paid")
    typed("signal", "f", "paid")
    soon(ended("w"), "others go on")
    told(watching)
    assert (lives("f"), status("f")) == (1, "failed")


def test_with_retry_failed_it_is_tried_again_after_a_pause(watcher: Watchers) -> None:
    plant("f", "echo", 7, Finished(answer=None, error="ConnectionError: the bank was closed"))
    failed_ms = asyncio.run(_entries("f"))[-1].at_ms
    watching = watcher("--retry-failed")
    soon(ended("f"), "it is tried again")
    assert asyncio.run(_entries("f"))[-1].at_ms - failed_ms >= 10_000
    told(watching)


def test_what_is_not_allowed_or_cannot_be_imported_is_said_once_and_the_others_go_on(watcher: Watchers) -> None:
    for run in ("a", "b"):
        plant(run, "echo", 1)
    Path("strange.py").write_text("from holdfast import agent\n\n@agent\ndef works(run, task):\n    return 1\n")
    for run in ("c", "d"):
        typed("run", "strange:works", "--id", run)  # finished: what counts is the next one
    plant("e", "nobody", 1)
    plant("f", "nobody", 1)

    async def foreign(run: str) -> None:
        store = SqliteStore(Path("holdfast.db"))
        grant = await store.claim(f"{run}@main")
        packed = packed_json(None)
        records = [Claim(worker="w", previous="none"), Started(agent="strange:works", input=packed.payload)]
        drafts = [Draft(key_for(record, Log("")), encode(record)) for record in records]
        await store.append(f"{run}@main", drafts, epoch=grant.epoch, release=True, blobs=packed.blobs)
        await store.close()

    for run in ("g", "h"):
        asyncio.run(foreign(run))
    watching = watcher()
    soon(ended("a", "b"), "what is allowed goes on")
    said = told(watching)
    assert said.count("its agent is `strange:works`, which is not allowed") == 1
    assert said.count("fix: if you trust it: HOLDFAST_AGENTS=strange") == 1
    assert said.count(f"`{TROUPE}:nobody` does not exist") == 1
    assert [lives(run) for run in "efgh"] == [1, 1, 1, 1]


def test_a_log_that_was_tampered_with_is_left_alone_and_the_others_go_on(watcher: Watchers) -> None:
    """One whose record is no record any more, one whose record is another one, and one whose tree is no tree."""
    for run in ("torn", "changed", "tree", "good"):
        plant(run, "echo", 1)
    forge = "UPDATE entry SET key = ?, body = ? WHERE seq = ? AND branch = (SELECT id FROM branch WHERE name = ?)"
    with apsw.Connection("holdfast.db") as connection:
        for run, seq, key, body in (
            ("torn", 1, None, b"{"),
            ("changed", 1, None, encode(Claim(worker="evil", previous="none"))),
            ("tree", 2, b"tree", encode(Promoted(branch="b9", group=None, by="evil"))),
        ):
            connection.execute(forge, (key, body, seq, f"{run}@main"))
    watching = watcher()
    soon(ended("good"), "what is whole goes on")
    soon(lambda: watching.said().count("its log cannot be") >= 3, "the others are told of")
    said = told(watching)
    assert "torn  its log cannot be read: a record is not JSON [torn@main]" in said
    assert "changed  its log cannot be trusted: the log was changed" in said
    assert "tree  its log cannot be read: a tree record may not stand here" in said


def test_an_agent_that_would_end_the_program_ends_its_own_life_only(watcher: Watchers) -> None:
    for name in ("leaver", "quitter"):
        plant(name, name, None)
    play("waiter", None, "w")
    watching = watcher()
    soon(lambda: status("leaver") == status("quitter") == "failed", "both have failed")
    typed("signal", "w", "paid")
    soon(ended("w"), "others go on")
    told(watching)


def test_a_life_that_leaves_nothing_in_the_log_is_not_followed_by_the_next_at_once(watcher: Watchers) -> None:
    """Pauses of 0.25, 0.5, 1, 2 … s: so many lives as fit into the time that has passed, and not hundreds."""
    plant("q", "quiet", None)
    began_s = time.monotonic()
    watching = watcher()
    soon(lambda: len(lines("lives")) > 0 and len(lines("lives")[0]) >= 3, "it is tried again")
    told(watching)
    most = 2
    while 0.25 * (2**most - 1) < time.monotonic() - began_s:
        most += 1
    assert len(lines("lives")[0]) <= most + 1


# --- branches ---


def test_a_run_goes_on_on_the_branch_that_is_its_line(watcher: Watchers) -> None:
    play("waiter", None, "w")
    with open_store("sqlite:///holdfast.db") as house:
        assert house.fork("w@2", by="ann") == "b2"
    watching = watcher()
    soon(lambda: "until the signal `paid` comes" in logged("w@b2"), "the branch waits")
    typed("signal", "w", "paid", '"in full"')
    soon(lambda: "finished" in logged("w@b2"), "the branch ends")
    assert lives("w") == 1
    told(watching)


def test_a_search_whose_candidate_waits_is_woken_by_the_word_for_the_candidate(watcher: Watchers) -> None:
    plant("c", "chooser", None)
    watching = watcher()
    soon(lambda: "until branch b3 moves" in logged("c"), "the search waits for its candidate")
    time.sleep(2)
    assert lives("c") <= 3, "it is not tried again and again meanwhile"
    with open_store("sqlite:///holdfast.db") as house:
        asyncio.run(house.desk.signal("c@b3", "go", packed_json(None), by="ann"))
    soon(lambda: lines("mails") == ["2"], "the winner does what it planned")
    soon(lambda: "finished" in logged("c@b3"), "the winner ends")
    told(watching)


# --- how it ends ---


def test_told_to_stop_it_brings_what_is_under_way_to_its_seal_and_gives_the_claim_back(watcher: Watchers) -> None:
    Path("stuck").touch()
    plant("dun-1", "dun", {"to": "ann"})
    watching = watcher()
    soon(lambda: lines("mails") == ["ann"], "the mail is sent")
    watching.process.send_signal(signal.SIGTERM)
    soon(lambda: "stopping" in watching.said(), "it says so")
    time.sleep(0.5)
    assert watching.process.poll() is None, "a call is under way"
    Path("stuck").unlink()
    assert watching.process.wait(60) == 0
    assert read("show", "dun-1")["effects"][-1]["outcome"] == "happened"
    (row,) = read("list")
    assert (row["status"], row["holder"], row["about"]) == ("waiting", None, "to be resumed")
    again = watcher()
    soon(ended("dun-1"), "the next watcher goes on")
    assert lines("mails") == ["ann"]
    told(again)


def test_told_twice_it_ends_at_once(watcher: Watchers) -> None:
    Path("stuck").touch()
    plant("dun-1", "dun", {"to": "ann"})
    watching = watcher()
    soon(lambda: lines("mails") == ["ann"], "the mail is sent")
    watching.process.send_signal(signal.SIGINT)
    soon(lambda: "stopping" in watching.said(), "it says so")
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(60) == -signal.SIGINT
    assert status("dun-1") == "doubt"


def test_a_store_that_cannot_be_trusted_is_not_watched(watcher: Watchers) -> None:
    plant("a", "echo", 1)
    kept = Path("holdfast.db").read_bytes()
    plant("b", "echo", 1)
    for name in ("holdfast.db-wal", "holdfast.db-shm"):
        Path(name).unlink(missing_ok=True)
    Path("holdfast.db").write_bytes(kept)
    watching = watcher()
    assert watching.process.wait(60) == 5
    assert watching.said().startswith("RolledBack: ")


# --- more than one ---


def test_two_watchers_share_the_work_and_a_person_who_waits_hears_of_it(watcher: Watchers, here: Path) -> None:
    runs = [f"r{number}" for number in range(12)]
    for run in runs:
        plant(run, "bookkeeper", {"book": f"book-{run}"})
    person = start("resume", "r0", "--agent", f"{TROUPE}:bookkeeper", cwd=here)
    assert person.stderr is not None
    assert person.stderr.readline().startswith("waiting: ")
    watchers = [watcher("--at-once", "3"), watcher("--at-once", "3")]
    soon(lambda: Counter(status(run) for run in runs) == {"waiting": 12}, "all wait for a word")
    for run in runs:
        typed("signal", run, "sign", "5")
    soon(ended(*runs), "all have ended")
    for run in runs:
        assert [line.split()[1] for line in lines(f"book-{run}")] == ["0", "1", "2", "3", "4", "5"]
    assert person.communicate(timeout=60)[0] == "5\n"
    for watching in watchers:
        told(watching)
    assert typed("verify").exit_code == 0


def test_watchers_killed_at_any_moment_lose_nothing_and_do_nothing_twice(watcher: Watchers, here: Path) -> None:
    """Each is killed (SIGKILL) a little later than the one before, somewhere between its start and its work."""
    runs = [f"r{number}" for number in range(4)]
    for run in runs:
        plant(run, "bookkeeper", {"book": f"book-{run}"})
        typed("signal", run, "sign", "5")
    drawn = random.Random(7)
    for _ in range(40):
        watching = watcher()
        time.sleep(drawn.uniform(0.0, 0.25))
        watching.process.kill()
        watching.process.wait()
        if ended(*runs)():
            break
    watching = watcher()
    soon(lambda: all(status(run) in ("finished", "quarantined") for run in runs), "all have come to rest")
    for run in runs:
        if status(run) == "quarantined":  # killed five times in a row before it had done anything
            process("resume", run, "--agent", f"{TROUPE}:bookkeeper", cwd=here)
    assert ended(*runs)()
    for run in runs:
        assert [line.split()[1] for line in lines(f"book-{run}")] == ["0", "1", "2", "3", "4", "5"]
    told(watching)
    assert typed("verify").exit_code == 0


def test_a_run_that_kills_its_watchers_is_left_alone_in_the_end_until_a_person_resumes_it(
    watcher: Watchers, here: Path
) -> None:
    Path("deadly").touch()
    for number in range(3):
        plant(f"good-{number}", "bookkeeper", {"book": f"book-{number}"})
        typed("signal", f"good-{number}", "sign", "5")
    plant("bad", "killer", {"to": "ann"})
    killed = 0
    while status("bad") != "quarantined":
        watching = watcher()
        soon(lambda: watching.process.poll() is not None, "it is killed")  # noqa: B023
        killed += watching.process.poll() == -signal.SIGKILL
        assert killed <= 5
    watching = watcher()
    soon(ended("good-0", "good-1", "good-2"), "the others go on")
    said = told(watching)
    assert killed == 5
    assert "bad  its process has died 5 times in a row: left alone until it is resumed" in said.splitlines()
    (row,) = read("list", "--status", "quarantined")
    assert row["about"] == "its process has died 5 times in a row; to be resumed by a person"
    assert typed("show", "bad").stderr.startswith(f"Hint: holdfast resume bad --agent {TROUPE}:killer")
    Path("deadly").unlink()
    assert process("resume", "bad", "--agent", f"{TROUPE}:killer", cwd=here).stdout == '"mail to ann"\n'
    assert lines("mails") == ["ann"]


def test_a_watcher_that_has_nothing_to_do_does_next_to_nothing(watcher: Watchers) -> None:
    """No assertion on a clock: the processor time of a process that waits, over as much time as it takes to look."""
    play("waiter", None, "w")
    watching = watcher()
    stat = Path(f"/proc/{watching.process.pid}/stat")
    if not stat.exists():
        pytest.skip("the system does not tell how much a process has done")
    time.sleep(2)

    def used_s() -> float:
        user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / 100

    before_s = used_s()
    time.sleep(5)
    assert used_s() - before_s < 0.25, "a loop that never rests uses seconds"
    told(watching)
