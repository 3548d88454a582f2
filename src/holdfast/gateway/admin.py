"""The admin door: what people do about runs and capabilities, and how the store is read beside its one writer.

Rules
1. The system says who is here; a record that says another name is refused.
2. Only records that need no claim are placed here, each by those who may give that word, and where the log of the run
   can have them. No run is advanced.
3. A revocation takes effect before it is answered.
4. A doubt of a run that is taken up here may be ended while the run waits, and nothing of it is in flight.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from holdfast.core.canonical import JSON
from holdfast.core.capability import terms_of
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.core.record import (
    Abandoned,
    Approval,
    Cancelled,
    Forked,
    Promoted,
    Record,
    Refusal,
    Settled,
    Signal,
)
from holdfast.errors import BadCall, Corrupt, HoldfastError, Misuse, Refused
from holdfast.gateway.brought import check_brought
from holdfast.gateway.doors.native import bytes_of
from holdfast.gateway.doors.strict import object_of
from holdfast.gateway.doors.told import for_people
from holdfast.gateway.fork import fork
from holdfast.gateway.forking import cutting_in
from holdfast.gateway.gate import Gate
from holdfast.gateway.health import Health
from holdfast.gateway.launching import peer_of
from holdfast.gateway.people import People, Somebody
from holdfast.gateway.premises import bound
from holdfast.gateway.rights import Right
from holdfast.gateway.word import fitting
from holdfast.store import Draft, Store
from holdfast.store.clock import clock_of
from holdfast.store.worker import Worker

_log = logging.getLogger("holdfast")
LARGEST = 64 << 20  # bytes of a body
_WORDS: dict[type[Record], str] = {
    Approval: "approve",
    Refusal: "approve",
    Settled: "settle",
    Signal: "settle",
    Cancelled: "revoke",
    Forked: "settle",
    Promoted: "settle",
    Abandoned: "settle",
}
"""What may be placed here, and what whoever places it must be allowed to do."""

Work = Callable[[Somebody, Mapping[str, Any]], Awaitable[JSON]]


class AdminDoor:
    """Listens at `path`. `terms`: what a fresh capability of an agent allows (as `Terms.text`); `owners`: who claims
    which branch of the store."""

    def __init__(
        self, path: Path, store: Store, gate: Gate, people: People, terms: Callable[[str], str],
        owners: Callable[[], dict[str, Worker]], health: Health,
    ) -> None:  # fmt: skip
        self._owned = owners
        self._path = path
        self._store = store
        self._gate = gate
        self._people = people
        self._terms = terms
        self._health = health
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Begin to listen."""
        import socket

        app = web.Application(client_max_size=LARGEST)
        table: dict[str, Work] = {
            "read": self._read, "blob": self._blob, "branches": self._branches, "append": self._append,
            "capabilities": self._capabilities, "issue": self._issue, "narrow": self._narrow, "revoke": self._revoke,
            "runs": self._runs, "owners": self._owners, "fork": self._fork,
            "whoami": self._whoami,
        }  # fmt: skip
        app.add_routes([web.post(f"/{name}", self._serving(work)) for name, work in table.items()])
        app.add_routes([web.get(f"/{name}", self._well) for name in ("healthz", "readyz", "metrics")])
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, bound(self._path, socket.SOCK_STREAM, self._people.group)).start()

    async def close(self) -> None:
        """Let go of the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    def _serving(self, work: Work) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                assert request.transport is not None
                somebody = self._people.at(peer_of(request.transport.get_extra_info("socket")))
                return web.json_response(await work(somebody, await _asked(request)))
            except (HoldfastError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                if not isinstance(error, HoldfastError):
                    _log.warning("the admin door was asked what it does not understand", exc_info=error)
                    error = BadCall("this is not understood", fix="use the Holdfast that the gateway is of")
                about = for_people(error)
                return web.json_response(about.body(), status=about.status if about.status < 500 else 503)

        return serve

    async def _well(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        try:
            self._people.at(peer_of(request.transport.get_extra_info("socket"))).check("read")
        except Refused as error:
            return web.json_response(for_people(error).body(), status=403)
        status, kind, text = await self._health.answer(request.path, detail=True)
        return web.Response(status=status, body=text.encode(), headers={"Content-Type": kind})

    # --- the store, as everybody but its writer sees it ---

    async def _read(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        key = asked.get("key")
        entries = await self._store.read(
            str(asked["branch"]),
            after=_natural(asked.get("after")) or 0,
            key=None if key is None else bytes.fromhex(key),
            unclaimed=bool(asked.get("unclaimed", False)),
            newest=_natural(asked.get("newest")),
            upto=_natural(asked.get("upto")),
        )
        return [put_entry(entry) for entry in entries]

    async def _blob(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        blob = await self._store.blob(bytes.fromhex(asked["digest"]))
        return {"digest": blob.digest.hex(), "data": base64.b64encode(blob.data).decode(), "rope": blob.rope}

    async def _branches(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        found = await self._store.branches(str(asked.get("prefix", "")))
        return [
            {
                "name": each.name, "seq": each.seq, "digest": each.digest.hex(), "epoch": each.epoch,
                "at_ms": each.at_ms, "holder": "" if self._at_rest(each.name) else each.holder,
            }
            for each in found
        ]  # fmt: skip

    async def _owners(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        found = await asyncio.to_thread(self._owned)
        return {name: cast("dict[str, JSON]", asdict(each)) for name, each in found.items()}

    def _advances(self, branch: str) -> bool:
        taken = self._gate.wards.by_run.get(branch.partition("@")[0])
        return taken is not None and taken.ward.mediator.line.branch == branch

    def _at_rest(self, branch: str) -> bool:
        """Whether a branch that is taken up here waits, and nothing of it is in flight or on its way into the log: then
        its doubts are for people, while its program waits at a door."""
        if not self._advances(branch):
            return False
        mediator = self._gate.wards.by_run[branch.partition("@")[0]].ward.mediator
        return mediator.parked is not None and not mediator.open and mediator.line.settled

    async def _append(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        branch = str(asked["branch"])
        words: list[tuple[Draft, Record]] = []
        for each in cast("list[dict[str, Any]]", asked["drafts"]):
            body = str(each["body"]).encode()
            record = decode(body)
            _check_word(who, record)
            words.append((Draft(bytes.fromhex(each["key"]), body), record))
        if not words:
            raise BadCall("nothing is said", fix="drafts: one or more")
        stands_on, drafts = asked.get("stands_on"), [draft for draft, _ in words]
        blobs = [get_blob(each) for each in cast("list[dict[str, Any]]", asked.get("blobs", []))]
        await check_brought(self._store, branch, blobs, None if stands_on is None else get_entry(stands_on))
        after = await fitting(
            self._store,
            branch,
            words,
            _natural(asked.get("after")),
            clock_of(self._store)(),
            rests=lambda: self._at_rest(branch),
        )
        placed = await self._store.append(
            branch, drafts, epoch=0, after=after, barrier=True, blobs=blobs,
            watch={str(name): int(seq) for name, seq in dict(asked.get("watch", {})).items()},
            stands_on=None if stands_on is None else get_entry(stands_on),
        )  # fmt: skip
        taken = self._gate.wards.by_run.get(branch.partition("@")[0])
        if taken is not None:
            taken.ward.changed.set()
        return [put_entry(entry) for entry in placed]

    async def _fork(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        cutting = cutting_in(asked)
        who.check(_WORDS[Forked])
        who.speaks_as(cutting.by)
        branch = await fork(self._store, cutting)
        taken = self._gate.wards.by_run.get(cutting.run)
        if taken is not None:
            taken.ward.changed.set()
        return {"branch": branch}

    # --- capabilities ---

    async def _whoami(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        return {"name": who.name, "may": [*sorted(who.may)], "all": who.all}

    async def _runs(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        return [
            {"run": run, "agent": taken.ward.agent, "waiting": str(taken.ward.mediator.parked or "")}
            for run, taken in sorted(self._gate.wards.by_run.items())
        ]

    async def _capabilities(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("read")
        rights = self._gate.wards.by_run[self._taken(asked)].ward.rights
        return [_about(right, rights.lapsed(right)) for right in rights.by_id.values()]

    async def _issue(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("issue")
        ward = self._gate.wards.by_run[self._taken(asked)].ward
        terms = terms_of(self._terms(ward.agent))
        right, handle = await ward.rights.issue(terms, by=who.name)
        return {"capability": right.id, "handle": handle}

    async def _narrow(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("issue")
        ward = self._gate.wards.by_run[self._taken(asked)].ward
        parent = ward.rights.by_id.get(str(asked["capability"]))
        if parent is None:
            raise Misuse(f"there is no capability `{asked['capability']}`", fix="holdfast cap list RUN")
        right, handle = await ward.rights.narrow(parent, terms_of(str(asked["terms"])), by=who.name)
        return {"capability": right.id, "handle": handle}

    async def _revoke(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        who.check("revoke")
        reason = str(asked.get("reason", "no reason was given"))
        await self._gate.revoke(self._taken(asked), str(asked["capability"]), by=who.name, reason=reason)
        return {"revoked": str(asked["capability"])}

    def _taken(self, asked: Mapping[str, Any]) -> str:
        run = str(asked["run"])
        if run not in self._gate.wards.by_run:
            raise Misuse("the run is not taken up: it has no capability that is worth anything", where=run)
        return run


def _check_word(who: Somebody, record: Record) -> None:
    """Raises Refused unless this person may place this record."""
    needed = _WORDS.get(type(record))
    if needed is None or (isinstance(record, Refusal) and record.hold is None):
        raise Refused(f"a `{type(record).__name__.lower()}` is not placed by people", fix="let its run write it")
    who.check(needed)
    who.speaks_as(str(getattr(record, "by", "")))


async def _asked(request: web.Request) -> Mapping[str, Any]:
    return _Asked(object_of(await bytes_of(request, LARGEST) or b"{}"))


class _Asked(dict[str, Any]):
    """What is asked for; a field that is missing is the asker's mistake."""

    def __missing__(self, name: str) -> Any:
        raise BadCall(f"`{name}` is missing")


def _natural(found: object) -> int | None:
    """A position or a number of entries. Raises BadCall."""
    if found is not None and not (type(found) is int and 0 <= found < 1 << 63):
        raise BadCall("a position is no natural number")
    return found


def _about(right: Right, lapsed: str | None) -> JSON:
    return {
        "capability": right.id,
        "parent": None if right.parent is None else right.parent.id,
        "by": right.by,
        "terms": json.loads(right.terms.text()),
        "used": {"calls": right.used.calls, "money": right.used.money, "blast": right.used.blast},
        "live": right.live,
        "ended": lapsed or "",
    }


def put_entry(entry: Entry) -> dict[str, JSON]:
    """An entry as JSON."""
    return {
        "branch": entry.branch, "seq": entry.seq, "epoch": entry.epoch, "at_ms": entry.at_ms, "key": entry.key.hex(),
        "body": base64.b64encode(entry.body).decode(), "digest": entry.digest.hex(),
    }  # fmt: skip


def get_entry(found: Mapping[str, Any]) -> Entry:
    """The entry of `put_entry`. Raises Corrupt."""
    try:
        return Entry(
            branch=str(found["branch"]), seq=int(found["seq"]), epoch=int(found["epoch"]), at_ms=int(found["at_ms"]),
            key=bytes.fromhex(found["key"]), body=base64.b64decode(found["body"], validate=True),
            digest=bytes.fromhex(found["digest"]),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise Corrupt("an entry cannot be read") from error


def get_blob(found: Mapping[str, Any]) -> Blob:
    """A payload as `Store.blob` gives it. Raises Corrupt."""
    try:
        data = base64.b64decode(found["data"], validate=True)
        blob = Blob(bytes.fromhex(found["digest"]), data, bool(found["rope"]))
        if not blob.rope and hashlib.sha256(data).digest() != blob.digest:
            raise Corrupt("a payload is not what its digest says")
        return blob
    except (KeyError, ValueError, TypeError) as error:
        raise Corrupt("a payload cannot be read") from error
