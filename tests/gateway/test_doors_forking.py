"""Forks through the admin door: the gateway makes them, by the same rules as for a store in a file, of bounded size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.codec import decode
from holdfast.core.record import Forked, Override
from holdfast.errors import BadCall, HoldfastError
from holdfast.gateway.forking import MOST_EDITS, edits_as_json
from holdfast.gateway.wards import CONTAINMENT
from tests.gateway.house_rules import ANN, RUN, House, house
from tests.gateway.premises import Premises, premises

MAIN = f"{RUN}@main"


@pytest.fixture
async def home() -> AsyncGenerator[House]:
    """A house with a run that has been taken up."""
    async with house(may=["read", "settle"]) as found, found.starting() as starting:
        await starting.ask({"open": found.wanted(input={"who": "ann"})})
        yield found


async def forked(home: House, **more: Any) -> str:
    (newest,) = await home.gateway.opening.store.read(MAIN, newest=1)
    asked = {"node": f"{RUN}@{newest.seq}", "kind": "what-if", "by": "tester", "why": "", "edits": [], **more}
    return (await home.people.ask("fork", **asked))["branch"]


async def test_a_fork_with_settings_is_made_by_the_gateway(home: House) -> None:
    branch = await forked(home, edits=edits_as_json({}, {"prompt": "be brief", "input": {"who": "bob"}}))
    records = [decode(entry.body) for entry in await home.gateway.opening.store.read(f"{RUN}@{branch}")]
    assert isinstance(records[0], Forked)
    assert (records[0].by, records[0].kind) == ("tester", "what-if")
    assert [(each.target, each.name) for each in records if isinstance(each, Override)] == [
        (0, "prompt"), (0, "input"),
    ]  # fmt: skip


async def test_an_answer_of_an_entry_that_is_none_is_not_replaced(home: House) -> None:
    (newest,) = await home.gateway.opening.store.read(MAIN, newest=1)
    with pytest.raises(BadCall, match="only the answer of a decision or a read can be replaced"):
        await forked(home, edits=edits_as_json({newest.seq: "x"}, {}))
    with pytest.raises(BadCall, match="lies behind the place of the fork"):
        await forked(home, edits=edits_as_json({newest.seq + 1: "x"}, {}))


WRONG: dict[str, dict[str, Any]] = {
    "no kind": {"kind": "sideways"},
    "no place": {"node": "r"},
    "a place that is not there": {"node": "r@9999"},
    "another run": {"node": "other@1"},
    "too many": {"edits": [{"target": 0, "name": f"n{each}", "value": 1} for each in range(MOST_EDITS + 1)]},
    "twice": {"edits": [{"target": 0, "name": "n", "value": 1}] * 2},
    "no name": {"edits": [{"target": 0, "name": "", "value": 1}]},
    "a name and a place": {"edits": [{"target": 1, "name": "n", "value": 1}]},
    "a name that is none": {"edits": [{"target": 0, "name": "a b\n", "value": 1}]},
    "a long name": {"edits": [{"target": 0, "name": "n" * 201, "value": 1}]},
    "a place that is none": {"edits": [{"target": True, "name": "", "value": 1}]},
    "a place before all": {"edits": [{"target": -1, "name": "", "value": 1}]},
    "no value": {"edits": [{"target": 0, "name": "n"}]},
    "no edit": {"edits": [7]},
    "no list": {"edits": 7},
    "too large": {"edits": [{"target": 0, "name": "n", "value": "x" * (17 << 20)}]},
}


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_asked_wrongly_is_refused_and_no_branch_is_made(home: House, kind: str) -> None:
    with pytest.raises(HoldfastError) as refused:
        await forked(home, **WRONG[kind])
    assert refused.value.what
    assert [each.name for each in await home.gateway.opening.store.branches()] == [MAIN]


async def test_what_was_proven_of_the_sandbox_stands_on_each_branch_anew() -> None:
    async with house() as home:
        for branch in ("main", "b2"):
            async with home.starting() as starting:
                await starting.ask({"open": home.wanted(containment={"proven": True})})
                log = await home.records(f"{RUN}@{branch}")
                assert sum(getattr(each, "tool", "") == CONTAINMENT for each in log) == 1
                await starting.ask({"end": {"waits": True}})
            await forked(home, kind="recovery")


def test_somebody_forks_in_no_other_name_and_only_who_may() -> None:
    async def attempt(may: list[str], by: str) -> tuple[int, str]:
        async with house(may=may) as home, home.starting() as starting:
            await starting.ask({"open": home.wanted()})
            asked = {"node": f"{RUN}@3", "kind": "what-if", "by": by, "why": "", "edits": []}
            status, told = await asyncio.to_thread(home.said_by, ANN, "fork", asked)
            return status, told.get("branch") or told["error"]["what"]

    assert asyncio.run(attempt(["read", "settle"], "ann")) == (200, "b2")
    assert asyncio.run(attempt(["read", "settle"], "bob")) == (403, "ann may not speak as bob")
    assert asyncio.run(attempt(["read", "approve"], "ann")) == (403, "ann may not settle here")


# --- from end to end ---


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def test_a_program_goes_on_from_a_fork_with_another_answer_and_another_input(here: Premises) -> None:
    here.gateway()
    program = here.program("""
    import json, os, urllib.request
    def ask(path, **body):
        request = urllib.request.Request(os.environ["HOLDFAST_DOOR"] + path, json.dumps(body).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    told = ask("/v1/decide", name="where", asked="the capital of France")
    if "ticket" in told:
        told = ask("/v1/decided", ticket=told["ticket"], answer="Rome")
    print(json.dumps([told["answer"], os.environ.get("HOLDFAST_INPUT")]))
    """)
    line = ("/usr/bin/python3", str(program))
    code, out, err = here.run(*line)
    assert code == 0, err
    assert json.loads(out) == ["Rome", None]
    log = [json.loads(entry) for entry in here.holdfast("log", "r", "--json").splitlines()]
    (seq,) = [each["seq"] for each in log if each["record"]["t"] == "decision"]
    fork = ("fork", f"r@{seq}", "--set", f'{seq}.output="Paris"', "--input", '"second"')
    foreseen = here.holdfast(*fork, "--dry-run", by_gateway=True)
    said = here.holdfast(*fork, by_gateway=True)
    assert ("b2" in foreseen, "r@b2" in said) == (True, True)
    code, out, err = here.run(*line)
    assert code == 0, err
    assert json.loads(out) == ["Paris", '"second"']
