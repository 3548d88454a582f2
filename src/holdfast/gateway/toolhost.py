"""Tool hosts, as the gateway sees them: processes that run the user's own tools.

Rules
1. A host is started with exactly the environment that its upstream declares, in a directory of its own, with no
   descriptor but its connection.
2. What was asked of a host that died is in doubt once the host had begun with it; before, it certainly did not happen.
3. Nothing that a host says or writes is passed on unscrubbed.
4. A call that nobody waits for any more counts as running until the host has answered it, or has died. Whatever it has
   started dies with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.errors import BadCall, Corrupt, Misuse, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.credential import Credential
from holdfast.gateway.frames import HEADER, answer_of, packed, size_of, text_in
from holdfast.gateway.scrub import Scrubber

START_S = 60.0  # to import the modules
LAST_WORDS_S = 1.0  # to read what a host had written before it died
KEPT_BYTES = 1 << 20  # of what a host's tools print, over its life
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); from holdfast.gateway.toolwork import main; main(int(sys.argv[1]))"
)
_HOME = str(Path(__file__).parents[2])  # where this package is found
_printed = logging.getLogger("holdfast.tools")


@dataclass(slots=True)
class _Pending:
    """Something that was asked, under `key` if it is an effect. `begun`: the host has said that it is at it."""

    key: str
    answer: asyncio.Future[dict[str, Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    begun: bool = False


class ToolHost:
    """One host. `scrub` knows the credentials in its environment."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        output: tuple[asyncio.StreamReader, asyncio.ReadTransport],
        scrub: Scrubber,
    ) -> None:
        self.name = name
        self.tools: list[dict[str, Any]] = []
        self.scrub = scrub
        self.ended = False
        self._process = process
        self._reader, self._writer = streams
        self._output, self._pipe = output
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._sure = True  # that all it had said before it died was read
        self._life = asyncio.ensure_future(self._attend())

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def running(self, key: str) -> bool:
        """Whether an effect under this key may be at work in it."""
        return any(pending.key == key for pending in self._pending.values())

    async def ask(self, what: str, *, key: str = "", **fields: object) -> dict[str, Any]:
        """What the host answers. Raises NotHappened, RetryAfter and BadCall as its tool has raised them; RuntimeError
        where the tool failed, or the host died at it: then nobody knows."""
        if self.ended:
            raise DidNotHappen("the tool host has ended")
        self._number += 1
        number = self._number
        message = packed({"id": number, "do": what, "key": key, **fields})
        pending = self._pending[number] = _Pending(key)
        try:
            self._writer.write(message)
            with contextlib.suppress(OSError):  # it is dying: whether it has begun is told when it is dead
                await self._writer.drain()
            said = await pending.answer
        except asyncio.CancelledError:
            if not self.ended:
                self._writer.write(packed({"id": number, "do": "cancel"}))
            raise
        return self._understood(said)

    def _understood(self, said: dict[str, Any]) -> dict[str, Any]:
        match said["came"]:
            case "retry_after":
                seconds = said.get("seconds")
                if not isinstance(seconds, int | float):
                    raise Corrupt("a tool host names no time")
                raise RetryAfter(float(seconds), self._clean(said, "what"))
            case "not_happened" | "refused":
                raise DidNotHappen(self._clean(said, "what"))
            case "bad_call":
                raise BadCall(self._clean(said, "what"), fix=self._clean(said, "fix"))
            case "failed":
                raise RuntimeError(f"{self._clean(said, 'type')}: {self._clean(said, 'what')}")
            case _:
                return said

    def _clean(self, said: dict[str, Any], name: str) -> str:
        return self.scrub.text(text_in(said, name))

    async def retire(self) -> None:
        """Let it finish what it is at, then end it."""
        while self._pending and not self.ended:
            await asyncio.wait([each.answer for each in self._pending.values()], timeout=0.1)
            await asyncio.sleep(0.05)
        await self.close()

    async def close(self) -> None:
        """End it now, and wait for its death."""
        self._kill()
        await asyncio.wait([self._life])

    # --- its life ---

    def _kill(self) -> None:
        """Kill it with all that it has started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _sweep(self) -> None:
        """Kill what it had started, now that it is dead: its effects would go on without it."""
        try:
            os.kill(self._process.pid, 0)  # somebody else's by now
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        except PermissionError:
            return

    async def _attend(self) -> None:
        """Hear what it says until it is dead; then settle what was asked."""
        hearing = asyncio.ensure_future(self._hear())
        printing = asyncio.ensure_future(self._print())
        dying = asyncio.ensure_future(self._process.wait())
        await asyncio.wait([hearing, dying], return_when=asyncio.FIRST_COMPLETED)
        if not dying.done():
            self._kill()  # it says nothing any more, or what nobody understands
            await dying
        self._sweep()
        _, late = await asyncio.wait([hearing, printing], timeout=LAST_WORDS_S)
        for each in late:  # a child of it holds the other end
            self._sure = self._sure and each is not hearing
            each.cancel()
        self.ended = True
        self._writer.close()
        self._pipe.close()
        self._settle()

    def _settle(self) -> None:
        code = self._process.returncode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        for pending in self._pending.values():
            if pending.answer.done():
                continue
            if pending.begun or not self._sure:
                pending.answer.set_exception(RuntimeError(f"the tool host died while it was at it ({how})"))
            else:
                pending.answer.set_exception(DidNotHappen(f"the tool host died before it was called ({how})"))
        self._pending.clear()

    async def _hear(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                try:
                    size = size_of(await self._reader.readexactly(HEADER))
                    self._take(answer_of(await self._reader.readexactly(size)))
                except Corrupt as error:
                    _printed.error("%s: %s: the host is ended", self.name, error.what)
                    self._sure = False
                    return

    def _take(self, said: dict[str, Any]) -> None:
        pending = self._pending.get(said["id"])
        if pending is None:
            raise Corrupt("a tool host answers what was not asked")
        if said["came"] == "begun":
            pending.begun = True
            return
        del self._pending[said["id"]]
        if not pending.answer.done():
            pending.answer.set_result(said)

    async def _print(self) -> None:
        """What its tools print goes to the gateway's log, scrubbed, a line at a time."""
        stream, kept, rest = self.scrub.stream(), 0, b""
        while chunk := await self._output.read(1 << 16):
            kept += len(chunk)
            if kept <= KEPT_BYTES:
                *lines, rest = (rest + stream.feed(chunk)).split(b"\n")
                self._log(*lines)
        self._log(rest + stream.close())
        if kept > KEPT_BYTES:
            _printed.warning("%s: %d bytes that it has printed were not kept", self.name, kept - KEPT_BYTES)

    def _log(self, *lines: bytes) -> None:
        for line in lines:
            if line:
                _printed.info("%s: %s", self.name, line[:2000].decode("utf-8", "backslashreplace"))


async def start(
    name: str,
    modules: Sequence[str],
    path: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    secrets: Sequence[Credential] = (),
) -> ToolHost:
    """A host that has imported `modules` (looked for in `path` first), with exactly `environment` and what Python
    needs, in the directory `folder`. Raises Misuse where that cannot be; then no host runs."""
    scrub = Scrubber(secrets)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    printed, prints = os.pipe()  # asyncio's own pipes would keep a death untold while a child of the host holds them
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), _HOME,
                cwd=folder, env=_environment(environment, folder), pass_fds=(theirs.fileno(),), start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=prints, stderr=prints,
            )  # fmt: skip
    except OSError as error:
        ours.close()
        os.close(printed)
        raise Misuse(f"the tool host of `{name}` cannot be started: {error.strerror}") from None
    finally:
        os.close(prints)
    streams = await asyncio.open_connection(sock=ours)
    output = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(printed, "rb", buffering=0)
    )
    host = ToolHost(name, process, streams, (output, pipe), scrub)
    try:
        said = await asyncio.wait_for(host.ask("open", modules=list(modules), path=list(path)), START_S)
        host.tools = _listed(said)
    except (DidNotHappen, RuntimeError, Corrupt) as error:
        await host.close()
        what = error.what if isinstance(error, DidNotHappen | Corrupt) else str(error)
        raise Misuse(f"the tool host of `{name}` cannot be started: {what}", fix="mend the module") from None
    except TimeoutError:
        await host.close()
        raise Misuse(
            f"the tool host of `{name}` does not come up: its modules take more than {START_S:.0f} s"
        ) from None
    except BaseException:
        await host.close()
        raise
    return host


def _environment(declared: Mapping[str, str], folder: Path) -> dict[str, str]:
    usual = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}
    return {**usual, **declared, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _listed(said: dict[str, Any]) -> list[dict[str, Any]]:
    match said.get("tools"):
        case [*tools] if all(isinstance(each, dict) for each in tools):
            return tools
        case _:
            raise Corrupt("a tool host lists no tools")
