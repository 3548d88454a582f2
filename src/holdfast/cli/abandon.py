"""`holdfast abandon`: give a branch up."""

from typing import Annotated

import typer

from holdfast.cli.branching import change
from holdfast.cli.options import ByOption, RunArgument, StoreOption, name_of


def verb(
    run: RunArgument,
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="A branch that is not the run's line.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "no reason was given",
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """Give BRANCH up, with all that was forked from it. Nothing new is begun there; what it did is taken back when the
    run ends, last first, unless a branch that goes on has it."""
    name = name_of(by, store)
    said = f"{branch} is abandoned by {name}"
    change(store, run, lambda house: house.abandon(run, branch, by=name, reason=reason), said)
