"""The codec of records is closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codec import decode, encode
from holdfast.core.record import Cancelled, Draw
from holdfast.errors import Corrupt


@given(st.text(max_size=50).filter(lambda text: text.encode("utf-8", "ignore").decode() == text), st.integers(0, 2**70))
def test_what_is_written_reads_back(name: str, n: int) -> None:
    record = Draw(name=name, n=n, value="v")
    assert decode(encode(record)) == record


def test_the_bytes_of_a_record_are_canonical() -> None:
    assert encode(Cancelled(by="ann", reason="no")) == b'{"by":"ann","reason":"no","t":"cancelled","v":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"by":"a","reason":"b","t":"cancelled","v":2}',
        b'{"by":"a","reason":"b","t":"unheard","v":1}',
        b'{"by":"a","t":"cancelled","v":1}',
        b'{"by":"a","more":1,"reason":"b","t":"cancelled","v":1}',
        b'{"by":7,"reason":"b","t":"cancelled","v":1}',
        b'{"by":"a","by":"a","reason":"b","t":"cancelled","v":1}',
        b'{ "by":"a","reason":"b","t":"cancelled","v":1}',
    ],
)
def test_anything_else_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(body)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_but_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(body)
