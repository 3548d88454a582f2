"""One measurement in a process of its own: `python -m bench.child NAME JSON` prints its result as one line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.text import Texts


def run(name: str, given: dict[str, Any]) -> object:
    """Carry out the measurement `name`."""
    folder, texts = Path(given["folder"]), Texts(Path(given["texts"]))
    match name:
        case "floor":
            from bench import floor

            return floor.measure(folder, texts, given["seconds"], given["warming"])
        case "steps":
            from bench import steps

            return steps.measure(folder, texts, given["kind"], given["runs"], given["seconds"], given["warming"])
        case "take":
            from bench import steps

            return steps.take(folder, texts, given["kind"], given["runs"], given["steps"])
        case "pace":
            from bench import steps

            return steps.pace(folder, texts, given["kind"], given["seconds"])
        case "grow":
            from bench import resume

            return resume.grow(folder, texts, given["way"], given["steps"])
        case "come_back":
            from bench import resume

            return resume.come_back(folder, texts, given["way"], given["steps"])
        case "talk":
            from bench import storage

            return storage.grow(folder, texts, given["steps"])
        case "close":
            from bench import closing

            return closing.close(folder, given["steps"])
        case "files":
            from bench import workspace

            return workspace.compare(folder, given["files"], given["changed"], given["rounds"])
    raise ValueError(f"no measurement is called `{name}`")


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], json.loads(sys.argv[2]))))
