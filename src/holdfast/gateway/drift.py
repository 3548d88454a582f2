"""Reading again what a branch relied on, to see whether the world has moved.

Rules
1. Nothing is written and nothing is changed: only what is declared a read is called, and probes are asked.
2. What may not or cannot be asked now is unknown, and so is what did not answer in time.
3. A reading that people had to agree to, or that was given secrets, is not repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.change import changes
from holdfast.core.contract import Contract, Level
from holdfast.core.drift import (
    ALWAYS,
    Absent,
    Fate,
    Now,
    Relied,
    Seen,
    Untold,
    Write,
    by_answer,
    by_version,
    relied,
    thing,
    told_apart,
    writes,
)
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, legible
from holdfast.core.log import Log
from holdfast.core.slot import Slot
from holdfast.core.tree import Tree
from holdfast.errors import Corrupt, HoldfastError, RetryAfter, Unknown
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.family import Family
from holdfast.gateway.history import read_log
from holdfast.gateway.line import node_of, read_payload
from holdfast.gateway.receipt import for_effect, for_read
from holdfast.gateway.upstreams import Reply, Upstream
from holdfast.store import Readable
from holdfast.store.rope import gather

AT_ONCE = 16
TIMEOUT_S = 30.0  # of a tool that names none
MOST_SILENT = 3  # timeouts of one tool in a row, after which it is not asked again
LARGEST_ARGS = 64 << 20  # bytes
COMPARED = 4 << 20  # bytes of an answer that is looked into; a larger one is compared by its digest
SHORT = 120  # characters of arguments and of a reason


@dataclass(frozen=True, slots=True)
class Way:
    """How a tool that the log names is reached here: its contract as it is declared now, and its way to the outside."""

    contract: Contract
    upstream: Upstream


Ways = Callable[[str], Way | None]
"""The way of a tool by its name; None where none is declared. Raises HoldfastError where it cannot be told which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How one thing that a branch relied on stands now. `node` is the answer that it relied on; `then` and `now` are
    versions, if any was told; `changes` what is unlike in the answers; `writes` the nodes of the run's own later writes
    of the same thing."""

    node: str
    tool: str
    effect: bool
    args: str
    fate: Fate
    why: str
    then: str | None
    now: str | None
    changes: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the branch may go on relying on it: it is as it was, or as the run itself has made it."""
        return self.fate in (Fate.SAME, Fate.OURS)


async def drifted(store: Readable, branch: str, ways: Ways, upto: int | None = None) -> list[Drift]:
    """How everything that a branch relies on at `upto` (a seq; None: at its end) stands in the world now, in the order
    of the log. Raises Unknown where there is no such branch or place, Corrupt where the log does not hold."""
    log = (await read_log(store, branch)).log
    if log.seq == 0:
        raise Unknown(f"there is no run `{branch.removesuffix('@main')}`", fix="holdfast list shows the runs")
    if upto is not None and not 0 < upto <= log.seq:
        raise Unknown(f"there is no node `{node_of(branch, upto)}`", fix="holdfast log RUN shows the nodes of a run")
    return await read_again(store, log, ways, upto)


async def read_again(store: Readable, log: Log, ways: Ways, upto: int | None = None) -> list[Drift]:
    """As `drifted`, for a branch that has been read whole."""
    asking = _Asking(store, log.branch, ways)
    return await asking.all(await asking.told_apart(relied(log, upto), await _written(store, log)))


async def stale(store: Readable, branch: str, ways: Ways) -> list[Drift]:
    """The readings that a branch relies on and whose version is another one now, unless a later write of its own
    history explains that. Only those are asked again of which a version was told."""
    log = (await read_log(store, branch)).log
    asking = _Asking(store, branch, ways)
    found = [one for one in relied(log) if one.key is None and one.etag is not None]
    if not found:
        return []
    told = await asking.all(await asking.told_apart(found, _own(log)))
    return [one for one in told if one.fate is Fate.GONE or (one.fate is Fate.MOVED and one.now is not None)]


async def _written(store: Readable, log: Log) -> list[Write]:
    """What the run has written, on this branch and, since they parted, on the others."""
    family = Family(store, log.branch)
    await family.refresh()
    others: dict[str, list[Slot]] = {}
    for relative in family.kin or ():
        others.setdefault(relative.branch, []).append(relative.slot)
    found = _own(log)
    for branch, slots in others.items():
        found += writes(branch, slots, _shared(family.tree, family.name, branch.partition("@")[2]))
    return found


def _own(log: Log) -> list[Write]:
    return writes(log.branch, log.slots.values())


def _shared(tree: Tree, one: str, other: str) -> int:
    """The last entry that the histories of two branches have in common."""
    last = 0
    for (name, upto), (other_name, other_upto) in zip(tree.lineage(one), tree.lineage(other), strict=False):
        if name != other_name:
            break
        last = min(ALWAYS if end is None else end for end in (upto, other_upto))
        if upto != other_upto:
            break
    return last


@dataclass(slots=True)
class _Asking:
    """One check of one branch."""

    store: Readable
    branch: str
    ways: Ways
    known: dict[str, Way | str | None] = field(default_factory=dict[str, "Way | str | None"])
    silent: dict[str, int] = field(default_factory=dict[str, int])

    async def told_apart(self, found: Sequence[Relied], written: Sequence[Write]) -> list[Relied]:
        """What is relied on and can be asked about, with the run's own later writes of the same things."""
        things: dict[str, dict[str, bytes | None]] = {}
        for one in (*found, *written):
            way = self.way(one.tool)
            of_tool = things.setdefault(one.tool, {})
            if isinstance(way, Way) and way.contract.resource and one.args not in of_tool:
                _, arguments = await self.arguments(one.args)
                of_tool[one.args] = None if arguments is None else thing(way.contract, arguments)
        return [one for one in told_apart(found, written, things) if one.key is None or self.tells(one.tool)]

    def tells(self, tool: str) -> bool:
        """Whether a tool says how its effects can be asked about, or may say so where it is declared."""
        way = self.way(tool)
        return not isinstance(way, Way) or way.contract.probe

    def way(self, tool: str) -> Way | str | None:
        """The way of a tool; None if it is not declared here, a text if that cannot be told."""
        if tool not in self.known:
            try:
                self.known[tool] = self.ways(tool)
            except HoldfastError as error:
                self.known[tool] = error.what
        return self.known[tool]

    async def arguments(self, digest: str) -> tuple[bytes, Mapping[str, JSON] | None]:
        """The recorded arguments, as they were written and as values; None where they were pruned or are no object."""
        try:
            data = await gather(self.store, bytes.fromhex(digest), LARGEST_ARGS)
        except (Unknown, ValueError):
            return b"", None
        if hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt("a payload is not what was sealed", where=digest, fix="run `holdfast verify`")
        try:
            found: object = json.loads(data)
        except ValueError:
            return data, None
        return data, cast("Mapping[str, JSON]", found) if isinstance(found, dict) else None

    async def all(self, found: Sequence[Relied]) -> list[Drift]:
        """Ask about each of them, a few at a time."""
        told: dict[int, Drift] = {}
        places = iter(range(len(found)))

        async def work() -> None:
            for place in places:
                told[place] = await self.one(found[place])

        workers = [asyncio.ensure_future(work()) for _ in range(min(AT_ONCE, len(found)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [told[place] for place in range(len(found))]

    async def one(self, then: Relied) -> Drift:
        """Ask about one thing, and compare."""
        data, arguments = await self.arguments(then.args)
        way, why_not = self._may_ask(then, arguments)
        reply: Reply | None = None
        now: Now = Untold(why_not)
        if way is not None and then.undone_seq is None:
            now, reply = await self._asked(way, then, data)
        fate = by_version(then, now)
        alike: bool | None = None
        unlike: tuple[str, ...] = ()
        if reply is not None and fate is not Fate.SAME and then.key is None:
            alike, unlike = await self._compared(then, reply)
        if fate is None:
            fate = by_answer(then, alike)
        return Drift(
            node=node_of(self.branch, then.seq),
            tool=then.tool,
            effect=then.key is not None,
            args=legible(data.decode("utf-8", "replace"), SHORT),
            fate=fate,
            why=self._why(then, now, fate),
            then=then.etag,
            now=now.etag if isinstance(now, Seen) else None,
            changes=unlike,
            writes=tuple(node_of(write.branch, write.seq) for write in then.writes),
        )

    def _may_ask(self, then: Relied, arguments: Mapping[str, JSON] | None) -> tuple[Way | None, str]:
        """The way to ask, or why there is none."""
        way = self.way(then.tool)
        if isinstance(way, str):
            return None, way
        if way is None:
            return None, "no tool of this name is declared here: name the agent's module"
        if then.key is None and way.contract.kind is not Kind.READ:
            return None, f"it was a read, and is declared {way.contract.kind} now"
        if then.key is None and (then.agreed or way.contract.approval is not Level.NONE):
            return None, "people must agree to each reading"
        if arguments is None:
            return None, "its arguments are no longer in the store"
        if way.contract.secret or any(_is_commitment(value) for value in arguments.values()):
            return None, "its secret arguments are not written down"
        if self.silent.get(then.tool, 0) >= MOST_SILENT:
            return None, f"not asked: `{then.tool}` did not answer {MOST_SILENT} times in a row"
        return way, ""

    async def _asked(self, way: Way, then: Relied, args: bytes) -> tuple[Now, Reply | None]:
        """What the tool says now, within its time."""
        upstream = way.upstream
        asking: Awaitable[Reply | Happened[Reply] | NotHappened | None] = (
            upstream.perform(args, for_read(self.branch, then.tool))
            if then.key is None
            else upstream.probe(args, for_effect(self.branch, then.seq, then.tool, then.key))
        )
        timeout_s = TIMEOUT_S if way.contract.timeout_ms is None else way.contract.timeout_ms / 1000
        task = asyncio.ensure_future(_total(asking))
        try:
            done, _ = await asyncio.wait([task], timeout=timeout_s)
        finally:
            task.cancel()  # one that goes on all the same is left behind: it changes nothing
        if not done:
            self.silent[then.tool] = self.silent.get(then.tool, 0) + 1
            return Untold(f"no answer within {timeout_s:g} s"), None
        self.silent[then.tool] = 0
        return (Untold("it was cancelled from inside"), None) if task.cancelled() else task.result()

    async def _compared(self, then: Relied, reply: Reply) -> tuple[bool | None, tuple[str, ...]]:
        """Whether a reading has the same answer as then, and what is unlike; None where one of them was not, or is no
        longer, written down."""
        if not isinstance(then.outcome, Happened):
            return None, ()
        was = then.outcome.answer
        if Encoding.LOST in (was.encoding, reply.encoding):
            return None, ()
        if was.encoding is reply.encoding and was.digest == hashlib.sha256(reply.data).hexdigest():
            return True, ()
        if max(was.size_bytes, len(reply.data)) > COMPARED or Encoding.BYTES in (was.encoding, reply.encoding):
            return False, (_sizes(was.size_bytes, len(reply.data)),)
        try:
            old = await read_payload(self.store, was)
        except Unknown:
            return None, ()
        return await asyncio.to_thread(_unlike, old, reply.woven)

    def _why(self, then: Relied, now: Now, fate: Fate) -> str:
        """In a few words, for a person."""
        if then.undone_seq is not None:
            return f"the run took it back at {node_of(self.branch, then.undone_seq)}"
        match now:
            case Untold(why):
                return legible(why, 2 * SHORT)
            case Absent(reason):
                was = "" if isinstance(then.outcome, Happened) else "not there, as then: "
                return legible(was + reason, 2 * SHORT)
            case Seen() if not isinstance(then.outcome, Happened):
                return legible(f"it is there now; then: {then.outcome.reason}", 2 * SHORT)
            case Seen() if fate is Fate.UNKNOWN:
                return "the answers cannot be compared: one was not, or is no longer, written down"
            case Seen():
                return ""


async def _total(
    asking: Awaitable[Reply | Happened[Reply] | NotHappened | None],
) -> tuple[Now, Reply | None]:
    """What comes of asking, whatever it is."""
    try:
        answer = await asking
    except DidNotHappen as absent:
        return Absent(absent.what), None
    except RetryAfter as later:
        return Untold(f"refused for now: {later.what}; ask again in {later.seconds:g} s"), None
    except asyncio.CancelledError:
        raise
    except BaseException as failure:  # noqa: BLE001 - whatever a tool raises, also to end the process: it has not told
        return Untold(f"{type(failure).__name__}: {legible(failure, SHORT)}"), None
    match answer:
        case None:
            return Untold("its probe cannot tell"), None
        case NotHappened(reason):
            return Absent(reason), None
        case Happened(reply, etag):
            return Seen(etag), reply
        case Reply():
            return Seen(answer.etag), answer


def _unlike(old: bytes, now: JSON) -> tuple[bool, tuple[str, ...]]:
    """Whether two texts of JSON say the same, in whatever order, and where they do not."""
    try:
        then = cast(JSON, json.loads(old))
        try:
            if canonical(then) == canonical(now):
                return True, ()
        except Uncanonical:
            pass
        lines = tuple(legible(line, 400) for line in changes(then, now))
    except RecursionError:
        return False, ()
    return not lines, lines


def _sizes(old: int, new: int) -> str:
    return f"{old} other bytes" if old == new else f"{old} bytes → {new} bytes"


def _is_commitment(value: JSON) -> bool:
    """Whether this stands in the log for a secret."""
    return isinstance(value, dict) and value.keys() == {"$secret"}
