"""Attacks on capabilities, approvals and budgets, through the doors: each is denied, and the answer and the log say
why."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.capability import Budget, Limit, Terms
from holdfast.core.codec import decode
from holdfast.core.contract import Level
from holdfast.core.policy import Allowed, Denied, Facts, Verdict
from holdfast.core.policy import Held as Held_
from holdfast.core.record import Intent, Issued, Refusal, Seal
from holdfast.core.tree import ForkKind
from holdfast.errors import Held, Refused
from holdfast.gateway import ward as ward_of
from holdfast.gateway.desk import Desk
from holdfast.gateway.fork import Cutting, fork
from holdfast.gateway.order import Mark
from holdfast.gateway.upstreams import Prepared
from holdfast.gateway.wards import Wanted
from holdfast.store.memory import MemoryStore
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import ALL, RUN, Lodge, budget
from tests.gateway.threshold import NAME, Shop, Threshold, heard, request, shop, threshold


@pytest.fixture(scope="module")
def store_front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    with shop(tmp_path_factory.mktemp("shop")) as found:
        yield found


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Threshold]:
    async with threshold(tmp_path) as found:
        yield found


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db")


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.005)


# --- handles ---


async def test_a_revoked_handle_is_refused_at_every_door(here: Threshold) -> None:
    await here.gate.revoke(RUN, here.taken.right.id, by="ann", reason="enough")
    why = "the capability was revoked by ann: enough"
    for answer in (
        await here.call(),
        await here.call(handle=here.taken.handle),
        await here.get("/http/shop/customers"),
    ):
        assert (answer.status, answer.what, here.office.sent) == (401, why, [])
    assert why in await here.reasons()


async def test_an_expired_handle_is_refused(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    async with threshold(tmp_path, terms=Terms(tools=("*",), expires_ms=now + 3_600_000)) as here:
        assert (await here.call(handle=here.taken.handle)).status == 200
        here.taken.ward.rights._now_ms = lambda: now + 3_600_000
        assert (await here.call(handle=here.taken.handle)).what == "the capability has expired"
        here.taken.ward.rights._now_ms = lambda: now - 3_600_000  # the clock is set back
        answer = await here.call(handle=here.taken.handle)
        assert (answer.status, answer.what, len(here.office.sent)) == (401, "the capability has expired", 1)
        assert "the capability has expired" in await here.reasons()


async def test_the_handle_of_another_run_is_worth_nothing_here(here: Threshold) -> None:
    other = await here.gate.wards.open(Wanted(run="other", agent="clerk", terms=ALL, by="tester"))
    answer = await here.call(handle=other.handle)
    assert (answer.status, answer.what) == (401, "the handle is of no capability of this run")
    assert "the handle is of no capability of this run" in await here.reasons()
    assert here.office.sent == []


@pytest.mark.parametrize("name", ["Authorization: Bearer {}", "X-Api-Key: {}", "Authorization: Basic {basic}"])
async def test_however_a_strange_handle_is_shown_it_is_not_overlooked(here: Threshold, name: str) -> None:
    """Else whoever shows a wrong one would have the run's own right."""
    handle = f"hfc_{'a' * 43}_{RUN}"
    shown = name.format(handle, basic=base64.b64encode(f"u:{handle}".encode()).decode())
    answer = await here.raw(request("GET", "/v1/run", None, None, shown))
    assert (answer.status, answer.what) == (401, "the handle is of no capability of this run")


async def test_a_handle_of_an_earlier_life_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    async with threshold(tmp_path, store=store) as here:
        before = here.taken.handle
    async with threshold(tmp_path, store=store) as here:
        answer = await here.call(handle=before)
        assert (answer.status, answer.what) == (401, "the handle is of an earlier life of this run")
        assert "an earlier life" in await here.reasons()


async def test_where_handles_must_be_shown_nobody_comes_without(tmp_path: Path) -> None:
    async with threshold(tmp_path, strict=True) as here:
        answer = await here.call()
        assert (answer.status, answer.what) == (401, "no capability was shown")
        assert (await here.call(handle=here.taken.handle)).status == 200
        assert "no capability was shown" in await here.reasons()


async def test_what_was_narrowed_cannot_be_widened(here: Threshold) -> None:
    given = await here.post("/v1/narrow", {"tools": ["post.look"], "calls": 1})
    handle = json.loads(given.body)["handle"]
    wider = await here.post("/v1/narrow", {"tools": ["post.send"]}, handle)
    assert (wider.status, "can only be narrowed" in wider.what) == (403, True)
    more = json.loads((await here.post("/v1/narrow", {"tools": ["post.look"], "calls": 99}, handle)).body)["handle"]
    assert (await here.call("post.look", more)).status == 200
    spent = await here.call("post.look", more)
    assert (spent.status, "the budget of calls is spent" in spent.what) == (403, True)
    denied = await here.call("post.send", handle)
    assert "the capability does not name `post.send`" in denied.what
    assert "the capability does not name `post.send`" in await here.reasons()
    assert here.office.sent == []


async def test_whose_parent_is_revoked_is_refused_at_the_door(here: Threshold) -> None:
    child = json.loads((await here.post("/v1/narrow", {"tools": ["post.send"]})).body)
    grandchild = json.loads((await here.post("/v1/narrow", {"tools": ["post.send"]}, child["handle"])).body)
    await here.gate.revoke(RUN, child["capability"], by="ann", reason="enough")
    answer = await here.call(handle=grandchild["handle"])
    assert (answer.status, answer.what) == (401, "the capability was revoked by ann: enough")
    assert (await here.call()).status == 200  # the run's own is not touched


async def test_no_handle_stands_in_the_log_or_in_an_answer(here: Threshold) -> None:
    handle = json.loads((await here.post("/v1/narrow", {"tools": ["post.*"]})).body)["handle"]
    said = [await here.call(handle=handle), await here.call("post.burn", handle), await here.get("/v1/run", handle)]
    bodies = [entry.body for entry in await here.store.read(f"{RUN}@main")]
    assert not any(handle.encode() in each for each in [*bodies, *(answer.body for answer in said)])


# --- a revocation, and what is open ---


async def test_a_revocation_cuts_a_call_that_is_parked(tmp_path: Path) -> None:
    async with threshold(tmp_path) as here:
        here.taken.ward.patience_s = 600
        here.rules.rule = lambda facts: Held_("mail", "mail costs money", Level.ONE)
        waiting = asyncio.ensure_future(here.call())
        await until(lambda: here.taken.ward.mediator.parked is not None)
        await here.gate.revoke(RUN, here.taken.right.id, by="ann", reason="enough")
        assert (await waiting).status == 0
        assert here.office.sent == []


async def test_a_pooled_connection_outlives_no_revocation(here: Threshold) -> None:
    kept = request("GET", "/v1/run").replace(b"close", b"keep-alive")
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(kept)
    assert (await heard(reader)).status == 200
    await here.gate.revoke(RUN, here.taken.right.id, by="ann", reason="enough")
    writer.write(kept)
    answer = await heard(reader)
    assert (answer.status, answer.what) == (401, "the capability was revoked by ann: enough")
    writer.close()


async def test_a_tunnel_that_is_open_outlives_no_revocation(tmp_path: Path, store_front: Shop) -> None:
    async with threshold(tmp_path, store_front.port) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        assert (await heard(reader)).status == 200
        trusting = ssl.create_default_context(cadata=here.authority.pem.decode())
        await writer.start_tls(trusting, server_hostname=NAME)
        await here.gate.revoke(RUN, here.taken.right.id, by="ann", reason="enough")
        writer.write(f"GET /customers HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        answer = await heard(reader)
        assert (answer.status, answer.what) == (401, "the capability was revoked by ann: enough")
        writer.close()
        again = await here.raw(f"CONNECT {NAME}:443 HTTP/1.1\r\n\r\n".encode())
        assert (again.status, again.what) == (403, "the capability was revoked by ann: enough")


async def test_an_effect_that_is_under_way_when_its_right_ends_is_sealed(here: Threshold) -> None:
    here.office.gate = asyncio.Event()
    sending = asyncio.ensure_future(here.call())
    await until(lambda: here.office.receipts)
    await here.gate.revoke(RUN, here.taken.right.id, by="ann", reason="enough")
    assert (await sending).status == 0
    here.office.gate.set()
    await here.taken.ward.mediator.drain()
    records = [type(each).__name__ for each in await here.records()]
    assert records[-1] == "Seal"
    assert len(here.office.sent) == 1


# --- approvals ---


def asks(level: Level = Level.ONE) -> Any:
    def rule(facts: Facts) -> Verdict:
        return Held_("mail", "mail costs money", level)

    return rule


def mail(body: dict[str, Any], *headers: tuple[str, str]) -> dict[str, Any]:
    return {
        "method": "POST", "path": "/mails", "headers": dict([("content-type", "application/json"), *headers]),
        "body_b64": base64.b64encode(json.dumps(body).encode()).decode(),
    }  # fmt: skip


async def approved(here: Threshold, args: dict[str, Any]) -> None:
    prepared: Prepared = await here.gate.systems["shop"].prepare("", args)
    with pytest.raises(Held) as waiting:
        await here.taken.ward.call(here.taken.right, prepared)
    await Desk(here.store).approve(waiting.value.where, by="ann")
    await here.taken.ward.mediator.line.refresh()
    here.taken.ward.mediator.unpark()


async def calling(here: Threshold, args: dict[str, Any]) -> Any:
    return await here.taken.ward.call(here.taken.right, await here.gate.systems["shop"].prepare("", args))


SWAPPED = {
    "another amount": mail({"invoice": "approve-1", "amount": 1000}),
    "a further field": mail({"invoice": "approve-1", "amount": 1, "to": "me"}),
    "a number as a text": mail({"invoice": "approve-1", "amount": "1"}),
    "another invoice": mail({"invoice": "approve-2", "amount": 1}),
}


@pytest.mark.parametrize("kind", SWAPPED)
async def test_an_approval_of_one_call_sends_no_other(tmp_path: Path, store_front: Shop, kind: str) -> None:
    before = list(store_front.sent)
    async with threshold(tmp_path, store_front.port) as here:
        here.rules.rule = asks()
        await approved(here, mail({"invoice": "approve-1", "amount": 1}))
        with pytest.raises((Held, Refused)):
            await calling(here, SWAPPED[kind])
        assert await here.intents() == 0
    assert store_front.sent == before


async def test_an_approval_is_of_the_call_however_its_headers_are_ordered(tmp_path: Path, store_front: Shop) -> None:
    before = len(store_front.sent)
    async with threshold(tmp_path, store_front.port) as here:
        here.rules.rule = asks()
        first = mail({"invoice": "approve-3"}, ("accept", "application/json"))
        await approved(here, first)
        headers = dict(reversed(list(first["headers"].items())))
        await calling(here, {**first, "headers": headers})
    assert store_front.sent[before:] == ["approve-3"]


async def test_an_approval_is_spent_once_by_calls_in_parallel(lodge: Lodge) -> None:
    lodge.rules.rule = asks()
    async with lodge.open() as taken:
        with pytest.raises(Held) as waiting:
            await lodge.send(taken)
        await Desk(taken.ward.mediator.line.store).approve(waiting.value.where, by="ann")
    async with lodge.open() as taken:
        prepared = await lodge.office.prepare("send", {"to": "a"})
        calls = [taken.ward.call(taken.right, prepared) for _ in range(20)]
        calls += [taken.ward.call(taken.right, prepared, mark=Mark("client", each)) for each in range(4)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(each, Held) for each in found)
    assert [to for to, _ in lodge.office.sent] == ["a"]
    assert sum(isinstance(each, Intent) for each in await lodge.records()) == 1


async def test_an_approval_that_has_expired_sends_nothing(lodge: Lodge) -> None:
    lodge.rules.rule = asks()
    async with lodge.open() as taken:
        with pytest.raises(Held) as waiting:
            await lodge.send(taken)
        await Desk(taken.ward.mediator.line.store).approve(waiting.value.where, by="ann", expires_ms=1)
        await asyncio.sleep(0.01)
        taken.ward.mediator.unpark()
        with pytest.raises(Held, match="the approval has expired"):
            await lodge.send(taken)
    assert lodge.office.sent == []


# --- budgets ---


async def test_two_capabilities_spend_their_parents_budget_once(here: Threshold) -> None:
    limited = json.loads((await here.post("/v1/narrow", {"tools": ["post.*"], "calls": 3})).body)["handle"]
    children = [
        json.loads((await here.post("/v1/narrow", {"tools": ["post.send"], "calls": 3}, limited)).body)["handle"]
        for _ in range(4)
    ]
    answers = await asyncio.gather(
        *[
            here.call(handle=child, args={"to": f"{number}-{each}"})
            for number, child in enumerate(children)
            for each in range(3)
        ]
    )
    assert sorted(answer.status for answer in answers) == [200] * 3 + [403] * 9
    assert len(here.office.sent) == 3
    assert "the budget of calls is spent" in await here.reasons()


async def test_a_budget_is_of_the_run_and_of_all_its_branches(lodge: Lodge) -> None:
    async with lodge.open(budget(calls=2), crash=True) as taken:
        await lodge.send(taken, "a")
        store = taken.ward.mediator.line.store
        at = len(await store.read(f"{RUN}@main"))
        await fork(store, Cutting(f"{RUN}@main", at, ForkKind.RECOVERY, "ann"))
    async with lodge.open(budget(calls=2), crash=True) as taken:
        assert taken.ward.mediator.line.branch != f"{RUN}@main"
        await lodge.send(taken, "a")  # what its history has is not spent again
        await lodge.send(taken, "b")
        with pytest.raises(Refused, match="budget of calls"):
            await lodge.send(taken, "c")
    async with lodge.open(budget(calls=2)) as taken:
        with pytest.raises(Refused, match="budget of calls"):
            await lodge.send(taken, "d")
    assert [to for to, _ in lodge.office.sent] == ["a", "b"]


async def _agreed(lodge: Lodge, amount: int) -> int:
    """Send a letter to a about an amount; people agree where they are asked. How many calls the run has used up."""
    for _ in range(2):
        async with lodge.open(crash=True) as taken:
            await lodge.look(taken)
            prepared = await lodge.office.prepare("send", {"to": "a", "amount": amount})
            try:
                await taken.ward.call(taken.right, prepared)
            except Held as held:
                await Desk(taken.ward.mediator.line.store).approve(held.where, by="ann")
                continue
            return taken.ward.rights.spent.calls
    raise AssertionError("it was held again")


@pytest.mark.parametrize("where", ["on the same branch", "on another branch"])
async def test_what_is_sent_again_with_other_arguments_is_paid_for(lodge: Lodge, where: str) -> None:
    assert await _agreed(lodge, 1) == 2
    if where == "on another branch":
        store = SqliteStore(lodge.path)
        reading = next(entry.seq for entry in await store.read(f"{RUN}@main") if isinstance(decode(entry.body), Seal))
        await fork(store, Cutting(f"{RUN}@main", reading, ForkKind.RECOVERY, "ann", "another way", None, []))
        await store.close()
    assert await _agreed(lodge, 2) == 3
    assert len(lodge.office.sent) == 2
    async with lodge.open(crash=True) as taken:
        assert taken.ward.rights.spent.calls == 3


async def test_what_is_allowed_is_not_told_apart_by_the_spelling_of_an_argument(here: Threshold) -> None:
    terms = {"tools": ["post.send"], "limits": [{"tool": "post.*", "argument": "to", "one_of": ["ann"]}]}
    handle = json.loads((await here.post("/v1/narrow", terms)).body)["handle"]
    for to in ("Ann", "ann ", " ann", "ann\u0000", "ａｎｎ", ["ann"], {"ann": 1}, None, True):
        assert (await here.call(handle=handle, args={"to": to})).status == 403
    assert (await here.call(handle=handle, args={})).status == 403
    assert (await here.call(handle=handle, args={"to": "ann"})).status == 200
    assert [to for to, _ in here.office.sent] == ["ann"]


# --- floods ---


async def test_a_flood_of_calls_that_are_for_no_door_leaves_so_much_in_the_log(
    here: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ward_of, "MOST_REFUSALS", 20)
    for each in range(30):
        assert (await here.get(f"/no/such/door/{each}")).status == 403
    assert sum(isinstance(each, Refusal) for each in await here.records()) == 20


async def test_a_flood_of_calls_that_are_denied_comes_to_an_end(
    here: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ward_of, "MOST_DENIED", 20)
    here.rules.rule = lambda facts: Denied("no mail", "nothing is sent on Sundays")
    for each in range(30):
        assert (await here.call(args={"to": str(each)})).status == 403
    assert sum(isinstance(each, Refusal) for each in await here.records()) == 21
    assert "nothing more of it is judged" in await here.reasons()
    here.rules.rule = lambda facts: Allowed("all")
    assert (await here.call()).status == 403


# --- the deputy ---


async def test_what_another_agent_may_do_is_refused(tmp_path: Path, store_front: Shop) -> None:
    before = list(store_front.sent)
    async with threshold(tmp_path, store_front.port, terms=Terms(tools=("post.*",))) as here:
        send = here.raw(request("POST", "/http/shop/mails", '{"invoice":"9"}'))
        proxied = here.raw(f"GET http://{NAME}/customers HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        native = here.call("shop.mail", args={"body": {"invoice": "9"}})
        for answer in (await send, await proxied, await native):
            assert answer.status in (400, 403)
        assert "the capability does not name `shop.mail`" in await here.reasons()
    assert store_front.sent == before


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/gists"), ("PUT", "/mails"), ("POST", "/mails/7/forward"), ("POST", "/customers")]
)
async def test_what_is_not_declared_of_an_allowed_host_is_refused(
    tmp_path: Path, store_front: Shop, method: str, path: str
) -> None:
    before = list(store_front.sent)
    async with threshold(tmp_path, store_front.port) as here:
        answer = await here.raw(request(method, f"/http/shop{path}", '{"invoice":"9"}'))
        assert (answer.status, f"`{method} {path}` is no declared operation of `shop`" in answer.what) == (400, True)
        assert f"`{method} {path}` is no declared operation" in await here.reasons()
    assert store_front.sent == before


@pytest.mark.parametrize("tool", ["nobody.send", "post.burn", "shop", ".", "post.send.", "post.SEND", "holdfast.door"])
async def test_a_tool_that_is_not_there_is_refused_and_the_log_says_so(here: Threshold, tool: str) -> None:
    answer = await here.call(tool)
    assert answer.status in (400, 403)
    assert await here.reasons()
    assert here.office.sent == []


async def test_the_log_says_who_was_given_what_and_by_whom(here: Threshold) -> None:
    await here.post("/v1/narrow", {"tools": ["post.look"]})
    given = [each for each in await here.records() if isinstance(each, Issued)]
    assert [each.by for each in given] == ["tester", f"the agent ({here.taken.right.id})"]
    assert given[1].parent == given[0].capability


async def test_limits_of_terms_hold_at_the_door(tmp_path: Path) -> None:
    terms = Terms(
        tools=("post.*",), limits=(Limit(tool="post.send", argument="to", prefix="a"),), budget=Budget(calls=2)
    )
    async with threshold(tmp_path, terms=terms) as here:
        answer = await here.call(args={"to": "b"})
        assert (answer.status, "does not begin with `a`" in answer.what) == (403, True)
        assert "does not begin with `a`" in await here.reasons()
