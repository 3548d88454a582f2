"""`python -m bench.forks`: from a fork at step 900 of 1000 to the first new step, beside DBOS and LangGraph.

Rules
1. Each is a process of its own, in a folder of its own, and takes its turn in every round; what is measured begins
   after imports, with the store open.
2. The peers come from PyPI, each into an environment of its own under build/peers, at the newest version. Where they
   cannot be installed, that is said, and nothing stands in their row.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent / "peers"
STEPS, AT, ROUNDS = 1000, 900, 3
LONGEST_S = 300.0
MOST_MS, MOST_BYTES = 20.0, 4096


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way to fork: the script, what it is told besides, and the packages of its environment (none: ours)."""

    name: str
    script: str
    told: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


ENTRANTS = (
    Entrant("Holdfast, a checkpoint at each step", "holdfast_fork.py", ("1",)),
    Entrant("Holdfast, a checkpoint at each 10th", "holdfast_fork.py", ("10",)),
    Entrant("Holdfast, no checkpoint: replayed", "holdfast_fork.py", ("0",)),
    Entrant("DBOS, SQLite", "dbos_fork.py", (), ("dbos",)),
    Entrant(
        "LangGraph, SQLite, the place is known", "langgraph_fork.py", (), ("langgraph", "langgraph-checkpoint-sqlite")
    ),
)


def python_of(entrant: Entrant) -> tuple[str, str] | None:
    """The interpreter and the versions of an entrant's environment, made if it is not there; None if it cannot be."""
    if not entrant.packages:
        return sys.executable, ""
    folder = ROOT / "build" / "peers" / entrant.packages[0]
    python = folder / "bin" / "python"
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    try:
        if not python.exists():
            subprocess.run([uv, "venv", "-q", str(folder)], check=True, capture_output=True, timeout=LONGEST_S)
        install = [uv, "pip", "install", "-q", "--python", str(python), *entrant.packages]
        subprocess.run(install, check=True, capture_output=True, timeout=LONGEST_S)
        frozen = subprocess.run(
            [uv, "pip", "freeze", "-q", "--python", str(python)], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    versions = [line for line in frozen.stdout.splitlines() if line.partition("==")[0] in entrant.packages]
    return str(python), " ".join(versions)


def measured(python: str, entrant: Entrant) -> dict[str, Any]:
    """One measurement, in a folder of its own on the disk of this repository."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fork-", dir=ROOT / "build") as folder:
        command = [python, str(HERE / entrant.script), folder, str(STEPS), str(AT), *entrant.told]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_S, check=True, env={**os.environ, "NO_COLOR": "1"}
        )
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print the table, write build/forks.json."""
    told, load = Console(stderr=True), machine.load()
    pythons = {entrant.name: python_of(entrant) for entrant in ENTRANTS}
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(ROUNDS):
        for entrant in ENTRANTS[number % len(ENTRANTS) :] + ENTRANTS[: number % len(ENTRANTS)]:
            found = pythons[entrant.name]
            if found is not None:
                told.print(f"round {number + 1}: {entrant.name}", highlight=False)
                results[entrant.name].append(measured(found[0], entrant))
    rows = {name: summed(each) for name, each in results.items()}
    out = {"steps": STEPS, "at": AT, "load before": load, "load after": machine.load(), "rows": rows}
    out["versions"] = {name: found[1] for name, found in pythons.items() if found is not None and found[1]}
    (ROOT / "build" / "forks.json").write_text(json.dumps(out, indent=2) + "\n", encoding="utf-8")
    show(rows, out["versions"], pythons)


def summed(results: list[dict[str, Any]]) -> dict[str, float]:
    """The median, best and worst of all forks; the bytes of one; how long the place was looked for; and what a step
    cost before, which tells what checkpoints cost."""
    times = [ms for result in results for ms in result["ms"]]
    return {
        "ms": statistics.median(times),
        "best_ms": min(times),
        "worst_ms": max(times),
        "bytes": statistics.median(result["bytes"] for result in results),
        "find_ms": statistics.median(result.get("find_ms", 0.0) for result in results),
        "step_ms": statistics.median(1000 * result["making_s"] / STEPS for result in results),
    }


def show(
    rows: dict[str, dict[str, float]], versions: dict[str, str], pythons: dict[str, tuple[str, str] | None]
) -> None:
    """The table, and what the bars say."""
    table = Table(title="Fork at 900 of 1000", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in ("first new step, ms", "bytes", "find, ms", "step before, ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        first = f"{row['ms']:.1f} ({row['best_ms']:.1f}–{row['worst_ms']:.1f})"
        finding = f"{row['find_ms']:.2f}" if row["find_ms"] else "–"
        table.add_row(name, first, f"{row['bytes']:,.0f}", finding, f"{row['step_ms']:.2f}")
    console = Console()
    console.print(table)
    console.print(", ".join(versions.values()), highlight=False)
    for name, found in pythons.items():
        if found is None:
            console.print(f"{name}: not measured: its packages could not be installed", highlight=False)
    ours = rows[ENTRANTS[1].name]
    for what, figure, most in (("ms", ours["ms"], MOST_MS), ("bytes", ours["bytes"], float(MOST_BYTES))):
        verdict = "met" if figure <= most else "MISSED"
        console.print(f"bar: at most {most:g} {what} with a checkpoint at each 10th step: {figure:.1f}, {verdict}")


if __name__ == "__main__":
    main()
