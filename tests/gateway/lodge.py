"""What the tests of wards stand on: a store, a policy of one function, and a post office that counts what it sends.

Rules
1. The office deduplicates nothing but keys of idempotent letters: whatever is sent twice is counted twice.
2. `open` starts a life of the run, as a gateway would after a crash: nothing is carried over but the store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.core.canonical import JSON, canonical
from holdfast.core.capability import Budget, Limit, Terms
from holdfast.core.codec import decode
from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.core.policy import Allowed, Facts, Verdict
from holdfast.core.record import Record
from holdfast.errors import BadCall
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.ward import Ward
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store import Store
from holdfast.store.sqlite import SqliteStore

RUN = "r"
ALL = Terms(tools=("*",))


@dataclass
class Office:
    """A system `post`: `send` and `look`. `before` is awaited around each sending, with its arguments."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    looked: int = 0
    declines: bool = False
    kind: Kind = Kind.IRREVERSIBLE
    repeat: Repeat = Repeat.EACH
    approval: Level = Level.NONE
    blast: int | None = None
    labels: frozenset[str] = frozenset()
    before: Callable[[], object] = lambda: None
    gate: asyncio.Event | None = None
    receipts: list[Receipt] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)

    name = "post"

    def undoing(self, operation: str) -> tuple[Contract, Letter]:
        return Contract(name="post.send", kind=Kind.REVERSIBLE, undo=True), Letter(self, {})

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        if operation not in ("send", "look"):
            raise BadCall(f"`post.{operation}` is not declared")
        kind = Kind.READ if operation == "look" else self.kind
        contract = Contract(
            name=f"post.{operation}", kind=kind, identity=("to",) if "to" in args else None, drift=Drift.ASK,
            repeat=Repeat.EACH if kind is Kind.READ else self.repeat,
            approval=Level.NONE if kind is Kind.READ else self.approval,
            undo=kind is Kind.REVERSIBLE,
        )  # fmt: skip
        chosen = {"to": args["to"]} if "to" in args else None
        return Prepared(
            system="post", contract=contract, args=args, upstream=Letter(self, args), chosen=chosen, blast=self.blast,
            labels=self.labels,
        )  # fmt: skip

    def operations(self) -> Mapping[str, JSON]:
        return {"send": {}, "look": {}}

    async def close(self) -> None:
        return


@dataclass
class Letter:
    """One call."""

    office: Office
    args: Mapping[str, JSON]

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        office = self.office
        office.receipts.append(receipt)
        if receipt.read:
            office.looked += 1
            return _reply({"seen": office.looked})
        wanted = dict(self.args) if args is None else json.loads(args)
        office.before()
        if office.gate is not None:
            await office.gate.wait()
        if office.declines:
            raise Declined("the office is closed", _reply({"closed": True}))
        if not (office.kind is Kind.IDEMPOTENT and receipt.key in {key for _, key in office.sent}):
            office.sent.append((str(wanted.get("to")), receipt.key))
        return _reply({"number": len(office.sent)})

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        assert args is not None, "what is taken back was written down"
        self.office.undone.append(str(json.loads(args).get("to")))
        return _reply({"undone": True})

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        return Reply(data, encoding, json.loads(data))

    def running(self, key: str) -> bool:
        return False


def _reply(value: JSON) -> Reply:
    data = canonical(value)
    return Reply(data, Encoding.JSON, value, value)


@dataclass
class Rules:
    """A policy of one function."""

    rule: Callable[[Facts], Verdict] = lambda facts: Allowed("all")
    digest: str = "0" * 32
    judged: list[Facts] = field(default_factory=list)

    def judge(self, facts: Facts) -> Verdict:
        self.judged.append(facts)
        return self.rule(facts)


@dataclass
class Lodge:
    """A store, and what stands before it."""

    path: Path
    office: Office = field(default_factory=Office)
    rules: Rules = field(default_factory=Rules)
    patience_s: float = 0.0

    @asynccontextmanager
    async def open(self, terms: Terms = ALL, *, ends: bool = False, crash: bool = False) -> AsyncGenerator[Taken]:
        """One life of the run. `ends`: its program ends well; `crash`: the gateway dies without a word."""
        store = SqliteStore(self.path)
        wards = Wards(store, lambda: self.rules, patience_s=self.patience_s, find=self.office.undoing)
        try:
            taken = await wards.open(Wanted(run=RUN, agent="clerk", terms=terms, by="tester"))
            yield taken
            if not crash:
                await wards.close(RUN, answer={"exit": 0}, ended=ends)
        finally:
            await store.close()

    async def send(self, taken: Taken, to: str = "a", *, ward: Ward | None = None, **more: object) -> JSON:
        """Send a letter, and have its answer delivered."""
        prepared = await self.office.prepare("send", {"to": to})
        reply = await taken.ward.call(taken.right, prepared, **more)  # type: ignore[arg-type]
        taken.ward.delivered(prepared)
        return json.loads(reply.data)

    async def look(self, taken: Taken) -> JSON:
        """Look, and have the answer delivered."""
        prepared = await self.office.prepare("look", {})
        reply = await taken.ward.call(taken.right, prepared)
        taken.ward.delivered(prepared)
        return json.loads(reply.data)

    async def records(self, store: Store | None = None) -> list[Record]:
        """The run's log."""
        own = store or SqliteStore(self.path)
        try:
            return [decode(entry.body) for entry in await own.read(f"{RUN}@main")]
        finally:
            if store is None:
                await own.close()


def budget(**most: int) -> Terms:
    """Terms with a budget."""
    return Terms(tools=("*",), budget=Budget(**most))


def limited(**limit: object) -> Terms:
    """Terms with one limit."""
    return Terms(tools=("*",), limits=(Limit(tool="post.send", argument="to", **limit),))  # type: ignore[arg-type]
