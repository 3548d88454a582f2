"""`holdfast promote`: make an alternative the run's line."""

from typing import Annotated

import typer

from holdfast.cli.branching import change
from holdfast.cli.options import ByOption, RunArgument, StoreOption, name_of


def verb(
    run: RunArgument,
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="An alternative: a what-if or a speculative branch.")],
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """Make BRANCH take the place of the one it was forked from. What it planned is done when the run is resumed, once
    and in order; the others of its group are abandoned."""
    name = name_of(by)
    change(store, run, lambda house: house.promote(run, branch, by=name), f"{branch} is promoted by {name}")
