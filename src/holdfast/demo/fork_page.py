"""What the demo of forks shows: each step with its branch, the tree of the run, and the counts of the world."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.panel import Panel
from rich.text import Text
from rich.tree import Tree as Drawn

from holdfast.core.tree import MAIN, Limb, Status, Tree
from holdfast.demo.pages import KIND, Page, empty_table
from holdfast.demo.telling import Deeds, Line
from holdfast.demo.world import Count

STATUS = {Status.OPEN: "bold green", Status.SUPERSEDED: "yellow", Status.ABANDONED: "dim"}


@dataclass(slots=True)
class ForkPage(Page):
    """The console of the demo of forks."""

    def opening(self) -> None:
        self.console.print(
            Panel(
                "An agent moves a shop, and believes its model, which names a region where the shop's data may not be. "
                "It has built and stopped machines before it finds out. An operator forks the run at the model's "
                "answer, puts another in its place, and the run goes on: what is still right is not done again, what "
                "is wrong is taken back. Then it tries four sizes of machine at once, each on a branch of its own, "
                "and is killed in the middle of what the best of them does.\n\n"
                "[dim]Real servers, real protocols, a real SIGKILL; all of it on this machine.[/]",
                title="[bold]Holdfast[/]: a run is a tree, the world is not",
                border_style="cyan",
                padding=(1, 2),
            )
        )

    def lines(self, lines: Sequence[Line]) -> None:
        """What has happened since."""
        for line in lines:
            text = Text("   ").append(f"{f'{line.branch}:{line.seq}':<9} ", style="bold").append(f"{line.what:<20}")
            text.append(f"{line.kind:<14}", style=KIND.get(line.kind, "dim")).append(line.words, style=line.colour)
            self.console.print(text, soft_wrap=True)

    def quoted(self, text: str) -> None:
        """What somebody else says: a command, or the text for the model."""
        width = max(40, self.console.width - 8)
        for line in text.rstrip().splitlines():
            for part in textwrap.wrap(line, width, subsequent_indent="      ", break_on_hyphens=False) or [""]:
                self.console.print(Text(f"   │ {part}", style="dim"), soft_wrap=True)

    def tree(self, run: str, tree: Tree, deeds: Mapping[str, Deeds], said: Mapping[str, str]) -> None:
        """The run as a tree. `said`: what was put in place of recorded answers, or is tried, by branch."""
        drawn = Drawn(Text(run, style="bold"))
        nodes = {"": drawn}
        for limb in tree:
            nodes[limb.name] = nodes[limb.parent].add(_limb(limb, tree, deeds[limb.name], said.get(limb.name, "")))
        self.console.print(drawn)

    def counts(self, found: Sequence[Count]) -> None:
        """What the world itself counts."""
        self.console.print()
        shown = empty_table("What the world has counted")
        shown.add_column("counted by the servers, not by Holdfast")
        shown.add_column("should be", justify="right", style="dim")
        shown.add_column("is", justify="right")
        for each in found:
            mark = Text(f"{each.found} {'✗' if each.problem else '✓'}", style="bold red" if each.problem else "green")
            shown.add_row(each.name, str(each.right), mark)
        self.console.print(shown)

    def end(self, wrong: Sequence[str], seconds: float) -> None:
        """The verdict."""
        self.console.print()
        if wrong:
            self.console.print("[bold red]Something is wrong in the world:[/] " + "; ".join(wrong))
        else:
            self.console.print(
                "[bold green]Nothing happened twice, nothing is left of the wrong way, and the branches that lost "
                f"did nothing.[/] [dim]({seconds:.0f} s)[/]"
            )


def _limb(limb: Limb, tree: Tree, deeds: Deeds, said: str) -> Text:
    text = Text(limb.name, style="bold")
    if limb.name != MAIN:
        text.append(f"  {limb.kind} fork at {limb.parent}:{limb.at}", style="")
    if said:
        text.append(f"  {said}", style="cyan")
    line = limb.name == tree.line
    state = "the run's line, finished" if line and deeds.finished else "the run's line" if line else limb.ended
    text.append(f"\n{state}", style=STATUS[limb.status])
    counts = [
        f"{len(named)} {word}"
        for named, word in (
            (deeds.planned, "planned"),
            (deeds.did, "done"),
            (deeds.adopted, "adopted"),
            (deeds.undone, "taken back"),
        )
        if named or word == "done"
    ]
    return text.append(f"\neffects: {', '.join(counts)}", style="dim")
