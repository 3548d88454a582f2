"""Calls that wait for people: an approval is for the exact call that they saw, expires, and is used once."""

import asyncio
import threading
from typing import Any

import pytest

from holdfast import Held, House, NotHappened, Refused, agent, open_store, tool
from holdfast.core.record import Approval, Hold, Intent, Refusal
from holdfast.errors import Misuse, Unknown
from holdfast.gateway import mediate
from tests.stage import life, of, story

PAY = {"kind": "irreversible", "name": "bank.pay", "approval": "one", "repeat": "each"}


class Bank:
    """Accounts that money was paid to."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, int]] = []

    def pays(self, to: str = "ann", cents: int = 100, *, times: int = 1, **contract: Any) -> Any:
        """An agent that pays, some times over, through a tool that asks first."""

        @tool(**PAY | contract)
        def pay(to: str, cents: int) -> int:
            self.paid.append((to, cents))
            return len(self.paid)

        @agent
        def payer(run: Any, task: Any) -> list[int]:
            return [pay(to, cents) for _ in range(times)]

        return payer


def held_at(ending: Any) -> str:
    """Where the run is held."""
    assert isinstance(ending, Held), ending
    return ending.where


def test_nothing_happens_before_somebody_agrees() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        for _ in range(3):
            held = life(house, bank.pays())
            assert held_at(held) == "r@3"
            assert "holdfast approve r@3 | holdfast refuse r@3" in held.fix
        assert bank.paid == []
        assert story(house) == "started hold"
        house.approve("r@3", by="ann")
        assert bank.paid == []
        assert life(house, bank.pays()) == [1]
        assert bank.paid == [("ann", 100)]
        assert story(house) == "started hold approval intent seal finished"


def test_an_intent_names_the_approval_that_allows_it() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        approval = house.approve(held_at(life(house, bank.pays())), by="ann")
        life(house, bank.pays())
        (intent,) = of(Intent, house)
        assert approval == f"r@{intent.approval}"
        assert intent.level == "one"
        assert of(Approval, house)[0].by == "ann"


def test_an_approval_is_not_for_other_arguments() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        # what makes the payment the same is who gets it: the sum has changed since people were asked
        first = held_at(life(house, bank.pays(cents=100, identity=["to"])))
        house.approve(first, by="ann")
        second = life(house, bank.pays(cents=999, identity=["to"]))
        assert held_at(second) != first
        assert "has changed since people were asked" in str(second)
        assert bank.paid == []
        house.approve(second.where, by="ann")
        assert life(house, bank.pays(cents=999, identity=["to"])) == [1]
        assert bank.paid == [("ann", 999)]


@pytest.mark.parametrize("change", [{"blast": 3}, {"timeout_s": 5}, {"probe": lambda: None}, {"repeat": "ask"}])
def test_an_approval_is_for_the_contract_that_people_were_told(change: dict[str, Any]) -> None:
    bank = Bank()
    with open_store("memory://") as house:
        first = held_at(life(house, bank.pays()))
        house.approve(first, by="ann")
        ending = life(house, bank.pays(**change))
        if "blast" in change:  # no promise of the tool, but a statement about one call
            assert ending == [1]
        else:
            assert held_at(ending) != first
            assert bank.paid == []


def test_an_approval_is_used_once() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        house.approve(held_at(life(house, bank.pays(times=2))), by="ann")
        second = life(house, bank.pays(times=2))
        assert isinstance(second, Held)
        assert bank.paid == [("ann", 100)]
        house.approve(second.where, by="ann")
        assert life(house, bank.pays(times=2)) == [1, 2]


def test_what_was_approved_and_did_not_happen_needs_a_new_approval() -> None:
    done: list[str] = []

    @tool(**PAY)
    def pay() -> str:
        if not done:
            done.append("declined")
            absent = NotHappened("declined")
            raise absent
        done.append("paid")
        return "paid"

    @agent
    def payer(run: Any, task: Any) -> str:
        try:
            return pay()
        except NotHappened:
            return pay()

    with open_store("memory://") as house:
        house.approve(held_at(life(house, payer)), by="ann")
        again = held_at(life(house, payer))
        assert done == ["declined"]
        house.approve(again, by="ann")
        assert life(house, payer) == "paid"


def test_an_approval_that_has_expired_is_none() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        first = held_at(life(house, bank.pays()))
        asyncio.run(house.desk.approve(first, by="ann", expires_ms=-1))
        again = life(house, bank.pays())
        assert held_at(again) != first
        assert "the approval has expired" in str(again)
        assert bank.paid == []


def test_what_two_people_must_agree_to_is_not_done_before_both_have() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        place = held_at(life(house, bank.pays(approval="two")))
        house.approve(place, by="ann")
        assert held_at(life(house, bank.pays(approval="two"))) == place
        assert bank.paid == []
        second = house.approve(place, by="bob")
        assert life(house, bank.pays(approval="two")) == [1]
        assert story(house) == "started hold approval approval intent seal finished"
        (intent,) = of(Intent, house)
        assert second == f"r@{intent.approval}"
        assert (intent.level, of(Hold, house)[0].level) == ("two", "two")


@pytest.mark.parametrize("again", ["ann", "x" * 300])
def test_two_people_are_two(again: str) -> None:
    bank = Bank()
    with open_store("memory://") as house:
        place = held_at(life(house, bank.pays(approval="two")))
        house.approve(place, by=again)
        with pytest.raises(Misuse, match="has agreed already; a second person must"):
            house.approve(place, by=again)
        assert held_at(life(house, bank.pays(approval="two"))) == place
        assert len(of(Approval, house)) == 1
        assert bank.paid == []


def test_who_agrees_to_what_one_must_agree_to_leaves_nothing_for_a_second() -> None:
    with open_store("memory://") as house:
        place = held_at(life(house, Bank().pays()))
        house.approve(place, by="ann")
        with pytest.raises(Misuse, match="was answered already"):
            house.approve(place, by="bob")


def test_one_of_two_approvals_that_has_expired_is_none() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        first = held_at(life(house, bank.pays(approval="two")))
        asyncio.run(house.desk.approve(first, by="ann", expires_ms=-1))
        house.approve(first, by="bob")
        again = held_at(life(house, bank.pays(approval="two")))
        assert again != first
        house.approve(again, by="bob")
        assert held_at(life(house, bank.pays(approval="two"))) == again
        assert bank.paid == []
        house.approve(again, by="ann")
        assert life(house, bank.pays(approval="two")) == [1]


def test_the_second_of_two_people_can_still_refuse() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        place = held_at(life(house, bank.pays(approval="two")))
        house.approve(place, by="ann")
        house.refuse(place, by="bob", reason="too much")
        with pytest.raises(Misuse, match="was answered already"):
            house.approve(place, by="cid")
        assert isinstance(life(house, bank.pays(approval="two")), Refused)
        assert bank.paid == []


def test_what_people_are_only_told_of_is_done_and_the_intent_says_so() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        assert life(house, bank.pays(approval="notify")) == [1]
        assert [intent.level for intent in of(Intent, house)] == ["notify"]
        assert of(Hold, house) == []


def test_a_hold_that_has_expired_cannot_be_approved_and_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank()
    with open_store("memory://") as house:
        monkeypatch.setattr(mediate, "HOLD_MS", 300)
        first = held_at(life(house, bank.pays()))
        monkeypatch.undo()
        threading.Event().wait(0.35)
        with pytest.raises(Misuse, match="has expired"):
            house.approve(first, by="ann")
        again = held_at(life(house, bank.pays()))
        assert again != first
        assert bank.paid == []
        house.approve(again, by="ann")
        assert life(house, bank.pays()) == [1]


def test_a_refusal_is_an_outcome_that_the_agent_sees_and_stays_one() -> None:
    bank, said = Bank(), []

    @tool(**PAY)
    def pay() -> int:
        bank.paid.append(("ann", 1))
        return 1

    @agent
    def payer(run: Any, task: Any) -> str:
        try:
            pay()
        except NotHappened as refused:
            said.append(refused)
        if len(said) < 2:
            raise ValueError
        return "went on"

    with open_store("memory://") as house:
        house.refuse(held_at(life(house, payer)), by="ann", reason="too expensive")
        assert isinstance(life(house, payer), ValueError)
        assert life(house, payer) == "went on"
        assert [type(refused) for refused in said] == [Refused, Refused]
        assert "was refused by ann: too expensive" in str(said[1])
        assert bank.paid == []
        assert len(of(Refusal, house)) == 1


def test_an_approval_does_not_outlive_a_refusal() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        place = held_at(life(house, bank.pays()))
        house.refuse(place, by="ann")
        with pytest.raises(Misuse, match="was answered already"):
            house.approve(place, by="bob")
        assert isinstance(life(house, bank.pays()), Refused)
        assert bank.paid == []


def test_a_call_is_approved_at_the_place_where_it_is_held() -> None:
    bank = Bank()
    with open_store("memory://") as house:
        life(house, bank.pays())
        for place in ("r@1", "r@2", "r@99"):
            with pytest.raises(Unknown, match="nothing is held"):
                house.approve(place, by="ann")
        with pytest.raises(Unknown, match="there is no run `other`"):
            house.approve("other@3", by="ann")
        for place in ("r", "r@", "r@x", "@3", "r@-3"):
            with pytest.raises(Misuse, match="is not a place"):
                house.approve(place, by="ann")
        assert not of(Approval, house)


def raced(house: House, place: str) -> list[str]:
    """What came of an approval and a refusal that two people gave at the same moment."""
    came: list[str] = []
    together = threading.Barrier(2)

    def answer(say: Any, name: str) -> None:
        together.wait()
        try:
            say(place, by=name)
            came.append(name)
        except Misuse:
            came.append("late")

    people = [
        threading.Thread(target=answer, args=(house.approve, "approver")),
        threading.Thread(target=answer, args=(house.refuse, "refuser")),
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    return sorted(came)


def test_of_two_people_who_answer_at_once_one_is_heard(tmp_path: Any) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as house:
        for number in range(10):
            bank, run = Bank(), f"run{number}"
            came = raced(house, held_at(life(house, bank.pays(), id=run)))
            assert "late" in came
            assert len(of(Approval, house, run)) + len(of(Refusal, house, run)) == 1
            ending = life(house, bank.pays(), id=run)
            if came[0] == "approver":
                assert bank.paid == [("ann", 100)]
            else:
                assert isinstance(ending, Refused)
                assert bank.paid == []


def test_a_read_too_can_wait_for_people() -> None:
    seen: list[int] = []

    @tool(kind="read", approval="one")
    def look() -> str:
        seen.append(1)
        return "secret things"

    @agent
    def looks(run: Any, task: Any) -> str:
        return look()

    with open_store("memory://") as house:
        place = held_at(life(house, looks))
        assert not seen
        house.approve(place, by="ann")
        assert life(house, looks) == "secret things"
        assert story(house) == "started hold approval seal finished"


def test_everything_of_the_run_waits_with_a_held_call() -> None:
    bank, other = Bank(), []

    @tool(**PAY)
    async def pay() -> int:
        bank.paid.append(("ann", 1))
        return 1

    @tool(kind="idempotent")
    async def put(number: int) -> int:
        other.append(number)
        return number

    @agent
    async def mixed(run: Any, task: Any) -> list[int]:
        async def afterwards() -> int:
            await asyncio.sleep(0.05)
            return await put(2)

        return list(await asyncio.gather(put(1), pay(), afterwards()))

    with open_store("memory://") as house:
        place = held_at(life(house, mixed))
        assert other == [1]
        house.approve(place, by="ann")
        assert life(house, mixed) == [1, 1, 2]
        assert other == [1, 2]


def test_a_held_call_cannot_be_swallowed_by_an_agent_that_catches_errors() -> None:
    after: list[str] = []

    @tool(**PAY)
    def pay() -> int:
        return 1

    @agent
    def stubborn(run: Any, task: Any) -> str:
        try:
            pay()
        except Exception:  # noqa: BLE001
            after.append("swallowed")
        return "finished"

    with open_store("memory://") as house:
        assert isinstance(life(house, stubborn), Held)
        assert not after


def test_a_hold_says_what_people_are_asked_about() -> None:
    with open_store("memory://") as house:
        life(house, Bank().pays(to="bob", cents=7))
        (hold,) = of(Hold, house)
        assert (hold.tool, hold.kind, hold.level, hold.why) == (
            "bank.pay",
            "irreversible",
            "one",
            "the contract asks for approval",
        )
        line = house.store
        asked = asyncio.run(line.blob(bytes.fromhex(hold.args.digest)))
        assert asked.data == b'{"cents":7,"to":"bob"}'
