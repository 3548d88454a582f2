"""Whether the user lets a log name its agent."""

from __future__ import annotations

from holdfast.agent.named import agent_named
from holdfast.cli.options import ALLOWED, is_allowed
from holdfast.errors import Misuse

__all__ = ["agent_named", "allowed_name"]


def allowed_name(recorded: str, run: str, way: str) -> str:
    """The agent's name in a log, if the user has allowed its module; `way` is the command that names it. Raises
    Misuse."""
    if is_allowed(recorded):
        return recorded
    raise Misuse(
        f"the log says `{recorded}`, but what is imported is for you to say",
        where=run,
        fix=f"{way}; or allow its module: {ALLOWED}=MODULE",
    )
