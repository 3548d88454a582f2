"""A run's branches, as one of them sees the others: the tree, and what its kin have done.

Rules
1. An effect of a run with more than one branch is begun only if no other branch has written anything that was not taken
   up: two branches never send the same call, and a branch that has lost its place sends nothing.
2. Of the others, only what is not of this branch's own history is read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.kin import Kin
from holdfast.core.record import Abandoned, Forked, Promoted
from holdfast.core.tree import MAIN, Limb, Status, Tree
from holdfast.errors import Corrupt
from holdfast.store import Readable

TREE_KEY = b"tree"


class KnownTree:
    """The tree of a run as far as it has been read: up to the entry at `seq` of main."""

    def __init__(self, store: Readable, run: str) -> None:
        self.run = run
        self.tree = Tree()
        self.seq = 0
        self._store = store
        self._folding = threading.Lock()

    async def refresh(self) -> Tree:
        """Take up what is new. Raises Corrupt where it cannot be so."""
        entries = await self._store.read(f"{self.run}@{MAIN}", after=self.seq, key=TREE_KEY)
        with self._folding:
            for entry in entries:
                if entry.seq > self.seq:  # who shares this tree may have taken it up meanwhile
                    self.tree.fold(tree_record(entry))
                    self.seq = entry.seq
        return self.tree


class Family:
    """The other branches of the run that `branch` (`RUN@BRANCH`) belongs to. `kin` is None where there is nothing to
    know of them: no other branch, or this one is held, and so does nothing in the world. `known`: the tree as it is
    known already; it may be shared."""

    def __init__(self, store: Readable, branch: str, known: KnownTree | None = None) -> None:
        self.run, _, self.name = branch.partition("@")
        self.known = known or KnownTree(store, self.run)
        self.kin: Kin | None = None
        self.seen: dict[str, int] = {}
        self._store = store

    @property
    def tree(self) -> Tree:
        """The tree of the run, as it was at the last `refresh`."""
        return self.known.tree

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
        """Take up what is new; of many who ask at once, whoever has read it first. Raises Corrupt where it cannot be
        so."""
        tree = await self.known.refresh()
        if len(tree.limbs) == 1 or self.name not in tree.limbs or self.held:
            return
        kin = self.kin = self.kin or Kin()
        if len(kin.lineages) != len(tree.limbs):
            kin.lineages = {
                f"{self.run}@{limb.name}": [(f"{self.run}@{name}", upto) for name, upto in tree.lineage(limb.name)]
                for limb in tree
            }
        others = (limb for limb in tree if limb.status is Status.OPEN and limb.name != self.name)
        kin.open = {f"{self.run}@{limb.name}" for limb in others}
        for found in await self._store.branches(f"{self.run}@"):
            name = found.name.partition("@")[2]
            if name == self.name or name not in tree.limbs or tree.held(name):
                continue
            if found.name not in self.seen:
                base = self._base_of(name)
                kin.begin(found.name, base)
                self.seen[found.name] = base
            if found.seq > self.seen[found.name]:
                for entry in await self._store.read(found.name, after=self.seen[found.name]):
                    if entry.seq > self.seen[found.name]:
                        kin.fold(entry)
                        self.seen[found.name] = entry.seq

    def needed(self, seq: int) -> bool:
        """Whether a branch that goes on has inherited or adopted the effect whose intent stands at `seq` here; or has
        inherited that another one adopted it."""
        return self.tree.survives(self.name, seq) or (
            self.kin is not None and self.kin.needed(f"{self.run}@{self.name}", seq)
        )

    def needed_beside(self, seq: int) -> bool:
        """As `needed`, by another branch than this one."""
        return self.kin is not None and self.kin.needed(f"{self.run}@{self.name}", seq)

    def _base_of(self, name: str) -> int:
        """After which entry another branch's history is not this one's."""
        own = dict(self.tree.lineage(self.name))
        return own.get(name) or self.tree.limbs[name].at


async def read_tree(store: Readable, run: str) -> Tree:
    """The branches of a run."""
    return await KnownTree(store, run).refresh()


def tree_record(entry: Entry) -> Forked | Promoted | Abandoned:
    """The record of an entry that is looked up as the tree's. Raises Corrupt if it is another."""
    record = decode(entry.body)
    if isinstance(record, Forked | Promoted | Abandoned):
        return record
    raise Corrupt("a record of the tree was expected", where=f"{entry.branch}:{entry.seq}")
