"""Holdfast: the execution layer under production AI agents.

    from holdfast import agent, open_store, tool

Everything is imported when it is first used, so that `import holdfast` stays light.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.agent.briefing import briefing
    from holdfast.agent.run import Agent, Attempt, Run, Stranded, agent
    from holdfast.agent.tool import tool
    from holdfast.core.effect import Happened
    from holdfast.embedded import House, open_store
    from holdfast.errors import (
        AnswerLost,
        Asleep,
        AwaitingSignal,
        Cancelled,
        Claimed,
        Drifted,
        Held,
        HoldfastError,
        InDoubt,
        NoCandidate,
        NotHappened,
        Refused,
        RetryAfter,
        Waiting,
    )
    from holdfast.gateway.drift import Drift
    from holdfast.gateway.upstreams.python import key

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "AnswerLost",
    "Asleep",
    "Attempt",
    "AwaitingSignal",
    "Cancelled",
    "Claimed",
    "Drift",
    "Drifted",
    "Happened",
    "Held",
    "HoldfastError",
    "House",
    "InDoubt",
    "NoCandidate",
    "NotHappened",
    "Refused",
    "RetryAfter",
    "Run",
    "Stranded",
    "Waiting",
    "agent",
    "briefing",
    "key",
    "open_store",
    "tool",
]

_HOMES = {
    "holdfast.agent.briefing": ("briefing",),
    "holdfast.agent.run": ("Agent", "Attempt", "Run", "Stranded", "agent"),
    "holdfast.agent.tool": ("tool",),
    "holdfast.core.effect": ("Happened",),
    "holdfast.embedded": ("House", "open_store"),
    "holdfast.gateway.drift": ("Drift",),
    "holdfast.gateway.upstreams.python": ("key",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'holdfast' has no attribute '{name}'")
    from importlib import import_module

    found: object = getattr(import_module(_HOME_OF.get(name, "holdfast.errors")), name)
    globals()[name] = found
    return found


class _Front(ModuleType):
    """This module. `holdfast.agent` is the decorator, whatever is imported in whatever order: Python would put the
    package of the same name in its place as soon as anything in it is loaded."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "agent" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front
