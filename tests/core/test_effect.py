"""Identity and key: against vectors reckoned here, and by their laws."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.canonical import canonical
from holdfast.core.effect import (
    Call,
    identity_of,
    key_of,
    legible,
    redone_identity,
    resource_of,
    undo_identity,
)

# --- as the format says ---


def test_an_identity_is_the_tool_the_arguments_and_the_label() -> None:
    expected = hashlib.sha256(b'holdfast/identity/1\0["mail.send",{"invoice":"77"},null]').digest()
    assert identity_of("mail.send", b'{"invoice":"77"}', None) == expected
    again = hashlib.sha256(b'holdfast/identity/1\0["mail.send",{"invoice":"77"},"reminder"]').digest()
    assert identity_of("mail.send", b'{"invoice":"77"}', "reminder") == again


def test_a_key_is_derived_from_run_identity_and_number() -> None:
    identity = bytes(32)
    expected = hashlib.sha256(b"holdfast/key/1\0" + b"run-1" + b"\0" + identity + (3).to_bytes(8, "big")).hexdigest()
    assert key_of("run-1", identity, 3) == expected[:32]


def test_a_resource_is_the_tool_and_the_fields_that_name_it() -> None:
    expected = hashlib.sha256(b'holdfast/resource/1\0["net.make",{"name":"a"}]').hexdigest()[:32]
    assert resource_of("net.make", {"name": "a", "size": 3}, ("name",)) == expected
    assert resource_of("net.make", {"name": "a"}, ()) is None
    assert resource_of("net.make", {"name": "a"}, None) is None


# --- laws ---

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES
ARGUMENTS = st.dictionaries(
    NAMES, VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(NAMES, VALUES, max_size=3), max_size=5
)
IDENTITIES = st.binary(min_size=32, max_size=32)
RUNS = st.text("abc-_.", min_size=1, max_size=6)
NUMBERS = st.integers(0, 2**63)


@given(NAMES, ARGUMENTS, st.randoms())
def test_the_order_of_arguments_does_not_matter(tool: str, arguments: dict[str, object], chance: object) -> None:
    shuffled = list(arguments.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (identity_of(tool, canonical(order), None) for order in (arguments, dict(shuffled)))  # type: ignore[arg-type]
    assert one == other


@given(NAMES, ARGUMENTS, NAMES, ARGUMENTS)
def test_other_tools_and_other_arguments_are_other_identities(
    tool: str, arguments: dict[str, object], tool2: str, arguments2: dict[str, object]
) -> None:
    one, other = canonical(arguments), canonical(arguments2)  # type: ignore[arg-type]
    same = identity_of(tool, one, None) == identity_of(tool2, other, None)
    assert same == ((tool, one) == (tool2, other))


@given(NAMES, ARGUMENTS, st.none() | NAMES, st.none() | NAMES)
def test_a_deliberate_repeat_is_another_identity(
    tool: str, arguments: dict[str, object], again: str | None, again2: str | None
) -> None:
    chosen = canonical(arguments)  # type: ignore[arg-type]
    assert (identity_of(tool, chosen, again) == identity_of(tool, chosen, again2)) == (again == again2)


@given(RUNS, IDENTITIES, NUMBERS, RUNS, IDENTITIES, NUMBERS)
def test_a_key_is_the_same_on_every_retry_and_another_for_every_other_effect(
    run: str, identity: bytes, n: int, run2: str, identity2: bytes, n2: int
) -> None:
    assert key_of(run, identity, n) == key_of(run, identity, n)
    for other in ((run2, identity, n), (run, identity2, n), (run, identity, n2)):
        assert (key_of(*other) == key_of(run, identity, n)) == (other == (run, identity, n))


@given(IDENTITIES, NUMBERS, NUMBERS)
def test_an_effect_its_undo_and_its_redoing_are_three(identity: bytes, n: int, n2: int) -> None:
    undo, redone = undo_identity(identity, n), redone_identity(identity, n)
    assert len({identity, undo, redone}) == 3
    assert (undo_identity(identity, n2) == undo) == (redone_identity(identity, n2) == redone) == (n == n2)


def test_a_key_is_the_same_in_another_process_with_another_hash_seed() -> None:
    script = (
        "from holdfast.core.canonical import canonical\n"
        "from holdfast.core.effect import identity_of, key_of\n"
        "print(key_of('r', identity_of('t', canonical({'b': [1.5, {'z': None, 'a': 'é'}], 'a': 2**70}), 'x'), 4))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(keys) == 1


@given(NAMES, st.binary(max_size=9), NAMES, st.binary(max_size=9), NUMBERS)
def test_the_digest_of_a_call_is_its_tool_and_its_exact_arguments(
    tool: str, args: bytes, tool2: str, args2: bytes, n: int
) -> None:
    if "\0" in tool + tool2:
        return  # no tool has such a name: names are those of modules and functions, or declared
    one = Call(tool, bytes(32), 0, args, None)
    other = Call(tool2, bytes([1]) * 32, n, args2, "net")
    assert (one.digest == other.digest) == ((tool, args) == (tool2, args2))


# --- texts that can always be written ---


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(st.text())
def test_any_text_can_be_written(text: str) -> None:
    written = legible(text)
    assert json.loads(json.dumps(written)) == written
    assert written.encode().decode() == written
    assert len(written) <= 4000
    if text.encode("utf-8", "ignore").decode() == text and len(text) <= 4000:
        assert written == text


@pytest.mark.parametrize(
    ("what", "expected"),
    [("a\ud800b", "a?b"), (Hostile(), "(a Hostile that has no text)"), (None, "None"), (ValueError("x"), "x")],
)
def test_what_has_no_text_gets_one(what: object, expected: str) -> None:
    assert legible(what) == expected


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 9_000])
def test_a_long_text_is_cut_where_it_was_asked_to_be(length: int) -> None:
    written = legible("x" * length, 10)
    assert len(written) == min(length, 10)
    assert written.endswith("…") is (length > 10)
