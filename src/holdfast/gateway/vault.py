"""Credentials by reference, which only a call that is written down opens.

Rules
1. A credential is released for a receipt, never for a name alone. The receipt of an effect must be of an intent that
   stands in the store, as the store tells now, and that has no seal yet; that of a read opens for a read.
2. A credential opens only for tools of the systems that it is declared for.
3. Whatever goes wrong, nothing is released; what is raised names the credential and the reason, never the value, and
   says that nothing was sent.
4. What an agent's call has minted is kept here as well, and resolved under the same rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Intent, Seal, Settled
from holdfast.errors import HoldfastError, Misuse, Refused
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.credential import Credential
from holdfast.gateway.history import lineage_of
from holdfast.gateway.minted import HANDLE, Kept, Minted
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.sources import EnvironmentSource, Kv, Source, source_of
from holdfast.store import Readable

FORMER_S = 3600.0  # how long a value that was replaced is still scrubbed
LONGEST = 5  # so many former values are remembered


class Vault:
    """The credentials named in `references` (`env:…`, `file:…`, see `sources.py`), each for the systems that `uses`
    tells; files are relative to `folder`. `store` is where intents are looked up. `kept`: the file of minted secrets
    (None: they last as long as this process).

    Takes `env:` references out of this process's environment. Raises Misuse for a reference that names nothing."""

    def __init__(
        self,
        references: Mapping[str, str],
        store: Readable,
        *,
        uses: Mapping[str, Collection[str]],
        folder: Path | None = None,
        kept: Path | None = None,
        kv: Kv | None = None,
    ) -> None:
        self._store = store
        self._uses = {name: frozenset(systems) for name, systems in uses.items()}
        self._sources = {name: _source(name, text, folder or Path(), kv) for name, text in references.items()}
        self._seen: dict[str, list[tuple[Credential, float]]] = {}
        self._minted = Minted(kept)
        for source in (*self._sources.values(), *(() if kv is None else (kv.token,))):
            if isinstance(source, EnvironmentSource):
                source.take()

    async def open(self, name: str, receipt: Receipt) -> Credential:
        """The credential `name`, for the call of this receipt. Raises Refused where the receipt does not open it, and
        NotHappened where it cannot be had."""
        source = self._sources.get(name)
        if source is None:
            raise Refused(f"there is no credential `{name}`", fix="declare it under [credentials]")
        await self._check(f"the credential `{name}`", receipt, self._uses.get(name, frozenset()))
        try:
            value = await source.read()
        except DidNotHappen as error:
            raise DidNotHappen(f"the credential `{name}` cannot be had: {error.what}", fix=error.fix) from None
        return self._credential(name, value)

    async def keep(self, name: str, value: str, receipt: Receipt, systems: Collection[str] = ()) -> str:
        """Keep a secret that the call of this receipt has brought, durably; the handle (`hfv_…`) to give away for it,
        which opens for calls of the same run, to `systems` (default: the one that was called). Raises StoreFull or
        Unwritable, and then nothing was kept."""
        if not _genuine(receipt):
            raise Refused(f"`{name}` is kept for no call: this is no receipt of ours")
        run = receipt.branch.partition("@")[0]
        kept = Kept(name, run, tuple(sorted(systems)) or (_system(receipt),), value)
        return await asyncio.to_thread(self._minted.keep, kept)

    async def resolve(self, handle: str, receipt: Receipt) -> Credential:
        """What a handle stands for, for the call of this receipt. Raises Refused."""
        kept = self._minted.find(handle) if HANDLE.fullmatch(handle) else None
        if kept is None or not _genuine(receipt) or receipt.branch.partition("@")[0] != kept.run:
            raise Refused("this is no handle of this run", fix="use the handle that the call before has answered with")
        await self._check(f"the kept secret `{kept.name}`", receipt, frozenset(kept.systems))
        return Credential(kept.name, kept.value)

    def missing(self) -> Mapping[str, str]:
        """Why which credentials cannot be had, as far as that can be told without asking anybody outside."""
        found = {name: source.missing() for name, source in self._sources.items()}
        return {name: why for name, why in found.items() if why is not None}

    def _credential(self, name: str, value: str) -> Credential:
        """A credential that is `value` now, and knows what it was until lately."""
        now_s = time.monotonic()
        known = self._seen.get(name, [])
        if len(known) == 1 and known[0][0].reveal() == value:  # it has not changed for as long as that is remembered
            known[0] = (known[0][0], now_s + FORMER_S)
            return known[0][0]
        seen = [(was, until) for was, until in known if was.reveal() != value and until > now_s]
        self._seen[name] = [*seen[-LONGEST:], (Credential(name, value), now_s + FORMER_S)]
        return Credential(name, value, tuple(was.reveal() for was, _ in seen))

    async def _check(self, what: str, receipt: Receipt, systems: Collection[str]) -> None:
        """Raise Refused unless this receipt opens what these systems may use."""
        if not _genuine(receipt):
            raise Refused(f"{what} stays closed: this is no receipt of ours")
        if _system(receipt) not in systems:
            fix = "name it in the upstream's configuration, if it is meant for that system"
            raise Refused(f"{what} stays closed: it is not for `{_system(receipt)}`", where=receipt.tool, fix=fix)
        if receipt.read:
            return
        try:
            why = await self._objection(receipt)
        except HoldfastError as error:
            why = f"the log cannot be read ({type(error).__name__})"
        if why is not None:
            raise Refused(f"{what} stays closed: {why}", where=f"{receipt.branch}:{receipt.seq}")

    async def _objection(self, receipt: Receipt) -> str | None:
        """What the store says against a receipt of an effect."""
        seq = receipt.seq
        stretches = [
            (branch, upto)
            for branch, upto in await lineage_of(self._store, receipt.branch)
            if upto is None or seq <= upto
        ]
        placed = await self._store.read(stretches[0][0], after=seq - 1, upto=seq)
        intent = decode(placed[0].body) if len(placed) == 1 else None
        if not isinstance(intent, Intent) or (intent.tool, intent.key) != (receipt.tool, receipt.key):
            return "no intent of this call is in the log"
        identity = bytes.fromhex(intent.identity)
        for branch, upto in stretches:
            since = await self._store.read(branch, after=seq, upto=upto)
            if any(entry.key in (b"", identity) and _ends(entry, seq) for entry in since):
                return "the call is sealed"
        return None


def _genuine(receipt: Receipt) -> bool:
    """Whether this is a receipt, and one that this process made: nothing that only looks like one."""
    return type(receipt) is Receipt and type(receipt.mark) is bytes and receipt.genuine


def _system(receipt: Receipt) -> str:
    return receipt.tool.partition(".")[0]


def _ends(entry: Entry, seq: int) -> bool:
    record = decode(entry.body)
    return isinstance(record, Seal | Settled) and record.intent == seq


def _source(name: str, reference: str, folder: Path, kv: Kv | None) -> Source:
    try:
        return source_of(reference, folder, kv)
    except Misuse as error:
        raise Misuse(f"credential `{name}`: {error.what}", fix=error.fix) from None
