"""`holdfast demo`: the whole story, told while it happens.

Rules
1. The agent is started and resumed with the commands that a user would type; it is killed from outside.
2. The same agent runs without Holdfast in a second world at the same time; what it leaves behind is counted, too.
3. The demo succeeds only if the census of the world is exactly right: nothing twice, nothing missing.
4. The store, what the servers wrote and the counts are kept for whoever wants to look.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Event as Flag
from types import FrameType

from rich.console import Console

from holdfast.demo.chronicle import Chronicle
from holdfast.demo.pages import Page
from holdfast.demo.process import StoryBroken, kill_once_altered, let_finish
from holdfast.demo.server import WorldBroken
from holdfast.demo.world import Count, World, world
from holdfast.errors import Corrupt, HoldfastError, Unknown
from holdfast.store.reader import Reader

RUN = "move-the-shop"
AGENT = "holdfast.demo.migration:migrate"
TASK = json.dumps({"shop": "shop.example"})
KILLED_AT = 13
STORE = "runs.db"
LOOK_S = 0.1
HOLDFAST = ["-m", "holdfast"]
PLAIN = ["-m", "holdfast.demo.plain"]
NEEDED = ("aiosmtpd", "boto3", "flask", "flask_cors", "moto", "openai")
ABOUT = {
    "east": "the old cloud: an AWS API (EC2, Route 53)",
    "west": "the new cloud: an AWS API (EC2)",
    "legacy": "the legacy database: SQL",
    "post": "a mail server: SMTP",
    "model": "a model: OpenAI's chat completions",
}


@dataclass(slots=True)
class Watch:
    """Follows the run's log in the store at `path` while another process writes it; only reads."""

    path: Path
    page: Page
    told: Chronicle = field(default_factory=Chronicle)
    _reader: Reader | None = None
    _seq: int = 0
    _looked: float = 0.0

    def look(self, *, now: bool = False) -> None:
        """Tell what is new, at most ten times a second."""
        if not now and time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            self._reader = self._reader or Reader(self.path)
        except (Unknown, Corrupt):
            return  # the agent has not made it yet
        entries = asyncio.run(self._reader.read(f"{RUN}@main", after=self._seq))
        self.told.fold(entries)
        self._seq = entries[-1].seq if entries else self._seq
        if self.told.epochs:
            self.page.steps(self.told, self.told.epochs[-1])

    def close(self) -> None:
        if self._reader is not None:
            asyncio.run(self._reader.close())


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What an agent without Holdfast leaves behind: the processes that it was, and the census of its world."""

    killed: int
    restarted: int
    census: list[Count]


@dataclass(frozen=True, slots=True)
class Story:
    """One telling of it, with everything it leaves behind in `place`."""

    place: Path
    page: Page
    _stop: Flag = field(default_factory=Flag)

    @property
    def store(self) -> Path:
        return self.place / STORE

    def tell(self) -> list[str]:
        """Run it all; what is wrong in the world afterwards."""
        began = time.monotonic()
        self.page.opening()
        with ThreadPoolExecutor(max_workers=1) as beside:
            theirs = beside.submit(self._without)
            try:
                told, census = self._with()
                without = self._meanwhile(theirs)
            finally:
                self._stop.set()
        wrong = [each.problem for each in census if each.problem] + untrue(told)
        self._keep(census, without.census)
        self.page.table(told)
        self.page.census(census, without.census)
        self.page.verdict(wrong, sum(bool(each.problem) for each in without.census), time.monotonic() - began)
        return wrong

    def _with(self) -> tuple[Chronicle, list[Count]]:
        began = time.monotonic()
        self.page.chapter(1, "The world")
        with self.page.busy("starting five servers, twice") as busy, world(self.place / "world") as ours:
            introduce(ours, self.page, time.monotonic() - began)
            busy.update("the agent is at work")
            with closing(Watch(self.store, self.page)) as watch:
                self._start_and_kill(ours, watch)
                self._resume(ours, watch)
            return watch.told, ours.census()

    def _start_and_kill(self, ours: World, watch: Watch) -> None:
        self.page.chapter(2, "The agent starts", f"holdfast run {AGENT} --id {RUN} --input '{TASK}'")
        start = [*HOLDFAST, "run", AGENT, "--id", RUN, "--input", TASK, "--no-wait", "--store", str(self.store)]
        killed = kill_once_altered(start, ours, self.place / "first.err", watch.look)
        watch.look(now=True)
        for step in watch.told.steps:
            if step.sealed is None:
                self.page.step(step, watch.told, watch.told.epochs[-1])
        self.page.say(f"[bold red]SIGKILL: process {killed.pid} is gone (status {killed.status})[/]")
        self.page.say("[dim]It is altered, but its answer never arrived: the log has no seal.[/]")

    def _resume(self, ours: World, watch: Watch) -> None:
        self.page.chapter(3, "The agent is resumed", f"holdfast resume {RUN} --agent {AGENT}")
        resume = [*HOLDFAST, "resume", RUN, "--agent", AGENT, "--no-wait", "--store", str(self.store)]
        pid = let_finish(resume, ours, self.place / "second.err", watch.look)
        watch.look(now=True)
        self.page.finished(watch.told, pid)

    def _without(self) -> Aftermath:
        """The same agent, killed at the same point and started again, without Holdfast."""
        with world(self.place / "world-without") as theirs:
            errors = self.place / "without.err"
            killed = kill_once_altered(PLAIN, theirs, errors, self._unless_stopped)
            restarted = let_finish(PLAIN, theirs, errors, self._unless_stopped)
            return Aftermath(killed=killed.pid, restarted=restarted, census=theirs.census())

    def _meanwhile(self, theirs: Future[Aftermath]) -> Aftermath:
        self.page.chapter(4, "The same agent without Holdfast", "python -m holdfast.demo.plain")
        with self.page.busy("it is still at work"):
            without = theirs.result()
        self.page.say(f"[bold red]SIGKILL: process {without.killed} is gone[/], at the same point")
        self.page.say(f"[dim]started again from the top; process {without.restarted} has finished[/]")
        return without

    def _unless_stopped(self) -> None:
        if self._stop.is_set():
            raise StoryBroken("the story was stopped")

    def _keep(self, ours: Sequence[Count], theirs: Sequence[Count]) -> None:
        census = {"with": [asdict(each) for each in ours], "without": [asdict(each) for each in theirs]}
        (self.place / "census.json").write_text(json.dumps(census, indent=2) + "\n")


def introduce(ours: World, page: Page, seconds: float) -> None:
    """Tell which servers the world is made of."""
    ports = {each.name: each for each in ours.servers}
    for name, about in ABOUT.items():
        page.say(f"{about:<43} [dim]127.0.0.1:{ports[name].port:<5} process {ports[name].process.pid}[/]")
    page.say(f"[dim]ready after {seconds:.0f} s; model: {ours.addresses.model_name}[/]")


def untrue(told: Chronicle) -> list[str]:
    """What, by the log, makes this another story than it claims to be."""
    if len(told.epochs) != 2:
        return [f"{len(told.epochs)} processes advanced the run instead of 2"]
    problems = [f"step {step.number} has no seal" for step in told.steps if step.sealed is None]
    cut = [step.number for step in told.steps if step.sent[0] == told.epochs[0] != step.sealed]
    if cut != [KILLED_AT]:
        problems.append(f"the kill cut the steps {cut} instead of step {KILLED_AT}")
    if told.finished != told.epochs[1]:
        problems.append("the second process did not finish the run")
    return problems


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def perform(
    argv: Sequence[str], about: str, page: Page, tell: Callable[[Path], list[str]], *, needed: Sequence[str] = NEEDED,
    run: str = RUN, extras: str = "demo",
) -> int:  # fmt: skip
    """Let `tell` run a story in a directory of its own; the exit code. 0 if nothing is wrong afterwards, 1 if something
    is, 130 if it was interrupted. `needed`: packages that must be installed, by `extras`."""
    parser = argparse.ArgumentParser(prog="holdfast demo", description=about)
    parser.add_argument("--into", type=Path, help="keep the store and the worlds here (default: a new directory)")
    given: Path | None = parser.parse_args(argv).into
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        page.broken(f"`{missing[0]}` is not installed\n  fix: pip install 'holdfast[{extras}]'")
        return 1
    place = (given or Path(tempfile.mkdtemp(prefix="holdfast-demo-"))).absolute()
    place.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        wrong = tell(place)
    except KeyboardInterrupt:
        page.say(f"stopped; every server has ended. What there was is in {place}")
        return 130
    except (WorldBroken, StoryBroken, HoldfastError) as problem:
        page.broken(str(problem))
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    page.hints(run, place / STORE)
    return 1 if wrong else 0


def main(argv: Sequence[str] = ()) -> int:
    """Tell the story. 0 if the world is exactly as it should be, 1 if not, 130 if it was interrupted."""
    page = Page(Console(highlight=False))
    return perform(argv, "An agent is killed at step 13 and resumed.", page, lambda place: Story(place, page).tell())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
