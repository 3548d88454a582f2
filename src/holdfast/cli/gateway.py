"""`holdfast gateway`: the process that holds the credentials and the store, and mediates everything."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.terminal import out, safe


def verb(
    config: Annotated[
        Path, typer.Argument(metavar="FILE", help="The configuration; `holdfast config check` looks at it.")
    ] = Path("holdfast.toml"),
) -> None:
    """Run the gateway of a configuration, until told to stop. Its doors' places go to stdout when it is ready."""
    from holdfast.gateway.config import load
    from holdfast.gateway.process import runner

    with runner() as loop:
        loop.run(_run(load(config)))


async def _run(config: object) -> None:
    from holdfast.gateway.config import Config
    from holdfast.gateway.process import Gateway
    from holdfast.store.url import shown

    assert isinstance(config, Config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Gateway(config) as gateway:
        remote = f"  remote {safe(gateway.remote)}" if gateway.remote else ""
        health = f"  health {gateway.telling.port}" if gateway.telling is not None else ""
        place = f"admin {safe(str(config.socket))}  door {safe(str(config.door))}{remote}{health}"
        out(f"ready  store {safe(shown(config.store))}  {place}")
        sys.stdout.flush()  # whoever has started it waits for this line, also at the other end of a pipe
        await stopping.wait()
