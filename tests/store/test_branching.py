"""What every store promises of the branches of one run: where one begins, and that one can watch the others."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from holdfast.core.entry import Entry
from holdfast.errors import Conflict, Fenced
from holdfast.store import Store
from tests.store.shelf import Shelf, bodies, draft, drafts, heard, start

MAIN, CHILD, THIRD = "run@main", "run@b2", "run@b3"


@pytest.fixture
async def store(shelf: Shelf) -> AsyncIterator[Store]:
    opened = shelf.open()
    yield opened
    await opened.close()


def digest(before: Entry, entry: Entry) -> bytes:
    """As docs/log-format.md says."""
    numbers = b"".join(number.to_bytes(8, "big") for number in (entry.seq, entry.epoch, entry.at_ms))
    said = b"holdfast/entry/1\0" + before.digest + numbers + bytes([len(entry.key)]) + entry.key + entry.body
    return hashlib.sha256(said).digest()


# --- where a branch begins ---


async def test_a_branch_begins_after_the_entry_that_it_stands_on(store: Store) -> None:
    main = await store.append(MAIN, drafts(*"abcde"), epoch=0)
    placed = await store.append(CHILD, drafts("x", "y"), epoch=0, barrier=True, stands_on=main[2])
    assert [entry.seq for entry in placed] == [4, 5]
    assert placed[0].digest == digest(main[2], placed[0])
    assert placed[1].digest == digest(placed[0], placed[1])
    grant = await store.claim(CHILD)
    (third,) = await store.append(CHILD, drafts("z"), epoch=grant.epoch)
    assert (third.seq, third.digest) == (6, digest(placed[1], third))
    assert await store.read(CHILD) == [*placed, third]
    assert await store.read(MAIN) == main, "the branch that it stands on is as it was"
    assert {branch.name: branch.seq for branch in await store.branches("run@")} == {MAIN: 5, CHILD: 6}


async def test_a_branch_of_a_branch(store: Store) -> None:
    main = await store.append(MAIN, drafts(*"abc"), epoch=0)
    child = await store.append(CHILD, drafts("x", "y"), epoch=0, stands_on=main[0])
    (third,) = await store.append(THIRD, drafts("z"), epoch=0, stands_on=child[1])
    assert (third.seq, third.digest) == (4, digest(child[1], third))


@pytest.mark.parametrize("wrong", ["it is there", "no such entry", "another digest", "no such branch"])
async def test_a_branch_begins_once_and_on_what_is_there(store: Store, wrong: str) -> None:
    main = await store.append(MAIN, drafts(*"abc"), epoch=0)
    place = main[1]
    match wrong:
        case "it is there":
            await store.append(CHILD, drafts("x"), epoch=0, stands_on=place)
        case "no such entry":
            place = replace(place, seq=9)
        case "another digest":
            place = replace(place, digest=bytes(32))
        case _:
            place = replace(place, branch="other@main")
    with pytest.raises(Conflict):
        await store.append(CHILD, drafts("late"), epoch=0, stands_on=place)
    assert "late" not in bodies(await store.read(CHILD))


async def test_of_many_that_begin_one_branch_one_does(store: Store) -> None:
    main = await store.append(MAIN, drafts("a"), epoch=0)
    begun = await asyncio.gather(
        *(store.append(CHILD, drafts(f"{n}"), epoch=0, stands_on=main[0]) for n in range(16)), return_exceptions=True
    )
    assert sum(isinstance(each, Conflict) for each in begun) == 15
    assert len(await store.read(CHILD)) == 1


async def test_the_places_of_a_child_are_read_as_those_of_any_branch(store: Store) -> None:
    main = await store.append(MAIN, drafts(*"abc"), epoch=0)
    await store.append(CHILD, [draft("x", b"k"), draft("y"), draft("z", b"k")], epoch=0, stands_on=main[2])
    assert bodies(await store.read(CHILD, after=4)) == ["y", "z"]
    assert bodies(await store.read(CHILD, key=b"k")) == ["x", "z"]
    assert bodies(await store.read(CHILD, key=b"k", newest=1)) == ["z"]
    assert bodies(await store.read(CHILD, unclaimed=True, after=5)) == ["z"]
    assert bodies(await store.read(CHILD, newest=2)) == ["y", "z"]


# --- up to a place ---


@pytest.mark.parametrize("upto", range(8))
async def test_what_lies_behind_a_place_is_not_read(store: Store, upto: int) -> None:
    identity = bytes(range(32))
    keys = [b"k", identity, b"", b"k", identity, b""]
    placed = await store.append(MAIN, [draft(f"{n}", key) for n, key in enumerate(keys)], epoch=0)
    await store.append(MAIN, [draft("recall", recall=True)], epoch=0)
    expected = [entry for entry in placed if entry.seq <= upto]
    found = [entry for entry in await store.read(MAIN, upto=upto) if entry.body != b"recall"]
    assert found == expected
    for key in (b"k", identity):
        named = [entry for entry in expected if entry.key == key]
        assert await store.read(MAIN, key=key, upto=upto) == named
        assert await store.read(MAIN, key=key, upto=upto, newest=1) == named[-1:]
    assert (
        await store.read(MAIN, after=2, upto=upto, unclaimed=True, newest=1)
        == [entry for entry in await store.read(MAIN) if 2 < entry.seq <= upto][-1:]
    )


@pytest.mark.parametrize("upto", range(2, 9))
async def test_what_lies_behind_a_place_of_a_child_is_not_read(store: Store, upto: int) -> None:
    main = await store.append(MAIN, drafts(*"abc"), epoch=0)
    child = await store.append(CHILD, [draft(f"{n}", b"k") for n in range(4)], epoch=0, stands_on=main[2])
    expected = [entry for entry in child if entry.seq <= upto]
    assert await store.read(CHILD, upto=upto) == expected
    assert await store.read(CHILD, key=b"k", upto=upto, newest=1) == expected[-1:]
    assert await store.read(CHILD, after=4, upto=upto) == [entry for entry in expected if entry.seq > 4]


# --- watching the others ---


@pytest.mark.parametrize("epoch", ["claimed", "unclaimed"])
async def test_nothing_is_written_if_a_watched_branch_has_moved(store: Store, epoch: str) -> None:
    main = await store.append(MAIN, drafts(*"abc"), epoch=0)
    await store.append(CHILD, drafts("x"), epoch=0, stands_on=main[2])
    held = (await store.claim(CHILD)).epoch if epoch == "claimed" else 0
    with pytest.raises(Conflict) as conflict:
        await store.append(CHILD, drafts("y"), epoch=held, watch={MAIN: 2})
    assert conflict.value.where == MAIN
    assert bodies(await store.read(CHILD)) == ["x"]
    await store.append(CHILD, drafts("y"), epoch=held, watch={MAIN: 3})
    await store.append(CHILD, drafts("z"), epoch=held, watch={MAIN: 9, THIRD: 0})
    assert bodies(await store.read(CHILD)) == ["x", "y", "z"]


async def test_a_watched_branch_that_begins_has_moved(store: Store) -> None:
    main = await store.append(MAIN, drafts("a"), epoch=0)
    await store.append(MAIN, drafts("b"), epoch=0, watch={CHILD: 0})
    await store.append(CHILD, drafts("x"), epoch=0, stands_on=main[0])
    with pytest.raises(Conflict):
        await store.append(MAIN, drafts("c"), epoch=0, watch={CHILD: 0})


async def test_all_that_is_watched_is_looked_at_in_any_order(store: Store) -> None:
    await store.append(MAIN, drafts("a"), epoch=0)
    await store.append(THIRD, drafts("a", "b"), epoch=0)
    for watch in ({MAIN: 1, THIRD: 1}, {THIRD: 1, MAIN: 1}, {MAIN: 0, THIRD: 2}):
        with pytest.raises(Conflict):
            await store.append(CHILD, drafts("x"), epoch=0, watch=watch)
    await store.append(CHILD, drafts("x"), epoch=0, watch={MAIN: 1, THIRD: 2})


async def test_a_claim_and_a_release_are_no_movement(store: Store) -> None:
    await store.append(MAIN, drafts("a"), epoch=0)
    grant = await store.claim(MAIN)
    await store.append(CHILD, drafts("x"), epoch=0, watch={MAIN: 1})
    await store.append(MAIN, [], epoch=grant.epoch, release=True)
    await store.append(CHILD, drafts("y"), epoch=0, watch={MAIN: 1})


async def test_who_is_fenced_is_so_whatever_it_watches(store: Store) -> None:
    await store.append(MAIN, drafts("a"), epoch=0)
    with pytest.raises(Fenced):
        await store.append(CHILD, drafts("x"), epoch=3, watch={MAIN: 1})


async def test_what_a_refused_append_brought_along_is_not_kept(store: Store) -> None:
    """Neither its payloads nor the release of its claim."""
    from holdfast.errors import Unknown
    from tests.store.shelf import blob

    await store.append(MAIN, drafts("a"), epoch=0)
    grant = await store.claim(CHILD)
    given = blob(b"payload")
    with pytest.raises(Conflict):
        await store.append(CHILD, drafts("x"), epoch=grant.epoch, watch={MAIN: 0}, blobs=[given], release=True)
    with pytest.raises(Unknown):
        await store.blob(given.digest)
    await store.append(CHILD, drafts("y"), epoch=grant.epoch)


@pytest.mark.parametrize("barrier", [True, False])
async def test_of_two_that_watch_each_other_one_is_first(store: Store, *, barrier: bool) -> None:
    """In one process, over many rounds: every thing is written on one of the branches, never on both."""
    await store.append(MAIN, drafts("begin"), epoch=0)
    await store.append(CHILD, drafts("begin"), epoch=0)
    seen = {MAIN: 1, CHILD: 1}
    for number in range(40):
        found = await asyncio.gather(
            *(
                store.append(own, drafts(f"{number}"), epoch=0, barrier=barrier, watch={other: seen[other]})
                for own, other in ((MAIN, CHILD), (CHILD, MAIN))
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Conflict) for each in found) == 1
        for branch in seen:
            seen[branch] = (await store.read(branch, newest=1))[0].seq


def test_of_two_processes_that_watch_each_other_one_is_first(lasting: Shelf) -> None:
    count = 150
    rivals = [start("tests.store.rival", lasting.place, *names, count) for names in (("b2", "b3"), ("b3", "b2"))]
    for rival in rivals:
        assert heard(rival) == "ready"
    written: list[list[int]] = []
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    for rival in rivals:
        said, errors = rival.communicate(timeout=120)
        assert rival.returncode == 0, errors
        written.append([int(line) for line in said.split()])
    assert sorted(written[0] + written[1]) == list(range(count)), "one thing was written twice, or by nobody"
    store = lasting.open()

    async def read() -> list[list[str]]:
        found = [bodies(await store.read(branch)) for branch in (CHILD, THIRD)]
        await store.close()
        return found

    assert asyncio.run(read()) == [[str(number) for number in each] for each in written]
