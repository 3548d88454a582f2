"""The probe battery: what a hostile program tries, as root and as an ordinary user; and that the battery can see."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Refused
from holdfast.gateway import ways
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.containment import battery, receipt
from tests.gateway.cell import PATH, PATIENCE_S, PYTHON, ROOT, gateway, needed

EXPECTED = {"door", "own_environment"}
BATTERY = """
import asyncio, json
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.containment import receipt
print(json.dumps(asyncio.run(receipt(Confinement(ports=(8080, 443), dns=True)))))
"""


@pytest.fixture(autouse=True)
def sandboxes() -> None:
    needed()


def found(*, ordinary: bool) -> dict[str, Any]:
    """The receipt that a gateway of its own gets; its environment has a canary, and it may run as an ordinary user."""
    process = gateway(BATTERY, ordinary=ordinary)
    text, complaints = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode == 0, complaints
    return json.loads(text)


def test_every_way_but_the_door_and_the_own_environment_is_blocked() -> None:
    probes = found(ordinary=False)["probes"]
    assert len(probes) >= 150
    assert {name for name, state in probes.items() if state != "blocked"} == EXPECTED


@pytest.mark.root
def test_every_way_is_blocked_when_an_ordinary_user_starts_the_sandbox() -> None:
    told = found(ordinary=True)
    assert told["user"] == "ordinary"
    assert len(told["probes"]) >= 150
    assert {name for name, state in told["probes"].items() if state != "blocked"} == EXPECTED


async def test_a_receipt_says_what_was_probed_and_where() -> None:
    confinement = Confinement()
    told = await receipt(confinement)
    assert set(told) == {"class", "probes", "kernel", "machine", "bwrap", "user", "memory"}
    assert told["class"] == confinement.digest()
    assert told["kernel"] == os.uname().release
    assert json.loads(json.dumps(told)) == told


async def test_a_sandbox_without_a_door_has_none() -> None:
    probes = await battery(Confinement(ports=()))
    assert {name for name, state in probes.items() if state != "blocked"} == {"own_environment"}


def test_a_way_that_is_open_makes_the_receipt_a_refusal() -> None:
    """Somebody shows a sandbox the directory in which all others keep their files and sockets."""
    shown = Path(tempfile.gettempdir()).resolve()
    with pytest.raises(Refused, match="host_file, host_path_socket"):
        asyncio.run(receipt(Confinement(read_only=(shown,))))


def weakly(tmp_path: Path, *options: str) -> set[str]:
    """What is open in a sandbox as many are made: it has no filter, the host's network and files, and bubblewrap was
    given the environment. Nothing is asked that could do harm, should it be allowed."""
    calls = {name: way for name, way in ways.CALLS.items() if name not in {"name_host", "reboot"}}
    targets: dict[str, Any] = {
        "ports": [], "dns": False, "ipv6": False, "pid": os.getpid(), "folder": "/usr", "abstract": "none", "tcp": 1,
        "udp": 1, "processes": 40, "memory_bytes": 1 << 20, "open_files": 40, "file_bytes": 1 << 20,
        "tmp_bytes": 1 << 20, "home": ["/etc"],
        "ways": {
            "calls": calls, "sockets": ways.SOCKETS, "files": {"host": "/etc/passwd"}, "writes": {}, "nowhere": [],
        },
    }  # fmt: skip
    (tmp_path / "probes.py").write_text((ROOT / "src/holdfast/gateway/probes.py").read_text())
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    command += ["--bind", str(tmp_path), "/mnt", "--unshare-user", "--uid", "1000", "--cap-drop", "ALL", *options]
    ran = subprocess.run(
        [*command, "--", PYTHON, "-I", "-S", "/mnt/probes.py"],
        env={**PATH, "HOLDFAST_PROBE": json.dumps(targets)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return {name for name, state in json.loads(ran.stdout).items() if state == "open"}


def test_the_battery_sees_the_ways_that_a_weaker_sandbox_leaves_open(tmp_path: Path) -> None:
    opened = weakly(tmp_path)
    assert opened >= {
        "new_user_namespace", "clone_into_new_user_namespace", "clone3", "debug_another", "be_debugged", "keyring",
        "add_key", "anonymous_file", "shared_memory_that_stays", "message_queue", "personality", "socket_netlink",
        "socket_udp_lite", "file_host", "command_lines_of_others", "processes_of_the_host",
        "signal_to_the_host", "home_of_the_user", "unfiltered_init", "fork_bomb", "memory_bomb", "descriptor_bomb",
        "file_bomb", "tmp_bomb",
    }  # fmt: skip
    assert "door" not in opened


def test_the_battery_sees_the_environment_that_bubblewrap_was_given(tmp_path: Path) -> None:
    assert "environment_of_others" in weakly(tmp_path, "--unshare-pid")
