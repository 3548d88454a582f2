"""A run's branches, as one of them sees the others: the tree, and what its kin have done.

Rules
1. An effect of a run with more than one branch is begun only if no other branch has written anything that was not taken
   up: two branches never send the same call, and a branch that has lost its place sends nothing.
2. Of the others, only what is not of this branch's own history is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.kin import Kin
from holdfast.core.record import Abandoned, Forked, Promoted
from holdfast.core.tree import MAIN, Limb, Status, Tree
from holdfast.errors import Corrupt
from holdfast.store import Readable

TREE_KEY = b"tree"


class Family:
    """The other branches of the run that `branch` (`RUN@BRANCH`) belongs to."""

    def __init__(self, store: Readable, branch: str) -> None:
        self.run, _, self.name = branch.partition("@")
        self.tree = Tree()
        self.kin: Kin | None = None
        self.seen: dict[str, int] = {}
        self._store = store
        self._tree_seq = 0

    @property
    def limb(self) -> Limb:
        """This branch."""
        return self.tree.limbs[self.name]

    @property
    def held(self) -> bool:
        """Whether this branch's effects wait for a promotion."""
        return self.tree.held(self.name)

    @property
    def watch(self) -> Mapping[str, int]:
        """How far each of the others has been taken up."""
        return self.seen

    async def refresh(self) -> None:
        """Take up what is new. Raises Corrupt where it cannot be so."""
        self._tree_seq = await read_tree_into(self.tree, self._store, self.run, self._tree_seq)
        if self.name not in self.tree.limbs or len(self.tree.limbs) == 1:
            return
        kin = self.kin = self.kin or Kin()
        if len(kin.lineages) != len(self.tree.limbs):
            kin.lineages = {
                f"{self.run}@{limb.name}": [(f"{self.run}@{name}", upto) for name, upto in self.tree.lineage(limb.name)]
                for limb in self.tree
            }
        others = (limb for limb in self.tree if limb.status is Status.OPEN and limb.name != self.name)
        kin.open = {f"{self.run}@{limb.name}" for limb in others}
        for found in await self._store.branches(f"{self.run}@"):
            name = found.name.partition("@")[2]
            if name == self.name or name not in self.tree.limbs:
                continue
            if found.name not in self.seen:
                base = self._base_of(name)
                kin.begin(found.name, base)
                self.seen[found.name] = base
            if found.seq > self.seen[found.name]:
                for entry in await self._store.read(found.name, after=self.seen[found.name]):
                    kin.fold(entry)
                    self.seen[found.name] = entry.seq

    def needed(self, seq: int) -> bool:
        """Whether a branch that goes on has inherited or adopted the effect whose intent stands at `seq` here; or has
        inherited that another one adopted it."""
        return self.tree.survives(self.name, seq) or (
            self.kin is not None and self.kin.needed(f"{self.run}@{self.name}", seq)
        )

    def _base_of(self, name: str) -> int:
        """After which entry another branch's history is not this one's."""
        own = dict(self.tree.lineage(self.name))
        return own.get(name) or self.tree.limbs[name].at


async def read_tree(store: Readable, run: str) -> Tree:
    """The branches of a run."""
    tree = Tree()
    await read_tree_into(tree, store, run, 0)
    return tree


async def read_tree_into(tree: Tree, store: Readable, run: str, after: int) -> int:
    """Take up the tree records of a run that stand after position `after` on main; the position of the last."""
    for entry in await store.read(f"{run}@{MAIN}", after=after, key=TREE_KEY):
        tree.fold(tree_record(entry))
        after = entry.seq
    return after


def tree_record(entry: Entry) -> Forked | Promoted | Abandoned:
    """The record of an entry that is looked up as the tree's. Raises Corrupt if it is another."""
    record = decode(entry.body)
    if isinstance(record, Forked | Promoted | Abandoned):
        return record
    raise Corrupt("a record of the tree was expected", where=f"{entry.branch}:{entry.seq}")
