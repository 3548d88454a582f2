"""By what right something was done, as `holdfast log` and `holdfast show` tell it of a run behind a gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from holdfast.core.canonical import canonical
from holdfast.core.effect import Encoding
from holdfast.core.payload import pack_bytes
from holdfast.core.policy import Allowed
from holdfast.gateway.closure import Closure, Roomless
from tests.cli.keyboard import done
from tests.gateway.lodge import Lodge, Rules, budget

POLICY = "0123456789abcdef" * 2


def advanced() -> str:
    """A run with an effect and a checkpoint in this directory's store; the capability by which they were made."""

    async def advance() -> str:
        lodge = Lodge(Path("holdfast.db"), rules=Rules(lambda _: Allowed("office hours"), POLICY))
        async with lodge.open(budget(calls=9)) as taken:
            await lodge.send(taken)
            closure = Closure(
                state=lambda: pack_bytes(canonical(1), Encoding.JSON), room=Roomless(), services=(), labels=("seen",),
                restores=False, capability=taken.right.terms.text(),
            )  # fmt: skip
            await taken.ward.memory.checkpoint(closure)
            return taken.right.id

    return asyncio.run(advance())


def told(name: str) -> str:
    """The words of the one entry of this name."""
    lines = map(json.loads, done("log", "r", "--json").splitlines())
    (found,) = [each["words"] for each in lines if each["name"] == name]
    return found


def test_the_log_tells_by_which_capability_and_under_which_rule_something_was_sent() -> None:
    capability = advanced()
    assert (
        told("intent")
        == f'post.send {{"to":"a"}} (irreversible, rule `office hours` of policy {POLICY[:12]}, by {capability})'
    )


def test_the_log_tells_what_was_allowed_at_a_checkpoint() -> None:
    advanced()
    assert '; seen; capability {"budget":{"blast":null,"calls":9,"money":null}' in told("checkpoint")


def test_an_effect_says_by_what_right_it_was_made() -> None:
    capability = advanced()
    (effect,) = json.loads(done("show", "r", "--json"))["effects"]
    assert (effect["capability"], effect["policy"], effect["rule"]) == (capability, POLICY, "office hours")
