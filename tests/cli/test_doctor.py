"""`doctor` and the errors of a machine: what cannot be trusted is found before an agent finds it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.cli.keyboard import TROUPE, done, play, process, typed

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def findings(*words: str) -> dict[str, dict[str, Any]]:
    result = typed("doctor", *words, "--json")
    found = json.loads(result.stdout)
    assert set(found) == {"ok", "store", "checks"}
    assert all(set(check) == {"name", "state", "what", "fix"} for check in found["checks"])
    assert result.exit_code == (0 if found["ok"] else 1)
    return {check["name"]: check for check in found["checks"]}


def test_a_place_without_a_store_is_judged_and_left_as_it_was(here: Path) -> None:
    found = findings()
    assert {"python", "sqlite", "place", "file system", "flush", "space", "store", "clock", "confinement"} >= set(found)
    assert found["store"]["what"] == "none yet at holdfast.db; `holdfast run` makes one"
    assert list(here.iterdir()) == []


def test_everything_about_a_store_is_judged() -> None:
    play("echo", "x", "e")
    found = findings()
    assert set(found) == {
        "python", "sqlite", "place", "file system", "flush", "space", "settings", "store", "permissions", "log key",
        "anchor", "clock", "confinement",
    }  # fmt: skip
    assert "5 entries" in found["store"]["what"]
    assert apsw.sqlite_lib_version() in found["sqlite"]["what"]


def test_whatever_is_not_in_order_comes_with_a_fix() -> None:
    play("echo", "x", "e")
    Path("holdfast.db").chmod(0o666)
    Path("holdfast.db-key").chmod(0o644)
    found = findings()
    assert {name for name, check in found.items() if check["state"] == "fail"} == {"permissions", "log key"}
    assert found["permissions"]["fix"] == "chmod o-w holdfast.db"
    assert found["log key"]["fix"] == "chmod 600 holdfast.db-key"
    assert all(bool(check["fix"]) is (check["state"] != "ok") for check in found.values())


def test_a_lost_key_is_a_failure() -> None:
    play("echo", "x", "e")
    Path("holdfast.db-key").unlink()
    assert findings()["log key"]["state"] == "fail"


def test_a_missing_directory_is_a_failure_and_says_how_to_make_it() -> None:
    assert findings("--store", "none/runs.db")["directory"] == {
        "name": "directory", "state": "fail", "what": "none does not exist", "fix": "mkdir -p none",
    }  # fmt: skip


def test_a_file_that_is_no_store_is_a_failure() -> None:
    Path("x.db").write_text("hello")
    assert findings("--store", "x.db")["store"]["state"] == "fail"


def test_a_log_from_the_future_puts_the_clock_in_doubt() -> None:
    play("echo", "x", "e")
    with contextlib.closing(sqlite3.connect("holdfast.db")) as database:
        database.execute("UPDATE entry SET at_ms = ? WHERE id = 5", (int(time.time() * 1000) + 3_600_000,))
        database.commit()
    assert findings()["clock"]["state"] == "warn"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no file system in memory at /dev/shm")
def test_a_store_in_memory_is_a_failure() -> None:
    assert findings("--store", "/dev/shm/holdfast-doctor.db")["file system"]["state"] == "fail"


def test_a_store_without_a_place_cannot_be_checked() -> None:
    result = typed("doctor", "--store", "memory://")
    assert result.exit_code == 2
    assert "this store has no place to be checked" in result.stderr


def test_the_findings_are_one_a_line_for_people() -> None:
    play("echo", "x", "e")
    lines = done("doctor").splitlines()
    assert all(line.split()[0] in ("ok", "warn", "fail", "fix:") for line in lines)


# --- a user who may not ---


def _without_the_rights_of_root() -> None:
    """Before a command: root becomes a user for whom file modes count."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            libc.prctl(PR_CAPBSET_DROP, right, 0, 0, 0)


@pytest.fixture
def locked(here: Path) -> Path:
    """A store that its user may read and not write, in a directory of the same kind."""
    place = here / "locked"
    place.mkdir()
    play("payer", {"cents": 5}, "pay-5", "--store", "locked/runs.db")
    for path in place.iterdir():
        path.chmod(0o400)
    place.chmod(0o500)
    return place


@pytest.mark.parametrize(
    ("words", "code"),
    [(["list"], 0), (["approve", "pay-5@3"], 5), (["run", f"{TROUPE}:echo"], 5), (["doctor"], 1)],
)
def test_a_user_who_may_only_read_reads_and_is_stopped_with_words(
    here: Path, locked: Path, words: list[str], code: int
) -> None:
    ran = process(*words, "--store", "locked/runs.db", cwd=here, preexec_fn=_without_the_rights_of_root)
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert code == 0 or "fix: " in ran.stdout + ran.stderr


def test_a_user_who_may_not_even_read_is_told_so(here: Path) -> None:
    play("echo", "x", "e", "--store", "runs.db")
    for path in here.iterdir():
        path.chmod(0)
    ran = process("list", "--store", "runs.db", cwd=here, preexec_fn=_without_the_rights_of_root)
    assert ran.returncode == 5
    assert ran.stderr == (
        "Unwritable: the store cannot be read: Permission denied [runs.db]\n  fix: check its owner and permissions\n"
    )
