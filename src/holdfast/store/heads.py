"""Signed heads of a SQLite store, and their anchor outside it.

Rules
1. A head covers entries in the order in which they were committed, and is signed in the transaction that flushes them:
   it leaves this process only after that transaction has succeeded.
2. The anchor is appended to, never rewritten in place. What was cut off while it was written does not count.
3. At start the log must be at least as long as its anchor, and have the anchor's root at that length. Otherwise it is
   read-only until somebody acknowledges.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from holdfast.core.note import Frontier, Head, VerifierKey, leaf, newest_note, open_head, sign_head
from holdfast.errors import Corrupt, RolledBack, Unwritable

MOST_UNSIGNED = 1000  # entries
EVERY_S = 1.0
ANCHOR_TAIL = 1 << 16  # bytes that are read from the end of an anchor
_LEAVES = (
    "SELECT b.name, e.digest FROM entry e JOIN branch b ON b.id = e.branch WHERE e.id > ? AND e.id <= ? ORDER BY e.id"
)


@dataclass(frozen=True, slots=True)
class LogKey:
    """The Ed25519 key of one log. `seed` (32 bytes) never leaves the process that signs."""

    seed: bytes
    verifier: VerifierKey

    def sign(self, message: bytes) -> bytes:
        """The signature (64 bytes) of a message."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)

    def check(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made that signature."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.verifier.public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def secret(self) -> bytes:
        """What keys the commitments to secret arguments (32 bytes)."""
        return hmac.digest(self.seed, b"holdfast/commitments/1", "sha256")


def origin_of(log_id: str) -> str:
    """The name under which a log signs."""
    return f"holdfast.local/{log_id}"


def default_anchor(log_id: str) -> Path:
    """Where the anchor is kept if nobody says otherwise: the user's state directory, away from the database."""
    home = os.environ.get("HOLDFAST_HOME") or os.path.join(
        os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "holdfast"
    )
    return Path(home) / "anchors" / log_id


def load_key(path: Path, log_id: str, *, new: bool) -> LogKey:
    """The key in a file (32 bytes in hex), made there if `new` and there is none. Raises Unwritable, Corrupt."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if new and not path.exists():
        _make_key(path)
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        raise Unwritable(
            "the log key is missing", where=str(path), fix="put it back from your backup, or name it: ?key=FILE"
        ) from None
    except (OSError, ValueError) as error:
        raise Unwritable(
            f"the log key cannot be read: {type(error).__name__}", where=str(path), fix="mend or restore the file"
        ) from None
    if len(seed) != 32:
        raise Corrupt("the log key is not 32 bytes in hex", where=str(path), fix="restore it from your backup")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return LogKey(seed, VerifierKey(name=origin_of(log_id), public_key=public))


def _make_key(path: Path) -> None:
    """Whole or not at all, and never over another one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(32).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        os.unlink(fresh)
        _keep_names(path.parent)
    except OSError as error:
        raise Unwritable(
            f"the log key cannot be made: {error.strerror}", where=str(path), fix="name a writable file: ?key=FILE"
        ) from None


def _keep_names(folder: Path) -> None:
    """What was made in a directory survives a power cut only when the directory itself is flushed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_anchor(path: Path) -> str | None:
    """The newest complete note of an anchor file; None if there is no file, or nothing in it. Raises Unwritable."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - ANCHOR_TAIL))
            tail = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unwritable(
            f"the anchor cannot be read: {error.strerror}", where=str(path), fix="check the volume it is on"
        ) from None
    cut = tail.find(b"\n\n\n")  # the tail may begin inside a note, even inside a letter
    text = tail.decode("utf-8", "replace") if size <= ANCHOR_TAIL else tail[cut + 3 :].decode("utf-8", "replace")
    return newest_note(text)


class Heads:
    """Signs, publishes and compares the heads of one store."""

    def __init__(self, key: LogKey, anchor: Path | None) -> None:
        self.key = key
        self.anchor = anchor
        self.newest: str | None = None
        self._published: str | None = None
        self._frontier: Frontier | None = None
        self._signed_at = 0.0
        self._pending: str | None = None

    # --- signing, inside the transaction ---

    def sign(self, connection: apsw.Connection, *, new_entries: int, now: bool) -> bool:
        """Sign a head over everything in this transaction, if one is due or wanted `now`; whether it was."""
        if not now and new_entries < MOST_UNSIGNED and time.monotonic() - self._signed_at < EVERY_S:
            return False
        size = cast(int, connection.execute("SELECT ifnull(max(id), 0) FROM entry").fetchall()[0][0])
        frontier = newest_frontier(connection, size)
        if size == frontier.size:
            return True
        frontier = extended(connection, frontier, size)
        note = sign_head(
            Head(origin=self.key.verifier.name, size=size, root=frontier.root()), self.key.verifier, self.key.sign
        )
        connection.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?)", (size, note, frontier.encode())).fetchall()
        self._signed_at = time.monotonic()
        self._pending = note
        return True

    def flushed(self) -> None:
        """The transaction succeeded: its head may leave."""
        if self._pending is not None:
            self.newest, self._pending = self._pending, None

    def publish(self) -> None:
        """Append the newest head to the anchor. Raises Unwritable if that cannot be done."""
        if self.anchor is None or self.newest is None or self.newest == self._published:
            return
        try:
            self.anchor.parent.mkdir(parents=True, exist_ok=True)
            with self.anchor.open("ab") as file:
                begun = file.tell() == 0
                file.write(self.newest.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if begun:
                _keep_names(self.anchor.parent)
        except OSError as error:
            raise Unwritable(
                f"the anchor cannot be written: {error.strerror}",
                where=str(self.anchor),
                fix="check the volume it is on, or name another: ?anchor=FILE",
            ) from None
        self._published = self.newest

    # --- comparing, at start ---

    def compare(self, connection: apsw.Connection) -> RolledBack | None:
        """Why this log is not the one that its anchor knows, or None."""
        note = None if self.anchor is None else read_anchor(self.anchor)
        if note is None:
            return None
        where = str(self.anchor)
        fix = "restore the newer log; or, if this one is right, holdfast anchor --accept"
        try:
            head = open_head(note, self.key.verifier, self.key.check)
        except Corrupt as error:
            return RolledBack(f"the anchor is not this log's: {error.what}", where=where, fix=fix)
        size = cast(int, connection.execute("SELECT ifnull(max(id), 0) FROM entry").fetchall()[0][0])
        if size < head.size:
            return RolledBack(f"the log has {size} entries, its anchor knows of {head.size}", where=where, fix=fix)
        frontier = extended(connection, newest_frontier(connection, head.size - 1), head.size)
        if frontier.size != head.size or not hmac.compare_digest(frontier.root(), head.root):
            return RolledBack(
                f"the first {head.size} entries are not those that the anchor knows", where=where, fix=fix
            )
        self._published = note
        return None

    def accept(self, connection: apsw.Connection, by: str) -> Path | None:
        """Acknowledge the log as it is: written down first; then the old anchor is put aside (where: the answer), and a
        new one begins with the newest head that holds. Raises Unwritable."""
        assert self.anchor is not None, "who has no anchor has nothing to acknowledge"
        note = read_anchor(self.anchor)
        now_ms = time.time_ns() // 1_000_000
        what = f"{by}; anchor {hashlib.sha256((note or '').encode()).hexdigest()}"
        connection.execute("INSERT INTO meta VALUES (?, ?)", (f"accepted/{now_ms}", what)).fetchall()
        newest = connection.execute("SELECT note FROM head ORDER BY size DESC LIMIT 1").fetchall()
        aside = self.anchor.with_name(f"{self.anchor.name}.{now_ms}") if self.anchor.exists() else None
        try:
            if aside is not None:
                self.anchor.rename(aside)
            _write(self.anchor, f"{newest[0][0]}\n" if newest else "")
            if self.compare(connection) is not None:
                _write(self.anchor, "")
        except OSError as error:
            raise Unwritable(
                f"the anchor cannot be written: {error.strerror}", where=str(self.anchor), fix="check its volume"
            ) from None
        return aside


def _write(anchor: Path, text: str) -> None:
    anchor.parent.mkdir(parents=True, exist_ok=True)
    with anchor.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def newest_frontier(connection: apsw.Connection, most: int) -> Frontier:
    """The frontier of the newest head that covers at most `most` entries."""
    rows = connection.execute(
        "SELECT frontier FROM head WHERE size <= ? ORDER BY size DESC LIMIT 1", (most,)
    ).fetchall()
    return Frontier.decode(cast(bytes, rows[0][0])) if rows else Frontier()


def extended(connection: apsw.Connection, frontier: Frontier, size: int) -> Frontier:
    """`frontier` with the entries after it, up to `size`."""
    rows = connection.execute(_LEAVES, (frontier.size, size))
    return frontier.extend(leaf(cast(str, name), cast(bytes, digest)) for name, digest in rows)
