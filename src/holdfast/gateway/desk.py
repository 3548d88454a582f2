"""What people do about a run: approve, refuse, settle, signal, cancel. None of it needs a claim.

Rules
1. A verdict is about what stands in the log at this moment: it is placed only if nothing was placed since it was read.
2. Nobody settles an effect whose owner lives: it is not in doubt. Whoever has sent it, and was overtaken, may say what
   it was told, as a person may.
3. An approval repeats the digest of the exact call that it is for.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.core.codec import encode
from holdfast.core.effect import Happened, NotHappened, Outcome, legible
from holdfast.core.log import Log
from holdfast.core.payload import Packed
from holdfast.core.record import Approval, Cancelled, Record, Refusal, Settled, Signal
from holdfast.core.slot import Slot
from holdfast.core.tree import MAIN
from holdfast.errors import Claimed, Conflict, Misuse, Unknown
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import read_log
from holdfast.gateway.line import key_for, node_of
from holdfast.store import Draft, Store
from holdfast.store.clock import clock_of

APPROVAL_MS = 24 * 3600 * 1000
TRIES = 20


def parse_node(node: str) -> tuple[str, int]:
    """The branch and seq of a place: `RUN@SEQ` (main) or `RUN@BRANCH:SEQ`. Raises Misuse."""
    run, _, place = node.rpartition("@")
    line, _, seq = place.rpartition(":")
    if not run or not (seq.isascii() and seq.isdigit()) or len(seq) > 15:
        raise Misuse(f"`{node}` is not a place", fix="write RUN@SEQ, or RUN@BRANCH:SEQ")
    return f"{run}@{line or 'main'}", int(seq)


class Desk:
    """The verdicts of people on the runs of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def approve(self, node: str, *, by: str, expires_ms: int = APPROVAL_MS) -> str:
        """Agree to the held call at `node`, for `expires_ms` from now. The place of the approval."""
        branch, seq = parse_node(node)
        name = legible(by, 200)  # as the log has it: by that name two people are told apart

        def verdict(log: Log) -> Record:
            slot = self._held(log, node, seq)
            assert slot.hold is not None
            if name in slot.approvals:
                raise Misuse(f"{name} has agreed already; a second person must", where=node, fix="another approves it")
            now_ms = clock_of(self._store)()
            if now_ms >= slot.hold.expires_ms:
                raise Misuse(
                    f"`{node}` has expired: nobody answered in time",
                    fix=f"holdfast resume {branch.partition('@')[0]} asks anew",
                )
            until_ms = now_ms + expires_ms
            return Approval(hold=slot.hold_seq, call=slot.hold.call, by=name, expires_ms=until_ms)

        return await self._place(branch, verdict)

    async def refuse(self, node: str, *, by: str, reason: str = "no reason was given") -> str:
        """Say no to the held call at `node`. The place of the refusal."""
        branch, seq = parse_node(node)

        def verdict(log: Log) -> Record:
            slot = self._held(log, node, seq)
            return Refusal(
                hold=slot.hold_seq, tool=slot.tool, identity=slot.identity.hex(), n=slot.n,
                by=legible(by, 200), reason=legible(reason),
            )  # fmt: skip

        return await self._place(branch, verdict)

    async def settle(self, node: str, outcome: Packed | str, *, by: str) -> str:
        """End the doubt at `node`: it happened, with this answer (Packed), or did not (the reason). The place of the
        verdict. Raises Claimed while its owner lives."""
        branch, seq = parse_node(node)
        found: Outcome = NotHappened(legible(outcome)) if isinstance(outcome, str) else Happened(outcome.payload)

        def verdict(log: Log) -> Record:
            slot = log.at(seq)
            if slot is None or slot.intent_seq != seq:
                raise Unknown(
                    f"there is no intent at `{node}`", fix=f"holdfast show {branch.partition('@')[0]} lists the doubts"
                )
            if not slot.open:
                raise Misuse(f"`{node}` is settled already", fix=f"holdfast log {branch} shows how")
            return Settled(intent=seq, outcome=found, by=legible(by, 200))

        return await self._place(branch, verdict, outcome if isinstance(outcome, Packed) else None, unowned=True)

    async def attest(self, node: str, outcome: Outcome, packed: Packed | None, *, sent: int, by: str) -> str:
        """What the sender of the effect at `node` was told, though its claim was taken over meanwhile. That something
        happened is true whatever became of it since; that it did not, only if it was `sent` as often as it knows. The
        place of the verdict. Raises Misuse where it ends no doubt, Claimed while the new owner is at work."""
        branch, seq = parse_node(node)

        def verdict(log: Log) -> Record:
            slot = log.at(seq)
            if slot is None or slot.intent_seq != seq or not slot.open:
                raise Misuse(f"`{node}` is settled already", fix=f"holdfast log {branch} shows how")
            if isinstance(outcome, NotHappened) and slot.sent != sent:
                raise Misuse(f"`{node}` was sent again since", fix=f"holdfast log {branch} shows by whom")
            return Settled(intent=seq, outcome=outcome, by=legible(by, 200))

        return await self._place(branch, verdict, packed, unowned=True)

    async def signal(self, place: str, name: str, value: Packed, *, by: str) -> str:
        """Send a value to whoever waits for `name` on a branch (or, where only the run is named, its line), now or
        later. The place of the signal."""
        branch = await self._line_of(place)
        await self._must_exist(branch)
        record = Signal(name=name, value=value.payload, by=legible(by, 200))
        return await self._append(branch, record, Log(branch), None, value)

    async def cancel(self, place: str, *, by: str, reason: str) -> str:
        """End a branch (or, where only the run is named, its line): nothing new is started. What is in flight is
        sealed. The place of the record."""
        branch = await self._line_of(place)

        def verdict(log: Log) -> Record:
            if log.cancelled is not None or (log.finished is not None and log.finished.error is None):
                raise Misuse("the run has ended already", where=branch, fix=f"holdfast show {branch} shows how")
            return Cancelled(by=legible(by, 200), reason=legible(reason))

        return await self._place(branch, verdict)

    # --- the shared way ---

    async def _line_of(self, run: str) -> str:
        if "@" in run:
            return run
        return f"{run}@{(await read_tree(self._store, run)).line}"

    async def _place(
        self, branch: str, verdict: Callable[[Log], Record], blobs: Packed | None = None, *, unowned: bool = False
    ) -> str:
        await self._must_exist(branch)
        for _ in range(TRIES):
            opened = await read_log(self._store, branch)
            if unowned:  # each time: whoever takes the branch over writes that down, and then this is a Conflict
                await self._refuse_while_owned(branch)
            try:
                return await self._append(branch, verdict(opened.log), opened.log, opened.log.seq, blobs)
            except Conflict:
                continue
        raise Conflict("the run is writing too fast for a verdict to be placed", where=branch, fix="try again")

    async def _append(self, branch: str, record: Record, log: Log, after: int | None, blobs: Packed | None) -> str:
        draft = Draft(key_for(record, log), encode(record))
        (entry,) = await self._store.append(
            branch, [draft], epoch=0, after=after, barrier=True, blobs=blobs.blobs if blobs else ()
        )
        return node_of(branch, entry.seq)

    async def _must_exist(self, branch: str) -> None:
        run, _, name = branch.partition("@")
        if await self._store.read(branch, newest=1):
            return
        if name != MAIN and await self._store.read(f"{run}@{MAIN}", newest=1):
            raise Unknown(f"there is no branch `{name}`", where=run, fix=f"holdfast show {run} shows its branches")
        raise Unknown(f"there is no run `{run}`", where=branch, fix="holdfast list shows the runs")

    async def _refuse_while_owned(self, branch: str) -> None:
        for found in await self._store.branches(branch):
            if found.name == branch and found.holder:
                raise Claimed(
                    f"`{branch.partition('@')[0]}` is being advanced by {found.holder}: its effects are not in doubt",
                    where=branch,
                    fix="wait for it, or end that process first",
                )

    @staticmethod
    def _held(log: Log, node: str, seq: int) -> Slot:
        slot = log.at(seq)
        if slot is None or slot.hold_seq != seq:
            raise Unknown(
                f"nothing is held at `{node}`", fix=f"holdfast show {log.branch.partition('@')[0]} lists the holds"
            )
        if not slot.waits:
            raise Misuse(f"`{node}` was answered already", fix=f"holdfast log {log.branch} shows how")
        return slot
