"""holdfast.toml: read, checked, and handed on as values.

Rules
1. A file that has one fault is not used at all; every fault is told with its place and what mends it.
2. No secret stands in the file: credentials are references, and what looks like a secret elsewhere is refused. No fault
   shows a value.
3. Relative paths are relative to the file.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from holdfast.errors import Misuse
from holdfast.gateway.settings import Agent, Document, Gateway, Person, Sandbox
from holdfast.gateway.sources import Kv, source_of
from holdfast.gateway.upstreams.kinds import KINDS, config_of, credentials_of
from holdfast.gateway.vault import Vault
from holdfast.store import Readable

NAME = "holdfast.toml"
LARGEST_BYTES = 4 << 20
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:sk-[A-Za-z0-9_-]{16,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|hvs\.[\w-]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
    r"|://[^/\s:@]*:[^/\s:@{}]+@"
    r"|\b(?:Bearer|Basic) [A-Za-z0-9+/=._~-]{12,}"
)
"""What is a secret by its looks: keys and tokens of known forms, passwords in URLs."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at a key (`upstreams.crm.base`; empty: the file itself), and what mends it."""

    key: str
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration without faults. `folder` is what its paths are relative to."""

    file: Path
    gateway: Gateway
    credentials: Mapping[str, str]
    upstreams: Mapping[str, BaseModel]
    policies: tuple[Path, ...]
    agents: Mapping[str, Agent]
    sandbox: Sandbox
    people: Mapping[str, Person]
    uses: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    @property
    def folder(self) -> Path:
        """The directory of the file."""
        return self.file.parent

    @property
    def state(self) -> Path:
        """The gateway's own directory."""
        return self.folder / self.gateway.state

    @property
    def socket(self) -> Path:
        """The socket of the admin door."""
        return self.folder / self.gateway.socket if self.gateway.socket else self.state / "admin.sock"

    @property
    def door(self) -> Path:
        """The socket of the native door."""
        return self.folder / self.gateway.door if self.gateway.door else self.state / "door.sock"

    @property
    def launching(self) -> Path:
        """The socket at which runs are started."""
        return self.socket.with_suffix(".start")

    @property
    def store(self) -> str:
        """The store's URL."""
        given = self.gateway.store
        url = given if "://" in given else f"sqlite:///{given}"
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            return f"sqlite:///{self.folder / url.removeprefix('sqlite:///')}"
        return url

    @property
    def kv(self) -> Kv | None:
        """The server behind `vault:` references."""
        return _kv(self.gateway, self.folder)

    def vault(self, store: Readable) -> Vault:
        """The vault, with its credentials bound to the systems that name them; minted secrets stand in `state`."""
        kept = self.state / "minted"
        return Vault(self.credentials, store, uses=self.uses, folder=self.folder, kept=kept, kv=self.kv)


def load(path: Path) -> Config:
    """The configuration in a file. Raises Misuse, with all faults, if it has any."""
    config, faults = examine(path)
    if config is None:
        told = [f"{fault.key}: {fault.what}" if fault.key else fault.what for fault in faults]
        raise Misuse("; ".join(told), where=str(path), fix=next((each.fix for each in faults if each.fix), ""))
    return config


def examine(path: Path) -> tuple[Config | None, list[Fault]]:
    """The configuration in a file, or all that is wrong with it. Nothing outside is asked."""
    path = path.absolute()
    table, fault = _read(path)
    if table is None:
        return None, [fault] if fault else []
    faults = [*_secrets(table, ())]
    document = _fitting(Document, table, (), faults)
    if document is None:
        return None, _sorted(faults)
    upstreams = {name: found for name in document.upstreams if (found := _upstream(name, document, faults)) is not None}
    faults += _references(document, path.parent)
    uses = _uses(document, upstreams, faults)
    policies = _policies(document.policy.files, path.parent, faults)
    _check_agents(document, faults)
    if faults:
        return None, _sorted(faults)
    return Config(
        file=path,
        gateway=document.gateway,
        credentials=document.credentials,
        upstreams=upstreams,
        policies=policies,
        agents=document.agents,
        sandbox=document.sandbox,
        people=document.people,
        uses=uses,
    ), []


def _read(path: Path) -> tuple[dict[str, Any] | None, Fault | None]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            return None, Fault("", f"the file is larger than {LARGEST_BYTES} bytes", "split the policies off")
        return tomllib.loads(data.decode()), None
    except OSError as error:
        return None, Fault("", f"the file cannot be read: {error.strerror}", "name it: holdfast config check FILE")
    except UnicodeDecodeError:
        return None, Fault("", "the file is not UTF-8 text", "save it as UTF-8")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, Fault("", f"the file is not TOML: {error}", "mend it there")


def _sorted(faults: list[Fault]) -> list[Fault]:
    return sorted(dict.fromkeys(faults), key=lambda fault: fault.key)


# --- one table ---


def _fitting(model: type[BaseModel], table: object, where: tuple[str, ...], faults: list[Fault]) -> Any:
    """The table as its model reads it; None, with the faults, if it does not fit."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        faults += [
            _fault(model, where, tuple(str(part) for part in each["loc"]), each["type"], each["msg"])
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        return None


def _fault(model: type[BaseModel], where: tuple[str, ...], loc: tuple[str, ...], kind: str, message: str) -> Fault:
    key = _path((*where, *loc))
    if kind == "extra_forbidden":
        known = _keys_at(model, loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.6)
        fix = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}" if known else ""
        return Fault(key, "there is no such key", fix)
    if kind == "missing":
        return Fault(key, "it is missing", "add it")
    what = message.removeprefix("Value error, ")
    return Fault(key, what[:1].lower() + what[1:])


def _keys_at(model: type[BaseModel], loc: Sequence[str]) -> list[str]:
    """The keys that a table below `model` may have."""
    found: set[type[BaseModel]] = {model}
    for part in loc:
        inner = {
            each
            for known in found
            if part in known.model_fields
            for each in _models(known.model_fields[part].annotation)
        }
        found = inner or found  # a part that is a name of a mapping, a place in a list, or a choice
    return sorted({name for known in found for name in known.model_fields})


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def _path(parts: Sequence[str]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in parts)


# --- what no model can tell ---


def _upstream(name: str, document: Document, faults: list[Fault]) -> BaseModel | None:
    table = document.upstreams[name]
    where = ("upstreams", name)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), list(KINDS), n=1)
        known = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(KINDS)}"
        what = "it is missing" if kind is None else "there is no such kind of upstream"
        faults.append(Fault(_path((*where, "kind")), what, known))
        return None
    try:
        model = config_of(kind)
    except Misuse as error:
        faults.append(Fault(_path((*where, "kind")), error.what, error.fix))
        return None
    return cast("BaseModel | None", _fitting(model, table, where, faults))


def _references(document: Document, folder: Path) -> Iterator[Fault]:
    try:
        kv = _kv(document.gateway, folder)
    except Misuse as error:
        kv = None
        yield Fault("gateway.vault_token", error.what, error.fix)
    for name, reference in document.credentials.items():
        try:
            source_of(reference, folder, kv)
        except Misuse as error:
            yield Fault(_path(("credentials", name)), error.what, error.fix)


def _kv(gateway: Gateway, folder: Path) -> Kv | None:
    address = gateway.vault_address or os.environ.get("VAULT_ADDR")
    if address is None:
        return None
    return Kv(address, source_of(gateway.vault_token or "env:VAULT_TOKEN", folder), gateway.vault_namespace)


def _uses(document: Document, upstreams: Mapping[str, BaseModel], faults: list[Fault]) -> dict[str, frozenset[str]]:
    """Which systems name which credential."""
    uses: dict[str, set[str]] = {}
    for system, config in upstreams.items():
        for name in sorted(credentials_of(config)):
            if name not in document.credentials:
                near = difflib.get_close_matches(name, list(document.credentials), n=1)
                fix = f"did you mean `{near[0]}`?" if near else "declare it under [credentials]"
                faults.append(Fault(_path(("upstreams", system)), f"there is no credential `{name}`", fix))
            uses.setdefault(name, set()).add(system)
    return {name: frozenset(systems) for name, systems in uses.items()}


def _policies(patterns: Sequence[str], folder: Path, faults: list[Fault]) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for number, pattern in enumerate(patterns):
        matched = sorted(glob.glob(str(folder / pattern)))
        if not matched:
            faults.append(Fault(f"policy.files.{number}", "no such file", "mend the path, or take it out"))
        found.update((Path(each), None) for each in matched)
    return tuple(found)


def _check_agents(document: Document, faults: list[Fault]) -> None:
    """Capabilities speak of systems that are declared."""
    for name, agent in document.agents.items():
        for key, patterns in (("tools", agent.tools), ("arguments", tuple(agent.arguments))):
            for pattern in patterns:
                system = pattern.partition(".")[0]
                if system not in document.upstreams:
                    near = difflib.get_close_matches(system, list(document.upstreams), n=1)
                    fix = f"did you mean `{near[0]}`?" if near else "declare it under [upstreams]"
                    faults.append(Fault(_path(("agents", name, key)), f"there is no system `{system}`", fix))


def _secrets(value: object, where: tuple[str, ...]) -> Iterator[Fault]:
    """What looks like a secret, wherever it stands."""
    match value:
        case dict():
            for key, inner in cast("dict[str, object]", value).items():
                if _SECRETS.search(key):
                    yield Fault(_path(where), "a key looks like a secret", "take it out, and renew that secret")
                yield from _secrets(inner, (*where, key))
        case list():
            for number, inner in enumerate(cast("list[object]", value)):
                yield from _secrets(inner, (*where, str(number)))
        case str() if _SECRETS.search(value):
            fix = "put it where only the gateway reads it, and name that under [credentials]: env:NAME, file:PATH"
            yield Fault(_path(where), "a secret may not stand in this file", fix)
        case _:
            return
