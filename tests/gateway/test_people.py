"""A gateway under a user of its own, and people as the system knows them: each a process of another user."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.premises import DEADLINE_S, eventually
from tests.gateway.users import ROOT, needing_users, start

AGENTS = ROOT / "tests" / "agent"
pytestmark = pytest.mark.soak
GATEWAY, GROUP = "nobody", "games"
ANN, BOB, CARL, STRANGER, OUTSIDER = "daemon", "bin", "sync", "lp", "mail"


class Town:
    """A gateway of the user `nobody`, whose sockets the group `games` may use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = folder / "s" / "admin.sock"
        self.processes: list[subprocess.Popen[str]] = []
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(AGENTS)]),
            "WORLD": str(folder / "world"), "HOLDFAST_STORE": f"gateway://{self.admin}",
            "HOLDFAST_GATEWAY": str(self.admin),
        }  # fmt: skip
        (folder / "policy.cedar").write_text(
            '@id("two") @level("two") @reason("it costs") permit(principal, action, resource);'
        )
        (folder / "holdfast.toml").write_text(f"""
[gateway]
store = "own/runs.db"
state = "s"
user = "{GATEWAY}"
group = "{GROUP}"
[upstreams.ledger]
kind = "python"
modules = ["ledger"]
path = ["{AGENTS}"]
environment = {{ WORLD = "{folder}/own/world" }}
[policy]
files = ["policy.cedar"]
[agents.clerk]
tools = ["ledger.*"]
[people.ann]
user = "{ANN}"
may = ["approve", "read", "start", "settle", "issue", "revoke"]
[people.bob]
user = "{BOB}"
[people.carl]
user = "{CARL}"
may = ["read"]
""")
        for name in ("s", "own"):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, 65534, 65534)

    def start(self, user: str, *words: str, group: str = GROUP, groups: str = "") -> subprocess.Popen[str]:
        process = start(user, group, sys.executable, "-m", *words, groups=groups, folder=self.folder,
                        environment=self.environment)  # fmt: skip
        self.processes.append(process)
        return process

    def says(self, user: str, *words: str, group: str = GROUP) -> tuple[int, str]:
        """What a `holdfast` command of a user comes to."""
        process = self.start(user, "holdfast", *words, group=group)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert "Traceback" not in err, err
        return process.returncode, out + err

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def town() -> Generator[Town]:
    needing_users()
    with tempfile.TemporaryDirectory(prefix="town-") as place:
        Path(place).chmod(0o755)
        found = Town(Path(place))
        gateway = found.start(GATEWAY, "holdfast", "gateway", group="nogroup", groups=GROUP)
        assert gateway.stdout is not None
        assert gateway.stdout.readline().startswith("ready"), gateway.communicate()[1]
        yield found
        found.close()


@pytest.fixture(scope="module")
def held(town: Town) -> str:
    """The place of a call of a run that ann has started, which two people must agree to."""
    program = [sys.executable, "-m", "holdfast.agent", "ledger:asks"]
    process = town.start(ANN, "holdfast", "run", "--unsafe-no-sandbox", "--id", "r", "--", *program)
    eventually(lambda: process.poll() is not None or "waits for approval" in town.says(BOB, "show", "r")[1], "a hold")
    assert process.poll() is None, process.communicate()
    return next(word for word in town.says(BOB, "show", "r")[1].split() if word.startswith("r@") and word[2:].isdigit())


def test_the_gateways_sockets_are_for_its_group_and_its_directory_for_nobody_else(town: Town) -> None:
    assert stat.S_IMODE((town.folder / "s").stat().st_mode) == 0o710
    for name in ("admin.sock", "admin.start", "door.sock"):
        found = (town.folder / "s" / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o660, 65534), name
    code, told = town.says(OUTSIDER, "list", group="mail")
    assert (code, "may not connect to the gateway" in told) == (1, True), told


@pytest.mark.parametrize(
    ("user", "words", "why"),
    [
        (STRANGER, ("list",), "lp is not known here"),
        (STRANGER, ("cap", "list", "r"), "lp is not known here"),
        (CARL, ("approve", "{}"), "carl may not approve here"),
        (CARL, ("cancel", "r"), "carl may not revoke here"),
        (CARL, ("cap", "issue", "r"), "carl may not issue here"),
        (BOB, ("approve", "{}", "--by", "ann"), "bob may not speak as ann"),
        (BOB, ("signal", "r", "go", "1"), "bob may not settle here"),
        (CARL, ("run", "--unsafe-no-sandbox", "--", "/bin/true"), "may not start runs"),
        (ANN, ("gateway",), "must run under the user `nobody`"),
    ],
)
def test_nobody_does_what_is_not_theirs(town: Town, held: str, user: str, words: tuple[str, ...], why: str) -> None:
    code, told = town.says(user, *(word.format(held) for word in words))
    assert code != 0
    assert why in told


def test_two_people_agree_each_as_who_they_are_and_the_call_is_made(town: Town, held: str) -> None:
    process = next(each for each in town.processes if "ledger:asks" in " ".join(each.args))  # type: ignore[arg-type]
    first = town.says(BOB, "approve", held)
    assert first[0] == 0, first
    again = town.says(BOB, "approve", held)
    assert "has agreed already" in again[1]
    assert not (town.folder / "own" / "world").exists()
    second = town.says(ANN, "approve", held)
    assert second[0] == 0, second
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, '"sent 1"\n'), err
    log = town.says(CARL, "log", "r")[1]
    assert "bob" in log
    assert "ann" in log
    assert "finished" in town.says(CARL, "list")[1]
    assert shlex.quote(held) in town.says(CARL, "show", "r")[1] or held in log
