"""Claims between processes: who may take over from whom, and with what proof that the owner before has ended."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from holdfast.errors import Claimed, Fenced
from holdfast.store import Grant, Store
from holdfast.store.worker import Worker, dead, here
from tests.store.shelf import Shelf, assert_whole, bodies, drafts, heard, start

BRANCH = "run@main"


@pytest.fixture
def owner(lasting: Shelf) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the claim, and lives."""
    process = start("tests.store.claimant", lasting.place, BRANCH)
    try:
        assert heard(process) == "claimed 1 none"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def told(process: subprocess.Popen[str], line: str) -> str:
    """What the process answers to a line."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return heard(process)


async def overtaken(store: Store) -> Grant:
    """The claim, as soon as it can be had."""
    for _ in range(2000):
        try:
            return await store.claim(BRANCH)
        except Claimed:
            await asyncio.sleep(0.02)
    raise AssertionError("the claim was never to be had")


async def test_a_living_worker_keeps_its_claim(lasting: Shelf, owner: subprocess.Popen[str]) -> None:
    store = lasting.open()
    with pytest.raises(Claimed, match=f"{owner.pid}") as claimed:
        await store.claim(BRANCH)
    assert f"kill {owner.pid}" in claimed.value.fix
    assert told(owner, "mine") == "placed 1"
    assert [branch.holder.rpartition(":")[2] for branch in await store.branches()] == [str(owner.pid)]
    await store.close()


async def test_a_living_worker_that_writes_nothing_shows_that_it_lives(
    lasting: Shelf, owner: subprocess.Popen[str]
) -> None:
    """It holds its claim for longer than the longest silence, because it beats while it waits."""
    store = lasting.open(claim_ttl_s=2.0)
    for _ in range(15):
        await asyncio.sleep(0.2)
        with pytest.raises(Claimed):
            await store.claim(BRANCH)
    await store.close()


@pytest.mark.parametrize("reaped", [True, False])
async def test_a_dead_worker_is_overtaken_at_once_and_known_to_be_dead(
    lasting: Shelf, owner: subprocess.Popen[str], *, reaped: bool
) -> None:
    """A process that nobody has waited for yet is as dead as one that is gone."""
    assert told(owner, "mine") == "placed 1"
    owner.kill()
    await asyncio.to_thread(os.waitid, os.P_PID, owner.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    store = lasting.open()
    assert [branch.holder for branch in await store.branches()] == [""]
    assert await store.claim(BRANCH) == Grant(2, "dead")
    await store.append(BRANCH, drafts("theirs"), epoch=2)
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert bodies(entries) == ["mine", "theirs"]
    await store.close()


async def test_a_silent_worker_is_overtaken_without_proof_and_fenced_when_it_wakes(
    lasting: Shelf, owner: subprocess.Popen[str]
) -> None:
    assert told(owner, "mine") == "placed 1"
    os.kill(owner.pid, signal.SIGSTOP)
    patient, hasty = lasting.open(claim_ttl_s=3600), lasting.open(claim_ttl_s=0.3)
    assert await overtaken(hasty) == Grant(2, "unproven")
    with pytest.raises(Claimed):
        await patient.claim(BRANCH)
    await hasty.append(BRANCH, drafts("theirs"), epoch=2, barrier=True)
    os.kill(owner.pid, signal.SIGCONT)
    assert told(owner, "too late") == "Fenced"
    assert told(owner, "still too late") == "Fenced"
    entries = await patient.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert bodies(entries) == ["mine", "theirs"]
    await patient.close()
    await hasty.close()


async def test_a_silent_worker_is_not_overtaken_before_its_time(lasting: Shelf, owner: subprocess.Popen[str]) -> None:
    os.kill(owner.pid, signal.SIGSTOP)
    store = lasting.open(claim_ttl_s=3600)
    with pytest.raises(Claimed):
        await store.claim(BRANCH)
    await store.close()


async def test_a_worker_that_closes_gives_its_claims_back(lasting: Shelf, owner: subprocess.Popen[str]) -> None:
    assert told(owner, "mine") == "placed 1"
    owner.communicate("\n", timeout=60)
    assert owner.returncode == 0
    store = lasting.open()
    assert await store.claim(BRANCH) == Grant(2, "released")
    await store.close()


async def test_each_takeover_fences_all_who_came_before(lasting: Shelf) -> None:
    """Three stores of one process, as three workers: closing gives the claim back, and no old epoch writes again."""
    stores = [lasting.open() for _ in range(3)]
    for epoch, store in enumerate(stores, 1):
        assert (await store.claim(BRANCH)).epoch == epoch
        await store.append(BRANCH, drafts(f"{epoch}"), epoch=epoch, release=True)
    for epoch, store in enumerate(stores[:2], 1):
        with pytest.raises(Fenced):
            await store.append(BRANCH, drafts("late"), epoch=epoch)
        with pytest.raises(Fenced):
            await store.append(BRANCH, drafts("forged"), epoch=3)
    assert bodies(await stores[0].read(BRANCH)) == ["1", "2", "3"]
    for store in stores:
        await store.close()


async def test_two_processes_that_claim_at_once_never_both_get_it(lasting: Shelf) -> None:
    await lasting.open().close()
    processes = [start("tests.store.claimant", lasting.place, BRANCH) for _ in range(4)]
    try:
        said = [process.stdout.readline().strip() for process in processes if process.stdout]
        assert sorted(said) == ["", "", "", "claimed 1 none"]
        loser = processes[said.index("")]
        assert "Claimed" in loser.communicate(timeout=60)[1]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=60)


# --- proof of death ---


def test_this_process_is_not_dead() -> None:
    assert not dead(here())


def variant(**changes: object) -> Worker:
    me = here()
    known = {"id": me.id, "place": me.place, "pid": me.pid, "born": me.born, "host": me.host}
    return Worker(**{**known, **changes})  # pyright: ignore[reportArgumentType]


def test_another_process_under_the_same_number_is_no_sign_of_life() -> None:
    assert dead(variant(born="1"))


def test_the_machine_has_started_anew_since() -> None:
    boot, _, namespace = here().place.partition("/")
    assert dead(variant(place=f"{boot[::-1]}/{namespace}"))


def test_who_cannot_be_asked_about_is_not_proven_dead() -> None:
    boot, _, namespace = here().place.partition("/")
    assert not dead(variant(host="elsewhere", place=f"{boot[::-1]}/{namespace}", born="1")), "another machine"
    assert not dead(variant(place=f"{boot}/{namespace}1", born="1")), "another container of this machine"
