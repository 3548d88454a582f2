"""What a run needs from people, and the exact commands that give it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from holdfast.cli.options import is_allowed, is_name
from holdfast.cli.tree import agent_of, others_of
from holdfast.cli.view import Looked, excerpt, when
from holdfast.cli.words import SHORT
from holdfast.core.effect import Kind
from holdfast.core.slot import Slot, people_for
from holdfast.core.tree import Status as Standing
from holdfast.errors import Asleep, AwaitingSignal, Held, InDoubt, Ready, Superseded, Waiting
from holdfast.gateway.line import node_of
from holdfast.store.reader import Reader
from holdfast.store.worker import dead

_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)  # a module and its agent have a colon


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
    """The doubts and holds of a branch, doubts first; for the run's line, the doubts of the other branches too. `store`
    is what their commands need to name the store."""
    ended = looked.limb.status is not Standing.OPEN
    way = resume(looked.name, await agent_of(reader, looked.branch), store)
    probe = () if ended else (f"{way}   # asks its probe, if it has one",)
    found = [await _doubt(reader, looked.here(slot.intent_seq), slot, probe, store) for slot in looked.doubts()
             if slot.kind is not Kind.IDEMPOTENT]  # fmt: skip
    if looked.limb.name == looked.tree.line and len(looked.tree.limbs) > 1:
        found += await _elsewhere(reader, looked, store)
    for slot in () if ended else looked.log.holds():
        assert slot.hold is not None
        node = looked.here(slot.hold_seq)
        found.append(
            Need(
                "hold", node, f"{slot.tool} waits for approval  ({slot.kind}, {node})",
                await excerpt(reader, slot.hold.args, SHORT),
                f"{slot.hold.why}{_of_two(slot)}; until {when(slot.hold.expires_ms)}",
                _answer(node, store),
            )
        )  # fmt: skip
    return found


def _of_two(slot: Slot) -> str:
    """Who else must agree, where one person is not enough."""
    assert slot.hold is not None
    if people_for(slot.hold) < 2:
        return ""
    return (
        "; two people must agree" if not slot.approvals else f"; {', '.join(slot.approvals)} has agreed, another must"
    )


async def _doubt(reader: Reader, node: str, slot: Slot, probe: tuple[str, ...], store: str) -> Need:
    assert slot.intent is not None, "what is in doubt was sent"
    about = f"sent {when(slot.last_sent_ms)}, and its process is gone; nothing says what came of it"
    what = f"{slot.tool} may have happened  ({slot.kind}, {node})"
    args = await excerpt(reader, slot.intent.args, SHORT)
    return Need("doubt", node, what, args, about, (*probe, *_settle(node, store)))


async def _elsewhere(reader: Reader, looked: Looked, store: str) -> list[Need]:
    """The doubts that other branches of the run have left."""
    owners = reader.owners()
    found: list[Need] = []
    for branch, log in (await others_of(reader, looked.branch, looked.tree)).items():
        owner = owners.get(branch)
        if owner is None or dead(owner):  # else it can still be sealed
            open_ = [slot for slot in log.doubts() if slot.retry_ms is None and slot.kind is not Kind.IDEMPOTENT]
            found += [await _doubt(reader, node_of(branch, slot.intent_seq), slot, (), store) for slot in open_]
    return found


def resume(run: str, recorded: str, store: str) -> str:
    """The command that goes on with RUN or RUN@BRANCH. What the log says of its agent is shown for a person to read and
    to type."""
    if is_of_gateway(recorded):
        name, _, branch = run.partition("@")
        first = f"holdfast promote {shlex.quote(name)} {shlex.quote(branch)}{store} && " if branch else ""
        return f"{first}holdfast run --sandbox --id {shlex.quote(name)} --agent {recorded} -- CMD…"
    agent = "" if is_allowed(recorded) else f" --agent {recorded if is_name(recorded) else 'MODULE:AGENT'}"
    return f"holdfast resume {shlex.quote(run)}{agent}{store}"


def is_of_gateway(recorded: str) -> bool:
    """Whether the agent of a run is one of a gateway's configuration, by its name in the log: a program of its own."""
    return _PROGRAM.fullmatch(recorded) is not None


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
