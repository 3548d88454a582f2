"""`python -m bench.workspace`: what a capture costs after 10 of 10 000 files changed, beside one walk of the same tree.

A walk is `os.scandir` and `stat` of every entry, which is the least that finds out what has changed. Both sides take
turns. `warm`: the process has captured the tree before; `cold`: it has just begun, and first reads what is known of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.spread import spread
from holdfast.workspace import Packs, Workspace

ROOT = Path(__file__).parent.parent
BAR = 1.5
FILES = 10_000
PER_FOLDER = 20
CHANGED = 10


def plant(root: Path, files: int, seed: random.Random) -> list[Path]:
    """A tree like a repository: `files` files of about 4 kB, 20 in a folder, folders in folders."""
    planted: list[Path] = []
    for number in range(files):
        folder = number // PER_FOLDER
        path = root / f"part{folder % 10}" / f"module{folder}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seed.randbytes(2000).hex().encode())
        planted.append(path)
    return planted


def walk(path: str) -> int:
    """Stat everything below `path`, once."""
    seen = 0
    with os.scandir(path) as listed:
        for entry in listed:
            seen += 1
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                seen += walk(entry.path)
    return seen


def timed(work: Callable[[], object]) -> float:
    """How long `work` takes, in ms."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def measure(folder: Path, files: int, changed: int, rounds: int, seed: random.Random) -> dict[str, object]:
    """Times in ms: a walk, a capture of an unchanged tree, and captures after `changed` files were written anew."""
    root = folder / "tree"
    planted = plant(root, files, seed)
    packs = Packs(folder / "store")
    warm = Workspace(root, packs)
    times: dict[str, list[float]] = {name: [] for name in ("walk", "reading", "unchanged", "warm", "cold", "full")}
    times["full"].append(timed(warm.capture))
    for _ in range(rounds):
        times["walk"].append(timed(lambda: walk(str(root))))
        times["unchanged"].append(timed(warm.capture))
        for name in ("warm", "cold"):
            chosen = seed.sample(planted, changed)
            for path in chosen:
                path.write_bytes(seed.randbytes(2000).hex().encode())
            files_of = warm if name == "warm" else Workspace(root, Packs(folder / "store"))
            times[name].append(timed(files_of.capture))
            times["reading"].append(timed(lambda chosen=chosen: [path.read_bytes() for path in chosen]))
            warm.capture()
        times["walk"].append(timed(lambda: walk(str(root))))
    return {name: spread(values) for name, values in times.items()}


def main() -> None:
    """Measure in a folder of its own, print, and say whether the bar is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.workspace", description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="a folder on the disk to be measured (build/)")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--changed", type=int, default=CHANGED)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-workspace-", dir=options.dir))
    try:
        result = measure(folder, options.files, options.changed, options.rounds, random.Random(1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=2))
    medians = {name: value["median"] for name, value in result.items() if isinstance(value, dict)}
    bar = BAR * medians["walk"] + medians["reading"]
    for name in ("unchanged", "warm", "cold"):
        told = "reached" if medians[name] <= bar else "MISSED"
        ratio = (medians[name] - medians["reading"]) / medians["walk"]
        print(f"{name}: {medians[name]:.1f} ms, {ratio:.2f} walks besides reading; the bar is {bar:.1f} ms: {told}")


if __name__ == "__main__":
    main()
