"""What is to be done about a call, given the lineage and what the other branches did: the rules themselves.

Rules
1. A pure question: nothing is written here, and the answer is only good as long as nothing has moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tests.model.tree import Branch, Effect, Place
from tests.model.world import IDEMPOTENT, READ, REVERSIBLE, TOOLS, Ask

if TYPE_CHECKING:
    from tests.model.run import Run


@dataclass(frozen=True, slots=True)
class Replay:
    """The lineage knows the answer."""

    effect: Effect | None


@dataclass(frozen=True, slots=True)
class Adopt:
    """Another branch has done it."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class Perform:
    """Carry it out under this key."""

    key: tuple[Ask, int, int]


@dataclass(frozen=True, slots=True)
class Settle:
    """The lineage has begun it: end the doubt."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class Beside:
    """Another effect is on the same resource, and nobody holds it: undo it first."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Its undo was begun: bring that to its end first."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class Hold:
    """People must agree to `what`."""

    what: object


@dataclass(frozen=True, slots=True)
class Plan:
    """The branch is speculative: hold it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A read."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The budget is spent."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Another branch is at it."""


Step: TypeAlias = Replay | Adopt | Perform | Settle | Beside | Unsettled | Hold | Plan | Look | Deny | Wait


def next_step(run: Run, branch: Branch, place: Place) -> Step:
    """The only question."""
    ask = place[0]
    known = branch.places.get(place)
    if isinstance(known, Effect):
        if known.open:
            return Settle(known)
        if not run.rules.undone_is_not_replayed or not (known.undone or known.undo_open):
            return Replay(known if known.outcome == "happened" else None)
        if branch.held:
            return Plan()
        if known.undo_open:
            return Unsettled(known)
    elif known is not None and not (known == "held" and not branch.held):
        return Replay(None)
    elif ask.kind == READ:
        return Look()
    elif branch.held and run.rules.hold:
        return Plan()
    return _of_kin(run, branch, place) or _beside(run, branch, place) or _allowed(run, branch, place)


def _of_kin(run: Run, branch: Branch, place: Place) -> Step | None:
    """What the same call of other branches means for this one."""
    ask, n = place
    held = branch.keys
    kin = [effect for effect in run.of_ask.get(ask, ()) if effect.key not in held]
    of_place = [effect for effect in kin if effect.n == n]
    others = [effect for effect in kin if effect.n != n] if run.rules.refused_do_not_count else []
    for effect in (*of_place, *others):
        if effect.outcome == "not" or effect.undone:
            continue
        if effect.undo_open:
            return Unsettled(effect)
        if effect.open:
            if ask.kind == IDEMPOTENT and effect.n == n and not any(o.key == effect.key and not o.open for o in kin):
                return _beside(run, branch, place) or Perform(effect.key)
            if run.rules.wait_for_kin:
                return Wait()
        elif run.rules.adopt:
            return Adopt(effect)
    return None


def _beside(run: Run, branch: Branch, place: Place) -> Step | None:
    """The same resource, changed by an effect that this lineage does not hold."""
    ask, n = place
    if not TOOLS[ask.tool].resource or not run.rules.near_duplicates:
        return None
    what = ("near", branch.name, ask, n)
    for effect in run.stranded(branch):
        if effect.ask.tool != ask.tool or effect.ask.name != ask.name or effect.ask == ask:
            continue
        if effect.undo_open:
            return Unsettled(effect)
        if effect.stuck:
            return Replay(None)  # the agent is told that it cannot be
        reversible = ask.kind == REVERSIBLE and not effect.open
        if reversible and not (run.rules.spare_survivors and run.survives(effect, branch)):
            return Beside(effect)
        return None if what in run.granted else Hold(what)
    return None


def _allowed(run: Run, branch: Branch, place: Place) -> Step:
    ask, n = place
    tool = TOOLS[ask.tool]
    lives = {effect.key for effect in run.of_ask.get(ask, ()) if effect.n == n} if run.rules.new_identity else ()
    key = (ask, n, len(lives))
    if tool.cost and run.spent(branch) + tool.cost > run.budget:
        return Deny()
    if tool.approval:
        what = ("call", ask, key, branch.name) if run.rules.approval_once else ("call", ask, (ask, 0, 0))
        if what not in run.granted:
            return Hold(what)
    return Perform(key)
