"""Where the files of sandboxed runs are, for whoever starts their programs: beside the store of their gateway.

Rules
1. Whoever starts a program holds its files: a gateway that runs under another user does not read what an agent wrote.
2. What the agent says of its files counts for nothing: they are looked at while nothing of its sandbox runs.
3. There is a limit to how much of them is looked at, and kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.embedded.files import Files, OpenRoom, Wanted
from holdfast.errors import Misuse
from holdfast.gateway.config import Config
from holdfast.store.url import shown, workspaces_of
from holdfast.workspace import Budget


@dataclass(frozen=True, slots=True)
class _Beside:
    """Beside a store: as `Grounds`."""

    workspaces: Path
    own: tuple[Path, ...]
    overlay_files: None = None
    store: None = None
    follow: bool = False


class SandboxFiles:
    """As `Rooms`, for the runs of one agent. `at`: the directory that the user names for its files, if any."""

    def __init__(self, config: Config, agent: str, at: str | None) -> None:
        workspaces, own = workspaces_of(config.store)
        if workspaces is None:
            fix = "name a directory for them: ?workspaces=DIR in `store` under [gateway]"
            raise Misuse("the store has no place for the files of its runs", where=shown(config.store), fix=fix)
        sandbox = config.sandbox
        budget = Budget(entries=sandbox.workspace_entries, size_bytes=sandbox.workspace_bytes)
        grounds = _Beside(workspaces, (*own, config.state.absolute(), config.file.absolute()))
        self._files = Files(grounds, budget)
        self._ignore = config.agents[agent].ignore
        self._at = None if at is None else self._files.fit(Path(at))

    @contextlib.asynccontextmanager
    async def open(self, told: Mapping[str, Any]) -> AsyncGenerator[OpenRoom]:
        """As `Rooms.open`. Raises Busy while another run works in the directory, Unwritable, Corrupt."""
        tree = told["tree"]
        wanted = Wanted(
            str(told["branch"]), bool(told["new"]), None if tree is None else bytes.fromhex(tree), str(told["node"]),
            bool(told["exactly"]), self._ignore,
        )  # fmt: skip
        async with self._files.room(wanted, self._at) as room:
            yield room
