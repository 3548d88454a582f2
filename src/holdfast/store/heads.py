"""Signed heads of a log, and their anchor outside its store.

Rules
1. A head covers entries in the order in which they were committed, or numbered after it, and is kept in a transaction
   that flushes them: it leaves this process only after that transaction has succeeded.
2. The anchor is appended to, never rewritten in place. What was cut off while it was written does not count.
3. At start the log must be at least as long as its anchor, and have the anchor's root at that length. Otherwise it is
   read-only until somebody acknowledges.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.core.note import Frontier, Head, VerifierKey, newest_note, open_head, sign_head
from holdfast.errors import Corrupt, RolledBack, Unwritable

MOST_UNSIGNED = 1000  # entries
EVERY_S = 1.0
ANCHOR_TAIL = 1 << 16  # bytes that are read from the end of an anchor
_FIX = "restore the newer log; or, if this one is right, holdfast anchor --accept"


class Leaves(Protocol):
    """What heads are made from: the entries of a log that have an index, and what was signed of them before."""

    def size(self) -> int:
        """The number of entries that have an index."""
        ...

    def index(self, branch: str, seq: int) -> int | None:
        """The index of an entry, or None."""
        ...

    def frontier(self, most: int) -> Frontier:
        """The edge that is kept with the newest head that covers at most `most` entries; of an empty tree if none."""
        ...

    def hashes(self, after: int, upto: int) -> Iterable[bytes]:
        """The leaves of the entries from index `after` on, below index `upto`: fewer where some are missing."""
        ...

    def note(self, covers: int | None = None) -> str | None:
        """The newest head, or the first one over more than `covers` entries; None if there is none."""
        ...

    def acknowledge(self, name: str, what: str) -> None:
        """Write down in the store that somebody accepted it as it is."""
        ...


@dataclass(frozen=True, slots=True)
class Signed:
    """A head that was signed over the first entries, and the edge of the tree there."""

    note: str
    frontier: Frontier


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


def default_key(log_id: str) -> Path:
    """Where the key of a log on PostgreSQL is if nobody says otherwise: the user's state directory."""
    return default_anchor(log_id).parent.parent / "keys" / log_id


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
        self._signed_at = 0.0
        self._pending: str | None = None

    # --- signing ---

    def is_due(self, *, new_entries: int) -> bool:
        """Whether a head must be signed if anything is new."""
        return new_entries >= MOST_UNSIGNED or time.monotonic() - self._signed_at >= EVERY_S

    def sign(self, leaves: Leaves) -> Signed | None:
        """Sign a head over all entries; None if the newest one covers them. To be kept, and then `flushed`."""
        size = leaves.size()
        frontier = leaves.frontier(size)
        if size == frontier.size:
            return None
        return self.signed(size, frontier.extend(leaves.hashes(frontier.size, size)))

    def signed(self, size: int, frontier: Frontier) -> Signed:
        """A head over the first `size` entries, of which `frontier` is the edge."""
        head = Head(origin=self.key.verifier.name, size=size, root=frontier.root())
        note = sign_head(head, self.key.verifier, self.key.sign)
        self._signed_at = time.monotonic()
        self._pending = note
        return Signed(note, frontier)

    def flushed(self) -> None:
        """The transaction succeeded: its head may leave."""
        if self._pending is not None:
            self.newest, self._pending = self._pending, None

    def publish(self, *, shared: bool = False) -> None:
        """Append the newest head to the anchor. `shared`: others may have done so, or have put a newer one there.
        Raises Unwritable if that cannot be done."""
        if self.anchor is None or self.newest is None or self.newest == self._published:
            return
        try:
            self.anchor.parent.mkdir(parents=True, exist_ok=True)
            with self.anchor.open("ab") as file:
                if shared:
                    with contextlib.suppress(OSError):  # where a file cannot be locked, a head may stand there twice
                        fcntl.flock(file, fcntl.LOCK_EX)
                begun = file.tell() == 0
                if not shared or self._size(read_anchor(self.anchor)) < self._size(self.newest):
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

    def seen(self, note: str) -> RolledBack | None:
        """Take up the newest head of others, to publish it; or why it cannot be that of this log."""
        try:
            size, known = self._size(note), self._size(self._published)
        except Corrupt as error:
            return RolledBack(f"a head is not this log's: {error.what}", where=self.key.verifier.name, fix=_FIX)
        if size < known:
            what = f"the newest head covers {size} entries, and one was seen that covers {known}"
            return RolledBack(what, where=self.key.verifier.name, fix=_FIX)
        self.newest = note
        return None

    def _size(self, note: str | None) -> int:
        return 0 if note is None else open_head(note, self.key.verifier, self.key.check).size

    # --- comparing, at start ---

    def compare(self, leaves: Leaves) -> RolledBack | None:
        """Why this log is not the one that its anchor knows, or None."""
        note = None if self.anchor is None else read_anchor(self.anchor)
        if note is None:
            return None
        where = str(self.anchor)
        try:
            head = open_head(note, self.key.verifier, self.key.check)
        except Corrupt as error:
            return RolledBack(f"the anchor is not this log's: {error.what}", where=where, fix=_FIX)
        size = leaves.size()
        if size < head.size:
            return RolledBack(f"the log has {size} entries, its anchor knows of {head.size}", where=where, fix=_FIX)
        frontier = leaves.frontier(max(head.size - 1, 0))
        frontier = frontier.extend(leaves.hashes(frontier.size, head.size))
        if frontier.size != head.size or not hmac.compare_digest(frontier.root(), head.root):
            return RolledBack(
                f"the first {head.size} entries are not those that the anchor knows", where=where, fix=_FIX
            )
        self._published = note
        return None

    def accept(self, leaves: Leaves, by: str) -> Path | None:
        """Acknowledge the log as it is: written down first; then the old anchor is put aside (where: the answer), and a
        new one begins with the newest head that holds. Raises Unwritable."""
        note = None if self.anchor is None else read_anchor(self.anchor)
        now_ms = time.time_ns() // 1_000_000
        leaves.acknowledge(f"accepted/{now_ms}", f"{by}; anchor {hashlib.sha256((note or '').encode()).hexdigest()}")
        if self.anchor is None:
            return None
        newest = leaves.note()
        aside = self.anchor.with_name(f"{self.anchor.name}.{now_ms}") if self.anchor.exists() else None
        try:
            if aside is not None:
                self.anchor.rename(aside)
            _write(self.anchor, f"{newest}\n" if newest else "")
            if self.compare(leaves) is not None:
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
