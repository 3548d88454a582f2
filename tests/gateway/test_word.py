"""A person's word at the admin door must fit the log: whatever program sends it, the log stays readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.core.codec import encode
from holdfast.core.contract import Level
from holdfast.core.effect import NotHappened
from holdfast.core.policy import Held
from holdfast.core.record import Approval, Hold, Record, Settled
from holdfast.errors import Conflict, HoldfastError, Misuse, Refused
from holdfast.errors import Held as Waits
from holdfast.gateway.word import fitting
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import RUN, Lodge, Rules

BRANCH = f"{RUN}@main"
SOON = 1 << 45  # ms


async def said(lodge: Lodge, record: Record, key: bytes, after: int | None = None, now_ms: int = 0) -> int | None:
    store = SqliteStore(lodge.path)
    try:
        return await fitting(store, BRANCH, [(Draft(key, encode(record)), record)], after, now_ms)
    finally:
        await store.close()


async def a_hold(lodge: Lodge) -> tuple[int, Hold, int]:
    """A call that waits for people: where it is held, how, and the end of the log."""
    with pytest.raises(Waits):
        async with lodge.open() as taken:
            await lodge.send(taken)
    records = await lodge.records()
    (hold,) = [each for each in records if isinstance(each, Hold)]
    return records.index(hold) + 1, hold, len(records)


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db", rules=Rules(lambda _: Held("ask", "why", Level.ONE)))


async def test_an_approval_of_the_exact_call_fits_where_the_log_ends(lodge: Lodge) -> None:
    seq, hold, end = await a_hold(lodge)
    agreed = Approval(hold=seq, call=hold.call, by="ann", expires_ms=SOON)
    assert await said(lodge, agreed, bytes.fromhex(hold.identity)) == end


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hold": 1}, Refused),  # it would be found under another call, or under none
        ({"call": "0" * 64}, Refused),
    ],
)
async def test_an_approval_of_anything_else_does_not(
    lodge: Lodge, change: dict[str, object], why: type[HoldfastError]
) -> None:
    seq, hold, _ = await a_hold(lodge)
    given = {"hold": seq, "call": hold.call, "by": "ann", "expires_ms": SOON, **change}
    with pytest.raises(why):
        await said(lodge, Approval(**given), bytes.fromhex(hold.identity))  # type: ignore[arg-type]


async def test_an_approval_that_nobody_would_find_or_that_comes_too_late_does_not(lodge: Lodge) -> None:
    seq, hold, end = await a_hold(lodge)
    agreed, key = Approval(hold=seq, call=hold.call, by="ann", expires_ms=SOON), bytes.fromhex(hold.identity)
    with pytest.raises(Refused, match="found under"):
        await said(lodge, agreed, b"checkpoint")
    with pytest.raises(Misuse, match="expired"):
        await said(lodge, agreed, key, now_ms=SOON)
    with pytest.raises(Conflict):
        await said(lodge, agreed, key, after=end - 1)


async def test_what_was_never_sent_is_not_settled(lodge: Lodge) -> None:
    seq, hold, _ = await a_hold(lodge)
    with pytest.raises(HoldfastError):
        await said(lodge, Settled(intent=seq, outcome=NotHappened("no"), by="ann"), bytes.fromhex(hold.identity))
