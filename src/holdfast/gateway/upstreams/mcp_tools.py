"""What holdfast.toml says of an MCP server, and the contracts that follow from it.

Rules
1. A tool of which nothing is declared is irreversible. What a server says of its own tools (annotations) makes a
   contract stricter; it makes one looser only where the configuration trusts it.
2. An error of a tool that writes does not prove that nothing happened, unless the configuration says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

from holdfast.core.canonical import JSON
from holdfast.core.contract import Contract, Drift, Level, Repeat, default_drift, default_repeat, strictest
from holdfast.core.effect import Kind

_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")
PLACE = re.compile(r"\{credential:([^{}]+)\}")
RPC = "rpc:"  # begins the operation of a request that calls no tool; no tool's name can
READS = frozenset(
    {
        "initialize",
        "server/discover",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "logging/setLevel",
    }
)
"""Requests that change nothing, by the protocol's own words (the last one changes what this conversation is told)."""

Seconds = Annotated[float, Field(gt=0)]


class McpTool(BaseModel, extra="forbid", frozen=True):
    """What is known of one tool of a server."""

    kind: Literal["read", "idempotent", "irreversible"] | None = Field(
        default=None, description="What repeating it means; nothing said: irreversible."
    )
    identity: tuple[str, ...] | None = Field(
        default=None, description="The arguments by which two calls are the same; nothing said: all of them."
    )
    resource: tuple[str, ...] | None = Field(default=None, description="The arguments that name what it touches.")
    repeat: Repeat | None = Field(
        default=None, description="What a further call of one identity means: once, ask or each."
    )
    drift: Drift | None = Field(default=None, description="What to do with one identity and other arguments.")
    approval: Level = Field(default=Level.NONE, description="How many people must agree: none, notify, one or two.")
    timeout_s: Seconds | None = Field(
        default=None, description="How long an answer is waited for; nothing said: the server's."
    )
    key_ttl_s: Seconds | None = Field(default=None, description="How long the server remembers an idempotency key.")
    late_s: Seconds | None = Field(
        default=None, description="How late the server may still carry out what it was sent."
    )
    key_argument: str | None = Field(
        default=None,
        description="The argument that carries the idempotency key, beside `_meta`; the agent cannot set it.",
    )
    read_only_trusted: bool = Field(default=False, description="Believe this tool's `readOnlyHint`.")
    errors_prove_nothing_happened: bool | None = Field(
        default=None,
        description="Whether an answer with `isError` proves that nothing was changed; nothing said: the server's.",
    )


class McpConfig(BaseModel, extra="forbid", frozen=True):
    """An MCP server: at `url` (streamable HTTP), or run by the gateway (`command`, stdio)."""

    kind: Literal["mcp"] = Field(description="`mcp`.")
    url: str | None = Field(default=None, description="Where it is reached.")
    headers: Mapping[str, str] = Field(
        default_factory=dict, description="Sent with each request; `{credential:NAME}` stands for a credential."
    )
    private: tuple[str, ...] = Field(default=(), description="Addresses at which it may be though they are not public.")
    command: tuple[str, ...] | None = Field(
        default=None, description="How it is started: the program and its arguments."
    )
    env: Mapping[str, str] = Field(
        default_factory=dict, description="Its whole environment; `credential:NAME` stands for a credential."
    )
    unsafe_no_sandbox: bool = Field(
        default=False,
        description="Run `command` as a plain process beside the gateway: it is as trusted as the gateway.",
    )
    protocol: Literal["auto", "2025-06-18", "2025-11-25", "2026-07-28"] = Field(
        default="auto", description="The revision of the protocol."
    )
    tools: Mapping[str, McpTool] = Field(default_factory=dict, description="What is known of its tools, by name.")
    trust_annotations: bool = Field(
        default=False, description="Believe what its tools say of themselves (annotations)."
    )
    errors_prove_nothing_happened: bool = Field(
        default=False, description="Whether an answer with `isError` proves that nothing was changed."
    )
    pins: str | None = Field(
        default=None,
        description="The file of accepted tool definitions, beside this one; nothing said: NAME.pins.json in the "
        "gateway's state.",
    )
    first_use: Literal["trust", "hold"] = Field(
        default="trust", description="What is done with the tools that it lists while there is no file of pins."
    )
    recheck_s: float = Field(default=30.0, ge=0, description="How old its list of tools may be when a tool is called.")
    timeout_s: Seconds = Field(default=120.0, description="How long an answer is waited for.")
    labels: frozenset[str] | None = Field(
        default=None, description="Marks on what it answers; nothing said: `untrusted:NAME`."
    )

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of the credentials that it uses, in order."""
        texts = [*self.headers.values(), *self.env.values()]
        return tuple(sorted({name for text in texts for name in PLACE.findall(spelled(text))}))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where it is reached, as `HOST:PORT`."""
        if self.url is None:
            return ()
        parts = urlsplit(self.url)
        return (f"{parts.hostname}:{parts.port or {'http': 80}.get(parts.scheme, 443)}",)

    def contracts(self, system: str) -> list[Contract]:
        """What the declared tools promise, as far as it is known before the server has told of them."""
        return [contract_of(system, self, name, {}) for name in self.tools]

    def tool(self, name: str) -> McpTool:
        """What is known of a tool."""
        return self.tools.get(name, McpTool())

    def errors_prove(self, name: str) -> bool:
        """Whether an error of this tool proves that nothing was changed."""
        said = self.tool(name).errors_prove_nothing_happened
        return self.errors_prove_nothing_happened if said is None else said

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) is (self.command is None):
            raise ValueError("name one of `url` and `command`")
        if self.url is not None and not _URL.fullmatch(self.url):
            raise ValueError(
                "`url` is http(s)://HOST[:PORT]/PATH, in plain text, without a user, a query or a fragment"
            )
        if self.url is not None and (self.env or self.unsafe_no_sandbox):
            raise ValueError("`env` and `unsafe_no_sandbox` are for a server with a `command`")
        if self.command is not None and (self.headers or not self.command):
            raise ValueError("`headers` are for a server with a `url`; a `command` names a program")
        return self


def contract_of(system: str, config: McpConfig, name: str, tool: Mapping[str, JSON]) -> Contract:
    """The contract of a tool with this accepted definition."""
    said = config.tool(name)
    hints = tool.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    kind = _kind(said, hints, config.trust_annotations)
    destructive = hints.get("destructiveHint") is True and kind is not Kind.READ
    writes = kind is not Kind.READ
    idempotent = kind is Kind.IDEMPOTENT
    return Contract(
        name=f"{system}.{name}",
        kind=kind,
        identity=said.identity,
        resource=said.resource,
        repeat=said.repeat if said.repeat is not None and writes else default_repeat(kind, said.identity),
        drift=said.drift if said.drift is not None and writes else default_drift(kind),
        key_ttl_ms=_ms(said.key_ttl_s) if idempotent else None,
        late_ms=_ms(said.late_s),
        timeout_ms=_ms(said.timeout_s or config.timeout_s),
        approval=strictest(said.approval, Level.NOTIFY if destructive else Level.NONE),
    )


def contract_of_request(system: str, config: McpConfig, method: str) -> Contract:
    """The contract of a request that calls no tool: one that the protocol does not call a read is irreversible."""
    kind = Kind.READ if method in READS else Kind.IRREVERSIBLE
    return Contract(
        name=f"{system}.{RPC}{method}",
        kind=kind,
        repeat=default_repeat(kind, None),
        drift=default_drift(kind),
        timeout_ms=_ms(config.timeout_s),
    )


def spelled(text: str) -> str:
    """A text with its credentials as `{credential:NAME}`, also where it is nothing but one."""
    return re.sub(r"^credential:(.+)$", r"{credential:\1}", text)


def _kind(said: McpTool, hints: Mapping[str, JSON], trusted: bool) -> Kind:
    reads, destroys, repeats = (hints.get(f"{name}Hint") for name in ("readOnly", "destructive", "idempotent"))
    if said.kind == "read":
        return Kind.IRREVERSIBLE if reads is False or destroys is True else Kind.READ
    if said.kind == "idempotent":
        return Kind.IRREVERSIBLE if repeats is False else Kind.IDEMPOTENT
    if said.kind is None and (trusted or said.read_only_trusted) and reads is True and destroys is not True:
        return Kind.READ
    if said.kind is None and trusted and repeats is True:
        return Kind.IDEMPOTENT
    return Kind.IRREVERSIBLE


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
