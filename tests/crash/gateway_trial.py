"""A trial behind a gateway: one run, one store, one world; a gateway and a program that die as often as it takes.

Rules
1. The census is that of trial.py: what was asked for is in the world once, and a program is told the same in all lives.
2. A doubt is ended as a person would: by looking at the world.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.crash import outside
from tests.crash.nursery import ROOT, Nursery
from tests.crash.trial import KILLED, MOST_LIVES, Trial

BOTH = ("gateway", "agent")

SHOP = """
[gateway]
store = "sqlite:///{store}"
state = "{state}"
[credentials]
key = "file:key"
[upstreams.shop]
kind = "http"
base = "http://127.0.0.1:{port}/{place}"
private = ["127.0.0.1"]
inject = [{{ credential = "key", header = "authorization" }}]
[[upstreams.shop.routes]]
method = "GET"
path = "/look/{{name}}"
name = "look"
[[upstreams.shop.routes]]
method = "PUT"
path = "/put/{{name}}"
name = "put"
kind = "idempotent"
identity = ["path.name"]
[[upstreams.shop.routes]]
method = "POST"
path = "/make/{{name}}"
name = "make"
kind = "reversible"
identity = ["path.name"]
undo = {{ path = "/make/{{path.name}}" }}
[[upstreams.shop.routes]]
method = "POST"
path = "/build/{{name}}"
name = "build"
kind = "reversible"
identity = ["path.name"]
undo = {{ path = "/build/{{path.name}}" }}
probe = {{ path = "/there/build", query = {{ key = "{{key}}" }} }}
[[upstreams.shop.routes]]
method = "POST"
path = "/mail/{{name}}"
name = "mail"
kind = "irreversible"
identity = ["path.name"]
[[upstreams.shop.routes]]
method = "POST"
path = "/pay/{{name}}"
name = "pay"
kind = "irreversible"
identity = ["path.name"]
probe = {{ path = "/there/pay", query = {{ key = "{{key}}" }} }}
[upstreams.llm]
kind = "model"
protocol = "openai"
base_url = "http://127.0.0.1:{port}/{place}/v1"
credential = "key"
private = ["127.0.0.1"]
[upstreams.llm.models.gpt-test]
input = 1
output = 1
max_output = 100
[policy]
files = ["policy.cedar"]
[agents.clerk]
tools = [{tools}]
"""
HOSTED = """
[upstreams.crm]
kind = "python"
modules = ["tests.crash.outside_tools"]
path = ["{root}"]
environment = {{ OUTSIDE = "{folder}" }}
"""


class Systems:
    """The process of the systems outside."""

    def __init__(self) -> None:
        line = [sys.executable, "-m", "tests.crash.outside"]
        self._process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class GatewayTrial(Trial):
    """One run of a program that thinks, then calls `tools` on `names`. `hosted`: with tools in Python."""

    def __init__(
        self, folder: Path, nursery: Nursery, people: Nursery, systems: Systems, tools: Sequence[str],
        names: Sequence[str] = ("a", "b"), *, hosted: bool = False, options: str = "flush_s=0.2",
    ) -> None:  # fmt: skip
        super().__init__(folder, people, "clerk", None, options)
        self.folder = folder
        self.lives = nursery
        self.task = {"tools": list(tools), "names": list(names)}
        self.gateway: int | None = None
        self.more: dict[str, Any] = {}  # in the life of each program
        self.port = systems.port
        self.configure(hosted=hosted)

    def configure(self, *, hosted: bool = False, file: str = "holdfast.toml", state: str = "state") -> None:
        """Write the configuration of a gateway: all are of one store."""
        folder = self.folder
        (folder / "key").write_text("canary-55c1e0b7a6d24f98")
        (folder / "key").chmod(0o600)
        (folder / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
        tools = '"shop.*", "llm.*"' + (', "crm.*"' if hosted else "")
        text = SHOP.format(
            store=self.url.removeprefix("sqlite:///"), port=self.port, place=str(folder).encode().hex(), tools=tools,
            state=state,
        )  # fmt: skip
        (folder / file).write_text(text + (HOSTED.format(root=ROOT, folder=folder) if hosted else ""))

    # --- lives ---

    def start(self, deaths: dict[str, Sequence[str]] | None = None, **more: Any) -> int:
        """A gateway; one that lives already is told to stop by SIGKILL."""
        self.stop()
        self.gateway = self.lives.bear(gateway=str(self.folder), deaths=deaths or {}, **more)
        return self.gateway

    def stop(self) -> None:
        """SIGKILL to the gateway, if one lives."""
        if self.gateway is not None:
            self.lives.signal(self.gateway, 9)
            self.lives.wait(self.gateway)
            self.gateway = None

    def bear(self, **more: Any) -> int:
        """A program behind the gateway that lives."""
        assert self.gateway is not None
        life = {"program": str(self.folder), "run": "trial", "task": self.task, "within": self.gateway}
        return self.lives.bear(**{**life, **self.more, **more})

    def live(self, *, seconds: float = 60.0, **more: Any) -> tuple[str | None, Any]:
        """One life of a program, behind the gateway that lives, or a new one; how it ended, and its result."""
        if self.gateway is None:
            self.start()
        ended, result = self.lives.wait(self.bear(**more), seconds)
        assert ended is not None, f"a program does not come to an end: {self.world.lines()}"
        assert self.gateway is not None
        if not outside.alive(self.gateway) or (result and "broken" in result):  # it is dead, or just dying
            how, told = self.lives.wait(self.gateway)
            assert how == KILLED, f"a gateway ended on its own: {how}, {told}"
            self.gateway = None
            self.deaths += 1
        self.deaths += ended == KILLED
        return ended, result

    def end(self, boundary: str, victims: Sequence[str]) -> None:
        """One life in which the victims die at a boundary; where people are needed first, they come."""
        side, what, nth = boundary.split()
        before = self.deaths
        inside = side == "in" and what in ("asking", "told", "ending")
        if side != "in":
            self.start({boundary: victims})
        elif not inside:
            outside.aim(self.folder, what, int(nth), victims)
        for _ in range(MOST_LIVES):
            ended, result = self.live(deaths=[f"{what} {nth}"] if inside else [])
            if self.deaths > before:
                self._bury(victims)
                return
            assert ended == "left"
            assert "answer" not in result, f"the run ended and never came to {boundary}"
            self.attend(result)
        raise AssertionError(f"the run never came to {boundary}")

    def _bury(self, victims: Sequence[str]) -> None:
        """The program dies first: wait for the gateway's own end."""
        if "gateway" in victims and self.gateway is not None:
            how, told = self.lives.wait(self.gateway)
            assert how == KILLED, f"a gateway ended on its own: {how}, {told}"
            self.gateway = None
            self.deaths += 1

    def verdict(self, result: dict[str, Any]) -> dict[str, Any]:
        """As in trial.py; what the shop has answered is told as it would have been."""
        found = super().verdict(result)
        if "happened" in found and self.doubts[-1].startswith("shop."):
            found["happened"] = {"answer": found["happened"]}
        return found

    def at_the_door(self, verdict: str, **said: Any) -> dict[str, Any]:
        """What comes of a person's deed at the admin door of the gateway that lives."""
        url = f"gateway://{self.folder}/state/admin.sock"
        life = {"url": url, "world": str(self.world.path), "verdict": verdict, "with": {"by": "ann", **said}}
        ended, result = self.nursery.wait(self.nursery.bear(**life))
        assert ended == "left"
        return result

    def consistent(self) -> None:
        """As in trial.py: only what is taken back may be carried out again."""
        assert not self.world.changed_minds()
        again = [tool for tool, _ in self.world.done_twice() if tool.partition(".")[2] not in ("make", "build")]
        assert not again, f"carried out again: {again}"
        assert not self.world.beside_itself(), "an effect was carried out while it was there already"

    def finish(self) -> dict[str, Any]:
        """As many lives as it takes, in which nobody dies; what the program came to (None: it had ended before)."""
        for _ in range(MOST_LIVES):
            ended, result = self.live()
            assert ended == "left", f"a life ended on its own: {ended}"
            if "answer" in result or "ended" in result:
                return result.get("answer", {})
            self.attend(result)
        raise AssertionError(f"the run does not come to an end: {result}")

    def close(self) -> None:
        self.stop()
