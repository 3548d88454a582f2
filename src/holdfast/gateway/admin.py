"""The admin door: what people do about runs and capabilities, and how the store is read beside its one writer.

Rules
1. The system says who is here; a record that says another name is refused.
2. Only records that need no claim are placed here, each by those who may give that word, and where the log of the run
   can have them. No run is advanced.
3. A revocation takes effect before it is answered.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
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
from holdfast.gateway.doors.native import bytes_of
from holdfast.gateway.doors.strict import object_of
from holdfast.gateway.doors.told import told
from holdfast.gateway.gate import Gate
from holdfast.gateway.launching import bound, peer_of
from holdfast.gateway.people import People, Somebody
from holdfast.gateway.placing import place
from holdfast.gateway.rights import Right
from holdfast.store import Draft, Store

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
    """Listens at `path`. `terms`: what a fresh capability of an agent allows (as `Terms.text`)."""

    def __init__(self, path: Path, store: Store, gate: Gate, people: People, terms: Callable[[str], str]) -> None:
        self._path = path
        self._store = store
        self._gate = gate
        self._people = people
        self._terms = terms
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Begin to listen."""
        import socket

        app = web.Application(client_max_size=LARGEST)
        table: dict[str, Work] = {
            "read": self._read, "blob": self._blob, "branches": self._branches, "append": self._append,
            "capabilities": self._capabilities, "issue": self._issue, "narrow": self._narrow, "revoke": self._revoke,
            "runs": self._runs,
        }  # fmt: skip
        app.add_routes([web.post(f"/{name}", self._serving(work)) for name, work in table.items()])
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
            except (HoldfastError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as raised:
                error = raised if isinstance(raised, HoldfastError) else BadCall("the request is not understood")
                about = told(error)
                body = about.body()
                cast("dict[str, JSON]", body["error"])["type"] = type(error).__name__
                return web.json_response(body, status=about.status if about.status < 500 else 503)

        return serve

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
                "at_ms": each.at_ms, "holder": each.holder,
            }
            for each in found
        ]  # fmt: skip

    async def _append(self, who: Somebody, asked: Mapping[str, Any]) -> JSON:
        branch, stands_on = str(asked["branch"]), asked.get("stands_on")
        drafts: list[Draft] = []
        for each in cast("list[dict[str, Any]]", asked["drafts"]):
            body = str(each["body"]).encode()
            _check_word(who, decode(body))
            drafts.append(Draft(bytes.fromhex(each["key"]), body, bool(each.get("recall", False))))
        blobs = [get_blob(each) for each in cast("list[dict[str, Any]]", asked.get("blobs", []))]
        placed = await place(
            self._store,
            branch,
            drafts,
            after=_natural(asked.get("after")),
            blobs=blobs,
            watch={str(name): int(seq) for name, seq in dict(asked.get("watch", {})).items()},
            stands_on=None if stands_on is None else get_entry(stands_on),
        )
        taken = self._gate.wards.by_run.get(branch.partition("@")[0])
        if taken is not None:
            taken.ward.changed.set()
        return [put_entry(entry) for entry in placed]

    # --- capabilities ---

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
        terms = terms_of(self._terms(str(asked.get("agent") or ward.agent)))
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
