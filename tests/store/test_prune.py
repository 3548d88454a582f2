"""Payloads that nothing needs any more go, and nothing else: beside living writers, whatever dies, and only once.

On every store that lasts; what only one kind can do is in test_prune_sqlite.py and test_prune_postgres.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from holdfast.core.payload import Blob
from holdfast.errors import Conflict, Corrupt
from holdfast.store import postgres_prune, prune
from holdfast.store.prune import Share
from tests.store.pruned import (
    another,
    at_the,
    has,
    planned,
    pruned,
    pruner_of,
    rememberer,
    rows,
    tell,
    teller,
    write,
    write_whole,
)
from tests.store.shelf import Shelf, naming, said, texts


@pytest.fixture
def shelf(lasting: Shelf) -> Shelf:
    return lasting


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each payload goes in a transaction of its own."""
    for how in (prune, postgres_prune):
        monkeypatch.setattr(how, "MOST_BLOBS", 1)


# --- what goes, and what stays ---


def test_what_only_the_pruned_run_names_goes_and_its_entries_stay(shelf: Shelf) -> None:
    write(shelf, "a@main one two", "b@main three")
    assert pruned(shelf, "a@main").payloads == 2
    assert has(shelf, "one", "two", "three") == [False, False, True]
    assert rows(shelf, "SELECT count(*) FROM entry") == [(2,)]


def test_what_another_run_names_too_stays(shelf: Shelf) -> None:
    write(shelf, "a@main one shared", "b@main shared")
    pruned(shelf, "a@main")
    assert has(shelf, "one", "shared") == [False, True]


def test_a_piece_of_a_rope_that_stays_stays(shelf: Shelf) -> None:
    write(shelf, "a@main one two three", "b@main one+two")
    pruned(shelf, "a@main")
    assert has(shelf, "one+two", "one", "two", "three") == [True, True, True, False]


def test_a_rope_goes_with_its_pieces(shelf: Shelf) -> None:
    write(shelf, "a@main one+two", "b@main two")
    assert pruned(shelf, "a@main").payloads == 2
    assert has(shelf, "one+two", "one", "two") == [False, False, True]


def test_what_an_entry_after_the_mark_names_stays(shelf: Shelf) -> None:
    write(shelf, "a@main one two")
    pruned(shelf, "a@main")
    write(shelf, "a@main two")
    assert pruned(shelf) == Share()
    assert has(shelf, "one", "two") == [False, True]


@pytest.mark.parametrize("branch", ["a@main", "a@b2"])
def test_a_run_that_has_moved_on_since_is_not_pruned(shelf: Shelf, branch: str) -> None:
    write(shelf, "a@main one two")
    found = planned(shelf, "a@main")
    write(shelf, f"{branch} three")
    with pruner_of(shelf, found) as pruner, pytest.raises(Conflict, match="a run has moved on"):
        pruner.prune(lambda _number: None)
    assert has(shelf, "one", "two") == [True, True]


def test_the_plan_counts_for_each_run_what_goes_and_nothing_twice(shelf: Shelf) -> None:
    write(shelf, "a@main one shared", "a@main one", "b@main shared two three", "c@main three")
    found = planned(shelf, "a@main", "b@main")
    assert {name: (share.entries, share.payloads) for name, share in found.shares.items()} == {
        "a@main": (2, 2),  # with what both name
        "b@main": (1, 1),
    }
    sizes = dict(rows(shelf, "SELECT digest, length(data) FROM blob"))
    del sizes[texts("three")[0].digest]
    assert sum(share.bytes for share in found.shares.values()) == sum(sizes.values())


def test_pruning_twice_is_pruning_once(shelf: Shelf) -> None:
    write(shelf, "a@main one two", "b@main one")
    pruned(shelf, "a@main")
    assert pruned(shelf, "a@main") == Share()
    assert has(shelf, "one", "two") == [True, False]


def test_who_pruned_what_is_written_down(shelf: Shelf) -> None:
    write(shelf, "a@main one", "a@main two")
    pruned(shelf, "a@main")
    assert rows(shelf, "SELECT upto, extent, by FROM pruned") == [(2, "all", "ann")]


# --- beside writers ---


def test_a_living_process_does_not_believe_that_what_went_is_stored(shelf: Shelf) -> None:
    with rememberer(shelf) as writer:
        tell(writer, "a@main one two one+two")
        pruned(shelf, "a@main")
        assert has(shelf, "one", "one+two") == [False, False]
        tell(writer, "b@main one one+two")
    assert has(shelf, "one", "one+two", "two") == [True, True, True]


def test_a_rope_whose_pieces_went_after_they_were_written_is_kept_whole(shelf: Shelf) -> None:
    """Who cuts a payload takes what it has written before for stored, and does not send it with the rope."""
    with teller(shelf) as told:
        told("a@main one two")
        told("b@main two")
        pruned(shelf, "a@main")
        told("b@main ~one+two")
    assert has(shelf, "one+two", "one", "two") == [True, False, True]
    assert rows(shelf, "SELECT count(*) FROM blob WHERE form >= 2") == [(0,)]


def test_a_piece_that_no_entry_names_may_go_and_is_not_missed(shelf: Shelf) -> None:
    """The payload was stored whole by another: then its cut is not kept, and its pieces are, which nothing holds."""
    write(shelf, "z@main kept")
    write_whole(shelf, "a@main", "one+two")
    with teller(shelf) as told:
        told("b@main one+two")
        assert has(shelf, "one", "two") == [True, True]
        assert pruned(shelf).payloads == 2
        told("b@main ~one+kept")
        told("b@main ~two+one+kept three+four")
        told("b@main ~three+four")
    assert has(shelf, "one+two", "one+kept", "two+one+kept", "three+four", "one") == [True, True, True, True, False]


def test_who_does_not_know_what_a_rope_was_cut_from_is_refused(shelf: Shelf) -> None:
    async def refused() -> None:
        store = shelf.open()
        await store.append("a@main", [naming("one")], epoch=0, blobs=texts("one"))
        await asyncio.to_thread(pruned, shelf, "a@main")
        rope = replace(texts("~one+two")[0], whole=b"")
        with pytest.raises(Conflict, match="a piece of a payload was pruned"):
            await store.append("b@main", [naming("one+two")], epoch=0, blobs=[rope])
        assert await store.read("b@main") == []
        await store.close()

    asyncio.run(refused())


def test_each_deletion_is_forgotten_not_only_the_first(shelf: Shelf, one_by_one: None) -> None:
    with teller(shelf) as told:
        told("a@main one two three")
        lines = iter(("b@main one", "c@main two", "d@main three"))
        pruned(shelf, "a@main", tick=lambda _number: told(next(lines)))
    assert has(shelf, "one", "two", "three") == [True] * 3


@pytest.mark.parametrize("word", ["one", "one+two", "three+four", "one+two+three+four"])
def test_what_is_named_while_it_is_being_pruned_stays(shelf: Shelf, one_by_one: None, word: str) -> None:
    """After each single deletion, whatever went before, a living writer names it again: it is whole."""
    for nth in range(1, 7):
        store = another(shelf, nth)
        with teller(store) as told:
            told("a@main one+two three+four one+two+three+four")
            pruned(store, "a@main", tick=at_the(nth, partial(told, f"b@main {word}")))
        assert has(store, word) == [True], f"named after {nth} deletions"


def test_a_rope_that_is_named_again_in_another_cut_is_whole(shelf: Shelf, one_by_one: None) -> None:
    """While it is stored, the new cut is not kept: so the pieces of the old one must not have gone before it."""
    for nth in range(1, 4):
        store = another(shelf, nth)
        write(store, "a@main one+two")
        pruned(store, "a@main", tick=at_the(nth, partial(write_whole, store, "b@main", "one+two")))
        assert has(store, "one+two") == [True], f"named after {nth} deletions"


def rope(word: str, *parts: str) -> Blob:
    """The payload of a text, cut into the payloads of others."""
    pieces = b"".join(b"\1" + texts(part)[-1].digest for part in parts)
    return Blob(texts(word)[-1].digest, pieces, rope=True, whole=said(word))


async def test_what_nobody_names_and_comes_while_a_store_is_pruned_can_be_rested_on(shelf: Shelf) -> None:
    """A beginning that is cut out of what is stored in one piece: nothing holds it, and its own pieces were to go."""
    await asyncio.to_thread(write, shelf, "a@main one two", "z@main kept three")
    await asyncio.to_thread(write_whole, shelf, "z@main", "one+two+three")
    store = shelf.open()
    found = await asyncio.to_thread(planned, shelf, "a@main")
    cut = [rope("one+two", "one", "two"), rope("one+two+three", "one+two", "three")]
    await store.append("b@main", [naming("one+two+three")], epoch=0, blobs=cut)
    with pruner_of(shelf, found) as pruner:
        await asyncio.to_thread(pruner.prune, lambda _number: None)
    await store.append("b@main", [naming("one+two+kept")], epoch=0, blobs=[rope("one+two+kept", "one+two", "kept")])
    await store.close()
    assert await asyncio.to_thread(has, shelf, "one+two+three", "one+two+kept") == [True, True]


def test_two_that_prune_at_once_do_not_trust_each_others_plan(shelf: Shelf) -> None:
    write(shelf, "a@main one", "b@main two")
    late = planned(shelf, "a@main")
    pruned(shelf, "b@main")
    write(shelf, "c@main three")  # under the number that `two` had
    with pruner_of(shelf, late, "bob") as pruner, pytest.raises(Conflict, match="another process prunes"):
        pruner.prune(lambda _number: None)
    assert has(shelf, "one", "three") == [True, True]


# --- what is damaged is kept ---


@pytest.mark.parametrize(
    ("damage", "value", "said"),
    [
        ("DELETE FROM entry WHERE seq = 2", (), "an entry is missing"),
        ("UPDATE entry SET body = ? WHERE seq = 2", (b"\0",), "does not fit the one before it"),
        ("DELETE FROM blob WHERE digest = ?", (texts("three")[0].digest,), "is missing, and was not pruned"),
        ("UPDATE blob SET data = ? WHERE form = 2", (b"\xff\0",), "cannot be read"),
    ],
)
def test_a_damaged_log_is_not_pruned(shelf: Shelf, damage: str, value: tuple[bytes, ...], said: str) -> None:
    write(shelf, "a@main one", "b@main two", "b@main three", "b@main two", "c@main two+three")
    rows(shelf, damage, *value)
    with pytest.raises(Corrupt, match=said):
        planned(shelf, "a@main")


def test_a_piece_that_is_missing_is_told_with_the_entry_that_needs_it(shelf: Shelf) -> None:
    write(shelf, "a@main one", "b@main two+three")
    lost = texts("three")[0].digest
    rows(shelf, "DELETE FROM blob WHERE digest = ?", lost)
    with pytest.raises(Corrupt) as caught:
        planned(shelf, "a@main")
    assert caught.value.where == "b@main:1"
    assert lost.hex() in caught.value.what
