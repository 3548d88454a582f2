"""`holdfast run --sandbox`: a program of any language, confined, behind a gateway.

Rules
1. A run that waits has no program: it is ended, and started again when what the run waits for has come.
2. What it waits for, and the command that ends the wait, is said once for each wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from holdfast.agent.note import is_name
from holdfast.cli.terminal import busy, hint, json_text, out, safe, say
from holdfast.core.canonical import JSON
from holdfast.errors import AwaitingSignal, Busy, Claimed, Held, InDoubt, Misuse, Refused, Waiting
from holdfast.gateway.launcher import until_news
from holdfast.store.url import shown

if TYPE_CHECKING:
    from holdfast.gateway.config import Config
    from holdfast.gateway.confinement import Confinement
    from holdfast.gateway.launcher import Ended, Rooms

WAITS, KILLED = 3, 128
PATIENCE_S, PAUSE_S, AWAY_S, MOST_PAUSE_S = 30.0, 0.05, 0.5, 60.0
NOWHERE = Path("/nonexistent")  # a sandbox is not made with it
T = TypeVar("T")


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
    wait: bool
    python: bool = False


def run_program(asked: Asked) -> int:
    """Start a program for a run, and see it through; its exit code. The same command goes on after a crash."""
    from holdfast.gateway.config import load
    from holdfast.gateway.preflight import preflight

    if not asked.command:
        raise Misuse("no command is named", fix="holdfast run --sandbox -- CMD …")
    asked = _as_program(asked)
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
    found, store = asyncio.run(_seen_through(asked, config, run))
    if found.answer is not None:
        _tell_again(found.answer, on_stdout=asked.python)
        return 0
    return ended(found, f"the same command with --id {safe(run)}", store)


def _tell_again(told: Mapping[str, JSON], *, on_stdout: bool) -> None:
    """The answer of a run that had ended before, on stdout as its agent wrote it; what a program wrote is not kept."""
    answer = {"base64": told["answer_b64"]} if "answer_b64" in told else told["answer"]
    if on_stdout:
        out(json.dumps(answer))
        return
    say(f"the run has ended, with {json_text(answer)}; what its program wrote is not kept")


def ended(found: Ended, way: str, store: str) -> int:
    """Say how a program ended; the exit code. `way`: what goes on with its run; `store`: what the commands that answer
    it need to name the store."""
    if found.waiting is not None:
        _tell(found.waiting, store)
        hint(f"when that is over, it goes on with {way}")
        return WAITS
    if found.code:
        hint(f"it goes on from its log with {way}")
    return found.code if found.code >= 0 else KILLED - found.code


def _as_program(asked: Asked) -> Asked:
    """A Python agent, `MODULE:AGENT`, as the command that runs it: its module is looked for where it may read."""
    if len(asked.command) != 1 or not is_name(asked.command[0]):
        return asked
    return replace(asked, command=(sys.executable, "-m", "holdfast.agent", asked.command[0]), python=True)


def _tell(waiting: Waiting, store: str) -> None:
    """Say what is waited for, and what ends the wait."""
    from holdfast.cli.remedies import ways_on
    from holdfast.cli.view import when

    until = f", until {when(waiting.until_ms)}" if waiting.until_ms is not None else ""
    say(f"waiting: {safe(waiting.what)}{until} [{safe(waiting.where)}]")
    if isinstance(waiting, Held | InDoubt | AwaitingSignal):
        for way in ways_on(waiting, "", "", store):
            hint(safe(way))


async def _seen_through(asked: Asked, config: Config, run: str) -> tuple[Ended, str]:
    """How the run's program ended, at last; and how a command names the store of its gateway."""
    async with _gateway(config) as own:
        beyond = shown(config.store) if own and not asked.wait else f"gateway://{config.socket}"
        store = f" --store {shlex.quote(beyond)}"
        waited, pause = False, _Pause()
        while True:
            try:
                found = await until_told(_life(asked, config, run))
            except Claimed:
                if not waited:
                    raise
                await until_told(asyncio.sleep(AWAY_S))
                continue
            if found.heard is None or not asked.wait:
                return found, store
            if found.waiting is not None:
                _tell(found.waiting, store)
                hint(f"Ctrl-C is safe: the same command with --id {safe(run)} comes back to it")
            what = "" if found.waiting is None else safe(found.waiting.what)
            with busy(f"waiting; {what}"):
                await until_told(pause.around(until_news(found.heard, config.launching)))
            say("going on")
            waited = True


class _Pause:
    """Between lives: where news comes at once, again and again, the next life is begun later each time."""

    def __init__(self) -> None:
        self._s = 0.0

    async def around(self, news: Awaitable[None]) -> None:
        """Wait for news, and a little longer if it was not waited for at all."""
        begun_s = time.monotonic()
        await news
        if time.monotonic() - begun_s > AWAY_S:
            self._s = 0.0
            return
        await asyncio.sleep(self._s)
        self._s = min(2 * self._s + AWAY_S, MOST_PAUSE_S)


async def _life(asked: Asked, config: Config, run: str) -> Ended:
    """One life of the run's program."""
    from holdfast.gateway.launcher import Program, run_beside, run_confined, shown_for

    program = Program(
        run=run, agent=_agent(asked, config), argv=asked.command, input=asked.input,
        on_divergence=asked.on_divergence, passed=config.sandbox.environment, extra=_modules(asked, config),
    )  # fmt: skip
    if not asked.sandbox:
        say("UNSAFE: the program is not confined: it may reach everything that you may")
        return await run_beside(program, config.launching)
    command, seen = shown_for(asked.command[0])
    confinement = _confinement(asked, config, run, seen, kept=_keeps(config, program.agent))
    argv = (command, *asked.command[1:])
    receipt = await asyncio.to_thread(_receipt, confinement)
    rooms = _rooms(asked, config, program.agent)
    return await run_confined(replace(program, argv=argv), confinement, config.launching, receipt, rooms=rooms)


def _rooms(asked: Asked, config: Config, agent: str) -> Rooms | None:
    """Where the files of an agent are whose checkpoints hold them; None for any other."""
    if not _keeps(config, agent):
        return None
    from holdfast.cli.rooms import SandboxFiles

    return SandboxFiles(config, agent, asked.workspace)


def _keeps(config: Config, agent: str) -> bool:
    return agent in config.agents and config.agents[agent].workspace


def _modules(asked: Asked, config: Config) -> dict[str, str]:
    """Where a Python agent's modules are looked for: what it is given to read, then where it stands."""
    if not asked.python:
        return {}
    paths = [*(config.folder / path for path in config.sandbox.read_only), *map(Path, asked.read_only)]
    given = [str(path.absolute()) for path in paths if path.is_dir()]
    return {"PYTHONPATH": os.pathsep.join(given)} if given else {}


async def until_told(work: Awaitable[T]) -> T:
    """What comes of `work`; or, when this process is told to stop, the death of its program: the run goes on later."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.asynccontextmanager
async def _gateway(config: Config) -> AsyncGenerator[bool]:
    """A gateway of this configuration: the one that runs, or one for as long as this block (True)."""
    from holdfast.gateway.process import Gateway

    until_s = time.monotonic() + PATIENCE_S
    async with contextlib.AsyncExitStack() as own:
        made = False
        while not _runs(config.launching):
            try:
                await own.enter_async_context(Gateway(config))
                made = True
                break
            except Busy:  # another is beginning, or ending, at this moment
                if time.monotonic() > until_s:
                    raise
                await asyncio.sleep(PAUSE_S)
        yield made


def _runs(launching: Path) -> bool:
    """Whether a gateway listens here. Raises Refused if that is not for this user to know, Misuse."""
    from holdfast.gateway.premises import check_length

    check_length(launching)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial:
        try:
            trial.connect(str(launching))
        except PermissionError:
            fix = "ask whoever runs it to put you into its [gateway] group, and under [people]"
            raise Refused("this user may not connect to the gateway", where=str(launching), fix=fix) from None
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


def _confinement(asked: Asked, config: Config, run: str, seen: Sequence[Path], *, kept: bool) -> Confinement:
    """The class of sandbox. `kept`: its workspace is one that the run's checkpoints hold, and is told later."""
    from holdfast.gateway.confinement import Confinement
    from holdfast.gateway.environment import PORT
    from holdfast.gateway.serve import HTTP, HTTPS

    sandbox = config.sandbox
    workspace = NOWHERE if kept else _workspace(asked, config, run)
    paths = [config.folder / path for path in sandbox.read_only] + [Path(path).absolute() for path in asked.read_only]
    return Confinement(
        workspace=workspace, read_only=tuple(dict.fromkeys((*seen, *paths))), processes=sandbox.processes,
        memory_bytes=sandbox.memory_bytes, open_files=sandbox.open_files, file_bytes=sandbox.file_bytes,
        tmp_bytes=sandbox.tmp_bytes, cpu_s=sandbox.cpu_s, dns=sandbox.names,
        ports=(PORT, HTTP, HTTPS) if sandbox.names else (PORT,),
    )  # fmt: skip


def _workspace(asked: Asked, config: Config, run: str) -> Path:
    """The directory that the program may write: as named, or one of the run's own."""
    given = asked.workspace
    workspace = Path(given).absolute() if given else Path.cwd() / ".holdfast" / "work" / run
    if given is None:
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not workspace.is_dir():
        raise Misuse("the workspace is not a directory", where=str(workspace), fix="make it first")
    for own in (config.state, config.file.parent):
        if config.state.is_relative_to(workspace) or workspace == own:
            raise Misuse("the gateway's own files would be in the workspace", where=str(workspace), fix="name another")
    return workspace


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
