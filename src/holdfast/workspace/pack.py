"""Blobs by their BLAKE3 digest, in files that only grow.

    packs/NAME.pack   frame*      frame := "HFB1" stored:u32 raw:u32 digest[32] zstd[stored]
    packs/NAME.index  record*     record := digest[32] offset:u64 size:u32         what is durable in the pack, in short
    lock                          held together by who writes, alone by who collects
    generation                    changes before anything is removed

Rules
1. A blob counts when `flush` has returned: its frame is written, then the pack is flushed to disk, and only then is it
   named in the index. A crash leaves frames that nobody refers to.
2. A pack has one writer at a time (a lock on the file). Nothing in it is ever written over or cut off; after bytes that
   are not a frame nothing more is appended to it.
3. The index is a cache: what it lacks is found again in the packs. No blob is believed: what is read has its digest, or
   it is Corrupt and the place is named.
4. Everything is removed by `collect`, and by nothing else. Who writes holds the lock from the first look until what it
   wrote is referred to by somebody: `with packs.writing(): capture; record it`.
5. One object serves one thread at a time; any number of processes may have one each.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import zstandard
from blake3 import blake3

from holdfast.errors import Busy, Corrupt
from holdfast.workspace.disk import barrier, barrier_folder, storing

FRAME = struct.Struct(">4sII32s")
RECORD = struct.Struct(">32sQI")
_MAGIC = b"HFB1"
_FULL_BYTES = 64 << 20  # a pack of this size is not appended to
_BUFFER_BYTES = 4 << 20
_LARGEST_BYTES = 1 << 30
_FILES = 64


def digest_of(data: bytes) -> bytes:
    """The address of a blob."""
    return blake3(data).digest()


def frames(path: Path, at: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Digest, offset and size of each whole frame from `at` on; ends before the first bytes that are none."""
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        while True:
            head = os.pread(file.fileno(), FRAME.size, at)
            if len(head) < FRAME.size:
                return
            magic, stored, _, digest = FRAME.unpack(head)
            size = FRAME.size + stored
            if magic != _MAGIC or at + size > end:
                return
            yield digest, at, size
            at += size


def content(frame: bytes, digest: bytes, unpack: zstandard.ZstdDecompressor) -> bytes | None:
    """The blob of this digest that a whole frame has; None if it is not sound."""
    with contextlib.suppress(struct.error, zstandard.ZstdError):
        magic, stored, raw, named = FRAME.unpack_from(frame)
        sound = magic == _MAGIC and named == digest and stored + FRAME.size == len(frame)
        body = frame[FRAME.size :]
        if sound and raw <= _LARGEST_BYTES and zstandard.frame_content_size(body) == raw:
            data = unpack.decompress(body)
            return data if digest_of(data) == digest else None
    return None


class _Pen:
    """The pack that this object appends to while it is writing."""

    def __init__(self, path: Path, fd: int, end: int, *, new: bool) -> None:
        self.path = path
        self.fd = fd
        self.end = end
        self.new = new


class Packs:
    """The blobs in the directory `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "packs"
        with storing(root):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._depth = 0
        self._avoid: frozenset[str] = frozenset()
        self._pen: _Pen | None = None
        self._buffer = bytearray()
        self._fresh: dict[bytes, tuple[str, int, int]] = {}
        self._index: dict[bytes, tuple[str, int, int]] = {}
        self._indexed: dict[str, int] = {}  # how many bytes of each pack's index have been read
        self._covered: dict[str, int] = {}  # up to where each pack is known
        self._open: dict[str, int] = {}
        self._loaded = False
        self._pack = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self._unpack = zstandard.ZstdDecompressor()

    # --- who may write, and when ---

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Nothing is collected while this is held. What was put and not flushed when it ends is flushed, or forgotten
        if it ends by an error."""
        if self._depth == 0:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            self._loaded = False
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self.flush()
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._lay_down()
                self._avoid = frozenset()
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self, patience_s: float) -> Generator[None]:
        """Nobody writes while this is held. Raises Busy if somebody does not stop for so long."""
        assert self._depth == 0, "who waits for itself waits forever"
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Busy(
                        "the workspace's store is being written", where=str(self.root), fix="try again"
                    ) from None
                time.sleep(0.005)
        self._depth, self._loaded = 1, False
        try:
            yield
        finally:
            self._lay_down()
            self._avoid = frozenset()
            self._depth = 0
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def generation(self) -> bytes:
        """Stays the same as long as nothing was removed."""
        try:
            return (self.root / "generation").read_bytes()
        except FileNotFoundError:
            return b""

    def close(self) -> None:
        """Let go of all files."""
        self._lay_down()
        self._close_files()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- blobs ---

    def put(self, data: bytes) -> bytes:
        """Keep a blob, and answer its digest. It counts once `flush` has returned."""
        digest = digest_of(data)
        if not self.has(digest):
            stored = self._pack.compress(data)
            self.append(digest, FRAME.pack(_MAGIC, len(stored), len(data), digest) + stored)
        return digest

    def start_apart(self, names: set[str]) -> None:
        """What is written from now on, until the writing ends, goes to none of these packs."""
        self._avoid = frozenset(names)
        if self._pen and self._pen.path.stem in names:
            self.flush()
            self._lay_down()

    def append(self, digest: bytes, frame: bytes) -> None:
        """Keep a whole frame."""
        assert self._depth, "blobs are written inside `writing`"
        with storing(self.folder):
            if self._pen is None:
                self._pen = self._take_up()
            offset = self._pen.end + len(self._buffer)
            self._fresh[digest] = (self._pen.path.stem, offset, len(frame))
            self._buffer += frame
            if len(self._buffer) >= _BUFFER_BYTES:
                self._spill(self._pen)

    def has(self, digest: bytes) -> bool:
        """Whether this blob is kept, or will be with the next flush."""
        self._load()
        return digest in self._fresh or digest in self._index

    def get(self, digest: bytes) -> bytes:
        """The blob of this digest. Raises Corrupt if it is not here, or damaged."""
        self._load()
        place = self._fresh.get(digest) or self._index.get(digest)
        if place is None:
            self.refresh()
            place = self._index.get(digest) or self._search(digest)
        try:
            frame = self._read(*place)
        except FileNotFoundError:  # its pack was collected: it has moved
            self.refresh()
            place = self._index.get(digest) or self._search(digest)
            frame = self._read(*place)
        return self._raw(digest, frame, place)

    def frame(self, digest: bytes) -> bytes:
        """The blob's frame as it is stored."""
        return self._read(*self._index[digest])

    def flush(self) -> None:
        """Return when all that was put survives the loss of power. Does nothing if nothing new was put."""
        pen = self._pen
        if pen is None or not self._fresh:
            return
        with storing(pen.path):
            self._spill(pen)
            barrier(pen.fd)
            if pen.new:
                barrier_folder(self.folder)
                pen.new = False
            self._name([(digest, *place[1:]) for digest, place in self._fresh.items()], pen.path.stem)
        self._index.update(self._fresh)
        self._fresh.clear()
        self._covered[pen.path.stem] = pen.end
        if pen.end >= _FULL_BYTES:
            self._lay_down()

    # --- what is where ---

    def places(self) -> dict[bytes, tuple[str, int, int]]:
        """Pack, offset and size of every durable blob."""
        self._load()
        return self._index

    def _load(self) -> None:
        if not self._loaded:
            self.refresh()

    def refresh(self) -> None:
        """Learn what others have written and removed meanwhile."""
        self._loaded = True
        names = {path.stem for path in self.folder.glob("*.pack")}
        if self._covered.keys() - names:  # what was collected has moved to packs that we may have read before
            self._index.clear()
            self._indexed.clear()
            self._covered.clear()
            self._close_files()
        for name in sorted(names):
            self._learn(name)

    def _learn(self, name: str) -> None:
        covered, read = self._covered.get(name, 0), self._indexed.get(name, 0)
        with contextlib.suppress(FileNotFoundError), (self.folder / f"{name}.index").open("rb") as file:
            file.seek(read)
            data = file.read()
            data = data[: len(data) - len(data) % RECORD.size]
            self._indexed[name] = read + len(data)
            for digest, offset, size in RECORD.iter_unpack(data):
                self._index[digest] = (name, offset, size)
                covered = max(covered, offset + size)
        self._covered[name] = covered
        with contextlib.suppress(FileNotFoundError):
            if self._depth and (self.folder / f"{name}.pack").stat().st_size > covered:
                self._adopt(name)

    def _adopt(self, name: str) -> None:
        """Frames that a writer who died had written: make them durable, and name them. A living one names its own."""
        pen = self._pen_for(self.folder / f"{name}.pack")
        if pen is None or (self._pen and self._pen.path == pen.path):
            return
        try:
            found = list(frames(pen.path, self._covered[name]))
            if found:
                with storing(pen.path):
                    barrier(pen.fd)
                    barrier_folder(self.folder)
                    self._name(found, name)
                self._index.update((digest, (name, offset, size)) for digest, offset, size in found)
                self._covered[name] = found[-1][1] + found[-1][2]
        finally:
            os.close(pen.fd)

    def _search(self, digest: bytes) -> tuple[str, int, int]:
        """Look into every pack for a blob that no index names."""
        for path in sorted(self.folder.glob("*.pack")):
            for found, offset, size in frames(path):
                if found == digest:
                    return path.stem, offset, size
        raise Corrupt(
            f"a blob of the workspace is missing: {digest.hex()}",
            where=str(self.folder),
            fix="restore the store's files from a backup, or use another capture",
        )

    def _name(self, found: list[tuple[bytes, int, int]], name: str) -> None:
        fd = os.open(self.folder / f"{name}.index", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(fd).st_size
            os.pwrite(fd, b"".join(RECORD.pack(*record) for record in found), end - end % RECORD.size)
        finally:
            os.close(fd)

    # --- files ---

    def _read(self, name: str, offset: int, size: int) -> bytes:
        if self._pen and self._pen.path.stem == name and offset >= self._pen.end:
            start = offset - self._pen.end
            return bytes(self._buffer[start : start + size])
        if name not in self._open:
            if len(self._open) >= _FILES:
                self._close_files()
            self._open[name] = os.open(self.folder / f"{name}.pack", os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._open[name], size, offset)

    def take(self, frame: bytes) -> bool:
        """Keep a whole frame of another store, as `put` does; whether it is sound."""
        digest = frame[FRAME.size - 32 : FRAME.size]
        if content(frame, digest, self._unpack) is None:
            return False
        if not self.has(digest):
            self.append(digest, frame)
        return True

    def _raw(self, digest: bytes, frame: bytes, place: tuple[str, int, int]) -> bytes:
        data = content(frame, digest, self._unpack)
        if data is None:
            raise Corrupt(
                f"a blob of the workspace is damaged: {digest.hex()}",
                where=f"{self.folder / place[0]}.pack@{place[1]}",
                fix="restore that file from a backup, or use another capture",
            )
        return data

    def _take_up(self) -> _Pen:
        """A pack to append to, locked: one that has room and ends with a whole frame, or else a new one."""
        self._load()
        for name, covered in sorted(self._covered.items()):
            path = self.folder / f"{name}.pack"
            pen = self._pen_for(path) if covered < _FULL_BYTES and name not in self._avoid else None
            if pen:
                if pen.end == covered:
                    pen.new = covered == 0
                    return pen
                os.close(pen.fd)
        path = self.folder / f"{secrets.token_hex(8)}.pack"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._covered[path.stem] = 0
        return _Pen(path, fd, 0, new=True)

    def _pen_for(self, path: Path) -> _Pen | None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return _Pen(path, fd, os.fstat(fd).st_size, new=False)

    def _spill(self, pen: _Pen) -> None:
        left = memoryview(bytes(self._buffer))
        at = pen.end
        while left:
            done = os.pwrite(pen.fd, left, at)
            left, at = left[done:], at + done
        self._buffer.clear()
        pen.end = at

    def _lay_down(self) -> None:
        """Forget what is not flushed, and let others append to the pack."""
        self._buffer.clear()
        self._fresh.clear()
        if self._pen:
            os.close(self._pen.fd)
            self._pen = None

    def _close_files(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
