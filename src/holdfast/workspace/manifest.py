"""What a capture knows of a directory, and its only spelling in bytes.

    tree   := "hf-tree/1" meta count:u32 entry*            one directory; a Merkle tree by the digests of its folders
    meta   := mode:u16 mtime_ns:i64 count:u16 (name value)*          extended attributes, by name
    entry  := "f" name meta size:u64 mapped:u8 digest link | "l" name mtime_ns:i64 target | "d" name digest | "p" name meta
    map    := "hf-map/1" (size:u64 0 | size:u64 1 digest)*           a large file: zeroes, or a chunk
    name, value, target, link := length:u32 bytes

Rules
1. Decoding is closed: whatever this file would not have written is Corrupt. One directory has one spelling.
2. A name is one step down: never empty, `.`, `..`, or with a slash or a NUL in it. Names ascend, so none is there twice.
3. All files that are one file (hard links inside the root) carry the path of the first of them as `link`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.errors import Corrupt

_TREE = b"hf-tree/1"
_MAP = b"hf-map/1"
_META = struct.Struct(">HqH")
_LENGTH = struct.Struct(">I")
_FILE = struct.Struct(">QB32sI")
_TIME = struct.Struct(">q")
_ZEROES = struct.Struct(">QB")
_MODES = 0o7777


@dataclass(frozen=True, slots=True)
class Meta:
    """Permission bits, the time of the last change in ns since 1970, and extended attributes in order of their names."""

    mode: int
    mtime_ns: int
    attributes: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `content` is the digest of its bytes, or of its map if `mapped`."""

    name: bytes
    meta: Meta
    size_bytes: int
    mapped: bool
    content: bytes
    link: bytes = b""


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; its target is kept as it stands and never followed."""

    name: bytes
    mtime_ns: int
    target: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory inside, by the digest of its tree."""

    name: bytes
    tree: bytes


@dataclass(frozen=True, slots=True)
class Pipe:
    """A named pipe."""

    name: bytes
    meta: Meta


Entry: TypeAlias = File | Symlink | Folder | Pipe


@dataclass(frozen=True, slots=True)
class Tree:
    """One directory: about itself, and what is in it, in ascending order of names."""

    meta: Meta
    entries: tuple[Entry, ...]


Part: TypeAlias = tuple[int, bytes | None]  # how many bytes; the digest of the chunk, or None for zeroes


def sound(name: bytes) -> bool:
    """Whether `name` is one step down and no other."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


# --- writing ---


def encode(tree: Tree) -> bytes:
    """The bytes of a directory; those of an equal directory are the same."""
    parts = [_TREE, _meta(tree.meta), _LENGTH.pack(len(tree.entries))]
    for entry in tree.entries:
        name = _LENGTH.pack(len(entry.name)) + entry.name
        match entry:
            case File(_, meta, size, mapped, content, link):
                parts += (b"f", name, _meta(meta), _FILE.pack(size, mapped, content, len(link)), link)
            case Symlink(_, mtime_ns, target):
                parts += (b"l", name, _TIME.pack(mtime_ns), _LENGTH.pack(len(target)), target)
            case Folder(_, digest):
                parts += (b"d", name, digest)
            case Pipe(_, meta):
                parts += (b"p", name, _meta(meta))
    return b"".join(parts)


def _meta(meta: Meta) -> bytes:
    head = _META.pack(meta.mode, meta.mtime_ns, len(meta.attributes))
    if not meta.attributes:
        return head
    texts = (text for pair in meta.attributes for text in pair)
    return head + b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def encode_map(parts: list[Part]) -> bytes:
    """The bytes of the map of a large file."""
    return _MAP + b"".join(
        _ZEROES.pack(size, 0) if digest is None else _ZEROES.pack(size, 1) + digest for size, digest in parts
    )


# --- reading ---


class _Bytes:
    """Takes bytes from the front, and never more than there are."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise Corrupt("a manifest ends too early")
        self.at += size
        return taken

    def text(self) -> bytes:
        return self.take(_LENGTH.unpack(self.take(4))[0])

    def meta(self) -> Meta:
        mode, mtime_ns, count = _META.unpack(self.take(_META.size))
        return Meta(mode, mtime_ns, tuple((self.text(), self.text()) for _ in range(count)))


def decode(data: bytes) -> Tree:
    """The directory of these bytes. Raises Corrupt for anything that `encode` does not write."""
    if not data.startswith(_TREE):
        raise Corrupt("not the manifest of a directory")
    left = _Bytes(data, len(_TREE))
    meta = left.meta()
    (count,) = _LENGTH.unpack(left.take(4))
    entries = [_entry(left) for _ in range(min(count, len(data)))]
    tree = Tree(meta, tuple(entries))
    before = b""
    for entry in entries:
        if not sound(entry.name) or entry.name <= before:
            raise Corrupt(
                "a manifest has a name that is not one step down, or not in its place", where=repr(entry.name)
            )
        before = entry.name
    if meta.mode > _MODES or encode(tree) != data:
        raise Corrupt("a manifest is not in its only spelling")
    return tree


def _entry(left: _Bytes) -> Entry:
    kind, name = left.take(1), left.text()
    if kind == b"f":
        meta = left.meta()
        size, mapped, content, length = _FILE.unpack(left.take(_FILE.size))
        if mapped > 1 or meta.mode > _MODES:
            raise Corrupt("a manifest has a file of no known form")
        return File(name, meta, size, bool(mapped), content, left.take(length))
    if kind == b"d":
        return Folder(name, left.take(32))
    if kind == b"l":
        (mtime_ns,) = _TIME.unpack(left.take(8))
        return Symlink(name, mtime_ns, left.text())
    if kind == b"p":
        return Pipe(name, left.meta())
    raise Corrupt("a manifest has an entry of no known kind")


def decode_map(data: bytes) -> Iterator[Part]:
    """The parts of a large file, in order. Raises Corrupt for anything that `encode_map` does not write."""
    if not data.startswith(_MAP):
        raise Corrupt("not the map of a file")
    left = _Bytes(data, len(_MAP))
    while left.at < len(data):
        size, kind = _ZEROES.unpack(left.take(_ZEROES.size))
        if kind > 1 or size == 0:
            raise Corrupt("a map has a part of no known kind")
        yield size, left.take(32) if kind else None
