"""The examples do what their first lines say: run as a user runs them, killed, and started again."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start an example in a directory of its own."""

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def answer(process: subprocess.Popen[str]) -> str:
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return said.strip()


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "beam_search.py",
        "best_of_n.py",
        "dun.py",
        "fork_and_override.py",
        "loop.py",
        "refunds.py",
        "reminder.py",
        "tree_search.py",
    ]


def test_a_reminder_is_sent_once_however_often_the_program_runs(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, again = (answer(program("dun.py", "77")) for _ in range(2))
    mails = list((tmp_path / "outbox").iterdir())
    assert [mail.stem for mail in mails] == [first] == [again]
    assert "invoice 77" in mails[0].read_text()


def test_another_invoice_is_another_run(program: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert answer(program("dun.py", "77")) != answer(program("dun.py", "78"))
    assert len(list((tmp_path / "outbox").iterdir())) == 2


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_agent_loop_killed_anywhere_books_nothing_twice_and_forgets_nothing(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path, after: int
) -> None:
    """Killed once the ledger has `after` lines; then run to its end, and once more."""
    process = program("loop.py", "0.1")
    until = time.monotonic() + 60
    while len(lines(tmp_path / "ledger.txt")) < after or not (tmp_path / "runs.db").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.communicate()
    left = lines(tmp_path / "ledger.txt")
    first, again = (answer(program("loop.py", "0.1")) for _ in range(2))
    booked = lines(tmp_path / "ledger.txt")
    assert len({line.split()[0] for line in booked}) == len(booked) == 3
    assert booked[: len(left)] == left
    assert first == again == f"The balance is {sum(int(line.split()[1]) for line in booked)}."
    asked = lines(tmp_path / "asked.txt")
    assert len(asked) - len(set(asked)) <= 1, "at most the answer that was cut off by the kill was asked for again"


@pytest.mark.parametrize("after", [1, 6, 11])
def test_parallel_refunds_killed_in_the_middle_are_made_once_each(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path, after: int
) -> None:
    """Killed once the bank has made `after` of twelve; then run to the end, and once more."""
    process = program("refunds.py", "1")
    until = time.monotonic() + 60
    while len(lines(tmp_path / "bank.txt")) < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert [answer(program("refunds.py", "0.1")) for _ in range(2)] == ["6000", "6000"]
    customers = [line.split()[1] for line in lines(tmp_path / "bank.txt")]
    assert sorted(customers) == sorted(f"customer-{number}" for number in range(12))


def test_a_reminder_sleeps_for_a_week_as_no_process_and_is_woken_by_its_signal(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """One run sleeps for a week; another one, whose week is short, waits for its money. A watcher is told of it."""

    def holdfast(*words: str) -> subprocess.Popen[str]:
        places = f"{EXAMPLES.parent / 'src'}{os.pathsep}{EXAMPLES}"
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast", *words, "--store", "runs.db"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": places, "HOLDFAST_AGENTS": "reminder"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def subjects() -> list[str]:
        return sorted(mail.read_text().splitlines()[0] for mail in (tmp_path / "outbox").iterdir())

    assert answer(program("reminder.py", "77", "604800")).startswith("the run sleeps")
    assert answer(program("reminder.py", "78", "0.1")).startswith("the run waits for the signal `paid`")
    watcher = holdfast("run", "--watch")
    try:
        answer(holdfast("signal", "invoice-78", "paid", '"by transfer"'))
        until = time.monotonic() + 60
        while len(subjects()) < 4:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        watcher.terminate()
        watcher.communicate(timeout=60)
    assert answer(program("reminder.py", "78", "0.1")) == "paid by transfer"
    assert subjects() == [
        "Subject: a friendly reminder", "Subject: thank you", "Subject: your invoice", "Subject: your invoice",
    ]  # fmt: skip
    assert "asleep" in answer(holdfast("list", "--status", "asleep"))


def kill_once(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Kill a program at the moment at which it has come so far, unless it has ended before."""
    until = time.monotonic() + 60
    while process.poll() is None and not reached():
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_fork_killed_anywhere_announces_once_and_gives_the_wrong_lease_back(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path, after: int
) -> None:
    world, log = tmp_path / "world.txt", tmp_path / "runs.db"
    kill_once(program("fork_and_override.py", "0.1"), lambda: log.exists() and len(lines(world)) >= after)
    said = [answer(program("fork_and_override.py", "0.05")).splitlines()[-1] for _ in range(2)]
    assert {words.removeprefix("on b2: ") for words in said} == {"rent a shop in Oslo"}
    assert lines(world) == [
        "rent a shop in Paris",
        "announce: We open on Monday.",
        "rent a shop in Oslo",
        "give back the shop in Paris",
    ]


def test_of_four_reminders_only_the_shortest_is_sent(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, again = (answer(program("best_of_n.py")) for _ in range(2))
    (mail,) = (tmp_path / "outbox").iterdir()
    assert mail.read_text() == f"Subject: invoice 77\n\n{first}\n"
    assert first == again


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_tree_search_killed_anywhere_books_the_best_way_and_no_other(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path, after: int
) -> None:
    """Of the nine ways from Oslo to Rome one is cheapest."""
    bookings, log = tmp_path / "bookings.txt", tmp_path / "runs.db"
    kill_once(program("tree_search.py", "0.05"), lambda: log.exists() and len(lines(bookings)) >= after)
    first, again = (answer(program("tree_search.py")) for _ in range(2))
    assert first == again == "{'way': ['Oslo', 'Warsaw', 'Vienna', 'Rome'], 'price': 220}"
    assert lines(bookings) == ["Oslo-Warsaw", "Warsaw-Vienna", "Vienna-Rome"]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_beam_search_killed_anywhere_moves_along_the_best_way_and_no_other(
    program: Callable[..., subprocess.Popen[str]], tmp_path: Path, after: int
) -> None:
    """Two of the beads can be brought together twice, and in no way three times; following one way alone finds none."""
    moves, log = tmp_path / "moves.txt", tmp_path / "runs.db"
    kill_once(program("beam_search.py"), lambda: log.exists() and len(lines(moves)) >= after)
    first, again = (answer(program("beam_search.py")) for _ in range(2))
    assert first == again == "{'steps': 'lllurrul', 'contacts': 2}"
    names = {"l": "left", "u": "up", "r": "right"}
    assert lines(moves) == [f"{number} {names[step]}" for number, step in enumerate("lllurrul", 1)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short: the system has little room for that of a socket."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_a_program_behind_a_gateway_does_what_the_guide_says_and_nothing_else(tmp_path: Path, short: Path) -> None:
    from holdfast.gateway.preflight import preflight

    missing = preflight()
    if missing:
        pytest.skip(f"nothing can be confined here: {missing[0].what}")
    place = short / "gateway"
    shutil.copytree(EXAMPLES / "gateway", place)
    told = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent / "src"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    python = str(Path(sys.executable))
    subprocess.run([python, "books.py"], cwd=place, check=True, timeout=60)
    holdfast = [python, "-m", "holdfast"]
    subprocess.run([*holdfast, "config", "check"], cwd=place, env=told, check=True, capture_output=True, timeout=60)
    run = [*holdfast, "run", "--sandbox", "--id", "books-1", "--", "/usr/bin/python3", str(place / "program/clerk.py")]
    ran = subprocess.run(run, cwd=place, env=told, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    books = sqlite3.connect(place / "shop.db")
    assert books.execute("SELECT id, paid FROM invoices ORDER BY id").fetchall() == [(76, 1), (77, 1), (78, 0)]
    books.close()
    guide = (EXAMPLES.parent / "docs" / "gateway.md").read_text()
    assert f"```text\n{ran.stdout}```" in guide


@pytest.mark.parametrize("name", ["holdfast.toml", "policy.cedar", "program/clerk.py"])
def test_the_guide_shows_the_files_of_its_example(name: str) -> None:
    guide = (EXAMPLES.parent / "docs" / "gateway.md").read_text()
    assert (EXAMPLES / "gateway" / name).read_text() in guide
