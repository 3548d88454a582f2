"""A real tree: the packages that these tests run with, some ten thousand files."""

from __future__ import annotations

import random
import shutil
import sysconfig
from pathlib import Path

import pytest

from holdfast.workspace import Changed, diff
from tests.workspace.census import census
from tests.workspace.conftest import Place


def real(place: Place, wanted: int) -> list[Path]:
    """Copy installed packages into the tree, until there are `wanted` files."""
    count = 0
    for package in sorted(Path(sysconfig.get_path("purelib")).iterdir()):
        if package.is_dir() and not package.is_symlink() and count < wanted:
            shutil.copytree(package, place.root / package.name, symlinks=True)
            count += sum(path.is_file() for path in package.rglob("*"))
    return [path for path in sorted(place.root.rglob("*")) if path.is_file() and not path.is_symlink()]


def trial(place: Place, wanted: int) -> None:
    files = real(place, wanted)
    told = census(place.root)
    first = place.files.capture()
    chosen = random.Random(1).sample(files, 10)
    for path in chosen:
        path.write_bytes(path.read_bytes() + b"\n")
    second = place.files.capture()
    assert second.files_read == 10
    assert second.tree == place.stranger().capture().tree
    changed = [b"%s" % str(path.relative_to(place.root)).encode() for path in sorted(chosen)]
    assert sorted(diff(place.packs.get, first.tree, second.tree), key=lambda change: change.path) == [
        Changed(path, content=True) for path in sorted(changed)
    ]
    assert sorted(place.files.restore(first.tree).touched) == sorted(path.decode() for path in changed)
    assert census(place.root) == told
    elsewhere = place.folder / "elsewhere"
    place.again(root=elsewhere).restore(first.tree)
    assert census(elsewhere) == told
    assert place.again(root=elsewhere).capture().files_read == 0, "who restored knows what he wrote"


def test_two_thousand_files_of_real_packages_come_back(place: Place) -> None:
    trial(place, 2_000)


@pytest.mark.soak
def test_all_installed_packages_come_back(place: Place) -> None:
    trial(place, 1_000_000)
