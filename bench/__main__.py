"""`python -m bench`: measure, print a table, write `build/bench.json`."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from bench.rounds import FULL, QUICK, ROOT, Bench
from bench.table import show


def main() -> None:
    """Measure in a folder of its own, which is removed afterwards."""
    options = _options()
    options.dir.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=options.dir))
    told = Console(stderr=True)
    try:
        with told.status("measuring") as status:

            def say(what: str) -> None:
                status.update(what)
                if not told.is_terminal:
                    told.print(what)

            result = Bench(folder, QUICK if options.quick else FULL, say).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(result, Console())
    told.print(f"written to {options.out}" + ("; --quick: its times mean nothing" if options.quick else ""))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: what is counted holds, what is timed means nothing"
    )
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="a folder on the disk to be measured (build/)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json", help="where the figures are written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
