"""Runs whose program is another process: what it asks for is counted, joined, judged, replayed and paid for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from holdfast.core.capability import Budget, Terms
from holdfast.core.codec import decode
from holdfast.core.contract import Level, Repeat
from holdfast.core.effect import Encoding, Kind
from holdfast.core.policy import Allowed, Denied, Facts, Held, Verdict
from holdfast.core.record import Approval, Decision, Finished, Hold, Intent, Issued, Refusal, Revoked, Seal, Started
from holdfast.core.tree import ForkKind
from holdfast.errors import BadCall, InDoubt, Misuse, Refused
from holdfast.errors import Held as WaitsForPeople
from holdfast.gateway.desk import Desk
from holdfast.gateway.fork import Cutting, fork
from holdfast.gateway.gate import Gate
from holdfast.gateway.order import Mark
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Reply
from holdfast.gateway.wards import Wanted, Wards
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import ALL, Lodge, Office, budget, limited
from tests.stage import Killed


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db")


async def eventually(holds: object) -> None:
    """Wait until something holds; at most a minute."""
    async with asyncio.timeout(60):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- counting, joining, replaying ---


async def test_a_call_is_answered_from_the_log_when_the_program_is_started_again(lodge: Lodge) -> None:
    async with lodge.open(crash=True) as taken:
        first = [await lodge.send(taken), await lodge.look(taken), await lodge.send(taken, "b")]
    async with lodge.open() as taken:
        assert [await lodge.send(taken), await lodge.look(taken), await lodge.send(taken, "b")] == first
        assert await lodge.look(taken) == {"seen": 2}
    assert [to for to, _ in lodge.office.sent] == ["a", "b"]


async def test_a_delivered_call_that_comes_again_is_another_one(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        assert [await lodge.send(taken), await lodge.send(taken)] == [{"number": 1}, {"number": 2}]


async def test_a_call_whose_answer_was_not_delivered_joins(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        prepared = await lodge.office.prepare("send", {"to": "a"})
        one = await taken.ward.call(taken.right, prepared)
        other = await taken.ward.call(taken.right, prepared)
        assert one.data == other.data
    assert len(lodge.office.sent) == 1


async def test_the_same_call_while_it_is_under_way_joins(lodge: Lodge) -> None:
    lodge.office.gate = asyncio.Event()
    async with lodge.open() as taken:
        prepared = await lodge.office.prepare("send", {"to": "a"})
        calls = [asyncio.ensure_future(taken.ward.call(taken.right, prepared)) for _ in range(5)]
        await eventually(lambda: lodge.office.receipts)
        lodge.office.gate.set()
        assert {reply.data for reply in await asyncio.gather(*calls)} == {b'{"number":1}'}
    assert len(lodge.office.sent) == 1


async def test_a_client_that_gives_up_does_not_end_its_effect_and_gets_its_answer_when_it_comes_again(
    lodge: Lodge,
) -> None:
    lodge.office.gate = asyncio.Event()
    async with lodge.open() as taken:
        prepared = await lodge.office.prepare("send", {"to": "a"})
        call = asyncio.ensure_future(taken.ward.call(taken.right, prepared))
        await eventually(lambda: lodge.office.receipts)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        lodge.office.gate.set()
        assert (await taken.ward.call(taken.right, prepared)).data == b'{"number":1}'
    assert len(lodge.office.sent) == 1


async def test_a_marked_resend_of_a_delivered_call_is_given_its_answer(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        assert await lodge.send(taken) == await lodge.send(taken, resend=True) == {"number": 1}
        assert await lodge.send(taken) == {"number": 2}


async def test_equal_calls_that_a_client_has_counted_stay_two(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        answers = await asyncio.gather(lodge.send(taken, mark=Mark("p", 0)), lodge.send(taken, mark=Mark("p", 1)))
        assert {answer["number"] for answer in answers} == {1, 2}  # type: ignore[index]


async def test_marked_calls_are_counted_as_they_were_made_whichever_comes_first(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        later = asyncio.ensure_future(lodge.send(taken, mark=Mark("p", 1)))
        await asyncio.sleep(0)
        assert await lodge.send(taken, mark=Mark("p", 0)) == {"number": 1}
        assert await later == {"number": 2}


async def test_the_same_mark_again_is_the_same_call_and_that_of_another_program_is_not(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        numbers = [await lodge.send(taken, mark=mark) for mark in (Mark("p", 0), Mark("p", 0), Mark("q", 0))]
    assert numbers == [{"number": 1}, {"number": 1}, {"number": 2}]


async def test_what_the_system_said_no_with_comes_again_byte_by_byte(lodge: Lodge) -> None:
    lodge.office.declines = True
    said: list[bytes] = []
    for crash in (True, False):
        async with lodge.open(crash=crash) as taken:
            with pytest.raises(Declined) as caught:
                await lodge.send(taken)
            said.append(caught.value.reply.data)
        lodge.office.declines = False
    assert said == [b'{"closed":true}'] * 2
    assert lodge.office.sent == []


async def test_an_irreversible_call_in_doubt_is_not_sent_again(lodge: Lodge) -> None:
    def dies() -> None:
        raise OSError("the connection broke")

    lodge.office.before = dies
    async with lodge.open() as taken:
        with pytest.raises(InDoubt):
            await lodge.send(taken)
    lodge.office.before = lambda: None
    async with lodge.open() as taken:
        with pytest.raises(InDoubt):
            await lodge.send(taken)
    assert len(lodge.office.receipts) == 1


async def test_an_idempotent_call_in_doubt_is_sent_again_with_the_same_key(lodge: Lodge) -> None:
    lodge.office.kind = Kind.IDEMPOTENT
    tries = iter([OSError("the connection broke"), None])

    def breaks() -> None:
        if (error := next(tries, None)) is not None:
            raise error

    lodge.office.before = breaks
    async with lodge.open() as taken:
        assert await lodge.send(taken) == {"number": 1}
    assert len({receipt.key for receipt in lodge.office.receipts}) == 1
    assert len(lodge.office.receipts) == 2


# --- what stands in the log ---


async def test_the_log_begins_with_the_claim_the_start_and_the_right(lodge: Lodge) -> None:
    async with lodge.open(ends=True) as taken:
        await lodge.send(taken)
        capability = taken.right.id
    kinds = [type(record).__name__ for record in await lodge.records()]
    assert kinds == ["Claim", "Started", "Issued", "Intent", "Seal", "Finished"]
    intent = next(record for record in await lodge.records() if isinstance(record, Intent))
    assert (intent.capability, intent.policy, intent.rule) == (capability, "0" * 32, "all")


async def test_a_handle_stands_nowhere_in_the_store(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        await lodge.send(taken)
        handle = taken.handle.encode()
    for file in lodge.path.parent.iterdir():
        assert handle not in file.read_bytes()
        assert handle[4:47] not in file.read_bytes()


async def test_a_run_that_has_ended_is_not_taken_up_again(lodge: Lodge) -> None:
    async with lodge.open(ends=True):
        pass
    with pytest.raises(Misuse, match="has ended"):
        async with lodge.open():
            pass


async def test_a_program_that_failed_can_be_started_again(lodge: Lodge) -> None:
    from holdfast.gateway.wards import Wanted, Wards
    from holdfast.store.sqlite import SqliteStore

    store = SqliteStore(lodge.path)
    wards = Wards(store, lambda: lodge.rules)
    await wards.open(Wanted(run="r", agent="clerk", terms=ALL, by="t"))
    await wards.close("r", error="it ended with 1")
    await wards.open(Wanted(run="r", agent="clerk", terms=ALL, by="t"))
    await wards.close("r", answer=None)
    await store.close()
    ends = [record for record in await lodge.records() if isinstance(record, Finished)]
    assert [each.error for each in ends] == ["it ended with 1", None]
    assert sum(isinstance(record, Started) for record in await lodge.records()) == 1


# --- policy ---


async def test_what_the_policy_denies_is_not_sent_and_stands_in_the_log(lodge: Lodge) -> None:
    lodge.rules.rule = lambda facts: Denied("no-mail", "nobody writes letters")
    async with lodge.open() as taken:
        with pytest.raises(Refused, match="no-mail: nobody writes letters"):
            await lodge.send(taken)
    refusal = next(record for record in await lodge.records() if isinstance(record, Refusal))
    assert (refusal.tool, refusal.by, refusal.reason) == ("post.send", "policy", "no-mail: nobody writes letters")
    assert lodge.office.receipts == []


async def test_the_policy_knows_the_call_and_what_was_spent(lodge: Lodge) -> None:
    lodge.office.blast = 3
    async with lodge.open() as taken:
        await lodge.send(taken)
        await lodge.look(taken)
        await lodge.send(taken, "b")
    facts = lodge.rules.judged[-1]
    assert (facts.agent, facts.run, facts.system, facts.tool) == ("clerk", "r", "post", "post.send")
    assert (facts.kind, facts.args, facts.blast) == (Kind.IRREVERSIBLE, {"to": "b"}, 3)
    assert (facts.spent_calls, facts.spent_blast) == (2, 3)


async def test_whose_words_were_read_marks_what_is_asked_afterwards(lodge: Lodge) -> None:
    lodge.office.labels = frozenset({"untrusted:post"})
    async with lodge.open() as taken:
        await lodge.look(taken)
        await lodge.send(taken)
    assert [facts.labels for facts in lodge.rules.judged] == [frozenset(), frozenset({"untrusted:post"})]


async def test_the_marks_are_the_same_when_the_program_is_started_again(lodge: Lodge) -> None:
    lodge.office.labels = frozenset({"untrusted:post"})
    async with lodge.open(crash=True) as taken:
        await lodge.look(taken)
    async with lodge.open() as taken:
        await lodge.look(taken)
        await lodge.send(taken)
    assert lodge.rules.judged[-1].labels == {"untrusted:post"}


def _held(level: Level) -> object:
    def rule(facts: Facts) -> Verdict:
        return Allowed("reads") if facts.kind is Kind.READ else Held("ask", "letters cost money", level)

    return rule


@pytest.mark.parametrize(("level", "people"), [(Level.ONE, ["ann"]), (Level.TWO, ["ann", "bob"])])
async def test_what_the_policy_holds_is_sent_when_enough_people_agreed(
    lodge: Lodge, level: Level, people: list[str]
) -> None:
    lodge.rules.rule = _held(level)  # type: ignore[assignment]
    async with lodge.open() as taken:
        with pytest.raises(WaitsForPeople):
            await lodge.send(taken)
    hold = next(record for record in await lodge.records() if isinstance(record, Hold))
    assert (hold.level, "letters cost money" in hold.why) == (level.value, True)
    for count, person in enumerate(people):
        async with lodge.open() as taken:
            with pytest.raises(WaitsForPeople) as waiting:
                await lodge.send(taken)
            await Desk(taken.ward.mediator.line.store).approve(waiting.value.where, by=person)
        assert lodge.office.sent == [], f"{count + 1} of {len(people)}"
    async with lodge.open() as taken:
        assert await lodge.send(taken) == {"number": 1}
    assert sum(isinstance(record, Approval) for record in await lodge.records()) == len(people)


async def test_a_door_that_still_waits_goes_on_when_it_is_approved(lodge: Lodge) -> None:
    lodge.rules.rule = _held(Level.ONE)  # type: ignore[assignment]
    lodge.patience_s = 60
    async with lodge.open() as taken:
        sending = asyncio.ensure_future(lodge.send(taken))
        await eventually(lambda: taken.ward.mediator.parked is not None)
        node = taken.ward.mediator.parked.where  # type: ignore[union-attr]
        await Desk(taken.ward.mediator.line.store).approve(node, by="ann")
        taken.ward.changed.set()
        assert await sending == {"number": 1}


async def test_an_approval_is_worth_nothing_under_other_rules(lodge: Lodge) -> None:
    lodge.rules.rule = _held(Level.ONE)  # type: ignore[assignment]
    async with lodge.open() as taken:
        with pytest.raises(WaitsForPeople) as waiting:
            await lodge.send(taken)
        await Desk(taken.ward.mediator.line.store).approve(waiting.value.where, by="ann")
    lodge.rules.digest = "1" * 32
    async with lodge.open() as taken:
        with pytest.raises(WaitsForPeople):
            await lodge.send(taken)
    assert lodge.office.sent == []


async def test_an_approved_call_that_the_policy_denies_by_then_is_not_sent(lodge: Lodge) -> None:
    lodge.rules.rule = _held(Level.ONE)  # type: ignore[assignment]
    async with lodge.open() as taken:
        with pytest.raises(WaitsForPeople) as waiting:
            await lodge.send(taken)
        await Desk(taken.ward.mediator.line.store).approve(waiting.value.where, by="ann")
    lodge.rules.rule = lambda facts: Denied("closed", "it is Sunday")
    async with lodge.open() as taken:
        with pytest.raises(Refused, match="closed"):
            await lodge.send(taken)
    assert lodge.office.sent == []


# --- capabilities ---


async def test_what_the_capability_does_not_name_is_refused(lodge: Lodge) -> None:
    async with lodge.open(Terms(tools=("post.look",))) as taken:
        await lodge.look(taken)
        with pytest.raises(Refused, match=r"does not name `post\.send`"):
            await lodge.send(taken)
    assert lodge.office.sent == []


async def test_an_argument_outside_its_limit_is_refused(lodge: Lodge) -> None:
    async with lodge.open(limited(prefix="a")) as taken:
        await lodge.send(taken, "ann")
        with pytest.raises(Refused, match="does not begin with"):
            await lodge.send(taken, "bob")


async def test_a_budget_of_calls_is_kept_by_calls_in_parallel(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=3)) as taken:
        answers = await asyncio.gather(
            *(lodge.send(taken, f"to {number}") for number in range(10)), return_exceptions=True
        )
    assert sum(isinstance(answer, Refused) for answer in answers) == 7
    assert len(lodge.office.sent) == 3


async def test_a_budget_is_of_the_run_and_not_of_one_life(lodge: Lodge) -> None:
    for life in range(3):
        async with lodge.open(budget(calls=4), crash=True) as taken:
            for number in range(life * 2, life * 2 + 2):
                try:
                    await lodge.send(taken, f"to {number}")
                except Refused:
                    continue
    assert len(lodge.office.sent) == 4


async def test_what_is_answered_from_the_log_costs_nothing_again(lodge: Lodge) -> None:
    for _ in range(4):
        async with lodge.open(budget(calls=1), crash=True) as taken:
            await lodge.send(taken)
    assert len(lodge.office.sent) == 1


async def test_a_budget_of_blast_radius_is_counted_in_its_units(lodge: Lodge) -> None:
    lodge.office.blast = 4
    async with lodge.open(budget(blast=10)) as taken:
        await lodge.send(taken, "a")
        await lodge.send(taken, "b")
        with pytest.raises(Refused, match="blast radius"):
            await lodge.send(taken, "c")
    assert len(lodge.office.sent) == 2


async def test_what_was_held_and_not_sent_is_not_spent(lodge: Lodge) -> None:
    lodge.rules.rule = _held(Level.ONE)  # type: ignore[assignment]
    async with lodge.open(budget(calls=1)) as taken:
        with pytest.raises(WaitsForPeople):
            await lodge.send(taken)
        assert taken.ward.rights.spent.calls == 0


async def test_a_revoked_capability_refuses_the_next_call(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        await lodge.send(taken)
        await taken.ward.rights.revoke(taken.right.id, by="ann", reason="enough")
        with pytest.raises(Refused, match="revoked by ann: enough"):
            await lodge.send(taken, "b")
    assert len(lodge.office.sent) == 1
    assert any(isinstance(record, Revoked) for record in await lodge.records())


async def test_a_revocation_reaches_a_call_that_waits_for_people(lodge: Lodge) -> None:
    lodge.rules.rule = _held(Level.ONE)  # type: ignore[assignment]
    lodge.patience_s = 60
    async with lodge.open() as taken:
        sending = asyncio.ensure_future(lodge.send(taken))
        await eventually(lambda: taken.ward.mediator.parked is not None)
        node = taken.ward.mediator.parked.where  # type: ignore[union-attr]
        await taken.ward.rights.revoke(taken.right.id, by="ann", reason="enough")
        await Desk(taken.ward.mediator.line.store).approve(node, by="bob")
        taken.ward.changed.set()
        with pytest.raises(Refused, match="revoked"):
            await sending
    assert lodge.office.sent == []


async def test_a_revocation_between_intent_and_sending_sends_nothing(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        rights, line = taken.ward.rights, taken.ward.mediator.line
        write = line.attempt

        async def revoked_meanwhile(*records: object, **more: object) -> bool:
            written = await write(*records, **more)  # type: ignore[arg-type]
            if any(isinstance(record, Intent) for record in records):
                taken.right.ended = "the capability was revoked by ann: now"
            return written

        line.attempt = revoked_meanwhile  # type: ignore[method-assign]
        with pytest.raises(Exception, match="it was not sent: the capability was revoked"):
            await lodge.send(taken)
        assert rights.lapsed(taken.right)
    assert lodge.office.receipts == []
    seal = next(record for record in await lodge.records() if isinstance(record, Seal))
    assert "not sent" in seal.outcome.reason  # type: ignore[union-attr]


async def test_what_is_narrowed_ends_with_what_it_was_narrowed_from(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        rights = taken.ward.rights
        child, _ = await rights.narrow(taken.right, Terms(tools=("post.*",)), by="agent")
        grandchild, handle = await rights.narrow(child, Terms(tools=("post.send",)), by="agent")
        await rights.revoke(child.id, by="ann", reason="enough")
        with pytest.raises(Refused, match="revoked"):
            rights.shown(handle, "native")
        assert rights.lapsed(grandchild)
        assert rights.lapsed(taken.right) is None


async def test_what_a_narrowed_one_spends_is_spent_for_its_parent_too(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=3)) as taken:
        rights = taken.ward.rights
        child, _ = await rights.narrow(taken.right, Terms(tools=("post.send",), budget=Budget(calls=2)), by="agent")
        for to in "ab":
            prepared = await lodge.office.prepare("send", {"to": to})
            await taken.ward.call(child, prepared)
        with pytest.raises(Refused, match="budget"):
            await taken.ward.call(child, await lodge.office.prepare("send", {"to": "c"}))
        await lodge.send(taken, "d")
        with pytest.raises(Refused, match="budget"):
            await lodge.send(taken, "e")


async def test_a_handle_of_an_earlier_life_is_worth_nothing(lodge: Lodge) -> None:
    async with lodge.open(crash=True) as taken:
        old = taken.handle
    async with lodge.open() as taken:
        with pytest.raises(Refused, match="earlier life"):
            taken.ward.rights.shown(old, "native")
        assert taken.ward.rights.shown(taken.handle, "native") is taken.right


async def test_a_capability_ends_at_its_time(lodge: Lodge) -> None:
    async with lodge.open(Terms(tools=("*",), expires_ms=1)) as taken:
        with pytest.raises(Refused, match="expired"):
            await lodge.send(taken)
        with pytest.raises(Refused, match="expired"):
            taken.ward.rights.shown(taken.handle, "native")


async def test_a_capability_is_shown_at_its_doors_only(lodge: Lodge) -> None:
    async with lodge.open(Terms(tools=("*",), doors=("model",))) as taken:
        assert taken.ward.rights.shown(taken.handle, "model") is taken.right
        with pytest.raises(Refused, match="door `native`"):
            taken.ward.rights.shown(taken.handle, "native")


async def test_a_capability_may_ask_for_more_people_than_the_policy(lodge: Lodge) -> None:
    async with lodge.open(Terms(tools=("*",), level=Level.TWO)) as taken:
        await lodge.look(taken)
        with pytest.raises(WaitsForPeople):
            await lodge.send(taken)
    hold = next(record for record in await lodge.records() if isinstance(record, Hold))
    assert hold.level == "two"


async def test_rights_read_back_from_the_log_as_they_were(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=9), crash=True) as taken:
        child, _ = await taken.ward.rights.narrow(taken.right, Terms(tools=("post.send",)), by="agent")
        await taken.ward.call(child, await lodge.office.prepare("send", {"to": "x"}))
        await taken.ward.rights.revoke(child.id, by="ann", reason="enough")
        known = {right.id: (right.terms, right.used, right.ended) for right in taken.ward.rights.by_id.values()}
    async with lodge.open() as taken:
        found = {right.id: (right.terms, right.used, right.ended) for right in taken.ward.rights.by_id.values()}
        assert {each: found[each] for each in known} == known
        assert taken.ward.rights.spent.calls == 1


# --- decisions ---


async def _decided(lodge: Lodge, office: Office, answers: list[str]) -> bytes:
    async with lodge.open(crash=True) as taken:
        prepared = await office.prepare("look", {"prompt": "hello"})

        async def ask(receipt: Receipt) -> Reply:
            return Reply(answers.pop(0).encode(), Encoding.BYTES, None, cost=7)

        told = await taken.ward.decide(taken.right, prepared, ask)
        return told.reply.data


async def test_a_model_is_asked_once(lodge: Lodge) -> None:
    answers = ["one", "two"]
    assert await _decided(lodge, lodge.office, answers) == await _decided(lodge, lodge.office, answers) == b"one"
    decision = next(record for record in await lodge.records() if isinstance(record, Decision))
    assert (decision.cost, decision.capability is not None) == (7, True)


async def test_what_a_model_costs_is_kept_in_the_budget(lodge: Lodge) -> None:
    async def ask(receipt: Receipt) -> Reply:
        return Reply(b"x", Encoding.BYTES, None, cost=60)

    async with lodge.open(budget(money=100)) as taken:
        for number in range(2):
            await taken.ward.decide(taken.right, await lodge.office.prepare("look", {"n": number}), ask)
        assert taken.ward.rights.spent.money == 120
        with pytest.raises(Refused, match="budget of money"):
            await taken.ward.decide(taken.right, await lodge.office.prepare("look", {"n": 3}), ask)
    refused = [record for record in await lodge.records() if isinstance(record, Refusal)]
    assert [each.by for each in refused] == ["budget"]


# --- an effect without an intent is impossible ---


async def test_each_receipt_of_an_effect_names_an_intent_that_is_in_the_store(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        store = taken.ward.mediator.line.store
        seen: list[int] = []
        lodge.office.before = lambda: seen.append(lodge.office.receipts[-1].seq)
        await lodge.send(taken)
        receipt = lodge.office.receipts[-1]
        (entry,) = await store.read(receipt.branch, after=receipt.seq - 1, upto=receipt.seq)
    assert seen == [receipt.seq]
    assert json.loads(entry.body)["t"] == "intent"
    assert json.loads(entry.body)["key"] == receipt.key


@pytest.mark.parametrize("repeat", [Repeat.ONCE])
async def test_once_means_the_sealed_answer(lodge: Lodge, repeat: Repeat) -> None:
    lodge.office.repeat = repeat
    async with lodge.open() as taken:
        assert await lodge.send(taken) == await lodge.send(taken) == {"number": 1}


async def test_the_log_says_who_was_given_what(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=2)):
        pass
    issued = next(record for record in await lodge.records() if isinstance(record, Issued))
    assert (issued.by, issued.parent, json.loads(issued.terms)["budget"]["calls"]) == ("tester", None, 2)


async def test_what_is_turned_away_twice_in_one_moment_stands_in_the_log_once(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        await asyncio.gather(*(taken.ward.refuse("holdfast.name", "evil.example", "names", "no") for _ in range(5)))
    refused = [record for record in await lodge.records() if isinstance(record, Refusal)]
    assert [each.tool for each in refused] == ["holdfast.name"]


async def test_a_flood_of_refusals_does_not_fill_the_log(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        for number in range(1500):
            await taken.ward.refuse("holdfast.name", f"{number}.example", "names", "no")
    assert sum(isinstance(record, Refusal) for record in await lodge.records()) == 1000


async def test_what_a_line_did_that_was_left_is_taken_back_at_the_end(lodge: Lodge) -> None:
    lodge.office.kind = Kind.REVERSIBLE
    async with lodge.open(crash=True) as taken:
        await lodge.look(taken)
        await lodge.send(taken, "a")
        await lodge.send(taken, "b")
    store = SqliteStore(lodge.path)
    reading = next(entry.seq for entry in await store.read("r@main") if isinstance(decode(entry.body), Seal))
    await fork(store, Cutting("r@main", reading, ForkKind.RECOVERY, "ann", "another way", None, []))
    await store.close()
    async with lodge.open(ends=True) as taken:
        await lodge.look(taken)
        await lodge.send(taken, "b")
    assert [to for to, _ in lodge.office.sent] == ["a", "b"]
    assert lodge.office.undone == ["a"]


async def test_a_mark_is_of_one_call(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        await taken.ward.call(taken.right, await lodge.office.prepare("send", {"to": "a"}), mark=Mark("m", 0))
        with pytest.raises(BadCall, match="another one"):
            await taken.ward.call(taken.right, await lodge.office.prepare("send", {"to": "b"}), mark=Mark("m", 0))
    assert [to for to, _ in lodge.office.sent] == ["a"]


async def test_what_a_decision_of_the_agent_costs_is_the_same_after_a_restart(lodge: Lodge) -> None:
    async def ask(receipt: Receipt) -> Reply:
        return Reply(b"x", Encoding.BYTES, None)

    async with lodge.open(crash=True) as taken:
        await taken.ward.decide(taken.right, await lodge.office.prepare("look", {"n": 1}), ask)
    async with lodge.open() as taken:
        assert taken.ward.rights.spent.calls == 0


async def test_other_arguments_than_those_that_were_judged_are_not_sent_again(lodge: Lodge) -> None:
    def breaks() -> None:
        raise Killed

    lodge.office.kind = Kind.IDEMPOTENT
    lodge.office.before = breaks
    async with lodge.open(crash=True) as taken:
        prepared = await lodge.office.prepare("send", {"to": "a", "amount": 90})
        with pytest.raises(Killed):
            await taken.ward.call(taken.right, prepared)
    lodge.office.before = lambda: None
    async with lodge.open() as taken:
        with pytest.raises(InDoubt, match="only these were judged"):
            await taken.ward.call(taken.right, await lodge.office.prepare("send", {"to": "a", "amount": 5}))
    assert lodge.office.sent == []


async def test_the_doors_of_a_capability_hold_where_no_handle_is_needed(lodge: Lodge) -> None:
    store = SqliteStore(lodge.path)
    wards = Wards(store, lambda: lodge.rules)
    taken = await wards.open(Wanted(run="r", agent="clerk", terms=Terms(tools=("*",), doors=("model",)), by="t"))
    gate = Gate(wards, {})
    assert gate.visit("r", None, "model").right is taken.right
    with pytest.raises(Refused, match="door `native`"):
        gate.visit("r", None, "native")
    with pytest.raises(Refused, match="of no capability of this run"):
        gate.visit("r", "hfc_" + "a" * 43 + "_é", "model")
    await wards.close("r", ended=False)
    await store.close()
