"""MCP servers: their tools as calls with contracts, and what else they are asked for.

Rules
1. A tool is called only while its definition is the accepted one (`mcp_pins.py`); what is not accepted is not shown.
2. A conversation is opened, and a server started, by the receipt of a call: credentials are released for nothing else.
   Over HTTP each run has a conversation of its own; a server that is run here has one, which all runs share.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.contract import breach
from holdfast.core.effect import legible
from holdfast.errors import BadCall, HoldfastError, Misuse, Refused, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Prepared
from holdfast.gateway.upstreams.mcp_call import KEY_META, OPENING, REST, McpCall
from holdfast.gateway.upstreams.mcp_http import HttpLink
from holdfast.gateway.upstreams.mcp_peer import OWN_META, Heard, Peer, Unclear
from holdfast.gateway.upstreams.mcp_pins import NAME, Pins
from holdfast.gateway.upstreams.mcp_stdio import StdioLink, plainly
from holdfast.gateway.upstreams.mcp_tools import PLACE, READS, RPC, McpConfig, contract_of, contract_of_request, spelled

if TYPE_CHECKING:
    import aiohttp

    from holdfast.gateway.credential import Credential
    from holdfast.gateway.upstreams.kit import Kit, Start

CONVERSATIONS = 64
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
NOT_OFFERED = frozenset({"resources/subscribe", "resources/unsubscribe", "subscriptions/listen"})


async def open_mcp(name: str, config: McpConfig, kit: Kit) -> McpSystem:
    """The server `name`, as it is declared. Nothing is asked of it yet. Raises Misuse where it cannot be confined."""
    if config.command is not None and kit.start is None and not config.unsafe_no_sandbox:
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
        own = (kit.state or kit.folder) / f"{name}.pins.json"
        self.pins = Pins(kit.folder / config.pins if config.pins else own, first_use=config.first_use == "trust")
        self._peers: dict[str, Peer] = {}
        self._lock = asyncio.Lock()
        self._scrubber: tuple[object, Scrubber] = (None, Scrubber(()))

    @property
    def name(self) -> str:
        """As `System.name`."""
        return self._name

    @property
    def path(self) -> str:
        """The path at which a client knows it that believes to be there."""
        return urlsplit(self.config.url or "").path

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
        said = self.config.tool(operation)
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
        given: dict[str, JSON] = {} if method in OPENING else dict(args)
        labels = frozenset[str]() if method in (*OPENING, "tools/list") else self._labels
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
        try:
            canonical([call.token, dict(call.meta)])
        except Uncanonical as error:
            raise BadCall(f"the metadata cannot be passed on: {error}", where=self._name) from None
        return prepared

    def operations(self) -> Mapping[str, JSON]:
        """As `System.operations`: the accepted tools, and the requests that are reads."""
        found: dict[str, JSON] = {f"{RPC}{method}": {"description": "a request of the protocol"} for method in READS}
        for name, tool in self.pins.accepted.items():
            found[name] = {"description": tool.get("description", ""), "schema": tool.get("inputSchema", {})}
        return found

    # --- conversations ---

    async def peer(self, receipt: Receipt, within_s: float, *, fresh: bool = False) -> Peer:
        """An open conversation whose tools are known; `fresh`: as they are now. Nothing of the call has been sent:
        whatever goes wrong, or takes longer than `within_s`, is NotHappened (or RetryAfter)."""
        try:
            async with asyncio.timeout(within_s):
                return await self._peer(receipt, fresh)
        except (DidNotHappen, RetryAfter):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the call has not been sent
            what = error.what if isinstance(error, HoldfastError) else type(error).__name__
            raise DidNotHappen(f"`{self._name}` could not be spoken with: {what}") from None

    async def _peer(self, receipt: Receipt, fresh: bool) -> Peer:
        async with self._lock:
            run = "" if self.config.command is not None else receipt.branch.partition("@")[0]
            peer = self._peers.get(run)
            if peer is None or not peer.link.alive:
                self._peers.pop(run, None)
                idle = [each for each, other in self._peers.items() if other.idle]
                if len(self._peers) >= CONVERSATIONS and idle:
                    await self._peers.pop(idle[0]).link.close()
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
            link = HttpLink(self._client, cast("str", self.config.url))
            await self._furnish(link, receipt)
            peer = Peer(self._name, link)
        else:
            env, scrubber = await self._filled(self.config.env, receipt)
            confined = self._kit.start is not None and not self.config.unsafe_no_sandbox
            start = cast("Start", self._kit.start) if confined else plainly
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

    def _client(self) -> aiohttp.ClientSession:
        dialer = self._kit.dialer.also(self.config.private)
        return dialer.client(self.config.hosts)

    async def _furnish(self, link: HttpLink, receipt: Receipt) -> None:
        """Give a link what this call's receipt opens."""
        link.headers, scrubber = await self._filled(self.config.headers, receipt)
        link.clean = scrubber.clean

    async def _filled(self, texts: Mapping[str, str], receipt: Receipt) -> tuple[dict[str, str], Scrubber]:
        """Texts with the credentials that they name, and what takes those out again."""
        opened: dict[str, Credential] = {}
        filled: dict[str, str] = {}
        also: list[tuple[str, bytes]] = []
        for place, written in texts.items():
            text = spelled(written)
            for name in PLACE.findall(text):
                if name not in opened:
                    opened[name] = await self._kit.vault.open(name, receipt)
            filled[place] = PLACE.sub(lambda found: opened[found[1]].reveal(), text)
            if _CONTROL.search(filled[place]):
                raise DidNotHappen(f"`{place}` would hold a character that it cannot")
            if filled[place] != text:
                also.append((PLACE.findall(text)[0], filled[place].encode()))
        key = (tuple(each.forms() for each in opened.values()), tuple(also))
        if key != self._scrubber[0]:
            self._scrubber = (key, Scrubber(opened.values(), also))
        return filled, self._scrubber[1]

    async def forget(self, peer: Peer) -> None:
        """The server has forgotten this conversation."""
        for run in [run for run, each in self._peers.items() if each is peer]:
            await self._peers.pop(run).link.close()

    def running(self, key: str) -> bool:
        """Whether a server that is run here may still be carrying out what was sent with this key."""
        return any(peer.running(key) for peer in self._peers.values())

    async def close(self) -> None:
        """As `System.close`."""
        for peer in self._peers.values():
            with suppress(Unclear, DidNotHappen):
                await peer.link.close()
        self._peers.clear()
