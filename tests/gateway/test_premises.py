"""A gateway's directory and sockets: its own, one gateway at a time, and nobody's socket is taken."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import Busy, Misuse
from holdfast.gateway.premises import bound, held


def test_one_gateway_is_at_work_in_a_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with held(state, None), pytest.raises(Busy, match="at work here already"), held(state, None):
        pytest.fail("two gateways")
    with held(state, None):
        assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_gateway_that_was_killed_leaves_its_directory_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from holdfast.gateway.premises import held\n"
        "with held(Path(sys.argv[1]), None): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Busy), held(tmp_path / "s", None):
        pytest.fail("two gateways")
    process.kill()
    process.communicate()
    with held(tmp_path / "s", None):
        assert True


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777])
def test_a_directory_that_others_may_look_into_is_refused(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    with pytest.raises(Misuse, match="others may look") as caught, held(state, None):
        pytest.fail("others may look into it")
    assert f"chmod 700 {state}" in caught.value.fix


def test_the_members_of_the_group_may_pass_through_the_directory_and_not_look_into_it(tmp_path: Path) -> None:
    with held(tmp_path / "state", os.getgid()):
        found = (tmp_path / "state").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o710, os.getgid())
        with bound(tmp_path / "state" / "door", socket.SOCK_STREAM, os.getgid()):
            assert stat.S_IMODE((tmp_path / "state" / "door").stat().st_mode) == 0o660


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(Misuse, match="no directory"), held(tmp_path / "state", None):
        pytest.fail("it is a file")


def test_a_living_listener_keeps_its_socket_and_a_dead_ones_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "door"
    first = bound(path, socket.SOCK_STREAM, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Busy, match="listens here already"):
        bound(path, socket.SOCK_STREAM, None)
    with pytest.raises(Busy, match="listens here already"):
        bound(path, socket.SOCK_SEQPACKET, None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()
    bound(path, socket.SOCK_SEQPACKET, None).close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "door").write_text("mine")
    with pytest.raises(Misuse, match="something else"):
        bound(tmp_path / "door", socket.SOCK_STREAM, None)
    assert (tmp_path / "door").read_text() == "mine"


def test_a_path_that_is_too_long_for_a_socket_is_told_with_its_length(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120)
    with pytest.raises(Misuse, match=f"{len(os.fsencode(path))} bytes long; the system has room for 107"):
        bound(path, socket.SOCK_STREAM, None)
