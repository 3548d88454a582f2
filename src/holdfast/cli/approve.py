"""`holdfast approve`: agree to the exact call that waits at a node."""

from holdfast.cli.options import ByOption, NodeArgument, StoreOption, name_of
from holdfast.cli.verdict import place


def verb(node: NodeArgument, by: ByOption = None, store: StoreOption = None) -> None:
    """Agree to the held call at NODE. It is for these exact arguments, for 24 hours, and for one use."""
    name = name_of(by, store)
    place(store, node, lambda house: house.approve(node, by=name), f"{node} is approved by {name}", lives=True)
