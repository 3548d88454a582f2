"""The tables of holdfast.toml, but for `[upstreams]`: what each key means, and what it may hold.

Rules
1. Every key has a description; docs/configuration.md says the same, and a test compares them.
2. What is not known is refused. What is not said is denied.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from holdfast.core import capability
from holdfast.core.capability import Budget, Terms
from holdfast.core.contract import Level

NAME = r"^[a-z][a-z0-9_-]{0,39}$"
PATTERN = re.compile(r"^(?:[a-z][a-z0-9_-]{0,39}\.(?:\*|[^\s*]{1,200}))$")
Name = Annotated[str, StringConstraints(pattern=NAME)]
MICRO = 1_000_000


class Table(BaseModel):
    """A table of the configuration: closed, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, hide_input_in_errors=True)


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("write HOST:PORT, as 0.0.0.0:8443")
    return value


class Remote(Table):
    """`[gateway.remote]`: the doors for agents on other machines, over TLS."""

    listen: str = Field(description="Where to listen: `HOST:PORT`.")
    certificate: str = Field(description="The file of the TLS certificate chain (PEM).")
    key: str = Field(description="The file of its private key (PEM, mode 600).")
    url: str | None = Field(
        None, description="How agents reach it: `https://HOST:PORT`, HOST as the certificate says. Default: `listen`."
    )

    @field_validator("listen")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        return _address(value)

    @field_validator("url")
    @classmethod
    def _is_https(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https://[^/?#@\s]+", value):
            raise ValueError("write https://HOST:PORT, and nothing behind it")
        return value


class Gateway(Table):
    """`[gateway]`: the process itself."""

    store: str = Field("sqlite:///holdfast.db", description="The store: a URL, or the file of a SQLite store.")
    state: str = Field(
        "holdfast-state", description="The directory for sockets, minted secrets and certificates (700)."
    )
    socket: str | None = Field(None, description="The socket of the admin door. Default: `admin.sock` in `state`.")
    door: str | None = Field(
        None, description="The native door for local agents: a socket's path. Default: `door.sock` in `state`."
    )
    user: str | None = Field(
        None, description="The user that the gateway must run under; it refuses to start as another."
    )
    group: str | None = Field(
        None, description="The group whose members may connect to the local doors. Default: the gateway's user alone."
    )
    patience_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long a call that waits for people is kept waiting at its door before its program is told, and"
        " how long after that the program has to end by itself.",
    )
    private: tuple[str, ...] = Field(
        (), description="Private addresses that upstreams may reach all the same: `HOST`, `HOST:PORT` or a CIDR block."
    )
    vault_address: str | None = Field(
        None, description="The HashiCorp Vault server behind `vault:` references. [VAULT_ADDR]"
    )
    vault_token: str | None = Field(None, description="A reference to its token. [env:VAULT_TOKEN]")
    vault_namespace: str = Field("", description="Its namespace, if any.")
    remote: Remote | None = Field(None, description="The doors for agents on other machines. Default: none.")
    health: str | None = Field(
        None,
        description="Where `/healthz`, `/readyz` and `/metrics` are told to whoever comes: `HOST:PORT`, out of agents'"
        " reach. Default: at the admin door only.",
    )

    @field_validator("health")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else _address(value)


class Policy(Table):
    """`[policy]`: the rules in Cedar. Without any, everything is denied."""

    files: tuple[str, ...] = Field((), description="Files of Cedar rules; `*` stands for any part of a file's name.")


class Limit(Table):
    """What one argument may be: all that is said must hold. A call that lacks the argument is outside the limit."""

    one_of: tuple[str | int | bool, ...] | None = Field(None, description="It is one of these values.")
    prefix: str | None = Field(None, description="It is a text that begins with this.")
    most: int | None = Field(None, ge=0, description="It is a number, and no more than this.")

    @model_validator(mode="after")
    def _says_something(self) -> Limit:
        if not self.model_fields_set:
            raise ValueError("a limit says at least one thing")
        return self


class Agent(Table):
    """`[agents.NAME]`: what the capability of a run of this agent allows."""

    tools: tuple[str, ...] = Field(
        description="The tools it may ask for: `SYSTEM.OPERATION`; `*` stands for the whole last part (`crm.*`)."
    )
    arguments: dict[str, dict[str, Limit]] = Field(
        default_factory=dict[str, dict[str, Limit]],
        description="Limits on arguments, by tool and argument (names joined by dots).",
    )
    calls: int | None = Field(None, ge=0, description="At most so many calls, over the whole run. Default: no limit.")
    money: Decimal | None = Field(
        None, ge=0, description='At most so many US dollars, over the whole run (a text: `"2.50"`).'
    )
    blast: int | None = Field(None, ge=0, description="At most so much blast radius, over the whole run.")
    expires_s: int = Field(86_400, gt=0, description="The capability ends after so many seconds.")
    approval: Level = Field(
        Level.NONE, description="People that must agree to each effect, at least; rules and contracts may ask for more."
    )
    doors: tuple[Literal["native", "http", "model", "mcp", "aws"], ...] = Field(
        (), description="The doors through which it may be shown. Default: all."
    )
    require_handle: bool = Field(
        False, description="The handle must be shown even inside the run's own sandbox, where nobody else can be."
    )
    restores: bool = Field(
        False, description="It is an `@agent(state=…)`: after a crash it goes on from its newest checkpoint."
    )
    workspace: bool = Field(
        False,
        description="Its checkpoints hold its files, those of its sandbox's workspace; a resume or a fork finds them"
        " as they were.",
    )
    ignore: tuple[str, ...] = Field(
        (), description="Patterns of files that its checkpoints leave out, as in `@agent(ignore=…)`."
    )
    environment: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default_factory=dict[str, str],
        description="Further variables for its program; `{handle}`, `{door}` and `{url:SYSTEM}` are filled in.",
    )

    @field_validator("tools")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_pattern(each) for each in value)

    @field_validator("arguments")
    @classmethod
    def _name_tools(cls, value: dict[str, dict[str, Limit]]) -> dict[str, dict[str, Limit]]:
        return {_pattern(tool): limits for tool, limits in value.items()}

    @field_validator("money", mode="before")
    @classmethod
    def _is_exact(cls, value: object) -> object:
        if isinstance(value, float):
            raise ValueError('write money as a text, which is exact: "2.50"')
        return value

    @field_validator("money")
    @classmethod
    def _is_finite(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and (not value.is_finite() or value != round(value, 6)):
            raise ValueError("no finer than a millionth of a dollar")
        return value

    def terms(self, now_ms: int) -> Terms:
        """What a capability allows that is issued now (wall clock)."""
        return Terms(
            tools=self.tools,
            limits=tuple(
                capability.Limit(tool=tool, argument=name, most=limit.most, one_of=limit.one_of, prefix=limit.prefix)
                for tool, named in self.arguments.items()
                for name, limit in named.items()
            ),
            budget=Budget(
                calls=self.calls,
                money=None if self.money is None else int(self.money * MICRO),
                blast=self.blast,
            ),
            expires_ms=now_ms + self.expires_s * 1000,
            level=self.approval,
            doors=self.doors,
        )


def _pattern(text: str) -> str:
    if not PATTERN.match(text):
        raise ValueError("a tool is SYSTEM.OPERATION, and `*` stands only for the whole last part: `crm.*`")
    return text


class Sandbox(Table):
    """`[sandbox]`: how agents' processes are confined, where the command line does not say otherwise. Sizes in
    bytes."""

    processes: int = Field(256, gt=0, description="At most so many processes and threads.")
    memory_bytes: int = Field(4 << 30, gt=0, description="At most so much memory.")
    open_files: int = Field(1024, gt=0, description="At most so many open files in a process.")
    file_bytes: int = Field(4 << 30, gt=0, description="No file is larger.")
    tmp_bytes: int = Field(64 << 20, gt=0, description="The size of `/tmp`, which lives in memory.")
    cpu_s: int | None = Field(None, gt=0, description="Seconds of computing for each process. Default: no limit.")
    workspace_bytes: int = Field(
        4 << 30, gt=0, description="A checkpoint holds no more of a workspace: with more in it, none is made."
    )
    workspace_entries: int = Field(200_000, gt=0, description="The same, for files, directories and links.")
    read_only: tuple[str, ...] = Field((), description="Further files and directories that the program may read.")
    names: bool = Field(
        True, description="The hosts of declared systems are found by their names, and lead to the doors."
    )
    environment: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = Field(
        (), description="Names of variables that are passed on from the caller's environment; never one with a secret."
    )


class Person(Table):
    """`[people.NAME]`: who may give a word at the admin door."""

    user: str | None = Field(None, description="The login name by which the admin door knows this person.")
    may: tuple[Literal["approve", "settle", "issue", "revoke", "start", "read"], ...] = Field(
        ("approve", "read"),
        description="What this person may do: approve (or refuse), settle doubts (and signal, fork, promote, abandon),"
        " issue or revoke capabilities (and cancel), start runs, read.",
    )


class Document(Table):
    """holdfast.toml."""

    gateway: Gateway = Field(default_factory=lambda: Gateway.model_validate({}), description="The process itself.")
    credentials: dict[Name, str] = Field(default_factory=dict[str, str], description="References to secrets, by name.")
    upstreams: dict[Name, dict[str, object]] = Field(
        default_factory=dict[str, dict[str, object]], description="The systems that agents reach, by name."
    )
    policy: Policy = Field(default_factory=lambda: Policy.model_validate({}), description="The rules.")
    agents: dict[Annotated[str, StringConstraints(min_length=1, max_length=200)], Agent] = Field(
        default_factory=dict[str, Agent], description="What agents may do, by the name under which runs are started."
    )
    sandbox: Sandbox = Field(default_factory=lambda: Sandbox.model_validate({}), description="How agents are confined.")
    people: dict[Name, Person] = Field(default_factory=dict[str, Person], description="Who may give a word.")
