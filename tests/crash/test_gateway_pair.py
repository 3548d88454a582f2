"""Gateways that are stopped, overtaken, told to end, or out of space: nothing is sent that should not be, and nothing
is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import open_store
from holdfast.core.record import Intent, Seal
from tests.crash import outside
from tests.crash.gateway_trial import GatewayTrial

LAPSING = "flush_s=0.05&claim_ttl_s=0.4"
ASLEEP_S = 1.2  # longer than what a sender takes for a slow flush, see PAUSE_S in send.py
Behind = Callable[..., GatewayTrial]


def late(trial: GatewayTrial) -> list[int]:
    """What was written under an epoch after a higher one was taken: nothing, ever."""
    highest, found = 0, []
    for entry in trial.entries():
        highest = max(highest, entry.epoch)
        found += [entry.seq] if 0 < entry.epoch < highest else []
    return found


def stopped(trial: GatewayTrial, where: str) -> tuple[int, int]:
    """A gateway that has stopped there, and the program behind it."""
    first = trial.start(stops=[where])
    program = trial.bear()
    ended, result = trial.lives.wait(first)
    assert ended == "stopped", f"the gateway did not stop at {where}, but: {ended} {result}"
    trial.gateway = None
    return first, program


def second(trial: GatewayTrial) -> None:
    """Another gateway on the same store."""
    trial.configure(file="second.toml", state="second")
    trial.start(config="second.toml")


@pytest.mark.parametrize("where", ["after Intent 1", "before Seal 1"])
def test_a_gateway_that_was_overtaken_sends_nothing_when_it_wakes(behind: Behind, where: str) -> None:
    trial = behind("shop.mail", options=LAPSING)
    first, program = stopped(trial, where)
    asleep = time.monotonic()
    second(trial)
    ended, doubt = trial.live(config="second.toml")
    assert (ended, doubt["waits"]) == ("left", "InDoubt")
    assert "may still be running" in doubt["text"], "a person is not told that the other gateway may live"
    sent = trial.world.sendings("shop.mail", "a")
    time.sleep(max(0.0, ASLEEP_S - (time.monotonic() - asleep)))
    trial.lives.signal(first, signal.SIGCONT)
    ended, told = trial.lives.wait(program)
    assert ended == "left"
    assert "answer" not in told, "a gateway that was fenced has given an answer"
    assert trial.world.sendings("shop.mail", "a") == sent, "a gateway that was fenced has sent"
    if where == "after Intent 1":
        trial.attend(doubt)  # else what the first was told has ended the doubt
    trial.more["config"] = "second.toml"
    answers = trial.finish()
    trial.census(["shop.mail"], ["a", "b"])
    assert answers["shop.mail a"] == trial.world.living("shop.mail", "a")[0]
    assert late(trial) == []
    trial.lives.signal(first, signal.SIGKILL)
    trial.lives.wait(first)


@pytest.mark.parametrize("where", ["after Decision 1", "before Intent 2", "before Finished 1"])
def test_a_gateway_that_was_overtaken_while_idle_writes_nothing_when_it_wakes(behind: Behind, where: str) -> None:
    trial = behind("shop.mail", options=LAPSING)
    first, program = stopped(trial, where)
    second(trial)
    ended, result = trial.live(config="second.toml")
    assert ended == "left"
    before = len(trial.world.lines())
    trial.lives.signal(first, signal.SIGCONT)
    _, told = trial.lives.wait(program)
    assert "answer" not in told, "a gateway that was fenced has ended the run"
    assert [line for line in trial.world.lines()[before:] if "did" in line] == []
    assert result["answer"]["shop.mail a"] == trial.world.living("shop.mail", "a")[0]
    trial.census(["shop.mail"], ["a", "b"])
    assert late(trial) == []
    trial.lives.signal(first, signal.SIGKILL)
    trial.lives.wait(first)


def test_of_two_gateways_on_one_store_one_holds_a_run(behind: Behind) -> None:
    trial = behind("shop.mail")
    outside.aim(trial.folder, "acting", 1, (), gone=trial.folder / "held")
    (trial.folder / "held").write_text("")
    first = trial.start()
    program = trial.bear()
    until = time.monotonic() + 60
    while not trial.records(Intent):
        assert time.monotonic() < until, "nothing is sent"
        time.sleep(0.01)
    trial.gateway = None
    second(trial)
    ended, told = trial.live(config="second.toml", patience_s=0.5)
    assert ended == "left"
    assert "advanc" in told["text"], "the second gateway has taken up what the first one holds"
    (trial.folder / "held").unlink()
    ended, result = trial.lives.wait(program)
    assert ended == "left"
    assert set(result["answer"]) == {"thought", "shop.mail a", "shop.mail b"}
    trial.census(["shop.mail"], ["a", "b"])
    trial.lives.signal(first, signal.SIGKILL)
    trial.lives.wait(first)


def test_a_gateway_that_is_told_to_stop_seals_what_is_in_flight_and_gives_its_runs_back(behind: Behind) -> None:
    trial = behind("shop.mail")
    outside.aim(trial.folder, "acting", 1, ("gateway",), gone=trial.folder / "state" / "door.sock")
    gateway = trial.start()
    program = trial.bear()
    assert trial.lives.wait(gateway) == ("left", {"stopped": True})
    ended, told = trial.lives.wait(program)
    assert ended == "left"
    assert "answer" not in told
    trial.gateway = None

    async def holders(store: Any) -> list[str]:
        return [branch.holder for branch in await store.branches("trial@")]

    with open_store(trial.url) as house:
        assert asyncio.run(holders(house.store)) == [""], "the claim was not given back"
    assert [record.tool for _, record in trial.records(Seal) if isinstance(record, Seal)] == ["shop.mail"]
    trial.finish()
    trial.census(["shop.mail"], ["a", "b"])
    assert len(trial.world.sendings("shop.mail", "a")) == 1
    assert not trial.doubts


@pytest.mark.parametrize(
    ("tool", "where", "sent"),
    [
        ("shop.mail", "before Intent 1", 0),
        ("shop.mail", "before Seal 1", 1),
        ("shop.put", "before Intent 1", 0),
        ("shop.look", "before Decision 1", 0),
    ],
)
def test_without_room_for_what_must_be_written_nothing_is_sent_and_nothing_is_told(
    behind: Behind, tool: str, where: str, sent: int
) -> None:
    trial = behind(tool)
    trial.start(full=[where])
    ended, told = trial.live()
    assert ended == "left"
    assert told["raised"] == "503", told
    assert "stopped" in told["text"]
    assert len(trial.world.sendings(tool, "a")) == sent
    assert trial.world.sendings(tool, "b") == []
    assert not [line for line in trial.world.lines() if line.get("saw") == f"{tool} a"], (
        "it was told what is not sealed"
    )
    trial.stop()
    trial.finish()
    if tool != "shop.look":
        trial.census([tool], ["a", "b"])
    assert trial.doubts == ([tool] if sent else [])


def test_a_second_gateway_in_one_directory_does_not_take_the_doors_of_the_first(behind: Behind) -> None:
    trial = behind("shop.mail")
    first = trial.start()
    until = time.monotonic() + 60
    while not (trial.folder / "state" / "door.sock").exists():
        assert time.monotonic() < until, "the gateway does not start"
        time.sleep(0.01)
    ended, told = trial.lives.wait(trial.lives.bear(gateway=str(trial.folder)))
    assert (ended, told["raised"]) == ("left", "Busy")
    (trial.folder / "gateway.pid").write_text(str(first))
    trial.finish()
    trial.census(["shop.mail"], ["a", "b"])


def settled(trial: GatewayTrial, **said: Any) -> dict[str, Any]:
    """Settle the first effect at the admin door, as soon as that may be."""
    (seq, _), *_ = trial.records(Intent)
    until = time.monotonic() + 60
    while True:
        result = trial.at_the_door("settle", node=f"trial@{seq}", **said)
        if result.get("raised") not in ("Claimed", "Stopped") or time.monotonic() > until:
            return result
        time.sleep(0.02)


def test_a_doubt_is_ended_at_the_admin_door_while_its_program_waits(behind: Behind) -> None:
    trial = behind("shop.mail")
    trial.end("in acted 1", ("gateway", "agent"))
    trial.start(patience_s=60.0)
    program = trial.bear()
    before = len(trial.entries())
    until = time.monotonic() + 60
    while len(trial.entries()) == before:
        assert time.monotonic() < until, "the run is not taken up"
        time.sleep(0.02)
    (there,) = trial.world.living("shop.mail", "a")
    assert "answer" in settled(trial, happened={"answer": there})
    ended, result = trial.lives.wait(program)
    assert (ended, result["answer"]["shop.mail a"]) == ("left", there)
    trial.census(["shop.mail"], ["a", "b"])


def test_what_is_in_flight_is_settled_by_nobody(behind: Behind) -> None:
    trial = behind("shop.mail")
    (trial.folder / "held").write_text("")
    outside.aim(trial.folder, "acting", 1, (), gone=trial.folder / "held")
    trial.start()
    program = trial.bear()
    until = time.monotonic() + 60
    while not trial.records(Intent):
        assert time.monotonic() < until, "nothing is sent"
        time.sleep(0.01)
    (seq, _), *_ = trial.records(Intent)
    assert trial.at_the_door("settle", node=f"trial@{seq}", did_not_happen="I think so")["raised"] == "Claimed"
    (trial.folder / "held").unlink()
    ended, result = trial.lives.wait(program)
    assert (ended, result["answer"]["shop.mail a"]) == ("left", trial.world.living("shop.mail", "a")[0])
    trial.census(["shop.mail"], ["a", "b"])
