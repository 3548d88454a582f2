"""The kinds of upstreams: a closed table. The module of a kind is imported when the kind is used.

Rules
1. No module, class or function is looked up by a name that a configuration chose beyond this table.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from pydantic import BaseModel

from holdfast.core.contract import Contract
from holdfast.errors import Misuse
from holdfast.gateway.upstreams import System
from holdfast.gateway.upstreams.kit import Kit

KINDS: Mapping[str, tuple[str, str, str]] = {
    "http": ("holdfast.gateway.upstreams.http", "HttpConfig", "open_http"),
    "model": ("holdfast.gateway.upstreams.model", "ModelConfig", "open_model"),
    "mcp": ("holdfast.gateway.upstreams.mcp", "McpConfig", "open_mcp"),
    "sql": ("holdfast.gateway.upstreams.sql", "SqlConfig", "open_sql"),
    "aws": ("holdfast.gateway.upstreams.aws", "AwsConfig", "open_aws"),
    "smtp": ("holdfast.gateway.upstreams.smtp", "SmtpConfig", "open_smtp"),
    "python": ("holdfast.gateway.upstreams.hosted", "PythonConfig", "open_python"),
}
"""Kind → module, configuration, and what opens it."""

_SPOKEN_OF = re.compile(r"credential:([A-Za-z0-9_-]+)")


@runtime_checkable
class Names(Protocol):
    """A configuration that tells which credentials it uses, where the names of its keys do not."""

    @property
    def credentials(self) -> str | Sequence[str]:
        """Their names under `[credentials]`."""
        ...


def config_of(kind: str) -> type[BaseModel]:
    """The configuration of a kind. Raises Misuse where there is no such kind, or what it needs is not installed."""
    return cast("type[BaseModel]", getattr(_module(kind), KINDS[kind][1]))


async def open_upstream(name: str, config: BaseModel, kit: Kit) -> System:
    """Open the system `name`. Raises Misuse where it cannot be used as it is declared."""
    kind = cast(Any, config).kind
    opener = cast("Callable[[str, BaseModel, Kit], Awaitable[System]]", getattr(_module(kind), KINDS[kind][2]))
    return await opener(name, config, kit)


async def contracts_of(name: str, config: BaseModel, folder: Path) -> Sequence[Contract] | None:
    """What the tools of a system promise, as far as it can be told without asking anybody outside (a module's
    `contracts_of(name, config, folder)`); None where that depends on each call, or on the system. Raises Misuse or
    BadContract where the system cannot be used as it is declared."""
    told = getattr(_module(cast(Any, config).kind), "contracts_of", None)
    if told is None:
        return None
    return await cast("Callable[[str, BaseModel, Path], Awaitable[Sequence[Contract]]]", told)(name, config, folder)


def credentials_of(config: BaseModel) -> frozenset[str]:
    """The credentials that an upstream names: those that its configuration lists (`Names`), or else under keys that
    speak of credentials, and as `credential:NAME` in its texts."""
    if isinstance(config, Names):
        named = config.credentials
        return frozenset((named,) if isinstance(named, str) else named) - {""}
    return frozenset(_named(config.model_dump(mode="json"), False)) - {""}


def _named(value: object, spoken: bool) -> Iterator[str]:
    match value:
        case str():
            found = _SPOKEN_OF.findall(value)
            yield from found or ((value,) if spoken else ())
        case dict():
            for key, inner in cast("dict[str, object]", value).items():
                yield from _named(inner, spoken or "credential" in key)
        case list() | tuple():
            for inner in cast("Sequence[object]", value):
                yield from _named(inner, spoken)
        case _:
            return


def _module(kind: str) -> Any:
    if kind not in KINDS:
        raise Misuse(f"there is no kind of upstream `{kind}`", fix=f"known: {', '.join(KINDS)}")
    try:
        return import_module(KINDS[kind][0])
    except ImportError as error:
        raise Misuse(
            f"upstreams of the kind `{kind}` need more than is installed ({error.name})",
            fix="pip install 'holdfast[gateway,sql,aws]'",
        ) from None
