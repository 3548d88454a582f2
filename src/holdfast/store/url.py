"""Stores by URL."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.errors import Misuse
from holdfast.store import Store

_OPTIONS = {"claim_ttl_s", "flush_s", "key", "anchor", "workspaces", "overlay"}
_OVERLAY = {"auto": 1000, "1": 0, "0": None}  # from how many files on a new directory is an overlay; None: never


@dataclass(frozen=True, slots=True)
class Opening:
    """A store that was opened, and the secret (32 bytes) that keys commitments to secret arguments. `workspaces`: where
    the files of its runs are; None: nowhere that lasts. `own`: its own files, which no workspace may hold.
    `overlay_files`: a new directory of so many files is an overlay, where that can be had; None: never."""

    store: Store
    secret: bytes
    workspaces: Path | None = None
    own: tuple[Path, ...] = ()
    overlay_files: int | None = None


def open_url(url: str) -> Opening:
    """The store at a URL. Raises Misuse for a URL that names none, Stopped for one that cannot be used."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from holdfast.store.memory import MemoryStore

        return Opening(MemoryStore(), secrets.token_bytes(32))
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        return _open_sqlite(url)
    if parts.scheme == "gateway" and not parts.netloc and len(parts.path) > 1:
        from holdfast.store.remote import RemoteStore

        return Opening(RemoteStore(Path(unquote(parts.path))), secrets.token_bytes(32))
    raise Misuse(
        f"`{url}` names no store",
        fix="write sqlite:///runs.db (relative), sqlite:////var/lib/runs.db (absolute) or memory://",
    )


@dataclass(frozen=True, slots=True)
class SqliteFiles:
    """The files of a SQLite store: the database, its log key, its anchor (None: it has none), and the directory of its
    workspaces."""

    path: Path
    key: Path
    anchor: Path | Literal["default"] | None
    workspaces: Path


def sqlite_files(url: str) -> SqliteFiles:
    """The files that a sqlite URL names. Raises Misuse for an option that is not known."""
    parts = urlsplit(url)
    path, options = Path(unquote(parts.path[1:])), _options(parts.query)
    if not path.name:
        raise Misuse(f"`{url}` names no file", fix="write sqlite:///runs.db, or sqlite:////var/lib/runs.db")
    anchor = options.get("anchor", "default")
    return SqliteFiles(
        path=path,
        key=Path(options["key"]) if "key" in options else path.with_name(path.name + "-key"),
        anchor="default" if anchor == "default" else None if anchor == "none" else Path(anchor),
        workspaces=Path(options["workspaces"]) if "workspaces" in options else path.with_name(path.name + "-files"),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query))
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise Misuse(f"unknown store option `{min(unknown)}`", fix=f"known: {', '.join(sorted(_OPTIONS))}")
    if options.get("overlay", "0") not in _OVERLAY:
        raise Misuse(f"`overlay={options['overlay']}` is no choice", fix=f"known: {', '.join(_OVERLAY)}")
    return options


def _open_sqlite(url: str) -> Opening:
    from holdfast.store.sqlite import SqliteStore

    files, options = sqlite_files(url), _options(urlsplit(url).query)
    try:
        claim_ttl_s, flush_s = float(options.get("claim_ttl_s", "15")), float(options.get("flush_s", "1"))
    except ValueError:
        raise Misuse("a store option is not a number", fix="claim_ttl_s=15&flush_s=1") from None
    store = SqliteStore(files.path, claim_ttl_s=claim_ttl_s, flush_s=flush_s, key=files.key, anchor=files.anchor)
    own = tuple(path.absolute() for path in (files.path, files.key, store.heads.anchor) if path is not None)
    return Opening(
        store, store.heads.key.secret(), files.workspaces.absolute(), own, _OVERLAY[options.get("overlay", "0")]
    )
