"""What a run needs from people, and the exact commands that give it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from holdfast.cli.options import is_allowed, is_name
from holdfast.cli.view import Looked, excerpt, when
from holdfast.cli.words import SHORT
from holdfast.core.effect import Kind
from holdfast.errors import Asleep, AwaitingSignal, Held, InDoubt, Waiting
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
    recorded = looked.log.started.agent if looked.log.started else ""
    for slot in looked.doubts():
        if slot.kind is Kind.IDEMPOTENT or slot.intent is None:
            continue
        node = looked.node(slot.intent_seq)
        about = f"sent {when(slot.last_sent_ms)}, and its process is gone; nothing says what came of it"
        probe = f"{resume(looked.branch, recorded, store)}   # asks its probe, if it has one"
        found.append(
            Need(
                "doubt", node, f"{slot.tool} may have happened  ({slot.kind}, {node})",
                await excerpt(reader, slot.intent.args, SHORT), about, (probe, *_settle(node, store)),
            )
        )  # fmt: skip
    for slot in looked.log.holds():
        assert slot.hold is not None
        node = looked.node(slot.hold_seq)
        found.append(
            Need(
                "hold", node, f"{slot.tool} waits for approval  ({slot.kind}, {node})",
                await excerpt(reader, slot.hold.args, SHORT), f"{slot.hold.why}; until {when(slot.hold.expires_ms)}",
                _answer(node, store),
            )
        )  # fmt: skip
    return found


def resume(branch: str, recorded: str, store: str) -> str:
    """The command that goes on with a run. What the log says of its agent is shown for a person to read and to type."""
    run = branch.removesuffix("@main")
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
            return (f"{resume(f'{run}@main', agent, store)}   # it wakes at {when(until_ms)}",)
        case _:
            return (f"holdfast show {run}{store}",)
