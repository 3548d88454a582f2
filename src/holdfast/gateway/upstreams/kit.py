"""What every upstream is opened with: the vault, the way out, and its place on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holdfast.gateway.dial import Dialer
    from holdfast.gateway.vault import Vault


class Running(Protocol):
    """A program that was started."""

    async def wait(self) -> int:
        """How it ended, once it has."""
        ...

    def kill(self) -> None:
        """End it, now. Nothing, if it has ended."""
        ...


class Start(Protocol):
    """Starts a program in a sandbox of its own, with exactly this environment on these pipes. Raises Misuse or OSError;
    then nothing runs."""

    async def __call__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
    ) -> Running:
        """The running program."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """`vault`: credentials, for receipts. `dialer` (`gateway/dial.py`): every connection goes through it. `folder`:
    what paths in the configuration are relative to. `state`: where an upstream keeps what it must find again; None:
    nothing that lasts. `start`: starts a program in a sandbox; None: nothing that needs one may be opened."""

    vault: Vault
    dialer: Dialer
    folder: Path = field(default_factory=Path)
    state: Path | None = None
    start: Start | None = None
