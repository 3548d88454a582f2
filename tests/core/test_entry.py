"""How an entry proves the ones before it."""

import hashlib
from dataclasses import replace

import pytest

from holdfast.core.codec import encode
from holdfast.core.entry import Entry, chain, check_chain, origin
from holdfast.core.record import Claim, Draw, Record
from holdfast.errors import Corrupt

BRANCH = "r@main"


def written(*records: tuple[Record, int]) -> list[Entry]:
    entries: list[Entry] = []
    digest = origin(BRANCH)
    for seq, (record, epoch) in enumerate(records, 1):
        body = encode(record)
        digest = chain(digest, seq, epoch, 5, b"", body)
        entries.append(Entry(BRANCH, seq, epoch, 5, b"", body, digest))
    return entries


HONEST = written((Claim(worker="w", previous="none"), 1), (Draw(name="now", n=0, value="1"), 1))


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
        [HONEST[0], replace(HONEST[1], key=b"k")],
    ],
)
def test_any_change_breaks_the_chain(changed: list[Entry]) -> None:
    with pytest.raises(Corrupt):
        check_chain(origin(BRANCH), changed)


def test_the_digest_is_what_the_format_says() -> None:
    """Reckoned here by docs/log-format.md, not by the code under test."""
    assert origin("r@main") == hashlib.sha256(b"holdfast/branch/1\x00r@main").digest()
    place = (7).to_bytes(8, "big") + (2).to_bytes(8, "big") + (1_000).to_bytes(8, "big") + b"\x01"
    expected = hashlib.sha256(b"holdfast/entry/1\x00" + bytes(32) + place + b"k" + b"{}").digest()
    assert chain(bytes(32), 7, 2, 1_000, b"k", b"{}") == expected
