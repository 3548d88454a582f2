"""Whoever has started a sandboxed program is killed: the sandbox is gone with it, and its run can be taken up again."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.premises import Premises, eventually, premises
from tests.gateway.test_process import CLERK, PYTHON


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def test_a_starter_that_is_killed_takes_the_sandbox_with_it_and_gives_the_run_back(here: Premises) -> None:
    gateway = here.gateway()
    program = here.program(
        CLERK
        + """
    for number in range(1, 4):
        print(json.dumps(ask("/mails", {"invoice": str(number)})), flush=True)
        if number == 2 and not os.path.exists("/workspace/second"):
            open("/workspace/second", "w").close()
            print("waits", flush=True)
            time.sleep(600)
    """
    )
    starter = here.start(PYTHON, str(program))
    assert starter.stdout is not None
    assert [starter.stdout.readline() for _ in range(3)][-1] == "waits\n"
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert starter.stdout.read() == "", "nobody holds its output any more: whatever was in the sandbox is gone"
    eventually(lambda: "not taken up" in here.holdfast("cap", "list", "r", check=False), "the run is given back")
    code, out, err = here.run(PYTHON, str(program))
    assert code == 0, err
    assert [json.loads(line) for line in out.splitlines()] == [{"sent": "1"}, {"sent": "2"}, {"sent": "3"}]
    assert here.sent == ["1", "2", "3"]
    assert gateway.poll() is None
