"""The AWS door: a program that uses an SDK of AWS speaks to it here, with keys that are worth something nowhere else.

Rules
1. Who asks is proven by the signature, made with the keys of the run: they follow from its handle. Nothing unsigned is
   heard, and nothing of a request that its signature does not cover.
2. A retry of an SDK, or a token that was shown before, is the same call: what was delivered is given again.
3. A refusal of the gateway is written as its protocol writes errors, and carries `x-holdfast-refused`.
"""

from __future__ import annotations

import json
import time
from collections import Counter, OrderedDict
from typing import Protocol, cast
from weakref import WeakKeyDictionary
from xml.sax.saxutils import escape

from aiohttp import web
from multidict import CIMultiDict

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, Kind
from holdfast.errors import BadCall, HoldfastError, Refused, Waiting
from holdfast.gateway.doors.native import Unshown, bytes_of, send
from holdfast.gateway.doors.told import Told, told
from holdfast.gateway.environment import dummy_keys
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.upstreams import Declined, Prepared, Reply, System
from holdfast.gateway.upstreams.aws_proof import Asked, Claim, check_whole, claim_of, proven
from holdfast.gateway.upstreams.http_answer import unpack
from holdfast.gateway.wards import Taken

DOOR = "aws"
LARGEST = 17 << 20  # bytes; parameters of which 16 MiB are written down
LENGTH = "x-holdfast-length"
REMEMBERED = 4096  # marks of calls, for each life of a run
RUNS = 1024  # lives of runs whose marks are remembered
_OWN = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", LENGTH})
_CODES = {"refused": "AccessDenied", "bad_call": "ValidationError", "busy": "Conflict"}


class Understands(Protocol):
    """What the door asks a system for, besides `System`."""

    def protocol(self, signing: str) -> str:
        """How the API that a signature is for is spoken."""
        ...

    def understood(self, claim: Claim, asked: Asked) -> tuple[str, dict[str, JSON], str | None]:
        """The operation that is asked for, its arguments, and its own token. Raises BadCall."""
        ...


class _Marks:
    """What calls were marked with: ids of an SDK's tries, and tokens; by the handle of each life of a run."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, OrderedDict[tuple[str, str], None]] = OrderedDict()

    def known(self, handle: str, marks: list[tuple[str, str]]) -> bool:
        """Whether one of these was there before; from now on all are."""
        seen = self._seen.setdefault(handle, OrderedDict())
        self._seen.move_to_end(handle)
        before = any(mark in seen for mark in marks)
        for mark in marks:
            seen[mark] = None
            seen.move_to_end(mark)
        while len(seen) > REMEMBERED:
            seen.popitem(last=False)
        while len(self._seen) > RUNS:
            self._seen.popitem(last=False)
        return before


_MARKS: WeakKeyDictionary[Gate, _Marks] = WeakKeyDictionary()


async def serve(request: web.Request, gate: Gate, run: str | None, system: System, path: str) -> web.StreamResponse:
    """Answer a request of an SDK to `system`, at `path` (raw, with its query), on a listener of `run` or on one that is
    shared (None)."""
    understands = cast(Understands, system)
    signing, visit = "", None
    try:
        asked = await _asked(request)
        claim = claim_of(asked, time.time())
        signing = claim.api
        visit = _visit(gate, run, asked, claim)
        with gate.inside(visit):
            return await _answered(request, gate, visit, system, _below(asked, path), claim)
    except (HoldfastError, Waiting) as error:
        if visit is None:
            await _noted(gate, run, error.what)
        return await send(request, _refused(request, error, understands.protocol(signing)))


async def _noted(gate: Gate, run: str | None, why: str) -> None:
    """Where the run is known, its log says that somebody was turned away."""
    taken = None if run is None else gate.wards.by_run.get(run)
    if taken is not None:
        await taken.ward.refuse("holdfast.door", f"{DOOR} {why}", f"door {DOOR}", why)


async def _asked(request: web.Request) -> Asked:
    """A request as it came. Raises Refused for one that can be read in two ways."""
    names = Counter(name.lower() for name, _ in request.headers.items())
    many = [header for header, times in names.items() if times > 1]
    if many:
        raise Refused(f"the header `{min(many)[:80]}` is there twice", fix="send it once")
    if "upgrade" in request.headers:
        raise Refused("another protocol is asked for", fix="speak HTTP/1.1 here")
    path, _, query = request.raw_path.partition("?")
    headers = {header.lower(): value for header, value in request.headers.items()}
    check_whole(headers)
    return Asked(request.method, path, query, headers, await bytes_of(request, LARGEST))


def _visit(gate: Gate, run: str | None, asked: Asked, claim: Claim) -> Visit:
    """Who has signed a request. Raises Unshown."""
    for taken in _candidates(gate, run):
        key, secret = dummy_keys(taken)
        if key == claim.key:
            if not proven(asked, claim, secret):
                fix = "sign with AWS_SECRET_ACCESS_KEY, and change nothing afterwards"
                raise Unshown(Refused("the signature is not that of this request", fix=fix))
            try:
                return gate.visit(run, taken.handle, DOOR)
            except Refused as error:
                raise Unshown(error) from None
    raise Unshown(Refused("the key is of no run here", fix="use AWS_ACCESS_KEY_ID as the run was given it"))


def _candidates(gate: Gate, run: str | None) -> list[Taken]:
    if run is None:
        return list(gate.wards.by_run.values())
    taken = gate.wards.by_run.get(run)
    return [] if taken is None else [taken]


def _below(asked: Asked, path: str) -> Asked:
    """The request as the system is asked it, without the place of the door."""
    bare, _, query = path.partition("?")
    return Asked(asked.method, bare or "/", query, asked.headers, asked.body)


async def _answered(
    request: web.Request, gate: Gate, visit: Visit, system: System, asked: Asked, claim: Claim
) -> web.StreamResponse:
    name, understands = system.name, cast(Understands, system)
    try:
        operation, args, token = understands.understood(claim, asked)
    except BadCall as error:
        what = f"{asked.method} {asked.path} {asked.headers.get('x-amz-target', '')}"
        await visit.ward.refuse(f"{name}.{claim.api}", what, f"door {DOOR}", error.what)
        raise
    prepared = await gate.prepare(visit, name, operation, args)
    resend = _resend(gate, visit, prepared, asked, token)
    try:
        response = _response(request, await visit.ward.call(visit.right, prepared, resend=resend))
    except Declined as error:
        response = _response(request, error.reply)
    except HoldfastError as error:
        response = _refused(request, error, understands.protocol(claim.api))
    sent = await send(request, response)
    visit.ward.delivered(prepared)
    return sent


def _resend(gate: Gate, visit: Visit, prepared: Prepared, asked: Asked, token: str | None) -> bool:
    """Whether a request is one that was sent before: an SDK says so, or its own token does. A read is asked anew."""
    marks = [("try", asked.headers.get("amz-sdk-invocation-id", "")), (prepared.contract.name, token or "")]
    known = _MARKS.setdefault(gate, _Marks()).known(visit.right.handle, [mark for mark in marks if mark[1]])
    return known and prepared.contract.kind is not Kind.READ


def _response(request: web.Request, reply: Reply) -> web.Response:
    if reply.encoding is not Encoding.BYTES:
        body: dict[str, JSON] = {"error": {"kind": "answer_lost", "what": "it happened, but its answer is not kept"}}
        return web.json_response(body, status=502)
    answer = unpack(reply.data)
    headers = CIMultiDict((name, value) for name, value in answer.headers if name not in _OWN)
    response = web.Response(
        status=answer.status, reason=answer.reason or None, headers=headers, body=answer.body or None
    )
    length = answer.header(LENGTH)
    if request.method == "HEAD" and length is not None:
        response.headers["Content-Length"] = length
    return response


def _refused(request: web.Request, error: BaseException, protocol: str) -> web.Response:
    about = told(error)
    status = 403 if isinstance(error, Unshown) else about.status
    headers = {"x-holdfast-refused": about.kind}
    if about.retry_s is not None:
        headers["retry-after"] = str(about.retry_s)
    code = _CODES.get(about.kind, "ServiceUnavailable" if status == 503 else "HoldfastRefused")
    text = " ".join(part for part in (about.what, about.where and f"[{about.where}]", about.fix) if part)
    kind, body = _error(about, code, text, protocol)
    headers["x-amzn-errortype"] = code
    body = b"" if request.method == "HEAD" else body
    return web.Response(status=status, headers={**headers, "content-type": kind}, body=body)


def _error(about: Told, code: str, text: str, protocol: str) -> tuple[str, bytes]:
    """An error as a protocol writes it."""
    if protocol in ("json", "rest-json"):
        value: dict[str, JSON] = {"__type": code, "message": text, **about.body()}
        return "application/x-amz-json-1.0" if protocol == "json" else "application/json", json.dumps(value).encode()
    inner = f"<Code>{escape(code)}</Code><Message>{escape(text)}</Message>"
    if protocol == "ec2":
        whole = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>holdfast</RequestID></Response>"
    elif protocol == "rest-xml":
        whole = f"<Error>{inner}<RequestId>holdfast</RequestId></Error>"
    else:
        kind = f"<Type>Sender</Type>{inner}"
        whole = f"<ErrorResponse><Error>{kind}</Error><RequestId>holdfast</RequestId></ErrorResponse>"
    return "text/xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}'.encode()
