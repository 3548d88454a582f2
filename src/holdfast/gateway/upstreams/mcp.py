"""MCP servers: their tools as calls with contracts, and what else they are asked for.

Rules
1. A tool is called only while its definition is the accepted one (`mcp_pins.py`); what is not accepted is not shown.
2. A call has happened when the server has answered with what a tool answers. A handle of a task, a question back, and
   anything unknown is no answer: of an effect nobody then knows what came of it.
3. A conversation is opened, and a server started, by the receipt of a call: credentials are released for nothing else.
   Over HTTP each run has a conversation of its own; a server that is run here has one, which all runs share.
4. Arguments are sent in canonical form, so that a redo after a crash sends the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import breach
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, legible
from holdfast.errors import BadCall, Misuse, Refused
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.mcp_http import Gone, HttpLink
from holdfast.gateway.upstreams.mcp_peer import LATEST, OWN_META, Answer, Heard, Peer, Unclear
from holdfast.gateway.upstreams.mcp_pins import NAME, Pins, digest_of
from holdfast.gateway.upstreams.mcp_stdio import Start, StdioLink, plainly
from holdfast.gateway.upstreams.mcp_tools import READS, RPC, McpConfig, McpTool, contract_of, contract_of_request
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
    import aiohttp

    from holdfast.gateway.credential import Credential
    from holdfast.gateway.upstreams.kit import Kit

CONVERSATIONS = 64
REST = "$params"  # what a request for a tool says beside name and arguments
KEY_META = "holdfast/idempotency-key"
NOT_OFFERED = frozenset({"resources/subscribe", "resources/unsubscribe", "subscriptions/listen"})
_REFUSALS = frozenset({PARSE_ERROR, BAD_REQUEST, NO_METHOD, BAD_PARAMS})
_PLACE = re.compile(r"\{credential:([^{}]+)\}")
_OPENING = ("initialize", "server/discover")


async def open_mcp(name: str, config: McpConfig, kit: Kit) -> McpSystem:
    """The server `name`, as it is declared. Nothing is asked of it yet. Raises Misuse where it cannot be confined."""
    if config.command is not None and kit.confine is None and not config.unsafe_no_sandbox:
        raise Misuse(
            f"the server `{name}` cannot be run: there is no sandbox for it here", where=name,
            fix="see `holdfast doctor`, or say unsafe_no_sandbox = true for a server that you trust as the gateway",
        )  # fmt: skip
    return McpSystem(name, config, kit)


class McpSystem:
    """A declared MCP server."""

    def __init__(self, name: str, config: McpConfig, kit: Kit) -> None:
        self.config = config
        self._name = name
        self._kit = kit
        self.pins = Pins(kit.folder / (config.pins or f"{name}.pins.json"), first_use=config.first_use == "trust")
        self._peers: dict[str, Peer] = {}
        self._lock = asyncio.Lock()
        self._client: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """As `System.name`."""
        return self._name

    # --- what may be asked ---

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System.prepare`. `operation` is a tool, or `rpc:METHOD` with the parameters as `args`. Raises Refused for
        a tool whose definition is not accepted."""
        if operation.startswith(RPC):
            return self._request(operation.removeprefix(RPC), args)
        why = "its name is not plain text" if not NAME.fullmatch(operation) else self.pins.why_not(operation)
        if operation not in self.pins.accepted and not self.pins.path.exists():
            why = "its tools are not known yet: list them first"
        if why is not None:
            fix = f"look at {self.pins.path.name}, and accept it if it is right"
            raise Refused(f"the tool `{legible(operation, 128)}` cannot be called: {why}", where=self._name, fix=fix)
        contract = contract_of(self._name, self.config, operation, self.pins.accepted[operation])
        said = self.config.tools.get(operation, McpTool())
        if said.key_argument is not None and said.key_argument in args:
            raise BadCall(f"`{said.key_argument}` is set by the gateway", where=contract.name, fix="leave it out")
        wrong = breach(contract, {*args, *(contract.identity or ()), *(contract.resource or ())})
        missing = [name for name in (*(contract.identity or ()), *(contract.resource or ())) if name not in args]
        if wrong or missing:
            raise BadCall(wrong or f"`{missing[0]}` is missing, by which calls are told apart", where=contract.name)
        return Prepared(
            system=self._name,
            contract=contract,
            args=dict(args),
            upstream=McpCall(self, "tools/call", operation, args, contract.kind),
            chosen=None if contract.identity is None else {name: args[name] for name in contract.identity},
            touches=None if contract.resource is None else {name: args[name] for name in contract.resource},
            labels=self._labels,
        )

    @property
    def _labels(self) -> frozenset[str]:
        found = self.config.labels
        return frozenset({f"untrusted:{self._name}"}) if found is None else found

    def _request(self, method: str, args: Mapping[str, JSON]) -> Prepared:
        if method in NOT_OFFERED or method.startswith("tasks/") or method == "tools/call":
            raise BadCall(f"`{legible(method, 60)}` is not offered here", where=self._name)
        contract = contract_of_request(self._name, self.config, method)
        given: dict[str, JSON] = {} if method in _OPENING else dict(args)
        labels = frozenset[str]() if method in (*_OPENING, "tools/list") else self._labels
        upstream = McpCall(self, method, "", given, contract.kind)
        return Prepared(system=self._name, contract=contract, args=given, upstream=upstream, labels=labels)

    async def asked(self, method: str, params: Mapping[str, JSON], heard: Heard | None = None) -> Prepared:
        """A request of a client. `heard` is given what the server tells while it is carried out. Raises as
        `prepare`."""
        rest = {name: each for name, each in params.items() if name != "_meta"}
        if "task" in rest or "inputResponses" in rest or "requestState" in rest:
            raise BadCall("neither tasks nor questions back are offered here", where=self._name, fix="call it plainly")
        if method == "tools/call":
            name, arguments = rest.pop("name", None), rest.pop("arguments", None) or {}
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise BadCall("a call names a tool, and its arguments are an object", where=self._name)
            if REST in arguments or name.startswith(RPC):
                raise BadCall(f"neither `{REST}` nor `{RPC}` is a name here", where=self._name)
            prepared = await self.prepare(name, {**arguments, **({REST: rest} if rest else {})})
        else:
            prepared = self._request(method, rest)
        call, meta = cast("McpCall", prepared.upstream), params.get("_meta")
        meta = dict(meta) if isinstance(meta, dict) else {}
        call.token = meta.pop("progressToken", None)
        call.meta = {name: each for name, each in meta.items() if not name.startswith(OWN_META) and name != KEY_META}
        call.heard = heard
        return prepared

    def operations(self) -> Mapping[str, JSON]:
        """As `System.operations`: the accepted tools, and the requests that are reads."""
        found: dict[str, JSON] = {f"{RPC}{method}": {"description": "a request of the protocol"} for method in READS}
        for name, tool in self.pins.accepted.items():
            found[name] = {"description": tool.get("description", ""), "schema": tool.get("inputSchema", {})}
        return found

    # --- conversations ---

    async def peer(self, receipt: Receipt, *, fresh: bool = False) -> Peer:
        """An open conversation whose tools are known; `fresh`: as they are now. Raises NotHappened."""
        async with self._lock:
            run = "" if self.config.command is not None else receipt.branch.partition("@")[0]
            peer = self._peers.get(run)
            if peer is None or not peer.link.alive:
                self._peers.pop(run, None)
                if len(self._peers) >= CONVERSATIONS:
                    await self._peers.pop(next(iter(self._peers))).link.close()
                peer = await self._opened(receipt)
                self._peers[run] = peer
            elif isinstance(peer.link, HttpLink):
                await self._furnish(peer.link, receipt)
            if fresh or peer.stale or time.monotonic() - peer.listed_s >= self.config.recheck_s:
                peer.stale = False
                try:
                    self.pins.learn(await peer.tools())
                except BaseException:
                    peer.stale = True
                    raise
                peer.listed_s = time.monotonic()
            return peer

    async def _opened(self, receipt: Receipt) -> Peer:
        command = self.config.command
        if command is None:
            link = HttpLink(self._http(), cast("str", self.config.url))
            await self._furnish(link, receipt)
            peer = Peer(self._name, link)
        else:
            env, scrubber = await self._filled(self.config.env, receipt)
            start = plainly if self._kit.confine is None or self.config.unsafe_no_sandbox else cast("Start", self._kit.confine)
            link = StdioLink(self._name, scrubber.clean)
            peer = Peer(self._name, link)
            link.hear = peer.hear
            await link.start(start, command, env)
        try:
            await peer.open(self.config.protocol)
        except BaseException:
            await link.close()
            raise
        return peer

    def _http(self) -> aiohttp.ClientSession:
        if self._client is None:
            from yarl import URL

            url = URL(cast("str", self.config.url))
            self._client = cast("aiohttp.ClientSession", self._kit.dialer.session([f"{url.host}:{url.port}"]))
        return self._client

    async def _furnish(self, link: HttpLink, receipt: Receipt) -> None:
        """Give a link what this call's receipt opens."""
        link.headers, scrubber = await self._filled(self.config.headers, receipt)
        link.clean = scrubber.clean

    async def _filled(self, texts: Mapping[str, str], receipt: Receipt) -> tuple[dict[str, str], Scrubber]:
        """Texts with the credentials that they name, and what takes those out again."""
        opened: dict[str, Credential] = {}
        filled: dict[str, str] = {}
        also: list[tuple[str, bytes]] = []
        for place, text in texts.items():
            text = re.sub(r"^credential:(.+)$", r"{credential:\1}", text)
            for name in _PLACE.findall(text):
                if name not in opened:
                    opened[name] = await self._kit.vault.open(name, receipt)
            filled[place] = _PLACE.sub(lambda found: opened[found[1]].reveal(), text)
            if filled[place] != text:
                also.append((_PLACE.findall(text)[0], filled[place].encode()))
        return filled, Scrubber(opened.values(), also)

    def forget(self, peer: Peer) -> None:
        """The server has forgotten this conversation."""
        for run in [run for run, each in self._peers.items() if each is peer]:
            del self._peers[run]

    def running(self, key: str) -> bool:
        """Whether a server that is run here may still be carrying out what was sent with this key."""
        return any(peer.running(key) for peer in self._peers.values())

    async def close(self) -> None:
        """As `System.close`."""
        for peer in self._peers.values():
            with suppress(Unclear, DidNotHappen):
                await peer.link.close()
        self._peers.clear()
        if self._client is not None:
            await self._client.close()


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
            peer = await self._system.peer(receipt, fresh=self._method == "tools/list")
            if self._method in _OPENING:
                return _reply(canonical({"result": self._opening(peer)}))
            why = self._system.pins.why_not(self._tool) if self._tool else None
            if why is not None:
                raise Refused(f"the tool `{self._tool}` was not called: {why}", where=self._system.name)
            try:
                answer = await peer.ask(
                    self._method, self._params(given, receipt.key), key=receipt.key, token=self.token, heard=self.heard
                )
            except Gone:
                self._system.forget(peer)
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
        said = self._system.config.tools.get(self._tool, McpTool())
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
            told = self._system.config.tools.get(self._tool, McpTool()).errors_prove_nothing_happened
            what = f"the tool answered with an error: {legible(_words(result), 500)}"
            if self._system.config.errors_prove_nothing_happened if told is None else told:
                raise Declined(what, said)
            raise Unclear(what)
        return said

    def _shown(self, data: bytes) -> bytes:
        """A listing, with a note in the place of each tool that cannot be called."""
        accepted = self._system.pins.accepted
        result = members(data, members(data)["result"][0])
        if "tools" not in result:
            return data
        pieces: list[bytes] = []
        whole = True
        for start, end in elements(data, result["tools"][0]):
            tool = json.loads(data[start:end])
            name = tool.get("name") if isinstance(tool, dict) else None
            whole = whole and isinstance(name, str) and self._same(name, cast("dict[str, JSON]", tool), accepted)
            if isinstance(name, str) and NAME.fullmatch(name):
                same = self._same(name, cast("dict[str, JSON]", tool), accepted)
                pieces.append(data[start:end] if same else canonical(self._note(name)))
        return data if whole else spliced(data, {result["tools"]: b"[" + b",".join(pieces) + b"]"})

    def _same(self, name: str, tool: Mapping[str, JSON], accepted: Mapping[str, Mapping[str, JSON]]) -> bool:
        known = accepted.get(name)
        if known is None or self._system.pins.why_not(name) is not None:
            return False
        return canonical({**tool, "_meta": None}) == canonical({**known, "_meta": None}) and bool(digest_of(known))

    def _note(self, name: str) -> dict[str, JSON]:
        why = self._system.pins.why_not(name) or "its definition has changed"
        return {"name": name, "description": f"[held by the gateway: {why}]", "inputSchema": {"type": "object"}}

    def _opening(self, peer: Peer) -> dict[str, JSON]:
        """What a server said of itself, as an answer to a handshake, without what is not offered here. Its instructions
        are words for a model, which nobody has accepted."""
        left_out = {"instructions", "supportedVersions", "resultType", "ttlMs", "cacheScope", "protocolVersion"}
        found = {name: each for name, each in peer.opening.items() if name not in left_out}
        capabilities = cast("dict[str, JSON]", found.get("capabilities") or {})
        offered: dict[str, JSON] = {}
        for name, each in capabilities.items():
            if name != "tasks":
                offered[name] = (
                    {part: it for part, it in each.items() if part not in ("subscribe", "listChanged")}
                    if isinstance(each, dict)
                    else each
                )
        meta = cast("dict[str, JSON]", found.get("_meta") or {})
        info = found.get("serverInfo") or meta.get(f"{OWN_META}serverInfo") or {"name": peer.name, "version": "?"}
        return {**found, "protocolVersion": LATEST, "capabilities": offered, "serverInfo": info}

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Nothing of the protocol tells whether a call was carried out."""
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """Nothing of the protocol takes a call back."""
        raise DidNotHappen("a call of an MCP server is not taken back")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As `Upstream.read`."""
        return _reply(data, encoding)

    def running(self, key: str) -> bool:
        """As `Upstream.running`."""
        return self._system.running(key)


def _reply(data: bytes, encoding: Encoding = Encoding.BYTES) -> Reply:
    return Reply(data, encoding, data)


def _complaint(error: JSON) -> tuple[int, str]:
    found = error if isinstance(error, dict) else {}
    code = found.get("code")
    return code if isinstance(code, int) else 0, legible(found.get("message", ""), 500)


def _words(result: JSON) -> str:
    content = result.get("content") if isinstance(result, dict) else None
    parts = [str(each.get("text", "")) for each in content or () if isinstance(each, dict)] if isinstance(content, list) else []
    return " ".join(parts)


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
