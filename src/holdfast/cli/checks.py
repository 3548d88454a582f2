"""What must be true of a machine and its disk before a log on it can be trusted. Each check says what it found.

Rules
1. A check measures or reads; it never assumes. What cannot be found out here is said to be so.
2. `fail`: Holdfast's promises do not hold here. `warn`: they hold, but something is near or weak. Both have a `fix`.
3. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.cli.view import many, size_text, when
from holdfast.errors import HoldfastError
from holdfast.store.heads import Heads, default_anchor, load_key
from holdfast.store.reader import Reader
from holdfast.store.schema import OLDEST_SQLITE, connect, file_system_of, refuse_unfit
from holdfast.store.url import SqliteFiles

OLDEST_PYTHON = (3, 11)
FLUSHES = 24
TOO_FAST_US, SLOW_US = 40.0, 50_000.0  # a flush that no device can answer so fast; one that makes every effect slow
LEAST_FREE, LITTLE_FREE = 32 << 20, 512 << 20  # bytes: write-ahead log and reserve; some days of work
SKEW_S = 5.0
PLAUSIBLE_S = 1_735_689_600.0  # 2025-01-01: before this software was written
VOLATILE = {"tmpfs", "ramfs"}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `state` is ok, warn or fail; `fix` says what to do unless it is ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    what: str
    fix: str = ""


def checks(files: SqliteFiles) -> Iterator[Check]:
    """All findings about the store (or the place for one) in `files`."""
    yield python_check()
    yield _sqlite()
    folder = files.path.parent
    if not folder.is_dir():
        yield Check("directory", "fail", f"{folder} does not exist", f"mkdir -p {folder}")
        return
    for check in (_place, _file_system, _flushes, _space):
        yield check(files)
    exists = files.path.exists()
    if exists:
        for check in (_pragmas, _readable, _permissions, _key, _anchor):
            yield check(files)
    else:
        yield Check("store", "ok", f"none yet at {files.path}; `holdfast run` makes one")
    yield from _clock(files if exists else None)


def python_check() -> Check:
    """Whether this Python is new enough."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "fail", version, "use Python 3.11 or newer")
    return Check("python", "ok", version)


def _sqlite() -> Check:
    import apsw

    version = apsw.sqlitelibversion()
    major, minor, patch = (int(part) for part in version.split("."))
    if major * 1_000_000 + minor * 1_000 + patch < OLDEST_SQLITE:
        return Check("sqlite", "fail", f"{version} can corrupt a write-ahead log", "pip install -U apsw")
    return Check("sqlite", "ok", f"{version}, of apsw {apsw.apsw_version()}")


def _place(files: SqliteFiles) -> Check:
    folder = files.path.parent
    try:
        refuse_unfit(files.path)
    except HoldfastError as error:
        return Check("place", "fail", error.what, error.fix)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            "place", "fail", f"{folder} cannot be written by this user", "give it to this user, or name another"
        )
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Check("place", "warn", f"anybody may replace files in {folder}", f"chmod o-w {folder}")
    return Check("place", "ok", str(folder.absolute()))


def _file_system(files: SqliteFiles) -> Check:
    kind = file_system_of(files.path.parent)
    if kind is None:
        return Check("file system", "ok", "this system does not tell its kind")
    if kind in VOLATILE:
        return Check("file system", "fail", f"{kind} is memory: it is gone with the power", "put the store on a disk")
    if kind == "overlay":
        return Check(
            "file system", "warn", "overlay: in a container, it is gone with the container", "mount a volume for it"
        )
    return Check("file system", "ok", kind)


def _flushes(files: SqliteFiles) -> Check:
    """How long the disk takes to say that it has kept 4 KB."""
    flush = getattr(os, "fdatasync", os.fsync)
    took_us: list[float] = []
    try:
        with tempfile.NamedTemporaryFile(dir=files.path.parent, prefix=".holdfast-doctor-") as file:
            file.write(bytes(4096 * FLUSHES))
            file.flush()
            os.fsync(file.fileno())
            for number in range(FLUSHES):
                os.pwrite(file.fileno(), os.urandom(4096), 4096 * number)
                began = time.perf_counter()
                flush(file.fileno())
                took_us.append((time.perf_counter() - began) * 1e6)
    except OSError as error:
        return Check("flush", "fail", f"a file cannot be written and flushed: {error.strerror}", "check the disk")
    return _judged(statistics.median(took_us))


def _judged(median_us: float) -> Check:
    said = f"{median_us:,.0f} µs for 4 KB (median of {FLUSHES})"
    if median_us < TOO_FAST_US:
        return Check(
            "flush",
            "warn",
            f"{said}: faster than a device can be; a cache answers for it",
            "use a disk that keeps its cache through a power cut, or expect to lose sealed effects by one",
        )
    if median_us > SLOW_US:
        return Check("flush", "warn", f"{said}: each effect waits for one or two of these", "use a faster disk")
    return Check("flush", "ok", f"{said}: plausible for a device")


def _space(files: SqliteFiles) -> Check:
    free = shutil.disk_usage(files.path.parent).free
    said = f"{size_text(free)} free"
    if free < LEAST_FREE:
        return Check("space", "fail", f"{said}: too little for the write-ahead log and the reserve", "make room")
    return Check("space", "warn", said, "make room") if free < LITTLE_FREE else Check("space", "ok", said)


def _pragmas(files: SqliteFiles) -> Check:
    """Opened as the store is opened, which reads every setting back."""
    try:
        connection = connect(files.path, writer=False)
    except HoldfastError as error:
        return Check("settings", "fail", error.what, error.fix)
    connection.close()
    return Check("settings", "ok", "write-ahead log, full synchronisation, and all others, read back")


def _readable(files: SqliteFiles) -> Check:
    try:
        with Reader(files.path) as reader:
            return Check("store", "ok", f"{files.path}: {many(reader.size(), 'entry')}, log {reader.log_id}")
    except HoldfastError as error:
        return Check("store", "fail", error.what, error.fix)


def _permissions(files: SqliteFiles) -> Check:
    for path in (files.path, files.path.with_name(files.path.name + "-wal")):
        if not path.exists():
            continue
        found = path.stat()
        if not os.access(path, os.R_OK | os.W_OK):
            return Check("permissions", "fail", f"{path} cannot be written by this user", f"chown or chmod {path}")
        if found.st_mode & stat.S_IWOTH:
            return Check("permissions", "fail", f"anybody may write {path}", f"chmod o-w {path}")
        if found.st_mode & stat.S_IROTH:
            return Check("permissions", "warn", f"anybody on this machine may read {path}: it holds what agents saw",
                         f"chmod o-r {path}")  # fmt: skip
    return Check("permissions", "ok", "the store is its owner's")


def _key(files: SqliteFiles) -> Check:
    return log_key_check(files.key)


def log_key_check(key: Path) -> Check:
    """Whether the log key is there, and its owner's alone."""
    try:
        mode = key.stat().st_mode
    except FileNotFoundError:
        return Check("log key", "fail", f"{key} is missing", "put it back from your backup, or name it: ?key=FILE")
    except OSError as error:
        return Check("log key", "fail", f"{key}: {error.strerror}", "check its owner and permissions")
    if mode & 0o077:
        return Check("log key", "fail", f"others may use {key} to sign a log", f"chmod 600 {key}")
    return Check("log key", "ok", f"{key}, for its owner only")


def _anchor(files: SqliteFiles) -> Check:
    try:
        with Reader(files.path) as reader:
            anchor = default_anchor(reader.log_id) if files.anchor == "default" else files.anchor
            key = load_key(files.key, reader.log_id, new=False) if files.key.exists() else None
            wrong = reader.against(Heads(key, anchor)) if key is not None else None
    except HoldfastError as error:
        return Check("anchor", "fail", error.what, error.fix)
    if anchor is None:
        return Check(
            "anchor", "warn", "none: nobody sees a log that was cut or replaced", "?anchor=FILE on another volume"
        )
    if wrong is not None:
        return Check("anchor", "fail", wrong.what, "restore the newer log; `holdfast anchor` tells more")
    if not anchor.exists():
        return Check("anchor", "ok", f"none yet at {anchor}")
    if anchor.stat().st_dev == files.path.stat().st_dev:
        return Check("anchor", "warn", f"{anchor} is on the same volume as the store, and is lost or restored with it",
                     "?anchor=FILE on another volume, or copy it away")  # fmt: skip
    return Check("anchor", "ok", f"{anchor}, on another volume")


def _clock(files: SqliteFiles | None) -> Iterator[Check]:
    now_s = time.time()
    if now_s < PLAUSIBLE_S:
        yield Check("clock", "fail", f"it says {when(int(now_s * 1000))}", "set the clock, and keep it by NTP")
        return
    newest_ms = None
    if files is not None:
        with contextlib.suppress(HoldfastError), Reader(files.path) as reader:
            newest_ms = reader.newest_ms()
    if newest_ms is not None and newest_ms / 1000 > now_s + SKEW_S:
        yield Check("clock", "warn", f"the newest entry is of {when(newest_ms)}, which has not come yet",
                    "keep the clock by NTP: approvals, key lifetimes and sleeps are counted by it")  # fmt: skip
        return
    yield Check("clock", "ok", when(int(now_s * 1000)))
