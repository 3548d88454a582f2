"""Removing what nobody refers to, alone and beside those who write."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.errors import Busy, Corrupt
from holdfast.workspace import Packs, Workspace, collect
from tests.workspace.census import census
from tests.workspace.conftest import Place

ROOT = Path(__file__).parent.parent.parent


def fill(place: Place, seed: int, files: int = 8) -> None:
    for number in range(files):
        (place.root / f"file-{number}").write_bytes(random.Random(f"{seed} {number}").randbytes(20_000))


def stored(place: Place) -> int:
    return sum(path.stat().st_size for path in place.store.glob("packs/*.pack"))


def test_what_nobody_refers_to_is_removed_and_what_somebody_does_stays(place: Place) -> None:
    trees, told = [], []
    for seed in range(6):
        fill(place, seed)
        trees.append(place.files.capture().tree)
        told.append(census(place.root))
    full = stored(place)
    collected = collect(place.packs, lambda: [trees[1], trees[4]])
    assert stored(place) < full / 2
    assert collected.freed_bytes >= full / 2
    for number in (1, 4):
        place.again().restore(trees[number])
        assert census(place.root) == told[number]
    with pytest.raises(Corrupt):
        place.again().restore(trees[0])


def test_nothing_is_removed_when_all_is_referred_to(place: Place) -> None:
    fill(place, 1)
    tree = place.files.capture().tree
    before = stored(place)
    assert collect(place.packs, lambda: [tree]).packs_removed == 0
    assert stored(place) == before


def test_a_tree_whose_capture_was_collected_is_captured_anew_though_no_file_changed(place: Place) -> None:
    """What is known of the files names blobs that are gone: it must not be believed."""
    fill(place, 1)
    first, told = place.files.capture().tree, census(place.root)
    collect(Packs(place.store), list)
    assert stored(place) == 0
    assert place.files.capture().tree == first
    assert place.again().capture().tree == first
    place.again(root=place.folder / "elsewhere").restore(first)
    assert census(place.folder / "elsewhere") == told


def test_every_collection_is_noticed_and_not_only_the_first(place: Place) -> None:
    for seed in range(3):
        fill(place, seed)
        first = place.files.capture().tree
        collect(Packs(place.store), list)
        assert place.files.capture().tree == first
        place.again(root=place.folder / f"elsewhere-{seed}").restore(first)


def test_half_of_what_was_known_may_be_gone(place: Place) -> None:
    (place.root / "a").mkdir()
    (place.root / "b").mkdir()
    (place.root / "a" / "file").write_bytes(random.Random(1).randbytes(9_000))
    only_a = place.files.capture().tree
    (place.root / "b" / "file").write_bytes(random.Random(2).randbytes(900_000))
    both, told = place.files.capture().tree, census(place.root)
    collect(Packs(place.store), lambda: [only_a])
    assert place.again().capture().tree == both
    place.again(root=place.folder / "elsewhere").restore(both)
    assert census(place.folder / "elsewhere") == told


def test_a_collection_waits_for_who_writes_and_gives_up_in_time(place: Place) -> None:
    fill(place, 1)
    with place.packs.writing():
        place.files.capture()
        with pytest.raises(Busy, match="is being written"):
            collect(Packs(place.store), list, patience_s=0.05)


def test_a_capture_that_is_recorded_while_it_is_written_is_not_collected(place: Place) -> None:
    """The roots are asked again when nobody writes: what came in between counts."""
    fill(place, 1)
    recorded: list[bytes] = []
    asked = threading.Event()

    def roots() -> list[bytes]:
        asked.set()
        return list(recorded)

    collector = threading.Thread(target=lambda: collect(Packs(place.store), roots))
    with place.packs.writing():
        tree = place.files.capture().tree
        collector.start()
        assert asked.wait(30)
        recorded.append(tree)
    collector.join(30)
    place.again(root=place.folder / "elsewhere").restore(tree)


def test_a_damaged_manifest_stops_a_collection_before_anything_is_removed(place: Place) -> None:
    fill(place, 1)
    place.files.capture()
    before = stored(place)
    with pytest.raises(Corrupt):
        collect(place.packs, lambda: [bytes(32)])
    assert stored(place) == before


WRITER = """
import random, sys
from pathlib import Path
from holdfast.workspace import Packs, Workspace
base, seed = Path(sys.argv[1]), int(sys.argv[2])
root = base / f"tree-{seed}"
root.mkdir()
packs = Packs(base / "store")
files = Workspace(root, packs)
roll = random.Random(seed)
for number in range(60):
    for _ in range(3):
        # Not too many contents: what one writer puts has often been put, and collected, before.
        (root / f"file-{roll.randrange(6)}").write_bytes(random.Random(roll.randrange(60)).randbytes(30_000))
    with packs.writing():
        tree = files.capture().tree
        with (base / f"record-{seed}").open("a") as record:
            record.write(tree.hex() + chr(10))
"""


def test_collections_beside_two_writers_take_nothing_that_was_recorded(place: Place) -> None:
    """Each writer keeps its last three captures; at the end every one of them is whole."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(place.folder), str(seed)], cwd=ROOT) for seed in (1, 2)
    ]

    def roots() -> list[bytes]:
        records = [path.read_text().split("\n")[:-1][-3:] for path in place.folder.glob("record-*")]
        return [bytes.fromhex(line) for lines in records for line in lines]

    collections = removed = 0
    while any(writer.poll() is None for writer in writers):
        removed += collect(Packs(place.store), roots, waste=0.1).packs_removed
        collections += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert removed > 1, f"{collections} collections have removed nothing: this shows nothing"
    assert len(roots()) == 6
    for number, tree in enumerate(roots()):
        fresh = place.folder / f"restored-{number}"
        fresh.mkdir()
        Workspace(fresh, Packs(place.store)).restore(tree)
