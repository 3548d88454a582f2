"""By what right a call is made that comes from another process.

Rules
1. A right is looked at when a call comes, and once more at the moment at which it would be sent.
2. What a call may use up is set aside before anything is awaited: two calls never spend the same budget.
3. A call of this process's own program (embedded mode) has no warrant: nothing is asked.
"""

from __future__ import annotations

from typing import Protocol

from holdfast.core.contract import Contract
from holdfast.core.effect import Call
from holdfast.core.policy import Verdict


class Warrant(Protocol):
    """The right behind one call: a capability, and the policy that judges what is done with it."""

    @property
    def capability(self) -> str:
        """The id of the capability."""
        ...

    @property
    def policy(self) -> str:
        """The digest (hex) of the rules."""
        ...

    def judge(self, call: Call, contract: Contract) -> Verdict:
        """May this call be carried out? Total: what cannot be judged is denied."""
        ...

    def reserve(self, call: Call) -> str | None:
        """Set aside what it uses up, once; why that cannot be, or None."""
        ...

    def sent(self, call: Call) -> None:
        """Its intent is written: what was set aside is used up."""
        ...

    def lapsed(self) -> str | None:
        """Why nothing may be sent by this right any more (revoked, expired), or None."""
        ...
