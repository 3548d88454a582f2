"""One life of a gateway, or of an agent's program behind one: what a child of the nursery does.

    {"gateway": FOLDER, "deaths": {BOUNDARY: VICTIMS}, "stops": [BOUNDARY], "full": [BOUNDARY], "patience_s": S}
    {"program": FOLDER, "run": ID, "task": {"tools": […], "names": […]}, "deaths": [POINT NTH], "within": PID}

Boundaries are those of deaths.py, and `before|after answered N` (the ward has an answer, the door has not said it) and
`before|after delivered N` (it was written to the program). From one that is `full` on, the disk takes no more. A
program passes the points `asking`, `told`, `ending`.

Rules
1. A gateway is the product's own, with all its doors. Only its patience with people is taken from it: who would have to
   wait is told so at once.
2. A program speaks to the doors as any other would: HTTP, with the handle that it was given. It holds its run itself,
   like a starter: they die together.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from holdfast.agent.client import _Local
from holdfast.errors import HoldfastError, Stopped
from holdfast.gateway.config import load
from holdfast.gateway.launcher import Starting
from holdfast.gateway.process import Gateway
from holdfast.gateway.ward import Ward
from tests.crash import outside
from tests.crash.deaths import Boundary, arm
from tests.crash.outside import MODEL
from tests.crash.world import World
from tests.store.faults import Fault, FaultyDisk

for _needed in ("cedar", "upstreams.hosted", "upstreams.http", "upstreams.model", "doors.mcp"):
    import_module(f"holdfast.gateway.{_needed}")  # so that no child has to

CLASSES = {"held": "Held", "in_doubt": "InDoubt", "asleep": "Asleep", "waiting": "AwaitingSignal"}


def live(life: dict[str, Any]) -> dict[str, Any]:
    """The child's life; its result, if it lives to tell."""
    name = "gateway" if "gateway" in life else "program"
    folder = Path(life[name])
    (folder / ("gateway.pid" if name == "gateway" else "agent.pid")).write_text(str(os.getpid()))
    if name == "gateway":
        _arm(folder, life)
        return asyncio.run(_gateway(folder / life.get("config", "holdfast.toml"), life.get("patience_s", 0.0)))
    return asyncio.run(_Program(folder, life).lives())


# --- a gateway ---


@dataclass(frozen=True, slots=True)
class Elsewhere(Boundary):
    """A boundary at which others die, or others too."""

    folder: Path = Path()
    victims: tuple[str, ...] = ()

    def _sent(self) -> None:
        outside.kill(self.folder, self.victims)


@dataclass(frozen=True, slots=True)
class Full(Boundary):
    """A boundary from which on the disk of the store is full."""

    disk: FaultyDisk = field(default_factory=FaultyDisk)

    def _sent(self) -> None:
        self.disk.fault = Fault("write", self.disk.operations["write"] + 1, "full", "ever")


def _arm(folder: Path, life: dict[str, Any]) -> None:
    boundaries: list[Boundary] = [
        Elsewhere(*text.split()[:2], int(text.split()[2]), folder=folder, victims=tuple(victims))
        for text, victims in life.get("deaths", {}).items()
    ]
    boundaries += [Boundary.of(text, signal.SIGSTOP) for text in life.get("stops", ())]
    boundaries += [Full(*text.split()[:2], int(text.split()[2])) for text in life.get("full", ())]
    for boundary in boundaries:
        if isinstance(boundary, Full):
            boundary.disk.stand_in()
        if boundary.what == "delivered":
            _arm_delivered(boundary)
        elif boundary.what == "answered":
            _arm_answered(boundary)
        else:
            arm(boundary)


def _arm_delivered(boundary: Boundary) -> None:
    honest, count = Ward.delivered, Counter[str]()

    def delivered(self: Ward, *given: Any) -> None:
        count["all"] += 1
        here = count["all"] == boundary.nth
        if here and boundary.side == "before":
            boundary.reached()
        honest(self, *given)
        if here and boundary.side == "after":
            boundary.reached()

    Ward.delivered = delivered  # type: ignore[method-assign]


def _arm_answered(boundary: Boundary) -> None:
    honest, count = Ward.call, Counter[str]()

    async def call(self: Ward, *given: Any, **named: Any) -> Any:
        reply = await honest(self, *given, **named)
        count["all"] += 1
        if count["all"] == boundary.nth:
            boundary.reached()
        return reply

    Ward.call = call  # type: ignore[method-assign]


async def _gateway(file: Path, patience_s: float) -> dict[str, Any]:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        async with Gateway(load(file)) as gateway:
            gateway.wards._patience_s = patience_s
            await stopping.wait()
    except HoldfastError as error:
        return {"raised": type(error).__name__, "text": str(error)}
    return {"stopped": True}


# --- a program ---


class Told(Exception):
    """A door says that this life is over, and why."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(str(result))
        self.result = result


class _Program:
    def __init__(self, folder: Path, life: dict[str, Any]) -> None:
        self._folder = folder
        self._life = life
        self._world = World(folder / "world")
        self._deaths = set(life.get("deaths", ()))
        self._passed = Counter[str]()
        self._connection: http.client.HTTPConnection
        self._handle = ""

    async def lives(self) -> dict[str, Any]:
        config = load(self._folder / self._life.get("config", "holdfast.toml"))
        try:
            async with contextlib.AsyncExitStack() as open_:
                gateway = await self._starting(config.launching, open_)
                wanted = {"run": self._life["run"], "agent": "clerk", "place": "local"}
                taken = await self._taken(gateway, wanted)
                self._handle = taken["handle"]
                self._connection = _Local(str(config.door))
                answers = await asyncio.to_thread(self._does)
                self._point("ending")
                ended = await gateway.ask({"end": {"answer": answers}})
                return {"answer": answers} if "waiting" not in ended else {"raised": "Waiting", "text": str(ended)}
        except Told as told:
            return told.result
        except (Stopped, OSError, http.client.HTTPException) as error:
            return {"broken": f"{type(error).__name__}: {error}"}
        except HoldfastError as error:
            return {"raised": type(error).__name__, "text": str(error)}

    async def _starting(self, path: Path, open_: contextlib.AsyncExitStack) -> Starting:
        """A connection, as soon as the gateway of this life listens."""
        while True:
            with contextlib.suppress(Stopped):
                return await open_.enter_async_context(Starting(path))
            if not outside.alive(self._life["within"]):
                raise Stopped("the gateway is gone")
            await asyncio.sleep(0.005)

    async def _taken(self, gateway: Starting, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Take the run up: as soon as whoever held it has let go, for at most `patience_s`."""
        until = time.monotonic() + self._life.get("patience_s", 60.0)
        while True:
            try:
                taken = await gateway.ask({"open": dict(wanted)})
            except Stopped:
                raise
            except HoldfastError as error:
                if time.monotonic() > until:
                    raise Told({"raised": type(error).__name__, "text": str(error)}) from None
                await asyncio.sleep(0.01)
            else:
                if "ended" in taken:
                    raise Told({"ended": True})
                return taken

    def _does(self) -> dict[str, Any]:
        """A thought, then each tool on each name, one after another; what it is told it shows to the world."""
        task = self._life["task"]
        answers: dict[str, Any] = {"thought": self._world.saw("thought", self._thinks("what now?"))}
        for tool in task["tools"]:
            for name in task["names"]:
                self._point("asking")
                answer = self._calls(tool, name)
                self._point("told")
                answers[f"{tool} {name}"] = self._world.saw(f"{tool} {name}", answer)
        return answers

    def _point(self, what: str) -> None:
        self._passed[what] += 1
        if f"{what} {self._passed[what]}" in self._deaths:
            os.kill(os.getpid(), signal.SIGKILL)

    # --- at the doors ---

    def _thinks(self, prompt: str) -> str:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
        told = self._asked("POST", "/model/llm/v1/chat/completions", asked)
        return told["choices"][0]["message"]["content"]

    def _calls(self, tool: str, name: str) -> str:
        system, _, operation = tool.partition(".")
        if system == "shop":
            method = {"look": "GET", "put": "PUT"}.get(operation, "POST")
            return self._asked(method, f"/http/shop/{operation}/{name}")["answer"]
        return self._asked("POST", "/v1/call", {"tool": tool, "args": {"name": name}})["answer"]

    def _asked(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._handle}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
        if answer.status == 200:
            return told
        error = told.get("error", {})
        if error.get("kind") == "not_happened":  # it certainly did not: it is asked for anew
            return self._asked(method, path, body)
        if error.get("kind") in CLASSES:
            about = {"text": error["what"], "where": error["where"], "fix": error["fix"]}
            raise Told({"waits": CLASSES[error["kind"]], **about})
        raise Told({"raised": str(answer.status), "text": json.dumps(told)})
