"""World drift, asked with the tools of this process.

Rules
1. The check writes nothing. A run that is held to an unmoved world is not started where it has moved, or where nobody
   can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.agent.run import outside_run
from holdfast.agent.tool import tool_named
from holdfast.core.drift import Fate
from holdfast.errors import Drifted
from holdfast.gateway.desk import parse_node
from holdfast.gateway.drift import Drift, Way, drifted, read_again, stale
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import read_log
from holdfast.gateway.upstreams.python import PythonUpstream
from holdfast.shape import Function
from holdfast.store import Readable

SHOWN = 3  # of the things that moved, in an error


def way_of(name: str) -> Way | None:
    """The way of the tool that is declared under `name` in this process."""
    tool = tool_named(name)
    if tool is None:
        return None
    function = Function(tool.function, tool.probe, tool.undo)
    return Way(tool.contract, PythonUpstream(function, {}, outside_run))


async def drift_at(store: Readable, node: str) -> list[Drift]:
    """How everything that a run relied on stands in the world now: at a node (`RUN@SEQ`, `RUN@BRANCH:SEQ`), or at the
    end of a branch (`RUN@BRANCH`) or of the run's line (`RUN`). Raises Misuse, Unknown, Corrupt."""
    branch, upto = await find_place(store, node)
    return await drifted(store, branch, way_of, upto)


async def find_place(store: Readable, place: str) -> tuple[str, int | None]:
    """The branch that a run or a node names, and the seq of the node. Raises Misuse."""
    run, _, name = place.partition("@")
    if not run or ":" in place or name.isdigit():
        return parse_node(place)
    return f"{run}@{name or (await read_tree(store, run)).line}", None


async def hold_to_the_world(store: Readable, branch: str, upto: int | None = None) -> None:
    """Raise Drifted if what a branch relied on, at `upto` (a seq) or at its end, has moved, or if that cannot be told.
    At its end, a run that has nothing to do any more is not asked about."""
    log = (await read_log(store, branch)).log
    ended = log.cancelled is not None or (log.finished is not None and log.finished.answer is not None)
    if upto is None and ended:
        return
    lost = [drift for drift in await read_again(store, log, way_of, upto) if not drift.holds]
    if lost:
        raise Drifted(
            f"the world is not as the run has seen it: {_told(lost)}",
            where=branch,
            fix=f"holdfast drift {branch.removesuffix('@main')} shows how; unchecked, it goes on all the same",
        )


async def why_stale(store: Readable, branch: str) -> str | None:
    """Why a branch must not be promoted: what it has read is there in another version, or not at all. None if it may,
    as far as the tools of this process tell."""
    lost = await stale(store, branch, way_of)
    return f"the world has moved on since the branch read it: {_told(lost)}" if lost else None


def _told(lost: Sequence[Drift]) -> str:
    what = "; ".join(f"`{drift.tool}` at {drift.node} {_how(drift)}" for drift in lost[:SHOWN])
    return f"{what}; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else what


def _how(drift: Drift) -> str:
    match drift.fate:
        case Fate.GONE:
            return "is gone"
        case Fate.UNKNOWN:
            return f"cannot be told ({drift.why})"
        case _:
            return "has moved"
