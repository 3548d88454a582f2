"""The figures on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print a result as `build/bench.json` has it."""
    run, machine = result["run"], result["machine"]
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['file system']}, {machine['kernel']},"
        f" {machine['python']}, SQLite {machine['SQLite']}; commit {run['commit']}"
        f"{'' if run['as committed'] else ' with changes'}; load {run['load before']} → {run['load after']};"
        f" {run['rounds']} rounds, {run['seconds']} s",
        style="dim",
    )
    console.print(
        _steps(result),
        _flushes(result),
        _resumes(result),
        _bytes(result),
        _imports(result),
        _slower(result),
        _files(result),
        _bars(result),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def shown(found: Mapping[str, float]) -> str:
    """A median with its least and greatest."""
    return f"{found['median']:g} ({found['min']:g}–{found['max']:g})"


def _steps(result: Mapping[str, Any]) -> Table:
    table = _table("Steps", "", "steps/s", "× floor", "p50 ms", "p99 ms", "CPU ms per step")
    for name, per_s in result["steps/s"].items():
        against, spent = result["steps/s against the floor"].get(name), result["p50/p99"][name]
        table.add_row(
            name,
            shown(per_s),
            "1" if against is None else shown(against),
            shown(spent["p50 ms"]),
            shown(spent["p99 ms"]),
            shown(result["CPU per step"][name]),
        )
    return table


def _flushes(result: Mapping[str, Any]) -> Table | str:
    found = result["fsyncs per step"]
    if "skipped" in found:
        return f"fsyncs per step: not counted, {found['skipped']}"
    table = _table(f"Flushes per step: {found['counted']}", "", "per step")
    for name, count in found.items():
        if name not in ("counted", "beside the steps"):
            table.add_row(name, f"{count:.4g}")
    for kind, beside in found["beside the steps"].items():
        told = ", ".join(f"{what} {count}" for what, count in beside.items())
        table.add_row(f"beside the steps, {kind}: {told}", "")
    return table


def _resumes(result: Mapping[str, Any]) -> Table:
    table = _table("Resume: from open_store to the first new step", "steps in the log", "ms", "RSS MB")
    for way, found in result["resume time"].items():
        for steps, spent in found.items():
            table.add_row(f"{way}, {steps}", shown(spent), shown(result["RSS"][way][steps]))
    return table


def _bytes(result: Mapping[str, Any]) -> Table:
    found = result["bytes on disk per step"]
    table = _table("Bytes on disk per step, growing transcript", "turns", *next(iter(found.values())))
    for turns, row in found.items():
        table.add_row(turns, *(f"{value:g}" for value in row.values()))
    return table


def _imports(result: Mapping[str, Any]) -> Table:
    table = _table("Import, in a fresh interpreter", "", "")
    for name, found in result["import time"].items():
        table.add_row(name, shown(found))
    return table


def _slower(result: Mapping[str, Any]) -> Table | str:
    found = result["slower flush"]
    if "skipped" in found:
        return f"a slower flush: not measured, {found['skipped']}"
    floor = found["floor, steps/s"]
    table = _table(
        f"The same, each flush {found['more per flush, ms']} ms longer (floor: {shown(floor)} steps/s)", "", "× floor"
    )
    for name, against in found["steps/s against the floor"].items():
        table.add_row(name, shown(against))
    return table


def _files(result: Mapping[str, Any]) -> Table:
    rows = result["workspace"]
    table = _table("Workspaces: ms, by what is done", "", *rows)
    for name in dict.fromkeys(name for found in rows.values() for name in found):
        table.add_row(name, *(f"{found[name]['median']:g}" if name in found else "" for found in rows.values()))
    return table


def _bars(result: Mapping[str, Any]) -> Table:
    table = _table("It must reach", "what", "bar", "measured", "met")
    for bar in result["bars"]:
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}[bar["met"]]
        table.add_row(bar["what"], bar["bar"], bar["measured"], met)
    return table
