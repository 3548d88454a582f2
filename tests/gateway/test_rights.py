"""The capabilities of a run: nothing is written that ends it, nothing is had that was not given."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.capability import Budget, Limit, Terms, narrow, terms_of
from holdfast.core.codec import decode
from holdfast.core.contract import Level
from holdfast.core.record import Issued
from holdfast.errors import BadCall, Corrupt, HoldfastError, Refused
from holdfast.gateway import rights as rights_of
from holdfast.gateway.rights import Rights, digest_of, run_of
from holdfast.store.memory import MemoryStore
from tests.examples import examples
from tests.gateway.lodge import ALL, RUN, Lodge

NOW_MS = 1_700_000_000_000


@contextlib.asynccontextmanager
async def begun(now_ms: Any = lambda: NOW_MS) -> AsyncGenerator[tuple[MemoryStore, Rights]]:
    store = MemoryStore()
    try:
        yield store, Rights(store, RUN, now_ms)
    finally:
        await store.close()


def limit(**more: Any) -> Limit:
    return Limit(tool="*", argument="to", **more)


UNWRITABLE = {
    "longer than what is read": Terms(tools=("*",), limits=(limit(prefix="a" * 70_000),)),
    "more limits than are read": Terms(tools=("*",), limits=tuple(limit(most=each) for each in range(300))),
    "more values than are read": Terms(tools=("*",), limits=(limit(one_of=tuple(range(300))),)),
    "a number that is none": Terms(tools=("*",), limits=(limit(one_of=(float("nan"),)),)),
    "a number beyond all": Terms(tools=("*",), limits=(limit(one_of=(float("inf"),)),)),
    "half a letter": Terms(tools=("*",), limits=(limit(prefix="\ud800"),)),
    "less than nothing": Terms(tools=("*",), budget=Budget(calls=-1)),
}


@pytest.mark.parametrize("terms", UNWRITABLE.values(), ids=list(UNWRITABLE))
async def test_terms_that_could_not_be_read_again_are_not_written(terms: Terms) -> None:
    async with begun() as (store, rights):
        right, _ = await rights.issue(ALL, by="tester")
        with pytest.raises(HoldfastError):
            await rights.narrow(right, terms, by="the agent")
        assert len(await store.read(f"{RUN}@main")) == 1
        await Rights(store, RUN, lambda: NOW_MS).read()


async def test_narrowing_until_the_terms_are_too_many_does_not_end_the_run() -> None:
    async with begun() as (store, rights):
        right, _ = await rights.issue(ALL, by="tester")
        for number in range(2):
            many = tuple(limit(most=number * 100 + each) for each in range(100))
            right, _ = await rights.narrow(right, Terms(tools=("*",), limits=many), by="the agent")
        more = Terms(tools=("*",), limits=tuple(limit(most=1000 + each) for each in range(100)))
        with pytest.raises(BadCall, match="cannot be written down"):
            await rights.narrow(right, more, by="the agent")
        await Rights(store, RUN, lambda: NOW_MS).read()


async def test_narrowing_one_after_another_comes_to_an_end() -> None:
    async with begun() as (_, rights):
        right, _ = await rights.issue(ALL, by="tester")
        for _ in range(31):
            right, _ = await rights.narrow(right, ALL, by="the agent")
        with pytest.raises(Refused, match="narrowed 32 times already"):
            await rights.narrow(right, ALL, by="the agent")


async def test_narrowing_side_by_side_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights_of, "MOST", 10)
    async with begun() as (store, rights):
        right, _ = await rights.issue(ALL, by="tester")
        for _ in range(9):
            await rights.narrow(right, ALL, by="the agent")
        with pytest.raises(Refused, match="has 10 capabilities already"):
            await rights.narrow(right, ALL, by="the agent")
        assert len(await store.read(f"{RUN}@main")) == 10


async def test_narrowing_in_one_moment_gives_no_more_than_narrowing_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(rights_of, "MOST", 10)
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        rights = taken.ward.rights
        narrowing = [rights.narrow(taken.right, ALL, by="the agent") for _ in range(30)]
        given = await asyncio.gather(*narrowing, return_exceptions=True)
        assert sum(isinstance(each, tuple) for each in given) == 9
        assert all("has 10 capabilities already" in str(each) for each in given if not isinstance(each, tuple))
    assert sum(isinstance(record, Issued) for record in await lodge.records()) == 10


async def test_what_could_not_be_written_down_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights_of, "MOST", 3)
    async with begun() as (_, rights):
        right, _ = await rights.issue(ALL, by="tester")
        for _ in range(5):
            with pytest.raises(BadCall):
                await rights.narrow(right, Terms(tools=("*",), budget=Budget(calls=-1)), by="the agent")
        await rights.narrow(right, ALL, by="the agent")


async def test_a_capability_that_nobody_waits_for_any_more_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(rights_of, "MOST", 3)
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        for _ in range(4):
            narrowing = asyncio.ensure_future(taken.ward.rights.narrow(taken.right, ALL, by="the agent"))
            await asyncio.sleep(0)
            narrowing.cancel()
            await asyncio.wait([narrowing])
        issued = sum(isinstance(record, Issued) for record in await lodge.records(taken.ward.mediator.line.store))
        assert issued == len(taken.ward.rights.by_id) == 3


async def test_a_capability_that_is_revoked_while_it_is_narrowed_gives_none_that_lives(tmp_path: Any) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open(crash=True) as taken:
        rights = taken.ward.rights
        parent, _ = await rights.narrow(taken.right, ALL, by="the agent")
        narrowing = asyncio.ensure_future(rights.narrow(parent, ALL, by="the agent"))
        await asyncio.sleep(0)
        await rights.revoke(parent.id, by="ann", reason="enough")
        child, handle = await narrowing
        assert rights.lapsed(child) == "the capability was revoked by ann: enough"
        with pytest.raises(Refused, match="revoked"):
            rights.shown(handle, "native")


async def test_a_run_that_is_full_is_still_taken_up_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(rights_of, "MOST", 3)
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open(crash=True) as taken:
        for _ in range(2):
            await taken.ward.rights.narrow(taken.right, ALL, by="the agent")
    async with lodge.open() as taken:
        assert await lodge.send(taken) == {"number": 1}


@pytest.mark.parametrize(
    "wanted",
    [Terms(tools=("*",)), Terms(tools=("mail.*",)), Terms(tools=("mail.send", "post.sen*")), Terms(tools=("post",))],
)
async def test_what_was_not_given_is_not_narrowed_into_being(wanted: Terms) -> None:
    async with begun() as (store, rights):
        right, _ = await rights.issue(Terms(tools=("post.*",)), by="tester")
        with pytest.raises(Refused, match="can only be narrowed"):
            await rights.narrow(right, wanted, by="the agent")
        assert len(await store.read(f"{RUN}@main")) == 1


async def test_every_bound_of_what_is_narrowed_is_at_most_its_parents() -> None:
    async with begun() as (_, rights):
        terms = Terms(
            tools=("post.*",), limits=(limit(prefix="a"),), budget=Budget(calls=3, money=3, blast=3),
            expires_ms=NOW_MS + 10, level=Level.TWO, doors=("native",),
        )  # fmt: skip
        right, _ = await rights.issue(terms, by="tester")
        wider = Terms(
            tools=("post.*",), budget=Budget(calls=9, money=None, blast=9), expires_ms=NOW_MS + 99, level=Level.NONE
        )
        narrowed, _ = await rights.narrow(right, wider, by="the agent")
        assert narrowed.terms == terms
        with pytest.raises(Refused, match="a door is asked for"):
            await rights.narrow(right, Terms(tools=("post.*",), doors=("native", "http")), by="the agent")


async def test_whose_parent_is_revoked_is_revoked_however_deep() -> None:
    async with begun() as (_, rights):
        first, _ = await rights.issue(ALL, by="tester")
        right, handle = first, ""
        for _ in range(5):
            right, handle = await rights.narrow(right, ALL, by="the agent")
        assert rights.shown(handle, "native") is right
        await rights.revoke(first.id, by="ann", reason="enough")
        with pytest.raises(Refused, match="revoked by ann: enough"):
            rights.shown(handle, "native")
        with pytest.raises(Refused, match="revoked by ann: enough"):
            await rights.narrow(right, ALL, by="the agent")


async def test_a_revocation_is_remembered_by_the_next_life() -> None:
    async with begun() as (store, rights):
        right, handle = await rights.issue(ALL, by="tester")
        await rights.revoke(right.id, by="ann", reason="enough")
        again = Rights(store, RUN, lambda: NOW_MS)
        await again.read()
        assert again.by_id[right.id].ended == "the capability was revoked by ann: enough"
        with pytest.raises(Refused, match="an earlier life"):
            again.shown(handle, "native")


async def test_what_has_expired_stays_expired_when_the_clock_is_set_back() -> None:
    now = [NOW_MS]
    async with begun(lambda: now[0]) as (_, rights):
        right, handle = await rights.issue(Terms(tools=("*",), expires_ms=NOW_MS + 10), by="tester")
        now[0] = NOW_MS + 10
        with pytest.raises(Refused, match="expired"):
            rights.shown(handle, "native")
        now[0] = NOW_MS - 1_000_000
        with pytest.raises(Refused, match="expired"):
            rights.shown(handle, "native")
        assert rights.lapsed(right) == "the capability has expired"


async def test_the_time_that_was_seen_ends_what_has_not_been_looked_at() -> None:
    now = [NOW_MS]
    async with begun(lambda: now[0]) as (_, rights):
        early, _ = await rights.issue(Terms(tools=("*",), expires_ms=NOW_MS + 10), by="tester")
        late, _ = await rights.issue(Terms(tools=("*",), expires_ms=NOW_MS + 1_000_000), by="tester")
        now[0] = NOW_MS + 20
        assert rights.lapsed(late) is None
        now[0] = NOW_MS
        assert rights.lapsed(early) == "the capability has expired"


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "hfc_",
        "hfc_" + "a" * 43,
        f"hfc_{'a' * 43}_{RUN}",
        f"hfc_{'é' * 43}_{RUN}",
        "hfc_" + "\ud800" * 43 + f"_{RUN}",
    ],
)
async def test_what_only_looks_like_a_handle_opens_nothing(handle: str) -> None:
    async with begun() as (_, rights):
        await rights.issue(ALL, by="tester")
        with pytest.raises(Refused, match="no capability of this run"):
            rights.shown(handle, "native")


async def test_neither_the_log_nor_an_error_tells_a_handle() -> None:
    async with begun() as (store, rights):
        right, handle = await rights.issue(ALL, by="tester")
        (entry,) = await store.read(f"{RUN}@main")
        assert handle.encode() not in entry.body
        assert digest_of(handle).encode() in entry.body
        assert handle not in repr(right)
        await rights.revoke(right.id, by="ann", reason="enough")
        with pytest.raises(Refused) as refused:
            rights.shown(handle, "native")
        assert handle not in str(refused.value)


@settings(max_examples=examples(50), deadline=None)
@given(st.text(max_size=80))
@example(f"hfc_{'a' * 43}_{RUN}@main")
def test_the_run_that_a_handle_says_is_what_stands_behind_its_secret(text: str) -> None:
    handle = f"hfc_{'a' * 43}_{text}"
    assert run_of(handle) == (text or None)
    assert run_of(text) is None or text.startswith("hfc_")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        JSON.map(json.dumps),
        st.dictionaries(st.sampled_from("budget doors expires_ms level limits tools".split()), JSON).map(json.dumps),
    )
)
@example("[" * 100_000)
@example('{"a":' * 50_000)
@example("9" * 10_000)
def test_terms_are_read_as_they_are_written_or_not_at_all(text: str) -> None:
    try:
        found = terms_of(text)
    except Corrupt:
        return
    assert found.text() == text


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
NATURAL = st.none() | st.integers(min_value=0)
TERMS = st.builds(
    Terms,
    tools=st.lists(st.text(max_size=8), max_size=4).map(tuple),
    limits=st.lists(
        st.builds(
            Limit, tool=st.text(max_size=8), argument=st.text(max_size=8), most=NATURAL,
            one_of=st.none() | st.lists(SCALARS, max_size=3).map(tuple), prefix=st.none() | st.text(max_size=8),
        ),
        max_size=3,
    ).map(tuple),
    budget=st.builds(Budget, calls=NATURAL, money=NATURAL, blast=NATURAL),
    expires_ms=NATURAL,
    level=st.sampled_from(Level),
    doors=st.lists(st.text(max_size=8), max_size=2).map(tuple),
)  # fmt: skip


@settings(max_examples=examples(60), deadline=None)
@given(TERMS, TERMS, st.text(max_size=8), st.dictionaries(st.text(max_size=8), SCALARS, max_size=3))
def test_what_a_narrowed_capability_covers_its_parent_covers(
    parent: Terms, wanted: Terms, tool: str, args: dict[str, Any]
) -> None:
    try:
        narrowed = narrow(parent, wanted)
    except Refused:
        return
    if narrowed.covers(tool, args) is None:
        assert parent.covers(tool, args) is None


async def test_what_is_written_is_what_was_given() -> None:
    async with begun() as (store, rights):
        terms = Terms(tools=("post.*",), limits=(limit(one_of=(1, "a", None, True, 0.5)),), budget=Budget(calls=1))
        right, _ = await rights.issue(terms, by="tester")
        (entry,) = await store.read(f"{RUN}@main")
        record = decode(entry.body)
        assert isinstance(record, Issued)
        assert terms_of(record.terms) == right.terms == terms
