"""Where secrets come from: one seam, and the references that name them.

    env:NAME                  the gateway's own environment, read when it starts, and taken out of it
    file:PATH                 a file that only its owner may read (`file:PATH?lax`: others may, too)
    keyring:SERVICE/USER      the keyring of the user that the gateway runs as (extra `keyring`)
    vault:MOUNT/PATH#FIELD    a field of a secret in HashiCorp Vault, KV version 2

Rules
1. A reference is no secret: it may be shown. What it leads to never is, in no error either.
2. Each read asks again: what was rotated counts from the next call on. Only `env:` is as it was at the start.
3. A secret that cannot be had is an error, never an empty text.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from holdfast.errors import Misuse
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.credential import Credential

SCHEMES = ("env", "file", "keyring", "vault")
LARGEST_BYTES = 64 << 10
KV_TIMEOUT_S = 10.0
KV_BYTES = 1 << 20
_taken: dict[str, Credential] = {}  # what was taken out of the environment of this process


class Source(Protocol):
    """Where one secret is kept."""

    async def read(self) -> str:
        """The secret as it is now. Raises NotHappened, without it, where it cannot be had."""
        ...

    def missing(self) -> str | None:
        """Why it cannot be had, as far as that can be told without asking anybody outside; None if nothing is known
        against it. Changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Kv:
    """A HashiCorp Vault server: its address (`https://…`; `http://` for loopback only), where its token comes from,
    and its namespace, if any."""

    address: str
    token: Source
    namespace: str = ""


def source_of(reference: str, folder: Path, kv: Kv | None = None) -> Source:
    """The source that a reference names; files are relative to `folder`. Raises Misuse if it names none."""
    scheme, colon, rest = reference.partition(":")
    if not colon or scheme not in SCHEMES or not rest:
        raise Misuse(
            "a credential is given by a reference, and never itself",
            fix=f"write {', '.join(f'{known}:…' for known in SCHEMES)}",
        )
    match scheme:
        case "env":
            return EnvironmentSource(rest)
        case "file":
            path, _, option = rest.partition("?")
            if option not in ("", "lax"):
                raise Misuse(f"`{option}` is no option of a file", fix="write file:PATH, or file:PATH?lax")
            return FileSource(folder / Path(path).expanduser(), lax=option == "lax")
        case "keyring":
            service, _, user = rest.rpartition("/")
            if not service or not user:
                raise Misuse(f"`{reference}` names no entry of a keyring", fix="write keyring:SERVICE/USER")
            return KeyringSource(service, user)
        case _:
            return _kv_source(reference, rest, kv)


def _kv_source(reference: str, rest: str, kv: Kv | None) -> KvSource:
    path, _, field = rest.partition("#")
    parts = path.split("/")
    if not field or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise Misuse(f"`{reference}` names no field of a secret", fix="write vault:MOUNT/PATH#FIELD")
    if kv is None:
        raise Misuse(
            f"`{reference}` needs a server, and none is named",
            fix="name it: `vault_address` and `vault_token` under [gateway], or VAULT_ADDR and VAULT_TOKEN",
        )
    address = urlsplit(kv.address)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in ("127.0.0.1", "::1")):
        raise Misuse(f"`{kv.address}` is not where secrets may be fetched from", fix="name an address with https://")
    return KvSource(kv, parts[0], "/".join(parts[1:]), field)


class EnvironmentSource:
    """A variable of the environment in which the gateway was started. `take` removes it from there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def take(self) -> None:
        """Take the variable out of the environment of this process, also out of what the system shows of it
        (`/proc/PID/environ`): no child inherits it, and nobody reads it there."""
        found = os.environ.get(self.name)
        if found is None:
            return
        _taken[self.name] = Credential(self.name, found)
        _wipe(self.name)
        os.environ.pop(self.name, None)

    async def read(self) -> str:
        """As it was when the gateway started."""
        found = self._found()
        if not found:
            raise DidNotHappen(f"the variable `{self.name}` is not set")
        return found

    def missing(self) -> str | None:
        """As `Source.missing`."""
        return None if self._found() else f"the variable `{self.name}` is not set"

    def _found(self) -> str | None:
        taken = _taken.get(self.name)
        return os.environ.get(self.name) if taken is None else taken.reveal()


def _wipe(name: str) -> None:
    """Overwrite a variable where the process was given it: what was only unset can still be read from outside."""
    if sys.platform not in ("linux", "darwin"):
        return
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    libc.getenv.argtypes = [ctypes.c_char_p]
    place = libc.getenv(os.fsencode(name))
    if place:
        ctypes.memset(place, ord("x"), len(ctypes.string_at(place)))


class FileSource:
    """A file. It is read anew each time, so that it may be replaced at any moment."""

    def __init__(self, path: Path, *, lax: bool = False) -> None:
        self.path = path
        self.lax = lax

    async def read(self) -> str:
        """The text of the file, without the line end after it."""
        return self._read()

    def missing(self) -> str | None:
        """As `Source.missing`."""
        try:
            self._read()
        except DidNotHappen as error:
            return error.what
        return None

    def _read(self) -> str:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DidNotHappen(f"the file cannot be read: {error.strerror}", where=str(self.path)) from None
        try:
            if (why := self._objection(os.fstat(descriptor))) is not None:
                raise DidNotHappen(why, where=str(self.path), fix=f"chmod 600 {self.path}")
            data = os.read(descriptor, LARGEST_BYTES + 1)
        except OSError as error:
            raise DidNotHappen(f"the file cannot be read: {error.strerror}", where=str(self.path)) from None
        finally:
            os.close(descriptor)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise DidNotHappen("the file is not UTF-8 text", where=str(self.path)) from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text or len(data) > LARGEST_BYTES:
            raise DidNotHappen("the file is empty" if not text else "the file is too large", where=str(self.path))
        return text

    def _objection(self, found: os.stat_result) -> str | None:
        if not stat.S_ISREG(found.st_mode):
            return "it is no file"
        if found.st_mode & 0o077 and not self.lax:
            return f"others than its owner may read or write it (mode {stat.S_IMODE(found.st_mode):o})"
        return None


class KeyringSource:
    """An entry of the user's keyring."""

    def __init__(self, service: str, user: str) -> None:
        self.service = service
        self.user = user

    async def read(self) -> str:
        """The password of the entry."""
        found = await asyncio.to_thread(self._ask)
        if not found:
            raise DidNotHappen(f"the keyring has no entry `{self.service}/{self.user}`")
        return found

    def missing(self) -> str | None:
        """As `Source.missing`."""
        try:
            return None if self._ask() else f"the keyring has no entry `{self.service}/{self.user}`"
        except DidNotHappen as error:
            return error.what

    def _ask(self) -> str | None:
        try:
            import keyring
        except ImportError:
            raise DidNotHappen("keyrings need an extra", fix="pip install 'holdfast[keyring]'") from None
        try:
            return keyring.get_password(self.service, self.user)
        except Exception as error:  # noqa: BLE001 - somebody else's backend: it may raise anything
            raise DidNotHappen(f"the keyring does not answer ({type(error).__name__})") from None


class KvSource:
    """A field of a secret in HashiCorp Vault (KV version 2), as it is now."""

    def __init__(self, kv: Kv, mount: str, path: str, field: str) -> None:
        self._kv = kv
        self._mount = mount
        self._path = path
        self._field = field

    def missing(self) -> str | None:
        """As `Source.missing`: of the token; the server is not asked."""
        return self._kv.token.missing()

    async def read(self) -> str:
        """The field of the newest version."""
        where = f"vault:{self._mount}/{self._path}#{self._field}"
        body = await self._fetch(where)
        match body:
            case {"data": {"data": {self._field: str(value)}}} if value:
                return value
            case _:
                raise DidNotHappen("the secret has no such field, or no version that is not deleted", where=where)

    async def _fetch(self, where: str) -> Any:
        import json

        import aiohttp
        from yarl import URL

        segments = "/".join(quote(part, safe="") for part in (self._mount, "data", *self._path.split("/")))
        headers = {"X-Vault-Token": await self._kv.token.read(), "X-Vault-Request": "true"}
        if self._kv.namespace:
            headers["X-Vault-Namespace"] = self._kv.namespace
        url = URL(f"{self._kv.address.rstrip('/')}/v1/{segments}", encoded=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=KV_TIMEOUT_S), trust_env=False) as client,
                client.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                data = await answer.content.read(KV_BYTES)
                if answer.status != 200:
                    raise DidNotHappen(f"the server answered {answer.status}", where=where)
                return json.loads(data)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DidNotHappen(f"the server does not answer ({type(error).__name__})", where=where) from None
