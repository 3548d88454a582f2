"""Ropes: exact, and no longer than what is new."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.payload import Blob, pack_text, pieces


def whole(blobs: dict[bytes, Blob], digest: bytes) -> bytes:
    blob = blobs[digest]
    if not blob.rope:
        return blob.data
    return b"".join(whole(blobs, data) if refers else data for refers, data in pieces(blob.data))


@given(st.lists(st.fixed_dictionaries({"role": st.text(max_size=5), "content": st.text(max_size=900)}), max_size=12))
def test_a_growing_transcript_reads_back_exactly(messages: list[dict[str, str]]) -> None:
    blobs: dict[bytes, Blob] = {}
    for end in range(len(messages) + 1):
        value = {"messages": messages[:end]}
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        packed = pack_text(text, value, blobs.__contains__)
        blobs.update((blob.digest, blob) for blob in packed.blobs)
        assert packed.payload.digest == hashlib.sha256(text).hexdigest()
        assert whole(blobs, bytes.fromhex(packed.payload.digest)) == text


def test_a_growing_transcript_stores_what_is_new() -> None:
    known: set[bytes] = set()
    messages, stored, said = [], 0, 0
    for number in range(200):
        content = f"{number} " + "word " * 150
        messages.append({"role": "user", "content": content})
        said += len(content)
        value = {"messages": list(messages)}
        text = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        packed = pack_text(text, value, known.__contains__)
        stored += sum(len(blob.data) for blob in packed.blobs if blob.digest not in known)
        known.update(blob.digest for blob in packed.blobs)
    assert stored <= 1.5 * said


@given(st.binary(max_size=200))
def test_what_is_no_rope_is_refused(data: bytes) -> None:
    try:
        parts = list(pieces(data))
    except ValueError:
        return
    assert sum(33 if refers else 5 + len(part) for refers, part in parts) == len(data)


def test_a_rope_that_is_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="rope"):
        list(pieces(b"\1" + bytes(31)))


@pytest.mark.parametrize("value", ["long " * 300, ["long " * 300], [{"role": "user", "content": "long " * 300}] * 3])
def test_no_payload_is_a_piece_of_itself(value: object) -> None:
    text = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    packed = pack_text(text, value, lambda _digest: False)
    for blob in packed.blobs:
        assert not blob.rope or (True, blob.digest) not in list(pieces(blob.data))
    names = [blob.digest for blob in packed.blobs]
    assert len({blob.rope for blob in packed.blobs if blob.digest == names[-1]}) == 1, "two contents under one name"
