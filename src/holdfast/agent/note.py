"""What an agent writes down by name: lanes, signals, settings, and what it says with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import BadCall

if TYPE_CHECKING:
    from holdfast.agent.tool import Tool

LONGEST_NAME = 200  # characters


def named(what: str, name: object) -> str:
    """A name that can be written down. Raises BadCall for any other."""
    if isinstance(name, str) and name.isprintable() and len(name) <= LONGEST_NAME:
        return name
    raise BadCall(f"`{ascii(name)[:60]}` cannot name {what}", fix=f"use a printable text of up to {LONGEST_NAME}")


def is_name(agent: str) -> bool:
    """Whether a text names an agent: `MODULE:NAME`."""
    module, _, inner = agent.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), *inner.split(".")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is said with a checkpoint that is asked for. `turn`: it stands at the boundary of a turn, and is made only
    if the agent's policy wants it before a turn that may call these tools (none named: any)."""

    services: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    turn: tuple[Tool, ...] | None = None


def noted(services: Sequence[str], labels: Sequence[str], turn: tuple[Tool, ...] | None) -> Note:
    """Raises BadCall for what cannot be written down."""
    if isinstance(services, str) or isinstance(labels, str):
        raise BadCall("services and labels are lists of texts", fix='services=["npm start"]')
    return Note(
        services=tuple(named("a service", each) for each in services),
        labels=tuple(named("a label", each) for each in labels),
        turn=turn,
    )
