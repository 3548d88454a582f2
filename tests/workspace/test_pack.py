"""Blobs in packs: what counts, what survives, and what is told when bytes have changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from holdfast.errors import Corrupt, Unwritable
from holdfast.workspace import Packs, Workspace
from holdfast.workspace.pack import FRAME
from tests.workspace.census import census
from tests.workspace.conftest import Place


def kept(root: Path, *blobs: bytes) -> list[bytes]:
    packs = Packs(root)
    with packs.writing():
        digests = [packs.put(blob) for blob in blobs]
    packs.close()
    return digests


def test_a_blob_is_addressed_by_blake3_and_kept_once(tmp_path: Path) -> None:
    digests = kept(tmp_path, b"one", b"two", b"one")
    assert digests == [blake3(b"one").digest(), blake3(b"two").digest(), blake3(b"one").digest()]
    size = sum(path.stat().st_size for path in tmp_path.glob("packs/*"))
    assert kept(tmp_path, b"two", b"one") == [digests[1], digests[0]]
    assert sum(path.stat().st_size for path in tmp_path.glob("packs/*")) == size
    assert Packs(tmp_path).get(digests[0]) == b"one"


def test_what_was_put_and_not_flushed_can_be_read_by_who_put_it(tmp_path: Path) -> None:
    packs = Packs(tmp_path)
    with packs.writing():
        digests = [packs.put(random.Random(number).randbytes(900_000)) for number in range(12)]
        for number, digest in enumerate(digests):
            assert packs.get(digest) == random.Random(number).randbytes(900_000)


def test_what_was_put_before_an_error_is_no_blob(tmp_path: Path) -> None:
    packs = Packs(tmp_path)
    digest = blake3(b"never finished").digest()
    with contextlib.suppress(ZeroDivisionError), packs.writing():
        packs.put(b"never finished")
        raise ZeroDivisionError
    assert not packs.has(digest)
    with pytest.raises(Corrupt, match="is missing"):
        packs.get(digest)


@pytest.mark.parametrize("tail", [b"HFB1", b"HFB1" + b"\xff" * 60, b"\0" * 100, FRAME.pack(b"HFB1", 9, 9, bytes(32))])
def test_after_a_torn_frame_nothing_is_lost_and_nothing_is_appended(tmp_path: Path, tail: bytes) -> None:
    (first,) = kept(tmp_path, b"before the crash")
    (torn,) = tmp_path.glob("packs/*.pack")
    with torn.open("ab") as file:
        file.write(tail)
    size = torn.stat().st_size
    (second,) = kept(tmp_path, b"after the crash")
    assert torn.stat().st_size == size
    assert Packs(tmp_path).get(first) == b"before the crash"
    assert Packs(tmp_path).get(second) == b"after the crash"


@pytest.mark.parametrize("damage", ["gone", "zeroes", "cut", "noise"])
def test_an_index_is_only_a_cache(tmp_path: Path, damage: str) -> None:
    digests = kept(tmp_path, *(b"blob %d" % number for number in range(50)))
    (index,) = tmp_path.glob("packs/*.index")
    data = index.read_bytes()
    match damage:
        case "gone":
            index.unlink()
        case "zeroes":
            index.write_bytes(bytes(len(data)))
        case "cut":
            index.write_bytes(data[: len(data) // 2 + 5])
        case "noise":
            index.write_bytes(random.Random(7).randbytes(len(data)))
    for number, digest in enumerate(digests):
        assert Packs(tmp_path).get(digest) == b"blob %d" % number
    (more,) = kept(tmp_path, b"more")
    assert Packs(tmp_path).get(more) == b"more"


def test_every_changed_byte_of_a_pack_is_found_and_its_place_told(tmp_path: Path) -> None:
    content = bytes(range(256))
    (digest,) = kept(tmp_path, content)
    (pack,) = tmp_path.glob("packs/*.pack")
    whole = pack.read_bytes()
    for at in range(len(whole)):
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        told = asked(tmp_path, digest)
        assert told == content or (f"{pack}@0" in str(told) and digest.hex() in str(told)), f"byte {at}"


def asked(root: Path, digest: bytes) -> bytes | Corrupt:
    """The blob, or the error."""
    try:
        return Packs(root).get(digest)
    except Corrupt as error:
        return error


def test_a_damaged_capture_is_not_restored_and_the_workspace_stays(place: Place) -> None:
    (place.root / "file").write_bytes(random.Random(1).randbytes(50_000))
    tree = place.files.capture().tree
    (place.root / "file").write_bytes(b"later")
    (pack,) = place.store.glob("packs/*.pack")
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    before = census(place.root, times=False)
    with pytest.raises(Corrupt, match=pack.name):
        place.again().restore(tree)
    assert census(place.root, times=False) == before


def test_a_capture_that_is_not_here_is_told(place: Place) -> None:
    with pytest.raises(Corrupt, match="is missing"):
        place.files.restore(bytes(range(32)))


def test_nothing_is_written_for_what_has_not_changed(place: Place) -> None:
    (place.root / "d").mkdir()
    (place.root / "d" / "file").write_text("text")
    first = place.files.capture()
    before = census(place.store)
    assert place.files.capture().tree == first.tree
    again = place.again().capture()
    assert (again.tree, again.files_read) == (first.tree, 0)
    assert census(place.store) == before


def test_two_writers_use_two_packs_and_see_each_others_blobs(tmp_path: Path) -> None:
    one, other = Packs(tmp_path), Packs(tmp_path)
    with one.writing(), other.writing():
        first, second = one.put(b"one"), other.put(b"other")
        one.flush()
        other.flush()
    assert len(list(tmp_path.glob("packs/*.pack"))) == 2
    assert (one.get(second), other.get(first)) == (b"other", b"one")


def test_a_store_that_cannot_grow_says_so_and_keeps_what_it_has(place: Place) -> None:
    """A limit on the size of files stands for a disk without room."""
    (place.root / "small").write_text("small")
    tree, before = place.files.capture().tree, census(place.root)
    (place.root / "large").write_bytes(random.Random(2).randbytes(300_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Unwritable, match="cannot be written: File too large"):
            place.files.capture()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, said)
    after = place.files.capture().tree
    assert after != tree
    place.files.restore(tree)
    assert census(place.root) == before


def test_frames_that_a_dead_writer_left_are_taken_over(tmp_path: Path) -> None:
    """It wrote, and died before it could flush: nobody refers to its blobs, and nothing is in their way."""
    program = (
        "import os, sys; from pathlib import Path; from holdfast.workspace import Packs\n"
        "packs = Packs(Path(sys.argv[1]))\n"
        "with packs.writing():\n"
        "    for number in range(8): packs.put(os.urandom(1 << 20))\n"
        "    print('written', flush=True); os.kill(os.getpid(), 9)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False, timeout=60)
    assert ran.returncode == -signal.SIGKILL
    (digest,) = kept(tmp_path, b"the next writer")
    assert Packs(tmp_path).get(digest) == b"the next writer"


def test_the_lock_ends_with_the_writing(tmp_path: Path) -> None:
    packs = Packs(tmp_path)
    with packs.writing():
        packs.put(b"blob")
    for path in [tmp_path / "lock", *tmp_path.glob("packs/*.pack")]:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_known_of_a_workspace_is_only_a_cache(place: Place) -> None:
    (place.root / "file").write_text("text")
    tree = place.files.capture().tree
    (known,) = place.store.glob("known/*")
    whole = known.read_bytes()
    for at in range(0, len(whole), 3):
        known.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert place.again().capture().tree == tree
    known.write_bytes(b"")
    assert place.again().capture().tree == tree


def test_a_file_descriptor_is_not_lost(place: Place) -> None:
    (place.root / "file").write_text("text")
    tree = place.files.capture().tree
    fds = Path("/dev/fd")
    before = len(os.listdir(fds))
    for number in range(20):
        (place.root / "file").write_text(str(number))
        Workspace(place.root, place.packs).capture()
        place.files.restore(tree)
    assert len(os.listdir(fds)) <= before + 4
