"""`holdfast run --sandbox` of a run that waits: no process is kept, and it is started again when it may go on."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.cell import alive, until
from tests.gateway.premises import DEADLINE_S, Premises, premises

PYTHON = "/usr/bin/python3"
DOOR = """
    import json, os, sys, time, urllib.error, urllib.request
    def ask(url, body):
        request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code
    def mail(invoice):
        return ask(os.environ["SHOP"] + "/mails", {"invoice": invoice})
    def wait(**what):
        return ask(os.environ["HOLDFAST_DOOR"] + "/v1/wait", what)
"""
HELD = '@id("mail") @level("one") @reason("mail costs money") permit(principal, action, resource);'


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def patient(here: Premises, policy: str = HELD) -> None:
    """Doors that keep nobody waiting for long."""
    here.configure(policy=policy)
    file = here.place / "holdfast.toml"
    file.write_text(file.read_text().replace('store = "runs.db"', 'store = "runs.db"\npatience_s = 0.2'))


def begin(here: Premises, *command: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    line = [
        sys.executable, "-m", "holdfast", "run", "--sandbox", "--id", "r", "--read-only", "programs", *options, "--",
        *command,
    ]  # fmt: skip
    process = subprocess.Popen(
        line, cwd=here.place, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    here.processes.append(process)
    return process


def said_until(process: subprocess.Popen[str], text: str) -> str:
    """What is said on stderr, up to the line that holds `text`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"`{text}` was never said: {said}")


def held_node(said: str) -> str:
    found = re.search(r"holdfast approve (\S+)", said)
    assert found is not None, said
    return found[1]


@pytest.mark.parametrize(
    "own", [pytest.param(True, id="its own gateway"), pytest.param(False, id="one that runs", marks=pytest.mark.soak)]
)
def test_a_held_run_keeps_no_process_and_goes_on_when_it_is_approved(here: Premises, own: bool) -> None:
    patient(here)
    if not own:
        here.gateway()
    mark = f"mark-{here.port}"
    program = here.program(
        DOOR
        + """
    while (found := mail("9")) == 503:
        time.sleep(0.05)
    print(json.dumps(found))
    """
    )
    process = begin(here, PYTHON, str(program), mark)
    said = said_until(process, "Ctrl-C is safe")
    assert "waiting: `shop.mail` waits for approval" in said
    assert until(lambda: len(alive(mark)) == 1), "the command that started it is all that is left"
    here.holdfast("approve", held_node(said), by_gateway=True)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, json.loads(out), here.sent) == (0, {"sent": "9"}, ["9"]), err
    assert "going on" in err


def test_without_waiting_it_exits_with_3_and_the_command_that_it_names_works(here: Premises) -> None:
    patient(here)
    program = here.program(DOOR + '    sys.exit(0 if mail("9") != 503 else 75)')
    process = begin(here, PYTHON, str(program), options=("--no-wait",))
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3, err
    line = next(line.removeprefix("Hint: ") for line in err.splitlines() if line.startswith("Hint: holdfast approve"))
    subprocess.run([sys.executable, "-m", *shlex.split(line)], cwd=here.place.parent, check=True, timeout=DEADLINE_S)
    process = begin(here, PYTHON, str(program), options=("--no-wait",))
    _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, here.sent) == (0, ["9"]), err


def test_a_signal_wakes_a_run(here: Premises) -> None:
    patient(here, policy='@id("all") permit(principal, action, resource);')
    here.gateway()
    program = here.program(
        DOOR
        + """
    mail("1")
    found = wait(signal="go")
    if found == 503:
        sys.exit(75)
    mail("2")
    print(json.dumps(found["value"]))
    """
    )
    process = begin(here, PYTHON, str(program))
    assert "waiting: the run waits for the signal `go`" in said_until(process, "Ctrl-C is safe")
    here.holdfast("signal", "r", "go", '{"a": 1}', by_gateway=True)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, json.loads(out), here.sent) == (0, {"a": 1}, ["1", "2"]), err


@pytest.mark.soak
def test_a_run_that_is_cancelled_while_it_waits_is_not_started_again(here: Premises) -> None:
    patient(here)
    program = here.program(DOOR + '    sys.exit(0 if mail("9") != 503 else 75)')
    process = begin(here, PYTHON, str(program))
    said_until(process, "Ctrl-C is safe")
    here.holdfast("cancel", "r", "--reason", "too late", by_gateway=True)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "too late" in err
    assert here.sent == []


@pytest.mark.soak
def test_a_gateway_that_ends_ends_the_wait_and_says_so(here: Premises) -> None:
    patient(here)
    gateway = here.gateway()
    program = here.program(DOOR + '    sys.exit(0 if mail("9") != 503 else 75)')
    process = begin(here, PYTHON, str(program))
    said_until(process, "Ctrl-C is safe")
    gateway.terminate()
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 5
    assert "the gateway is gone" in err


@pytest.mark.soak
def test_a_program_whose_run_is_forked_meanwhile_is_started_again_on_its_new_line(here: Premises) -> None:
    patient(here, policy='@id("all") permit(principal, action, resource);')
    here.gateway()
    program = here.program(
        DOOR
        + """
    mail("1")
    open("/workspace/first", "w").close()
    while not os.path.exists("/workspace/go"):
        time.sleep(0.01)
    while mail("2") == 503:
        time.sleep(0.05)
    print("done")
    """
    )
    process = begin(here, PYTHON, str(program))
    workspace = here.place / ".holdfast" / "work" / "r"
    assert until((workspace / "first").exists)
    log = [json.loads(line) for line in here.holdfast("log", "r", "--json").splitlines()]
    here.holdfast("fork", f"r@{log[-1]['seq']}", "--why", "another way", by_gateway=True)
    (workspace / "go").touch()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, here.sent) == (0, "done\n", ["1", "2"]), err
    assert "the branch `main` is superseded" in err
    assert "b2" in here.holdfast("show", "r")
