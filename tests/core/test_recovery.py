"""The remedy table, written out by hand from the design."""

import pytest

from holdfast.core.contract import Contract
from holdfast.core.effect import Kind
from holdfast.core.recovery import AskPerson, Attempts, Probe, Redo, UndoThenRedo, remedy

ONCE = Attempts(1, 1_000, 1_000)


@pytest.mark.parametrize(
    ("kind", "probe", "undo", "expected"),
    [
        (Kind.READ, False, False, Redo),
        (Kind.IDEMPOTENT, False, False, Redo),
        (Kind.IDEMPOTENT, True, False, Redo),
        (Kind.REVERSIBLE, True, True, Probe),
        (Kind.REVERSIBLE, False, True, UndoThenRedo),
        (Kind.IRREVERSIBLE, True, False, Probe),
        (Kind.IRREVERSIBLE, False, False, AskPerson),
    ],
)
def test_each_row_of_the_table(kind: Kind, probe: bool, undo: bool, expected: type) -> None:
    assert isinstance(remedy(Contract(name="t", kind=kind, probe=probe, undo=undo), ONCE, 2_000), expected)


def test_a_key_that_has_expired_is_no_licence_to_send_again() -> None:
    contract = Contract(name="t", kind=Kind.IDEMPOTENT, key_ttl_ms=500)
    assert isinstance(remedy(contract, ONCE, 1_499), Redo)
    assert isinstance(remedy(contract, ONCE, 1_500), AskPerson)
    assert isinstance(remedy(contract, ONCE, 999), AskPerson)


def test_a_probe_is_believed_only_after_the_late_bound() -> None:
    contract = Contract(name="t", probe=True, late_ms=700)
    assert remedy(contract, ONCE, 1_100) == Probe(1_700)


def test_without_proof_that_the_owner_stopped_a_person_is_asked() -> None:
    assert isinstance(remedy(Contract(name="t", probe=True), ONCE, 9_000, owner_stopped=False), AskPerson)
    late = Contract(name="t", probe=True, late_ms=10)
    assert isinstance(remedy(late, ONCE, 9_000, owner_stopped=False), Probe)
