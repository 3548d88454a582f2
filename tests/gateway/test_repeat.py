"""What a further call of the same identity means: an answer from the log, a question to people, or one more effect."""

from collections.abc import Callable
from typing import Any

import pytest

from holdfast import Held, NotHappened, Refused, agent, key, open_store, tool
from holdfast.core.record import Hold, Intent
from tests.stage import Killed, life, of, story


class Post:
    """A mail box: what was sent, and under which keys."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.keys: list[str] = []

    def send(self, what: str) -> str:
        self.sent.append(what)
        self.keys.append(key())
        return f"sent {len(self.sent)}"


def doing(act: Callable[[], Any]) -> Any:
    @agent
    def does(run: Any, task: Any) -> Any:
        return act()

    return does


# --- repeat ---


@pytest.mark.parametrize("kind", ["idempotent", "irreversible"])
def test_once_means_that_the_first_answer_is_the_answer_to_all(kind: str) -> None:
    post = Post()

    @tool(kind=kind, identity=["to"])
    def mail(to: str) -> str:
        return post.send(to)

    with open_store("memory://") as house:
        assert life(house, doing(lambda: [mail("a"), mail("a"), mail("b"), mail("a")])) == [
            "sent 1",
            "sent 1",
            "sent 2",
            "sent 1",
        ]
        assert post.sent == ["a", "b"]
        assert story(house).count("intent") == 2


def test_ask_means_that_people_are_asked_before_each_further_one() -> None:
    post = Post()

    @tool(kind="irreversible")
    def mail(to: str) -> str:
        return post.send(to)

    twice = doing(lambda: [mail("a"), mail("a"), mail("a")])
    with open_store("memory://") as house:
        for number in (1, 2):
            held = life(house, twice)
            assert isinstance(held, Held)
            assert "the same call happened before" in str(held)
            assert len(post.sent) == number
            house.approve(held.where, by="ann")
        assert life(house, twice) == ["sent 1", "sent 2", "sent 3"]
        assert len(set(post.keys)) == 3


def test_each_means_one_more_effect_with_a_key_of_its_own() -> None:
    post, deaths = Post(), [False, True]

    @tool(kind="irreversible", repeat="each")
    def mail(to: str) -> str:
        return post.send(to)

    def act() -> list[str]:
        answers = [mail("a"), mail("a")]
        if deaths.pop():
            raise Killed
        return [*answers, mail("a")]

    with open_store("memory://") as house:
        assert isinstance(life(house, doing(act)), Killed)
        assert life(house, doing(act)) == ["sent 1", "sent 2", "sent 3"]
        assert len(set(post.keys)) == 3


# --- again ---


@pytest.mark.parametrize("through_run", [False, True])
def test_a_deliberate_further_effect_is_one_and_only_one(*, through_run: bool) -> None:
    post, deaths = Post(), [False, True]

    @tool(kind="irreversible", identity=["to"])
    def mail(to: str) -> str:
        return post.send(to)

    @agent
    def reminds(run: Any, task: Any) -> list[str]:
        further = mail.again("reminder")
        answers = [mail("a"), run.call(further, to="a") if through_run else further("a"), further("a")]
        if deaths.pop():
            raise Killed
        return answers

    with open_store("memory://") as house:
        assert isinstance(life(house, reminds), Killed)
        assert life(house, reminds) == ["sent 1", "sent 2", "sent 2"]
        assert post.sent == ["a", "a"]
        assert post.keys[0] != post.keys[1]


def test_two_labels_are_two_effects() -> None:
    post = Post()

    @tool(kind="irreversible", identity=["to"])
    def mail(to: str) -> str:
        return post.send(to)

    with open_store("memory://") as house:
        assert life(house, doing(lambda: [mail.again("may")("a"), mail.again("june")("a")])) == ["sent 1", "sent 2"]


# --- identity and drift ---


def drifting(drift: str | None) -> tuple[Post, Any, list[str]]:
    """A mail whose body changes between the lives of its run: identity is who gets it."""
    post, bodies = Post(), ["first", "second", "second", "second"]

    @tool(kind="irreversible", identity=["to"], drift=drift)
    def mail(to: str, body: str) -> str:
        return post.send(body)

    dies = [True]

    def act() -> str:
        answer = mail("a", bodies.pop(0))
        if dies:
            dies.clear()
            raise Killed
        return answer

    return post, doing(act), bodies


def test_drift_that_is_adopted_gets_the_recorded_answer() -> None:
    post, mails, _ = drifting("adopt")
    with open_store("memory://") as house:
        life(house, mails)
        assert life(house, mails) == "sent 1"
        assert post.sent == ["first"]


def test_drift_that_is_refused_is_an_outcome_and_stays_one() -> None:
    post, mails, _ = drifting("refuse")
    with open_store("memory://") as house:
        life(house, mails)
        for _ in range(2):
            refused = life(house, mails)
            assert isinstance(refused, Refused)
            assert "refuses drift" in str(refused)
        assert post.sent == ["first"]


def test_drift_asks_people_unless_the_contract_says_otherwise() -> None:
    post, mails, _ = drifting(None)
    with open_store("memory://") as house:
        life(house, mails)
        held = life(house, mails)
        assert isinstance(held, Held)
        assert "with other arguments" in str(held)
        assert post.sent == ["first"]
        house.approve(held.where, by="ann")
        assert life(house, mails) == "sent 2"
        assert post.sent == ["first", "second"]
        assert post.keys[0] != post.keys[1]


def test_drift_that_people_refuse_does_not_happen() -> None:
    post, mails, _ = drifting(None)
    with open_store("memory://") as house:
        life(house, mails)
        held = life(house, mails)
        house.refuse(held.where, by="ann", reason="once is enough")
        refused = life(house, mails)
        assert isinstance(refused, Refused)
        assert "once is enough" in str(refused)
        assert post.sent == ["first"]


def test_other_arguments_of_the_same_identity_are_no_drift_if_they_are_equal() -> None:
    post = Post()

    @tool(kind="irreversible", identity=["to"])
    def mail(to: str, body: str = "hello") -> str:
        return post.send(body)

    with open_store("memory://") as house:
        assert life(house, doing(lambda: [mail("a"), mail(body="hello", to="a")])) == ["sent 1", "sent 1"]
        assert not of(Hold, house)


def test_arguments_that_the_identity_names_tell_calls_apart() -> None:
    post = Post()

    @tool(kind="irreversible", identity=["to", "month"])
    def mail(to: str, month: int, body: str) -> str:
        return post.send(body)

    with open_store("memory://") as house:
        life(house, doing(lambda: [mail("a", 1, "x"), mail("a", 2, "x"), mail("a", 1, "x")]))
        assert len(post.sent) == 2


# --- only what happened is adopted ---


def test_what_did_not_happen_is_tried_anew_and_then_adopted() -> None:
    post, troubles = Post(), [True, False, False]

    @tool(kind="irreversible", identity=["to"])
    def mail(to: str) -> str:
        if troubles.pop(0):
            post.keys.append(key())
            absent = NotHappened("the mailbox is full")
            raise absent
        return post.send(to)

    def patiently() -> list[str]:
        try:
            mail("a")
        except NotHappened:
            return [mail("a"), mail("a")]
        return ["it was answered, and should not have been"]

    deaths = [False, True]

    def act() -> list[str]:
        answers = patiently()
        if deaths.pop():
            raise Killed
        return answers

    with open_store("memory://") as house:
        assert isinstance(life(house, doing(act)), Killed)
        assert life(house, doing(act)) == ["sent 1", "sent 1"]
        assert post.sent == ["a"]
        assert [intent.n for intent in of(Intent, house)] == [0, 1]
        assert len(set(post.keys)) == 2


def test_the_same_call_in_another_run_is_another_effect_with_another_key() -> None:
    post = Post()

    @tool(kind="irreversible", identity=["to"])
    def mail(to: str) -> str:
        return post.send(to)

    with open_store("memory://") as house:
        for run in ("one", "two"):
            life(house, doing(lambda: mail("a")), id=run)
        assert post.sent == ["a", "a"]
        assert len(set(post.keys)) == 2
