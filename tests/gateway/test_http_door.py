"""A program that speaks HTTP at the gateway's door, through real rights, a real vault and a real log, to a system."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from holdfast.core.capability import Terms
from holdfast.core.codec import decode
from holdfast.core.record import Intent, Record, Seal
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.table import application
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams.http import HttpConfig, open_http
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Wanted, Wards
from holdfast.store.memory import MemoryStore
from tests.gateway.stand_in import SECRET, Peer, answer, peer
from tests.gateway.switchboard import Permissive

ROUTES = [
    {"method": "GET", "path": "/mails/{id}", "name": "get"},
    {"method": "PUT", "path": "/mails/{id}", "name": "put", "kind": "idempotent"},
    {"method": "POST", "path": "/mails", "name": "send", "identity": ["body.invoice"]},
    {"method": "POST", "path": "/keys", "name": "mint", "mints": ["body.secret"]},
]


@dataclass
class Door:
    """A gateway with one system, and what an agent has there."""

    url: str
    handle: str
    store: MemoryStore

    async def ask(self, method: str, path: str, *, body: object = None, **headers: str) -> tuple[int, bytes]:
        shown = {"authorization": f"Bearer {self.handle}", **headers}
        url = URL(f"{self.url}/http/shop{path}", encoded=True)
        async with aiohttp.request(method, url, json=body, headers=shown) as response:
            return response.status, await response.read()

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.store.read("r@main")]


@contextlib.asynccontextmanager
async def door(folder: Path, there: Peer, store: MemoryStore | None = None) -> AsyncIterator[Door]:
    """One life of the run, which ends as a crash ends it."""
    store = store or MemoryStore()
    (folder / "key").write_text(SECRET)
    (folder / "key").chmod(0o600)
    vault = Vault({"KEY": "file:key"}, store, uses={"KEY": {"shop"}}, folder=folder)
    config = HttpConfig.model_validate(
        {
            "kind": "http",
            "base": f"http://127.0.0.1:{there.port}",
            "inject": [{"credential": "KEY", "header": "Authorization", "prefix": "Bearer "}],
            "routes": ROUTES,
        }
    )
    shop = await open_http("shop", config, Kit(vault=vault, dialer=Dialer(["127.0.0.1"])))
    wards = Wards(store, Permissive, patience_s=0.2)
    taken = await wards.open(Wanted(run="r", agent="tests", terms=Terms(tools=("shop.*",)), by="tests"))
    app = application(Gate(wards, {"shop": shop}, kinds={"shop": "http"}), None, 17 << 20)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Door(f"http://127.0.0.1:{runner.addresses[0][1]}", taken.handle, store)
    finally:
        await runner.cleanup()
        await wards.close("r", ended=False)
        await shop.close()


async def test_a_program_is_answered_in_the_systems_own_words_and_the_log_holds_no_credential(tmp_path: Path) -> None:
    async with peer(lambda request: answer(201, request, x_seen="yes")) as there, door(tmp_path, there) as at:
        status, body = await at.ask("POST", "/mails", body={"invoice": "7"})
        records = await at.records()
        blobs = [await at.store.blob(bytes.fromhex(digest)) for digest in digests(records)]
    assert status == 201
    assert SECRET.encode() in there.got[0]
    assert at.handle.encode() not in there.got[0]
    assert SECRET.encode() not in body
    assert b"[credential:KEY]" in body
    assert sum(isinstance(record, Intent) for record in records) == 1
    assert blobs
    assert not [blob for blob in blobs if SECRET.encode() in blob.data]


def digests(records: list[Record]) -> list[str]:
    found = [record.args.digest for record in records if isinstance(record, Intent)]
    return found + [record.outcome.answer.digest for record in records if isinstance(record, Seal)]  # type: ignore[union-attr]


async def test_what_is_not_declared_is_told_as_the_gateways_refusal_and_not_sent(tmp_path: Path) -> None:
    async with peer() as there, door(tmp_path, there) as at:
        for method, path in (("DELETE", "/mails/7"), ("GET", "/mails/7/../8"), ("GET", "/mails/%2e%2e"), ("GET", "/a")):
            status, _ = await at.ask(method, path)
            assert 400 <= status < 500
    assert not there.got


async def test_an_idempotent_write_whose_answer_was_cut_off_is_sent_again_byte_for_byte(tmp_path: Path) -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
    async with peer(cut, answer(200, b"done")) as there, door(tmp_path, there) as at:
        assert await at.ask("PUT", "/mails/7", body={"b": 1.50, "a": "é"}) == (200, b"done")
    assert len(there.got) == 2
    assert without_connection(there.got[0]) == without_connection(there.got[1])


def without_connection(request: bytes) -> bytes:
    return b"\r\n".join(line for line in request.split(b"\r\n") if not line.lower().startswith(b"connection:"))


async def test_an_irreversible_write_whose_answer_was_cut_off_waits_for_a_person(tmp_path: Path) -> None:
    async with peer(b"HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nabc") as there, door(tmp_path, there) as at:
        first, told = await at.ask("POST", "/mails", body={"invoice": "7"})
        second, _ = await at.ask("POST", "/mails", body={"invoice": "7"})
    assert (first, second) == (503, 503)
    assert b"holdfast settle" in told
    assert len(there.got) == 1


async def test_a_program_that_is_started_again_is_answered_from_the_log(tmp_path: Path) -> None:
    store = MemoryStore()
    async with peer(answer(201, b'{"id": 1}'), answer(422, b"no"), answer(500, b"broken")) as there:
        answers = []
        for _ in range(2):
            async with door(tmp_path, there, store) as at:
                answers.append([await at.ask("POST", "/mails", body={"invoice": invoice}) for invoice in ("7", "8")])
    assert answers == [[(201, b'{"id": 1}'), (422, b"no")]] * 2
    assert len(there.got) == 2


async def test_a_secret_that_is_minted_serves_the_run_that_never_sees_it(tmp_path: Path) -> None:
    minted = "minted-0123456789abcdef"
    said = (answer(201, json.dumps({"secret": minted}).encode()), answer(200, b"ok"))
    async with peer(*said) as there, door(tmp_path, there) as at:
        _, body = await at.ask("POST", "/keys", body={})
        handle = json.loads(body)["secret"]
        await at.ask("PUT", "/mails/7", body={"with": handle})
    assert handle.startswith("hfv_")
    assert minted not in body.decode()
    assert minted.encode() in there.got[1]
