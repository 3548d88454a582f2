"""The command `holdfast`: its verbs, and what is the same for all of them.

Rules
1. A verb's file is imported when the verb is asked for, so that no verb pays for another.
2. Every verb takes `--debug`, and ends in one of the exit codes of `ending`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated

import typer

from holdfast.cli.ending import guarded

VERBS: tuple[str, ...] = (
    "run", "resume", "list", "show", "log", "drift", "approve", "refuse", "settle", "signal", "cancel", "fork",
    "promote", "abandon", "stranded", "diff", "verify", "anchor", "export", "files", "prune", "doctor", "gateway",
    "config", "cap", "policy", "demo", "worker", "fleet",
)  # fmt: skip


def program(verbs: Iterable[str] = VERBS) -> typer.Typer:
    """The command with these verbs."""
    app = typer.Typer(
        name="holdfast",
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_opening)
    for verb in verbs:
        module = import_module(f"holdfast.cli.{verb}")
        inner: dict[str, Callable[..., object]] | None = getattr(module, "VERBS", None)
        if inner is None:
            app.command(verb)(guarded(module.verb))
            continue
        group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=(module.__doc__ or "").partition(": ")[2])
        for name, each in inner.items():
            group.command(name)(guarded(each))
        app.add_typer(group, name=verb)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    wanted = given[:1] if given and given[0] in VERBS else VERBS
    try:
        program(wanted)(args=given, prog_name="holdfast", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        from holdfast import __version__

        sys.stdout.write(f"holdfast {__version__}\n")
        raise typer.Exit


def _opening(
    _: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Run agents so that nothing in the world happens twice, and attend to their runs.

    A store is named by --store (sqlite:///runs.db, or just a file), by HOLDFAST_STORE, or it is sqlite:///holdfast.db.
    A RUN is a run's line, RUN@BRANCH one branch of it, and a NODE a place in its log: RUN@SEQ, or RUN@BRANCH:SEQ.
    Exit codes: 0 done, 1 the check or the agent failed, 2 usage, 3 the run waits, 4 another worker is at it, 5 the
    store cannot be trusted or written, 130 interrupted.
    """
