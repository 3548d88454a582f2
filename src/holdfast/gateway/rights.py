"""The capabilities of one run: issued, shown, narrowed, used up, revoked.

Rules
1. A handle is 256 random bits; only its digest is kept. It is worth something only while the claim lives under which
   it was issued: a run that is taken up again gets fresh ones.
2. Revocation is one write. From then on nothing is sent by that capability or one narrowed from it, also not what was
   asked for before.
3. Nothing is written that could not be read again, and there are never more of them than `MOST`.
4. What the run has used up is counted from its log, over all its branches; what is under way is counted before it is
   sent, so that two calls never spend the same budget.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.core.canonical import Uncanonical
from holdfast.core.capability import Terms, Used, narrow, terms_of
from holdfast.core.codec import decode, encode
from holdfast.core.effect import legible
from holdfast.core.record import Decision, Intent, Issued, Record, Revoked, Seal
from holdfast.core.tree import MAIN
from holdfast.errors import BadCall, Corrupt, Refused, Unknown
from holdfast.gateway.whole import whole
from holdfast.store import Draft, Store

RIGHTS_KEY = b"capability"
PREFIX = "hfc_"
MOST = 1000  # capabilities of one life of a run: whoever narrows in a loop must come to an end
DEEPEST = 32  # narrowings one after another
_SECRET = 43  # signs of base64 that 32 bytes have


@dataclass(slots=True, eq=False)
class Right:
    """A capability as it stands. `live`: its handle was given out under the claim that stands now. `ended`: why it
    allows nothing any more, empty while it does."""

    id: str
    terms: Terms
    parent: Right | None
    handle: str
    by: str
    live: bool
    used: Used = field(default_factory=Used)
    ended: str = ""

    def line(self) -> list[Right]:
        """This one, and all that it was narrowed from."""
        return [self] if self.parent is None else [self, *self.parent.line()]


class Rights:
    """The capabilities of the run `run`. `now_ms` is the wall clock."""

    def __init__(self, store: Store, run: str, now_ms: Callable[[], int]) -> None:
        self.run = run
        self.by_id: dict[str, Right] = {}
        self.spent = Used()
        self._store = store
        self._now_ms = now_ms
        self._latest_ms = 0
        self._by_handle: dict[str, Right] = {}
        self._on_the_way = 0  # capabilities that are being written down
        self._under_way: dict[object, tuple[Right, Used]] = {}

    async def read(self) -> None:
        """Take up what the log has of them, and what was used up. Raises Corrupt where it cannot be read."""
        for entry in await self._store.read(f"{self.run}@{MAIN}", key=RIGHTS_KEY):
            self._take(decode(entry.body), live=False)
        for branch in await self._store.branches(f"{self.run}@"):
            for entry in await self._store.read(branch.name):
                self._count(decode(entry.body))

    def _take(self, record: Record, *, live: bool) -> None:
        if isinstance(record, Issued):
            parent = None if record.parent is None else self.by_id.get(record.parent)
            right = Right(record.capability, terms_of(record.terms), parent, record.handle, record.by, live)
            self.by_id[right.id] = self._by_handle[right.handle] = right
        elif isinstance(record, Revoked) and (found := self.by_id.get(record.capability)) is not None:
            found.ended = found.ended or f"the capability was revoked by {record.by}: {record.reason}"

    def _count(self, record: Record) -> None:
        match record:
            case Intent(capability=str(id), blast=blast, undoes=None):  # taking back is the gateway's own
                self._add(id, Used(calls=1, blast=blast or 0))
            case Seal(intent=None, capability=str(id)):
                self._add(id, Used(calls=1))
            case Decision(capability=str(id), cost=int(cost)):  # one that an agent makes by itself costs nothing
                self._add(id, Used(calls=1, money=cost))
            case _:
                pass

    def _add(self, id: str, used: Used) -> None:
        self.spent += used
        right = self.by_id.get(id)
        for each in right.line() if right else ():
            each.used += used

    # --- giving and taking ---

    async def issue(self, terms: Terms, *, by: str, parent: Right | None = None) -> tuple[Right, str]:
        """A fresh capability and its handle, which is shown this once. Raises BadCall for terms that cannot be written
        down, Refused where there are too many."""
        self._check_room(parent)
        handle = f"{PREFIX}{secrets.token_urlsafe(32)}_{self.run}"
        record = Issued(
            capability=f"c{secrets.token_hex(8)}",
            parent=None if parent is None else parent.id,
            handle=digest_of(handle),
            terms=_written(terms),
            by=legible(by, 200),
        )
        self._on_the_way += 1  # at once: others may be given one in the same moment
        try:
            await whole(self._given(record))
        finally:
            self._on_the_way -= 1
        return self.by_id[record.capability], handle

    async def _given(self, record: Issued) -> None:
        """Both or neither: what is in the log counts, also where nobody waits for its handle any more."""
        await self._place(record)
        self._take(record, live=True)

    async def narrow(self, right: Right, wanted: Terms, *, by: str) -> tuple[Right, str]:
        """A capability that allows less. Raises Refused where more is asked for, or there is none left to narrow."""
        why = self.lapsed(right)
        if why is not None:
            raise Refused(why, where=self.run)
        return await self.issue(narrow(right.terms, wanted), by=by, parent=right)

    def _check_room(self, parent: Right | None) -> None:
        if parent is not None and len(parent.line()) >= DEEPEST:
            raise Refused(f"it was narrowed {DEEPEST} times already", where=self.run, fix="narrow one further up")
        if parent is not None and sum(each.live for each in self.by_id.values()) + self._on_the_way >= MOST:
            raise Refused(f"the run has {MOST} capabilities already", where=self.run, fix="use one of them again")

    async def revoke(self, id: str, *, by: str, reason: str) -> None:
        """End a capability and all that were narrowed from it. It allows nothing from this moment on, also while the
        record is on its way. Raises Unknown."""
        found = self.by_id.get(id)
        if found is None:
            raise Unknown(f"there is no capability `{id}`", where=self.run, fix=f"holdfast cap list {self.run}")
        found.ended = found.ended or f"the capability was revoked by {by}: {reason}"
        await self._place(Revoked(capability=id, by=legible(by, 200), reason=legible(reason)))

    async def _place(self, record: Issued | Revoked) -> None:
        draft = Draft(RIGHTS_KEY, encode(record))
        await self._store.append(f"{self.run}@{MAIN}", [draft], epoch=0, barrier=True)

    # --- showing ---

    def shown(self, handle: str, door: str) -> Right:
        """The capability behind a handle that was shown at a door. Raises Refused."""
        right = self._by_handle.get(digest_of(handle))
        if right is None:
            raise Refused("the handle is of no capability of this run", where=self.run)
        if not right.live:
            raise Refused("the handle is of an earlier life of this run", where=self.run, fix="use the fresh one")
        self.check(right, door)
        return right

    def check(self, right: Right, door: str) -> None:
        """Raise Refused unless a capability is worth something at a door."""
        why = self.lapsed(right)
        if why is None and right.terms.doors and door not in right.terms.doors:
            why = f"the capability may not be shown at the door `{door}`"
        if why is not None:
            raise Refused(why, where=self.run)

    def lapsed(self, right: Right) -> str | None:
        """Why a capability allows nothing any more, or None. What has expired stays so when the clock is set back."""
        self._latest_ms = max(self._latest_ms, self._now_ms())
        for each in right.line():
            if each.ended:
                return each.ended
            if each.terms.expires_ms is not None and self._latest_ms >= each.terms.expires_ms:
                return "the capability has expired"
        return None

    # --- using up ---

    def reserve(self, right: Right, place: object, use: Used) -> str | None:
        """Set aside what the call at `place` will use up, once. Why that cannot be, or None."""
        if place in self._under_way:
            return None
        for each in right.line():
            used = self.spent if each.parent is None else each.used
            over = each.terms.budget.over(used + use)
            if over is not None:
                return over
        self._under_way[place] = (right, use)
        self._add(right.id, use)
        return None

    def release(self, place: object) -> None:
        """It was not sent after all."""
        self.settle(place, Used())

    def keep(self, place: object) -> None:
        """It was sent: what was set aside is used up."""
        self._under_way.pop(place, None)

    def settle(self, place: object, used: Used) -> None:
        """The call at `place` used up so much, whatever was set aside."""
        right, reserved = self._under_way.pop(place, (None, Used()))
        if right is not None:
            self._add(right.id, used - reserved)


def _written(terms: Terms) -> str:
    """Terms as they are written down. Raises BadCall for those that could not be read again."""
    try:
        text = terms.text()
        terms_of(text)
    except (Uncanonical, Corrupt) as error:
        why = error.what if isinstance(error, Corrupt) else str(error)
        raise BadCall(f"these terms cannot be written down: {why}", fix="ask for fewer and shorter ones") from None
    return text


def digest_of(handle: str) -> str:
    """What is kept of a handle: 64 hex digits."""
    return hashlib.sha256(b"holdfast/handle/1\0" + handle.encode("utf-8", "surrogatepass")).hexdigest()


def run_of(handle: str) -> str | None:
    """The run that a handle says it is of, or None if it is no handle."""
    rest = handle[len(PREFIX) + _SECRET :]
    return rest[1:] if handle.startswith(PREFIX) and rest.startswith("_") and len(rest) > 1 else None
