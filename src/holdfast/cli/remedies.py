"""What a run needs from people, and the exact commands that give it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from holdfast.cli.options import is_allowed, is_name
from holdfast.cli.tree import agent_of
from holdfast.cli.view import Looked, excerpt, when
from holdfast.cli.words import SHORT
from holdfast.core.effect import Kind
from holdfast.core.tree import Status as Standing
from holdfast.errors import Asleep, AwaitingSignal, Held, InDoubt, Ready, Superseded, Waiting
from holdfast.store.reader import Reader


@dataclass(frozen=True, slots=True)
class Need:
    """Something that waits for people. `why`: doubt or hold; `commands` end it, each in its own way."""

    why: str
    node: str
    what: str
    args: str
    about: str
    commands: tuple[str, ...]


async def needs_of(reader: Reader, looked: Looked, store: str) -> list[Need]:
    """The doubts and holds of a branch, doubts first. `store` is what their commands need to name the store."""
    found: list[Need] = []
    ended = looked.limb.status is not Standing.OPEN
    way = resume(looked.name, await agent_of(reader, looked.branch), store)
    for slot in looked.doubts():
        if slot.kind is Kind.IDEMPOTENT or slot.intent is None:
            continue
        node = looked.here(slot.intent_seq)
        about = f"sent {when(slot.last_sent_ms)}, and its process is gone; nothing says what came of it"
        probe = () if ended else (f"{way}   # asks its probe, if it has one",)
        found.append(
            Need(
                "doubt", node, f"{slot.tool} may have happened  ({slot.kind}, {node})",
                await excerpt(reader, slot.intent.args, SHORT), about, (*probe, *_settle(node, store)),
            )
        )  # fmt: skip
    for slot in () if ended else looked.log.holds():
        assert slot.hold is not None
        node = looked.here(slot.hold_seq)
        found.append(
            Need(
                "hold", node, f"{slot.tool} waits for approval  ({slot.kind}, {node})",
                await excerpt(reader, slot.hold.args, SHORT), f"{slot.hold.why}; until {when(slot.hold.expires_ms)}",
                _answer(node, store),
            )
        )  # fmt: skip
    return found


def resume(run: str, recorded: str, store: str) -> str:
    """The command that goes on with RUN or RUN@BRANCH. What the log says of its agent is shown for a person to read and
    to type."""
    agent = "" if is_allowed(recorded) else f" --agent {recorded if is_name(recorded) else 'MODULE:AGENT'}"
    return f"holdfast resume {shlex.quote(run)}{agent}{store}"


def _settle(node: str, store: str) -> tuple[str, str]:
    return (
        f"holdfast settle {node} --happened 'JSON'{store}   # it happened, and this was its answer",
        f"holdfast settle {node} --did-not-happen{store}   # it did not; the agent is told, and may call again",
    )


def _answer(node: str, store: str) -> tuple[str, str]:
    return f"holdfast approve {node}{store}", f"holdfast refuse {node} --reason '…'{store}"


def ways_on(waiting: Waiting, run: str, agent: str, store: str) -> tuple[str, ...]:
    """How a run that waits, and whose process ends, goes on."""
    match waiting:
        case Held():
            return _answer(waiting.where, store)
        case InDoubt():
            return _settle(waiting.where, store)
        case AwaitingSignal():
            return (waiting.fix + store,)
        case Asleep(until_ms=int() as until_ms):
            return (f"{resume(run, agent, store)}   # it wakes at {when(until_ms)}",)
        case Superseded():
            name = run.partition("@")[0]
            return (f"{resume(name, agent, store)}   # the run's line",)
        case Ready():
            return (f"{waiting.fix}{store}",)
        case _:
            return (f"holdfast show {run}{store}",)
