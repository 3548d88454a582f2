"""A store and a directory to capture, side by side."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.workspace import Packs, Workspace


class Place:
    """A directory, and the store that its captures go to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "tree"
        self.root.mkdir()
        self.store = folder / "store"
        self.packs = Packs(self.store)
        self.files = Workspace(self.root, self.packs)

    def again(self, *ignore: str, root: Path | None = None) -> Workspace:
        """The same as a process sees it that has just begun; or another directory over the same store."""
        where = root or self.root
        where.mkdir(exist_ok=True)
        return Workspace(where, Packs(self.store), ignore=ignore)

    def stranger(self) -> Workspace:
        """The same directory, with a store that knows nothing."""
        number = len(list(self.folder.iterdir()))
        return Workspace(self.root, Packs(self.folder / f"store-{number}"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stores of files are closed behind the test that opened them: a process has often 1024 descriptors."""
    opened: list[Packs] = []
    honest = Packs.__init__

    def known(packs: Packs, root: Path) -> None:
        honest(packs, root)
        opened.append(packs)

    monkeypatch.setattr(Packs, "__init__", known)
    yield
    for packs in opened:
        packs.close()
