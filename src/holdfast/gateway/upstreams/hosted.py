"""The user's own Python tools, in a process of their own: the kind `python`.

Rules
1. What a tool promises stands in its module (`@tool`); the module is listed by a host that has no credential.
2. A host with credentials is started by the first receipt that opens them, and goes on as long as they stay the same.
   After a rotation the next call is made in a new host; the old one ends when it has finished.
3. What a tool answers or raises means the same as in embedded mode. A host that dies at a call leaves it in doubt.
4. No answer, error or printed line leaves a host with a credential in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, BadContract, Misuse
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.frames import as_text, bytes_in, encoding_in, text_in
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.toolhost import ToolHost, start
from holdfast.gateway.upstreams import Prepared, Reply
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.shape import Shape

CREDENTIAL = "credential:"
LARGEST_ARGS = 16 << 20  # bytes
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_ANY = Shape(object)


class PythonConfig(BaseModel):
    """Tools that are written in Python, in modules of yours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["python"] = Field(description="`python`.")
    modules: tuple[str, ...] = Field(min_length=1, description="The modules whose `@tool` functions are offered.")
    path: tuple[str, ...] = Field((".",), description="Directories in which modules are looked for first.")
    environment: dict[Variable, str] = Field(
        default_factory=dict[str, str],
        description="The environment of the tools: texts, or `credential:NAME` for what stands under [credentials].",
    )
    labels: tuple[str, ...] | None = Field(
        None, description="Marks on what the tools answer. Default: `untrusted:NAME`; an empty list: trusted."
    )

    @field_validator("modules")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError("a module is named as in an import: `crm_tools`, `shop.tools`")
        return value

    @field_validator("environment")
    @classmethod
    def _leaves_python_alone(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if name.startswith(("PYTHON", "LD_")) or "\0" in text:
                raise ValueError(f"`{name}` may not be set")
        return value

    @property
    def credentials(self) -> tuple[str, ...]:
        """The credentials that its tools are given."""
        named = (text.removeprefix(CREDENTIAL) for text in self.environment.values() if text.startswith(CREDENTIAL))
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as its module declares it: `name` there, and the contract by which it is known outside."""

    name: str
    contract: Contract
    description: str
    schema: JSON


async def open_python(name: str, config: PythonConfig, kit: Kit) -> HostedSystem:
    """List the modules of the system `name`. Raises Misuse where they cannot be, BadContract where a tool cannot be
    offered."""
    system = HostedSystem(name, config, kit.vault, kit.folder, kit.state)
    try:
        await system.list()
    except BaseException:
        await system.close()
        raise
    return system


async def contracts_of(name: str, config: PythonConfig, folder: Path) -> Sequence[Contract]:
    """What the tools of the system `name` promise. No credential is opened. Raises as `open_python`."""
    system = HostedSystem(name, config, None, folder)
    try:
        await system.list()
        return [each.contract for each in system.tools.values()]
    finally:
        await system.close()


class HostedSystem:
    """The tools of one upstream of the kind `python`. `state`: where the directory is in which they run; None: it lasts
    as long as they do."""

    def __init__(
        self, name: str, config: PythonConfig, vault: Vault | None, folder: Path, state: Path | None = None
    ) -> None:
        self.tools: dict[str, Listed] = {}
        self._name = name
        self._config = config
        self._vault = vault
        self._path = [str((folder / each).absolute()) for each in config.path]
        self._passing = None if state else tempfile.mkdtemp(prefix="holdfast-host-")
        self._place = state / "hosts" / name if state else Path(cast(str, self._passing))
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lister: ToolHost | None = None
        self._worker: ToolHost | None = None
        self._retired: list[tuple[ToolHost, asyncio.Task[None]]] = []
        self._secret = secrets.token_bytes(32)
        self._worn = b""  # the fingerprint of the environment of `_worker`
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """As it stands in holdfast.toml."""
        return self._name

    @property
    def labels(self) -> frozenset[str]:
        """Marks on what its tools answer."""
        named = self._config.labels
        return frozenset((f"untrusted:{self._name}",) if named is None else named)

    def operations(self) -> Mapping[str, JSON]:
        """As `System.operations`."""
        return {
            operation: {"description": each.description, "schema": each.schema}
            for operation, each in sorted(self.tools.items())
        }

    async def list(self) -> None:
        """Start the host that lists, and take up what it lists."""
        self._lister = await self._start({}, ())
        self.tools = _taken(self._name, self._lister)

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System.prepare`."""
        tool = self.tools.get(operation)
        if tool is None:
            raise BadCall(f"`{self._name}` has no tool `{operation}`", fix=f"known: {', '.join(sorted(self.tools))}")
        _check_size(tool.contract.name, args)
        lister = await self._listing()
        try:
            bound = await lister.ask("bind", tool=tool.name, args=dict(args))
        except RuntimeError as error:
            raise BadCall(f"the arguments of `{tool.contract.name}` cannot be read: {error}") from None
        wire, blast = bound.get("args"), bound.get("blast")
        if not isinstance(wire, dict) or not (blast is None or (type(blast) is int and blast >= 0)):
            raise BadCall(f"the arguments of `{tool.contract.name}` cannot be read")
        known = cast("dict[str, JSON]", wire)
        return Prepared(
            system=self._name,
            contract=tool.contract,
            args=known,
            upstream=HostedUpstream(self, tool, known),
            chosen=_only(known, tool.contract.identity),
            touches=_only(known, tool.contract.resource),
            blast=blast,
            labels=self.labels,
        )

    def undoing(self, operation: str) -> tuple[Contract, HostedUpstream] | None:
        """As `Undoes.undoing`."""
        tool = self.tools.get(operation)
        return None if tool is None or not tool.contract.undo else (tool.contract, HostedUpstream(self, tool, {}))

    def running(self, key: str) -> bool:
        """Whether an effect under this key may be at work in one of its hosts."""
        hosts = [host for host, _ in self._retired] + ([self._worker] if self._worker else [])
        return any(host.running(key) for host in hosts)

    async def host_for(self, receipt: Receipt) -> ToolHost:
        """A host with what this receipt opens. Raises NotHappened where there cannot be one."""
        assert self._vault is not None, "who only lists calls nothing"
        opened = {name: await self._vault.open(name, receipt) for name in self._config.credentials}
        environment = {
            name: opened[text.removeprefix(CREDENTIAL)].reveal() if text.startswith(CREDENTIAL) else text
            for name, text in self._config.environment.items()
        }
        worn = hashlib.blake2b(canonical(cast(JSON, environment)), key=self._secret).digest()
        async with self._turn:
            if self._worker is not None and (self._worker.ended or worn != self._worn):
                self._retire(self._worker)
                self._worker = None
            if self._worker is None:
                try:
                    host = await self._start(environment, tuple(opened.values()))
                except Misuse as error:
                    raise DidNotHappen(error.what, fix=error.fix) from None
                if not self._as_listed(host):
                    await host.close()
                    raise DidNotHappen(
                        f"the modules of `{self._name}` are not what was listed", fix="start the gateway anew"
                    )
                self._worker, self._worn = host, worn
            return self._worker

    async def close(self) -> None:
        """End its hosts."""
        hosts = [host for host, _ in self._retired] + [host for host in (self._lister, self._worker) if host]
        for _, task in self._retired:
            task.cancel()
        for host in hosts:
            await host.close()
        if self._passing is not None:
            shutil.rmtree(self._passing, ignore_errors=True)

    async def _start(self, environment: Mapping[str, str], opened: Sequence[Any]) -> ToolHost:
        return await start(self._name, self._config.modules, self._path, environment, self._place, opened)

    async def _listing(self) -> ToolHost:
        async with self._turn:
            if self._lister is None or self._lister.ended:
                lister = await self._start({}, ())
                if not self._as_listed(lister):
                    await lister.close()
                    raise BadCall(
                        f"the modules of `{self._name}` are not what was listed", fix="start the gateway anew"
                    )
                self._lister = lister
            return self._lister

    def _as_listed(self, host: ToolHost) -> bool:
        try:
            return _taken(self._name, host) == self.tools
        except BadContract:
            return False

    def _retire(self, host: ToolHost) -> None:
        self._retired = [(old, task) for old, task in self._retired if not task.done()]
        self._retired.append((host, asyncio.ensure_future(host.retire())))


class HostedUpstream:
    """One call of a tool in a host."""

    def __init__(self, system: HostedSystem, tool: Listed, args: Mapping[str, JSON]) -> None:
        self._system = system
        self._tool = tool
        self._args = args

    def running(self, key: str) -> bool:
        """As `Upstream.running`."""
        return self._system.running(key)

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """As `Upstream.perform`."""
        host, said = await self._asked("call", args, receipt)
        return _reply(host, said)

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """As `Upstream.probe`."""
        host, said = await self._asked("probe", args, receipt)
        match said["came"]:
            case "happened":
                reply = _reply(host, said)
                return Happened(reply, reply.etag)
            case "absent":
                return NotHappened(host.scrub.text(text_in(said, "what")))
            case _:
                return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """As `Upstream.undo`."""
        told = None if answer is None else {"data": as_text(answer.data), "encoding": answer.encoding.value}
        host, said = await self._asked("undo", args, receipt, answer=told)
        return _reply(host, said)

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As `Upstream.read`."""
        return _plain(data, encoding, None)

    async def _asked(
        self, what: str, args: bytes | None, receipt: Receipt, **more: object
    ) -> tuple[ToolHost, dict[str, Any]]:
        known = self._args if args is None else cast("dict[str, JSON]", json.loads(args))
        host = await self._system.host_for(receipt)
        said = await host.ask(what, key=receipt.key, tool=self._tool.name, args=dict(known), **more)
        return host, said


def _check_size(name: str, args: Mapping[str, JSON]) -> None:
    """Raise BadCall for arguments that could not be written down."""
    try:
        size = len(canonical(cast(JSON, dict(args))))
    except Uncanonical as error:
        raise BadCall(f"the arguments of `{name}` cannot be written down: {error}") from None
    if size > LARGEST_ARGS:
        raise BadCall(
            f"the arguments of `{name}` are {size} bytes; at most {LARGEST_ARGS} are taken", fix="pass a reference"
        )


def _reply(host: ToolHost, said: dict[str, Any]) -> Reply:
    """What a tool has answered, scrubbed."""
    encoding, told = encoding_in(said), said.get("etag")
    etag = None if told is None else host.scrub.text(text_in(said, "etag", 500))
    raw = bytes_in(said, "data")
    data = host.scrub.clean(raw)
    try:
        return _plain(data, encoding, etag)
    except ValueError:  # the credential was a number in it
        reason = "a credential in it could not be taken out" if data != raw else "it is not what it says that it is"
        lost = json.dumps({"reason": reason, "type": "json"}).encode()
        return _plain(lost, Encoding.LOST, etag)


def _plain(data: bytes, encoding: Encoding, etag: str | None) -> Reply:
    written = _ANY.read(data, encoding)
    return Reply(written.data, written.encoding, written.value, written.woven, etag)


def _only(args: Mapping[str, JSON], names: Sequence[str] | None) -> Mapping[str, JSON] | None:
    return None if names is None else {name: args[name] for name in names}


def _taken(system: str, host: ToolHost) -> dict[str, Listed]:
    """The tools of a host by operation. Raises BadContract for one that cannot be offered."""
    tools: dict[str, Listed] = {}
    for told in host.tools:
        name = text_in(told, "name", 200)
        operation = name.removeprefix(f"{system}.").removeprefix(f"{text_in(told, 'module', 200)}.")
        if operation in tools or not operation or any(sign.isspace() or sign == "*" for sign in operation):
            raise BadContract(f"`{system}.{operation}` is declared twice, or is no name", fix="@tool(name=…)")
        contract = _contract(f"{system}.{operation}", told)
        if contract.secret:
            fix = "let it take a reference, and fetch what it refers to"
            raise BadContract(f"`{contract.name}` has secret arguments, which agents do not have", fix=fix)
        tools[operation] = Listed(name, contract, text_in(told, "description", 10_000), cast(JSON, told.get("schema")))
    return tools


def _contract(name: str, told: dict[str, Any]) -> Contract:
    try:
        return Contract(
            name=name,
            kind=Kind(told["kind"]),
            identity=_names(told["identity"]),
            resource=_names(told["resource"]),
            repeat=Repeat(told["repeat"]),
            drift=Drift(told["drift"]),
            key_ttl_ms=_ms(told["key_ttl_ms"]),
            late_ms=_ms(told["late_ms"]),
            timeout_ms=_ms(told["timeout_ms"]),
            probe=told["probe"] is True,
            undo=told["undo"] is True,
            approval=Level(told["approval"]),
            secret=_names(told["secret"]) or (),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise BadContract(f"the contract of `{name}` cannot be read ({type(error).__name__})") from None


def _names(told: object) -> tuple[str, ...] | None:
    if told is None:
        return None
    if not isinstance(told, list) or not all(isinstance(each, str) for each in cast("list[object]", told)):
        raise ValueError("a list of names was expected")
    return tuple(cast("list[str]", told))


def _ms(told: object) -> int | None:
    if told is not None and type(told) is not int:
        raise ValueError("milliseconds were expected")
    return told
