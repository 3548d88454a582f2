"""What an upstream is opened with in tests: a real vault over a real store, and receipts that it opens for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Kind, Payload
from holdfast.core.record import Intent
from holdfast.gateway.dial import Dialer
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.store import Draft, Store
from holdfast.store.memory import MemoryStore

IDENTITY = "ab" * 32


class Outfit:
    """`secrets`: credentials by name. All of them are for `system`, whose one tool is `tool`. `store`: where intents
    stand."""

    def __init__(
        self, folder: Path, system: str, tool: str, secrets: Mapping[str, str], store: Store | None = None
    ) -> None:
        self.tool = tool
        self.store = store or MemoryStore()
        self._calls = 0
        for name, value in secrets.items():
            (folder / name).write_text(value)
            (folder / name).chmod(0o600)
        references = {name: f"file:{name}" for name in secrets}
        vault = Vault(references, self.store, uses={name: {system} for name in secrets}, folder=folder)
        self.kit = Kit(vault=vault, dialer=Dialer(("127.0.0.1",)), folder=folder)

    def read(self) -> Receipt:
        """For a read."""
        return for_read("r@main", self.tool)

    async def write(self, key: str = "") -> Receipt:
        """For a write whose intent is durable."""
        self._calls += 1
        key = key or f"{self._calls:032x}"
        branch = f"r{self._calls}@main"
        record = Intent(
            tool=self.tool, kind=Kind.IRREVERSIBLE, identity=IDENTITY, n=0, args=Payload("00" * 32, Encoding.JSON, 2),
            key=key, contract="c" * 32, level="none", resource=None, blast=None, approval=None, undoes=None,
        )  # fmt: skip
        grant = await self.store.claim(branch)
        drafts = [Draft(bytes.fromhex(IDENTITY), encode(record))]
        placed = await self.store.append(branch, drafts, epoch=grant.epoch, barrier=True, release=True)
        return for_effect(branch, placed[0].seq, self.tool, key)
