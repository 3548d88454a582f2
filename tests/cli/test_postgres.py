"""The command line on PostgreSQL: runs that are killed with SIGKILL go on, and nothing in the world happens twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.gateway.health import writable
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.url import postgres_address
from tests.cli.keyboard import TROUPE, process, read, soon, start, surroundings, typed
from tests.postgres import Postgres


@pytest.fixture(autouse=True)
def store(here: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every command of a test speaks of this store."""
    url = postgres.empty()
    url += f"{'&' if '?' in url else '?'}key={here}/log-key"
    monkeypatch.setenv("HOLDFAST_STORE", url)
    return url


def mails() -> list[str]:
    return Path("mails").read_text().splitlines() if Path("mails").exists() else []


def test_a_killed_run_is_shown_in_doubt_settled_by_a_person_and_resumed_without_a_second_mail(here: Path) -> None:
    Path("stuck").touch()
    run = start("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1", cwd=here)
    try:
        soon(lambda: mails() == ["ann"], "the mail is sent")
        assert read("show", "dun-1")["status"] == "running"
        second = typed("resume", "dun-1", "--agent", f"{TROUPE}:dun")
        assert (second.exit_code, second.stderr.split(":")[0]) == (4, "Claimed")
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    Path("stuck").unlink()

    assert typed("show", "dun-1").stdout.splitlines()[0] == "dun-1  doubt"
    assert [row["status"] for row in read("list")] == ["doubt"]
    waits = process("resume", "dun-1", "--agent", f"{TROUPE}:dun", "--no-wait", cwd=here)
    assert (waits.returncode, waits.stdout) == (3, "")
    settled = typed("settle", "dun-1@7", "--happened", '"it is in the outbox"', "--by", "eve")
    assert settled.exit_code == 0, settled.stderr
    ends = process("resume", "dun-1", "--agent", f"{TROUPE}:dun", cwd=here)
    assert (ends.returncode, ends.stdout) == (0, '"it is in the outbox"\n')
    assert mails() == ["ann"]


SENT = 2  # the append after which the mail may be sent


def survived(here: Path, side: str, nth: int) -> None:
    """A run that dies at an append is resumed until it has ended; a person ends a doubt by looking into the outbox."""
    words = ["run", f"{TROUPE}:stubborn", "--input", '{"to": "ann"}', "--id", "dun-1", "--no-wait"]
    life = subprocess.run(
        [sys.executable, "-m", "tests.cli.mortal", side, str(nth), *words],
        cwd=here, env=surroundings(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert life.returncode in (-signal.SIGKILL, 0), life.stderr
    ended = process(*words, cwd=here)
    if ended.returncode == 3:
        doubt = ended.stderr.partition("holdfast settle ")[2].split()[0]
        verdict = ["--happened", '"mail to ann"'] if mails() else ["--did-not-happen"]
        assert typed("settle", doubt, *verdict).exit_code == 0
        ended = process(*words, cwd=here)
    assert (ended.returncode, ended.stdout) == (0, '"mail to ann"\n'), ended.stderr
    assert mails() == ["ann"]


@pytest.mark.parametrize(("side", "nth"), [("before", SENT), ("after", SENT)])
def test_a_run_survives_a_death_at_an_append(here: Path, side: str, nth: int) -> None:
    survived(here, side, nth)


@pytest.mark.soak
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 6))
def test_a_run_survives_a_death_at_each_append(here: Path, side: str, nth: int) -> None:
    survived(here, side, nth)


def test_a_watcher_is_for_a_store_in_a_file(store: str) -> None:
    typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1")
    result = typed("run", "--watch")
    assert result.exit_code == 2
    assert "store in a file" in result.stderr or "SQLite store" in result.stderr


def test_a_password_is_not_repeated(store: str) -> None:
    said = typed("doctor", "--store", "postgresql://me:secret@127.0.0.1:1/none", "--json")
    assert (said.exit_code, json.loads(said.stdout)["store"]) == (1, "postgresql://me@127.0.0.1:1/none")
    assert "secret" not in said.output


def findings() -> dict[str, str]:
    """The state of each thing that the doctor has looked at in the database."""
    checks = json.loads(typed("doctor", "--json").stdout)["checks"]
    return {check["name"]: check["state"] for check in checks if not check["name"].startswith("sandbox")}


def test_the_doctor_finds_a_store_well_and_makes_none_where_there_is_none(store: str, postgres: Postgres) -> None:
    assert findings()["store"] == "ok"
    with postgres.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'holdfast'").fetchall() == []
    assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1").exit_code == 0
    found = findings()
    for name in ("server", "flush", "pooler", "clock", "migrations", "log key", "signing", "anchor"):
        assert found[name] == "ok", name


def test_the_doctor_names_what_is_wrong(store: str, here: Path, postgres: Postgres) -> None:
    assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1").exit_code == 0
    with postgres.connect() as connection:
        connection.execute("UPDATE holdfast.branch SET seq = seq + 1")
        connection.execute("DELETE FROM holdfast.stretch")
        connection.execute("UPDATE holdfast.meta SET value = '1' WHERE name = 'schema'")
    assert findings()["migrations"] == "warn"
    with postgres.connect() as connection:
        connection.execute("UPDATE holdfast.meta SET value = '99' WHERE name = 'schema'")
    found = findings()
    assert (found["migrations"], found["signing"], found["anchor"]) == ("ok", "warn", "fail")
    (here / "log-key").unlink()
    assert findings()["log key"] == "fail"
    with postgres.connect() as connection:
        connection.execute("UPDATE holdfast.meta SET value = '99' WHERE name = 'needs'")
    assert findings()["server"] == "fail"


def test_what_is_shown_of_a_run_is_of_one_moment(store: str) -> None:
    assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1").exit_code == 0
    assert [entry["name"] for entry in map(json.loads, typed("log", "dun-1", "--json").stdout.splitlines())][-1] == (
        "finished"
    )
    planned = typed("fork", "dun-1@4", "--dry-run")
    assert planned.exit_code == 0, planned.stderr


def test_a_log_is_verified_anchored_and_exported(store: str, here: Path) -> None:
    for run in ("dun-1", "dun-2"):
        assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", run).exit_code == 0
    anchored = read("anchor")
    assert (anchored["agrees"], anchored["anchor_size"]) == (True, anchored["entries"])
    verdict = read("verify", "--vkey", anchored["vkey"])
    assert (verdict["ok"], verdict["entries"], verdict["unsigned"]) == (True, anchored["entries"], 0)
    assert "key=" not in verdict["path"]
    for words, entries in ((["--all"], 2 * 9), (["dun-2"], 9)):
        assert typed("export", *words, "-o", "b.jsonl", "--force").exit_code == 0
        bundle = json.loads(process("verify", "b.jsonl", "--vkey", anchored["vkey"], "--json", cwd=here).stdout)
        assert (bundle["ok"], bundle["kind"], bundle["entries"]) == (True, "bundle", entries)


def test_a_log_that_was_put_back_starts_nothing_until_somebody_accepts_it(store: str, postgres: Postgres) -> None:
    assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "ann"}', "--id", "dun-1").exit_code == 0
    with postgres.connect() as connection:
        connection.execute("TRUNCATE holdfast.entry, holdfast.stretch, holdfast.head, holdfast.branch")
    assert typed("anchor").exit_code == 5
    assert typed("verify").exit_code == 1
    refused = typed("run", f"{TROUPE}:dun", "--input", '{"to": "bob"}', "--id", "dun-2")
    assert (refused.exit_code, refused.stderr.split(":")[0]) == (5, "RolledBack")
    assert mails() == ["ann"]
    assert typed("anchor", "--accept", "--by", "eve").exit_code == 0
    assert typed("run", f"{TROUPE}:dun", "--input", '{"to": "bob"}', "--id", "dun-2").exit_code == 0
    assert (mails(), read("verify")["ok"]) == (["ann", "bob"], True)


def test_what_a_killed_writer_left_outside_is_shown_and_deleted(store: str, here: Path) -> None:
    outside = here / "blobs"
    outside.mkdir()
    assert typed("prune", "--blobs").exit_code == 2, "nothing is outside yet"
    with open_store(f"{store}{'&' if '?' in store else '?'}blobs=file://{outside}"):
        pass
    with PostgresReader(postgres_address(store)) as reader:
        left = outside / reader.log_id / f"{1:016x}" / ("ab" * 32)
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 2000)
    assert typed("prune", "--blobs", "--dry-run").stdout == "would delete 1 object, 2.0 KB\n"
    assert left.exists()
    assert json.loads(typed("prune", "--blobs", "--json").stdout) == {
        "dry_run": False, "objects": 1, "bytes": 2000, "missing": [],
    }  # fmt: skip
    assert not left.exists()
    assert typed("prune", "--blobs", "--older-than", "1d").exit_code == 2


def test_a_large_payload_that_is_missing_is_told_with_exit_code_1(store: str, here: Path) -> None:
    outside = here / "blobs"
    outside.mkdir()
    with open_store(f"{store}{'&' if '?' in store else '?'}blobs=file://{outside}"):
        pass
    (here / "wordy.py").write_text(
        "import random\nfrom holdfast import agent\n"
        "@agent\ndef talk(run, task):\n    return random.Random(7).randbytes(400_000).hex()\n"
    )
    assert typed("run", "wordy:talk", "--id", "w").exit_code == 0
    (lost,) = [path for path in outside.rglob("*") if path.is_file()]
    assert typed("prune", "--blobs", "--dry-run").exit_code == 0
    assert read("verify")["ok"]
    lost.unlink()
    result = typed("prune", "--blobs", "--dry-run")
    assert (result.exit_code, lost.name in result.stderr) == (1, True)
    assert typed("verify").exit_code == 1


def test_a_store_that_was_asked_whether_it_can_be_written_still_verifies(store: str) -> None:
    with open_store(store) as house:
        asyncio.run(writable(house.store)())
    assert read("verify")["ok"]
