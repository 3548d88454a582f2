"""One request to an MCP server, and what its answer means.

Rules
1. A call has happened when the server has answered with what a tool answers. A handle of a task, a question back, and
   anything unknown is no answer: of an effect nobody then knows what came of it.
2. Arguments are sent in canonical form, so that a redo after a crash sends the same bytes.
3. What nobody has accepted is not shown: neither a tool's definition, nor a server's instructions to a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, legible
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.errors import Refused
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Reply
from holdfast.gateway.upstreams.mcp_http import Gone
from holdfast.gateway.upstreams.mcp_peer import LATEST, OWN_META, Answer, Heard, Peer, Unclear
from holdfast.gateway.upstreams.mcp_pins import NAME, digest_of
from holdfast.gateway.upstreams.mcp_wire import (
    BAD_PARAMS,
    BAD_REQUEST,
    NO_METHOD,
    PARSE_ERROR,
    elements,
    members,
    spliced,
)

if TYPE_CHECKING:
    from holdfast.gateway.upstreams.mcp import McpSystem

REST = "$params"  # what a request for a tool says beside name and arguments
KEY_META = "holdfast/idempotency-key"
OPENING = ("initialize", "server/discover")
_REFUSALS = frozenset({PARSE_ERROR, BAD_REQUEST, NO_METHOD, BAD_PARAMS})


class McpCall:
    """One request to a server, as `Upstream`. `meta`, `token` and `heard` are the client's: its metadata, the token of
    its progress, and who is told of it."""

    def __init__(self, system: McpSystem, method: str, tool: str, args: Mapping[str, JSON], kind: Kind) -> None:
        self._system = system
        self._method = method
        self._tool = tool
        self._args = args
        self._kind = kind
        self.meta: Mapping[str, JSON] = {}
        self.token: JSON = None
        self.heard: Heard | None = None

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """As `Upstream.perform`."""
        given = dict(self._args) if args is None else cast("dict[str, JSON]", json.loads(args))
        for once_more in (True, False):
            within_s = (self._system.config.tool(self._tool).timeout_s or self._system.config.timeout_s) / 2
            peer = await self._system.peer(receipt, within_s, fresh=self._method == "tools/list")
            if self._method in OPENING:
                return _reply(canonical({"result": _opening(peer)}))
            why = self._system.pins.why_not(self._tool) if self._tool else None
            if why is not None:
                raise Refused(f"the tool `{self._tool}` was not called: {why}", where=self._system.name)
            try:
                answer = await peer.ask(
                    self._method, self._params(given, receipt.key), key=receipt.key, token=self.token, heard=self.heard
                )
            except Gone:
                await self._system.forget(peer)
                if not once_more:
                    raise
            else:
                return self._judged(answer)
        raise AssertionError("the second time it is raised")

    def _params(self, given: dict[str, JSON], key: str) -> dict[str, JSON]:
        meta = {**self.meta, **({KEY_META: key} if key else {})}
        if not self._tool:
            return {**given, "_meta": meta}
        rest = cast("dict[str, JSON]", given.pop(REST, {}))
        said = self._system.config.tool(self._tool)
        if said.key_argument is not None and key:
            given[said.key_argument] = key
        return {**rest, "name": self._tool, "arguments": given, "_meta": meta}

    def _judged(self, answer: Answer) -> Reply:
        """What an answer means. Raises Declined for a proven refusal, Unclear where nobody knows."""
        said, value = _reply(answer.message.said), answer.message.value
        error, result = value.get("error"), value.get("result")
        reads = self._kind is Kind.READ
        if error is not None or "error" in value:
            code, what = _complaint(error)
            if reads:
                return said
            if answer.refused or code in _REFUSALS:
                raise Declined(f"the server refused it: {what}", said)
            raise Unclear(f"the server answered with the error {code}: {what}")
        why = _incomplete(result, tool=bool(self._tool))
        if why is not None:
            raise DidNotHappen(why) if reads else Unclear(why)
        if self._method == "tools/list":
            return _reply(self._shown(said.data))
        if self._tool and not reads and cast("dict[str, JSON]", result).get("isError") is True:
            what = f"the tool answered with an error: {legible(_words(result), 500)}"
            if self._system.config.errors_prove(self._tool):
                raise Declined(what, said)
            raise Unclear(what)
        return said

    def _shown(self, data: bytes) -> bytes:
        """A listing, with a note in the place of each tool that cannot be called."""
        result = members(data, members(data)["result"][0])
        if "tools" not in result:
            return data
        pieces: list[bytes] = []
        whole = True
        for start, end in elements(data, result["tools"][0]):
            tool: JSON = json.loads(data[start:end])
            name = tool.get("name") if isinstance(tool, dict) else None
            known = isinstance(tool, dict) and isinstance(name, str) and self._same(name, tool)
            whole = whole and known
            if known:
                pieces.append(data[start:end])
            elif isinstance(name, str) and NAME.fullmatch(name):
                pieces.append(canonical(self._note(name)))
        return data if whole else spliced(data, {result["tools"]: b"[" + b",".join(pieces) + b"]"})

    def _same(self, name: str, tool: Mapping[str, JSON]) -> bool:
        known = self._system.pins.accepted.get(name)
        if known is None or self._system.pins.why_not(name) is not None:
            return False
        return digest_of(tool) == digest_of(known)

    def _note(self, name: str) -> dict[str, JSON]:
        why = self._system.pins.why_not(name) or "its definition has changed"
        return {"name": name, "description": f"[held by the gateway: {why}]", "inputSchema": {"type": "object"}}

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Nothing of the protocol tells whether a call was carried out."""
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """Nothing of the protocol takes a call back."""
        raise DidNotHappen("a call of an MCP server is not taken back")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As `Upstream.read`. JSON is what a person has said that came of it."""
        if encoding is Encoding.BYTES:
            return _reply(data)
        told: JSON = json.loads(data)
        if not self._tool or (isinstance(told, dict) and isinstance(told.get("content"), list)):
            return _reply(b'{"result":' + data + b"}")
        said: dict[str, JSON] = {"content": [{"type": "text", "text": data.decode()}]}
        if isinstance(told, dict):
            said["structuredContent"] = told
        return _reply(canonical({"result": said}))

    def running(self, key: str) -> bool:
        """As `Upstream.running`."""
        return self._system.running(key)


def _reply(data: bytes) -> Reply:
    return Reply(data, Encoding.BYTES, data)


def _complaint(error: JSON) -> tuple[int, str]:
    found = error if isinstance(error, dict) else {}
    code = found.get("code")
    return code if isinstance(code, int) else 0, legible(found.get("message", ""), 500)


def _words(result: JSON) -> str:
    content = result.get("content") if isinstance(result, dict) else None
    parts = content if isinstance(content, list) else []
    return " ".join(str(each.get("text", "")) for each in parts if isinstance(each, dict))


def _incomplete(result: JSON, *, tool: bool) -> str | None:
    """Why a result is not that of a request that was carried out, or None."""
    if not isinstance(result, dict):
        return "the server's answer is no object"
    kind = result.get("resultType", "complete")
    if kind == "input_required":
        return "the server wants to know more before it goes on, and nobody answers it here"
    if kind != "complete":
        return f"the server's answer is not what came of it, but `{legible(kind, 40)}`"
    handle = result.get("task")
    if isinstance(handle, dict) and "taskId" in handle:
        return "the server's answer is the handle of a task, not what came of it"
    if tool and not isinstance(result.get("content"), list):
        return "the server's answer is not what a tool answers: it has no content"
    return None


def _opening(peer: Peer) -> dict[str, JSON]:
    """What a server said of itself, as an answer to a handshake, without what is not offered here, and without its
    instructions."""
    left_out = {"instructions", "supportedVersions", "resultType", "ttlMs", "cacheScope"}
    found = {name: each for name, each in peer.opening.items() if name not in left_out}
    offered = {
        name: {part: it for part, it in each.items() if part not in ("subscribe", "listChanged")}
        if isinstance(each, dict)
        else each
        for name, each in cast("dict[str, JSON]", found.get("capabilities") or {}).items()
        if name != "tasks"
    }
    meta = cast("dict[str, JSON]", found.get("_meta") or {})
    info = found.get("serverInfo") or meta.get(f"{OWN_META}serverInfo") or {"name": peer.name, "version": "unknown"}
    return {**found, "protocolVersion": LATEST, "capabilities": offered, "serverInfo": info}
