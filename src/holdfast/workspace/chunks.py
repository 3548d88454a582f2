"""Where a large file is cut: at places that its own bytes decide, so that an insertion changes few chunks.

Rules
1. The cuts depend on the bytes alone: not on how the file was written or read, nor on where it has holes.
2. Blocks of zeroes are not stored; where the file system knows them as holes they are not even read.
3. No loop of Python goes over single bytes: the hash of the last 16 bytes is made at every place at once, in one large
   number, by four doublings: h(2w)[i] = h(w)[i] xor p(h(w)[i - w]), where p is a fixed permutation of bytes.

Source: W. Xia et al., FastCDC (USENIX ATC 2016), for the least and greatest size; the hash is ours.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator

from blake3 import blake3

from holdfast.workspace.manifest import Part

LARGE_BYTES = 8 << 20  # up to this size a file is one blob
BLOCK_BYTES = 64 << 10  # zeroes are looked for in blocks of this size
LEAST_BYTES = 512 << 10
MOST_BYTES = 4 << 20

_WINDOW = 16
_STRIDE = 128 << 10
_ZEROES = bytes(BLOCK_BYTES)
_TABLE = bytes(sorted(range(256), key=lambda byte: blake3(b"holdfast/chunks/1" + bytes([byte])).digest()))
_CUT = re.compile(rb"\x00\x00[\x00-\x0f]", re.DOTALL)  # one place in 2**20, for bytes that look random


def cut(data: bytes) -> int:
    """The length of the first chunk of `data`, which holds MOST_BYTES or ends where the run of bytes ends."""
    most = min(len(data), MOST_BYTES)
    for start in range(LEAST_BYTES, most, _STRIDE):
        hashes = _hashes(data[start - _WINDOW : min(start + _STRIDE + 2, most)])
        found = _CUT.search(hashes, _WINDOW)
        if found:
            return start - _WINDOW + found.end()
    return most


def _hashes(data: bytes) -> bytes:
    """For each place from _WINDOW on, one byte that depends on the _WINDOW bytes that end there."""
    size = len(data)
    hashes = data.translate(_TABLE)
    for width in (1, 2, 4, 8):
        before = int.from_bytes(hashes.translate(_TABLE), "little") << (8 * width)
        hashes = (before ^ int.from_bytes(hashes, "little")).to_bytes(size + width, "little")[:size]
    return hashes


def parts(fd: int, size: int, put: Callable[[bytes], bytes]) -> list[Part]:
    """Read a large file of `size` bytes once; each chunk goes through `put`, which answers its digest."""
    found: list[Part] = []
    run = bytearray()

    def chunk(*, last: bool) -> None:
        while len(run) >= MOST_BYTES or (last and run):
            length = cut(bytes(run[:MOST_BYTES]))
            found.append((length, put(bytes(run[:length]))))
            del run[:length]

    for block in _blocks(fd, size):
        if isinstance(block, bytes):
            run += block
            chunk(last=False)
            continue
        chunk(last=True)
        before = found.pop()[0] if found and found[-1][1] is None else 0
        found.append((before + block, None))
    chunk(last=True)
    return found


def _blocks(fd: int, size: int) -> Iterator[bytes | int]:
    """The file, as blocks of bytes that are not all zero, and numbers of zeroes."""
    at = 0
    while at < size:
        end = _hole(fd, at, size)
        if end > at:
            yield end - at
            at = end
            continue
        data = os.pread(fd, min(16 * BLOCK_BYTES, size - at), at)
        if not data:
            return  # it has become shorter: whoever asked will see that, and read it again
        whole = len(data) - len(data) % BLOCK_BYTES if at + len(data) < size else len(data)
        data = data[: whole or len(data)]
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            yield len(block) if block == _ZEROES[: len(block)] else block
        at += len(data)


def _hole(fd: int, at: int, size: int) -> int:
    """Where the hole that begins at `at` ends, in whole blocks; `at` if none does."""
    if not hasattr(os, "SEEK_DATA"):
        return at
    try:
        data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else at
    return min(size, max(at, data - data % BLOCK_BYTES))


def write(fd: int, found: Iterator[Part], get: Callable[[bytes], bytes]) -> int:
    """Write the parts of a file into an empty one, leaving holes where blocks are zero. Returns its size."""
    at = 0
    for size, digest in found:
        if digest is not None:
            write_sparse(fd, get(digest), at)
        at += size
    os.ftruncate(fd, at)
    return at


def write_sparse(fd: int, data: bytes, at: int) -> None:
    """Write `data` at position `at`, without its blocks of zeroes."""
    start = 0
    for block in range(0, len(data), BLOCK_BYTES):
        if data[block : block + BLOCK_BYTES] == _ZEROES:
            _write(fd, data[start:block], at + start)
            start = block + BLOCK_BYTES
    _write(fd, data[start:], at + start)


def _write(fd: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, at)
        left, at = left[done:], at + done
