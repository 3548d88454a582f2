"""What every store promises (`holdfast.store.Store`), asked of each alike. The one in memory is the reference."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import pytest

from holdfast.errors import Claimed, Conflict, Fenced, Stopped, Unknown
from holdfast.store import Draft, Store
from tests.store.shelf import Shelf, assert_whole, blob, bodies, draft, drafts

BRANCH = "run@main"


@pytest.fixture
async def store(shelf: Shelf) -> AsyncIterator[Store]:
    opened = shelf.open()
    yield opened
    await opened.close()


# --- places ---


async def test_entries_stand_one_after_another_and_each_proves_the_ones_before_it(store: Store) -> None:
    grant = await store.claim(BRANCH)
    placed = await store.append(BRANCH, drafts("a", "b"), epoch=grant.epoch)
    placed += await store.append(BRANCH, drafts("c"), epoch=grant.epoch, barrier=True)
    placed += await store.append(BRANCH, [draft("d", b"name")], epoch=0)
    assert [entry.seq for entry in placed] == [1, 2, 3, 4]
    assert [entry.epoch for entry in placed] == [1, 1, 1, 0]
    assert_whole(BRANCH, placed)


async def test_what_is_read_is_what_was_placed(store: Store) -> None:
    placed = await store.append(BRANCH, [draft("a", b"k"), draft(bytes(range(256)))], epoch=0)
    assert await store.read(BRANCH) == placed


async def test_branches_have_places_of_their_own(store: Store) -> None:
    for branch in ("a@main", "b@main", "a@b2"):
        await store.append(branch, drafts("x", "y"), epoch=0)
    for branch in ("a@main", "b@main", "a@b2"):
        assert_whole(branch, await store.read(branch))
        assert len(await store.read(branch)) == 2


async def test_an_unknown_branch_is_empty(store: Store) -> None:
    assert await store.read("nobody@main") == []
    assert await store.branches("nobody") == []


async def test_entries_that_are_placed_together_stand_together(store: Store) -> None:
    async def three(name: str) -> list[int]:
        placed = await store.append(BRANCH, drafts(*(f"{name}{number}" for number in range(3))), epoch=0, barrier=True)
        return [entry.seq for entry in placed]

    for places in await asyncio.gather(*(three(chr(97 + number)) for number in range(8))):
        assert places == list(range(places[0], places[0] + 3))


@pytest.mark.parametrize("barrier", [True, False])
async def test_32_parallel_appends_lose_nothing_and_share_no_place(store: Store, *, barrier: bool) -> None:
    answers = await asyncio.gather(*(store.append(BRANCH, drafts(f"{n}"), epoch=0, barrier=barrier) for n in range(32)))
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert sorted(map(int, bodies(entries))) == list(range(32))
    assert sorted((entry for answer in answers for entry in answer), key=lambda entry: entry.seq) == entries


async def test_many_appends_of_one_turn_stand_in_the_order_in_which_they_were_asked_for(store: Store) -> None:
    branches = [f"r{number}@main" for number in range(3)]
    await asyncio.gather(
        *(store.append(branches[n % 3], drafts(f"{n}"), epoch=0, barrier=n % 5 == 0) for n in range(400))
    )
    for number, branch in enumerate(branches):
        assert bodies(await store.read(branch)) == [str(n) for n in range(number, 400, 3)]


async def test_32_parallel_branches_lose_nothing(store: Store) -> None:
    async def five(branch: str) -> None:
        grant = await store.claim(branch)
        for number in range(5):
            await store.append(branch, drafts(f"{number}"), epoch=grant.epoch, barrier=number % 2 == 0)

    branches = [f"r{number}@main" for number in range(32)]
    await asyncio.gather(*map(five, branches))
    for branch in branches:
        entries = await store.read(branch)
        assert_whole(branch, entries)
        assert bodies(entries) == list("01234")


# --- who may write, and when ---


async def test_epochs_grow_by_one_and_tell_how_the_owner_before_ended(store: Store) -> None:
    first = await store.claim(BRANCH)
    await store.append(BRANCH, [], epoch=first.epoch, release=True)
    second = await store.claim(BRANCH)
    assert (first.epoch, first.previous) == (1, "none")
    assert (second.epoch, second.previous) == (2, "released")


async def test_a_claim_is_held_by_one_at_a_time(store: Store) -> None:
    await store.claim(BRANCH)
    with pytest.raises(Claimed) as claimed:
        await store.claim(BRANCH)
    assert claimed.value.where == BRANCH
    assert claimed.value.fix
    await store.claim("another@main")


async def test_of_32_who_claim_at_once_one_gets_it(store: Store) -> None:
    answers = await asyncio.gather(*(store.claim(BRANCH) for _ in range(32)), return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert sum(isinstance(answer, Claimed) for answer in answers) == 31


@pytest.mark.parametrize("stale", ["never claimed", "an epoch ahead", "released", "overtaken"])
async def test_who_does_not_hold_the_claim_is_fenced(store: Store, stale: str) -> None:
    epoch = 7
    if stale != "never claimed":
        grant = await store.claim(BRANCH)
        await store.append(BRANCH, drafts("kept"), epoch=grant.epoch, release=stale in ("released", "overtaken"))
        epoch = grant.epoch + (stale == "an epoch ahead")
    if stale == "overtaken":
        await store.claim(BRANCH)
    before = await store.read(BRANCH)
    lost = blob(b"never stored")
    with pytest.raises(Fenced) as fenced:
        await store.append(BRANCH, drafts("lost"), epoch=epoch, blobs=[lost], barrier=True)
    assert fenced.value.where == BRANCH
    assert await store.read(BRANCH) == before
    with pytest.raises(Unknown):
        await store.blob(lost.digest)


async def test_the_last_entry_can_give_the_claim_back(store: Store) -> None:
    grant = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("the end"), epoch=grant.epoch, barrier=True, release=True)
    assert (await store.claim(BRANCH)).previous == "released"
    assert bodies(await store.read(BRANCH)) == ["the end"]


CONFLICTS = [
    # placed since, in order      after   as the owner    without a claim
    ([], 0, True, True),
    (["owner"], 0, True, False),
    (["owner"], 1, True, True),
    (["other"], 0, False, False),
    (["other"], 1, True, True),
    (["owner", "other"], 1, False, False),
    (["other", "owner"], 1, True, False),
    (["other", "owner"], 2, True, True),
    (["owner", "other", "owner"], 1, False, False),
    (["owner", "other", "owner"], 2, True, False),
]


@pytest.mark.parametrize("as_owner", [True, False])
@pytest.mark.parametrize(("placed", "after", "owner_may", "others_may"), CONFLICTS)
async def test_a_guarded_append_sees_what_it_has_not_taken_up(
    store: Store, placed: list[str], after: int, *, owner_may: bool, others_may: bool, as_owner: bool
) -> None:
    """The owner minds only what others placed; who holds no claim minds everything."""
    grant = await store.claim(BRANCH)
    for who in placed:
        await store.append(BRANCH, drafts(who), epoch=grant.epoch if who == "owner" else 0)
    before = await store.read(BRANCH)
    lost = blob(b"guarded")
    epoch = grant.epoch if as_owner else 0
    if owner_may if as_owner else others_may:
        await store.append(BRANCH, drafts("new"), epoch=epoch, after=after, barrier=True, blobs=[lost])
        assert bodies(await store.read(BRANCH)) == [*placed, "new"]
        return
    with pytest.raises(Conflict) as conflict:
        await store.append(BRANCH, drafts("new"), epoch=epoch, after=after, barrier=True, blobs=[lost])
    assert conflict.value.where == BRANCH
    assert await store.read(BRANCH) == before
    with pytest.raises(Unknown):
        await store.blob(lost.digest)


async def test_of_many_who_saw_the_same_end_one_may_go_on(store: Store) -> None:
    await store.append(BRANCH, drafts("seen"), epoch=0)
    answers = await asyncio.gather(
        *(store.append(BRANCH, drafts(f"{n}"), epoch=0, after=1, barrier=True) for n in range(16)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Conflict) for answer in answers) == 15
    assert len(await store.read(BRANCH)) == 2


# --- an append that fails ---

IMPOSSIBLE = Draft(b"k" * 300, b"a key of more than 255 bytes has no digest")


@pytest.mark.parametrize("barrier", [True, False])
async def test_an_append_that_fails_keeps_nothing_of_it(store: Store, *, barrier: bool) -> None:
    await store.append(BRANCH, drafts("before"), epoch=0)
    lost = blob(b"half of it")
    with pytest.raises(ValueError, match="byte"):
        await store.append(BRANCH, [draft("good"), IMPOSSIBLE], epoch=0, barrier=barrier, blobs=[lost])
    assert bodies(await store.read(BRANCH)) == ["before"]
    with pytest.raises(Unknown):
        await store.blob(lost.digest)
    await store.append(BRANCH, drafts("after"), epoch=0, barrier=True)
    assert_whole(BRANCH, await store.read(BRANCH))


async def test_one_bad_append_does_not_fail_its_neighbours(store: Store) -> None:
    owner = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("seen"), epoch=0)
    good = [store.append(BRANCH, drafts(f"{n}"), epoch=owner.epoch, barrier=True) for n in range(20)]
    fenced = store.append(BRANCH, drafts("fenced"), epoch=owner.epoch + 1, barrier=True)
    behind = store.append(BRANCH, drafts("behind"), epoch=0, after=0, barrier=True)
    impossible = store.append(BRANCH, [IMPOSSIBLE], epoch=0, barrier=True)
    answers = await asyncio.gather(
        *good[:7], fenced, *good[7:11], behind, impossible, *good[11:], return_exceptions=True
    )
    assert [type(answer) for answer in answers if not isinstance(answer, list)] == [Fenced, Conflict, ValueError]
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert sorted(bodies(entries)) == sorted(["seen", *map(str, range(20))])
    places = [answer[0] for answer in answers if isinstance(answer, list)]
    assert sorted(places, key=lambda entry: entry.seq) == entries[1:]


async def test_whoever_stops_waiting_leaves_the_log_whole(store: Store) -> None:
    """A cancelled append was placed or it was not; never half, and never so that a neighbour is hurt."""
    tasks = [asyncio.create_task(store.append(BRANCH, drafts(f"{n}", "-"), epoch=0, barrier=True)) for n in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await store.append(BRANCH, drafts("end"), epoch=0, barrier=True)
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    for answer in answers:
        if isinstance(answer, list):
            assert entries[answer[0].seq - 1 : answer[1].seq] == answer
    assert entries[-1].body == b"end"


# --- payloads ---

PAYLOADS = {
    "empty": b"",
    "one byte": b"\0",
    "short": b'{"a":1}',
    "not text": bytes(range(256)) * 3,
    "repeating": b"the same again; " * 100_000,
    "random": os.urandom(300_000),
    "looks compressed": b"\x28\xb5\x2f\xfd" + bytes(400),
}


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_payload_comes_back_as_it_was_given(store: Store, name: str, *, rope: bool) -> None:
    given = blob(PAYLOADS[name], rope=rope)
    await store.append(BRANCH, drafts("x"), epoch=0, blobs=[given])
    assert await store.blob(given.digest) == given


async def test_a_payload_is_kept_once_however_often_it_is_given(store: Store) -> None:
    first = blob(b"the same" * 100)
    again = [store.append(f"r{n}@main", drafts("x"), epoch=0, blobs=[first, first], barrier=True) for n in range(9)]
    await asyncio.gather(*again)
    assert await store.blob(first.digest) == first


async def test_a_payload_that_is_not_here_is_named(store: Store) -> None:
    digest = hashlib.sha256(b"nowhere").digest()
    with pytest.raises(Unknown) as unknown:
        await store.blob(digest)
    assert digest.hex() in str(unknown.value)


# --- reading ---

IDENTITY, OTHER = b"i" * 32, b"o" * 32


async def storied(store: Store) -> None:
    """Eight entries: names, identities, and two that others placed (3 and 7)."""
    owner = (await store.claim(BRANCH)).epoch
    steps = [("a", b"name", owner), ("b", IDENTITY, owner), ("c", b"other", 0), ("d", OTHER, owner)]
    steps += [("e", b"name", owner), ("f", IDENTITY, owner), ("g", b"", 0), ("h", b"name", owner)]
    for body, key, epoch in steps:
        await store.append(BRANCH, [draft(body, key)], epoch=epoch)


READS = {
    "all": ({}, "abcdefgh"),
    "after": ({"after": 5}, "fgh"),
    "after the end": ({"after": 8}, ""),
    "far after the end": ({"after": 1 << 40}, ""),
    "newest": ({"newest": 3}, "fgh"),
    "newest of less": ({"newest": 99}, "abcdefgh"),
    "newest of none": ({"newest": 0}, ""),
    "newest after": ({"newest": 2, "after": 4}, "gh"),
    "by name": ({"key": b"name"}, "aeh"),
    "by another name": ({"key": b"other"}, "c"),
    "by no name of ours": ({"key": b"nam"}, ""),
    "by name, after": ({"key": b"name", "after": 1}, "eh"),
    "by name, newest": ({"key": b"name", "newest": 1}, "h"),
    "by name, newest of more": ({"key": b"name", "newest": 2, "after": 1}, "eh"),
    "placed by others": ({"unclaimed": True}, "cg"),
    "placed by others, after": ({"unclaimed": True, "after": 3}, "g"),
    "placed by others, newest": ({"unclaimed": True, "newest": 1}, "g"),
}


@pytest.mark.parametrize("name", READS)
async def test_a_read_gives_the_entries_that_were_asked_for_in_order(store: Store, name: str) -> None:
    asked, expected = READS[name]
    await storied(store)
    await store.append("another@main", [draft("x", b"name")], epoch=0)
    assert "".join(bodies(await store.read(BRANCH, **asked))) == expected


async def test_an_identity_can_be_looked_up_once_a_draft_has_recalled_it(store: Store) -> None:
    await storied(store)
    owner = 1
    await store.append(BRANCH, [draft("checkpoint", b"checkpoint", recall=True)], epoch=owner)
    assert bodies(await store.read(BRANCH, key=IDENTITY)) == ["b", "f"]
    assert bodies(await store.read(BRANCH, key=IDENTITY, newest=1)) == ["f"]
    assert bodies(await store.read(BRANCH, key=OTHER, after=3)) == ["d"]
    assert bodies(await store.read(BRANCH, key=OTHER, after=4)) == []
    await store.append(BRANCH, [draft("i", IDENTITY)], epoch=owner)
    await store.append(BRANCH, [draft("checkpoint", b"checkpoint", recall=True)], epoch=owner)
    assert bodies(await store.read(BRANCH, key=IDENTITY)) == ["b", "f", "i"]
    assert bodies(await store.read(BRANCH, key=b"checkpoint")) == ["checkpoint", "checkpoint"]


async def test_branches_are_listed_as_they_stand_newest_first(store: Store) -> None:
    for branch in ("a@main", "b@main", "a@b2", "ab@main"):
        await store.append(branch, drafts("x"), epoch=0)
        await asyncio.sleep(0.002)
    grant = await store.claim("b@main")
    (newest,) = await store.append("b@main", drafts("y"), epoch=grant.epoch)
    found = await store.branches()
    assert [branch.name for branch in found] == ["b@main", "ab@main", "a@b2", "a@main"]
    assert (found[0].seq, found[0].digest, found[0].epoch, found[0].at_ms) == (2, newest.digest, 1, newest.at_ms)
    assert {branch.name for branch in await store.branches("a@")} == {"a@main", "a@b2"}


@pytest.mark.parametrize("prefix", ["%", "_", "a%", "*", "'"])
async def test_a_prefix_is_text_and_no_pattern(store: Store, prefix: str) -> None:
    await store.append("a@main", drafts("x"), epoch=0)
    await store.append(f"{prefix}@main", drafts("x"), epoch=0)
    assert [branch.name for branch in await store.branches(prefix)] == [f"{prefix}@main"]


# --- closing ---


async def test_closing_twice_is_closing_once(shelf: Shelf) -> None:
    store = shelf.open()
    await store.append(BRANCH, drafts("x"), epoch=0)
    await store.close()
    await store.close()


async def test_what_comes_after_the_closing_is_refused_and_does_not_wait(lasting: Shelf) -> None:
    store = lasting.open()
    await store.append(BRANCH, drafts("x"), epoch=0)
    await store.close()
    with pytest.raises(Stopped):
        async with asyncio.timeout(60):
            await store.append(BRANCH, drafts("y"), epoch=0)
