"""`run` and `resume`: an agent is given a task, and every way in which that ends has its words and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.keyboard import TROUPE, done, play, typed


def lines(name: str) -> list[str]:
    path = Path(name)
    return path.read_text().splitlines() if path.exists() else []


def test_the_answer_goes_to_stdout_as_json_and_nothing_else_does() -> None:
    result = play("dun", {"to": "ann"}, "dun-1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, '"mail to ann"\n', "")


def test_the_same_command_again_answers_from_the_log() -> None:
    play("dun", {"to": "ann"}, "dun-1")
    assert play("dun", {"to": "ann"}, "dun-1").stdout == '"mail to ann"\n'
    assert lines("mails") == ["ann"]


def test_a_run_without_an_id_is_told_how_to_go_on_with_it() -> None:
    result = typed("run", f"{TROUPE}:echo", "--input", '"x"')
    run = result.stderr.splitlines()[0].removeprefix("run ")
    assert f"Hint: to go on with it after a crash: holdfast run {TROUPE}:echo --id {run}" in result.stderr
    assert typed("show", run).exit_code == 0


@pytest.mark.parametrize("source", ["text", "file", "stdin"])
def test_a_task_comes_from_the_line_a_file_or_stdin(source: str) -> None:
    task = {"a": [1, "ä"]}
    Path("task.json").write_text(json.dumps(task))
    said = {"text": json.dumps(task), "file": "@task.json", "stdin": "-"}[source]
    result = typed("run", f"{TROUPE}:echo", "--input", said, "--id", "e", input=json.dumps(task))
    assert json.loads(result.stdout) == task


def test_a_run_that_is_held_says_how_it_goes_on_and_exits_with_3() -> None:
    result = play("payer", {"cents": 5}, "pay-5")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        "Held: `pay` waits for approval: the contract asks for approval [pay-5@3]\n"
        "  fix: holdfast approve pay-5@3 | holdfast refuse pay-5@3 --reason '…'\n"
    )


def test_a_run_that_waits_for_a_signal_names_it() -> None:
    result = play("waiter", None, "w")
    assert result.exit_code == 3
    assert "fix: holdfast signal w paid JSON" in result.stderr


def test_a_run_that_sleeps_says_how_it_is_woken() -> None:
    result = play("sleeper", {"seconds": 3600}, "s")
    assert result.exit_code == 3
    assert f"fix: holdfast resume s --agent {TROUPE}:sleeper" in result.stderr


def test_an_agent_that_raises_is_told_in_words_with_its_place_and_no_traceback() -> None:
    result = play("failing", None, "f")
    assert result.exit_code == 1
    assert result.stderr.startswith("the agent failed: ValueError: \\x1b[31mred")
    assert "troupe.py:" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Hint: --debug shows the traceback" in result.stderr


def test_debug_shows_the_traceback_of_the_agent() -> None:
    result = play("failing", None, "f", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "raise ValueError(HOSTILE)" in result.stderr
    assert "no running event loop" not in result.stderr


def test_an_agent_that_leaves_with_a_code_of_its_own_has_failed() -> None:
    result = play("quitter", None, "q")
    assert result.exit_code == 1
    assert result.stderr.startswith("the agent failed: SystemExit: 7\n")


def test_a_run_that_failed_is_run_again_and_its_log_stays_valid() -> None:
    play("failing", None, "f")
    assert play("failing", None, "f").exit_code == 1
    assert typed("verify").exit_code == 0


def test_a_run_that_was_cancelled_does_not_go_on() -> None:
    play("payer", {"cents": 5}, "pay-5")
    done("cancel", "pay-5", "--by", "ann", "--reason", "paid in cash")
    result = play("payer", {"cents": 5}, "pay-5")
    assert result.exit_code == 1
    assert "Cancelled: the run was cancelled by ann: paid in cash" in result.stderr


# --- resume ---


def test_resume_goes_on_with_the_agent_that_the_user_names() -> None:
    play("payer", {"cents": 5}, "pay-5")
    done("approve", "pay-5@3")
    assert done("resume", "pay-5", "--agent", f"{TROUPE}:payer") == '"paid 5"\n'
    assert lines("paid") == ["5"]


def test_resume_imports_nothing_because_a_log_names_it() -> None:
    play("payer", {"cents": 5}, "pay-5")
    result = typed("resume", "pay-5")
    assert result.exit_code == 2
    assert f"holdfast resume pay-5 --agent {TROUPE}:payer" in result.stderr


@pytest.mark.parametrize("named", [TROUPE, f"{TROUPE}:payer", f"other, {TROUPE}"])
def test_resume_imports_what_the_environment_allows(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    play("payer", {"cents": 5}, "pay-5")
    done("approve", "pay-5@3")
    monkeypatch.setenv("HOLDFAST_AGENTS", named)
    assert done("resume", "pay-5") == '"paid 5"\n'


def test_resume_imports_what_the_project_allows() -> None:
    play("payer", {"cents": 5}, "pay-5")
    done("approve", "pay-5@3")
    Path("pyproject.toml").write_text(f'[tool.holdfast]\nagents = ["{TROUPE}"]\n')
    assert done("resume", "pay-5") == '"paid 5"\n'


def test_resume_says_so_when_another_agent_goes_on() -> None:
    play("payer", {"cents": 5}, "pay-5")
    done("refuse", "pay-5@3")
    result = typed("resume", "pay-5", "--agent", f"{TROUPE}:asker")
    assert f"the log says that `{TROUPE}:payer` advances it; going on with `{TROUPE}:asker`" in result.stderr


# --- what cannot be ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "troupe"], "Misuse: `troupe` does not name an agent"),
        (["run", "no_such_module:x"], "Unknown: there is no module `no_such_module`"),
        (["run", f"{TROUPE}:nobody"], "Unknown: `tests.cli.troupe:nobody` does not exist"),
        (["run", f"{TROUPE}:not_an_agent"], "Unknown: `tests.cli.troupe:not_an_agent` is not an agent"),
        (["run", f"{TROUPE}:lonely"], "Misuse: `tests.cli.troupe:lonely` cannot be called with a run and a task"),
        (["run", "raises:x"], "Misuse: `raises` cannot be imported: ZeroDivisionError"),
        (["run", "lacks:x"], "Misuse: `lacks` cannot be imported: No module named 'holdfast_lacks_this'"),
        (["run", "leaves:x"], "Misuse: `leaves` cannot be imported: SystemExit"),
        (["run", "broken:x"], "Misuse: `broken` cannot be imported: SyntaxError"),
        (["run", f"{TROUPE}:echo", "--input", "{bad"], "BadCall: `--input` is not JSON"),
        (["run", f"{TROUPE}:echo", "--input", "NaN"], "BadCall: `--input` is not JSON: NaN is no JSON number"),
        (["run", f"{TROUPE}:echo", "--input", "@none.json"], "BadCall: `none.json` cannot be read"),
        (["run", f"{TROUPE}:echo", "--id", "bad id"], "Misuse: `bad id` cannot name a run"),
        (["run", f"{TROUPE}:echo", "--on-divergence", "guess"], "BadCall: `guess` says nothing about divergences"),
        (["run", f"{TROUPE}:echo", "--store", "mysql://x/y"], "Misuse: `mysql://x/y` names no store"),
        (["run", f"{TROUPE}:echo", "--store", "/"], "Misuse: `sqlite:////` names no file"),
        (["run", f"{TROUPE}:echo", "--store", "sqlite:///r.db?colour=red"], "Misuse: unknown store option `colour`"),
        (["resume", "nobody"], "Unknown: there is no store here"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_fix(words: list[str], said: str) -> None:
    Path("raises.py").write_text("1 / 0\n")
    Path("lacks.py").write_text("import holdfast_lacks_this\n")
    Path("leaves.py").write_text("raise SystemExit(9)\n")
    Path("broken.py").write_text("x = (\n")
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-2].startswith(said)
    assert result.stderr.splitlines()[-1].startswith("  fix: ")


def test_a_run_that_exists_is_not_given_another_task() -> None:
    play("echo", 1, "e")
    result = play("echo", 2, "e")
    assert result.exit_code == 2
    assert "this run exists, with another input" in result.stderr


def test_a_directory_that_is_not_there_stops_a_run_before_it_begins() -> None:
    result = play("echo", 1, "e", "--store", "none/runs.db")
    assert result.exit_code == 5
    assert result.stderr == "Unwritable: the store's directory does not exist [none]\n  fix: mkdir -p none\n"
