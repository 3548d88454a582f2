"""The whole gateway: programs in sandboxes, killed and started again, approved, revoked and spied upon."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.premises import SECRET, Premises, eventually, premises

PYTHON = "/usr/bin/python3"

CLERK = """
    import json, os, sys, time, urllib.error, urllib.request
    def ask(path, body=None, headers={}):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(os.environ["SHOP"] + path, data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return [error.code, json.load(error)]
"""


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def test_a_program_reaches_its_system_and_never_sees_the_credential(here: Premises) -> None:
    program = here.program(
        CLERK
        + """
    print(json.dumps([ask("/customers"), ask("/mails", {"invoice": "7"})]))
    print(json.dumps(dict(os.environ)), file=sys.stderr)
    """
    )
    code, out, err = here.run(PYTHON, str(program))
    assert (code, here.sent) == (0, ["7"]), err
    customers, mail = json.loads(out)
    assert customers["customers"] == ["ann@example.com"]
    assert mail == {"sent": "7"}
    assert SECRET not in out + err
    for file in here.place.rglob("*"):
        if file.is_file() and not file.is_relative_to(here.place / "programs"):
            assert SECRET.encode() not in file.read_bytes(), file


def test_what_was_done_is_not_done_again_when_everything_is_killed(here: Premises) -> None:
    program = here.program(
        CLERK
        + """
    for number in range(1, 6):
        print(json.dumps(ask("/mails", {"invoice": str(number)})), flush=True)
        if number == 3 and not os.path.exists("/workspace/second"):
            open("/workspace/second", "w").close()
            print("waits", flush=True)
            time.sleep(600)
    """
    )
    process = here.start(PYTHON, str(program))
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[-1] == "waits\n", process.stderr.read() if process.stderr else ""
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, out, err = here.run(PYTHON, str(program))
    assert code == 0, err
    assert out.splitlines()[:3] == [line.strip() for line in lines[:3]]
    assert here.sent == ["1", "2", "3", "4", "5"]


def test_a_gateway_of_its_own_that_is_killed_ends_the_program_and_the_run_goes_on(here: Premises) -> None:
    program = here.program(
        CLERK
        + """
    for number in range(1, 5):
        print(json.dumps(ask("/mails", {"invoice": str(number)})), flush=True)
        if number == 2 and not os.path.exists("/workspace/second"):
            open("/workspace/second", "w").close()
            print("waits", flush=True)
            time.sleep(600)
    """
    )
    gateway = here.gateway()
    process = here.start(PYTHON, str(program))
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)][-1] == "waits\n"
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "gateway is gone" in err
    here.gateway()
    code, _, err = here.run(PYTHON, str(program))
    assert code == 0, err
    assert here.sent == ["1", "2", "3", "4"]


def test_people_agree_through_the_admin_door_while_the_program_waits(here: Premises) -> None:
    here.configure(
        policy='@id("reads") permit(principal, action == Action::"read", resource);'
        '@id("mail") @level("two") @reason("mail costs money") permit(principal, action, resource);'
    )
    here.gateway()
    program = here.program(CLERK + '    print(json.dumps(ask("/mails", {"invoice": "9"})), flush=True)')
    process = here.start(PYTHON, str(program))
    eventually(lambda: "waits" in here.holdfast("show", "r", check=False), "the call is held")
    node = next(word for word in here.holdfast("show", "r").split() if word.startswith("r@") and word[2:].isdigit())
    here.holdfast("approve", node, "--by", "ann", by_gateway=True)
    assert "agreed already" in here.holdfast("approve", node, "--by", "ann", check=False, by_gateway=True)
    assert here.sent == []
    here.holdfast("approve", node, "--by", "bob", by_gateway=True)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out), here.sent) == (0, {"sent": "9"}, ["9"]), err


def test_a_revocation_reaches_the_next_call(here: Premises) -> None:
    here.gateway()
    program = here.program(
        CLERK
        + """
    print(json.dumps(ask("/mails", {"invoice": "1"})), flush=True)
    sys.stdin.readline()
    print(json.dumps(ask("/mails", {"invoice": "2"})), flush=True)
    """
    )
    import subprocess

    process = here.start(PYTHON, str(program), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"sent": "1"}
    listed = json.loads(here.holdfast("cap", "list", "r", "--json"))
    (capability,) = [each["capability"] for each in listed if each["live"]]
    assert listed[-1]["used"]["calls"] == 1
    here.holdfast("cap", "revoke", "r", capability, "--reason", "enough")
    out, err = process.communicate("\n", timeout=60)
    status, body = json.loads(out)
    assert status == 401, err
    assert "revoked" in body["error"]["what"]
    assert here.sent == ["1"]


def test_another_runs_handle_is_worth_nothing(here: Premises) -> None:
    here.gateway()
    waits = here.program(
        CLERK + '    print(os.environ["HOLDFAST_HANDLE"], flush=True)\n    sys.stdin.readline()\n', "waits.py"
    )
    import subprocess

    other = here.start(PYTHON, str(waits), run="other", stdin=subprocess.PIPE)
    assert other.stdout is not None
    handle = other.stdout.readline().strip()
    assert handle.startswith("hfc_")
    thief = here.program(
        CLERK + f'    print(json.dumps(ask("/customers", headers={{"authorization": "Bearer {handle}"}})))', "thief.py"
    )
    code, out, err = here.run(PYTHON, str(thief), run="thief")
    other.communicate("\n", timeout=60)
    assert code == 0, err
    assert json.loads(out)[0] == 401
    assert "holdfast.door" in here.holdfast("log", "thief")


def test_a_program_that_only_knows_a_proxy_reaches_declared_hosts_and_no_other(here: Premises) -> None:
    program = here.program(
        f"""
    import json, os, urllib.error, urllib.request
    del os.environ["NO_PROXY"], os.environ["no_proxy"]
    def ask(url):
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError as error:
            return str(error)
    print(json.dumps([ask("http://127.0.0.1:{here.port}/customers"), ask("http://192.0.2.1/"),
                      ask("https://192.0.2.1/"), ask("http://127.0.0.1:{here.port}/v1/run")]))
    """
    )
    code, out, err = here.run(PYTHON, str(program))
    assert code == 0, err
    allowed, plain, tunnel, own = json.loads(out)
    assert (allowed, plain, own) == (200, 403, 400)
    assert "403" in str(tunnel)
    log = here.holdfast("log", "r")
    assert "holdfast.connect" in log
    assert "192.0.2.1" in log


def test_the_run_begins_with_the_proof_that_its_sandbox_holds(here: Premises) -> None:
    program = here.program("print('done')")
    code, _, err = here.run(PYTHON, str(program))
    assert code == 0, err
    log = [json.loads(line) for line in here.holdfast("log", "r", "--json").splitlines()]
    names = [entry["record"]["t"] for entry in log]
    assert names[:3] == ["claim", "started", "seal"], names


def test_a_workspace_that_holds_the_gateways_own_files_is_refused(here: Premises) -> None:
    import subprocess
    import sys

    ran = subprocess.run(
        [sys.executable, "-m", "holdfast", "run", "--sandbox", "--workspace", ".", "--", PYTHON, "-c", "1"],
        cwd=here.place, env=here.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "workspace" in ran.stderr
