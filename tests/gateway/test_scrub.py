"""What comes back carries no credential, in whatever usual form, wherever a stream is cut."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import tracemalloc
import urllib.parse
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import Misuse
from holdfast.gateway.scrub import Scrubber, Unpackable, unpacked
from tests.examples import examples

SECRET = 'sk-live/7+Q"v&9=zK<hello>\\w42'
PLAIN = "sk-live-0123456789abcdefghijklmn"


class Credential:
    def __init__(self, value: str, name: str = "KEY", *former: str) -> None:
        self.name = name
        self.values = (value, *former)

    def forms(self) -> tuple[bytes, ...]:
        return tuple(value.encode() for value in self.values)


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


FORMS = {
    "raw": lambda s: s,
    "base64, first alignment": b64,
    "base64, second alignment": lambda s: b64(b"x" + s + b"yz"),
    "base64, third alignment": lambda s: b64(b"xy" + s + b"yz"),
    "base64 for URLs": base64.urlsafe_b64encode,
    "base64 for URLs, in a text": lambda s: base64.urlsafe_b64encode(b'{"key":"' + s + b'"}'),
    "Basic": lambda s: b"Basic " + b64(b"user:" + s),
    "hex": lambda s: s.hex().encode(),
    "hex in capitals": lambda s: s.hex().upper().encode(),
    "percent": lambda s: urllib.parse.quote(s, safe="").encode(),
    "percent, in small letters": lambda s: (
        urllib.parse.quote(s, safe="").lower().encode()
        if s == s.lower()
        else b"".join(f"%{byte:02x}".encode() for byte in s)
    ),
    "percent, as a form": lambda s: urllib.parse.quote_plus(s).encode(),
    "percent, as a path": lambda s: urllib.parse.quote(s).encode(),
    "percent, as a browser does it": lambda s: urllib.parse.quote(s, safe="-._~!*'()").encode(),
    "JSON": lambda s: json.dumps(s.decode()).encode(),
    "JSON in JSON": lambda s: json.dumps(json.dumps(s.decode())).encode(),
    "JSON with escaped slashes": lambda s: json.dumps(s.decode()).replace("/", "\\/").encode(),
    "HTML": lambda s: html.escape(s.decode()).encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [SECRET, PLAIN, "pässwörd-日本語-0123"])
def test_a_credential_is_found_in_its_form(form: str, secret: str) -> None:
    encoded = FORMS[form](secret.encode())
    said = Scrubber([Credential(secret)]).clean(b"before " + encoded + b" after")
    assert b"[credential:KEY]" in said
    assert said.startswith(b"before ")
    assert said.endswith(b" after")
    assert max((len(part) for part in pieces(encoded) if part in said), default=0) < 8


def pieces(encoded: bytes, size: int = 8) -> list[bytes]:
    """All pieces of the middle of an encoded credential: its edges may be shared with what stands beside it."""
    middle = encoded[len(encoded) // 4 : -len(encoded) // 4]
    return [middle[at : at + size] for at in range(len(middle) - size + 1)]


def test_what_is_no_credential_stays() -> None:
    text = json.dumps({"id": "sk-live-", "of": "0123456789abcdef", "bytes": "c2stbGl2ZS0="}).encode()
    assert Scrubber([Credential(PLAIN)]).clean(text) == text


def test_a_credential_before_its_rotation_is_found_too() -> None:
    scrubber = Scrubber([Credential("new-value-12345", "KEY", "old-value-12345")])
    assert scrubber.clean(b"old-value-12345 new-value-12345") == b"[credential:KEY] [credential:KEY]"


def test_each_credential_is_named() -> None:
    scrubber = Scrubber([Credential("first-secret", "A"), Credential("second-secret", "B")])
    assert scrubber.text("first-secret, second-secret") == "[credential:A], [credential:B]"


def test_credentials_that_overlap_leave_nothing() -> None:
    scrubber = Scrubber([Credential("abcdefghij", "A"), Credential("fghijklmno", "B")])
    assert scrubber.clean(b"<abcdefghijklmno>") == b"<[credential:A]>"


@pytest.mark.parametrize("kept", [PLAIN[:24], PLAIN[-24:], PLAIN[:31], PLAIN[1:]])
def test_a_credential_that_is_cut_short_is_found(kept: str) -> None:
    assert Scrubber([Credential(PLAIN)]).text(f"key: {kept}…") == "key: [credential:KEY]…"


def test_the_lines_of_a_key_are_found_one_by_one() -> None:
    lines = [base64.b64encode(bytes([n]) * 48).decode() for n in range(1, 5)]
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----"])
    said = Scrubber([Credential(key)]).text(f"could not load {lines[2]}")
    assert lines[2] not in said
    assert "[credential:KEY]" in said


@pytest.mark.parametrize("value", ["", "q", "1234567"])
def test_a_short_credential_is_refused_and_not_told(value: str) -> None:
    with pytest.raises(Misuse, match="`KEY` is too short") as refused:
        Scrubber([Credential(value)])
    assert not value or value not in str(refused.value).replace("KEY", "")


def test_a_credential_is_found_wherever_a_stream_is_cut() -> None:
    scrubber = Scrubber([Credential(PLAIN)])
    for form in (PLAIN.encode(), b64(PLAIN.encode()), PLAIN.encode().hex().encode()):
        text = b"data: {" + form + b"}\n\n"
        whole = scrubber.clean(text)
        for at in range(len(text) + 1):
            stream = scrubber.stream()
            assert stream.feed(text[:at]) + stream.feed(text[at:]) + stream.close() == whole


def test_a_stream_that_comes_byte_by_byte_is_the_same() -> None:
    scrubber = Scrubber([Credential(PLAIN)])
    text = f"a {PLAIN} b {PLAIN[:10]} c {PLAIN[:26]} d {PLAIN}{PLAIN} sk-".encode()
    stream = scrubber.stream()
    out = b"".join(stream.feed(text[at : at + 1]) for at in range(len(text))) + stream.close()
    assert out.replace(b"[credential:KEY]", b"K") == f"a K b {PLAIN[:10]} c K d KK sk-".encode()


def test_a_chunk_that_ends_in_nothing_suspicious_is_not_held_back() -> None:
    stream = Scrubber([Credential(PLAIN)]).stream()
    assert stream.feed(b'data: {"token": "hello"}\n\n') == b'data: {"token": "hello"}\n\n'
    assert stream.feed(b"data: sk") == b"data: "
    assert stream.feed(b"y\n") == b"sky\n"


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.sampled_from(["x", "sk-", "k-live-", PLAIN, PLAIN[:20], PLAIN[-22:], PLAIN.encode().hex(), "\n"]), max_size=8
    ),
    st.lists(st.integers(min_value=0, max_value=300), max_size=6),
)
def test_no_cut_lets_a_credential_through(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts).encode()
    scrubber = Scrubber([Credential(PLAIN)])
    stream = scrubber.stream()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    out = b"".join(stream.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + stream.close()
    assert PLAIN.encode() not in out
    assert PLAIN.encode().hex().encode() not in out
    assert out == scrubber.clean(text)


PACKINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data, mtime=0)),
    "identity": lambda data: data,
    "": lambda data: data,
}


@pytest.mark.parametrize("coding", PACKINGS)
def test_what_is_packed_is_unpacked(coding: str) -> None:
    assert unpacked(PACKINGS[coding](b"hello " * 1000), coding, 1 << 20) == b"hello " * 1000


def test_bare_deflate_is_unpacked_too() -> None:
    deflate = zlib.compressobj(wbits=-15)
    assert unpacked(deflate.compress(b"hello") + deflate.flush(), "deflate", 100) == b"hello"


def test_members_of_gzip_are_one_body() -> None:
    assert unpacked(gzip.compress(b"a", mtime=0) + gzip.compress(b"b"), "gzip", 100) == b"ab"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "gzip, gzip"])
def test_a_decompression_bomb_is_refused(coding: str) -> None:
    bomb = PACKINGS[coding](b"\0" * (32 << 20))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(Unpackable, match="larger"):
            unpacked(bomb, coding, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, "no more is unpacked than may be kept"


@pytest.mark.parametrize(
    ("data", "coding"),
    [
        (b"not packed", "gzip"),
        (gzip.compress(b"hello" * 100, mtime=0)[:-9], "gzip"),
        (b"x", "br"),
        (b"x", "compress"),
        (b"x", "gzip, gzip, gzip"),
        (b"not packed", "zstd"),
    ],
)
def test_what_cannot_be_unpacked_is_not_passed_on(data: bytes, coding: str) -> None:
    with pytest.raises(Unpackable):
        unpacked(data, coding, 1 << 20)
