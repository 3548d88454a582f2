"""Signed heads: who signed which entries. Notes and checkpoints of C2SP, over the tree of RFC 6962.

Rules
1. Every text has one spelling: canonical base64, plain decimals, lower-case hexadecimal. Any other is `Corrupt`, even
   where it would mean the same, so that no byte of a note can be changed unnoticed.
2. Nothing of a note counts before a signature by the key that was asked for has been checked. Signatures by other keys
   are neither checked nor believed, so a log can change its key and others can sign beside it.
3. No cryptography lives here: signing and checking are passed in, and hashing is SHA-256 alone.

Source: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, RFC 6962 §2.1, docs/log-format.md.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from holdfast.errors import Corrupt

CheckSignature: TypeAlias = Callable[[bytes, bytes], bool]
"""(message, signature) → whether the key that was asked for made this signature of this message."""

ED25519: Final = b"\x01"
SIGNATURES_MAX: Final = 100
SIZE_MAX: Final = 2**64 - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_VKEY = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_IN_ANCHOR = re.compile(r"^((?:[^\n]+\n){3}\n(?:\u2014 [^\n]+\n)+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """An Ed25519 public key (32 bytes) under the name of what it signs for."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart. They are a hint, not a proof."""
        return key_id(self.name, self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line: who says to have signed (`name`, `key_id` of 4 bytes), and the signature itself."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text, which ends in a newline, and the signatures under it: not yet checked."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is signed of a log: its first `size` entries have the tree root `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes


# --- spellings ---


def from_base64(text: str) -> bytes:
    """The bytes of standard, padded, canonical base64. Raises Corrupt for any other spelling of them."""
    try:
        data = b64decode(text, validate=True)
    except ValueError as error:
        raise Corrupt("not base64") from error
    if to_base64(data) != text:
        raise Corrupt("base64 in another spelling than the canonical one")
    return data


def to_base64(data: bytes) -> str:
    """Standard, padded base64 in one line."""
    return b64encode(data).decode("ascii")


def from_decimal(text: str) -> int:
    """A number from 0 to 2^64-1. Raises Corrupt for signs, spaces, leading zeros, or digits that are not ASCII."""
    if not _DECIMAL.fullmatch(text) or int(text) > SIZE_MAX:
        raise Corrupt(f"`{text[:40]}` is not a plain decimal number below 2^64")
    return int(text)


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(letter.isspace() for letter in name):
        raise Corrupt(f"`{name[:80]}` cannot be the name of a key: it is empty, or holds white space or `+`")
    return name


# --- keys ---


def key_id(name: str, public_key: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name ‖ LF ‖ 0x01 ‖ public key)."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def format_vkey(key: VerifierKey) -> str:
    """`NAME+KEYID+BASE64`, as people hand it on. Raises Corrupt for a name that cannot stand in it."""
    return f"{_checked_name(key.name)}+{key.key_id.hex()}+{to_base64(ED25519 + key.public_key)}"


def parse_vkey(text: str) -> VerifierKey:
    """The key that `format_vkey` wrote. Raises Corrupt if any part does not fit the others."""
    parts = _VKEY.fullmatch(text)
    if parts is None:
        raise Corrupt("a verifier key must read `NAME+KEYID+BASE64`")
    encoded = from_base64(parts[3])
    if encoded[:1] != ED25519 or len(encoded) != 33:
        raise Corrupt("a verifier key of an unknown kind or length: only Ed25519 is read")
    key = VerifierKey(name=_checked_name(parts[1]), public_key=encoded[1:])
    if key.key_id.hex() != parts[2]:
        raise Corrupt("a verifier key whose id is that of another key", fix="copy the whole line again")
    return key


# --- notes ---


def format_note(text: str, signatures: Sequence[Signature]) -> str:
    """`text`, an empty line, and a line for each signature. Raises Corrupt if `parse_note` could not read it back."""
    lines = [f"\u2014 {each.name} {to_base64(each.key_id + each.signature)}\n" for each in signatures]
    note = f"{text}\n{''.join(lines)}"
    if parse_note(note) != Note(text=text, signatures=tuple(signatures)):
        raise Corrupt("a text that cannot be signed: it would read back as another one")
    return note


def parse_note(note: str) -> Note:
    """The parts of a note, unchecked. Raises Corrupt for anything that is not exactly of the form."""
    try:
        note.encode()
    except UnicodeEncodeError as error:
        raise Corrupt("a note is not UTF-8") from error
    if _CONTROL.search(note):
        raise Corrupt("a note holds a control character")
    text, blank, below = note.rpartition("\n\n")
    if not blank or not text or not below.endswith("\n"):
        raise Corrupt("a note needs a text, an empty line, and whole signature lines")
    lines = below[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Corrupt(f"a note with more than {SIGNATURES_MAX} signatures")
    return Note(text=f"{text}\n", signatures=tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "\u2014":
        raise Corrupt("a signature line must begin with an em dash and a space")
    data = from_base64(encoded)
    if len(data) < 5:
        raise Corrupt("a signature line is too short to hold a key id and a signature")
    return Signature(name=_checked_name(name), key_id=data[:4], signature=data[4:])


def open_note(note: str, key: VerifierKey, check: CheckSignature) -> str:
    """The text of a note that `key` signed. Raises Corrupt if it did not, or if one of its signatures is wrong.

    `check` must check by `key.public_key`.
    """
    parsed = parse_note(note)
    own = [each for each in parsed.signatures if each.name == key.name and each.key_id == key.key_id]
    if not own:
        raise Corrupt(f"a note that `{key.name}` did not sign", fix="check that the verifier key is this log's")
    if not all(check(parsed.text.encode(), each.signature) for each in own):
        raise Corrupt(f"a note whose signature by `{key.name}` is wrong")
    return parsed.text


# --- heads ---


def format_head(head: Head) -> str:
    """The text to sign: three lines."""
    return f"{head.origin}\n{head.size}\n{to_base64(head.root)}\n"


def parse_head(text: str) -> Head:
    """The head that a text states. Raises Corrupt for extension lines too: this log signs none."""
    lines = text.split("\n")
    if len(lines) != 4 or not lines[0] or lines[3]:
        raise Corrupt("a head must have three lines: origin, size and root")
    root = from_base64(lines[2])
    if len(root) != 32:
        raise Corrupt("the root of a head must have 32 bytes")
    return Head(origin=lines[0], size=from_decimal(lines[1]), root=root)


def sign_head(head: Head, key: VerifierKey, sign: Callable[[bytes], bytes]) -> str:
    """The note that publishes `head`. `sign` makes the Ed25519 signature by the private half of `key`."""
    text = format_head(head)
    return format_note(text, [Signature(name=key.name, key_id=key.key_id, signature=sign(text.encode()))])


def open_head(note: str, key: VerifierKey, check: CheckSignature) -> Head:
    """The head in a note that `key` signed for its own log. Raises Corrupt as `open_note` does."""
    head = parse_head(open_note(note, key, check))
    if head.origin != key.name:
        raise Corrupt(f"a head of `{head.origin}`, not of `{key.name}`")
    return head


def newest_note(anchor: str) -> str | None:
    """The last complete head in an anchor file, or in its end; None if there is none. Not yet checked.

    What was cut off while it was written is passed over.
    """
    notes: list[str] = _IN_ANCHOR.findall(anchor)
    return notes[-1] if notes else None


# --- the tree ---


def leaf(branch: str, digest: bytes) -> bytes:
    """The hash (32 bytes) by which an entry stands in the tree. `branch` has at most 255 bytes."""
    name = branch.encode()
    return hashlib.sha256(b"\x00holdfast/leaf/1\x00" + bytes((len(name),)) + name + digest).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree of `size` leaves: enough to add leaves and to know the root, and no more.

    INVARIANT: `peaks` are the roots of the full subtrees, largest first, one for each bit that is set in `size`.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> "Frontier":
        """The tree with `leaves` (hashes of 32 bytes) behind those it has."""
        size, peaks = self.size, list(self.peaks)
        for each in leaves:
            peaks.append(each)
            size += 1
            for _ in range((size & -size).bit_length() - 1):  # as many pairs as there are new full subtrees
                right = peaks.pop()
                peaks.append(node(peaks.pop(), right))
        return Frontier(size, tuple(peaks))

    def root(self) -> bytes:
        """The root of RFC 6962, 32 bytes. The empty tree's is SHA-256 of nothing."""
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node(peak, root)
        return root

    def encode(self) -> bytes:
        """u64(size) and the peaks."""
        return self.size.to_bytes(8, "big") + b"".join(self.peaks)

    @classmethod
    def decode(cls, data: bytes) -> "Frontier":
        """The frontier that `encode` wrote. Raises Corrupt if the peaks are not as many as the size asks for."""
        size, rest = int.from_bytes(data[:8], "big"), data[8:]
        if len(data) != 8 + 32 * size.bit_count():
            raise Corrupt("the edge of the tree does not fit its size", fix="rebuild it from the entries")
        return cls(size, tuple(rest[at : at + 32] for at in range(0, len(rest), 32)))
