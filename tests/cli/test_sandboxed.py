"""`holdfast run` of a program, `gateway` and `cap`: what a user gets wrong is told with its place and what mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.cli.app import main
from holdfast.gateway.premises import held

CONFIG = """
[gateway]
store = "runs.db"
state = "s"
[agents.a]
tools = []
[agents.b]
tools = []
"""
BESIDE = ("run", "--unsafe-no-sandbox")


@pytest.fixture(autouse=True)
def configured(here: Path) -> Path:
    (here / "holdfast.toml").write_text(CONFIG)
    (here / "file").write_text("")
    return here


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((*BESIDE,), 2, "no command is named"),
        ((*BESIDE, "--config", "none.toml", "--", "/bin/true"), 2, "No such file or directory [none.toml]"),
        ((*BESIDE, "--", "/bin/true"), 2, "which agent is this? (a, b)"),
        ((*BESIDE, "--agent", "c", "--", "/bin/true"), 1, "there is no agent `c`"),
        ((*BESIDE, "--agent", "a", "--", "/no/such"), 2, "`/no/such` cannot be started: No such file or directory"),
        ((*BESIDE, "--agent", "a", "--", "./file"), 2, "`./file` cannot be started: Permission denied"),
        ((*BESIDE, "--agent", "a", "--id", "a/b", "--", "/bin/true"), 2, "this cannot name a run"),
        ((*BESIDE, "--agent", "a", "--input", "{", "--", "/bin/true"), 2, "`--input` is not JSON"),
        ((*BESIDE, "--sandbox", "--", "/bin/true"), 2, "exclude each other"),
        ((*BESIDE, "--agent", "a", "--id", "r", "--", "/bin/false"), 1, "the same command with --id r"),
        ((*BESIDE, "--agent", "a", "--id", "r", "--", "/bin/sh", "-c", "kill -9 $$"), 137, "with --id r"),
        (("gateway", "none.toml"), 2, "No such file or directory [none.toml]"),
        (("cap", "list", "r", "--gateway", "none.sock"), 5, "is it running? holdfast gateway"),
        (("cap", "open", "r", "--agent", "a", "--gateway", "none.sock"), 5, "start one: holdfast gateway"),
        (("list", "--store", "gateway:///none.sock"), 5, "the gateway does not answer"),
        (("list", "--store", "gateway://none.sock"), 2, "write gateway:///PATH/admin.sock"),
        (("prune", "r", "--store", "gateway:///none.sock"), 2, "a store in a file only"),
    ],
)
def test_what_a_user_gets_wrong_is_told(
    words: tuple[str, ...], code: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_a_run_that_has_ended_is_not_started_again(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = (*BESIDE, "--agent", "a", "--id", "r", "--input", "7", "--", "/bin/sh", "-c", "echo once >> lives")
    assert main(line) == 0
    assert main(line) == 0
    assert (here / "lives").read_text() == "once\n"
    assert 'the run has ended, with {"exit": 0}' in capfd.readouterr().err


def test_a_run_that_has_ended_tells_nothing_to_whoever_asks_for_another(capfd: pytest.CaptureFixture[str]) -> None:
    line = (*BESIDE, "--agent", "a", "--id", "r", "--input", "7", "--", "/bin/true")
    assert main(line) == 0
    assert main(["8" if word == "7" else word for word in line]) == 2
    assert "another input" in capfd.readouterr().err
    assert main(["b" if word == "a" else word for word in line]) == 2
    assert "this run is one of `a`" in capfd.readouterr().err


def test_a_run_of_another_agent_is_not_taken_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert main((*BESIDE, "--agent", "b", "--id", "r", "--", "/bin/false")) == 1
    assert main((*BESIDE, "--agent", "a", "--id", "r", "--", "/bin/true")) == 2
    assert "this run is one of `b`" in capfd.readouterr().err


def test_a_directory_that_others_may_look_into_keeps_a_gateway_from_starting(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "s").mkdir()
    (here / "s").chmod(0o755)
    assert main(("gateway",)) == 2
    assert f"chmod 700 {here}/s" in capfd.readouterr().err


def test_a_second_gateway_of_a_directory_does_not_start(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with held(here / "s", None):
        assert main(("gateway",)) == 4
    assert "a gateway is at work here already" in capfd.readouterr().err


def test_a_path_that_is_too_long_for_a_socket_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    deep = here / ("d" * 100)
    deep.mkdir()
    (deep / "holdfast.toml").write_text(CONFIG)
    monkeypatch.chdir(deep)
    for words in (("gateway",), (*BESIDE, "--agent", "a", "--", "/bin/true")):
        assert main(words) == 2
        assert "the system has room for 107" in capfd.readouterr().err


def test_a_program_has_the_standard_streams_of_its_starter(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "input").write_text("from a pipe\n")
    with (here / "input").open() as file:
        kept = os.dup(0)
        try:
            os.dup2(file.fileno(), 0)
            assert main((*BESIDE, "--agent", "a", "--", "/bin/cat")) == 0
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert capfd.readouterr().out == "from a pipe\n"
