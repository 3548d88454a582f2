"""`python -m bench.beside`: steps of Holdfast, of DBOS and of LangGraph, on SQLite and on one PostgreSQL, in one run.

Rules
1. Each is a process of its own on a database of its own, and takes its turn in every round; a round begins at another
   place each time. What is measured begins when all runs of the process are warm (`peers/window.py`).
2. A step has 300 bytes of arguments and an answer of 1 kB, and is written down as each does by itself: with its own
   defaults, and with `durability="sync"` where there is such a choice.
3. The floor is one row and one commit for each step, with 1 connection, and with 32 where there are more runs (SQLite
   has one writer, so 1 there). Each rate is divided by the floor of its round.
4. The peers come from PyPI, each into an environment of its own under build/peers, at the newest version. Where they
   cannot be installed, that is said, and nothing stands in their rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.forks import HERE, LONGEST_S, ROOT, Entrant, python_of
from bench.server import Server, started
from bench.spread import spread
from bench.table import shown

FLOOR = Entrant("floor", "floor_steps.py")
HOLDFAST = Entrant("Holdfast", "holdfast_steps.py")
DBOS = Entrant("DBOS", "dbos_steps.py", (), ("dbos",))
LANGGRAPH = Entrant(
    "LangGraph, @task", "langgraph_steps.py", (),
    ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg[binary,pool]"),
)  # fmt: skip
SQLITE, POSTGRES = "SQLite", "PostgreSQL"


@dataclass(frozen=True, slots=True)
class Leg:
    """One measurement of each round."""

    entrant: Entrant
    store: str
    runs: int

    @property
    def name(self) -> str:
        """How its row is called."""
        what = "connection" if self.entrant is FLOOR else "run"
        return f"{self.store}: {self.entrant.name}, {self.runs} {what}{'' if self.runs == 1 else 's'}"


FLOORS = (Leg(FLOOR, SQLITE, 1), Leg(FLOOR, POSTGRES, 1), Leg(FLOOR, POSTGRES, 32))
LEGS = (
    *FLOORS,
    *(Leg(HOLDFAST, store, runs) for store in (SQLITE, POSTGRES) for runs in (1, 32, 256)),
    *(Leg(peer, store, runs) for peer in (DBOS, LANGGRAPH) for store in (SQLITE, POSTGRES) for runs in (1, 32)),
)
BARS = (
    ("idempotent steps/s, 1 run", "against", Leg(HOLDFAST, POSTGRES, 1), 0.5, True),
    ("idempotent steps/s, 256 runs, one worker process", "against", Leg(HOLDFAST, POSTGRES, 256), 1.0, True),
    ("CPU ms per step, client and server, 1 run", "cpu_ms", Leg(HOLDFAST, POSTGRES, 1), 0.8, False),
    ("CPU ms per step, client and server, 256 runs", "cpu_ms", Leg(HOLDFAST, POSTGRES, 256), 0.8, False),
)


def floor_of(leg: Leg) -> Leg:
    """What a leg is divided by."""
    return FLOORS[0] if leg.store == SQLITE else FLOORS[1] if leg.runs == 1 else FLOORS[2]


class Beside:
    """The measurements, each in a folder below `folder`, or in a database of `server`."""

    def __init__(self, folder: Path, server: Server, seconds: float) -> None:
        self._folder = folder
        self._server = server
        self._seconds = seconds
        self._number = 0
        self._pythons: dict[str, tuple[str, str] | None] = {}

    def python(self, entrant: Entrant) -> tuple[str, str] | None:
        """As `python_of`, asked once."""
        if entrant.name not in self._pythons:
            self._pythons[entrant.name] = python_of(entrant)
        return self._pythons[entrant.name]

    def measured(self, leg: Leg) -> dict[str, float] | None:
        """Steps a second, and ms of a processor for each, client and server; None if it cannot be measured."""
        python = self.python(leg.entrant)
        if python is None:
            return None
        self._number += 1
        if leg.store == SQLITE:
            url, server = f"sqlite:///{self._folder}/m{self._number}.db", 0
        else:
            url, server = self._server.emptied(f"m{self._number}"), self._server.pid
        script = str(HERE / leg.entrant.script)
        ran = subprocess.run(
            [python[0], script, url, str(leg.runs), str(self._seconds), str(server)],
            capture_output=True, text=True, timeout=LONGEST_S, check=False,
            env={**os.environ, "NO_COLOR": "1", "HOLDFAST_HOME": str(self._folder / "home")},
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{leg.name} ended with {ran.returncode}:\n{ran.stderr[-2000:]}")
        return json.loads(ran.stdout.splitlines()[-1])

    def rounds(self, many: int, told: Console) -> dict[str, Any]:
        """All legs, so many times; what was found by name."""
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(many):
            turn = number * 5 % len(LEGS)
            rates: dict[Leg, dict[str, float]] = {}
            for leg in LEGS[turn:] + LEGS[:turn]:
                told.print(f"round {number + 1} of {many}: {leg.name}", highlight=False)
                one = self.measured(leg)
                if one is not None:
                    rates[leg] = one
            for leg, one in rates.items():
                found[leg.name].append({**one, "against": one["per_s"] / rates[floor_of(leg)]["per_s"]})
        return {
            name: {field: spread([one[field] for one in each], digits) for field, digits in FIELDS.items()}
            for name, each in found.items()
        }

    def versions(self) -> dict[str, str]:
        """Of the peers; what could not be installed."""
        told = {name: found for name, found in self._pythons.items() if name not in (FLOOR.name, HOLDFAST.name)}
        return {name: found[1] if found else "could not be installed" for name, found in told.items()}


FIELDS = {"per_s": 0, "against": 2, "cpu_ms": 3}


def judged(rows: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """The bars: what, the bar, what was measured, whether it was met."""
    for what, field, leg, bar, least in BARS:
        found = rows[leg.name][field]
        met = found["median"] >= bar if least else found["median"] <= bar
        unit = " × the floor" if field == "against" else ""
        yield what, f"{'≥' if least else '≤'} {bar:g}{unit}", shown(found), met


def show(result: dict[str, Any], console: Console) -> None:
    """The tables."""
    table = Table(title="Steps, beside the peers", title_justify="left", title_style="bold")
    for column in ("", "steps/s", "× floor", "CPU ms"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for leg in LEGS:
        row = result["rows"].get(leg.name)
        if row is None:
            table.add_row(leg.name, "not measured: could not be installed", "", "")
        else:
            figures = (f"{row['per_s']['median']:g}", shown(row["against"]), f"{row['cpu_ms']['median']:g}")
            table.add_row(leg.name, *figures)
    bars = Table(title="It must reach, on PostgreSQL", title_justify="left", title_style="bold")
    for column in ("what", "bar", "measured", "met"):
        bars.add_column(column)
    for what, bar, measured, met in judged(result["rows"]):
        bars.add_row(what, bar, measured, "[green]yes[/]" if met else "[red]no[/]")
    console.print(table, bars)
    for name, version in result["versions"].items():
        console.print(f"{name}: {version}", highlight=False)
    console.print(f"PostgreSQL {result['PostgreSQL']}; load {result['load before']} → {result['load after']}")


def main() -> None:
    """Measure, print the tables, write build/beside.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options = parser.parse_args()
    build, before = ROOT / "build", machine.load()
    build.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="beside-", dir=build) as folder,
        tempfile.TemporaryDirectory(prefix="beside-", ignore_cleanup_errors=True) as data,
        started(Path(data)) as server,
    ):
        beside = Beside(Path(folder), server, options.seconds)
        rows = beside.rounds(options.rounds, Console(stderr=True))
        result = {
            **machine.state(ROOT), "machine": machine.machine(Path(folder)), "PostgreSQL": server.version,
            "load before": before, "load after": machine.load(), "versions": beside.versions(), "rows": rows,
        }  # fmt: skip
    (build / "beside.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(result, Console())


if __name__ == "__main__":
    main()
