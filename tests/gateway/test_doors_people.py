"""The door for people, and those who come to it with something else in mind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Happened, Kind, Payload
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.payload import Blob
from holdfast.core.record import (
    Approval,
    Attempt,
    Cancelled,
    Checkpoint,
    Claim,
    Decision,
    Draw,
    Finished,
    Hold,
    Intent,
    Issued,
    Override,
    Record,
    Refusal,
    Revoked,
    Seal,
    Settled,
    Signal,
    Started,
)
from holdfast.errors import Corrupt, HoldfastError
from holdfast.gateway.admin import get_blob, get_entry, put_entry
from holdfast.gateway.history import read_log
from holdfast.gateway.line import key_for
from holdfast.gateway.upstreams import Prepared
from tests.examples import examples
from tests.gateway.house_rules import ANN, RUN, STRANGER, House, house

MAIN = f"{RUN}@main"
ZERO = hashlib.sha256(b"null")
NULL = Payload(ZERO.hexdigest(), Encoding.JSON, 4)


@pytest.fixture
async def home() -> AsyncGenerator[House]:
    """A house with a run that has been taken up, and a call that waits for two people."""
    async with house() as found, found.starting() as starting:
        await starting.ask({"open": found.wanted()})
        await held(found)
        yield found


async def held(home: House) -> Hold:
    taken = home.gateway.wards.by_run[RUN]
    system = home.gateway.gate.systems["shop"]
    args: dict[str, Any] = {
        "method": "POST", "path": "/mails", "headers": {"content-type": "application/json"},
        "body_b64": base64.b64encode(b'{"invoice":"7"}').decode(),
    }  # fmt: skip
    prepared: Prepared = await system.prepare("", args)
    with pytest.raises(BaseException, match="waits for"):
        await taken.ward.call(taken.right, prepared)
    return next(each for each in await home.records() if isinstance(each, Hold))


async def the_hold(home: House) -> tuple[int, Hold]:
    entries = await home.gateway.opening.store.read(MAIN)
    records = await home.records()
    return next((entry.seq, each) for entry, each in zip(entries, records, strict=True) if isinstance(each, Hold))


def drafts(*records: Record, log: Log | None = None, key: bytes | None = None) -> list[dict[str, Any]]:
    return [
        {
            "key": (key_for(each, log or Log("")) if key is None else key).hex(),
            "body": encode(each).decode(),
        }
        for each in records
    ]


async def placed(home: House, *records: Record, uid: int | None = None, branch: str = MAIN, **more: Any) -> Any:
    """What the door says when somebody wants to place records."""
    log = (await read_log(home.gateway.opening.store, MAIN)).log
    asked = {"branch": branch, "drafts": drafts(*records, log=log, key=more.pop("key", None)), **more}
    if uid is None:
        return await home.people.ask("append", **asked)
    return await asyncio.to_thread(home.said_by, uid, "append", asked)


async def refused(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(HoldfastError) as raised:
        await work
    return raised.value.what


async def agree(home: House, by: str, **more: Any) -> Approval:
    seq, hold = await the_hold(home)
    return Approval(**{"hold": seq, "call": hold.call, "by": by, "expires_ms": hold.expires_ms, **more})


# --- who is here ---


@pytest.mark.parametrize(
    "what", ["read", "blob", "branches", "append", "capabilities", "issue", "narrow", "revoke", "runs"]
)
async def test_somebody_without_a_name_may_do_nothing(home: House, what: str) -> None:
    asked = {"run": RUN, "branch": MAIN, "capability": "c", "digest": "00" * 32, "terms": "", "drafts": []}
    status, body = await asyncio.to_thread(home.said_by, STRANGER, what, asked)
    assert (status, body["error"]["what"]) == (403, f"uid {STRANGER} is not known here")


@pytest.mark.parametrize("what", ["issue", "narrow", "revoke"])
async def test_who_may_approve_may_not_give_or_take_capabilities(home: House, what: str) -> None:
    needed = "revoke" if what == "revoke" else "issue"
    asked = {"run": RUN, "capability": "c", "terms": ""}
    status, body = await asyncio.to_thread(home.said_by, ANN, what, asked)
    assert (status, body["error"]["what"]) == (403, f"ann may not {needed} here")


async def test_who_may_approve_reads(home: House) -> None:
    status, body = await asyncio.to_thread(home.said_by, ANN, "runs", {})
    assert (status, [each["run"] for each in body]) == (200, [RUN])


# --- what is said in whose name ---


@pytest.mark.parametrize("name", ["bob", "Ann", "ann ", "root", "", "ann\u200b", "аnn"])
async def test_nobody_agrees_under_another_name(home: House, name: str) -> None:
    status, body = await placed(home, await agree(home, name), uid=ANN)
    assert (status, body["error"]["what"]) == (403, f"ann may not speak as {name}")
    assert not any(isinstance(each, Approval) for each in await home.records())


async def test_one_person_who_agrees_twice_is_one(home: House) -> None:
    await placed(home, await agree(home, "ann"), uid=ANN)
    await placed(home, await agree(home, "ann"), uid=ANN)
    taken = home.gateway.wards.by_run[RUN]
    await taken.ward.mediator.line.refresh()
    slot = next(iter(taken.ward.mediator.line.log.unclaimed()), None) or next(
        iter(taken.ward.mediator.line.log.slots.values())
    )
    assert slot.intent is None
    assert not any(isinstance(each, Intent) for each in await home.records())
    with pytest.raises(BaseException, match="waits for"):
        await again(home)
    assert not any(isinstance(each, Intent) for each in await home.records())


async def again(home: House) -> None:
    taken = home.gateway.wards.by_run[RUN]
    args: dict[str, Any] = {
        "method": "POST", "path": "/mails", "headers": {"content-type": "application/json"},
        "body_b64": base64.b64encode(b'{"invoice":"7"}').decode(),
    }  # fmt: skip
    taken.ward.mediator.unpark()
    await taken.ward.call(taken.right, await home.gateway.gate.systems["shop"].prepare("", args))


async def test_several_records_are_each_checked(home: House) -> None:
    status, body = await placed(home, await agree(home, "ann"), await agree(home, "bob"), uid=ANN)
    assert (status, body["error"]["what"]) == (403, "ann may not speak as bob")
    assert not any(isinstance(each, Approval) for each in await home.records())


# --- what people may not place ---

HEX = "00" * 32
NOT_OF_PEOPLE: dict[str, Record] = {
    "claim": Claim(worker="me", previous="none"),
    "started": Started(agent="boss", input=NULL),
    "finished": Finished(answer=NULL, error=None),
    "attempt": Attempt(intent=1, number=1, why="again"),
    "seal": Seal(intent=None, tool="shop.mail", identity=HEX, n=0, args=NULL, outcome=Happened(NULL)),
    "refusal": Refusal(hold=None, tool="shop.mail", identity=HEX, n=0, by="ann", reason="no"),
    "issued": Issued(capability="c1", parent=None, handle=HEX, terms="{}", by="ann"),
    "revoked": Revoked(capability="c1", by="ann", reason="no"),
    "draw": Draw(name="a", n=0, value="b"),
}


@pytest.mark.parametrize("kind", NOT_OF_PEOPLE)
async def test_what_only_a_run_writes_nobody_places_not_even_root(home: House, kind: str) -> None:
    why = await refused(placed(home, NOT_OF_PEOPLE[kind], key=b""))
    assert why == f"a `{kind}` is not placed by people"


@pytest.mark.parametrize("kind", [Intent, Decision, Checkpoint, Override])
async def test_no_record_that_changes_what_a_run_knows_is_placed_by_people(home: House, kind: type[Record]) -> None:
    values: dict[str, Any] = {"str": "a", "int": 1, "Kind": Kind.READ, "Payload": NULL, "str | None": None}
    given = {
        each.name: values.get(str(each.type), () if "tuple" in str(each.type) else None)
        for each in dataclasses.fields(kind)
    }
    if kind is Intent:
        given["identity"] = HEX
    why = await refused(placed(home, kind(**given), key=b""))
    assert why == f"a `{kind.__name__.lower()}` is not placed by people"


# --- what would end the run ---


async def poison(home: House, what: str) -> Record:
    seq, hold = await the_hold(home)
    found: dict[str, Record] = {
        "an approval of nothing": await agree(home, "ann", hold=999),
        "an approval of what is no hold": await agree(home, "ann", hold=1),
        "a refusal of nothing": Refusal(hold=999, tool=hold.tool, identity=hold.identity, n=0, by="ann", reason="no"),
        "a verdict on nothing": Settled(intent=999, outcome=Happened(NULL), by="ann"),
        "a verdict on a hold": Settled(intent=seq, outcome=Happened(NULL), by="ann"),
    }
    return found[what]


POISON = [
    "an approval of nothing", "an approval of what is no hold", "a refusal of nothing", "a verdict on nothing",
    "a verdict on a hold",
]  # fmt: skip


@pytest.mark.parametrize("what", POISON)
async def test_what_the_log_cannot_have_is_not_placed_and_the_run_goes_on(home: House, what: str) -> None:
    before = len(await home.records())
    assert await refused(placed(home, await poison(home, what)))
    assert len(await home.records()) == before
    await read_log(home.gateway.opening.store, MAIN)


@pytest.mark.parametrize("key", [b"", b"tree", b"capability", b"\0" * 32, b"signal/go"])
async def test_a_word_is_looked_up_by_what_it_says(home: House, key: bytes) -> None:
    record = await agree(home, "ann") if key != b"" else Signal(name="go", value=NULL, by="ann")
    assert await refused(placed(home, record, key=key)) == "a record is to be found under what it is about"


async def test_nothing_is_placed_where_nothing_is_to_be_placed(home: House) -> None:
    assert await refused(home.people.ask("append", branch=MAIN, drafts=[])) == "nothing is said"


@pytest.mark.parametrize(
    "branch",
    [
        "other@main",
        "r@../main",
        "r",
        "",
        "@",
        "r@main@main",
        "r@main\n",
        "../runs.db",
        "r@main/../main",
        "r@" + "a" * 9000,
        "r\0@main",
    ],
)
async def test_a_branch_that_is_not_there_is_not_made(home: House, branch: str) -> None:
    before = [each.name for each in await home.gateway.opening.store.branches()]
    assert await refused(placed(home, Cancelled(by="ann", reason="no"), branch=branch))
    assert [each.name for each in await home.gateway.opening.store.branches()] == before


async def test_a_branch_stands_on_an_entry_that_is_there(home: House) -> None:
    (entry,) = await home.gateway.opening.store.read(MAIN, newest=1)
    forged = Entry(MAIN, entry.seq, entry.epoch, entry.at_ms, b"", encode(Cancelled(by="a", reason="b")), entry.digest)
    for stands_on in (forged, Entry("other@main", 1, 0, 0, b"", b"{}", b"\0" * 32)):
        asked = placed(home, Cancelled(by="ann", reason="no"), branch="r@b2", stands_on=put_entry(stands_on))
        assert await refused(asked) == "a branch stands on an entry of its run"


# --- payloads ---


def blob(data: bytes, *, digest: bytes | None = None, rope: bool = False) -> dict[str, Any]:
    name = hashlib.sha256(data).digest() if digest is None else digest
    return {"digest": name.hex(), "data": base64.b64encode(data).decode(), "rope": rope}


FALSE = {
    "another digest": blob(b"1", digest=ZERO.digest()),
    "a rope of something else": blob(b"\0\0\0\0\1a", digest=ZERO.digest(), rope=True),
    "a rope of itself": blob(b"\1" + ZERO.digest(), digest=ZERO.digest(), rope=True),
    "a rope of what is not there": blob(b"\1" + b"\7" * 32, digest=ZERO.digest(), rope=True),
    "a rope that is none": blob(b"garbage", digest=ZERO.digest(), rope=True),
}


@pytest.mark.parametrize("kind", FALSE)
async def test_a_payload_that_is_not_what_it_says_is_not_kept(home: House, kind: str) -> None:
    record = Signal(name="go", value=NULL, by="ann")
    assert await refused(placed(home, record, blobs=[FALSE[kind]]))
    assert not any(isinstance(each, Signal) for each in await home.records())


async def test_a_payload_that_is_what_it_says_is_kept(home: House) -> None:
    await placed(home, Signal(name="go", value=NULL, by="ann"), blobs=[blob(b"null")])
    assert await home.gateway.opening.store.blob(ZERO.digest()) == Blob(ZERO.digest(), b"null")


# --- what is not understood ---

WRONG: dict[str, tuple[str, Any]] = {
    "no JSON": ("runs", b"garbage"),
    "no object": ("runs", b"[]"),
    "a name twice": ("runs", b'{"a": 1, "a": 2}'),
    "no number": ("read", b'{"branch": "r@main", "after": NaN}'),
    "depth": ("runs", b'{"a":' * 100_000),
    "a digest that is none": ("blob", {"digest": "zz"}),
    "no digest": ("blob", {}),
    "a short digest": ("blob", {"digest": "00"}),
    "a place that is none": ("read", {"branch": MAIN, "after": "x"}),
    "a place beyond all": ("read", {"branch": MAIN, "after": 10**40}),
    "a key that is none": ("read", {"branch": MAIN, "key": "x"}),
    "a newest that is none": ("read", {"branch": MAIN, "newest": "x"}),
    "drafts that are none": ("append", {"branch": MAIN, "drafts": 5}),
    "a draft that is none": ("append", {"branch": MAIN, "drafts": [5]}),
    "a body that is none": ("append", {"branch": MAIN, "drafts": [{"key": "", "body": "{}"}]}),
    "a watch that is none": ("append", {"branch": MAIN, "drafts": [], "watch": "x"}),
    "a run that is not here": ("issue", {"run": "other"}),
    "a run that is none": ("issue", {"run": {}}),
    "terms that are none": ("narrow", {"run": RUN, "capability": "{capability}", "terms": "{}"}),
    "a capability that is not there": ("narrow", {"run": RUN, "capability": "c0", "terms": "{}"}),
    "a revocation of nothing": ("revoke", {"run": RUN, "capability": "c0"}),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_not_understood_is_refused_with_a_reason(home: House, kind: str) -> None:
    what, asked = WRONG[kind]
    before = len(await home.records())
    status, body = await asyncio.to_thread(home.said_by, 0, what, asked)
    assert 400 <= status < 500 or body["error"]["type"] == "Corrupt"
    assert body["error"]["what"]
    assert len(await home.records()) == before


# --- what is read back ---

PARTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("00" * 32)
        | st.just("AAAA") | st.lists(st.integers(), max_size=2)
        for name in ("branch", "seq", "epoch", "at_ms", "key", "body", "digest", "data", "rope")
    },
)  # fmt: skip


@settings(max_examples=examples(80), deadline=None)
@given(PARTS)
@example({"digest": "00" * 32, "data": "é", "rope": False})
@example({"branch": "r", "seq": float("inf"), "epoch": 0, "at_ms": 0, "key": "", "body": "", "digest": ""})
@example({"branch": "r", "seq": 1, "epoch": 0, "at_ms": 0, "key": "", "body": "\ud800", "digest": ""})
def test_an_entry_and_a_payload_are_read_or_corrupt(found: dict[str, Any]) -> None:
    for read in (get_entry, get_blob):
        with contextlib.suppress(Corrupt):
            read(found)


@settings(max_examples=examples(50), deadline=None)
@given(st.text(max_size=9), st.integers(0), st.integers(0), st.integers(0), st.binary(max_size=40), st.binary())
def test_an_entry_comes_back_as_it_was(branch: str, seq: int, epoch: int, at_ms: int, key: bytes, body: bytes) -> None:
    entry = Entry(branch, seq, epoch, at_ms, key, body, b"\1" * 32)
    assert get_entry(json.loads(json.dumps(put_entry(entry)))) == entry
