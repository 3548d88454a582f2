"""Stores by URL."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from holdfast.errors import Misuse
from holdfast.store import Store

_OPTIONS = {"claim_ttl_s", "flush_s", "key", "anchor", "workspaces", "overlay"}
_POSTGRES_OPTIONS = {  # the others are libpq's
    "claim_ttl_s", "beat_s", "patience_s", "key", "anchor", "workspaces", "overlay", "blobs",
}  # fmt: skip
_OVERLAY = {"auto": 1000, "1": 0, "0": None}  # from how many files on a new directory is an overlay; None: never


@dataclass(frozen=True, slots=True)
class Opening:
    """A store that was opened, and the secret (32 bytes) that keys commitments to secret arguments. `workspaces`: where
    the files of its runs are; None: nowhere that lasts. `follow`: the store has them too, so that they follow their run
    to other machines. `own`: its own files, which no workspace may hold.
    `overlay_files`: a new directory of so many files is an overlay, where that can be had; None: never."""

    store: Store
    secret: bytes
    workspaces: Path | None = None
    follow: bool = False
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
    if parts.scheme == "gateway":
        from holdfast.store.remote import RemoteStore

        return Opening(RemoteStore(gateway_socket(url)), secrets.token_bytes(32))
    if parts.scheme in ("postgresql", "postgres"):
        return _open_postgres(url)
    raise Misuse(
        f"`{shown(url)}` names no store",
        fix="write sqlite:///runs.db (relative), sqlite:////var/lib/runs.db (absolute), postgresql://USER@HOST/DATABASE"
        " or memory://",
    )


def gateway_socket(url: str) -> Path:
    """The admin door that a gateway URL names. Raises Misuse."""
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2 or parts.query:
        raise Misuse(f"`{url}` names no gateway", fix="write gateway:///PATH/admin.sock: the path of its admin door")
    return Path(unquote(parts.path))


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
    if parts.scheme != "sqlite":
        raise Misuse(
            "this can be done with a store in a file only, so far",
            where=shown(url),
            fix="--store sqlite:///FILE",
        )
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


def workspaces(url: str) -> Path | None:
    """Where this machine has the files of the runs of the store at a URL; None: nowhere that lasts. Raises Misuse for a
    URL that names neither a file nor a database."""
    if not is_postgres(url):
        return sqlite_files(url).workspaces
    found = _postgres_options(url).get("workspaces")
    return None if found is None else Path(found)


@dataclass(frozen=True, slots=True)
class Keepsakes:
    """What a log has outside its database: its key, and its anchor (None: it has none)."""

    key: Path
    anchor: Path | None


def keepsakes(url: str, log_id: str) -> Keepsakes:
    """Where the key and the anchor of the log in the store at a URL are. Raises Misuse for a URL that has none."""
    from holdfast.store.heads import default_anchor, default_key

    if not is_postgres(url):
        files = sqlite_files(url)
        return Keepsakes(files.key, default_anchor(log_id) if files.anchor == "default" else files.anchor)
    options = _postgres_options(url)
    anchor = options.get("anchor", "default")
    return Keepsakes(
        Path(options["key"]) if "key" in options else default_key(log_id),
        default_anchor(log_id) if anchor == "default" else None if anchor == "none" else Path(anchor),
    )


def is_postgres(url: str) -> bool:
    """Whether a URL names a database on PostgreSQL."""
    return url.startswith(("postgresql:", "postgres:"))


def _postgres_options(url: str) -> dict[str, str]:
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name in _POSTGRES_OPTIONS}


def shown(url: str) -> str:
    """A store's URL as it may be shown: without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}").geturl()


def postgres_address(url: str) -> str:
    """What libpq is told of a postgresql URL: all but our own options."""
    parts = urlsplit(url)
    given = [(name, value) for name, value in parse_qsl(parts.query) if name not in _POSTGRES_OPTIONS]
    return f"postgresql://{parts.netloc}{parts.path}?{urlencode(given)}"


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query))
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise Misuse(f"unknown store option `{min(unknown)}`", fix=f"known: {', '.join(sorted(_OPTIONS))}")
    _overlay(options)
    return options


def _overlay(options: dict[str, str]) -> int | None:
    choice = options.get("overlay", "0")
    if choice not in _OVERLAY:
        raise Misuse(f"`overlay={choice}` is no choice", fix=f"known: {', '.join(_OVERLAY)}")
    return _OVERLAY[choice]


def workspaces_of(url: str) -> tuple[Path | None, tuple[Path, ...]]:
    """Where the files of the runs of the store at a URL are (None: nowhere), and what of it no workspace may hold; the
    store need not be opened. Raises Misuse for a URL that names no store with files."""
    if is_postgres(url):
        options = _postgres_options(url)
        return (Path(options["workspaces"]).absolute() if "workspaces" in options else None), ()
    files = sqlite_files(url)
    return files.workspaces.absolute(), (files.path.absolute(), files.key.absolute())


def _number(options: dict[str, str], name: str, default: float) -> float:
    try:
        return float(options.get(name, default))
    except ValueError:
        raise Misuse(f"the store option `{name}` is not a number", fix=f"{name}={default:g}") from None


def _open_sqlite(url: str) -> Opening:
    from holdfast.store.sqlite import SqliteStore

    files, options = sqlite_files(url), _options(urlsplit(url).query)
    claim_ttl_s, flush_s = _number(options, "claim_ttl_s", 15), _number(options, "flush_s", 1)
    store = SqliteStore(files.path, claim_ttl_s=claim_ttl_s, flush_s=flush_s, key=files.key, anchor=files.anchor)
    own = tuple(path.absolute() for path in (files.path, files.key, store.heads.anchor) if path is not None)
    secret, workspaces = store.heads.key.secret(), files.workspaces.absolute()
    return Opening(store, secret, workspaces, own=own, overlay_files=_overlay(options))


@contextlib.contextmanager
def needing_psycopg() -> Generator[None]:
    """Import what stands on psycopg, which is an extra. Raises Misuse where it is not installed."""
    try:
        yield
    except ImportError as error:
        if not (error.name or str(error)).startswith(("psycopg", "no pq wrapper")):
            raise
        raise Misuse(
            "PostgreSQL needs psycopg, which is not installed", fix='pip install "holdfast[postgres]"'
        ) from None


def _open_postgres(url: str) -> Opening:
    with needing_psycopg():
        from holdfast.store.postgres import PostgresStore
        from holdfast.store.postgres_key import log_key
    from holdfast.store.heads import Heads

    options = _postgres_options(url)
    overlay = _overlay(options)
    store = PostgresStore(
        postgres_address(url),
        claim_ttl_s=_number(options, "claim_ttl_s", 15),
        beat_s=_number(options, "beat_s", 1),
        patience_s=_number(options, "patience_s", 30),
        blobs=options.get("blobs"),
    )
    try:
        kept = keepsakes(url, store.log_id)
        key = log_key(store, store.log_id, kept.key)
        store.sign_with(Heads(key, kept.anchor))
    except BaseException:
        store.let_go()
        raise
    workspaces = Path(options["workspaces"]).absolute() if "workspaces" in options else None
    own = tuple(path.absolute() for path in (kept.key, kept.anchor) if path is not None)
    return Opening(store, key.secret(), workspaces, store.depot is not None, own, overlay)
