"""`holdfast demo --gateway`: an agent is hijacked by a page that it reads, and reaches nothing but its work.

Rules
1. The programs know nothing of Holdfast. The gateway and they are started with the commands that a user would type.
2. What was attempted, and who stopped it, is read from the run's log; what was done is counted by the servers.
3. The demo succeeds only if every attempt was stopped, the work was done once, and no byte of a credential was seen.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from holdfast.demo.gateway_attacks import Attack, attacks, page
from holdfast.demo.gateway_log import Told, everything, read
from holdfast.demo.gateway_page import GatewayPage
from holdfast.demo.gateway_world import Keys, Market, environment_of_the_gateway, market
from holdfast.demo.process import StoryBroken, said
from holdfast.demo.server import end, launch
from holdfast.demo.story import HOLDFAST, STORE, perform
from holdfast.demo.world import environment

ASSISTANT, COURIER = "assistant", "courier"
NEEDED = ("aiosmtpd", "aiohttp", "boto3", "cedarpy", "flask", "flask_cors", "moto", "openai", "requests", "sqlglot")
NODE = shutil.which("node")
PATIENCE_S = 120.0
LOOK_S = 0.05


@dataclass(slots=True)
class Running:
    """The processes of one life: the gateway's, and those that started the programs."""

    place: Path
    keys: Keys
    life: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])

    @property
    def admin(self) -> Path:
        return self.place / "holdfast-state" / "admin.sock"

    def gateway(self) -> None:
        """Start it, and wait until it is ready."""
        arguments = [*HOLDFAST, "gateway", str(self.place / "holdfast.toml")]
        self._start("gateway", arguments, environment_of_the_gateway(self.keys))
        self.wait(lambda: b"ready" in self._written("gateway"), "gateway", "ready")

    def program(self, name: str, *command: str) -> None:
        """`holdfast run --sandbox` of a program."""
        arguments = [*HOLDFAST, *confined(self.place, name), "--", *command]
        self._start(name, arguments, environment())

    def wait(self, until: Callable[[], bool], name: str, what: str) -> None:
        """Wait until something holds. Raises StoryBroken if the process `name` ends before."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not until():
            status = self.processes[name].poll()
            if status is not None and not until():
                raise StoryBroken(f"`{name}` ended with status {status}, not {what}\n{said(self._errors(name))}")
            if time.monotonic() > give_up_s:
                raise StoryBroken(f"`{name}` was not {what} in {PATIENCE_S:.0f} s\n{said(self._errors(name))}")
            time.sleep(LOOK_S)

    def ended(self, name: str) -> None:
        """Wait until a program has ended well."""
        process = self.processes[name]
        self.wait(lambda: process.poll() == 0, name, "finished")

    def kill(self) -> list[int]:
        """SIGKILL to all of them, the gateway first; their process ids."""
        for process in self.processes.values():
            process.send_signal(signal.SIGKILL)
        for process in self.processes.values():
            end(process)
        return [process.pid for process in self.processes.values()]

    def _errors(self, name: str) -> Path:
        return self.place / f"{name}-{self.life}.err"

    def _written(self, name: str) -> bytes:
        return self._errors(name).read_bytes()

    def _start(self, name: str, arguments: Sequence[str], known: dict[str, str]) -> None:
        self.processes[name] = launch(arguments, errors=self._errors(name), environment=known, answers=False)


def confined(place: Path, name: str) -> list[str]:
    """The arguments of `holdfast` that start a program for the run `name`."""
    return [
        "run", "--sandbox", "--id", name, "--agent", name, "--config", str(place / "holdfast.toml"), "--workspace",
        str(place / "work" / name), "--read-only", str(place / "programs"),
    ]  # fmt: skip


@contextmanager
def life(place: Path, keys: Keys, number: int) -> Generator[Running]:
    """Processes that end with the block."""
    running = Running(place, keys, number)
    try:
        yield running
    finally:
        for process in running.processes.values():
            end(process)


@dataclass(frozen=True, slots=True)
class GatewayStory:
    """One telling of it, with everything it leaves behind in `place`."""

    place: Path
    page: GatewayPage

    def tell(self) -> list[str]:
        """Run it all; what is wrong afterwards."""
        began = time.monotonic()
        self.page.opening()
        self.page.chapter(1, "The world, and a gateway before it", "holdfast gateway")
        with market(self.place) as world:
            with self.page.busy("starting"), life(self.place, world.keys, 1) as first:
                tried = self._hijacked(world, first)
                self._kill(first)
            with self.page.busy("going on"), life(self.place, world.keys, 2) as second:
                self._go_on(second)
            told = asyncio.run(read(self.place / STORE, ASSISTANT, tried))
            self.page.attempts(told.attempts)
            census = world.census(told.turns, courier=NODE is not None)
            searched, found = self._search(world.keys)
            keyed = world.counted().get("requests with the key", 0)
        counts = [asdict(each) for each in census]
        (self.place / "counts.json").write_text(json.dumps({"counts": counts, "canary": found}, indent=2) + "\n")
        wrong = [each.problem for each in census if each.problem] + untrue(told, tried)
        wrong += [f"{found} credentials were found outside the gateway"] if found else []
        wrong += [] if keyed else ["the shop's key was never used"]
        self.page.counts(census)
        self.page.canaries(searched, found, keyed)
        self.page.end(wrong, time.monotonic() - began)
        return wrong

    def _hijacked(self, world: Market, running: Running) -> list[Attack]:
        for name, each in world.servers.items():
            self.page.say(f"{name:<10} [dim]127.0.0.1:{each.port:<5} process {each.process.pid}[/]")
        running.gateway()
        self.page.say(f"{'gateway':<10} [dim]process {running.processes['gateway'].pid}; it alone has the keys[/]")
        self.page.chapter(2, "Two programs that know nothing of it", f"holdfast {shown(COURIER)}")
        handle = self._courier(world, running)
        keys, gateway = self.place / "secrets", running.processes["gateway"].pid
        tried = attacks(keys, gateway, handle, sys.executable)
        (self.place / "page.html").write_text(page(tried))
        self.page.say(f"[dim]$ holdfast {shown(ASSISTANT)}[/]")
        running.program(ASSISTANT, sys.executable, str(self.place / "programs" / "assistant.py"))
        self.page.say("[dim]the assistant reads a customer's page; its model obeys what stands there[/]")
        running.wait(lambda: world.counted().get("refunds", 0) > 0, ASSISTANT, "at its refund")
        return tried

    def _courier(self, world: Market, running: Running) -> str:
        """Start the other program; a living handle of its run, as an attacker has it. Empty where there is no node."""
        if NODE is None:
            self.page.say("[yellow]there is no `node` here: the second program is left out, and so is its handle[/]")
            return ""
        running.program(COURIER, NODE, str(self.place / "programs" / "courier.mjs"))
        running.wait(lambda: world.counted().get("parcels", 0) == 3, COURIER, "done with its parcels")
        ask = [sys.executable, *HOLDFAST, "cap", "issue", COURIER, "--gateway", str(running.admin)]
        issued = subprocess.run(ask, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        if issued.returncode:
            raise StoryBroken(f"no handle was issued: {issued.stderr}")
        return issued.stdout.strip()

    def _kill(self, running: Running) -> None:
        pids = ", ".join(map(str, running.kill()))
        self.page.say(f"[bold red]SIGKILL: the gateway and its programs are gone[/] [dim](processes {pids})[/]")
        self.page.say("[dim]The refund was made, but its answer never arrived: the log has no seal.[/]")

    def _go_on(self, running: Running) -> None:
        self.page.chapter(3, "The same commands again", f"holdfast gateway; holdfast {shown(ASSISTANT)}")
        running.gateway()
        if NODE is not None:
            running.program(COURIER, NODE, str(self.place / "programs" / "courier.mjs"))
        running.program(ASSISTANT, sys.executable, str(self.place / "programs" / "assistant.py"))
        for name in running.processes.keys() - {"gateway"}:
            running.ended(name)
        self.page.say("the programs have ended well; what was done before was answered from the log")

    def _search(self, keys: Keys) -> tuple[int, int]:
        """How many bytes that agents, log, exports and errors ever saw were searched; how many credentials were there.

        Raises StoryBroken if the store cannot be exported."""
        export = [sys.executable, *HOLDFAST, "export", "--all", "-o", str(self.place / "runs.bundle"), "--force",
                  "--store", str(self.place / STORE)]  # fmt: skip
        done = subprocess.run(export, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise StoryBroken(f"the store was not exported: {done.stderr}")
        searched = found = 0
        files = [path for path in self.place.rglob("*") if path.is_file() and path.parent.name != "secrets"]
        for data in [*(path.read_bytes() for path in files), *asyncio.run(everything(self.place / STORE))]:
            searched += len(data)
            found += sum(data.count(each) for each in keys.canaries())
        return searched, found


def shown(name: str) -> str:
    """The command that starts a program, as it is shown."""
    command = {ASSISTANT: "python assistant.py", COURIER: "node courier.mjs"}[name]
    return f"run --sandbox --id {name} --agent {name} -- {command}"


def untrue(told: Told, tried: Sequence[Attack]) -> list[str]:
    """What, by the log, makes this another story than it claims to be."""
    problems = [f"it never tried to {each.what}" for each in tried if each.what not in {a.what for a in told.attempts}]
    problems += [f"nobody stopped it: {each.what}" for each in told.attempts if not each.by]
    if told.epochs != 2:
        problems.append(f"{told.epochs} processes advanced the run instead of 2")
    if told.settled != ["shop.refund"]:
        problems.append(f"the kill left {told.settled} to be settled instead of the refund")
    return [*problems, *([] if told.finished else ["the run has not finished"])]


def main(argv: Sequence[str] = ()) -> int:
    """Tell the story. 0 if all is as it should be, 1 if not, 130 if it was interrupted."""
    from holdfast.gateway.preflight import preflight

    page = GatewayPage(Console(highlight=False))
    missing = preflight()
    if missing:
        page.broken(f"nothing can be confined here: {missing[0].what}\n  fix: {missing[0].fix}")
        return 1
    about = "An agent is hijacked by a page that it reads, and reaches nothing but its work."
    return perform(
        argv, about, page, lambda place: GatewayStory(place, page).tell(), needed=NEEDED, run=ASSISTANT,
        extras="demo,gateway,sql",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
