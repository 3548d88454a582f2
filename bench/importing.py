"""What `import holdfast` costs, beside what Python needs for asyncio and sqlite3: each in a fresh interpreter, in
turns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NEEDED = (  # what a first run imports on its way: all of it, so that a resume can be timed after import
    "concurrent.futures.thread",
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "holdfast.embedded",
    "holdfast.store.sqlite",
    "pydantic_core",
)
IMPORTS = {
    "holdfast": "import holdfast",
    "asyncio, sqlite3": "import asyncio, sqlite3",
    "all that a run needs": f"from holdfast import agent, open_store, tool; import {', '.join(NEEDED)}",
}
_TIMED = "import time; began = time.perf_counter(); {}; print((time.perf_counter() - began) * 1000)"


def measure(root: Path) -> dict[str, float]:
    """Milliseconds for each of IMPORTS, after the interpreter has started."""
    return {name: _one(root, statement) for name, statement in IMPORTS.items()}


def _one(root: Path, statement: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(statement)]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    return float(ran.stdout)
