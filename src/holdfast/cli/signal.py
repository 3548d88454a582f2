"""`holdfast signal`: send a run a value by name."""

from typing import Annotated

import typer

from holdfast.cli.options import ByOption, LineArgument, StoreOption, json_value, name_of
from holdfast.cli.verdict import place


def verb(
    run: LineArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the run waits for.")],
    value: Annotated[str, typer.Argument(metavar="JSON", help="The value (JSON, @FILE, or -).")] = "null",
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """Send a run a value by name. Whoever waits for the name takes it, now or later."""
    sent, who = json_value(value, "JSON"), name_of(by, store)
    place(store, run, lambda house: house.signal(run, name, sent, by=who), f"{name} is sent to {run}", lives=True)
