"""What may follow what."""

import pytest

from holdfast.core.codec import encode
from holdfast.core.entry import Entry, chain, origin
from holdfast.core.log import Log
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


def test_an_honest_log_folds() -> None:
    log = Log(BRANCH)
    for entry in HONEST:
        log.fold(entry)
    assert (log.seq, log.epoch, log.draws) == (2, 1, {("now", 0): "1"})


def test_a_record_under_another_claim_is_corrupt() -> None:
    entries = written((Claim(worker="w", previous="none"), 2), (Draw(name="now", n=0, value="1"), 1))
    log = Log(BRANCH)
    log.fold(entries[0])
    with pytest.raises(Corrupt, match="claim"):
        log.fold(entries[1])
