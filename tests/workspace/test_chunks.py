"""Where large files are cut, and what of them is not stored."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from holdfast.workspace import Packs, Workspace
from holdfast.workspace.chunks import BLOCK_BYTES, LARGE_BYTES, LEAST_BYTES, MOST_BYTES, parts, write
from holdfast.workspace.pack import digest_of
from tests.workspace.conftest import Place


def cut_up(path: Path) -> tuple[list[tuple[int, bytes | None]], dict[bytes, bytes]]:
    blobs: dict[bytes, bytes] = {}

    def put(data: bytes) -> bytes:
        blobs[digest_of(data)] = data
        return digest_of(data)

    fd = os.open(path, os.O_RDONLY)
    try:
        return parts(fd, path.stat().st_size, put), blobs
    finally:
        os.close(fd)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


CONTENTS = {
    "noise": noise(1, 12 << 20),
    "text": b"the same words again and again, " * (10 << 15),
    "one byte": b"x" * (10 << 20),
    "zeroes": bytes(10 << 20),
    "zeroes at odd places": noise(2, 700_001) + bytes(1_000_003) + noise(3, 9 << 20) + bytes(77),
    "ends in a block": noise(4, (9 << 20) + BLOCK_BYTES - 1),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_parts_make_the_file_again_and_keep_to_their_sizes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    found, blobs = cut_up(tmp_path / "file")
    assert b"".join(blobs[digest] if digest else bytes(size) for size, digest in found) == content
    for number, (size, digest) in enumerate(found):
        assert size <= MOST_BYTES or digest is None
        last_of_run = number + 1 == len(found) or found[number + 1][1] is None
        assert size >= LEAST_BYTES or digest is None or last_of_run
    fd = os.open(tmp_path / "again", os.O_RDWR | os.O_CREAT)
    write(fd, iter(found), blobs.__getitem__)
    os.close(fd)
    assert (tmp_path / "again").read_bytes() == content


def test_holes_and_zeroes_are_the_same_to_the_cuts(tmp_path: Path) -> None:
    """What is a hole depends on the file system: the digest must not."""
    content = CONTENTS["zeroes at odd places"]
    (tmp_path / "full").write_bytes(content)
    with (tmp_path / "sparse").open("wb") as file:
        for at in range(0, len(content), 4096):
            if any(content[at : at + 4096]):
                os.pwrite(file.fileno(), content[at : at + 4096], at)
        file.truncate(len(content))
    assert cut_up(tmp_path / "full")[0] == cut_up(tmp_path / "sparse")[0]


def test_an_insertion_changes_few_chunks(tmp_path: Path) -> None:
    content = noise(5, 24 << 20)
    (tmp_path / "one").write_bytes(content)
    (tmp_path / "other").write_bytes(content[: 5 << 20] + b"some more" + content[5 << 20 :])
    before, after = cut_up(tmp_path / "one")[1], cut_up(tmp_path / "other")[1]
    assert len(before) > 8
    assert len(after.keys() - before.keys()) <= 3


def test_a_byte_in_a_large_file_costs_a_chunk(place: Place) -> None:
    path = place.root / "large"
    path.write_bytes(noise(6, LEAST_BYTES + LARGE_BYTES * 2))

    def stored() -> int:
        return sum(pack.stat().st_size for pack in place.store.glob("packs/*.pack"))

    first = place.files.capture().tree
    before = stored()
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"changed", 10 << 20)
    second = place.files.capture().tree
    assert second != first
    assert stored() - before < 2 * MOST_BYTES
    made = place.folder / "made"
    made.mkdir()
    Workspace(made, Packs(place.store)).restore(second)
    assert (made / "large").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_a_file_that_grows_over_the_limit_and_back_is_restored(place: Place, size: int) -> None:
    (place.root / "file").write_bytes(noise(7, size))
    tree = place.files.capture().tree
    (place.root / "file").write_bytes(b"small")
    place.files.restore(tree)
    assert (place.root / "file").read_bytes() == noise(7, size)
