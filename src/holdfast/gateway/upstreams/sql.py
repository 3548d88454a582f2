"""Databases by name: one parametrised statement per call, and nothing that is not proven to be what it seems.

Rules
1. A statement is told apart by the grammar of its own database: a read, a declared write, or refused.
2. A read runs where nothing can be written, under a role of its own if there is one.
3. A write is irreversible. `max_rows` is its blast radius: what is judged before the intent, and what the database's
   own count is held against before COMMIT. What would change more changes nothing.
4. With a table of keys in the database, a write under a key happens once, and its doubt is settled by asking. Without
   one, only a person can tell what became of a COMMIT that nobody answered.
5. What a database says no with is an answer: `{"error": {"code", "message", …}}`. To a write, it also proves that
   nothing was changed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from pydantic import BaseModel, Field, model_validator

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, HoldfastError, Misuse, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.sql_classify import Statement
from holdfast.gateway.upstreams.sql_database import Database, Limits, Query, Said

if TYPE_CHECKING:
    from holdfast.gateway.upstreams.kit import Kit

QUERY: Final = "query"
Verb = Literal["insert", "update", "delete", "merge", "ddl"]
_SPARE_S: Final = 30  # beyond a statement's own time: connecting, and COMMIT

SCHEMA: Final[dict[str, JSON]] = {
    "type": "object",
    "properties": {
        "statement": {"type": "string", "description": "one SQL statement; values go into parameters"},
        "parameters": {
            "description": "a list for $1, $2, … (PostgreSQL) or ?, ?2 (SQLite); an object for :name (SQLite)",
            "anyOf": [{"type": "array"}, {"type": "object"}],
        },
        "max_rows": {
            "type": "integer",
            "minimum": 0,
            "description": "how many rows a write may change at most; above that nothing is changed",
        },
    },
    "required": ["statement"],
    "additionalProperties": False,
}


class SqlConfig(BaseModel, extra="forbid", frozen=True):
    """A database. Without `writes`, it is only read."""

    kind: Literal["sql"] = Field(description="`sql`")
    engine: Literal["postgresql", "sqlite"] = Field(description="which database it is")
    path: str = Field("", description="sqlite: the file, relative to holdfast.toml; it must exist")
    host: str = Field("", description="postgresql: its host, or the folder of its Unix socket")
    port: int = Field(5432, ge=1, le=65535, description="postgresql: its port")
    database: str = Field("", description="postgresql: the name of the database")
    role: str = Field("", description="postgresql: the role that writes")
    credential: str = Field("", description="postgresql: the password of `role`, as named in [credentials]")
    read_role: str = Field("", description="postgresql: the role that reads; give it no right to write (default: role)")
    read_credential: str = Field("", description="postgresql: the password of `read_role` (default: credential)")
    tls: bool = Field(True, description="postgresql: false only for a Unix socket, or an address that is not public")
    ca: str = Field("", description="postgresql: a file of authorities to trust (default: those of the system)")
    private: tuple[str, ...] = Field((), description="hosts, HOST:PORT or networks that may be private addresses")
    writes: tuple[Verb, ...] = Field((), description="what may be asked for beside reads; `ddl` always needs a person")
    keys: bool = Field(False, description="whether the database has a table `holdfast_keys` for the keys of writes")
    pure: tuple[str, ...] = Field((), description="further functions that change nothing, as statements name them")
    max_rows: int = Field(1, ge=0, description="rows a write may change where neither the call nor its VALUES tell")
    rows: int = Field(1000, ge=1, le=100_000, description="rows of an answer, at most")
    size_bytes: int = Field(1_000_000, ge=1, le=64_000_000, description="size of an answer, at most")
    statement_s: float = Field(30, gt=0, le=3600, description="seconds that a statement may run")
    labels: frozenset[str] | None = Field(None, description="marks on what is read (default: untrusted:NAME)")

    @model_validator(mode="after")
    def _whole(self) -> SqlConfig:
        needed = ("path",) if self.engine == "sqlite" else ("host", "database", "role")
        other = ("host", "database", "role", "credential", "read_role", "read_credential", "ca")
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"{self.engine} needs `{name}`")
        for name in other if self.engine == "sqlite" else ("path",):
            if getattr(self, name):
                raise ValueError(f"`{name}` means nothing to {self.engine}")
        return self

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of those that it uses."""
        return tuple(name for name in (self.credential, self.read_credential) if name)


async def open_sql(name: str, config: SqlConfig, kit: Kit) -> SqlSystem:
    """The database `name`. Connects to nothing yet. Raises Misuse where a file is missing."""
    limits = Limits(rows=config.rows, size_bytes=config.size_bytes, statement_s=config.statement_s)
    if config.engine == "sqlite":
        from holdfast.gateway.upstreams.sql_sqlite import SqliteDatabase

        path = (kit.folder / config.path).resolve()
        if not path.is_file():
            raise Misuse(f"there is no database `{config.path}`", where=name, fix="name an existing file as `path`")
        sqlite = SqliteDatabase(path, limits, keys=config.keys, pure=frozenset(config.pure))
        return SqlSystem(name, config, kit, sqlite)
    return SqlSystem(name, config, kit, _postgres(config, kit, limits))


def _postgres(config: SqlConfig, kit: Kit, limits: Limits) -> Database:
    from holdfast.gateway.upstreams.sql_postgres import Place, PostgresDatabase

    dialer = kit.dialer.also(config.private)
    local = config.host.startswith("/")

    async def address() -> str:
        """The address that was looked at. Raises NotHappened where it may not be spoken to in the clear."""
        if local:
            return ""
        pinned: str = (await dialer.resolve(config.host, config.port)).address
        if not config.tls and not ipaddress.ip_address(pinned).is_private:
            raise DidNotHappen(f"`{config.host}` is not spoken to without TLS: its address is public")
        return pinned

    place = Place(
        host=config.host,
        port=config.port,
        database=config.database,
        role=config.role,
        read_role=config.read_role or config.role,
        address=address,
        tls=config.tls and not local,
        ca=str(kit.folder / config.ca) if config.ca else ssl.get_default_verify_paths().cafile or "system",
        keys=config.keys,
        pure=frozenset(config.pure),
    )
    return PostgresDatabase(place, limits)


class SqlSystem:
    """A database as the configuration declares it; see `System`."""

    def __init__(self, name: str, config: SqlConfig, kit: Kit, database: Database) -> None:
        self._name = name
        self.config = config
        self.database = database
        self._kit = kit

    @property
    def name(self) -> str:
        """As `System`."""
        return self._name

    def operations(self) -> Mapping[str, JSON]:
        """As `System`."""
        writes = f", or {', '.join(self.config.writes)}" if self.config.writes else ""
        return {QUERY: {"description": f"one statement of {self.config.engine}: a read{writes}", "schema": SCHEMA}}

    async def close(self) -> None:
        """Nothing stays open between calls."""

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System`. SQLite looks at the file's tables, not at their rows; PostgreSQL is not asked."""
        if operation != QUERY:
            raise BadCall(f"`{self._name}` has no operation `{operation[:80]}`", fix=f"one of: {QUERY}")
        given, most = _given(args)
        query = await self.understood(given)
        statement = query.statement
        if statement.reads and most is not None:
            raise BadCall("a read changes nothing: leave `max_rows` out")
        if not statement.reads:
            most = next(n for n in (most, statement.rows, self.config.max_rows) if n is not None)
            given["max_rows"] = most
        return Prepared(
            system=self._name,
            contract=self._contract(statement),
            args=given,
            upstream=SqlUpstream(self, given),
            chosen={"statement": given["statement"], "parameters": given["parameters"]},
            blast=None if "ddl" in statement.verbs else most,
            labels=frozenset({f"untrusted:{self._name}"}) if self.config.labels is None else self.config.labels,
        )

    async def understood(self, given: Mapping[str, JSON]) -> Query:
        """The statement and what it does. Raises BadCall for what is refused."""
        text, parameters = cast("str", given["statement"]), cast("list[JSON] | dict[str, JSON]", given["parameters"])
        statement = await asyncio.to_thread(self.database.classify, text)
        undeclared = sorted(statement.verbs - set(self.config.writes))
        if undeclared:
            raise BadCall(
                f"`{self._name}` takes no {', '.join(undeclared)}",
                fix="declare it under `writes` of this database in holdfast.toml, if it is meant to be asked for",
            )
        if isinstance(parameters, dict) and self.config.engine == "postgresql":
            raise BadCall("the parameters of PostgreSQL are a list, for $1, $2, …")
        if len(parameters) != statement.parameters:
            raise BadCall(f"the statement takes {statement.parameters} parameters, and {len(parameters)} are given")
        return Query(text=text, parameters=parameters, statement=statement)

    def _contract(self, statement: Statement) -> Contract:
        read, ddl = statement.reads, "ddl" in statement.verbs
        return Contract(
            name=f"{self._name}.{QUERY}",
            kind=Kind.READ if read else Kind.IRREVERSIBLE,
            identity=("statement", "parameters"),
            repeat=Repeat.EACH if read else Repeat.ASK,
            drift=Drift.ADOPT if read else Drift.ASK,
            timeout_ms=round((self.config.statement_s + _SPARE_S) * 1000),
            probe=not read and self.config.keys,
            approval=Level.ONE if ddl else Level.NONE,
        )

    async def opened(self, receipt: Receipt, *, read: bool) -> tuple[str, Scrubber]:
        """The password of the role, and what takes it out of answers. Raises NotHappened, or what a vault raises."""
        config = self.config
        name = (config.read_credential or config.credential) if read else config.credential
        if not name:
            return "", Scrubber(())
        credential = await self._kit.vault.open(name, receipt)
        return credential.reveal(), Scrubber((credential,))


@dataclass(frozen=True, slots=True)
class SqlUpstream:
    """One statement on its way; see `Upstream`. `given`: statement, parameters, and for a write `max_rows`."""

    system: SqlSystem
    given: Mapping[str, JSON]

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """As `Upstream`. A read is told what the database says, whatever it is; a write is declined with it."""
        given = self._given(args)
        try:
            query = await self.system.understood(given)
            password, scrubber = await self.system.opened(receipt, read=query.statement.reads)
        except Misuse as error:  # of what was recorded, under a configuration that has changed since
            raise DidNotHappen(error.what, fix=error.fix) from error
        try:
            if query.statement.reads:
                return _reply(canonical((await self.system.database.read(query, password)).answer()), scrubber)
            most = cast("int", given["max_rows"])
            return _reply(await self.system.database.write(query, password, key=receipt.key, most=most), scrubber)
        except Said as said:
            reply = _reply(canonical(said.answer()), scrubber)
            if query.statement.reads:
                return reply
            raise Declined(scrubber.text(f"{said.code}: {said.message}"), reply) from None
        except RetryAfter as later:
            raise RetryAfter(later.seconds, scrubber.text(str(later))) from None
        except Misuse as error:  # a host that is none
            raise DidNotHappen(error.what, fix=error.fix) from error
        except DidNotHappen as error:
            raise type(error)(scrubber.text(error.what), fix=error.fix) from None

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """As `Upstream`: by the table of keys."""
        if not self.system.config.keys:
            return None
        try:
            password, scrubber = await self.system.opened(receipt, read=False)
            data = await self.system.database.landed(receipt.key, password)
        except (HoldfastError, Said):
            return None
        if data is None:
            return NotHappened("no transaction with this key was committed, and none is open")
        return Happened(_reply(data, scrubber))

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """No contract of ours says that there is an undo."""
        raise Misuse("a statement cannot be taken back")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As `Upstream`."""
        return _reply(data, Scrubber(()))

    def running(self, key: str) -> bool:
        """As `Upstream`."""
        return self.system.database.running(key)

    def _given(self, args: bytes | None) -> Mapping[str, JSON]:
        return self.given if args is None else cast("dict[str, JSON]", json.loads(args))


def _given(args: Mapping[str, JSON]) -> tuple[dict[str, JSON], int | None]:
    """Statement and parameters of a call, and its `max_rows`. Raises BadCall."""
    unknown = sorted(set(args) - {"statement", "parameters", "max_rows"})
    if unknown:
        raise BadCall(f"`{unknown[0][:80]}` is no argument of {QUERY}", fix="statement, parameters, max_rows")
    text, parameters, most = args.get("statement"), args.get("parameters"), args.get("max_rows")
    if not isinstance(text, str):
        raise BadCall("`statement` is text")
    if parameters is not None and not isinstance(parameters, list | tuple | dict):
        raise BadCall("`parameters` is a list, or an object")
    if most is not None and (type(most) is not int or most < 0):
        raise BadCall("`max_rows` is a whole number from 0")
    given: dict[str, JSON] = {"statement": text, "parameters": parameters or []}
    try:
        data = canonical(given)
    except Uncanonical as error:
        raise BadCall(f"the statement cannot be written down: {error}") from None
    if b"\\u0000" in data and _has_nul(given):
        raise BadCall("neither a statement nor a parameter can hold a NUL")
    return given, most


def _has_nul(value: JSON) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(_has_nul(part) for part in value)


def _reply(data: bytes, scrubber: Scrubber) -> Reply:
    """The reply that these bytes of canonical JSON stand for, without credentials."""
    value: JSON = json.loads(data)
    if scrubber.clean(data) != data:
        value = _scrubbed(value, scrubber)
        data = canonical(value)
    return Reply(data, Encoding.JSON, value, value)


def _scrubbed(value: JSON, scrubber: Scrubber) -> JSON:
    if isinstance(value, dict):
        return {scrubber.text(name): _scrubbed(part, scrubber) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(part, scrubber) for part in value]
    text = value if isinstance(value, str) else canonical(value).decode()
    clean = scrubber.text(text)
    return value if clean == text else clean
