"""The only question, asked of an empty log."""

from holdfast.core.contract import Contract, Level
from holdfast.core.effect import Call, Kind
from holdfast.core.log import Log
from holdfast.core.step import Perform, Wait, next_step

CALL = Call("t", bytes(32), 0, b"{}", None)


def test_what_the_log_does_not_know_is_performed() -> None:
    assert next_step(CALL, "0" * 64, Log("r@main"), Contract(name="t", kind=Kind.IDEMPOTENT), 0) == Perform(CALL)


def test_what_needs_people_waits_for_them_first() -> None:
    step = next_step(CALL, "0" * 64, Log("r@main"), Contract(name="t", approval=Level.ONE), 0)
    assert isinstance(step, Wait)
    assert step.slot is None
