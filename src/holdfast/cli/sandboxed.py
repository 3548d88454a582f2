"""`holdfast run --sandbox`: a program of any language, confined, behind a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from holdfast.cli.terminal import hint, safe, say
from holdfast.core.canonical import JSON
from holdfast.errors import Misuse, Refused

if TYPE_CHECKING:
    from holdfast.gateway.config import Config
    from holdfast.gateway.confinement import Confinement
    from holdfast.gateway.launcher import Ended

WAITS, KILLED = 3, 128
STARTING = 100  # looks, a tenth of a second apart, for a gateway that is about to listen


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says."""

    command: Sequence[str]
    run: str | None
    agent: str | None
    input: JSON
    workspace: str | None
    config: str
    read_only: Sequence[str]
    sandbox: bool
    on_divergence: str


def run_program(asked: Asked) -> int:
    """Start a program for a run, and see it through; its exit code. The same command goes on after a crash."""
    from holdfast.gateway.config import load
    from holdfast.gateway.preflight import preflight

    if not asked.command:
        raise Misuse("no command is named", fix="holdfast run --sandbox -- CMD …")
    if asked.sandbox:
        missing = preflight()
        if missing:
            told = "; ".join(each.what for each in missing)
            fix = f"{missing[0].fix} (holdfast doctor says more; --unsafe-no-sandbox runs it unconfined)"
            raise Misuse(f"nothing can be confined here: {told}", fix=fix)
    config = load(Path(asked.config))
    run = asked.run or uuid.uuid4().hex[:12]
    if asked.run is None:
        say(f"run {run}")
    ended = asyncio.run(_seen_through(asked, config, run))
    if ended.waiting is not None:
        say(f"the run waits: {safe(ended.waiting['what'])} [{safe(ended.waiting['where'])}]")
        hint(f"{safe(ended.waiting['fix'])}; then the same command with --id {run}")
        return WAITS
    if ended.code:
        hint(f"it goes on from its log with the same command and --id {run}")
    return ended.code if ended.code >= 0 else KILLED - ended.code


async def _seen_through(asked: Asked, config: Config, run: str) -> Ended:
    from holdfast.gateway.launcher import Program, run_beside, run_confined, shown_for

    program = Program(
        run=run, agent=_agent(asked, config), argv=asked.command, input=asked.input,
        on_divergence=asked.on_divergence, passed=config.sandbox.environment,
    )  # fmt: skip
    async with _gateway(config):
        if not asked.sandbox:
            say("UNSAFE: the program is not confined: it may reach everything that you may")
            return await _until_told(run_beside(program, config.launching))
        command, shown = shown_for(asked.command[0])
        confinement = _confinement(asked, config, run, shown)
        argv = (command, *asked.command[1:])
        receipt = await asyncio.to_thread(_receipt, confinement)
        program = Program(
            run=run, agent=program.agent, argv=argv, input=asked.input, on_divergence=asked.on_divergence,
            passed=config.sandbox.environment,
        )  # fmt: skip
        return await _until_told(run_confined(program, confinement, config.launching, receipt))


async def _until_told(work: object) -> Ended:
    """The end of the program; or, when this process is told to stop, its death: the run goes on later."""
    task = asyncio.ensure_future(cast("asyncio.Future[Ended]", work))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.asynccontextmanager
async def _gateway(config: Config) -> AsyncGenerator[None]:
    """A gateway of this configuration: the one that runs, or one for as long as this block."""
    from holdfast.gateway.process import Gateway, Running

    async with contextlib.AsyncExitStack() as open_:
        for left in reversed(range(STARTING)):
            if _listens(config.launching):
                break
            try:
                await open_.enter_async_context(Gateway(config))
                break
            except Running:  # it is just starting, or has just been told to stop
                if not left:
                    raise
                await asyncio.sleep(0.1)
        yield


def _listens(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            return False
    return True


def _agent(asked: Asked, config: Config) -> str:
    """The name under which the run is started: as given, or the only one that there is."""
    if asked.agent is not None:
        return asked.agent
    if len(config.agents) == 1:
        return next(iter(config.agents))
    names = ", ".join(config.agents) or "none is declared"
    raise Misuse(f"which agent is this? ({names})", where=str(config.file), fix="--agent NAME, of [agents.NAME]")


def _confinement(asked: Asked, config: Config, run: str, shown: Sequence[Path]) -> Confinement:
    from holdfast.gateway.confinement import Confinement
    from holdfast.gateway.environment import PORT
    from holdfast.gateway.serve import HTTP, HTTPS

    sandbox = config.sandbox
    given = asked.workspace
    workspace = Path(given).absolute() if given else Path.cwd() / ".holdfast" / "work" / run
    if given is None:
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not workspace.is_dir():
        raise Misuse("the workspace is not a directory", where=str(workspace), fix="make it first")
    for own in (config.state, config.file.parent):
        if config.state.is_relative_to(workspace) or workspace == own:
            raise Misuse("the gateway's own files would be in the workspace", where=str(workspace), fix="name another")
    paths = [config.folder / path for path in sandbox.read_only] + [Path(path).absolute() for path in asked.read_only]
    return Confinement(
        workspace=workspace, read_only=tuple(dict.fromkeys((*shown, *paths))), processes=sandbox.processes,
        memory_bytes=sandbox.memory_bytes, open_files=sandbox.open_files, file_bytes=sandbox.file_bytes,
        tmp_bytes=sandbox.tmp_bytes, cpu_s=sandbox.cpu_s, dns=sandbox.names,
        ports=(PORT, HTTP, HTTPS) if sandbox.names else (PORT,),
    )  # fmt: skip


def _receipt(confinement: Confinement) -> JSON:
    """What the probe battery found in a sandbox of this class: found once since this machine was started, by this
    user, then remembered."""
    from holdfast.gateway.containment import receipt

    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast" / "containment"
    file = folder / f"{boot}-{confinement.digest()}.json"
    with contextlib.suppress(OSError, ValueError):
        if file.stat().st_uid == os.geteuid() and not file.stat().st_mode & 0o022:
            return cast(JSON, json.loads(file.read_text()))
    say("proving that the sandbox holds (once for each kind of sandbox since this machine was started)")
    try:
        found = asyncio.run(receipt(confinement))
    except Refused as error:
        raise Refused(error.what, fix="holdfast doctor; --unsafe-no-sandbox runs it unconfined") from None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as written:
            json.dump(found, written)
        Path(written.name).replace(file)
    return cast(JSON, found)
