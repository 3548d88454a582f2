"""`holdfast demo`: an agent is killed half-way and resumed, forked, or hijacked; with real servers and a census."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.errors import Misuse


def verb(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Keep the store and the worlds here. [a new directory]")
    ] = None,
    fork: Annotated[bool, typer.Option("--fork", help="Tell the story of a run that is forked instead.")] = False,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Tell the story of an agent that is hijacked behind the gateway instead.")
    ] = False,
) -> int:
    """Watch an agent die and come back. It is killed at step 13, and does nothing twice; takes about a minute."""
    if fork and gateway:
        raise Misuse("one story is told at a time", fix="--fork or --gateway")
    try:
        if gateway:
            from holdfast.demo.gateway_story import main
        elif fork:
            from holdfast.demo.fork_story import main
        else:
            from holdfast.demo.story import main
    except ModuleNotFoundError as missing:
        raise Misuse(f"the demo needs `{missing.name}`", fix="pip install 'holdfast[demo]'") from missing
    return main(["--into", str(into)] if into else [])
