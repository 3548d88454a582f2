"""What was seen of each directory when it was last captured, so that a file is read only if it has changed.

    file    := length:u32 crc:u32 head | (length:u32 crc:u32 body)*        the last body of a path counts
    body    := tree[32] below[32] lengths:u32[5] files:u32 links:u32 own:i64[6] signs:i64[6 * files] inodes:i64[links]
               path names folders leaders linked                           each is texts joined by NUL

Rules
1. This is a cache, and only that: whatever is missing or damaged is read again from the files themselves.
2. It ends with the boot of the machine. After a power cut a file may have lost bytes and kept its times.
3. It names trees that are in the packs. After something was collected there, each is looked at once more.
4. A file whose last change is too fresh to tell it from a next one is not known at all (`ctime` -1).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias, cast

Sign: TypeAlias = tuple[int, int, int, int, int, int]
sign = cast(
    "Callable[[os.stat_result], Sign]",
    attrgetter("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink"),
)
INODE, MODE, SIZE, MTIME, CTIME, LINKS = range(6)

Links: TypeAlias = tuple[tuple[str, int, str], ...]  # name, inode, and the path of the first of its names inside

_BOX = struct.Struct("<II")
_HEAD = struct.Struct("<32s32s7I")
_WORTH_BYTES = 1 << 20  # below this size a file of old news is not written anew


@dataclass(frozen=True, slots=True)
class Known:
    """A directory as it was, in the order in which the system lists it. `signs` is flat: six numbers for each name."""

    own: Sign
    names: list[str]
    signs: list[int]
    folders: list[str]  # those names that are directories, and not ignored
    tree: bytes
    links: Links
    below: bytes  # the digest over the trees of its folders, in that order; empty if there are none


def boot() -> bytes:
    """Differs between two boots of the machine."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return str(round((time.time() - time.monotonic()) / 60)).encode()


class Memory:
    """What is known of one directory tree, in `file`. `head` names the tree and its patterns."""

    def __init__(self, file: Path, head: bytes) -> None:
        self._file = file
        self._head = head + b"\0" + boot()
        self._known: dict[str, Known] | None = None
        self._generation = b""
        self._size = 0

    def load(self, generation: bytes, whole: Callable[[bytes], bool]) -> dict[str, Known]:
        """All that is known. `whole` tells whether a tree and all that is in it can still be read."""
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError):
                self._read(self._file.read_bytes())
        if self._generation != generation:
            self._known = {path: known for path, known in self._known.items() if whole(known.tree)}
            self._write(generation)
        return self._known

    def keep(self, changed: dict[str, Known], paths: set[str]) -> None:
        """Remember what has changed; nothing is known but of `paths`."""
        assert self._known is not None
        self._known.update(changed)
        for path in self._known.keys() - paths:
            del self._known[path]
        if not changed:
            return
        data = b"".join(_box(body) for path, known in changed.items() if (body := _body(path, known)))
        alive = 48 * sum(len(known.names) for known in self._known.values())
        if self._size == 0 or self._size + len(data) > max(_WORTH_BYTES, 4 * alive):
            self._write(self._generation)
            return
        with contextlib.suppress(OSError), self._file.open("ab") as file:
            file.write(data)
            self._size += len(data)

    def drop(self) -> None:
        """Know nothing any more."""
        self._known, self._size = {}, 0
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _write(self, generation: bytes) -> None:
        self._generation = generation
        known = self._known or {}
        bodies = (_box(body) for path, seen in known.items() if (body := _body(path, seen)))
        data = _box(self._head + b"\0" + generation) + b"".join(bodies)
        beside = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(exist_ok=True)
            beside.write_bytes(data)
            beside.replace(self._file)
            self._size = len(data)

    def _read(self, data: bytes) -> None:
        bodies = _unbox(data)
        head = next(bodies, b"")
        if not head.startswith(self._head + b"\0"):
            return
        self._generation = head[len(self._head) + 1 :]
        self._size = len(data)
        assert self._known is not None
        for body in bodies:
            path, known = _known(body)
            self._known[path] = known


def _box(body: bytes) -> bytes:
    return _BOX.pack(len(body), zlib.crc32(body)) + body


def _unbox(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _BOX.size <= len(data):
        length, crc = _BOX.unpack_from(data, at)
        body = data[at + _BOX.size : at + _BOX.size + length]
        if len(body) != length or zlib.crc32(body) != crc:
            return
        yield body
        at += _BOX.size + length


def _body(path: str, known: Known) -> bytes:
    linked, leaders = [link[0] for link in known.links], [link[2] for link in known.links]
    texts = [os.fsencode("\0".join(text)) for text in ([path], known.names, known.folders, leaders, linked)]
    try:
        numbers = array("q", (*known.own, *known.signs, *(link[1] for link in known.links)))
    except OverflowError:  # an inode number of a file system that uses all 64 bits: not kept
        return b""
    counts = (*map(len, texts), len(known.names), len(known.links))
    return _HEAD.pack(known.tree, known.below, *counts) + numbers.tobytes() + b"".join(texts)


def _known(body: bytes) -> tuple[str, Known]:
    tree, below, *lengths, files, links = _HEAD.unpack_from(body)
    numbers = array("q")
    at = _HEAD.size + 8 * (6 + 6 * files + links)
    numbers.frombytes(body[_HEAD.size : at])
    flat = numbers.tolist()
    texts: list[list[str]] = []
    for length in lengths:
        texts.append(os.fsdecode(body[at : at + length]).split("\0") if length else [])
        at += length
    path, names, folders, leaders, linked = texts
    inodes = flat[6 + 6 * files :]
    leaders = leaders or [""] * links
    return path[0] if path else "", Known(
        cast(Sign, tuple(flat[:6])),
        names,
        flat[6 : 6 + 6 * files],
        folders,
        tree,
        tuple(zip(linked, inodes, leaders, strict=True)),
        below if any(below) else b"",
    )
