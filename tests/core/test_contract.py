"""Contracts: strict where they are silent, refused where they contradict themselves."""

import pytest

from holdfast.core.contract import Contract, Repeat, breach, default_repeat
from holdfast.core.effect import Kind


def test_silence_is_irreversible() -> None:
    assert Contract(name="t").kind is Kind.IRREVERSIBLE


@pytest.mark.parametrize(
    ("kind", "identity", "expected"),
    [
        (Kind.READ, None, Repeat.EACH),
        (Kind.READ, ["a"], Repeat.EACH),
        (Kind.IDEMPOTENT, None, Repeat.EACH),
        (Kind.IRREVERSIBLE, None, Repeat.ASK),
        (Kind.IRREVERSIBLE, ["a"], Repeat.ONCE),
        (Kind.REVERSIBLE, ["a"], Repeat.ONCE),
    ],
)
def test_what_a_further_call_means(kind: Kind, identity: list[str] | None, expected: Repeat) -> None:
    assert default_repeat(kind, identity) is expected


@pytest.mark.parametrize(
    "contract",
    [
        Contract(name="t", identity=("nothing",)),
        Contract(name="t", kind=Kind.REVERSIBLE),
        Contract(name="t", kind=Kind.READ, probe=True),
        Contract(name="t", key_ttl_ms=5),
        Contract(name="t", secret=("a",)),
        Contract(name="t", secret=("a",), identity=("a",)),
    ],
)
def test_a_contradiction_is_a_breach(contract: Contract) -> None:
    assert breach(contract, ["a"])


def test_another_promise_is_another_digest() -> None:
    assert Contract(name="t").digest() != Contract(name="t", probe=True).digest()
