"""`python -m bench.plot FROM.json TO.svg`: resume time and storage against the length of a run, as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], target: Path) -> None:
    """Two panels from a result as `build/bench.json` has it."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "holdfast"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for way, found in result["resume time"].items():
        steps = sorted(found, key=int)
        low = [found[each]["median"] - found[each]["min"] for each in steps]
        high = [found[each]["max"] - found[each]["median"] for each in steps]
        left.errorbar(
            [int(each) for each in steps], [found[each]["median"] for each in steps], yerr=[low, high],
            marker="o", capsize=3, label=way,
        )  # fmt: skip
    left.set(
        xscale="log",
        yscale="log",
        xlabel="steps in the log",
        ylabel="ms",
        title="From open_store to the first new step",
    )
    left.legend()
    talks = result["bytes on disk per step"]
    turns = sorted(talks, key=int)
    right.plot(
        [int(each) for each in turns],
        [talks[each]["bytes"] * int(each) / 1e6 for each in turns],
        marker="o",
        label="on disk",
    )
    right.plot(
        [int(each) for each in turns],
        [talks[each]["payload"] * int(each) / 1e6 for each in turns],
        marker="s",
        linestyle="--",
        label="payload",
    )
    right.set(xlabel="turns of a growing conversation", ylabel="MB", title="Storage", xlim=(0, None), ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Draw what the arguments name."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bench.plot FROM.json TO.svg")
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
