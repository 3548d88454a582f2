"""A letter as an agent may write one, and as it goes over the wire.

Rules
1. An address is plain ASCII, without names, comments or quotes: what a person approves is what the server is told.
2. Nothing that stands in a header can begin a line, or turn the direction of what is read.
3. What makes two letters the same is whom they go to and what they are about (`reference`), never their text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final, cast

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall

FIELDS: Final = ("from", "to", "cc", "bcc", "subject", "text", "html", "headers", "reference")

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
_OURS: Final = frozenset("from to cc bcc subject date message-id sender return-path received".split())
_OURS_BEGIN: Final = ("content-", "mime-", "resent-", "dkim-", "arc-", "authentication-", "received-")
_TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SUBJECT_MOST, _REFERENCE_MOST, _HEADER_MOST = 500, 200, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A letter that was understood. `sender` and the recipients are addresses; `headers` are further ones, by name."""

    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    subject: str
    text: str
    html: str
    headers: Mapping[str, str]
    reference: str

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody that it goes to, each once."""
        return tuple(dict.fromkeys((*self.to, *self.cc, *self.bcc)))

    def args(self) -> dict[str, JSON]:
        """As it is written down."""
        people: dict[str, JSON] = {"from": self.sender, "to": [*self.to], "cc": [*self.cc], "bcc": [*self.bcc]}
        words: dict[str, JSON] = {"subject": self.subject, "text": self.text, "html": self.html}
        return {**people, **words, "headers": dict(self.headers), "reference": self.reference}

    def message(self, message_id: str, date: str) -> bytes:
        """The lines that follow DATA, without the dot at the end: ASCII, each ended by CRLF, none begun by a lone
        dot."""
        message = EmailMessage(policy=SMTP)
        message["From"] = self.sender
        for name, people in (("To", self.to), ("Cc", self.cc)):
            if people:
                message[name] = ", ".join(people)
        if not self.to and not self.cc:
            message["To"] = "undisclosed-recipients:;"
        message["Subject"] = self.subject
        message["Date"] = date
        message["Message-ID"] = message_id
        for name, value in self.headers.items():
            message[name] = value
        message.set_content(self.text, cte="quoted-printable")
        if self.html:
            message.add_alternative(self.html, subtype="html", cte="quoted-printable")
        lines = re.split(rb"\r\n|\r|\n", message.as_bytes().rstrip(b"\r\n"))
        return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)


def letter_of(args: Mapping[str, JSON], senders: Sequence[str], headers: Collection[str]) -> Letter:
    """The letter that these arguments ask for. `senders`: who may send, the first where nobody is named; `headers`: the
    names of further ones that may be set. Raises BadCall."""
    unknown = sorted(set(args) - set(FIELDS))
    if unknown:
        raise BadCall(f"`{unknown[0][:80]}` is no part of a letter", fix=f"one of: {', '.join(FIELDS)}")
    sender = args.get("from", senders[0])
    if sender not in senders:
        raise BadCall("nobody may send from this address", fix=f"one of: {', '.join(senders)}")
    letter = Letter(
        sender=cast("str", sender),
        to=_people(args, "to"),
        cc=_people(args, "cc"),
        bcc=_people(args, "bcc"),
        subject=_line(args.get("subject", ""), "subject", _SUBJECT_MOST),
        text=_body(args, "text"),
        html=_body(args, "html"),
        headers=_headers(args.get("headers") or {}, headers),
        reference=_line(args.get("reference", ""), "reference", _REFERENCE_MOST),
    )
    if not letter.recipients:
        raise BadCall("a letter goes to somebody: `to`, `cc` or `bcc`")
    return letter


def address_of(text: JSON) -> str:
    """A plain address, its domain in lower case. Raises BadCall for all else."""
    found = _ADDRESS.fullmatch(text) if isinstance(text, str) and len(text) <= 254 else None
    if found is None or len(found[1]) > 64:
        raise BadCall(
            f"{text!a:.120} is not a plain address", fix="write user@example.com, without a name; IDNA as xn--…"
        )
    return f"{found[1]}@{found[2].lower()}"


def _people(args: Mapping[str, JSON], field: str) -> tuple[str, ...]:
    given = args.get(field) or []
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | tuple):
        raise BadCall(f"`{field}` is an address, or a list of addresses")
    return tuple(dict.fromkeys(address_of(each) for each in given))


def _line(given: JSON, field: str, most: int) -> str:
    """Text that stands in one line."""
    if not isinstance(given, str):
        raise BadCall(f"`{field}` is text")
    if len(given) > most:
        raise BadCall(f"`{field}` has {len(given)} characters; at most {most}")
    for sign in given:
        if unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") or sign in _TURNING:
            raise BadCall(f"`{field}` holds {sign!a}: it could begin a line, or turn what is read")
    return given


def _body(args: Mapping[str, JSON], field: str) -> str:
    given = args.get(field, "")
    if not isinstance(given, str):
        raise BadCall(f"`{field}` is text")
    if "\0" in given or any("\ud800" <= sign <= "\udfff" for sign in given):
        raise BadCall(f"`{field}` holds what is no text")
    return given.replace("\r\n", "\n").replace("\r", "\n")


def _headers(given: JSON, allowed: Collection[str]) -> dict[str, str]:
    if not isinstance(given, dict):
        raise BadCall("`headers` is an object: names and texts")
    found: dict[str, str] = {}
    for name, value in given.items():
        if name.lower() not in {each.lower() for each in allowed} or not may_be_set(name):
            raise BadCall(f"the header {name!a:.80} may not be set", fix="name it under `headers` in holdfast.toml")
        if name.lower() in {each.lower() for each in found}:
            raise BadCall(f"the header `{name}` is there twice")
        found[name] = _line(value, name, _HEADER_MOST)
    return found


def may_be_set(header: str) -> bool:
    """Whether a header of this name can be anybody's but ours."""
    name = header.lower()
    return bool(_HEADER.fullmatch(header)) and name not in _OURS and not name.startswith(_OURS_BEGIN)
