"""A stage for the command line: each test in a directory of its own, in which nothing else is said."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the command stands in."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOLDFAST_STORE", "HOLDFAST_AGENTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
