"""What may follow what, and that the chain holds."""

from dataclasses import replace

import pytest

from holdfast.core.log import Entry, Log, chain, check_chain, origin
from holdfast.core.record import Claim, Draw, Record, encode
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


def test_an_honest_log_folds_and_checks() -> None:
    log = Log(BRANCH)
    for entry in HONEST:
        log.fold(entry)
    assert (log.seq, log.epoch, log.draws) == (2, 1, {("now", 0): "1"})
    assert check_chain(origin(BRANCH), HONEST) == HONEST[-1].digest


@pytest.mark.parametrize(
    "changed",
    [
        [replace(HONEST[0], at_ms=6), HONEST[1]],
        [HONEST[0], replace(HONEST[1], body=HONEST[1].body + b" ")],
        [HONEST[1]],
        [HONEST[1], HONEST[0]],
        [HONEST[0], replace(HONEST[1], key=b"k")],
    ],
)
def test_any_change_breaks_the_chain(changed: list[Entry]) -> None:
    with pytest.raises(Corrupt):
        check_chain(origin(BRANCH), changed)


def test_a_record_under_another_claim_is_corrupt() -> None:
    entries = written((Claim(worker="w", previous="none"), 2), (Draw(name="now", n=0, value="1"), 1))
    log = Log(BRANCH)
    log.fold(entries[0])
    with pytest.raises(Corrupt, match="claim"):
        log.fold(entries[1])
