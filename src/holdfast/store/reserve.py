"""Space that is kept for a full disk: only the seals of calls in flight may use it.

Rules
1. While the space is missing, no new effect starts.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import StoreFull

RESERVE_BYTES = 1 << 20


class Reserve:
    """A file beside the store at `path`, as large as what a few seals may need."""

    def __init__(self, path: Path) -> None:
        self._store = path
        self._file = path.with_name(path.name + "-reserve")
        self._kept = False
        self._keep()

    def _keep(self) -> None:
        self._kept = True
        if self._file.exists() and self._file.stat().st_size == RESERVE_BYTES:
            return
        try:
            with self._file.open("wb") as file:
                file.write(b"\xff" * RESERVE_BYTES)
                file.flush()
        except OSError:
            self._file.unlink(missing_ok=True)
            self._kept = False

    def spend(self) -> bool:
        """Give the space back to the disk; whether there was any."""
        kept, self._kept = self._kept, False
        self._file.unlink(missing_ok=True)
        return kept

    def require(self) -> None:
        """Raise StoreFull if there is no space left to seal what is in flight."""
        if not self._kept:
            self._keep()
        if not self._kept:
            raise StoreFull("the disk is full", where=str(self._store), fix="make room; what was acknowledged is safe")
