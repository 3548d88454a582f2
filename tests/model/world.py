"""The world of the model: tools, and everything that they did, whatever the run believes.

Rules
1. Each sending that reaches the world is a deed, unless the system honours keys and knows the key.
2. Nothing here knows of branches. What really happened is counted by key and by what it was for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

BUDGET = 2
READ, IDEMPOTENT, REVERSIBLE, IRREVERSIBLE = "read", "idempotent", "reversible", "irreversible"


@dataclass(frozen=True, slots=True)
class Tool:
    """What a tool promises. `resource`: calls of one name touch one thing, whatever their size. `cost`: of the run's
    budget. `once`: a further call is answered by the first (which only the engine plays)."""

    name: str
    kind: str
    probe: bool = False
    resource: bool = False
    approval: bool = False
    cost: int = 0
    once: bool = False


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("look", READ),
        Tool("put", IDEMPOTENT),
        Tool("make", REVERSIBLE, resource=True),
        Tool("build", REVERSIBLE, probe=True),
        Tool("mend", REVERSIBLE, resource=True, once=True),
        Tool("pay", IRREVERSIBLE, probe=True, cost=1),
        Tool("order", IRREVERSIBLE, probe=True, resource=True),
        Tool("mail", IRREVERSIBLE),
        Tool("wire", IRREVERSIBLE, probe=True, approval=True),
    )
}


@dataclass(frozen=True, slots=True, order=True)
class Ask:
    """What an agent asks for: the identity of a call."""

    tool: str
    name: str
    size: int

    @property
    def kind(self) -> str:
        return TOOLS[self.tool].kind


@dataclass(slots=True)
class Deed:
    """Something that was done. `living`: it has not been taken back."""

    ask: Ask
    key: object
    number: int
    living: bool = True


class World:
    """One run's world."""

    def __init__(self) -> None:
        self.deeds: list[Deed] = []
        self.of_key: dict[object, list[Deed]] = defaultdict(list)
        self.etags: dict[str, int] = defaultdict(int)

    def act(self, ask: Ask, key: object) -> int:
        """Carry it out; the number of the deed, which is its answer."""
        known = self.of_key[key]
        if known and ask.kind == IDEMPOTENT:
            return known[0].number
        deed = Deed(ask, key, len(self.deeds))
        self.deeds.append(deed)
        known.append(deed)
        return deed.number

    def take_back(self, key: object) -> None:
        """Make sure that nothing of this key is there."""
        for deed in self.of_key[key]:
            deed.living = False

    def there(self, key: object) -> bool:
        """Whether something of this key is there."""
        return any(deed.living for deed in self.of_key[key])

    def living(self) -> list[Deed]:
        """What is there, oldest first."""
        return [deed for deed in self.deeds if deed.living]

    def drift(self, name: str) -> None:
        """Somebody else has changed what a read tells."""
        self.etags[name] += 1
