"""The right behind one call at a door: a capability, judged by the policy of its run's ward.

Rules
1. A capability says no before the policy is asked; it can only make a level stricter.
2. Reads need no people: a policy that wants people for one holds it like any other call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.core.capability import Used
from holdfast.core.contract import Contract, strictest
from holdfast.core.effect import Call, Kind
from holdfast.core.policy import Denied, Held, Verdict
from holdfast.gateway.judge import verdict_of
from holdfast.gateway.rights import Right
from holdfast.gateway.upstreams import Prepared

if TYPE_CHECKING:
    from holdfast.gateway.ward import Ward


@dataclass(frozen=True, slots=True)
class CallWarrant:
    """The right behind one call at a door, as `Warrant`."""

    ward: Ward
    right: Right
    prepared: Prepared

    @property
    def capability(self) -> str:
        """As `Warrant.capability`."""
        return self.right.id

    @property
    def policy(self) -> str:
        """As `Warrant.policy`."""
        return self.ward.policy.digest

    def judge(self, call: Call, contract: Contract) -> Verdict:
        """As `Warrant.judge`."""
        ward, right, prepared = self.ward, self.right, self.prepared
        why = ward.rights.lapsed(right) or right.terms.covers(contract.name, prepared.args)
        if why is not None:
            return Denied("capability", why)
        verdict = verdict_of(ward.policy, ward.facts(right, prepared))
        if isinstance(verdict, Denied) or contract.kind is Kind.READ:
            return verdict
        level = strictest(right.terms.level, verdict.level)
        if level is verdict.level:
            return verdict
        if level.people:
            return Held("capability", "the capability asks for people", level)
        return replace(verdict, level=level)

    def reserve(self, call: Call) -> str | None:
        """As `Warrant.reserve`."""
        blast = 0 if self.prepared.contract.kind is Kind.READ else self.prepared.blast or 0
        use = Used(calls=1, money=self.prepared.money, blast=blast)
        return self.ward.rights.reserve(self.right, (call.identity, call.n), use)

    def sent(self, call: Call) -> None:
        """As `Warrant.sent`."""
        self.ward.rights.keep((call.identity, call.n))

    def lapsed(self) -> str | None:
        """As `Warrant.lapsed`."""
        return self.ward.rights.lapsed(self.right)
