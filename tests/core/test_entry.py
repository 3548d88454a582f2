"""How an entry proves the ones before it."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.entry import Entry, chain, check_chain, origin
from holdfast.errors import Corrupt
from tests.core.lives import BRANCH, CLAIM, DRAW, written

HONEST = written(CLAIM, DRAW)


def test_an_honest_chain_holds() -> None:
    assert check_chain(origin(BRANCH), HONEST) == HONEST[-1].digest


@pytest.mark.parametrize(
    "changed",
    [
        [replace(HONEST[0], at_ms=6), HONEST[1]],
        [replace(HONEST[0], epoch=2), HONEST[1]],
        [HONEST[0], replace(HONEST[1], seq=3)],
        [HONEST[0], replace(HONEST[1], body=HONEST[1].body + b" ")],
        [HONEST[1]],
        [HONEST[1], HONEST[0]],
        [HONEST[0], HONEST[0], HONEST[1]],
        [HONEST[0], replace(HONEST[1], key=b"k")],
        [replace(HONEST[0], digest=HONEST[1].digest), HONEST[1]],
    ],
)
def test_any_change_breaks_the_chain(changed: list[Entry]) -> None:
    with pytest.raises(Corrupt):
        check_chain(origin(BRANCH), changed)


def test_the_entry_that_does_not_fit_is_named() -> None:
    with pytest.raises(Corrupt) as corrupt:
        check_chain(origin(BRANCH), [HONEST[0], replace(HONEST[1], at_ms=6)])
    assert corrupt.value.where == "r@main:2"


def test_the_digest_is_what_the_format_says() -> None:
    """Reckoned here by docs/log-format.md, not by the code under test."""
    assert origin("r@main") == hashlib.sha256(b"holdfast/branch/1\x00r@main").digest()
    place = (7).to_bytes(8, "big") + (2).to_bytes(8, "big") + (1_000).to_bytes(8, "big") + b"\x01"
    expected = hashlib.sha256(b"holdfast/entry/1\x00" + bytes(32) + place + b"k" + b"{}").digest()
    assert chain(bytes(32), 7, 2, 1_000, b"k", b"{}") == expected


NUMBER = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2)  # so that two entries often differ in one thing only
FIELDS = st.tuples(
    st.sampled_from([bytes(32), bytes([1]) * 32]),
    NUMBER | SMALL,
    NUMBER | SMALL,
    NUMBER | SMALL,
    st.binary(max_size=2) | st.binary(max_size=32),
    st.binary(max_size=2),
)


@given(FIELDS, FIELDS)
def test_two_entries_never_have_the_same_digest(
    one: tuple[bytes, int, int, int, bytes, bytes], other: tuple[bytes, int, int, int, bytes, bytes]
) -> None:
    """Nor do key and body run into each other: `k` with `b` is not the empty key with `kb`."""
    assert (chain(*one) == chain(*other)) == (one == other)


@given(FIELDS, st.binary(min_size=1, max_size=40), st.integers(0, 40))
def test_what_is_moved_between_key_and_body_is_seen(
    fields: tuple[bytes, int, int, int, bytes, bytes], text: bytes, cut: int
) -> None:
    place = fields[:4]
    key, body = text[: min(cut, 32)], text[min(cut, 32) :]
    assert (chain(*place, key, body) == chain(*place, b"", text)) == (key == b"")


@given(st.text("ab@:", max_size=5), st.text("ab@:", max_size=5))
def test_branches_begin_apart(one: str, other: str) -> None:
    assert (origin(one) == origin(other)) == (one == other)
