"""By which key, and against which anchor, a store is checked.

Rules
1. A key that is given counts. Else it is derived from the log key beside the database, and the result says so.
2. Nothing is made: no key, no anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.core.note import format_vkey, parse_vkey
from holdfast.errors import Corrupt, Misuse, Unwritable
from holdfast.store.heads import load_key
from holdfast.store.url import SqliteFiles, sqlite_files


@dataclass(frozen=True, slots=True)
class Pinned:
    """A verifier key, and where it comes from: `given`, or the file of the log key."""

    vkey: str
    source: str


def files_of(url_or_path: str) -> SqliteFiles:
    """The files of a store, named by its URL or by its database."""
    return sqlite_files(url_or_path if "://" in url_or_path else f"sqlite:///{url_or_path}")


def pinned(key: Path, log_id: str, vkey: str | None) -> Pinned:
    """The key to check a store by. Raises Misuse if none is given and there is no log key."""
    if vkey is not None:
        return Pinned(checked(vkey), "given")
    try:
        return Pinned(format_vkey(load_key(key, log_id, new=False).verifier), str(key))
    except (Unwritable, Corrupt) as error:
        raise Misuse(
            f"nothing says by which key to check: {error.what}", where=str(key), fix="give it: --vkey KEY"
        ) from None


def checked(vkey: str) -> str:
    """A verifier key that is one. Raises Misuse."""
    try:
        parse_vkey(vkey)
    except Corrupt as error:
        raise Misuse(
            f"`{vkey}` is no verifier key: {error.what}", fix="write NAME+KEYID+BASE64, as `holdfast anchor` does"
        ) from None
    return vkey


def ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is right."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
