"""`holdfast cancel`: end a run."""

from typing import Annotated

import typer

from holdfast.cli.options import ByOption, LineArgument, StoreOption, name_of
from holdfast.cli.verdict import place


def verb(
    run: LineArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "no reason was given",
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """End a run. Nothing new is started, what is in flight is sealed, what happened stays."""
    name = name_of(by, store)
    said = f"{run} is cancelled by {name}"
    place(store, run, lambda house: house.cancel(run, by=name, reason=reason), said, goes_on=False, lives=True)
