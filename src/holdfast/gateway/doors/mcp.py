"""The MCP door: JSON-RPC over streamable HTTP, at `/mcp/NAME` for each declared server.

Rules
1. An answer is the server's own, byte for byte; only its id is the client's.
2. A tool that was refused answers as tools do (`isError`), so that a model sees why; what waits is 503, and the same
   request, sent again, joins.
3. A client's notifications end here, and a server's questions never come this far: nothing passes that is not written
   down, but for the progress that a server tells.
4. Browsers are turned away.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from typing import cast

from aiohttp import web

from holdfast.core.canonical import JSON, canonical
from holdfast.errors import BadCall, HoldfastError, Refused, Waiting
from holdfast.gateway.doors.native import Unshown, bytes_of, send, visiting
from holdfast.gateway.doors.told import Told, told
from holdfast.gateway.gate import Gate, Visit
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.mcp import McpSystem
from holdfast.gateway.upstreams.mcp_peer import LATEST, VERSIONS
from holdfast.gateway.upstreams.mcp_wire import (
    BAD_PARAMS,
    BAD_REQUEST,
    LARGEST,
    Malformed,
    Message,
    answer,
    failure,
    parse,
    streamed,
)

DOOR = "mcp"
VISIT = "Mcp-Session-Id"
REMEMBERED = 4096  # delivered requests that are known again if they are resent
MEANWHILE, LARGEST_TOLD = 100, 1 << 20  # messages that wait to be told, and their bytes: what is more is left out
_PATH = "/mcp/{name:[^/]+}{rest:(/.*)?}"  # the rest is the server's own path, where a client believes to be there
_EMPTY = b'{"result":{}}'
_CODES = {"bad_call": BAD_PARAMS, "refused": -32001, "not_happened": -32003}
_WAITS = -32002


def routes(gate: Gate, run: str | None) -> list[web.RouteDef]:
    """The door's routes, on a listener of `run`, or on one that is shared (None)."""
    door = _Mcp(gate, run)
    return [web.post(_PATH, door.post), web.route("*", _PATH, door.other)]


class _Mcp:
    def __init__(self, gate: Gate, run: str | None) -> None:
        self._gate = gate
        self._run = run
        self._seen: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()

    async def other(self, request: web.Request) -> web.StreamResponse:
        """A goodbye is heard; there is no stream to listen to."""
        if request.method == "DELETE" and "Origin" not in request.headers:
            return await send(request, web.Response(status=204))
        return await send(request, web.Response(status=405, headers={"Allow": "POST, DELETE"}))

    async def post(self, request: web.Request) -> web.StreamResponse:
        """One message of a client."""
        try:
            async with visiting(self._gate, self._run, request, DOOR) as visit:
                return await self._message(request, visit)
        except (HoldfastError, Waiting) as error:
            status = 401 if isinstance(error, Unshown) else told(error).status
            return await send(request, _json(answer(None, _failure(told(error))), status))

    async def _message(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        if "Origin" in request.headers:
            raise Refused("a browser may not come here")
        version = request.headers.get("MCP-Protocol-Version", LATEST)
        system = self._gate.systems.get(request.match_info["name"])
        try:
            if request.content_type != "application/json":
                raise Malformed(BAD_REQUEST, "a message is application/json")
            if version not in VERSIONS:
                raise Malformed(-32000, f"Unsupported protocol version (supported: {', '.join(VERSIONS)})")
            message = parse(await bytes_of(request, LARGEST))
        except Malformed as error:
            return await send(request, _json(answer(None, failure(error.code, str(error))), 400))
        if not isinstance(system, McpSystem) or request.match_info["rest"] not in ("", system.path):
            raise BadCall(f"there is no MCP server `{request.match_info['name']}`")
        if message.method is None or message.id is None:
            return await send(request, web.Response(status=202))
        if message.method == "ping":
            return await send(request, _json(answer(message.id, _EMPTY)))
        return await self._asked(request, visit, system, message)

    async def _asked(
        self, request: web.Request, visit: Visit, system: McpSystem, message: Message
    ) -> web.StreamResponse:
        assert message.method is not None
        told_meanwhile: asyncio.Queue[bytes] = asyncio.Queue(MEANWHILE)

        def heard(data: bytes) -> None:
            if len(data) <= LARGEST_TOLD and not told_meanwhile.full():
                told_meanwhile.put_nowait(data)

        streams = "progressToken" in message.meta and "text/event-stream" in request.headers.get("Accept", "")
        try:
            prepared = await system.asked(message.method, message.params, heard if streams else None)
        except (HoldfastError, Malformed) as error:
            what = error.what if isinstance(error, HoldfastError) else str(error)
            name = message.params.get("name") if message.method == "tools/call" else f"rpc:{message.method}"
            await visit.ward.refuse(f"{system.name}.{name}", message.data, f"door {DOOR}", what)
            said = failure(BAD_PARAMS, what) if isinstance(error, Malformed) else _said(message, error)
            return await send(request, _json(answer(message.id, said)))
        resend = self._resent(request, visit, message)
        calling = asyncio.ensure_future(visit.ward.call(visit.right, prepared, resend=resend))
        try:
            if streams:
                return await self._stream(request, visit, message, prepared, calling, told_meanwhile)
            await asyncio.wait([calling])
            said, status, headers = _outcome(message, calling)
            sent = await send(request, _json(answer(message.id, said), status, headers))
            self._delivered(request, visit, message, prepared, calling)
            return sent
        finally:
            calling.cancel()  # nobody waits here any more; the call itself is brought to its end

    async def _stream(
        self, request: web.Request, visit: Visit, message: Message, prepared: Prepared, calling: asyncio.Task[Reply],
        meanwhile: asyncio.Queue[bytes],
    ) -> web.StreamResponse:  # fmt: skip
        """Tell what comes while the call is carried out, then its answer. The stream begins with the first that is
        told."""
        response: web.StreamResponse | None = None
        while not (calling.done() and meanwhile.empty()):
            getting = asyncio.ensure_future(meanwhile.get())
            await asyncio.wait([calling, getting], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                continue
            if response is None:
                headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
                response = web.StreamResponse(headers=headers)
                await response.prepare(request)
            await response.write(streamed(getting.result()))
        said, status, headers = _outcome(message, calling)
        if response is None:
            response = await send(request, _json(answer(message.id, said), status, headers))
        else:
            await response.write(streamed(answer(message.id, said)))
            await response.write_eof()
        self._delivered(request, visit, message, prepared, calling)
        return response

    def _resent(self, request: web.Request, visit: Visit, message: Message) -> bool:
        """Whether this client has sent this very message before, and it was answered."""
        return _mark(request, visit, message) in self._seen

    def _delivered(
        self, request: web.Request, visit: Visit, message: Message, prepared: Prepared, calling: asyncio.Task[Reply]
    ) -> None:
        if isinstance(calling.exception(), Waiting):
            return
        visit.ward.delivered(prepared)
        if VISIT in request.headers:  # else two clients could not be told apart
            self._seen[_mark(request, visit, message)] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)


def _mark(request: web.Request, visit: Visit, message: Message) -> tuple[str, str, bytes]:
    return visit.right.id, request.headers.get(VISIT, ""), hashlib.sha256(message.data).digest()


def _outcome(message: Message, calling: asyncio.Task[Reply]) -> tuple[bytes, int, dict[str, str]]:
    """What came of a call, as it is told: what the answer says, the HTTP status, headers."""
    error = calling.exception()
    if error is None:
        said = calling.result().data
        if message.method == "initialize":
            return _greeting(said, message.params.get("protocolVersion")), 200, {VISIT: secrets.token_urlsafe(16)}
        return said, 200, {}
    if isinstance(error, Declined):
        return error.reply.data, 200, {}
    if not isinstance(error, HoldfastError | Waiting):
        raise error
    about = told(error)
    if about.status == 503:
        return _failure(about), 503, {"Retry-After": str(about.retry_s)}
    return _said(message, error), 200, {}


def _said(message: Message, error: BaseException) -> bytes:
    """An error of ours, as an answer."""
    about = told(error)
    if message.method != "tools/call" or about.kind not in ("refused", "not_happened"):
        return _failure(about)
    text = about.what + (f"\nfix: {about.fix}" if about.fix else "")
    result: dict[str, JSON] = {
        "content": [{"type": "text", "text": text}],
        "isError": True,
        "_meta": {"holdfast/error": about.body()["error"]},
    }
    return canonical({"result": result})


def _failure(about: Told) -> bytes:
    code = _WAITS if about.status == 503 else _CODES.get(about.kind, -32000)
    return failure(code, about.what, cast("dict[str, JSON]", about.body()["error"]))


def _greeting(said: bytes, wanted: JSON) -> bytes:
    """The answer to a handshake, in the revision that the client speaks."""
    value = json.loads(said)
    if wanted in VERSIONS and isinstance(value.get("result"), dict):
        value["result"]["protocolVersion"] = wanted
    return canonical(value)


def _json(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)
