"""Where large payloads of a store in a database are kept: objects by name, outside of it.

Rules
1. An object is whole or not there, and durable when `put` returns.
2. A name says what its object is (a digest of it): two that put the same name put the same bytes.
3. Credentials come from the environment, never from the URL.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from holdfast.errors import Away, Misuse, StoreFull, Unknown

DRAFTS = 3
FIX = "blobs=s3://BUCKET/PREFIX, or blobs=file:///DIRECTORY that every machine has"


class Depot(Protocol):
    """Objects by name (parts with `/` between). Every method may be called by several threads at once, and blocks.
    Raises Away where the depot cannot be reached, or refuses."""

    def put(self, name: str, data: bytes) -> None:
        """Keep an object. Raises StoreFull too; on any error it may be there or not."""
        ...

    def get(self, name: str) -> bytes:
        """An object, unchecked. Raises Unknown if it is not there."""
        ...

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The objects whose names start with `prefix` (whole parts), and their sizes in bytes."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are not there already do not matter."""
        ...


def open_depot(url: str) -> Depot:
    """The depot at a URL. Nothing is asked of it yet. Raises Misuse for a URL that names none."""
    parts = urlsplit(url)
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if plain and parts.scheme == "file" and not parts.netloc and url.startswith("file:///") and parts.path.strip("/"):
        return FileDepot(Path(unquote(parts.path)))
    if plain and parts.scheme == "s3" and parts.netloc:
        try:
            from holdfast.store.depot_s3 import S3Depot
        except ImportError as error:
            if error.name != "obstore":
                raise
            raise Misuse(
                "an object store needs obstore, which is not installed", fix='pip install "holdfast[s3]"'
            ) from None
        return S3Depot(url)
    raise Misuse("`blobs` names no place for large payloads, or says more than a place", fix=FIX)


class FileDepot:
    """Files below the directory `root`, which must be there already: one that is not mounted is not made anew."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes) -> None:
        """As `Depot.put`."""
        for again in reversed(range(DRAFTS)):
            try:
                self._put(self._root / name, data)
                return
            except FileNotFoundError as error:  # a sweep took the draft for one that a killed writer has left behind
                if not (again and self._root.is_dir()):
                    raise self._refusal(error) from error
            except OSError as error:
                raise self._refusal(error) from error

    def _put(self, path: Path, data: bytes) -> None:
        self._make(path.parent)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}~")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _flush(path.parent)

    def _make(self, folder: Path) -> None:
        """Make a directory, and those above it below the root, each durable in the one above."""
        if folder == self._root or folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _flush(folder.parent)

    def get(self, name: str) -> bytes:
        """As `Depot.get`."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError as error:
            if not self._root.is_dir():
                raise self._refusal(error) from error
            raise Unknown("there is no such object", where=name) from None
        except OSError as error:
            raise self._refusal(error) from error

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As `Depot.names`."""
        if not self._root.is_dir():
            raise self._refusal(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        for folder, _, files in os.walk(self._root / prefix):
            for name in files:
                path = Path(folder, name)
                try:
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size
                except FileNotFoundError:
                    continue  # somebody else has deleted it, or put it in its place

    def delete(self, names: Sequence[str]) -> None:
        """As `Depot.delete`."""
        try:
            for name in names:
                (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> Away | StoreFull:
        where = str(self._root)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull("no space is left for large payloads", where=where, fix="make room there")
        return Away(f"large payloads cannot be kept: {error.strerror}", where=where, fix="mount it, then resume")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
