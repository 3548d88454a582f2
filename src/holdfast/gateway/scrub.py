"""What comes back from a system, without the credentials that went there.

Rules
1. Each credential is looked for in all its forms (`forms_of`): as it is, encoded once, and with its end or its
   beginning cut off by no more than a third.
2. In a stream, a chunk is given away at once but for an end that may be the beginning of a credential.
3. A credential of less than `SHORTEST` bytes is refused: what would be scrubbed with it is anybody's text.
4. What is packed is unpacked first, within a bound. What cannot be unpacked is not passed on.

Only the credentials of the one call are looked for: the cost grows with each.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import zstandard

from holdfast.errors import HoldfastError, Misuse

SHORTEST: Final = 8  # bytes
TRUNCATED: Final = 24  # bytes; a credential from here on is also found without its last or first third
LINE: Final = 32  # bytes; so long a line of a credential that has several is looked for by itself
LINES_MOST: Final = 64
_STEP: Final = 1 << 16


class Secret(Protocol):
    """A credential, as a vault gives it away."""

    @property
    def name(self) -> str:
        """As it stands under `[credentials]`."""
        ...

    def forms(self) -> tuple[bytes, ...]:
        """Its bytes, and those of what it was until lately."""
        ...


class Unpackable(HoldfastError):
    """A body that cannot be unpacked: damaged, too large, or packed in a way that is not known."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Bytes to look for. What is found by `part` (`whole` without its end or beginning) is followed as far as it
    goes."""

    whole: bytes
    part: bytes
    instead: bytes


class Scrubber:
    """Takes credentials out of bytes. `also`: further texts that carry one (a header as it was sent), with the
    credential's name.

    Raises Misuse for a credential that is too short."""

    def __init__(self, secrets: Iterable[Secret], also: Iterable[tuple[str, bytes]] = ()) -> None:
        forms: dict[bytes, _Form] = {}
        for secret in secrets:
            instead = f"[credential:{secret.name}]".encode()
            for data in secret.forms():
                if len(data) < SHORTEST:
                    raise Misuse(
                        f"the credential `{secret.name}` is too short to be kept from an agent: it has less than "
                        f"{SHORTEST} bytes",
                        fix="use a longer one",
                    )
                for whole, part in _parts(data):
                    forms.setdefault(part, _Form(whole, part, instead))
        for name, data in also:
            if len(data) >= SHORTEST:
                forms.setdefault(data, _Form(data, data, f"[credential:{name}]".encode()))
        self._forms = tuple(forms.values())
        self._longest = max((len(form.whole) for form in self._forms), default=0)

    def with_all(self, other: Scrubber) -> Scrubber:
        """One that looks for what either looks for."""
        if not self._forms or not other._forms:
            return self if self._forms else other
        both = Scrubber(())
        both._forms = tuple(dict.fromkeys((*self._forms, *other._forms)))
        both._longest = max(self._longest, other._longest)
        return both

    def clean(self, data: bytes) -> bytes:
        """`data` with `[credential:NAME]` in the place of each credential."""
        found = self._found(data)
        return _replaced(data, found) if found else data

    def text(self, text: str) -> str:
        """The same for text: an error, a reason."""
        return self.clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def stream(self) -> Stream:
        """The same for what comes in chunks."""
        return Stream(self)

    def _found(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Where credentials stand: beginning, end, what to say instead; in order, and apart."""
        found: list[tuple[int, int, bytes]] = []
        for form in self._forms:
            at = data.find(form.part)
            while at >= 0:
                found.append((*_extent(data, at, form), form.instead))
                at = data.find(form.part, at + 1)
        found.sort(key=lambda place: (place[0], -place[1]))
        apart: list[tuple[int, int, bytes]] = []
        for begin, end, instead in found:
            if apart and begin < apart[-1][1]:
                last = apart[-1]
                apart[-1] = (last[0], max(last[1], end), last[2])
            else:
                apart.append((begin, end, instead))
        return apart

    def _open(self, data: bytes) -> int:
        """Where an end of `data` begins that may be the beginning of a credential; its length if there is none."""
        first = len(data)
        for form in self._forms:
            for whole in {form.whole, form.part}:
                at = data.find(whole[:1], max(0, len(data) - len(whole) + 1), first)
                while at >= 0:
                    if whole.startswith(data[at:]):
                        first = at
                        break
                    at = data.find(whole[:1], at + 1, first)
        return first

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """What of the beginning of a stream may be given away, scrubbed, and what has to wait for more."""
        found, upto = self._found(data), self._open(data)
        for begin, end, _ in found:
            if begin < upto < end and upto - begin <= 4 * self._longest:
                upto = begin
                break
        here = [(begin, min(end, upto), instead) for begin, end, instead in found if begin < upto]
        return _replaced(data[:upto], here), data[upto:]


NOTHING: Final = Scrubber(())
"""Looks for nothing."""


class Stream:
    """A stream of bytes that is scrubbed as it comes."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be given away now."""
        out, self._held = self._scrubber.cut(self._held + chunk)
        return out

    def close(self) -> bytes:
        """What was held back last."""
        held, self._held = self._held, b""
        return self._scrubber.clean(held)


def forms_of(data: bytes) -> tuple[bytes, ...]:
    """The encodings of a secret: raw, hexadecimal, base64 (both alphabets, at each of the three alignments, without the
    characters that its neighbours share), percent-encoded, JSON- and HTML-escaped, and its long lines."""
    forms: dict[bytes, None] = {data: None}
    lines = data.splitlines()
    if len(lines) > 1:
        forms.update((line.strip(), None) for line in lines[:LINES_MOST] if len(line.strip()) >= LINE)
    forms.update((encoded, None) for encoded in _encoded(data))
    return tuple(forms)


def _encoded(data: bytes) -> Iterator[bytes]:
    digits = data.hex()
    yield digits.encode()
    yield digits.upper().encode()
    for alignment in range(3):
        text = base64.b64encode(bytes(alignment) + data)
        whole = text[-(-alignment * 8 // 6) : (alignment + len(data)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))
    percent = "".join(f"%{byte:02X}" for byte in data)
    yield percent.encode()
    yield percent.lower().encode()
    for safe in ("", "/", "-._~!*'()", "-._~!$&'()*+,;=:@/?"):
        quoted = urllib.parse.quote_from_bytes(data, safe=safe)
        yield quoted.encode()
        yield _lower(quoted)
        yield quoted.replace("%20", "+").encode()
    text = data.decode("utf-8", "replace")
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        twice = json.dumps(escaped, ensure_ascii=ascii_only)[1:-1]
        for form in (escaped, escaped.replace("/", "\\/"), twice):
            yield form.encode()
    for quote in (True, False):
        yield html.escape(text, quote).encode()


def _lower(quoted: str) -> bytes:
    """The same with its escapes in lower case."""
    head, *rest = quoted.split("%")
    return "%".join([head, *(part[:2].lower() + part[2:] for part in rest)]).encode()


@functools.lru_cache(maxsize=64)
def _parts(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Each form of a secret as it is looked for: whole, and by which part."""
    found: list[tuple[bytes, bytes]] = []
    for form in forms_of(data):
        if form is data and len(data) >= TRUNCATED:
            most = max(16, -(-len(data) * 2 // 3))
            found += [(data, data[:most]), (data, data[-most:])]
        else:
            found.append((form, form))
    return tuple(found)


def _extent(data: bytes, at: int, form: _Form) -> tuple[int, int]:
    """How far the secret goes whose part was found at `at`."""
    begin, end = at, at + len(form.part)
    if form.whole is form.part:
        return begin, end
    offset = form.whole.find(form.part)
    before, after = form.whole[:offset], form.whole[offset + len(form.part) :]
    while before and begin and data[begin - 1] == before[-1]:
        begin, before = begin - 1, before[:-1]
    while after and end < len(data) and data[end] == after[0]:
        end, after = end + 1, after[1:]
    return begin, end


def _replaced(data: bytes, found: Sequence[tuple[int, int, bytes]]) -> bytes:
    pieces: list[bytes] = []
    upto = 0
    for begin, end, instead in found:
        pieces += [data[upto:begin], instead]
        upto = end
    pieces.append(data[upto:])
    return b"".join(pieces)


def unpacked(data: bytes, codings: str, most: int) -> bytes:
    """A body without its `Content-Encoding` (gzip, deflate, zstd, or several), at most `most` bytes. Raises
    Unpackable."""
    names = [name.strip().lower() for name in codings.split(",") if name.strip()]
    if len(names) > 2:
        raise Unpackable("it is packed more than twice")
    for name in reversed(names):
        match name:
            case "identity":
                continue
            case "gzip" | "x-gzip":
                data = _inflated(data, most, 16 + zlib.MAX_WBITS)
            case "deflate":
                data = _inflated(data, most, zlib.MAX_WBITS if _has_header(data) else -zlib.MAX_WBITS)
            case "zstd":
                data = _zstd(data, most)
            case _:
                raise Unpackable("it is packed in a way that is not known here", fix="let the system send it plain")
    if len(data) > most:
        raise Unpackable(f"it is larger than {most} bytes")
    return data


def _has_header(data: bytes) -> bool:
    """Whether `deflate` means zlib, as the standard says, or bare, as some servers send it."""
    return len(data) >= 2 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def _inflated(data: bytes, most: int, bits: int) -> bytes:
    out = bytearray()
    try:
        while data:
            inflate = zlib.decompressobj(bits)
            while not inflate.eof:
                out += inflate.decompress(data, min(_STEP, most - len(out) + 1))
                if len(out) > most:
                    raise Unpackable(f"it is larger than {most} bytes when unpacked")
                data = inflate.unconsumed_tail
                if not data and not inflate.eof:
                    raise Unpackable("it is packed, and its end is missing")
            data = inflate.unused_data
    except zlib.error:
        raise Unpackable("it is packed, and damaged") from None
    return bytes(out)


def _zstd(data: bytes, most: int) -> bytes:
    out = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data, read_across_frames=True) as reader:
            while piece := reader.read(min(_STEP, most - len(out) + 1)):
                out += piece
                if len(out) > most:
                    raise Unpackable(f"it is larger than {most} bytes when unpacked")
    except zstandard.ZstdError:
        raise Unpackable("it is packed, and damaged") from None
    return bytes(out)
