"""What the demo shows: each step as it happens, the table of steps, and the census of both worlds."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.table import Table
from rich.text import Text

from holdfast.demo.chronicle import RECALLED, Chronicle, Step
from holdfast.demo.world import Count

KIND = {"read": "dim", "decision": "magenta", "idempotent": "blue", "reversible": "cyan", "irreversible": "bold red"}
NAMES = {1: "first process", 2: "second process"}


@dataclass(slots=True)
class Page:
    """The console, and how far the steps have been told to it."""

    console: Console
    _told: int = 0
    _waited: set[int] = field(default_factory=set[int])

    def opening(self) -> None:
        self.console.print(
            Panel(
                "An agent moves a shop from one cloud to another: it asks a model, builds a network, starts machines, "
                "alters the legacy database and writes to the customers. It is killed at step 13, in the middle of the "
                "alteration, and resumed. Beside it, the same agent runs without Holdfast.\n\n"
                "[dim]Real servers, real protocols, a real SIGKILL; all of it on this machine.[/]",
                title="[bold]Holdfast[/]: nothing happens twice",
                border_style="cyan",
                padding=(1, 2),
            )
        )

    def chapter(self, number: int, title: str, command: str = "") -> None:
        self.console.print()
        self.console.print(f"[bold cyan]{number}[/]  [bold]{title}[/]")
        if command:
            self.console.print(f"   [dim]$ {command}[/]", soft_wrap=True, highlight=False)

    def say(self, words: str) -> None:
        self.console.print(f"   {words}", highlight=False)

    def busy(self, words: str) -> Status:
        """A sign of life, on terminals."""
        return self.console.status(f"[dim]{words}[/]")

    def broken(self, words: str) -> None:
        self.console.print(Text("The demo broke: ", style="bold red").append(words, style="default"), soft_wrap=True)

    def steps(self, told: Chronicle, epoch: int) -> None:
        """Tell the steps that are done and were not told yet."""
        while self._told < len(told.steps) and told.steps[self._told].sealed is not None:
            self.step(told.steps[self._told], told, epoch)
            self._told += 1
        if self._told < len(told.steps):
            waiting = told.steps[self._told]
            if waiting.came_back and waiting.number not in self._waited:
                self._waited.add(waiting.number)
                self.say(f"   [yellow]429: {waiting.name} was told to come back later; Holdfast waits[/]")

    def step(self, step: Step, told: Chronicle, epoch: int) -> None:
        words, colour = told.doing(step, epoch)
        line = Text("   ").append(f"{step.number:>2} ", style="bold").append(f"{step.name:<20}")
        line.append(f"{step.kind:<14}", style=KIND[step.kind]).append(words, style=colour)
        self.console.print(line)

    def finished(self, told: Chronicle, pid: int) -> None:
        """How the last process came to the end."""
        recalled = [step for step in told.steps if told.doing(step, told.epochs[-1])[0] == RECALLED]
        self.say(f"[cyan]the {len(recalled)} steps before were {RECALLED}[/] [dim](process {pid}, finished)[/]")

    def table(self, told: Chronicle) -> None:
        """Every step, and what the log did about it in each process."""
        shown = empty_table("What the log did, step by step")
        shown.add_column("", justify="right", style="bold")
        shown.add_column("step")
        shown.add_column("kind")
        for number, _ in enumerate(told.epochs, 1):
            shown.add_column(NAMES.get(number, f"process {number}"))
        for step in told.steps:
            cells = [Text(*told.doing(step, epoch)) for epoch in told.epochs]
            shown.add_row(str(step.number), step.name, Text(step.kind, style=KIND[step.kind]), *cells)
        self.console.print()
        self.console.print(shown)

    def census(self, ours: Sequence[Count], theirs: Sequence[Count]) -> None:
        """What is in the two worlds now."""
        self.console.print()
        shown = empty_table("What is in the world, after the same crash and one more start")
        shown.add_column("counted in the world")
        shown.add_column("should be", justify="right", style="dim")
        shown.add_column("with Holdfast", justify="right")
        shown.add_column("without", justify="right")
        for ours_one, theirs_one in zip(ours, theirs, strict=True):
            cells = [
                Text(f"{each.found} {'✗' if each.problem else '✓'}", style="bold red" if each.problem else "green")
                for each in (ours_one, theirs_one)
            ]
            shown.add_row(ours_one.name, str(ours_one.right), *cells)
        self.console.print(shown)

    def verdict(self, wrong: Sequence[str], damage: int, seconds: float) -> None:
        self.console.print()
        if wrong:
            self.console.print("[bold red]Something is wrong in the world:[/] " + "; ".join(wrong))
        else:
            self.console.print(
                f"[bold green]Nothing happened twice and nothing is missing.[/] Without Holdfast, {damage} of these "
                f"counts are wrong. [dim]({seconds:.0f} s)[/]"
            )

    def hints(self, run: str, path: Path) -> None:
        """What to do next with the store at `path`."""
        store = shlex.quote(str(path))
        self.console.print()
        for command, why in (
            (f"holdfast show {run} --store {store}", "the run as it stands"),
            (f"holdfast log {run} --store {store}", "every entry of it"),
            (f"holdfast verify {store}", "that nobody has changed one"),
        ):
            self.console.print(f"Hint: {command}   [dim]# {why}[/]", soft_wrap=True, highlight=False)


def empty_table(title: str) -> Table:
    """An empty table, in the style of the demos."""
    return Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False
    )
