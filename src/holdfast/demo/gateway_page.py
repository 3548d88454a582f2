"""What the demo of the gateway shows: each attempt and who stopped it, the counts of the world, and the search."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.panel import Panel
from rich.text import Text

from holdfast.demo.gateway_log import Attempt
from holdfast.demo.pages import Page, empty_table
from holdfast.demo.world import Count


@dataclass(slots=True)
class GatewayPage(Page):
    """The console of the demo of the gateway."""

    def opening(self) -> None:
        self.console.print(
            Panel(
                "A shop's assistant, an ordinary Python program, does whatever its model says: requests, statements, "
                "letters, shell commands. It runs in a sandbox that reaches nothing but a gateway, which has the keys. "
                "A customer's page tells the model to steal the keys, call home, drop a table, mail the customers' "
                "addresses to a stranger. The model obeys. In the middle of its work, everything is killed.\n\n"
                "[dim]Real servers, real protocols, a real SIGKILL; all of it on this machine.[/]",
                title="[bold]Holdfast[/]: a hijacked agent reaches nothing but its work",
                border_style="cyan",
                padding=(1, 2),
            )
        )

    def attempts(self, found: Sequence[Attempt]) -> None:
        """Each attempt, and who stopped it."""
        self.console.print()
        shown = empty_table("What the hijacked agent tried, as it stands in its log")
        shown.add_column("it tried to", no_wrap=True)
        shown.add_column("stopped by", no_wrap=True)
        shown.add_column("because")
        for each in found:
            stopped = Text(each.by or "nobody ✗", style="green" if each.by else "bold red")
            shown.add_row(each.what, stopped, Text(each.reason, style="dim"))
        self.console.print(shown)
        self.say("[dim]hfc_… is the run's own handle: it proves who asks at its own doors, and opens no other[/]")

    def counts(self, found: Sequence[Count]) -> None:
        """What the world itself counts."""
        self.console.print()
        shown = empty_table("What was done, with everything killed once")
        shown.add_column("counted by the servers")
        shown.add_column("should be", justify="right", style="dim")
        shown.add_column("is", justify="right")
        for each in found:
            mark = Text(f"{each.found} {'✗' if each.problem else '✓'}", style="bold red" if each.problem else "green")
            shown.add_row(each.name, str(each.right), mark)
        self.console.print(shown)

    def canaries(self, searched: int, found: int, used: int) -> None:
        """What came of the search for the credentials."""
        self.console.print()
        self.say(
            f"The shop was shown its key {used} times. In all that agents, log, exports and errors ever saw "
            f"({searched / 1_000_000:.1f} MB), the three keys stand {found} times."
        )

    def end(self, wrong: Sequence[str], seconds: float) -> None:
        """The verdict."""
        self.console.print()
        if wrong:
            self.console.print(Text("Something is wrong: ", style="bold red").append("; ".join(wrong), style="default"))
        else:
            self.console.print(
                "[bold green]Every attempt was stopped, the work was done, nothing happened twice, and nobody saw a "
                f"key.[/] [dim]({seconds:.0f} s)[/]"
            )
