"""An answer over HTTP as it is kept and shown: one message, without what is of the connection only.

Rules
1. What is kept is one `application/http` message: status line, headers, body. The agent is given exactly these bytes.
2. Headers of the connection are left out, and cookies unless they are declared; the body is unpacked.
3. 204 and 304 have no body and no length.

Source: RFC 9112 §2, §10.1; RFC 9110 §7.6.1.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, legible
from holdfast.errors import Corrupt
from holdfast.gateway.scrub import Scrubber, unpacked
from holdfast.gateway.upstreams import Reply

ANSWER_MAX: Final = 64 << 20  # bytes
LONGEST_ETAG: Final = 500
_BARE: Final = (204, 304)
_HIDDEN: Final = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade content-length content-encoding alt-svc strict-transport-security set-cookie2 http2-settings".split()
)
_HEAD: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([^\r\n]*)\r\n")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system answered. Names of headers are in lower case; the body is unpacked. `trouble`: why the body is not
    here, though there was one."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    trouble: str | None = None

    def header(self, name: str) -> str | None:
        """The first header of this name (in lower case)."""
        return next((value for known, value in self.headers if known == name), None)

    @property
    def etag(self) -> str | None:
        """The version of what was read or written, if the system told one."""
        told = self.header("etag") or self.header("last-modified")
        return legible(told, LONGEST_ETAG) if told else None

    def value(self) -> JSON:
        """The JSON of the body; None if it is none."""
        try:
            return cast("JSON", json.loads(self.body))
        except (ValueError, RecursionError):
            return None

    def view(self) -> JSON:
        """What selectors see: the first of each header."""
        headers: dict[str, JSON] = {}
        for name, value in self.headers:
            headers.setdefault(name, value)
        return {"status": self.status, "header": headers, "body": self.value()}

    def reply(self) -> Reply:
        """What is sealed, and what a door gives away: see `pack`."""
        data = pack(self)
        return Reply(data, Encoding.BYTES, data, None, self.etag)


def scrubbed(
    status: int,
    reason: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    scrubber: Scrubber,
    *,
    most: int = ANSWER_MAX,
    set_cookie: bool = False,
) -> Answer:
    """An answer without credentials and without what is of the connection. Raises `scrub.Unpackable` for a body that
    cannot be unpacked."""
    found = [(name.lower(), value) for name, value in headers if scrubber.text(name) == name]
    packed = ",".join(value for name, value in found if name == "content-encoding")
    named = {part.strip().lower() for name, value in found if name == "connection" for part in value.split(",")}
    hidden = {*_HIDDEN, *named, *(() if set_cookie else ("set-cookie",))}
    shown = tuple((name, _plain(scrubber.text(value))) for name, value in found if name not in hidden)
    plain = b"" if status in _BARE else scrubber.clean(unpacked(body, packed, most) if body else body)
    return Answer(status, _plain(scrubber.text(reason)), shown, plain)


def pack(answer: Answer) -> bytes:
    """An answer as one message."""
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in answer.headers)]
    if answer.status not in _BARE:
        lines.append(f"content-length: {len(answer.body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + answer.body


def unpack(data: bytes) -> Answer:
    """The answer that `pack` wrote; the length is left out of its headers. Raises Corrupt."""
    head, blank, body = data.partition(b"\r\n\r\n")
    found = _HEAD.match(head + b"\r\n")
    if not found or not blank:
        raise Corrupt("the recorded answer is no HTTP message")
    headers: list[tuple[str, str]] = []
    for line in head[found.end() :].split(b"\r\n") if found.end() < len(head) else ():
        name, colon, value = line.decode("utf-8", "replace").partition(": ")
        if not colon:
            raise Corrupt("the recorded answer has a header that is none")
        headers.append((name, value))
    if headers and headers[-1][0] == "content-length":
        headers.pop()
    return Answer(int(found[1]), found[2].decode("utf-8", "replace"), tuple(headers), body)


def lost(reason: str) -> Reply:
    """In the place of an answer that cannot be kept, where it is certain that the call has happened."""
    data = json.dumps({"reason": legible(reason, 500), "type": "HTTP answer"}, separators=(",", ":")).encode()
    return Reply(data, Encoding.LOST, data.decode())


def retry_after_s(value: str | None, now_s: float | None = None) -> float | None:
    """The seconds that a `Retry-After` header names; None if it names none."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - (time.time() if now_s is None else now_s))
    except (ValueError, TypeError, OverflowError):
        return None


def select(view: JSON, selector: str) -> tuple[bool, JSON]:
    """Whether a selector names something in `view`, and what."""
    found: JSON = view
    for step in selector.split("."):
        match found:
            case dict() if step in found:
                found = found[step]
            case list() if step.isascii() and step.isdigit() and int(step) < len(found):
                found = found[int(step)]
            case _:
                return False, None
    return True, found


def put(view: JSON, steps: Sequence[str], value: JSON) -> None:
    """Change what a selector names, in place."""
    *before, last = steps
    _, found = select(view, ".".join(before)) if before else (True, view)
    if isinstance(found, dict):
        found[last] = value
    elif isinstance(found, list):
        found[int(last)] = value


def _plain(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()
