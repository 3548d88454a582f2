"""Captures that are kept for people, and processes that stand still while a capture is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from holdfast.workspace import Kept, Packs, collect, frozen_below, waste
from holdfast.workspace.freeze import begun
from tests.workspace.census import census
from tests.workspace.conftest import Place


def test_what_is_kept_is_told_the_newest_first(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.all() == []
    one, other = kept.keep(b"\1" * 32, "a@main"), kept.keep(b"\2" * 32, "b@main")
    assert {each.tree: each.name for each in kept.all()} == {"01" * 32: "a@main", "02" * 32: "b@main"}
    assert one.at_ms <= other.at_ms
    kept.drop(one.tree)
    assert kept.all() == [other]
    kept.drop(one.tree)


def test_what_cannot_be_read_as_kept_is_kept_by_its_name(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keep(b"\1" * 32, "a@main")
    (tmp_path / "kept" / ("02" * 32)).write_text("{")
    (tmp_path / "kept" / ("03" * 32)).write_text("[1]")
    (tmp_path / "kept" / ("ZZ" * 32)).write_text("{}")
    (tmp_path / "kept" / ".half").write_text("{}")
    assert {each.tree for each in kept.all()} == {"01" * 32, "02" * 32, "03" * 32}


def test_what_a_collection_would_remove_is_what_it_removes(place: Place) -> None:
    trees: list[bytes] = []
    for _ in range(4):
        (place.root / "file").write_bytes(os.urandom(50_000))
        trees.append(place.again().capture().tree)
    before = {path: path.read_bytes() for path in (place.store / "packs").iterdir()}
    told = waste(Packs(place.store), lambda: trees[-1:])
    assert {path: path.read_bytes() for path in (place.store / "packs").iterdir()} == before
    assert told.packs_removed == 1
    assert 140_000 < told.freed_bytes < 160_000
    done = collect(Packs(place.store), lambda: trees[-1:])
    assert done.packs_removed == told.packs_removed
    elsewhere = place.folder / "elsewhere"
    place.again(root=elsewhere).restore(trees[-1])
    assert census(elsewhere) == census(place.root)


CHILD = """
import subprocess, sys
inner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(inner.pid, flush=True)
while True:
    pass
"""


def spent(pid: int) -> int:
    """The processor time of a process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_everything_that_was_begun_stands_still_and_then_goes_on() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    inner = int(child.stdout.readline())
    try:
        assert {child.pid, inner} <= set(begun(os.getpid()))
        with frozen_below():
            before = spent(child.pid), spent(inner)
            time.sleep(0.1)
            assert (spent(child.pid), spent(inner)) == before
            with frozen_below():  # another run of this process does the same
                pass
            time.sleep(0.05)
            assert (spent(child.pid), spent(inner)) == before
        for _ in range(200):
            if spent(child.pid) > before[0] and spent(inner) > before[1]:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("they do not go on")
    finally:
        os.kill(inner, 9)
        child.kill()
        child.communicate()


def test_where_nothing_was_begun_nothing_is_done() -> None:
    script = (
        "import subprocess\n"
        "from holdfast.workspace import frozen_below\n"
        "subprocess.Popen = None\n"
        "with frozen_below():\n    print('inside')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "inside\n"
