"""The SQLite file: how it is opened, what must be true of every connection, and its numbered migrations.

Rules
1. Refuse an SQLite below 3.51.3: its write-ahead log can be corrupted by concurrent resets.
2. Every pragma is set and read back on every connection: a setting that did not take is an error, not a hope.
3. A migration is never edited once released; the next one is appended.
4. Refuse file systems that cannot keep SQLite's promises (network, FUSE).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import apsw

from holdfast.errors import Corrupt, HoldfastError, RolledBack, StoreFull, Unwritable

OLDEST_SQLITE = 3_051_003
APPLICATION_ID = 0x48464C31  # "HFL1"
BUSY_MS = 30_000
UNREADABLE = (apsw.Error, UnicodeDecodeError)  # what reading a damaged file may raise: SQLite does not look into texts
# One statement, since another process may be making the store meanwhile.
_LOOK = """SELECT (SELECT user_version FROM pragma_user_version), (SELECT application_id FROM pragma_application_id),
           (SELECT count(*) FROM sqlite_schema)"""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE branch (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
        """CREATE TABLE entry (id INTEGER PRIMARY KEY, branch INTEGER NOT NULL REFERENCES branch,
           seq INTEGER NOT NULL, epoch INTEGER NOT NULL, at_ms INTEGER NOT NULL,
           key BLOB, body BLOB NOT NULL, digest BLOB NOT NULL) STRICT""",
        "CREATE UNIQUE INDEX entry_place ON entry (branch, seq)",
        "CREATE INDEX entry_named ON entry (branch, key, seq) WHERE length(key) < 32",
        """CREATE TABLE recall (branch INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
           PRIMARY KEY (branch, key, seq)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX entry_unclaimed ON entry (branch, seq) WHERE epoch = 0",
        """CREATE TABLE blob (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, form INTEGER NOT NULL,
           data BLOB NOT NULL) STRICT""",
        "CREATE TABLE blob_place (digest BLOB PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        "INSERT INTO meta VALUES ('placed', '0')",
        """CREATE TABLE worker (id TEXT PRIMARY KEY, place TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL,
           host TEXT NOT NULL, beat_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE TABLE claim (branch INTEGER PRIMARY KEY REFERENCES branch, epoch INTEGER NOT NULL, worker TEXT) STRICT",
        "CREATE TABLE head (size INTEGER PRIMARY KEY, note TEXT NOT NULL, frontier BLOB NOT NULL) STRICT",
    ),
    (  # retention: the entries of a branch up to a place were pruned; how often anything was deleted
        """CREATE TABLE pruned (branch INTEGER NOT NULL REFERENCES branch, upto INTEGER NOT NULL, extent TEXT NOT NULL,
           at_ms INTEGER NOT NULL, by TEXT NOT NULL, PRIMARY KEY (branch, upto, extent)) STRICT, WITHOUT ROWID""",
        "INSERT INTO meta VALUES ('deletions', '0')",
    ),
)
_UNPLACED = "SELECT 1 FROM blob WHERE id > (SELECT cast(value AS INTEGER) FROM meta WHERE name = 'placed') LIMIT 1"
_PLACE = (
    "INSERT OR IGNORE INTO blob_place SELECT digest, id FROM blob"
    " WHERE id > (SELECT cast(value AS INTEGER) FROM meta WHERE name = 'placed') ORDER BY digest"
)
_PLACED = "UPDATE meta SET value = (SELECT cast(max(id) AS TEXT) FROM blob) WHERE name = 'placed'"


def connect(path: Path, *, writer: bool) -> apsw.Connection:
    """An open connection with every pragma asserted. Raises Stopped subclasses with what to do."""
    if apsw.sqlitelibversion() and _version() < OLDEST_SQLITE:
        raise Unwritable(
            f"SQLite {apsw.sqlitelibversion()} can corrupt a write-ahead log", fix="install apsw 3.51.3 or newer"
        )
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if writer else 0)
    if writer:
        _make_private(path)
    with contextlib.ExitStack() as undo:
        try:
            connection = apsw.Connection(str(path), flags=flags)
            undo.callback(connection.close)
            connection.set_busy_timeout(BUSY_MS)
            known_version(connection, path)  # before anything is set: some settings are written into the file
            _patiently(lambda: _configure(connection, writer=writer))
        except apsw.Error as error:
            raise translate(error, str(path)) from error
        undo.pop_all()
    return connection


def _make_private(path: Path) -> None:
    """A store that is made here is its owner's: it holds what agents saw. SQLite's other files take their mode from
    it."""
    with contextlib.suppress(OSError):  # it is there already, or SQLite will say what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))


def _version() -> int:
    major, minor, patch = (int(part) for part in apsw.sqlitelibversion().split("."))
    return major * 1_000_000 + minor * 1_000 + patch


def _configure(connection: apsw.Connection, *, writer: bool) -> None:
    wanted: list[tuple[str, str, int | str]] = [
        ("PRAGMA mmap_size = 0", "PRAGMA mmap_size", 0),
        ("PRAGMA trusted_schema = 0", "PRAGMA trusted_schema", 0),
        ("PRAGMA cell_size_check = 1", "PRAGMA cell_size_check", 1),
        ("PRAGMA foreign_keys = 1", "PRAGMA foreign_keys", 1),
        ("PRAGMA synchronous = EXTRA", "PRAGMA synchronous", 3),
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous = FULL", "PRAGMA synchronous", 2),
        ("PRAGMA wal_autocheckpoint = 0", "PRAGMA wal_autocheckpoint", 0),
    ]
    if sys.platform == "darwin":
        wanted += [
            ("PRAGMA fullfsync = 1", "PRAGMA fullfsync", 1),
            ("PRAGMA checkpoint_fullfsync = 1", "PRAGMA checkpoint_fullfsync", 1),
        ]
    if not writer:
        wanted.append(("PRAGMA query_only = 1", "PRAGMA query_only", 1))
    for assign, ask, value in wanted:
        connection.execute(assign).fetchall()
        found = connection.execute(ask).fetchall()
        if ask.endswith("mmap_size") and not found:
            continue  # compiled without memory mapping: nothing to switch off
        if not found or found[0][0] != value:
            raise Unwritable(
                f"`{assign}` did not take: it is {found}", fix="use a local disk and the bundled SQLite of apsw"
            )
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0 if writer else 1)


def _patiently(work: Callable[[], None]) -> None:
    """Do it again while another process is at the same: where the journal changes its mode, SQLite does not wait."""
    until_s = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            return work()
        except apsw.BusyError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(0.01)


def migrate(connection: apsw.Connection, path: Path, *, new: bool = True) -> str:
    """Bring the schema up to date; the log id (32 hex digits). Raises Corrupt if the file is not ours or from a newer
    Holdfast, RolledBack if there is nothing in it and it is not `new`."""
    try:
        connection.execute("BEGIN IMMEDIATE").fetchall()
        found = known_version(connection, path)
        if not (found or new):
            raise RolledBack(
                "the log is gone: its key is here, and the store is empty",
                where=str(path),
                fix="put the database and its `-wal` file back; for a new log, move the key away first",
            )
        for number in range(found, len(MIGRATIONS)):
            _apply(connection, number)
        place_blobs(connection)
        rows = connection.execute("SELECT value FROM meta WHERE name = 'log'").fetchall()
        connection.execute("COMMIT").fetchall()
    except UNREADABLE as error:
        raise translate(error, str(path)) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK").fetchall()
    return str(rows[0][0])


def place_blobs(connection: apsw.Connection) -> None:
    """Bring the index of digests up to date, inside a transaction. It is done for many at a time: digests are
    scattered, and with each payload a page of the index would have to be written."""
    if connection.execute(_UNPLACED).fetchall():
        connection.execute(_PLACE)
        connection.execute(_PLACED)


def known_version(connection: apsw.Connection, path: Path) -> int:
    """How many migrations the file has seen. Raises Corrupt if it is not ours or from a newer Holdfast."""
    (row,) = connection.execute(_LOOK).fetchall()
    found, mark, others = cast("tuple[int, int, int]", row)
    if mark != APPLICATION_ID and (found or others):
        raise Corrupt("this database is not a Holdfast store", where=str(path), fix="name another file")
    if found > len(MIGRATIONS):
        raise Corrupt(
            f"the store has schema {found}; this Holdfast knows up to {len(MIGRATIONS)}",
            where=str(path),
            fix="use the Holdfast that wrote it, or a newer one",
        )
    return found


def _apply(connection: apsw.Connection, number: int) -> None:
    for statement in MIGRATIONS[number]:
        connection.execute(statement).fetchall()
    if number == 0:
        connection.execute("INSERT INTO meta VALUES ('log', ?)", (secrets.token_hex(16),)).fetchall()
        connection.execute("PRAGMA application_id = 0x48464C31").fetchall()
    connection.pragma("user_version", number + 1)


def refuse_unfit(path: Path) -> None:
    """Raise Unwritable where a store must not live: a missing or read-only directory, a network file system."""
    folder = path.parent
    if not folder.is_dir():
        raise Unwritable("the store's directory does not exist", where=str(folder), fix=f"mkdir -p {folder}")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise Unwritable("the store is not a regular file", where=str(path), fix="name another file")
    kind = _network_of(folder)
    if kind:
        raise Unwritable(
            f"the store would live on {kind}, where SQLite's locks and flushes do not hold",
            where=str(folder),
            fix="use a local disk, or PostgreSQL",
        )


def _network_of(folder: Path) -> str | None:
    """The network file system that `folder` is on; None if it is local or cannot be told."""
    names = {"nfs": "NFS", "nfs4": "NFS", "cifs": "SMB", "smb3": "SMB", "9p": "9p", "ceph": "Ceph"}
    kind = file_system_of(folder) or ""
    return "FUSE" if kind.startswith("fuse") else names.get(kind)


def file_system_of(folder: Path) -> str | None:
    """The kind of file system that `folder` is on, as /proc says (Linux); None if it cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    here, best, kind = os.path.realpath(folder), "", None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split()[4])
        if (here == point or here.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _unescaped(text: str) -> str:
    """A path as Linux lists it, where blanks and backslashes stand as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def translate(error: apsw.Error | UnicodeDecodeError, where: str) -> HoldfastError:
    """Our error for SQLite's: what the caller can do next decides the class."""
    match error:
        case apsw.FullError():
            return StoreFull("the disk is full", where=where, fix="make room; what was acknowledged is safe")
        case apsw.CorruptError() | apsw.NotADBError() | UnicodeDecodeError():
            return Corrupt(
                f"SQLite cannot read the store: {error}", where=where, fix="run `holdfast verify`; restore a backup"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
            return Unwritable(
                f"the store cannot be written: {error}",
                where=where,
                fix="check owner, permissions and the mount (`holdfast doctor`)",
            )
        case apsw.BusyError():
            return Unwritable(
                "another process has kept the store locked for 30 s",
                where=where,
                fix="end the process that holds it (`holdfast list` names the workers)",
            )
        case _:
            return Unwritable(f"the storage failed: {error}", where=where, fix="check the disk (`holdfast doctor`)")
