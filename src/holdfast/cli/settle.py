"""`holdfast settle`: end a doubt with what a person has found out in the world."""

from typing import Annotated

import typer

from holdfast.cli.options import ByOption, NodeArgument, StoreOption, json_value, name_of
from holdfast.cli.verdict import place
from holdfast.errors import BadCall


def verb(
    node: NodeArgument,
    happened: Annotated[
        str | None,
        typer.Option("--happened", metavar="JSON", help="It happened, and this was its answer (JSON, @FILE, or -)."),
    ] = None,
    did_not_happen: Annotated[
        bool, typer.Option("--did-not-happen", help="It certainly did not: the agent is told so, and may call again.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="How you know that it did not happen.")
    ] = None,
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """End a doubt with what you have found out. Look into the world first: the run goes on by what you say."""
    if (happened is None) is not did_not_happen:
        raise BadCall(
            "say one of --happened JSON and --did-not-happen",
            fix=f"look into the world first; then holdfast settle {node} …",
        )
    if happened is not None and reason is not None:
        raise BadCall("--reason belongs to --did-not-happen", fix="leave it out")
    name = name_of(by, store)
    if happened is not None:
        answer = json_value(happened, "--happened")
        place(store, node, lambda house: house.settle(node, happened=answer, by=name), f"{node} happened, says {name}")
    else:
        why = reason or "a person says so"
        place(
            store,
            node,
            lambda house: house.settle(node, did_not_happen=why, by=name),
            f"{node} did not happen, says {name}",
        )
