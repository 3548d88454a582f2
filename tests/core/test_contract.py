"""Contracts: strict where they are silent, refused where they contradict themselves."""

import dataclasses

import pytest

from holdfast.core.contract import Contract, Drift, Level, Repeat, breach, default_drift, default_repeat
from holdfast.core.effect import Kind


def test_silence_promises_nothing() -> None:
    silent = Contract(name="t")
    assert silent.kind is Kind.IRREVERSIBLE
    assert (silent.repeat, silent.drift) == (Repeat.ASK, Drift.ASK)
    assert (silent.probe, silent.undo, silent.key_ttl_ms, silent.late_ms) == (False, False, None, None)
    assert breach(silent, []) is None


@pytest.mark.parametrize(
    ("kind", "identity", "expected"),
    [
        (Kind.READ, None, Repeat.EACH),
        (Kind.READ, ["a"], Repeat.EACH),
        (Kind.IDEMPOTENT, None, Repeat.EACH),
        (Kind.IDEMPOTENT, ["a"], Repeat.ONCE),
        (Kind.REVERSIBLE, None, Repeat.EACH),
        (Kind.REVERSIBLE, ["a"], Repeat.ONCE),
        (Kind.IRREVERSIBLE, None, Repeat.ASK),
        (Kind.IRREVERSIBLE, ["a"], Repeat.ONCE),
        (Kind.IRREVERSIBLE, [], Repeat.ONCE),
    ],
)
def test_what_a_further_call_means(kind: Kind, identity: list[str] | None, expected: Repeat) -> None:
    assert default_repeat(kind, identity) is expected


@pytest.mark.parametrize("kind", Kind)
def test_writes_ask_about_drift(kind: Kind) -> None:
    assert default_drift(kind) is (Drift.ADOPT if kind is Kind.READ else Drift.ASK)


BREACHES = [
    ({"identity": ("nothing",)}, "identity names `nothing`"),
    ({"identity": ("a", "nothing")}, "identity names `nothing`"),
    ({"resource": ("nothing",)}, "resource names `nothing`"),
    ({"secret": ("nothing",), "identity": ("a",)}, "secret names `nothing`"),
    ({"kind": Kind.REVERSIBLE}, "no undo"),
    ({"kind": Kind.REVERSIBLE, "probe": True}, "no undo"),
    ({"kind": Kind.READ, "probe": True}, "neither probe nor undo"),
    ({"kind": Kind.READ, "undo": True}, "neither probe nor undo"),
    ({"key_ttl_ms": 5}, "not idempotent"),
    ({"key_ttl_ms": 5, "kind": Kind.READ}, "not idempotent"),
    ({"key_ttl_ms": 5, "kind": Kind.REVERSIBLE, "undo": True}, "not idempotent"),
    ({"secret": ("a",)}, "identity must be named"),
    ({"secret": ("a",), "identity": ("a",)}, "is secret and cannot"),
    ({"secret": ("a",), "identity": ("b",), "resource": ("a",)}, "is secret and cannot"),
]


@pytest.mark.parametrize(("promises", "says"), BREACHES)
def test_a_contradiction_is_a_breach_and_says_which(promises: dict[str, object], says: str) -> None:
    found = breach(Contract(name="t", **promises), ["a", "b"])  # type: ignore[arg-type]
    assert found is not None
    assert says in found


@pytest.mark.parametrize(
    "promises",
    [
        {},
        {"identity": ()},
        {"identity": ("a",), "resource": ("a", "b")},
        {"identity": ("a",), "secret": ("b",)},
        {"identity": (), "secret": ("a", "b")},
        {"kind": Kind.READ},
        {"kind": Kind.IDEMPOTENT, "key_ttl_ms": 0, "probe": True, "undo": True},
        {"kind": Kind.REVERSIBLE, "undo": True, "probe": True, "late_ms": 5},
        {"kind": Kind.IRREVERSIBLE, "undo": True, "probe": True, "approval": Level.ONE},
    ],
)
def test_what_contradicts_nothing_is_no_breach(promises: dict[str, object]) -> None:
    assert breach(Contract(name="t", **promises), ["a", "b"]) is None  # type: ignore[arg-type]


OTHERWISE: dict[str, object] = {
    "name": "u",
    "kind": Kind.READ,
    "identity": ("a",),
    "resource": ("a",),
    "repeat": Repeat.EACH,
    "drift": Drift.REFUSE,
    "key_ttl_ms": 5,
    "late_ms": 5,
    "timeout_ms": 5,
    "probe": True,
    "undo": True,
    "approval": Level.ONE,
    "secret": ("a",),
    "policy": "77" * 16,
}


def test_every_promise_is_tried_otherwise() -> None:
    assert OTHERWISE.keys() == {field.name for field in dataclasses.fields(Contract) if field.init}


@pytest.mark.parametrize("promise", OTHERWISE)
def test_another_promise_is_another_digest(promise: str) -> None:
    silent = Contract(name="t")
    assert dataclasses.replace(silent, **{promise: OTHERWISE[promise]}).digest() != silent.digest()


def test_no_two_promises_have_one_digest() -> None:
    silent = Contract(name="t")
    digests = {dataclasses.replace(silent, **{name: value}).digest() for name, value in OTHERWISE.items()}
    assert len(digests) == len(OTHERWISE)
    assert Contract(name="t", identity=()).digest() != silent.digest()


def test_the_same_promises_have_the_same_digest() -> None:
    one = Contract(name="t", identity=("a", "b"), late_ms=7)
    assert one.digest() == one.digest() == Contract(name="t", identity=("a", "b"), late_ms=7).digest()


def test_under_a_policy_only_the_level_and_the_rules_are_others() -> None:
    plain = Contract(name="t", kind=Kind.IDEMPOTENT, identity=("a",), timeout_ms=5, secret=("key",))
    judged = plain.under(Level.TWO, "ab" * 16)
    assert judged == dataclasses.replace(plain, approval=Level.TWO, policy="ab" * 16)
    assert judged.digest() != plain.digest() == Contract(**fields_of(plain)).digest()
    assert plain.under(Level.TWO, "ab" * 16) is judged, "it is made once"
    assert {plain.under(Level.NONE, str(n)).policy for n in range(100)} == {str(n) for n in range(100)}
    assert (plain.approval, plain.policy) == (Level.NONE, "")


def fields_of(contract: Contract) -> dict[str, object]:
    return {each.name: getattr(contract, each.name) for each in dataclasses.fields(contract) if each.init}
