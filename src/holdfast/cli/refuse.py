"""`holdfast refuse`: say no to the call that waits at a node."""

from typing import Annotated

import typer

from holdfast.cli.options import ByOption, NodeArgument, StoreOption, name_of
from holdfast.cli.verdict import place


def verb(
    node: NodeArgument,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the agent sees it.")
    ] = "no reason was given",
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """Say no to the held call at NODE. The agent sees the refusal and may decide anew."""
    name = name_of(by, store)
    said = f"{node} is refused by {name}"
    place(store, node, lambda house: house.refuse(node, by=name, reason=reason), said, lives=True)
