"""Each known attack on a log, made on a real database, in SQLite and on PostgreSQL: who finds it, and who starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.keyboard import typed
from tests.cli.ledger import Ledger
from tests.core.attacks import (
    ATTACKS,
    cut,
    cut_with_heads,
    delete_run,
    delete_run_and_heads,
    other_key,
    other_key_under_our_name,
    restore_older,
    sample,
    stolen_key,
)
from tests.core.bundle_writer import Writer
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, here: Path) -> Ledger:
    """A store in which nothing stands yet."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.empty()
    else:
        url = "sqlite:///runs.db"
    made = Ledger(url, here / "log-key", here / "anchor")
    assert not made.read_only()
    return made


def judged(ledger: Ledger, vkey: str, anchor: str) -> tuple[str, int | None] | None:
    result = typed(
        "verify", ledger.url, "--vkey", vkey, "--anchor", anchor, "--max-unsigned", "12", "--json"
    )  # fmt: skip
    assert result.exit_code in (0, 1), result.output
    fault = json.loads(result.stdout)["fault"]
    assert (fault is None) is (result.exit_code == 0)
    return None if fault is None else (fault["rule"], fault["index"])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_on_a_real_database_is_found_or_known_to_be_missed(
    ledger: Ledger, attack: Callable[[Writer], Writer]
) -> None:
    honest = ledger.hand(sample())
    ledger.write(honest)
    ledger.anchor.write_text(honest.anchor)
    assert judged(ledger, honest.vkey, str(ledger.anchor)) is None

    ledger.write(attack(honest.copy()))
    found, found_with_anchor = ATTACKS[attack]
    assert judged(ledger, honest.vkey, "none") == found
    anchored = judged(ledger, honest.vkey, str(ledger.anchor))
    assert anchored is not None
    assert found_with_anchor == "anchor" or anchored[0] == found_with_anchor


AT_START = (cut, cut_with_heads, restore_older, delete_run, delete_run_and_heads, stolen_key, other_key,
            other_key_under_our_name)  # fmt: skip


@pytest.mark.parametrize("attack", AT_START, ids=lambda attack: attack.__name__)
def test_what_the_anchor_does_not_know_keeps_a_worker_from_writing(
    ledger: Ledger, attack: Callable[[Writer], Writer]
) -> None:
    honest = ledger.hand(sample())
    ledger.write(honest)
    ledger.anchor.write_text(honest.anchor)
    ledger.write(attack(honest.copy()))
    assert ledger.read_only()
