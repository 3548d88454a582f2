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

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, HoldfastError, Misuse, NotHappened
from holdfast.gateway.connection import Heard, Unanswered, Unreached
from holdfast.gateway.exchange import OWN, Client
from holdfast.gateway.hosts import Origin, take_apart
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber, Unpackable
from holdfast.gateway.upstreams.aws_model import Api, Apis, Keys, Operation, Wire, needs_digest, signed, written
from holdfast.gateway.upstreams.aws_shapes import given
from holdfast.gateway.upstreams.http_answer import ANSWER_MAX, Answer, scrubbed
from holdfast.gateway.upstreams.kit import Kit

if TYPE_CHECKING:
    from holdfast.gateway.credential import Credential
    from holdfast.gateway.upstreams.aws import AwsConfig

LENGTH: Final = "x-holdfast-length"
"""How long the body would have been that was not asked for (HEAD)."""
_DROPPED: Final = frozenset({"x-amz-crc32", "x-amz-security-token", "authorization"})


class AwsSender:
    """Sends requests of the system `name`. Raises Misuse for a configuration that cannot be."""

    def __init__(self, name: str, config: AwsConfig, kit: Kit, apis: Apis) -> None:
        self._name = name
        self._config = config
        self._vault = kit.vault
        dialer = kit.dialer.also(config.private)
        self._ends: dict[tuple[str, str], tuple[Origin, str]] = {}
        for api in apis.by_name.values():
            for region in config.regions:
                url, scope = self._end(apis, api, region)
                try:
                    origin, path, query = take_apart(url)
                    if path != "/" or query is not None:
                        raise BadCall(f"`{url}` is no origin", fix="write https://HOST")
                    dialer.check(origin.host, origin.port)
                except HoldfastError as error:
                    raise Misuse(f"the upstream `{name}` cannot be: {error.what}", fix=error.fix) from None
                self._ends[api.name, region] = origin, scope
        ca = None
        if config.ca_file is not None:
            try:
                ca = ssl.create_default_context(cafile=str(kit.folder / config.ca_file))
            except (OSError, ssl.SSLError) as error:
                raise Misuse(f"`{config.ca_file}` holds no certificates: {type(error).__name__}", where=name) from None
        self._client = Client(dialer, (origin for origin, _ in self._ends.values()), ca)

    def _end(self, apis: Apis, api: Api, region: str) -> tuple[str, str]:
        declared = self._config.endpoints.get(api.name)
        return apis.end(api, region) if declared is None else (declared.rstrip("/"), region)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def answer(
        self, operation: Operation, region: str, parameters: Mapping[str, JSON], receipt: Receipt, *, again: bool
    ) -> tuple[Answer, Scrubber]:
        """What AWS answers, and what takes our keys out of texts. `again`: it may be sent again by whoever calls.

        Raises NotHappened where nothing was sent; any other error is doubt."""
        try:
            request = request_of(operation, parameters, receipt.key)
            origin, scope = self._ends[operation.api.name, region]
            keys, credentials = await self._opened(receipt)
            wire = signed(request, str(origin), operation.api, scope, keys)
        except NotHappened:
            raise
        except (HoldfastError, KeyError) as error:
            why = error.what if isinstance(error, HoldfastError) else "its region or API is not declared any more"
            raise NotHappened(f"it was not sent: {why}") from None
        scrubber = Scrubber(credentials, [(self._config.secret_access_key, wire.headers["Authorization"].encode())])
        return await self._sent(origin, wire, scrubber, again=again, read=receipt.read), scrubber

    async def _opened(self, receipt: Receipt) -> tuple[Keys, list[Credential]]:
        names = [self._config.access_key_id, self._config.secret_access_key]
        names += [self._config.session_token] if self._config.session_token else []
        opened = [await self._vault.open(name, receipt) for name in names]
        texts = [each.reveal().strip() for each in opened]
        return Keys(texts[0], texts[1], texts[2] if len(texts) > 2 else None), opened

    async def _sent(self, origin: Origin, wire: Wire, scrubber: Scrubber, *, again: bool, read: bool) -> Answer:
        try:
            try:
                heard = await self._exchanged(origin, wire, fresh=not again)
            except Unanswered as error:
                if not (read and error.silent):
                    raise
                # A kept connection was closed at the other end while it was taken up: a read is asked once more.
                heard = await self._exchanged(origin, wire, fresh=True)
        except Unreached as error:
            raise NotHappened(f"`{self._name}` could not be reached: {scrubber.text(str(error))}") from None
        except Unanswered as error:
            raise HoldfastError(f"no whole answer came from `{self._name}`: {error}") from None
        length = next((value for name, value in heard.headers if name.lower() == "content-length"), None)
        kept = [(name, value) for name, value in heard.headers if name.lower() not in _DROPPED]
        try:
            if heard.body is None:
                raise Unpackable(f"it is larger than {ANSWER_MAX} bytes")
            found = scrubbed(heard.status, heard.reason, kept, heard.body, scrubber)
        except Unpackable as error:
            bare = [(name, value) for name, value in kept if name.lower() != "content-encoding"]
            found = replace(
                scrubbed(heard.status, heard.reason, bare, b"", scrubber),
                trouble=f"the answer cannot be passed on: {error.what}",
            )
        if wire.method == "HEAD" and length is not None and length.isascii() and length.isdigit():
            found = replace(found, headers=(*found.headers, (LENGTH, length)))
        return found

    async def _exchanged(self, origin: Origin, wire: Wire, *, fresh: bool) -> Heard:
        """Send it as it was signed: its host is `origin`, and path and query are those of its URL."""
        named = {name.lower(): value for name, value in wire.headers.items()}
        headers = {name: value for name, value in named.items() if name not in OWN}
        return await self._client.exchange(
            origin, wire.method, wire.url.removeprefix(str(origin)),
            {"accept": "*/*", **headers, "accept-encoding": "identity"}, wire.body or None,
            timeout_s=self._config.timeout_s, most=ANSWER_MAX, fresh=fresh,
        )  # fmt: skip


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
