"""What a right and a policy make of a step: allowed, asked about, or refused.

Rules
1. Only what would be sent, or people be asked about, is judged: an answer that is in the log is given as it was.
2. A level is only made stricter; an approval is bound to the rules by which it was asked for.
3. What a call uses up is set aside here, in the same turn of the loop as the verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from holdfast.core.contract import strictest
from holdfast.core.policy import Denied, Facts, Held, Policy, Verdict
from holdfast.core.step import Perform, Refuse, Step
from holdfast.gateway.send import Asked

_log = logging.getLogger("holdfast")


def judged(asked: Asked, step: Step, *, sent: bool, again: Callable[[Asked], Step]) -> tuple[Asked, Step]:
    """What is to be done about a call from another process, and the call as it then stands. `sent`: it was sent before,
    and nobody knows what came of it; `again` tells the step once more, for a stricter contract."""
    warrant = asked.warrant
    if warrant is None or isinstance(step, Refuse):
        return asked, step
    verdict = warrant.judge(asked.call, asked.contract)
    if isinstance(verdict, Denied):
        return asked, Refuse(f"{verdict.rule}: {verdict.reason}", "policy", recorded=sent)
    level = strictest(asked.contract.approval, verdict.level)
    why = f"{verdict.rule}: {verdict.reason}" if isinstance(verdict, Held) else ""
    contract = asked.contract.under(level, warrant.policy)
    asked = replace(asked, contract=contract, rule=verdict.rule, why=why)
    step = again(asked)
    if sent or not isinstance(step, Perform):
        return asked, step
    over = warrant.reserve(asked.call)
    return asked, step if over is None else Refuse(over, "budget", recorded=False)


def verdict_of(policy: Policy, facts: Facts) -> Verdict:
    """What the policy says. One that fails has not allowed anything."""
    try:
        return policy.judge(facts)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was allowed
        _log.exception("the policy has failed")
        return Denied("no verdict", f"the policy has failed ({type(error).__name__}), and silence denies")
