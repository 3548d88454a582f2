"""A receipt proves that a call may be sent: only who writes intents makes one."""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from holdfast.gateway.receipt import Receipt, for_effect, for_read

EFFECT = for_effect("r@main", 7, "mail.send", "ab" * 16)
READ = for_read("r@main", "mail.list")


def test_a_receipt_is_genuine_and_says_whether_it_is_of_a_read() -> None:
    assert EFFECT.genuine
    assert READ.genuine
    assert (EFFECT.read, READ.read) == (False, True)


@pytest.mark.parametrize(
    "changed",
    [{"branch": "r@b2"}, {"seq": 8}, {"tool": "mail.drop"}, {"key": "cd" * 16}, {"mark": bytes(32)}, {"mark": b""}],
    ids=str,
)
@pytest.mark.parametrize("receipt", [EFFECT, READ], ids=["effect", "read"])
def test_a_receipt_that_was_changed_is_not_genuine(receipt: Receipt, changed: dict[str, Any]) -> None:
    assert not replace(receipt, **changed).genuine


def test_a_receipt_of_a_read_does_not_become_one_of_an_effect() -> None:
    assert not Receipt(READ.branch, 7, READ.tool, READ.key, READ.mark).genuine
    assert not Receipt(EFFECT.branch, 0, EFFECT.tool, "", EFFECT.mark).genuine


def test_fields_cannot_be_moved_into_one_another() -> None:
    moved = for_effect("r@main\x007\x00a", 7, "b", "k")
    assert not Receipt("r@main", 7, "a\x007\x00b", "k", moved.mark).genuine


def test_a_receipt_that_was_made_by_hand_is_not_genuine() -> None:
    for mark in (b"", bytes(32), secrets.token_bytes(32)):
        assert not Receipt("r@main", 7, "mail.send", "ab" * 16, mark).genuine


def test_a_receipt_of_another_process_is_not_genuine() -> None:
    script = (
        "import sys; from holdfast.gateway.receipt import for_effect; "
        "sys.stdout.write(for_effect('r@main', 7, 'mail.send', 'ab' * 16).mark.hex())"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert len(made.stdout) == 64
    assert not replace(EFFECT, mark=bytes.fromhex(made.stdout)).genuine
