"""What reaches the disk, and what the system says when it does not."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import cast

from holdfast.errors import StoreFull, Unwritable

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_FULL_FSYNC = cast("int | None", getattr(fcntl, "F_FULLFSYNC", None))  # macOS: fsync alone does not reach the disk


def barrier(fd: int) -> None:
    """Return when what was written is on the disk, not only in its cache."""
    if _FULL_FSYNC is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _FULL_FSYNC)
            return
    os.fsync(fd)


def barrier_folder(path: Path) -> None:
    """Return when the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        barrier(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def storing(path: Path) -> Generator[None]:
    """Tell the system's errors in our words."""
    try:
        yield
    except OSError as error:
        what = f"the workspace's store cannot be written: {error.strerror or error}"
        if error.errno in _FULL_DISK:
            raise StoreFull(what, where=str(path), fix="make room on that disk") from error
        raise Unwritable(what, where=str(path), fix="make it writable") from error
