"""What a configuration without faults of its own rests on: credentials, policies, modules, files. Nobody outside is
asked."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from pydantic import BaseModel

from holdfast.core.contract import Contract
from holdfast.core.effect import Kind
from holdfast.errors import HoldfastError, Misuse
from holdfast.gateway.config import Config, Fault
from holdfast.gateway.sources import source_of
from holdfast.gateway.upstreams.kinds import contracts_of


@dataclass(frozen=True, slots=True)
class Footing:
    """What was found. `missing`: credentials that cannot be had here; `untold`: systems whose contracts cannot be told
    without asking them."""

    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    missing: frozenset[str]
    contracts: tuple[Contract, ...]
    untold: tuple[str, ...]


async def footing_of(config: Config) -> Footing:
    """Look at what a configuration rests on."""
    lacking = {name: why for name in config.credentials if (why := _missing(config, name)) is not None}
    faults = [Fault(f"credentials.{name}", why, "put it where the reference points") for name, why in lacking.items()]
    faults += _policy(config)
    contracts: list[Contract] = []
    untold: list[str] = []
    for name, upstream in sorted(config.upstreams.items()):
        try:
            told = await contracts_of(name, upstream, config.folder)
        except HoldfastError as error:
            faults.append(Fault(f"upstreams.{name}", error.what, error.fix))
            continue
        if told is None:
            untold.append(name)
        contracts += sorted(told or (), key=lambda contract: contract.name)
    warnings = (*_warnings(config), *_unwise(contracts))
    return Footing(tuple(faults), warnings, frozenset(lacking), tuple(contracts), tuple(untold))


def _missing(config: Config, name: str) -> str | None:
    return source_of(config.credentials[name], config.folder, config.kv).missing()


def _policy(config: Config) -> Iterator[Fault]:
    if not config.policies:
        return
    try:
        from holdfast.gateway.cedar import Cedar

        Cedar([(str(path), path.read_text()) for path in config.policies])
    except Misuse as error:
        yield Fault("policy.files", f"{error.what} [{error.where}]" if error.where else error.what, error.fix)
    except (OSError, UnicodeDecodeError) as error:
        yield Fault("policy.files", f"a file cannot be read ({type(error).__name__})")
    except ImportError:
        yield Fault("policy.files", "policies need an extra", "pip install 'holdfast[gateway]'")


def _warnings(config: Config) -> Iterator[Fault]:
    mode = config.file.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Fault(
            "", "others may write this file, and so may do whatever it allows", f"chmod go-w {config.file.name}"
        )
    elif mode & stat.S_IROTH:
        yield Fault("", "everybody may read this file, and learn what agents may do", f"chmod o-r {config.file.name}")
    for path in config.policies:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield Fault("policy.files", f"others may write {path.name}", f"chmod go-w {path}")
    if not config.policies:
        yield Fault("policy", "there are no rules, so everything is denied", "holdfast policy init")
    for name, reference in config.credentials.items():
        if name not in config.uses:
            yield Fault(f"credentials.{name}", "no system names it, so it opens for nothing", "take it out")
        if reference.startswith("file:") and reference.endswith("?lax"):
            yield Fault(f"credentials.{name}", "others may read its file", "chmod 600, and take `?lax` out")
    for name, upstream in config.upstreams.items():
        for key, url in _plain_http(upstream):
            yield Fault(f"upstreams.{name}.{key}", f"{url} is reached without TLS", "write https://")


def _plain_http(upstream: BaseModel) -> Iterator[tuple[str, str]]:
    """Addresses with http:// that do not stay on this machine or in a private network."""
    for key, value in upstream.model_dump(mode="json").items():
        for text in cast("Sequence[object]", value if isinstance(value, list) else [value]):
            if isinstance(text, str) and text.startswith("http://") and not _near(urlsplit(text).hostname or ""):
                yield key, text.partition("?")[0]


def _near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def _unwise(contracts: Sequence[Contract]) -> Iterator[Fault]:
    for contract in contracts:
        if contract.kind is Kind.IRREVERSIBLE and contract.identity is None:
            what = "it is irreversible, and any other argument makes it another call"
            yield Fault(contract.name, what, "name its identity: the business fields that make two calls the same")
