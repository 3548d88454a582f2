"""Sending mail: irreversible, to declared recipients only, and in doubt exactly when it may have been taken.

Rules
1. Whom it goes to is declared: without `recipients` nothing is sent to anybody.
2. Up to the dot that ends a letter nothing was sent. What goes wrong before it proves that; an answer to it tells; no
   answer to it is doubt, which a person settles: a mail server cannot be asked.
3. The key of the call is the letter's Message-ID, so that whoever settles a doubt knows what to look for.
4. Nothing goes in the clear, but to an address that is not public.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from pydantic import BaseModel, Field, model_validator

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import Contract, Drift, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, Misuse, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.smtp_letter import Letter, address_of, letter_of, may_be_set
from holdfast.gateway.upstreams.smtp_sending import Refusal, Sending, Way

if TYPE_CHECKING:
    from holdfast.gateway.dial import Pinned
    from holdfast.gateway.upstreams.kit import Kit

SEND: Final = "send"

_PEOPLE: Final[JSON] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
SCHEMA: Final[dict[str, JSON]] = {
    "type": "object",
    "properties": {
        "from": {"type": "string"},
        "to": _PEOPLE,
        "cc": _PEOPLE,
        "bcc": _PEOPLE,
        "subject": {"type": "string"},
        "text": {"type": "string"},
        "html": {"type": "string"},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "reference": {"type": "string", "description": "what it is about: the same to the same people is sent once"},
    },
    "additionalProperties": False,
}


class SmtpConfig(BaseModel, extra="forbid", frozen=True):
    """A mail server. Without `recipients`, nothing is sent."""

    kind: Literal["smtp"] = Field(description="`smtp`")
    host: str = Field(description="the mail server")
    port: int = Field(587, ge=1, le=65535, description="its port")
    tls: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="`none` only where its address is not public"
    )
    ca: str = Field("", description="a file of authorities to trust (default: those of the system)")
    user: str = Field("", description="who signs in; empty: nobody does")
    credential: str = Field("", description="the password of `user`, as named in [credentials]")
    private: tuple[str, ...] = Field((), description="hosts, HOST:PORT or networks that may be private addresses")
    senders: tuple[str, ...] = Field(min_length=1, description="who may send; the first where a call names nobody")
    recipients: tuple[str, ...] = Field((), description="who may be written to: addresses, domains, or `*` for anybody")
    most_recipients: int = Field(10, ge=1, le=1000, description="recipients of one letter, at most")
    reference: bool = Field(True, description="whether a call must say what it is about")
    headers: tuple[str, ...] = Field((), description="further headers that a call may set")
    size_bytes: int = Field(1_000_000, ge=1, le=50_000_000, description="size of a letter, at most")
    timeout_s: float = Field(60, gt=0, le=600, description="seconds that the server may take for one answer")
    later_s: float = Field(60, gt=0, description="seconds until it is tried again after `not now`")
    hello: str = Field("localhost", pattern=r"^[A-Za-z0-9.-]+$", description="the name that we greet with")

    @model_validator(mode="after")
    def _whole(self) -> SmtpConfig:
        for name in self.headers:
            if not may_be_set(name):
                raise ValueError(f"the header `{name}` cannot be left to a call")
        if bool(self.user) != bool(self.credential):
            raise ValueError("`user` and `credential` belong together")
        try:
            for sender in self.senders:
                address_of(sender)
        except BadCall as error:
            raise ValueError(error.what) from None
        return self

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of those that it uses."""
        return (self.credential,) if self.credential else ()

    def reaches(self, address: str) -> bool:
        """Whether somebody may be written to."""
        declared = {each.lower() for each in self.recipients}
        return not declared.isdisjoint(("*", address.lower(), address.partition("@")[2]))


async def open_smtp(name: str, config: SmtpConfig, kit: Kit) -> SmtpSystem:
    """The mail server `name`. Connects to nothing yet. Raises Misuse where the authorities cannot be read."""
    try:
        trust = ssl.create_default_context(cafile=str(kit.folder / config.ca) if config.ca else None)
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"the authorities of `ca` cannot be read: {type(error).__name__}", where=name) from None
    return SmtpSystem(name, config, kit, trust)


class SmtpSystem:
    """A mail server as the configuration declares it; see `System`."""

    def __init__(self, name: str, config: SmtpConfig, kit: Kit, trust: ssl.SSLContext) -> None:
        self._name = name
        self.config = config
        self.trust = trust
        self.at_work: set[str] = set()
        self._kit = kit
        self._dialer = kit.dialer.also(config.private)

    @property
    def name(self) -> str:
        """As `System`."""
        return self._name

    def operations(self) -> Mapping[str, JSON]:
        """As `System`."""
        schema: dict[str, JSON] = {**SCHEMA, "required": ["reference"] if self.config.reference else []}
        return {SEND: {"description": "send one letter", "schema": schema}}

    async def close(self) -> None:
        """Nothing stays open between calls."""

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System`."""
        if operation != SEND:
            raise BadCall(f"`{self._name}` has no operation `{operation[:80]}`", fix=f"one of: {SEND}")
        letter = letter_of(args, self.config.senders, self.config.headers)
        self.permits(letter)
        people: list[JSON] = [*sorted(each.lower() for each in letter.recipients)]
        return Prepared(
            system=self._name,
            contract=self._contract(letter),
            args=letter.args(),
            upstream=SmtpUpstream(self, letter),
            chosen={"recipients": people, "reference": letter.reference},
            blast=len(letter.recipients),
        )

    def permits(self, letter: Letter) -> None:
        """Raise BadCall for a letter that may not be sent."""
        people = letter.recipients
        if len(people) > self.config.most_recipients:
            raise BadCall(f"it goes to {len(people)} people; at most {self.config.most_recipients}")
        for address in people:
            if not self.config.reaches(address):
                raise BadCall(
                    f"`{address}` may not be written to", fix="declare its domain under `recipients`, if it may"
                )
        if self.config.reference and not letter.reference:
            raise BadCall("a letter says what it is about", fix="give `reference`: an invoice, a ticket")
        size = len(letter.text.encode()) + len(letter.html.encode())
        if size > self.config.size_bytes:
            raise BadCall(f"it has {size} bytes; at most {self.config.size_bytes}")

    def _contract(self, letter: Letter) -> Contract:
        return Contract(
            name=f"{self._name}.{SEND}",
            kind=Kind.IRREVERSIBLE,
            identity=("to", "cc", "bcc", "reference"),
            repeat=Repeat.ONCE if letter.reference else Repeat.ASK,
            drift=Drift.ASK,
        )

    async def opened(self, receipt: Receipt) -> tuple[str, Scrubber]:
        """The password, and what takes it out of answers, also as AUTH has it. Raises what a vault raises."""
        if not self.config.credential:
            return "", Scrubber(())
        credential = await self._kit.vault.open(self.config.credential, receipt)
        return credential.reveal(), Scrubber((credential,))

    async def way(self) -> Way:
        """The way to the server, by the address that was looked at. Raises NotHappened where it may not be spoken to in
        the clear."""
        config = self.config
        pinned: Pinned = await self._dialer.resolve(config.host, config.port)
        if config.tls == "none" and not ipaddress.ip_address(pinned.address).is_private:
            raise DidNotHappen(f"`{config.host}` is not spoken to without TLS: its address is public")
        return Way(
            host=config.host, address=pinned.address, port=config.port, tls=config.tls, trust=self.trust,
            user=config.user, hello=config.hello, timeout_s=config.timeout_s,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SmtpUpstream:
    """One letter on its way; see `Upstream`."""

    system: SmtpSystem
    letter: Letter

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """As `Upstream`. The answer: `message_id`, who was `accepted`, who was `refused` and why."""
        config = self.system.config
        try:
            letter = self._letter(args)
            password, scrubber = await self.system.opened(receipt)
            way = await self.system.way()
        except Misuse as error:  # of what was recorded, under a configuration that has changed since
            raise DidNotHappen(error.what, fix=error.fix) from error
        sending = Sending(way, letter, password, receipt.key)
        try:
            answer = await self._in_thread(sending, receipt.key)
        except Refusal as refusal:
            text = scrubber.text(str(refusal))
            if refusal.later:
                raise RetryAfter(config.later_s, text) from None
            reply = _reply({"error": {"code": refusal.code, "message": text}})
            raise Declined(text, reply) from None
        except DidNotHappen as error:
            raise DidNotHappen(scrubber.text(error.what), fix=error.fix) from None
        return _reply(cast("JSON", json.loads(scrubber.clean(canonical(answer)))))

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """A mail server cannot be asked."""
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """No contract of ours says that there is an undo."""
        raise Misuse("a letter cannot be taken back")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As `Upstream`."""
        return _reply(json.loads(data))

    def running(self, key: str) -> bool:
        """As `Upstream`: until its thread has ended, also when nobody waits for it any more."""
        return key in self.system.at_work

    def _letter(self, args: bytes | None) -> Letter:
        if args is None:
            return self.letter
        config = self.system.config
        letter = letter_of(cast("dict[str, JSON]", json.loads(args)), config.senders, config.headers)
        self.system.permits(letter)
        return letter

    async def _in_thread(self, sending: Sending, key: str) -> dict[str, JSON]:
        began: list[bool] = []
        at_work = self.system.at_work

        def body() -> dict[str, JSON]:
            began.append(True)
            try:
                return sending.send()
            finally:
                at_work.discard(key)

        at_work.add(key)
        try:
            return await asyncio.to_thread(body)
        finally:
            sending.stop()
            if not began:  # and if it begins now, it stops before it has done anything
                at_work.discard(key)


def _reply(value: JSON) -> Reply:
    return Reply(canonical(value), Encoding.JSON, value, value)
