"""Parcels: whatever is done to a directory, another store of packs that takes them in restores it as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import Corrupt
from holdfast.workspace import Packs, Workspace
from holdfast.workspace.parcel import Freight, Layer, lacking, take_in
from tests.workspace.census import census
from tests.workspace.conftest import Place


class Carried:
    """Parcels that follow a directory: `parcels` (tree, bytes), as the newest checkpoint would name them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.freight = Freight(place.packs)
        self.parcels: list[tuple[bytes, bytes]] = []
        self.carried = 0

    def layers(self) -> list[Layer]:
        trees = list(dict.fromkeys(tree for tree, _ in self.parcels))
        return [Layer(tree, sum(len(data) for of, data in self.parcels if of == tree)) for tree in trees]

    def checkpoint(self) -> bytes:
        with self.place.packs.writing():
            tree = self.place.files.capture().tree
            layers = self.layers()
            packing = self.freight.pack(tree, layers)
        stay = {layer.tree for layer in layers[: packing.stay]}
        self.parcels = [each for each in self.parcels if each[0] in stay] + [(tree, data) for data in packing.parcels]
        self.carried += sum(map(len, packing.parcels))
        return tree

    def arrive(self, tree: bytes, packs: Packs, root: Path) -> int:
        """Restore the files from what was carried, elsewhere; how many parcels were taken in."""
        wanted = lacking(packs, tree, [each for each, _ in self.parcels])
        for number in wanted:
            take_in(packs, self.parcels[number][1])
        root.mkdir(exist_ok=True)
        Workspace(root, packs).restore(tree)
        return len(wanted)


def write(place: Place, name: str, seed: int, size: int) -> None:
    (place.root / name).write_bytes(random.Random(seed).randbytes(size))


def test_what_is_new_in_a_tree_is_carried_and_nothing_else(place: Place, tmp_path: Path) -> None:
    carried = Carried(place)
    for number in range(8):
        write(place, f"file-{number}", number, 50_000)
    carried.checkpoint()
    write(place, "file-8", 8, 5_000)
    before = carried.carried
    tree = carried.checkpoint()
    assert carried.carried - before < 8_000
    carried.arrive(tree, Packs(tmp_path / "there"), tmp_path / "elsewhere")
    assert census(tmp_path / "elsewhere") == census(place.root)


def test_what_is_here_already_is_not_taken_in_again(place: Place, tmp_path: Path) -> None:
    carried, there = Carried(place), Packs(tmp_path / "there")
    write(place, "large", 1, 200_000)
    assert carried.arrive(carried.checkpoint(), there, tmp_path / "elsewhere") == 2  # contents, and trees
    write(place, "small", 2, 1_000)
    tree = carried.checkpoint()
    assert carried.arrive(tree, there, tmp_path / "elsewhere") == 2
    assert carried.arrive(tree, there, tmp_path / "elsewhere") == 0


def test_the_same_files_make_the_same_parcels_whenever_they_were_written(tmp_path: Path) -> None:
    made: list[set[bytes]] = []
    for machine in ("a", "b"):
        (tmp_path / machine).mkdir()
        place = Place(tmp_path / machine)
        write(place, "large", 1, 200_000)
        carried = Carried(place)
        carried.checkpoint()
        made.append({data for _, data in carried.parcels if len(data) > 100_000})
    assert made[0] == made[1]
    assert len(made[0]) == 1


def test_parcels_begin_anew_once_most_of_them_is_of_no_use(place: Place, tmp_path: Path) -> None:
    carried = Carried(place)
    write(place, "large", 1, 5_000_000)
    carried.checkpoint()
    (place.root / "large").unlink()
    write(place, "small", 2, 1_000)
    tree = carried.checkpoint()
    assert sum(len(data) for _, data in carried.parcels) < 10_000
    carried.arrive(tree, Packs(tmp_path / "there"), tmp_path / "elsewhere")
    assert census(tmp_path / "elsewhere") == census(place.root)


def test_a_large_tree_is_carried_in_parcels_of_bounded_size(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.workspace.parcel.PARCEL_BYTES", 100_000)
    for number in range(20):
        write(place, f"file-{number}", number, 30_000)
    carried = Carried(place)
    carried.checkpoint()
    assert len(carried.parcels) == 6
    assert max(len(data) for _, data in carried.parcels) < 140_000


@pytest.mark.parametrize("at", [0, 5, 20, 60, -1])
def test_a_parcel_that_was_changed_is_not_taken_in(place: Place, tmp_path: Path, at: int) -> None:
    write(place, "file", 1, 10_000)
    carried = Carried(place)
    carried.checkpoint()
    changed = bytearray(carried.parcels[0][1])
    changed[at] ^= 1
    there = Packs(tmp_path / "there")
    with pytest.raises(Corrupt):
        take_in(there, bytes(changed))
    with pytest.raises(Corrupt):
        take_in(there, carried.parcels[0][1][:-1])


def test_what_is_damaged_here_is_not_carried(place: Place) -> None:
    write(place, "file", 1, 10_000)
    with place.packs.writing():
        tree = place.files.capture().tree
    (pack,) = place.store.glob("packs/*.pack")
    data = bytearray(pack.read_bytes())
    data[1_000] ^= 1
    pack.write_bytes(data)
    with place.packs.writing(), pytest.raises(Corrupt, match="damaged"):
        Freight(place.packs).pack(tree, [])


STEP = st.tuples(st.integers(0, 5), st.sampled_from([0, 100, 3_000, 60_000]), st.integers(0, 3), st.booleans())


@settings(max_examples=10)
@given(steps=st.lists(STEP, min_size=1, max_size=12))
def test_whatever_is_done_every_checkpoint_arrives_and_layers_stay_few(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]]
) -> None:
    ground = tmp_path_factory.mktemp("ground")
    place, there = Place(ground), Packs(ground / "there")
    carried = Carried(place)
    for number, size, seed, here_too in steps:
        if size:
            write(place, f"file-{number}", seed, size)
        else:
            (place.root / f"file-{number}").unlink(missing_ok=True)
        tree = carried.checkpoint()
        sizes = [layer.size for layer in carried.layers()]
        assert len(sizes) <= 14
        carried.arrive(tree, there if here_too else Packs(ground / f"new-{tree.hex()}"), ground / "elsewhere")
        assert census(ground / "elsewhere") == census(place.root)
