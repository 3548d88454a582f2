"""Commands as processes: one is killed, others look at what it left, and a person ends the doubt."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.keyboard import TROUPE, process, read, soon, start, typed

LOOK_S = 60


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test began; what still lives at its end is ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        if each.poll() is None:
            each.kill()
        each.communicate()


def mails() -> list[str]:
    return Path("mails").read_text().splitlines() if Path("mails").exists() else []


def test_a_killed_run_is_shown_in_doubt_settled_by_a_person_and_resumed_without_a_second_mail(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    Path("stuck").touch()
    run = start("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1", cwd=here)
    begun.append(run)
    soon(lambda: mails() == ["ann"], "the mail is sent")

    # While its process lives nobody settles, and nobody else advances it.
    assert read("show", "dun-1")["status"] == "running"
    assert "Hint: holdfast log dun-1 --follow" in typed("show", "dun-1").stderr
    early = typed("settle", "dun-1@7", "--did-not-happen")
    assert (early.exit_code, early.stderr.split(":")[0]) == (4, "Claimed")
    second = typed("resume", "dun-1", "--agent", f"{TROUPE}:dun")
    assert (second.exit_code, second.stderr.split(":")[0]) == (4, "Claimed")

    run.send_signal(signal.SIGKILL)
    run.wait()
    Path("stuck").unlink()

    shown = typed("show", "dun-1").stdout.splitlines()
    assert shown[0] == "dun-1  doubt"
    assert shown[2] == "DOUBT  mail may have happened  (irreversible, dun-1@7)"
    assert "  holdfast settle dun-1@7 --happened 'JSON'   # it happened, and this was its answer" in shown
    assert "  holdfast settle dun-1@7 --did-not-happen   # it did not; the agent is told, and may call again" in shown

    waits = process("resume", "dun-1", "--agent", f"{TROUPE}:dun", "--no-wait", cwd=here)
    assert (waits.returncode, waits.stdout) == (3, "")
    assert waits.stderr.endswith(
        "\n  fix: holdfast settle dun-1@7 --happened 'JSON' | holdfast settle dun-1@7 --did-not-happen\n"
    )
    assert mails() == ["ann"]

    settled = typed("settle", "dun-1@7", "--happened", '"it is in the outbox"', "--by", "eve")
    assert settled.exit_code == 0, settled.stderr
    ends = process("resume", "dun-1", "--agent", f"{TROUPE}:dun", cwd=here)
    assert (ends.returncode, ends.stdout) == (0, '"it is in the outbox"\n')
    assert mails() == ["ann"]
    assert typed("verify").exit_code == 0


def test_what_a_person_says_did_not_happen_is_told_to_the_agent_which_may_call_again(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    Path("stuck").touch()
    run = start("run", f"{TROUPE}:stubborn", "--input", '{"to": "ann"}', "--id", "dun-1", cwd=here)
    begun.append(run)
    soon(lambda: mails() == ["ann"], "the mail is sent")
    run.kill()
    run.wait()
    Path("stuck").unlink()
    Path("mails").unlink()  # the mail server has lost it
    typed("settle", "dun-1@3", "--did-not-happen", "--reason", "no mail arrived")
    assert typed("resume", "dun-1", "--agent", f"{TROUPE}:stubborn").stdout == '"mail to ann"\n'
    assert mails() == ["ann"]


def test_a_log_is_followed_while_another_process_writes_it_and_ends_with_the_run(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    run = start("run", f"{TROUPE}:payer", "--input", '{"cents": 5}', "--id", "pay-5", cwd=here)
    begun.append(run)
    soon(lambda: typed("list", "--status", "held", "--json").stdout.count("pay-5") > 0, "the call is held")
    follower = start("log", "pay-5", "--follow", "--json", cwd=here)
    begun.append(follower)
    assert follower.stdout is not None
    seen = [json.loads(follower.stdout.readline())["name"] for _ in range(3)]
    assert seen == ["claim", "started", "hold"]

    assert typed("approve", "pay-5@3", "--by", "ann").exit_code == 0
    answer, said = run.communicate(timeout=LOOK_S)
    assert (run.returncode, answer) == (0, '"paid 5"\n')
    assert said.splitlines()[0].startswith("waiting: `pay` waits for approval")
    assert said.splitlines()[1:3] == ["Hint: holdfast approve pay-5@3", "Hint: holdfast refuse pay-5@3 --reason '…'"]
    assert said.splitlines()[-1] == "going on"

    rest, errors = follower.communicate(timeout=LOOK_S)
    assert (follower.returncode, errors) == (0, "")
    names = [json.loads(line)["name"] for line in rest.splitlines()]
    assert names == ["approval", "claim", "intent", "seal", "finished"]


def test_an_interrupted_run_says_so_and_goes_on_later(here: Path, begun: list[subprocess.Popen[str]]) -> None:
    run = start("run", f"{TROUPE}:payer", "--input", '{"cents": 5}', "--id", "pay-5", cwd=here)
    begun.append(run)
    assert run.stderr is not None
    assert run.stderr.readline().startswith("waiting: ")
    time.sleep(0.5)  # by then it does nothing but wait
    run.send_signal(signal.SIGINT)
    out, errors = run.communicate(timeout=LOOK_S)
    assert (run.returncode, out, errors.splitlines()[-1]) == (130, "", "interrupted")
    assert read("show", "pay-5")["status"] == "held"


def test_a_reader_that_goes_away_ends_a_command_without_a_word(here: Path, begun: list[subprocess.Popen[str]]) -> None:
    typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1")
    lines = start("log", "dun-1", "--follow", cwd=here)
    begun.append(lines)
    assert lines.stdout is not None
    lines.stdout.close()
    assert lines.wait(LOOK_S) == 141
    assert lines.stderr is not None
    assert lines.stderr.read() == ""


def test_the_module_is_the_same_program(here: Path) -> None:
    ran = process("--version", cwd=here)
    assert (ran.returncode, ran.stdout.split()[0], ran.stderr) == (0, "holdfast", "")


def test_without_a_command_the_help_is_shown_and_the_usage_is_wrong(here: Path) -> None:
    ran = process(cwd=here)
    assert ran.returncode == 2
    assert "Usage: holdfast" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [(["fly"], "No such command 'fly'"), (["list", "--fly"], "No such option: --fly"), (["run"], "no agent is named")],
)
def test_a_line_that_is_no_command_is_wrong_usage(words: list[str], said: str) -> None:
    result = typed(*words)
    assert result.exit_code == 2
    assert said in result.output
