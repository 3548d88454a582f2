"""The HTTP door: a program that speaks HTTP to a declared system speaks to it here, and hears the system's own words.

Rules
1. What is passed on is what the system's declaration understands; all else of a request stays here.
2. A refusal of the gateway is told apart from an answer of the system: it carries `x-holdfast-refused`.
3. A retry that a client's library marks as one, or the same request before its answer was delivered, is the same call.
"""

from __future__ import annotations

import base64
from collections import Counter

from aiohttp import web
from multidict import CIMultiDict

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding
from holdfast.errors import BadCall, HoldfastError, Waiting
from holdfast.gateway.doors.native import Unshown, bytes_of, send, visiting
from holdfast.gateway.doors.told import told
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.upstreams import Declined, Reply, System
from holdfast.gateway.upstreams.http_answer import unpack

DOOR = "http"
LARGEST = 17 << 20  # bytes; how much a system takes is its declaration's
AGAIN = "x-holdfast-again"
_RETRIES = ("x-stainless-retry-count", "x-holdfast-resend")
_OWN = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})


async def serve(request: web.Request, gate: Gate, run: str | None, system: System, path: str) -> web.StreamResponse:
    """Answer a request to a system over HTTP, at `path` (raw, with its query), on a listener of `run` or on one that is
    shared (None)."""
    try:
        async with visiting(gate, run, request, DOOR) as visit:
            return await _answered(request, gate, visit, system.name, path)
    except (HoldfastError, Waiting) as error:
        return await send(request, _refused(error))


async def _answered(request: web.Request, gate: Gate, visit: Visit, name: str, path: str) -> web.StreamResponse:
    try:
        args = await _args(request, path)
    except BadCall as error:
        await visit.ward.refuse(f"{name}.{request.method}", path, f"door {DOOR}", error.what)
        raise
    prepared = await gate.prepare(visit, name, "", args)
    again = request.headers.get(AGAIN)
    resend = any(request.headers.get(marked, "0").strip() not in ("0", "") for marked in _RETRIES)
    try:
        response = _response(await visit.ward.call(visit.right, prepared, resend=resend, again=again))
    except Declined as error:
        response = _response(error.reply)
    except HoldfastError as error:
        response = _refused(error)
    sent = await send(request, response)
    visit.ward.delivered(prepared)
    return sent


async def _args(request: web.Request, target: str) -> dict[str, JSON]:
    """A request as its system takes it. Raises BadCall for one that can be read in two ways."""
    many = [
        header for header, times in Counter(each.lower() for each, _ in request.headers.items()).items() if times > 1
    ]
    if many:
        raise BadCall(f"the header `{min(many)[:80]}` is there twice", fix="send it once")
    if "upgrade" in request.headers:
        raise BadCall("another protocol is asked for", fix="speak HTTP/1.1 here")
    path, _, query = target.partition("?")
    data = await bytes_of(request, LARGEST)
    args: dict[str, JSON] = {
        "method": request.method,
        "path": path or "/",
        "headers": {header.lower(): value for header, value in request.headers.items()},
    }
    if query:
        args["query"] = query
    if data:
        args["body_b64"] = base64.b64encode(data).decode()
    return args


def _response(reply: Reply) -> web.Response:
    if reply.encoding is not Encoding.BYTES:
        body: dict[str, JSON] = {"error": {"kind": "answer_lost", "what": "it happened, but its answer is not kept"}}
        return web.json_response(body, status=502)
    answer = unpack(reply.data)
    headers = CIMultiDict((name, value) for name, value in answer.headers if name not in _OWN)
    return web.Response(status=answer.status, reason=answer.reason or None, headers=headers, body=answer.body or None)


def _refused(error: BaseException) -> web.Response:
    about = told(error)
    status = 401 if isinstance(error, Unshown) else about.status
    headers = {"x-holdfast-refused": about.kind}
    if about.retry_s is not None:
        headers["retry-after"] = str(about.retry_s)
    return web.json_response(about.body(), status=status, headers=headers)
