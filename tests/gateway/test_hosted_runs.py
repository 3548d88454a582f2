"""Hosted tools behind a whole gateway process: it is killed in a call, comes back, does nothing twice, and not one byte
of the credential is anywhere but in the hosts' environment."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import zstandard

from tests.store.shelf import ROOT

SECRET = "s3cr3t-canary-77-do-not-show"
HERE = Path(__file__).parent


class Gateway:
    """A gateway in a process of its own, once for each life. `said` and `complained`: all that it ever wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = folder / "world"
        self.said, self.complained = "", ""
        self._process: subprocess.Popen[str] | None = None
        (folder / "holdfast.toml").write_text(f"""
[gateway]
store = "runs.db"
[credentials]
crm = "env:CRM_SECRET"
[upstreams.crm]
kind = "python"
modules = ["crm_tools"]
path = ["{HERE}"]
environment = {{ CRM_TOKEN = "credential:crm", WORLD = "{self.world}" }}
""")

    def begin(self, *calls: tuple[str, dict[str, Any]]) -> subprocess.Popen[str]:
        words = [word for operation, args in calls for word in (operation, json.dumps(args))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.hosted_gateway", str(self.folder / "holdfast.toml"), *words],
            cwd=ROOT, env={**os.environ, "CRM_SECRET": SECRET}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self._process

    def end(self) -> list[dict[str, Any]]:
        """What the calls of this life came to, once it has ended."""
        assert self._process is not None
        said, complained = self._process.communicate(timeout=120)
        self.said += said
        self.complained += complained
        return [json.loads(line) for line in said.splitlines()]

    def life(self, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        self.begin(*calls)
        told = self.end()
        assert len(told) == len(calls), self.complained
        return told

    def done(self) -> list[str]:
        return self.world.read_text().splitlines() if self.world.exists() else []


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    process = made._process
    if process is not None and process.poll() is None:
        process.kill()
        made.end()


def until_done(gateway: Gateway, line: str) -> None:
    process = gateway._process
    assert process is not None
    deadline = time.monotonic() + 60
    while line not in gateway.done():
        assert process.poll() is None, gateway.end()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_gateway_that_is_killed_in_a_call_takes_its_host_with_it_and_leaves_a_doubt(
    gateway: Gateway, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    calls = [("update", {"customer": "ada", "score": 1}), ("waits", {"until": str(go)})]
    process = gateway.begin(*calls)
    until_done(gateway, "waits begins")
    process.send_signal(signal.SIGKILL)
    gateway.end()
    go.touch()  # a host that was still alive would go on now
    first, second = gateway.life(*calls)
    assert first == {"answer": {"customer": "ada", "note": "none", "score": 1, "token_length": len(SECRET)}}
    assert second["raised"] == "InDoubt"
    assert [line.split()[0] for line in gateway.done()] == ["update", "waits"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gateway, list[dict[str, Any]]]:
    """A gateway, and what the calls of its one life came to."""
    made = Gateway(tmp_path_factory.mktemp("lived"))
    return made, made.life(
        ("half", {"customer": "ada"}),
        ("leak", {}),
        ("fail", {"how": "not happened"}),
        ("update", {"customer": "ada", "score": 1}),
        ("fail", {"how": "error"}),
    )


def test_what_a_dead_host_had_done_is_told_by_its_probe_and_not_done_again(
    lived: tuple[Gateway, list[dict[str, Any]]],
) -> None:
    gateway, told = lived
    assert told[0] == {"answer": "found ada"}
    assert gateway.done().count("half ada") == 1


def typed(*words: str) -> bytes:
    ran = subprocess.run(
        [sys.executable, "-m", "holdfast", *words], cwd=ROOT, capture_output=True, check=True, timeout=120
    )
    return ran.stdout + ran.stderr


def payloads(path: Path) -> Iterator[bytes]:
    """All payloads of a store, as they were before they were packed."""
    for form, data in apsw.Connection(str(path)).execute("SELECT form, data FROM blob"):
        yield zstandard.ZstdDecompressor().decompress(data) if form & 1 else data


def test_no_byte_of_the_credential_is_in_the_store_the_exports_or_what_the_gateway_says(
    lived: tuple[Gateway, list[dict[str, Any]]],
) -> None:
    gateway, told = lived
    assert [next(iter(each)) for each in told[1:]] == ["answer", "raised", "answer", "raised"]
    store = gateway.folder / "runs.db"
    typed("export", "r", "-o", str(gateway.folder / "bundle"), "--store", str(store))
    seen = {str(path): path.read_bytes() for path in gateway.folder.rglob("*") if path.is_file()}
    seen |= {"stdout": gateway.said.encode(), "stderr": gateway.complained.encode()}
    seen |= {f"payload {number}": data for number, data in enumerate(payloads(store))}
    seen["log"] = typed("log", "r", "--json", "--store", str(store))
    for place in ("stdout", "stderr"):  # or else nothing of what the tools said was looked at
        assert b"[credential:crm]" in seen[place]
    assert any(b"[credential:crm]" in data for name, data in seen.items() if name.startswith("payload"))
    hidden = [SECRET, SECRET.encode().hex(), base64.b64encode(SECRET.encode()).decode()[:-4]]
    assert not [(name, text) for name, data in seen.items() for text in hidden if text.encode() in data]
