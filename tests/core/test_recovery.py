"""The remedy table, written out by hand from the design (§5)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.contract import Contract
from holdfast.core.effect import Kind
from holdfast.core.recovery import AskPerson, Attempts, Probe, Redo, UndoThenRedo, remedy

SENT = Attempts(1, 1_000, 1_000)
LATER_MS = 2_000
TTL_MS = 500  # of a key that has expired by then

# kind, whether its key has expired, whether it can be asked, whether its sender is proven to have stopped → the remedy
TABLE: list[tuple[Kind, bool, bool, bool, type]] = [
    (Kind.READ, False, False, True, Redo),
    (Kind.READ, False, False, False, Redo),
    (Kind.IDEMPOTENT, False, True, True, Redo),
    (Kind.IDEMPOTENT, False, False, True, Redo),
    (Kind.IDEMPOTENT, False, True, False, Redo),
    (Kind.IDEMPOTENT, False, False, False, Redo),
    (Kind.IDEMPOTENT, True, True, True, Probe),
    (Kind.IDEMPOTENT, True, False, True, AskPerson),
    (Kind.IDEMPOTENT, True, True, False, AskPerson),
    (Kind.IDEMPOTENT, True, False, False, AskPerson),
    (Kind.REVERSIBLE, False, True, True, Probe),
    (Kind.REVERSIBLE, False, False, True, UndoThenRedo),
    (Kind.REVERSIBLE, False, True, False, AskPerson),
    (Kind.REVERSIBLE, False, False, False, AskPerson),
    (Kind.IRREVERSIBLE, False, True, True, Probe),
    (Kind.IRREVERSIBLE, False, False, True, AskPerson),
    (Kind.IRREVERSIBLE, False, True, False, AskPerson),
    (Kind.IRREVERSIBLE, False, False, False, AskPerson),
]


def contract(kind: Kind, *, expired: bool, probe: bool) -> Contract:
    return Contract(
        name="t", kind=kind, probe=probe, undo=kind is Kind.REVERSIBLE, key_ttl_ms=TTL_MS if expired else None
    )


@pytest.mark.parametrize(("kind", "expired", "probe", "stopped", "expected"), TABLE)
def test_each_row_of_the_table(kind: Kind, *, expired: bool, probe: bool, stopped: bool, expected: type) -> None:
    found = remedy(contract(kind, expired=expired, probe=probe), SENT, LATER_MS, owner_stopped=stopped)
    assert type(found) is expected


@pytest.mark.parametrize(("kind", "expired", "probe", "stopped", "expected"), TABLE)
def test_where_a_contract_bounds_how_late_it_may_be_no_other_proof_is_needed(
    kind: Kind, *, expired: bool, probe: bool, stopped: bool, expected: type
) -> None:
    late = replace(contract(kind, expired=expired, probe=probe), late_ms=10)
    proven = next(row[4] for row in TABLE if row[:4] == (kind, expired, probe, stopped or kind is not Kind.READ))
    assert type(remedy(late, SENT, LATER_MS, owner_stopped=stopped)) is proven
    assert expected in (proven, AskPerson)


def test_a_key_that_has_expired_is_no_licence_to_send_again() -> None:
    mortal = Contract(name="t", kind=Kind.IDEMPOTENT, key_ttl_ms=500)
    assert isinstance(remedy(mortal, SENT, 1_499), Redo)
    assert isinstance(remedy(mortal, SENT, 1_500), AskPerson)


def test_a_clock_that_was_set_back_makes_no_key_young() -> None:
    mortal = Contract(name="t", kind=Kind.IDEMPOTENT, key_ttl_ms=500)
    assert isinstance(remedy(mortal, SENT, 999), AskPerson)


def test_a_key_is_as_old_as_its_first_sending() -> None:
    mortal = Contract(name="t", kind=Kind.IDEMPOTENT, key_ttl_ms=500)
    assert isinstance(remedy(mortal, Attempts(3, 1_000, 1_499), 1_500), AskPerson)


def test_a_probe_is_believed_only_after_the_late_bound_of_the_last_sending() -> None:
    late = Contract(name="t", probe=True, late_ms=700)
    assert remedy(late, SENT, 1_100) == Probe(1_700)
    assert remedy(late, Attempts(2, 1_000, 1_600), 1_700) == Probe(2_300)


def test_an_undo_waits_for_the_late_bound_too() -> None:
    late = Contract(name="t", kind=Kind.REVERSIBLE, undo=True, late_ms=700)
    assert remedy(late, Attempts(2, 1_000, 1_600), 1_700) == UndoThenRedo(2_300)


MS = st.integers(0, 2**50)
BOUNDS = st.none() | MS
CONTRACTS = st.builds(
    Contract,
    name=st.just("t"),
    kind=st.sampled_from(Kind),
    probe=st.booleans(),
    undo=st.booleans(),
    late_ms=BOUNDS,
    key_ttl_ms=BOUNDS,
)
SENDINGS = st.builds(lambda count, first, more: Attempts(count, first, first + more), st.integers(1, 9), MS, MS)


@given(CONTRACTS, SENDINGS, MS, st.booleans())
def test_an_irreversible_effect_is_never_sent_again_unasked(
    drawn: Contract, sent: Attempts, now_ms: int, stopped: bool
) -> None:
    irreversible = replace(drawn, kind=Kind.IRREVERSIBLE)
    assert isinstance(remedy(irreversible, sent, now_ms, owner_stopped=stopped), Probe | AskPerson)


@given(CONTRACTS, SENDINGS, MS, st.booleans())
def test_a_reversible_effect_is_never_sent_again_without_a_look_or_an_undo(
    drawn: Contract, sent: Attempts, now_ms: int, stopped: bool
) -> None:
    reversible = replace(drawn, kind=Kind.REVERSIBLE)
    assert not isinstance(remedy(reversible, sent, now_ms, owner_stopped=stopped), Redo)


@given(CONTRACTS, SENDINGS, MS)
def test_without_proof_nothing_more_is_done_than_with_it(drawn: Contract, sent: Attempts, now_ms: int) -> None:
    unproven = remedy(drawn, sent, now_ms, owner_stopped=False)
    assert isinstance(unproven, AskPerson) or unproven == remedy(drawn, sent, now_ms, owner_stopped=True)


@given(CONTRACTS, SENDINGS, MS)
def test_nobody_looks_or_takes_back_before_the_last_sending_is_over(
    drawn: Contract, sent: Attempts, now_ms: int
) -> None:
    found = remedy(drawn, sent, now_ms)
    if isinstance(found, Probe | UndoThenRedo):
        assert found.not_before_ms == sent.last_ms + (drawn.late_ms or 0)
