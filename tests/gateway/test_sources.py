"""Secrets come from where their references point, as they are now, and no error tells what they are."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import Misuse, NotHappened
from holdfast.gateway.sources import EnvironmentSource, FileSource, KeyringSource, Kv, source_of
from tests.store.shelf import ROOT

SECRET = "s3cr3t-canary-77"
TOKEN = "hvs.token-of-the-test"


def secret_file(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# --- references ---


@pytest.mark.parametrize("reference", [SECRET, "", "env:", "ftp:x", "file:", "keyring:service", "vault:secret#field"])
def test_what_is_no_reference_is_refused_and_not_shown(reference: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse) as refused:
        source_of(reference, tmp_path)
    assert SECRET not in str(refused.value)


# --- the environment ---


def test_a_variable_is_taken_out_of_the_process_and_still_read() -> None:
    program = """
import asyncio, os, pathlib, subprocess, sys
from holdfast.gateway.sources import EnvironmentSource
source = EnvironmentSource("CRM_TOKEN")
source.take()
assert "CRM_TOKEN" not in os.environ
shown = pathlib.Path("/proc/self/environ")
if shown.exists():
    assert b"s3cr3t" not in shown.read_bytes()
    assert b"OTHER=stays" in shown.read_bytes()
child = subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"], capture_output=True, text=True)
assert "s3cr3t" not in child.stdout and "stays" in child.stdout
print(asyncio.run(source.read()), asyncio.run(EnvironmentSource("CRM_TOKEN").read()))
"""
    environment = {**os.environ, "CRM_TOKEN": SECRET, "OTHER": "stays"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (ran.stdout, ran.stderr) == (f"{SECRET} {SECRET}\n", "")


async def test_a_variable_that_is_not_set_is_no_empty_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_EMPTY", "")
    for name in ("HOLDFAST_TEST_UNSET", "HOLDFAST_TEST_EMPTY"):
        with pytest.raises(NotHappened, match=f"`{name}` is not set"):
            await EnvironmentSource(name).read()


# --- files ---


async def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "token", "first\n")
    source = source_of("file:token", tmp_path)
    assert await source.read() == "first"
    secret_file(tmp_path / "next", "second").replace(path)
    assert await source.read() == "second"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
async def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    source = FileSource(secret_file(tmp_path / "token", mode=mode))
    with pytest.raises(NotHappened, match=f"mode {mode:o}") as refused:
        await source.read()
    assert SECRET not in str(refused.value)
    assert source.missing() is not None


async def test_a_lax_file_may_be_read_by_others(tmp_path: Path) -> None:
    secret_file(tmp_path / "token", mode=0o644)
    assert await source_of("file:token?lax", tmp_path).read() == SECRET


async def test_what_is_no_file_of_text_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    secret_file(tmp_path / "empty", "\n")
    secret_file(tmp_path / "large", "x" * 70_000)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "bytes").chmod(0o600)
    for name in ("pipe", "directory", "empty", "large", "bytes", "absent"):
        with pytest.raises(NotHappened):
            await FileSource(tmp_path / name).read()


# --- keyrings ---


async def test_a_keyring_is_asked_for_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring", reason="the extra `keyring` is not installed")
    from keyring.backend import KeyringBackend

    class InFile(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return json.loads((tmp_path / "ring").read_text()).get(f"{service}/{username}")

        def set_password(self, service: str, username: str, password: str) -> None:
            (tmp_path / "ring").write_text(json.dumps({f"{service}/{username}": password}))

    before = keyring.get_keyring()
    keyring.set_keyring(InFile())
    try:
        keyring.set_password("crm/eu", "bot", SECRET)
        assert await source_of("keyring:crm/eu/bot", tmp_path).read() == SECRET
        with pytest.raises(NotHappened, match="no entry"):
            await KeyringSource("crm/eu", "nobody").read()
        (tmp_path / "ring").write_text(SECRET)  # the backend raises now, and its error holds the text
        with pytest.raises(NotHappened) as failed:
            await KeyringSource("crm/eu", "bot").read()
        assert SECRET not in str(failed.value)
    finally:
        keyring.set_keyring(before)


# --- HashiCorp Vault ---


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.kv_server", TOKEN], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def put(server: str, path: str, data: dict[str, object] | None) -> None:
    body = None if data is None else json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{server}/v1/{path}", data=body, headers={"X-Vault-Token": TOKEN}, method="DELETE" if data is None else "POST"
    )
    urllib.request.urlopen(request, timeout=60).close()


def kv(server: str, folder: Path, token: str = TOKEN) -> Kv:
    return Kv(server, FileSource(secret_file(folder / "vault-token", token)))


async def test_a_field_of_a_secret_is_fetched_and_its_rotation_counts_at_once(server: str, tmp_path: Path) -> None:
    source = source_of("vault:secret/crm/api key#token", tmp_path, kv(server, tmp_path))
    put(server, "secret/data/crm/api%20key", {"token": "first", "other": 1})
    assert await source.read() == "first"
    put(server, "secret/data/crm/api%20key", {"token": "second"})
    assert await source.read() == "second"


@pytest.mark.parametrize(
    ("path", "field", "told"),
    [
        ("gone/deleted", "token", "404"),
        ("gone/never", "token", "404"),
        ("gone/there", "absent", "no such field"),
        ("gone/there", "number", "no such field"),
    ],
)
async def test_a_secret_that_is_not_there_is_an_error(
    server: str, tmp_path: Path, path: str, field: str, told: str
) -> None:
    put(server, "secret/data/gone/deleted", {"token": SECRET})
    put(server, "secret/data/gone/deleted", None)
    put(server, "secret/data/gone/there", {"token": SECRET, "number": 5})
    with pytest.raises(NotHappened, match=told) as failed:
        await source_of(f"vault:secret/{path}#{field}", tmp_path, kv(server, tmp_path)).read()
    assert SECRET not in str(failed.value)


async def test_a_wrong_token_gets_nothing_and_is_not_shown(server: str, tmp_path: Path) -> None:
    put(server, "secret/data/crm", {"token": SECRET})
    with pytest.raises(NotHappened, match="403") as failed:
        await source_of("vault:secret/crm#token", tmp_path, kv(server, tmp_path, "hvs.wrong-token")).read()
    assert "hvs." not in str(failed.value)


async def test_the_token_is_not_sent_where_the_server_points(server: str, tmp_path: Path) -> None:
    put(server, "secret/data/crm", {"token": SECRET})
    moved = kv(f"{server}/moved", tmp_path)
    with pytest.raises(NotHappened, match="307"):
        await source_of("vault:secret/crm#token", tmp_path, moved).read()


async def test_a_server_that_is_down_is_an_error_without_a_secret(tmp_path: Path) -> None:
    with pytest.raises(NotHappened, match="does not answer") as failed:
        await source_of("vault:secret/crm#token", tmp_path, kv("http://127.0.0.1:9", tmp_path)).read()
    assert TOKEN not in str(failed.value)


def test_a_token_does_not_travel_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="not where secrets may be fetched from"):
        source_of("vault:secret/crm#token", tmp_path, kv("http://192.0.2.7:8200", tmp_path))


@pytest.mark.parametrize("path", ["secret/../sys", "secret//crm", "secret/./crm"])
def test_a_path_names_a_secret_and_nothing_else(path: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="names no field"):
        source_of(f"vault:{path}#token", tmp_path, kv("http://127.0.0.1:9", tmp_path))
