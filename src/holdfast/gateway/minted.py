"""Secrets that a system made for an agent: kept here, and named to the agent by a handle.

Rules
1. A handle is worth nothing outside: it is resolved for the run that it was made for, at the systems that it names.
2. What is kept is durable before its handle is given away, and stands sealed (AES-256-GCM) in a file of its own beside
   the store. The key is in another file (mode 600).
3. Handles are kept by their digest: neither file tells one, even to whoever has the key.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.errors import Corrupt, StoreFull, Unwritable

HANDLE = re.compile(r"hfv_[A-Za-z0-9_-]{43}")
"""What a handle looks like, wherever it stands in a text."""

_CONTEXT = b"holdfast/kept/1"
_NONCE = 12  # bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A secret that was made for `run`, for use at `systems`. `name` is how people speak of it."""

    name: str
    run: str
    systems: tuple[str, ...]
    value: str

    def __repr__(self) -> str:
        return f"<kept `{self.name}`>"


class Minted:
    """All that is kept in the file `path`; None: in memory only. Raises Corrupt, or Unwritable, where the file cannot
    be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Kept] = {}
        self._seal = AESGCM(secrets.token_bytes(32) if path is None else _key(path.with_name(path.name + "-key")))
        if path is not None:
            self._load(path)

    def keep(self, kept: Kept) -> str:
        """A new handle. Raises StoreFull or Unwritable, and then nothing was kept."""
        handle = "hfv_" + secrets.token_urlsafe(32)
        name = _digest(handle)
        if self._path is not None:
            nonce = secrets.token_bytes(_NONCE)
            text = json.dumps([name, asdict(kept)]).encode()
            _append(self._path, base64.b64encode(nonce + self._seal.encrypt(nonce, text, _CONTEXT)) + b"\n")
        self._known[name] = kept
        return handle

    def find(self, handle: str) -> Kept | None:
        """What a handle stands for."""
        return self._known.get(_digest(handle))

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unwritable(f"it cannot be read: {error.strerror}", where=str(path)) from None
        whole, _, torn = data.rpartition(b"\n")
        if torn:  # of a write that was cut off: nobody was given its handle
            os.truncate(path, len(data) - len(torn))
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                sealed = base64.b64decode(line, validate=True)
                name, fields = json.loads(self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], _CONTEXT))
                self._known[name] = Kept(fields["name"], fields["run"], tuple(fields["systems"]), fields["value"])
            except (ValueError, KeyError, TypeError, InvalidTag):
                fix = "restore it, with its key, from a backup; without it the handles of running agents are void"
                raise Corrupt("a kept secret cannot be opened", where=f"{path}:{number}", fix=fix) from None


def _digest(handle: str) -> str:
    return hashlib.sha256(b"holdfast/handle/1\0" + handle.encode("utf-8", "surrogatepass")).hexdigest()


def _key(path: Path) -> bytes:
    """The key (32 bytes) in this file; made where there is none."""
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(32))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if path.stat().st_mode & 0o077:
            raise Unwritable("others may read the key of kept secrets", where=str(path), fix=f"chmod 600 {path}")
        found = path.read_bytes()
    except OSError as error:
        raise Unwritable(f"the key of kept secrets: {error.strerror}", where=str(path)) from None
    if len(found) != 32:
        raise Corrupt("it is no key of kept secrets", where=str(path), fix="restore it from a backup")
    return found


def _append(path: Path, line: bytes) -> None:
    """Add a line, durably: all of it, or nothing."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError(28, "no space is left")
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        kind = StoreFull if error.errno in (27, 28, 122) else Unwritable
        raise kind(f"a secret cannot be kept: {error.strerror}", where=str(path)) from None
