"""`drift`, and `resume --check-drift`: what a run has seen on the desk is looked at again, and every way in which that
comes out has its words and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.keyboard import TROUPE, done, play, typed
from tests.cli.troupe import HOSTILE

CLERK = ("--agent", f"{TROUPE}:clerk")


def paper(name: str, *lines: str) -> None:
    Path(name).write_text("".join(f"{line}\n" for line in lines))


def sees(*reads: str, writes: tuple[str, ...] = (), run: str = "c") -> None:
    assert play("clerk", {"reads": reads, "writes": writes}, run).exit_code == 3


def test_a_world_that_is_as_it_was_exits_with_0() -> None:
    paper("a", "one")
    sees("a", "none")
    result = typed("drift", "c", *CLERK)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 asked again, on which c relies: 2 same\n", "")


def test_what_moved_is_shown_with_both_versions_and_exits_with_1() -> None:
    paper("a", "one")
    paper("b", "one")
    sees("a", "b")
    paper("a", "one", "two")
    Path("b").unlink()
    result = typed("drift", "c", *CLERK)
    assert result.exit_code == 1
    assert result.stdout == (
        'moved   c@3  desk.sheet {"sheet":"a"}\n'
        "        version v1 → v2\n"
        '        "one" → "two"\n'
        'gone    c@4  desk.sheet {"sheet":"b"}\n'
        "        there is no such sheet\n"
        "2 asked again, on which c relies: 1 moved, 1 gone\n"
    )
    assert result.stderr == "Hint: holdfast show c@3   # what the run saw then\n"
    assert done("show", "c@3")


def test_what_the_run_itself_has_written_is_told_apart() -> None:
    paper("a", "one")
    sees("a", writes=("a",))
    result = typed("drift", "c", *CLERK)
    assert result.exit_code == 0
    assert result.stdout == (
        'ours    c@3  desk.sheet {"sheet":"a"}\n'
        "        version v1 → v2\n"
        "        since then the run itself has written it: c@4\n"
        '        "one" → "from the clerk"\n'
        "1 asked again, on which c relies: 1 ours\n"
    )
    paper("a", "one", "from the clerk", "three")
    result = typed("drift", "c", *CLERK)
    assert result.exit_code == 1
    assert "nor is it as the run itself has left it: c@4" in result.stdout


def test_all_shows_what_is_as_it_was_too() -> None:
    paper("a", "one")
    sees("a")
    assert 'same    c@3  desk.sheet {"sheet":"a"}\n' in done("drift", "c", "--all", *CLERK)


def test_a_node_is_checked_as_it_was_there() -> None:
    paper("a", "one")
    paper("b", "one")
    sees("a", "b")
    paper("b", "one", "two")
    assert typed("drift", "c@3", *CLERK).exit_code == 0
    assert typed("drift", "c@main:4", *CLERK).exit_code == 1


def test_json_says_everything() -> None:
    paper("a", "one")
    sees("a", "none")
    paper("a", "one", "two")
    result = typed("drift", "c@4", "--json", *CLERK)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "branch": "c@main",
        "node": "c@4",
        "holds": False,
        "counts": {"moved": 1, "same": 1},
        "drift": [
            {"node": "c@3", "tool": "desk.sheet", "effect": False, "args": '{"sheet":"a"}', "fate": "moved",
             "why": "", "then": "v1", "now": "v2", "changes": ['"one" → "two"'], "writes": []},
            {"node": "c@4", "tool": "desk.sheet", "effect": False, "args": '{"sheet":"none"}', "fate": "same",
             "why": "not there, as then: there is no such sheet", "then": None, "now": None, "changes": [],
             "writes": []},
        ],
    }  # fmt: skip


def test_a_run_that_saw_nothing_relies_on_nothing() -> None:
    sees()
    assert done("drift", "c", *CLERK) == "0 asked again, on which c relies\n"


def test_a_tool_that_the_named_module_does_not_declare_is_unknown_and_exits_with_1() -> None:
    paper("a", "one")
    sees("a")
    Path("empty_stage.py").write_text("import holdfast\n@holdfast.agent\ndef nobody(run, task): ...\n")
    script = (
        "import sys\nfrom holdfast.cli.app import main\n"
        'sys.exit(main(["drift", "c", "--agent", "empty_stage:nobody"]))\n'
    )
    result = elsewhere(script)
    assert result.returncode == 1
    assert "unknown c@3" in result.stdout
    assert "Hint: --agent MODULE:AGENT names the module" in result.stderr


def elsewhere(script: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, which has imported nothing of the troupe."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=Path.cwd()
    )


def test_what_a_tool_says_cannot_steer_the_terminal() -> None:
    paper("hostile", "one")
    sees("hostile")
    Path("changed").touch()
    result = typed("drift", "c", *CLERK)
    assert result.exit_code == 1
    assert "ValueError" in result.stdout
    shown = result.stdout.replace("\n", "")
    assert shown.isprintable()
    assert HOSTILE not in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("drift", "nobody", *CLERK), "there is no run `nobody`"),
        (("drift", "c@99", *CLERK), "there is no node `c@99`"),
        (("drift", "c@b7", *CLERK), "there is no branch `b7`"),
        (("drift", "c@b:x", *CLERK), "is not a place"),
        (("drift", "c", "--agent", f"{TROUPE}:nobody"), "does not exist"),
        (("drift", "c"), "what is imported is for you to say"),
    ],
)
def test_what_cannot_be_asked_exits_with_2(words: tuple[str, ...], says: str) -> None:
    sees()
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr


def test_the_agent_of_the_log_is_taken_if_its_module_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    paper("a", "one")
    sees("a")
    refused = typed("drift", "c")
    assert f"fix: holdfast drift c --agent {TROUPE}:clerk" in refused.stderr
    monkeypatch.setenv("HOLDFAST_AGENTS", TROUPE)
    assert done("drift", "c") == "1 asked again, on which c relies: 1 same\n"


def test_the_store_is_only_read() -> None:
    paper("a", "one")
    sees("a", writes=("a",))
    before = {path.name: path.read_bytes() for path in Path().glob("holdfast.db*") if path.suffix != ".db-shm"}
    done("drift", "c", *CLERK)
    after = {path.name: path.read_bytes() for path in Path().glob("holdfast.db*") if path.suffix != ".db-shm"}
    assert before["holdfast.db"] == after["holdfast.db"]
    assert Path("a").read_text() == "one\nfrom the clerk\n"


# --- resume ---


def test_a_run_is_resumed_only_in_the_world_that_it_has_seen() -> None:
    paper("a", "one")
    sees("a")
    done("signal", "c", "go", '"now"')
    paper("a", "one", "two")
    entries = len(done("log", "c", "--json").splitlines())
    result = typed("resume", "c", "--check-drift", *CLERK)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Drifted: the world is not as the run has seen it: `desk.sheet` at c@3 has moved" in result.stderr
    assert "fix: holdfast drift c" in result.stderr
    assert len(done("log", "c", "--json").splitlines()) == entries, "nothing was started"
    paper("a", "one")
    assert done("resume", "c", "--check-drift", *CLERK) == '"now"\n'


def test_without_the_option_it_goes_on_all_the_same() -> None:
    paper("a", "one")
    sees("a")
    done("signal", "c", "go", '"now"')
    paper("a", "one", "two")
    assert done("resume", "c", *CLERK) == '"now"\n'


def test_a_fork_that_is_held_to_the_world_is_not_made_where_it_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_AGENTS", TROUPE)
    paper("a", "one")
    sees("a")
    assert done("fork", "c@3", "--what-if", "--check-drift").startswith("c@b2 ")
    paper("a", "one", "two")
    before = done("log", "c@main")
    result = typed("fork", "c@3", "--check-drift")
    assert result.exit_code == 1
    assert "Drifted: the world is not as the run has seen it: `desk.sheet` at c@3 has moved" in result.stderr
    assert done("log", "c@main") == before
    assert done("fork", "c@2", "--check-drift").startswith("c@b3 ")


def test_a_fork_that_is_held_to_the_world_needs_tools_that_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_AGENTS", raising=False)
    paper("a", "one")
    sees("a")
    result = typed("fork", "c@3", "--check-drift")
    assert result.exit_code == 2
    assert f"holdfast drift c@3 --agent {TROUPE}:clerk" in result.stderr


@pytest.mark.parametrize("words", [CLERK, ()], ids=["named", "allowed"])
def test_a_branch_that_has_read_what_has_moved_is_not_promoted(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_AGENTS", TROUPE)
    paper("a", "one")
    sees("a")
    done("fork", "c@3", "--what-if")
    paper("a", "one", "two")
    result = typed("promote", "c", "b2", *words)
    assert result.exit_code == 1
    assert "Drifted: the world has moved on since the branch read it: `desk.sheet`" in result.stderr
    assert "b2 is promoted" in done("promote", "c", "b2", "--unchecked")


def test_a_promotion_whose_tools_are_not_here_says_that_nobody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_AGENTS", raising=False)
    paper("a", "one")
    sees("a")
    done("fork", "c@3", "--what-if")
    paper("a", "one", "two")
    result = typed("promote", "c", "b2")
    assert result.exit_code == 0
    assert f"was not looked at: its tools are not here; holdfast drift c@b2 --agent {TROUPE}:clerk" in result.stderr
