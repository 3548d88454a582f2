"""Attacks on a ward by many calls at once: budgets, revocations in the midst of what waits, and what sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.capability import Budget, Terms
from holdfast.core.contract import Level
from holdfast.core.effect import Encoding, Kind
from holdfast.core.policy import Allowed, Facts, Held, Verdict
from holdfast.core.record import Decision, Hold, Intent, Seal
from holdfast.errors import Refused, RetryAfter, Waiting
from holdfast.gateway.desk import Desk
from holdfast.gateway.gate import Gate
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.rights import Right
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.wards import Taken
from tests.gateway.lodge import RUN, Lodge, Office, budget


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.005)


async def narrowed(taken: Taken, right: Right | None = None, **most: int) -> Right:
    terms = Terms(tools=("post.*",), budget=Budget(**most))
    return (await taken.ward.rights.narrow(right or taken.right, terms, by="the agent"))[0]


async def call(lodge: Lodge, taken: Taken, right: Right, to: str, operation: str = "send") -> Any:
    prepared = await lodge.office.prepare(operation, {"to": to})
    try:
        return await taken.ward.call(right, prepared)
    finally:
        taken.ward.delivered(prepared)


def answered(outcomes: list[Any]) -> int:
    assert all(isinstance(each, Reply | Refused) for each in outcomes), outcomes
    return sum(isinstance(each, Reply) for each in outcomes)


# --- a budget, and two hundred who spend it ---


@pytest.mark.parametrize("kind", [Kind.IRREVERSIBLE, Kind.IDEMPOTENT])
async def test_two_hundred_calls_at_once_spend_a_budget_and_no_more(lodge: Lodge, kind: Kind) -> None:
    lodge.office.kind = kind
    async with lodge.open(budget(calls=37), crash=True) as taken:
        children = [await narrowed(taken, calls=9) for _ in range(3)]
        grandchild = await narrowed(taken, children[0])
        rights = [taken.right, *children, grandchild]
        calls = [
            call(lodge, taken, rights[n % len(rights)], f"to {n}", "look" if n % 3 == 0 else "send") for n in range(200)
        ]
        assert answered(await asyncio.gather(*calls, return_exceptions=True)) == 37
        assert taken.ward.rights.spent.calls == 37
        assert all(child.used.calls <= 9 for child in children)
    assert len(lodge.office.sent) + lodge.office.looked == 37
    async with lodge.open(budget(calls=37)) as taken:
        assert taken.ward.rights.spent.calls == 37
        assert answered([await failing(call(lodge, taken, taken.right, "one more"))]) == 0
    records = await lodge.records()
    assert sum(isinstance(each, Intent) or (isinstance(each, Seal) and each.intent is None) for each in records) == 37


async def failing(work: Any) -> Any:
    (found,) = await asyncio.gather(work, return_exceptions=True)
    return found


async def test_two_hundred_who_call_one_thing_at_once_pay_for_it_once(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=1)) as taken:
        outcomes = await asyncio.gather(*(call(lodge, taken, taken.right, "a") for _ in range(200)))
        assert {each.data for each in outcomes} == {b'{"number":1}'}
        assert taken.ward.rights.spent.calls == 1
    assert len(lodge.office.sent) == 1


async def test_two_hundred_questions_at_once_cost_no_more_than_may_be_spent(lodge: Lodge) -> None:
    asked: list[int] = []

    async def ask(receipt: Receipt) -> Reply:
        asked.append(1)
        await asyncio.sleep(0)
        return Reply(b"x", Encoding.BYTES, None, cost=7)

    async with lodge.open(budget(money=100), crash=True) as taken:
        questions = [replace(await lodge.office.prepare("look", {"n": n}), money=10) for n in range(200)]
        outcomes = await asyncio.gather(
            *(taken.ward.decide(taken.right, each, ask, lane=str(n)) for n, each in enumerate(questions)),
            return_exceptions=True,
        )
        refused = sum(isinstance(each, Refused) for each in outcomes)
        assert (refused, len(asked), taken.ward.rights.spent.money) == (190, 10, 70)
    async with lodge.open(budget(money=100)) as taken:
        assert taken.ward.rights.spent.money == 70
    assert sum(isinstance(each, Decision) for each in await lodge.records()) == 10


# --- a revocation in the midst ---


def every_letter_is_held(facts: Facts) -> Verdict:
    return Allowed("reads") if facts.kind is Kind.READ else Held("ask", "letters cost money", Level.ONE)


async def approve_all(taken: Taken) -> None:
    """Agree to whatever is held, as long as anything is."""
    store, seen = taken.ward.mediator.line.store, set[int]()
    while True:
        for entry in await store.read(f"{RUN}@main"):
            if b'"t":"hold"' in entry.body and entry.seq not in seen:
                seen.add(entry.seq)
                await Desk(store).approve(f"{RUN}@{entry.seq}", by="ann")
                taken.ward.changed.set()
        await asyncio.sleep(0.01)


async def test_a_revocation_ends_what_waits_by_that_right_and_nothing_else(lodge: Lodge) -> None:
    lodge.rules.rule = every_letter_is_held
    lodge.patience_s = 60
    async with lodge.open() as taken:
        parents = [await narrowed(taken) for _ in range(5)]
        children = [await narrowed(taken, parent) for parent in parents]
        by = {f"to {n}": right for n, right in enumerate([*parents, *children])}
        calls = {to: asyncio.ensure_future(call(lodge, taken, right, to)) for to, right in by.items()}
        await until(lambda: taken.ward.mediator.parked is not None)
        await taken.ward.rights.revoke(parents[2].id, by="ann", reason="enough")
        agreeing = asyncio.ensure_future(approve_all(taken))
        outcomes = dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))
        agreeing.cancel()
        refused = {to for to, each in outcomes.items() if isinstance(each, Refused)}
        assert refused == {"to 2", "to 7"}
        assert all("revoked by ann: enough" in str(outcomes[to]) for to in refused)
        assert {to for to, _ in lodge.office.sent} == set(by) - refused
        assert parents[2].used.calls == children[2].used.calls == 0


async def test_a_revocation_before_the_people_have_answered_leaves_nothing_to_be_sent(lodge: Lodge) -> None:
    lodge.rules.rule = every_letter_is_held
    async with lodge.open(crash=True) as taken:
        for to in "abc":
            assert isinstance(await failing(call(lodge, taken, taken.right, to)), Waiting)
        await taken.ward.rights.revoke(taken.right.id, by="ann", reason="enough")
        store = taken.ward.mediator.line.store
        holds = [entry.seq for entry in await store.read(f"{RUN}@main") if b'"t":"hold"' in entry.body]
        for seq in holds:
            await Desk(store).approve(f"{RUN}@{seq}", by="ann")
        await taken.ward.mediator.line.refresh()
        taken.ward.mediator.unpark()
        outcomes = [await failing(call(lodge, taken, taken.right, to)) for to in "abc"]
        assert all("revoked by ann" in str(each) for each in outcomes)
    assert lodge.office.sent == []
    assert sum(isinstance(each, Hold) for each in await lodge.records()) == len(holds)


# --- what sleeps ---


@dataclass
class Busy(Office):
    """An office that asks to come back, the first time; and is told of it."""

    seconds: float = 0.3
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.before = self.come_back

    def come_back(self) -> None:
        if not self.asked.is_set():
            self.asked.set()
            raise RetryAfter(self.seconds, "come back later")


@pytest.mark.parametrize("kind", [Kind.IDEMPOTENT, Kind.IRREVERSIBLE])
@pytest.mark.parametrize("seconds", [0.3, 31.0])
async def test_whose_parent_is_revoked_while_it_sleeps_is_not_sent(lodge: Lodge, kind: Kind, seconds: float) -> None:
    office = lodge.office = Busy(kind=kind, seconds=seconds)
    lodge.patience_s = 0.0
    async with lodge.open(crash=True) as taken:
        parent = await narrowed(taken)
        child = await narrowed(taken, await narrowed(taken, parent))
        sleeping = asyncio.ensure_future(call(lodge, taken, child, "a"))
        await office.asked.wait()
        await taken.ward.rights.revoke(parent.id, by="ann", reason="enough")
        outcome = await failing(sleeping)
        assert not isinstance(outcome, Reply)
        if isinstance(outcome, Waiting):  # it sleeps for longer than its door waits
            taken.ward.mediator.unpark()
            taken.ward.mediator.sender.now_ms = lambda: 1 << 45
            outcome = await failing(call(lodge, taken, child, "a"))
        assert "revoked by ann: enough" in str(outcome)
    assert office.sent == []
    assert sum(isinstance(each, Intent) for each in await lodge.records()) == 1


async def test_a_revocation_cuts_whoever_visits_by_that_right_and_nobody_else(lodge: Lodge) -> None:
    lodge.office.gate = asyncio.Event()
    async with lodge.open() as taken:
        gate = Gate(_OneWard(taken), {})  # type: ignore[arg-type]
        parent = await narrowed(taken)
        handles = [(await taken.ward.rights.narrow(parent, Terms(tools=("post.send",)), by="t"))[1] for _ in range(3)]

        async def visits(handle: str | None, to: str) -> Any:
            visit = gate.visit(RUN, handle, "native")
            with gate.inside(visit):
                return await call(lodge, taken, visit.right, to)

        cut = [asyncio.ensure_future(visits(handle, str(n))) for n, handle in enumerate(handles)]
        stays = asyncio.ensure_future(visits(None, "own"))
        await until(lambda: len(lodge.office.receipts) == 4)
        await gate.revoke(RUN, parent.id, by="ann", reason="enough")
        await asyncio.wait(cut)
        assert all(each.cancelled() for each in cut)
        assert not stays.done()
        lodge.office.gate.set()
        assert isinstance(await stays, Reply)
    seals = [each for each in await lodge.records() if isinstance(each, Seal)]
    assert (len(lodge.office.sent), len(seals)) == (4, 4), "what was under way is sealed"


@dataclass
class _OneWard:
    """The runs of a gateway that has one."""

    taken: Taken

    @property
    def by_run(self) -> dict[str, Taken]:
        return {RUN: self.taken}
