"""What a capture knows of a directory, and its only spelling in bytes.

    tree   := "hf-tree/1" meta count:u32 entry*            one directory; a Merkle tree by the digests of its folders
    meta   := mode:u16 mtime_ns:i64 count:u16 (name value)*          extended attributes, by name
    entry  := "f" name meta size:u64 mapped:u8 digest link
            | "l" name mtime_ns:i64 target | "d" name digest | "p" name meta
    map    := "hf-map/1" (size:u64 0 | size:u64 1 digest)*           a large file: zeroes, or a chunk
    name, value, target, link := length:u32 bytes

Rules
1. Decoding is closed: whatever this file would not have written is Corrupt. One directory has one spelling.
2. A name is one step down: never empty, `.`, `..`, or with a slash or a NUL in it. Names ascend: none is there twice.
3. All files that are one file (hard links inside the root) carry the path of the first of them as `link`:
   names from the root, each one step down.
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
    """Permission bits, the time of the last change in ns since 1970, and extended attributes by name."""

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


def decode(data: bytes) -> Tree:
    """The directory of these bytes. Raises Corrupt for anything that `encode` does not write."""
    if not data.startswith(_TREE):
        raise Corrupt("not the manifest of a directory")
    try:
        meta, at = _read_meta(data, len(_TREE))
        (count,) = _LENGTH.unpack_from(data, at)
        entries: list[Entry] = []
        at += 4
        for _ in range(count):
            entry, at = _entry(data, at)
            entries.append(entry)
    except struct.error:
        raise Corrupt("a manifest ends too early") from None
    if at != len(data):  # also when a text had fewer bytes than its length says
        raise Corrupt("a manifest is longer or shorter than it says")
    before = b""
    for entry in entries:
        if entry.name <= before or not sound(entry.name):
            raise Corrupt(
                "a manifest has a name that is not one step down, or not in its place", where=repr(entry.name)
            )
        if isinstance(entry, File) and entry.link and not all(map(sound, entry.link.split(b"/"))):
            raise Corrupt("a manifest has a link that is no path inside the root", where=repr(entry.link))
        before = entry.name
    return Tree(meta, tuple(entries))


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    return data[at + 4 : at + 4 + length], at + 4 + length


def _read_meta(data: bytes, at: int) -> tuple[Meta, int]:
    mode, mtime_ns, count = _META.unpack_from(data, at)
    if mode > _MODES:
        raise Corrupt("a manifest has a mode that is none")
    at += _META.size
    attributes: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        name, at = _text(data, at)
        value, at = _text(data, at)
        if attributes and name <= attributes[-1][0]:
            raise Corrupt("a manifest has attributes that are not in order")
        attributes.append((name, value))
    return Meta(mode, mtime_ns, tuple(attributes)), at


def _entry(data: bytes, at: int) -> tuple[Entry, int]:
    """Every field has one spelling: so that what is read whole is what would be written."""
    kind = data[at : at + 1]
    name, at = _text(data, at + 1)
    if kind == b"f":
        meta, at = _read_meta(data, at)
        size, mapped, content, length = _FILE.unpack_from(data, at)
        if mapped > 1:
            raise Corrupt("a manifest has a file of no known form")
        at += _FILE.size + length
        return File(name, meta, size, mapped == 1, content, data[at - length : at]), at
    if kind == b"d":
        return Folder(name, data[at : at + 32]), at + 32
    if kind == b"l":
        (mtime_ns,) = _TIME.unpack_from(data, at)
        target, at = _text(data, at + 8)
        return Symlink(name, mtime_ns, target), at
    if kind == b"p":
        meta, at = _read_meta(data, at)
        return Pipe(name, meta), at
    raise Corrupt("a manifest has an entry of no known kind")


def decode_map(data: bytes) -> Iterator[Part]:
    """The parts of a large file, in order. Raises Corrupt for anything that `encode_map` does not write."""
    if not data.startswith(_MAP):
        raise Corrupt("not the map of a file")
    at = len(_MAP)
    while at < len(data):
        try:
            size, kind = _ZEROES.unpack_from(data, at)
        except struct.error:
            raise Corrupt("a map ends too early") from None
        at += _ZEROES.size + 32 * kind
        if kind > 1 or size == 0 or at > len(data):
            raise Corrupt("a map has a part of no known kind")
        yield size, data[at - 32 : at] if kind else None
