"""The bytes of a directory: one spelling, and nothing else is read."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codec import decode as decode_record
from holdfast.core.record import Checkpoint
from holdfast.errors import Corrupt
from holdfast.workspace.manifest import (
    Entry,
    File,
    Folder,
    Meta,
    Pipe,
    Symlink,
    Tree,
    decode,
    decode_map,
    encode,
    encode_map,
    sound,
)

digests = st.binary(min_size=32, max_size=32)
names = st.binary(min_size=1, max_size=20).filter(sound)
moments = st.integers(-(2**63), 2**63 - 1)
attributes = st.dictionaries(st.binary(max_size=9), st.binary(max_size=9), max_size=3).map(
    lambda pairs: tuple(sorted(pairs.items()))
)
metas = st.builds(Meta, st.integers(0, 0o7777), moments, attributes)
links = st.lists(names, max_size=3).map(b"/".join)
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(File, names, metas, st.integers(0, 2**64 - 1), st.booleans(), digests, links),
    st.builds(Symlink, names, moments, st.binary(max_size=30)),
    st.builds(Folder, names, digests),
    st.builds(Pipe, names, metas),
)
trees = st.builds(
    Tree,
    metas,
    st.lists(entries, max_size=6, unique_by=lambda entry: entry.name).map(
        lambda found: tuple(sorted(found, key=lambda entry: entry.name))
    ),
)


@given(tree=trees)
def test_what_is_written_is_read_back(tree: Tree) -> None:
    assert decode(encode(tree)) == tree


@given(tree=trees, data=st.data())
def test_bytes_that_are_read_are_the_only_spelling_of_what_they_say(tree: Tree, data: st.DataObject) -> None:
    spelled = bytearray(encode(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(spelled) - 1))
        spelled[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        read = decode(bytes(spelled))
    except Corrupt:
        return
    assert encode(read) == spelled


@given(noise=st.binary(max_size=200))
def test_noise_is_corrupt_and_nothing_else(noise: bytes) -> None:
    for head in (b"", b"hf-tree/1", b"hf-map/1"):
        with pytest.raises(Corrupt):
            decode(head + b"\xff" + noise)
    with pytest.raises(Corrupt):
        list(decode_map(b"hf-map/1" + noise + b"\x01"))


def test_a_count_of_billions_is_not_believed() -> None:
    whole = encode(Tree(Meta(0o755, 0), ()))
    with pytest.raises(Corrupt):
        decode(whole[:-4] + struct.pack(">I", 2**32 - 1))


@pytest.mark.parametrize("pair", [(b"b", b"a"), (b"a", b"a")])
def test_names_ascend(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(Corrupt, match="not in its place"):
        decode(encode(Tree(Meta(0, 0), tuple(Folder(name, bytes(32)) for name in pair))))


@pytest.mark.parametrize("link", [b"..", b"../a", b"/a", b"a//b", b"a/../b", b"a/.", b"a\0"])
def test_a_link_stays_inside(link: bytes) -> None:
    with pytest.raises(Corrupt, match="no path inside the root"):
        decode(encode(Tree(Meta(0, 0), (File(b"a", Meta(0, 0), 0, False, bytes(32), link),))))


@given(parts=st.lists(st.tuples(st.integers(1, 2**64 - 1), st.none() | digests), max_size=9))
def test_a_map_is_read_back(parts: list[tuple[int, bytes | None]]) -> None:
    assert list(decode_map(encode_map(parts))) == parts


def test_the_format_on_disk_is_this_one() -> None:
    """A capture of yesterday must be read tomorrow: these bytes are written out, not made."""
    tree = Tree(
        Meta(0o755, 2),
        (
            File(b"f", Meta(0o644, 1, ((b"user.a", b"x"),)), 5, False, b"\x11" * 32, b"d/f"),
            Folder(b"g", b"\x22" * 32),
            Symlink(b"h", -1, b"to"),
            Pipe(b"i", Meta(0o600, 3)),
        ),
    )
    spelled = (
        "68662d747265652f31 01ed 0000000000000002 0000 00000004"
        "66 00000001 66 01a4 0000000000000001 0001 00000006 757365722e61 00000001 78 0000000000000005 00"
        + "11"
        * 32
        + "00000003 642f66"
        "64 00000001 67" + "22" * 32 + "6c 00000001 68 ffffffffffffffff 00000002 746f"
        "70 00000001 69 0180 0000000000000003 0000"
    )
    assert encode(tree) == bytes.fromhex(spelled)
    assert decode(bytes.fromhex(spelled)) == tree


PAGE = (Path(__file__).parent.parent.parent / "docs" / "log-format.md").read_text()


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_the_manifests_of_the_page_are_those_of_its_grammar() -> None:
    """Put together here a second time, by what the page says in words."""
    rows = re.findall(r"^\| `([0-9a-f]{40,})` \| `([0-9a-f]{64})` \|$", PAGE, re.MULTILINE)
    empty = b"hf-tree/1" + struct.pack(">HqH", 0o755, 0, 0) + struct.pack(">I", 0)
    attribute = text(b"user.x") + text(b"y")
    whole = b"".join([
        b"hf-tree/1", struct.pack(">HqH", 0o755, 10**9, 0), struct.pack(">I", 4),
        b"f", text(b"a"), struct.pack(">HqH", 0o644, 2, 1), attribute,
        struct.pack(">QB", 6, 0), blake3(b"hello\n").digest(), text(b""),
        b"d", text(b"d"), blake3(empty).digest(),
        b"l", text(b"l"), struct.pack(">q", -1), text(b"../a"),
        b"p", text(b"p"), struct.pack(">HqH", 0o600, 0, 0),
    ])  # fmt: skip
    assert rows == [(each.hex(), blake3(each).hexdigest()) for each in (empty, whole)]
    for each in (empty, whole):
        assert encode(decode(each)) == each


def test_the_checkpoint_of_the_page_reads_back() -> None:
    (body,) = re.findall(r'^\{"labels".*\}$', PAGE, re.MULTILINE)
    record = decode_record(body.encode())
    assert isinstance(record, Checkpoint)
    assert record.services == ("npm start",)
    assert f"`{record.workspace}`" in PAGE
