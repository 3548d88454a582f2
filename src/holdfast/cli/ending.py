"""How a verb ends: its exit code, and what is said about it.

Rules
1. An error says its class, what, where and `fix:`, on stderr; a traceback only with `--debug`.
2. An exit code tells what the caller does next, as the error's class does.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from holdfast.cli.terminal import hint, safe, say
from holdfast.errors import Busy, Conflict, HoldfastError, Misuse, Stopped, Waiting

DONE, FAILED, USAGE, WAITS, BUSY, STOPPED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 5, 130, 141


class AgentFailed(Exception):
    """The agent raised `error`."""

    def __init__(self, error: Exception | SystemExit) -> None:
        super().__init__(str(error))
        self.error = error


def code_of(error: BaseException) -> int:
    """The exit code that an error stands for."""
    match error:
        case Misuse():
            return USAGE
        case Waiting():
            return WAITS
        case Busy() | Conflict():
            return BUSY
        case Stopped():
            return STOPPED
        case KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            return UNREAD
        case _:
            return FAILED


def describe(error: HoldfastError | Waiting) -> str:
    """An error as it is shown: `ClassName: what [where]`, then `fix:`."""
    place = f" [{safe(error.where)}]" if error.where else ""
    mend = f"\n  fix: {safe(error.fix)}" if error.fix else ""
    return f"{type(error).__name__}: {safe(error.what)}{place}{mend}"


def guarded(verb: Callable[..., object]) -> Callable[..., object]:
    """A verb that takes `--debug` too, and turns what it raises into words and an exit code."""

    @functools.wraps(verb)
    def guard(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            code = verb(*args, **kwargs)
            sys.stdout.flush()
        except (HoldfastError, Waiting, AgentFailed, KeyboardInterrupt, BrokenPipeError, OSError) as error:
            if debug and not isinstance(error, BrokenPipeError):
                import traceback

                shown = error.error if isinstance(error, AgentFailed) else error
                say(safe_lines("".join(traceback.format_exception(shown)).rstrip()))
            _tell(error, debug=debug)
            raise typer.Exit(code_of(error)) from None
        raise typer.Exit(code if isinstance(code, int) else DONE)

    signature = inspect.signature(verb, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_DEBUG)
    cast(Any, guard).__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    guard.__annotations__ = {**{name: each.annotation for name, each in signature.parameters.items()}, "debug": _DEBUG}
    return guard


_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def safe_lines(text: str) -> str:
    """`text` made safe line by line."""
    return "\n".join(safe(line) for line in text.splitlines())


def _hush() -> None:
    """What an interruption found half made (a loop, a coroutine) complains when it is collected: nobody needs that."""
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _unraisable: None


def _tell(error: BaseException, *, debug: bool) -> None:
    match error:
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case KeyboardInterrupt():
            say("interrupted")
            _hush()
        case HoldfastError() | Waiting():
            say(describe(error))
        case AgentFailed(error=raised):
            text = (
                describe(raised)
                if isinstance(raised, HoldfastError)
                else f"{type(raised).__name__}: {safe(str(raised))}"
            )
            say(f"the agent failed: {text}{_place(raised)}")
            if not debug:
                hint("--debug shows the traceback; running it again goes on from the log")
        case OSError(strerror=str() as strerror, filename=str() as filename):
            say(
                f"{type(error).__name__}: {safe(strerror)} [{safe(filename)}]\n  fix: check the file and who may use it"
            )
        case _:
            say(f"{type(error).__name__}: {safe(str(error))}")


def _place(raised: BaseException) -> str:
    """Where an agent's exception came from: the innermost line that is not Holdfast's own."""
    import traceback

    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    frames = [frame for frame in traceback.extract_tb(raised.__traceback__) if not frame.filename.startswith(ours)]
    outside = [frame for frame in frames if not frame.filename.startswith(os.path.dirname(os.__file__) + os.sep)]
    return f"\n  at: {safe(outside[-1].filename)}:{outside[-1].lineno}" if outside else ""
