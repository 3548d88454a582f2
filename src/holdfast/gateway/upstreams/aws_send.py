"""One request to AWS: written anew from its parameters, signed with the real keys, and its answer without them.

Rules
1. All that can fail before the first byte is sent fails as NotHappened. What fails afterwards is doubt.
2. The keys are opened for the receipt of the call, and nothing that leaves here shows them: no answer, no error.
3. Bytes follow from the parameters and the key alone: what is sent again is the same request, signed anew.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import aiohttp
from yarl import URL

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, HoldfastError, Misuse, NotHappened
from holdfast.gateway.hosts import take_apart
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber, Unpackable
from holdfast.gateway.upstreams.aws_model import Api, Apis, Keys, Operation, Wire, needs_digest, signed, written
from holdfast.gateway.upstreams.aws_shapes import given
from holdfast.gateway.upstreams.http_answer import ANSWER_MAX, Answer, scrubbed
from holdfast.gateway.upstreams.kit import Kit

if TYPE_CHECKING:
    from holdfast.gateway.credential import Credential
    from holdfast.gateway.upstreams.aws import AwsConfig

CONNECT_S: Final = 10.0
LENGTH: Final = "x-holdfast-length"
"""How long the body would have been that was not asked for (HEAD)."""
_DROPPED: Final = frozenset({"x-amz-crc32", "x-amz-security-token", "authorization"})


class AwsSender:
    """Sends requests of the system `name`. Raises Misuse for a configuration that cannot be."""

    def __init__(self, name: str, config: AwsConfig, kit: Kit, apis: Apis) -> None:
        self._name = name
        self._config = config
        self._vault = kit.vault
        self._ends = {
            (api.name, region): self._end(apis, api, region)
            for api in apis.by_name.values()
            for region in config.regions
        }
        dialer = kit.dialer.also(config.private)
        hosts: list[str] = []
        try:
            for url, _ in self._ends.values():
                origin, path, query = take_apart(url)
                if path != "/" or query is not None:
                    raise BadCall(f"`{url}` is no origin", fix="write https://HOST")
                dialer.check(origin.host, origin.port)
                hosts.append(f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}")
        except HoldfastError as error:
            raise Misuse(f"the upstream `{name}` cannot be: {error.what}", fix=error.fix) from None
        ca = None
        if config.ca_file is not None:
            try:
                ca = ssl.create_default_context(cafile=str(kit.folder / config.ca_file))
            except (OSError, ssl.SSLError) as error:
                raise Misuse(f"`{config.ca_file}` holds no certificates: {type(error).__name__}", where=name) from None
        self._kept = dialer.client(hosts, ca=ca)
        self._fresh = dialer.client(hosts, ca=ca, kept=False)

    def _end(self, apis: Apis, api: Api, region: str) -> tuple[str, str]:
        declared = self._config.endpoints.get(api.name)
        return apis.end(api, region) if declared is None else (declared.rstrip("/"), region)

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()

    async def answer(
        self, operation: Operation, region: str, parameters: Mapping[str, JSON], receipt: Receipt, *, again: bool
    ) -> tuple[Answer, Scrubber]:
        """What AWS answers, and what takes our keys out of texts. `again`: it may be sent again by whoever calls.

        Raises NotHappened where nothing was sent; any other error is doubt."""
        try:
            request = request_of(operation, parameters, receipt.key)
            end, scope = self._ends[operation.api.name, region]
            keys, credentials = await self._opened(receipt)
            wire = signed(request, end, operation.api, scope, keys)
        except NotHappened:
            raise
        except (HoldfastError, KeyError) as error:
            why = error.what if isinstance(error, HoldfastError) else "its region or API is not declared any more"
            raise NotHappened(f"it was not sent: {why}") from None
        scrubber = Scrubber(credentials, [(self._config.secret_access_key, wire.headers["Authorization"].encode())])
        return await self._sent(wire, scrubber, again=again, read=receipt.read), scrubber

    async def _opened(self, receipt: Receipt) -> tuple[Keys, list[Credential]]:
        names = [self._config.access_key_id, self._config.secret_access_key]
        names += [self._config.session_token] if self._config.session_token else []
        opened = [await self._vault.open(name, receipt) for name in names]
        texts = [each.reveal().strip() for each in opened]
        return Keys(texts[0], texts[1], texts[2] if len(texts) > 2 else None), opened

    async def _sent(self, wire: Wire, scrubber: Scrubber, *, again: bool, read: bool) -> Answer:
        client = self._kept if again else self._fresh
        try:
            try:
                status, reason, headers, body = await self._exchanged(client, wire)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionResetError):
                if not read:
                    raise
                # A kept connection was closed at the other end while it was taken up: a read is asked once more.
                status, reason, headers, body = await self._exchanged(self._fresh, wire)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            why = scrubber.text(f"{type(error).__name__}: {error}")
            raise NotHappened(f"`{self._name}` could not be reached: {why}") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise HoldfastError(f"no whole answer came from `{self._name}`: {type(error).__name__}") from None
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        kept = [(name, value) for name, value in headers if name.lower() not in _DROPPED]
        try:
            if body is None:
                raise Unpackable(f"it is larger than {ANSWER_MAX} bytes")
            found = scrubbed(status, reason, kept, body, scrubber)
        except Unpackable as error:
            bare = [(name, value) for name, value in kept if name.lower() != "content-encoding"]
            found = replace(
                scrubbed(status, reason, bare, b"", scrubber), trouble=f"the answer cannot be passed on: {error.what}"
            )
        if wire.method == "HEAD" and length is not None and length.isascii() and length.isdigit():
            found = replace(found, headers=(*found.headers, (LENGTH, length)))
        return found

    async def _exchanged(
        self, client: aiohttp.ClientSession, wire: Wire
    ) -> tuple[int, str, list[tuple[str, str]], bytes | None]:
        timeout_s = self._config.timeout_s
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s / 2, CONNECT_S))
        headers = {**wire.headers, "Accept-Encoding": "identity", "Accept": "*/*"}
        async with client.request(
            wire.method, URL(wire.url, encoded=True), headers=headers, data=wire.body or None, allow_redirects=False,
            timeout=timeout, skip_auto_headers=("Content-Type",),
        ) as response:  # fmt: skip
            return response.status, response.reason or "", list(response.headers.items()), await _read(response)


def request_of(operation: Operation, parameters: Mapping[str, JSON], key: str) -> dict[str, Any]:
    """The request that these parameters stand for; `key` is its idempotency key, where its API has a place for one.
    Raises BadCall."""
    filled: dict[str, Any] = given(operation.input, dict(parameters)) if parameters else {}
    if operation.token is not None:
        filled[operation.token] = str(UUID(hex=key or hashlib.sha256(b"read").hexdigest()[:32]))
    request = written(operation, filled)
    if needs_digest(operation) and isinstance(request["body"], bytes):
        digest = base64.b64encode(hashlib.md5(request["body"], usedforsecurity=False).digest()).decode()
        request["headers"] = {**request["headers"], "Content-MD5": digest}
    return request


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body as it came; None if it is too large."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(1 << 16):
        size += len(piece)
        if size > ANSWER_MAX:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)
