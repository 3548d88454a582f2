"""The agent's files: capture, restore and diff of a directory tree. It knows nothing of runs, branches or logs.

packs = Packs(store_folder)                          never inside the workspace
files = Workspace(folder, packs, ignore=[".cache/"])
with packs.writing(), frozen(pids):
    tree = files.capture().tree                      32 bytes: all that a checkpoint has to keep
    ...                                              keep it, and only then leave the block
files.restore(tree)
diff(packs.get, one_tree, another_tree)
collect(packs, every_tree_that_is_kept)
"""

from holdfast.workspace.collect import Collected, collect, waste
from holdfast.workspace.diff import Added, Change, Changed, Moved, Removed, diff
from holdfast.workspace.files import Captured, Restored, Workspace
from holdfast.workspace.freeze import frozen, frozen_below
from holdfast.workspace.kept import Keepsake, Kept
from holdfast.workspace.layers import Layers
from holdfast.workspace.measure import Budget
from holdfast.workspace.pack import Packs

__all__ = [
    "Added",
    "Budget",
    "Captured",
    "Change",
    "Changed",
    "Collected",
    "Keepsake",
    "Kept",
    "Layers",
    "Moved",
    "Packs",
    "Removed",
    "Restored",
    "Workspace",
    "collect",
    "diff",
    "frozen",
    "frozen_below",
    "waste",
]
