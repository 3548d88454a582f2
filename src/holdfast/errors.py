"""What Holdfast raises on purpose, grouped by what the caller does next.

    HoldfastError
    ├── Misuse            mend the program: nothing was done
    │   ├── BadCall           arguments that cannot be written down, or break the tool's contract
    │   ├── BadContract       a contract that contradicts itself
    │   ├── Unknown           no such run, node, tool or agent
    │   └── Unreadable        a file of the workspace that cannot be captured
    ├── NotHappened       an outcome: the call certainly changed nothing (tools raise it too)
    │   └── Refused           a person or a policy said no
    ├── RetryAfter        raised by tools: refused for now, changed nothing, ask again later
    ├── AnswerLost        the effect happened, but its answer could not be written down
    ├── Cancelled         somebody ended the run
    ├── NoCandidate       a search in which no candidate came to an end
    ├── Busy              somebody else is at work
    │   ├── Claimed           another living worker advances this branch
    │   └── Fenced            our claim was taken over; nothing of ours is written any more
    ├── Conflict          the log has moved on: read it again and decide again
    ├── Drifted           the world has moved on since the run read it: look at it, then go on, or go back and fork
    └── Stopped           the store cannot be written or trusted; nothing new is started
        ├── StoreFull         no space: acknowledged entries are safe, no new effect starts
        ├── Unwritable        read-only or failing storage
        │   └── Away              where large payloads are kept cannot be reached: all that needs none goes on
        ├── Corrupt           bytes that are not a log that we wrote
        └── RolledBack        the log is older than its anchor

    Waiting (BaseException: an agent's `except Exception` must not swallow it)
    ├── Held              a call waits for people
    ├── InDoubt           an effect may have happened, and only a person can tell
    ├── Asleep            until a moment
    ├── AwaitingSignal    until somebody sends it
    ├── Ready             a speculative branch has gone as far as it can without its effects
    └── Superseded        another branch has become the run's line

Rules
1. The text says what happened, then where in brackets, then `fix:`; lower case, no final period, never a secret.
2. A new class needs a caller that acts differently.
"""

from typing import Any, cast


class HoldfastError(Exception):
    """The root of all errors that are raised on purpose."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return _text(self.what, self.where, self.fix)


def _text(what: str, where: str, fix: str) -> str:
    place = f" [{where}]" if where else ""
    mend = f"\n  fix: {fix}" if fix else ""
    return f"{what}{place}{mend}"


class Misuse(HoldfastError):
    """The program asked for something that cannot be; nothing was done."""


class BadCall(Misuse):
    """Arguments that cannot be written down, or that break the tool's contract."""


class BadContract(Misuse):
    """A contract that contradicts itself or its function."""


class Unknown(Misuse):
    """No such run, node, tool or agent."""


class Unreadable(Misuse):
    """A file of the workspace cannot be captured: let it be read, or ignore it. Nothing was captured."""


class NotHappened(HoldfastError):
    """The call certainly changed nothing. A tool raises it to say so; the agent sees it and may decide anew."""

    def __init__(self, what: str = "it did not happen", *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)


class Refused(NotHappened):
    """A person or a policy said no."""


class RetryAfter(HoldfastError):
    """Raised by a tool: refused for now (a rate limit), changed nothing; ask again in `seconds`."""

    def __init__(self, seconds: float, what: str = "asked to come back later") -> None:
        super().__init__(what)
        self.seconds = float(seconds)  # often the text of a header


class AnswerLost(HoldfastError):
    """The effect happened, but its answer could not be written down (a type that is not JSON, or too large)."""


class Cancelled(HoldfastError):
    """Somebody ended the run."""


class NoCandidate(HoldfastError):
    """No candidate of a search came to an end: the agent may decide anew."""


class Busy(HoldfastError):
    """Somebody else is at work on this branch."""


class Claimed(Busy):
    """Another living worker advances this branch."""


class Fenced(Busy):
    """Our claim was taken over: nothing of ours is written any more."""


class Conflict(HoldfastError):
    """The log has moved on since it was read: read it again, decide again."""


class Drifted(HoldfastError):
    """The world is not as the run has seen it, or nobody can tell: nothing was started."""


class Stopped(HoldfastError):
    """The store cannot be written or trusted; nothing new is started."""


class StoreFull(Stopped):
    """No space is left. Acknowledged entries are safe; no new effect starts."""


class Unwritable(Stopped):
    """The storage is read-only or failing."""


class Away(Unwritable):
    """Where large payloads are kept cannot be reached, or refuses. Whatever needs none of them goes on."""


class Corrupt(Stopped):
    """Bytes that are not a log that we wrote."""


class RolledBack(Stopped):
    """The log is older than its anchor: a restored backup, a lost write-ahead file, or a forgery."""


class Waiting(BaseException):
    """The run cannot go on now; its process may end. It goes on by itself when what it waits for has come."""

    def __init__(self, what: str, *, where: str = "", fix: str = "", until_ms: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.until_ms = until_ms

    def __str__(self) -> str:
        return _text(self.what, self.where, self.fix)


class Held(Waiting):
    """A call waits for people."""


class InDoubt(Waiting):
    """An effect may have happened, and only a person can tell."""


class Asleep(Waiting):
    """Until `until_ms`."""


class AwaitingSignal(Waiting):
    """Until somebody sends the signal."""


class Ready(Waiting):
    """A speculative branch has gone as far as it can before it is promoted. `offer` is what it has to show for it;
    `onward`, in a beam: what it would explore next, and under which name."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        fix: str = "",
        offer: object = None,
        onward: tuple[str, list[Any]] | None = None,
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.offer = offer
        self.onward = onward


class Superseded(Waiting):
    """This branch goes no further: another has become the run's line."""


def waiting_in(raised: BaseException) -> Waiting | None:
    """The wait that unwound a program, also from inside a task group."""
    if isinstance(raised, Waiting):
        return raised
    if isinstance(raised, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", raised).exceptions:
            found = waiting_in(inner)
            if found is not None:
                return found
    return None
