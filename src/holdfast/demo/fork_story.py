"""`holdfast demo --fork`: a run that has gone astray is forked, and goes on; then the best of four is taken.

Rules
1. The agent is started, forked and resumed with the commands that a user would type; it is killed from outside.
2. The demo succeeds only if the servers of the world have counted exactly what they should, and the log tells the same
   story: nothing twice, nothing left of the wrong way, nothing done by a branch that lost.
3. The store, what the servers wrote and the counts are kept for whoever wants to look.
"""

import asyncio
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from holdfast.core.effect import Payload
from holdfast.core.entry import Entry
from holdfast.core.tree import Status, Tree
from holdfast.demo.fork_page import ForkPage
from holdfast.demo.process import AGENT_TIMEOUT_S, StoryBroken, kill_once_altered, let_finish, said
from holdfast.demo.story import HOLDFAST, LOOK_S, RUN, STORE, introduce, perform
from holdfast.demo.tally import REGION, WRONG, tally
from holdfast.demo.telling import Telling
from holdfast.demo.world import LATE_S, World, world
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.family import read_tree
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader

AGENT = "holdfast.demo.relocation:relocate"
TASK = json.dumps({"shop": "shop.example", "within": "eu-"})
ASKED_AT = 9  # where the model's answer about the region stands
CANDIDATES = 4
FAILED = 1  # the exit code of a run whose agent has failed


def servers(directory: Path) -> dict[str, tuple[str, list[str]]]:
    """A calm world, but for a model that is wrong at first, and a database that answers late."""
    return {
        "east": ("holdfast.demo.cloud", []),
        "west": ("holdfast.demo.cloud", []),
        "legacy": ("holdfast.demo.legacy", [str(directory / "legacy.db"), "--late-s", str(LATE_S)]),
        "post": ("holdfast.demo.post", [str(directory / "mails")]),
        "model": ("holdfast.demo.model", ["--astray"]),
    }


@dataclass(slots=True)
class Watch:
    """Follows all branches of the run in the store at `path` while another process writes them; only reads."""

    path: Path
    page: ForkPage
    told: Telling = field(default_factory=Telling)
    _reader: Reader | None = None
    _seen: dict[str, int] = field(default_factory=dict[str, int])
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
        self.page.lines(self.told.fold(asyncio.run(self._news(self._reader))))

    async def _news(self, reader: Reader) -> list[Entry]:
        """What was written since, on whatever branch, in the order of its time."""
        found: list[Entry] = []
        for branch in await reader.branches(f"{RUN}@"):
            for entry in await reader.read(branch.name, after=self._seen.get(branch.name, 0)):
                found.append(entry)
                self._seen[branch.name] = entry.seq
        return sorted(found, key=lambda entry: (entry.at_ms, entry.seq))

    def read(self, payload: Payload) -> object:
        """A value of JSON that the log holds."""
        assert self._reader is not None, "it was looked at before"
        return json.loads(asyncio.run(read_payload(self._reader, payload)))

    def tree(self) -> Tree:
        """The branches of the run."""
        assert self._reader is not None, "it was looked at before"
        return asyncio.run(read_tree(self._reader, RUN))

    def close(self) -> None:
        if self._reader is not None:
            asyncio.run(self._reader.close())


@dataclass(frozen=True, slots=True)
class ForkStory:
    """One telling of it, with everything it leaves behind in `place`."""

    place: Path
    page: ForkPage

    @property
    def store(self) -> list[str]:
        return ["--store", str(self.place / STORE)]

    def tell(self) -> list[str]:
        """Run it all; what is wrong in the world, or in the log, afterwards."""
        began = time.monotonic()
        self.page.opening()
        self.page.chapter(1, "The world")
        with world(self.place / "world", servers) as ours, closing(Watch(self.place / STORE, self.page)) as watch:
            introduce(ours, self.page, time.monotonic() - began)
            self._go_astray(ours, watch)
            self._fork(ours)
            self._go_on_and_die(ours, watch)
            self._finish(ours, watch)
            tree = watch.tree()
            self.page.chapter(7, "The run is a tree")
            self.page.tree(RUN, tree, watch.told.branches, _said(watch))
            counts = tally(ours)
        wrong = [each.problem for each in counts if each.problem] + untrue(watch.told, tree)
        (self.place / "counts.json").write_text(json.dumps([asdict(each) for each in counts], indent=2) + "\n")
        self.page.counts(counts)
        self.page.end(wrong, time.monotonic() - began)
        return wrong

    def _go_astray(self, ours: World, watch: Watch) -> None:
        self.page.chapter(2, "The agent goes astray", f"holdfast run {AGENT} --id {RUN} --input '{TASK}'")
        start = [*HOLDFAST, "run", AGENT, "--id", RUN, "--input", TASK, "--no-wait", *self.store]
        errors = self.place / "first.err"
        let_finish(start, ours, errors, watch.look, status=FAILED)
        watch.look(now=True)

    def _fork(self, ours: World) -> None:
        change = [f"{RUN}@{ASKED_AT}", "--set", f'{ASKED_AT}.output="{REGION}"', "--by", "the operator"]
        why = ["--why", f"the data may not be in {WRONG}"]
        self.page.chapter(3, "The operator looks first", _typed("fork", *change, "--dry-run"))
        self._typed("fork", *change, *why, "--dry-run", world=ours)
        self.page.chapter(4, "and forks the run at the model's answer", _typed("fork", *change))
        self._typed("fork", *change, *why, world=ours)

    def _go_on_and_die(self, ours: World, watch: Watch) -> None:
        self.page.chapter(5, "It goes on from there; four sizes are tried", f"holdfast resume {RUN} --agent {AGENT}")
        killed = kill_once_altered(self._resume, ours, self.place / "second.err", watch.look)
        watch.look(now=True)
        self.page.say(f"[bold red]SIGKILL: process {killed.pid} is gone (status {killed.status})[/]")
        self.page.say("[dim]The winner was altering the database: its answer never arrived.[/]")
        self.page.say("[dim]What the model was told after the fork, before it was asked anything:[/]")
        for name, answer in watch.told.branches["b2"].decisions:
            if name == "brief":
                self.page.quoted(str(watch.read(answer)))

    def _finish(self, ours: World, watch: Watch) -> None:
        self.page.chapter(6, "It is resumed once more", f"holdfast resume {RUN} --agent {AGENT}")
        let_finish(self._resume, ours, self.place / "third.err", watch.look)
        watch.look(now=True)

    @property
    def _resume(self) -> list[str]:
        return [*HOLDFAST, "resume", RUN, "--agent", AGENT, "--no-wait", *self.store]

    def _typed(self, *words: str, world: World) -> None:
        """Type a command, and show what it says. Raises StoryBroken if it fails."""
        errors = self.place / "operator.err"
        with errors.open("ab") as written:
            ran = subprocess.run(
                [sys.executable, *HOLDFAST, *words, *self.store],
                env={**world.environment, "COLUMNS": str(max(60, self.page.console.width - 6)), "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=written,
                timeout=AGENT_TIMEOUT_S,
                check=False,
            )
        if ran.returncode != 0:
            raise StoryBroken(f"`holdfast {words[0]}` ended with status {ran.returncode}\n{said(errors)}")
        self.page.quoted(ran.stdout.decode(errors="replace"))


def _typed(*words: str) -> str:
    return shlex.join(["holdfast", *words])


def _said(watch: Watch) -> dict[str, str]:
    """What each branch has in place of what was recorded, or tries."""
    said: dict[str, str] = {}
    for branch, deeds in watch.told.branches.items():
        for what, value in deeds.replaced.items():
            name = f"the answer at {what}: " if isinstance(what, int) else "tries "
            said[branch] = f"{name}{watch.read(value)}"
    return said


def untrue(told: Telling, tree: Tree) -> list[str]:
    """What, by the log, makes this another story than it claims to be."""
    problems: list[str] = []
    candidates = [limb for limb in tree if limb.parent == "b2"]
    kept = [limb.name for limb in candidates if limb.status is Status.OPEN]
    if len(candidates) != CANDIDATES or kept != told.winners:
        problems.append(f"{len(candidates)} candidates, of which {kept} are left and {told.winners} were promoted")
    problems += [
        f"the branch {limb.name} lost and has done {told.branches[limb.name].did}"
        for limb in candidates
        if limb.name not in kept and told.branches[limb.name].did
    ]
    line = told.branches[tree.line]
    if not line.finished or line.settled != ["legacy.alter"]:
        problems.append(f"the line {tree.line} is not finished, or has settled {line.settled}")
    if told.branches["main"].undone != ["cloud.start_machine", "cloud.create_subnet", "cloud.create_vpc"]:
        problems.append(f"on main {told.branches['main'].undone} were taken back")
    if told.branches["b2"].adopted != ["east.stop"]:
        problems.append(f"b2 has adopted {told.branches['b2'].adopted}")
    return problems


def main(argv: Sequence[str] = ()) -> int:
    """Tell the story. 0 if the world is exactly as it should be, 1 if not, 130 if it was interrupted."""
    page = ForkPage(Console(highlight=False))
    about = "A run is forked and goes on; then the best of four branches is taken."
    return perform(argv, about, page, lambda place: ForkStory(place, page).tell())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
