"""Tables of calls: what a policy is tested with.

Rules
1. A table says all that a policy may know of a call; what it leaves out is as in a run that has done nothing yet.
2. What a table says in a way that is not understood is an error, and nothing is judged.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from holdfast.core.contract import Level
from holdfast.core.effect import Kind
from holdfast.core.policy import Facts
from holdfast.errors import Misuse


class Spent(BaseModel):
    """What the run has used up before the call."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    calls: int = 0
    money: int = 0
    blast: int = 0


class Case(BaseModel):
    """One row: a call, and what is expected of the policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tool: str
    kind: Kind
    verdict: Literal["allowed", "held", "denied"]
    level: Level | None = None
    rule: str | None = None
    name: str = ""
    args: dict[str, Any] = Field(default_factory=dict[str, Any])
    blast: int | None = None
    labels: list[str] = Field(default_factory=list[str])
    unvouched: list[str] = Field(default_factory=list[str])
    agent: str = "agent"
    run: str = "run"
    capability: str = "capability"
    system: str | None = None
    now: AwareDatetime = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday, at noon
    spent: Spent = Spent()

    def facts(self) -> Facts:
        """What is judged."""
        return Facts(
            agent=self.agent, run=self.run, capability=self.capability, tool=self.tool, kind=self.kind,
            system=self.tool.partition(".")[0] if self.system is None else self.system,
            args=self.args, blast=self.blast, labels=frozenset(self.labels),
            now_ms=int(self.now.timestamp() * 1000), unvouched=lambda: frozenset(self.unvouched),
            spent_calls=self.spent.calls, spent_money=self.spent.money, spent_blast=self.spent.blast,
        )  # fmt: skip


class Table(BaseModel):
    """A file: the policy that it is about (paths from its own place), and its calls."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    call: list[Case] = Field(min_length=1)
    policy: list[str] = Field(default_factory=list[str])


def read_table(path: Path) -> Table:
    """A table, understood. Raises Misuse, which names the call."""
    try:
        return Table.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        what = (error.strerror or "it cannot be read").lower()
        raise Misuse(f"the table cannot be read: {what}", where=str(path), fix="holdfast policy init") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise Misuse(f"`{place}`: {first['msg'].lower()}", where=str(path), fix="see `holdfast policy init`") from None
    except ValueError as error:
        raise Misuse(f"the table is not TOML: {error}", where=str(path), fix="mend it") from None
