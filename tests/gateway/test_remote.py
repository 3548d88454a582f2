"""Agents on other machines: TLS, a handle, and the same doors."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast.errors import Misuse
from holdfast.gateway.remote import elsewhere, tls_of
from holdfast.gateway.settings import Remote
from tests.gateway.premises import DEADLINE_S
from tests.gateway.test_transparent import certificate
from tests.gateway.users import ROOT

AGENTS = ROOT / "tests" / "agent"


class Farm:
    """A gateway with a listener for agents elsewhere, and such agents: they know nothing but their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pem = certificate(folder)
        self.pem.chmod(0o600)
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
        (folder / "holdfast.toml").write_text(f"""
[gateway]
store = "runs.db"
state = "s"
[gateway.remote]
listen = "127.0.0.1:0"
certificate = "{self.pem}"
key = "{self.pem}"
[upstreams.ledger]
kind = "python"
modules = ["ledger"]
path = ["{AGENTS}"]
environment = {{ WORLD = "{folder}/world" }}
[policy]
files = ["policy.cedar"]
[agents.clerk]
tools = ["ledger.*"]
""")
        self.gateway = self.start("holdfast", "gateway")
        assert self.gateway.stdout is not None
        line = self.gateway.stdout.readline()
        assert "remote https://127.0.0.1:" in line, self.gateway.communicate()[1]
        self.url = line.split()[-1]

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        known = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}/src:{ROOT}:{AGENTS}", "HOME": str(self.folder)}
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=self.folder, env={**known, **variables}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def open(self, run: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        """`holdfast cap open`, and the environment that it tells."""
        holder = self.start("holdfast", "cap", "open", run, "--agent", "clerk", "--gateway", "s/admin.sock")
        assert holder.stdout is not None
        found: dict[str, str] = {}
        while "HOLDFAST_RUN" not in found:
            line = holder.stdout.readline()
            assert line.startswith("export "), holder.communicate()
            name, _, value = line.removeprefix("export ").strip().partition("=")
            found[name] = shlex.split(value)[0]
        return holder, found

    def asked(self, path: str, handle: str | None) -> int:
        """The status of a request."""
        headers = {} if handle is None else {"Authorization": f"Bearer {handle}"}
        context = ssl.create_default_context(cafile=str(self.pem))
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, headers=headers), context=context
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Generator[Farm]:
    found = Farm(tmp_path_factory.mktemp("farm"))
    yield found
    found.close()


def test_an_agent_elsewhere_works_by_its_handle_and_its_run_ends_with_its_answer(farm: Farm) -> None:
    holder, given = farm.open("far")
    assert given["HOLDFAST_DOOR"] == farm.url
    handle = given["HOLDFAST_HANDLE"]
    assert [farm.asked("/v1/run", each) for each in (None, f"hfc_{'x' * 43}_far", handle)] == [401, 401, 200]
    agent = farm.start("holdfast.agent", "ledger:asks", SSL_CERT_FILE=str(farm.pem), **given)
    out, err = agent.communicate(timeout=DEADLINE_S)
    assert (agent.returncode, json.loads(out or "null")) == (0, "sent 1"), err
    _, told = holder.communicate(timeout=DEADLINE_S)
    assert holder.returncode == 0, told
    assert farm.asked("/v1/run", handle) == 401
    assert (farm.folder / "world").read_text() == "mail 1 may I?\n"


def test_a_certificate_that_nobody_vouches_for_ends_the_agent_before_it_shows_its_handle(farm: Farm) -> None:
    _, given = farm.open("wary")
    agent = farm.start("holdfast.agent", "ledger:asks", **given)
    _, err = agent.communicate(timeout=DEADLINE_S)
    assert agent.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in err
    assert "Traceback" not in err


def test_an_agent_elsewhere_that_waits_lets_go_of_its_run(farm: Farm) -> None:
    holder, given = farm.open("waiting")
    agent = farm.start("holdfast.agent", "ledger:waits", SSL_CERT_FILE=str(farm.pem), **given)
    _, err = agent.communicate(timeout=DEADLINE_S)
    assert agent.returncode == 75, err
    _, told = holder.communicate(timeout=DEADLINE_S)
    assert (holder.returncode, "holdfast signal waiting go JSON" in told) == (3, True), told


def test_a_second_program_of_a_run_that_is_taken_up_is_turned_away(farm: Farm) -> None:
    holder, given = farm.open("twice")
    assert [farm.asked("/v1/begin", given["HOLDFAST_HANDLE"]) for _ in range(2)] == [200, 409]
    holder.send_signal(signal.SIGINT)
    _, told = holder.communicate(timeout=DEADLINE_S)
    assert holder.returncode == 130, told
    _, fresh = farm.open("twice")
    assert [farm.asked("/v1/begin", each["HOLDFAST_HANDLE"]) for each in (given, fresh)] == [401, 200]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    pem.chmod(0o644)
    with pytest.raises(Misuse, match="others may read the key"):
        tls_of(Remote(listen="127.0.0.1:0", certificate=str(pem), key=str(pem)), tmp_path)


def test_a_certificate_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="cannot be read") as caught:
        tls_of(Remote(listen="127.0.0.1:0", certificate="c.pem", key="k.pem"), tmp_path)
    assert caught.value.where == str(tmp_path / "c.pem")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Misuse, match="nobody can listen"):
            elsewhere(Remote(listen=taken, certificate="c", key="k"))
