"""The one spelling of a host, and of where a request goes: scheme, host and port.

Rules
1. A host is brought into its one form once, where it comes in. What has no one form is refused, not repaired: parsers
   disagree about exactly that.
2. An address is written out: `127.0.0.1` or `[::1]`. Decimal, hexadecimal, octal, short and Unicode spellings are
   refused.
3. A URL is built from parts. The text of one is taken apart here, once, and never again.

Source: RFC 3986 §3.2.2; RFC 5890; WHATWG URL §3.5 (what ends in a number is an address).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from encodings.idna import ToASCII, ToUnicode
from typing import Final

from holdfast.errors import BadCall

HOST_MAX: Final = 253  # characters of a name, without the last dot

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_QUAD: Final = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URL: Final = re.compile(r"(https?)://([^/?#\\]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_DOTS: Final = "\u3002\uff0e\uff61"
_DEFAULT: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request goes. `host` is in its one form, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def canonical_host(text: str) -> str:
    """The one form of a host: a name in lower case (IDNA), without its last dot, or an address without brackets.
    Raises BadCall for what is no host, and for a spelling that could be read in two ways."""
    if text.startswith("[") and text.endswith("]"):
        return _six(text[1:-1])
    name = text.removesuffix(".")
    if not name or len(name) > HOST_MAX:
        raise _bad(text, "a host has 1 to 253 characters")
    name = name.lower() if name.isascii() else _ascii(text, name)
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _four(text, name)
    if not all(_LABEL.fullmatch(label) for label in labels) or len(name) > HOST_MAX:
        raise _bad(text, "a name is made of letters, digits, `-` and dots")
    return name


def is_address(host: str) -> bool:
    """Whether a host in its one form is an address."""
    return ":" in host or _QUAD.fullmatch(host) is not None


def origin_of(scheme: str, host: str, port: int | None = None) -> Origin:
    """Where a request goes, from parts. Raises BadCall."""
    scheme = scheme.lower()
    if scheme not in _DEFAULT:
        raise BadCall(f"{_shown(scheme)} is no scheme of HTTP", fix="use http or https")
    return Origin(scheme, canonical_host(host), _DEFAULT[scheme] if port is None else _port(host, str(port)))


def take_apart(url: str) -> tuple[Origin, str, str | None]:
    """Where a URL goes, its path as it is written (at least `/`), and its query, if it has one. Raises BadCall for a
    URL that is not absolute, is not HTTP, carries a user or a fragment, or is spelled in a way that parsers disagree
    about."""
    if any(char <= " " or char == "\x7f" for char in url):
        raise BadCall(f"{_shown(url)} holds a blank or a control character")
    found = _URL.fullmatch(url)
    if found is None:
        raise BadCall(f"{_shown(url)} is no absolute HTTP URL", fix="write https://HOST/PATH, without a fragment")
    scheme, authority, path, query = found.groups()
    if "@" in authority:
        raise BadCall(f"the URL of {_shown(authority.rpartition('@')[2])} carries a user", fix="leave it out")
    if "\\" in path:
        raise BadCall("a URL with a backslash is read in two ways", fix="write %5C")
    host, port = split_port(authority)
    return origin_of(scheme, host, port), path or "/", query


def split_port(text: str) -> tuple[str, int | None]:
    """The host as it is written, and the port, of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`. Raises BadCall."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    return host, _port(text, port)


def _port(text: str, port: str) -> int:
    if not port.isascii() or not _PORT.fullmatch(port) or int(port) > 65535:
        raise _bad(text, "a port is a number from 1 to 65535")
    return int(port)


def _six(text: str) -> str:
    if not text.isascii() or "%" in text:
        raise _bad(text, "an IPv6 address has no zone")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise _bad(text, "this is no IPv6 address") from None


def _four(text: str, name: str) -> str:
    if _QUAD.fullmatch(name):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            pass
    raise _bad(text, "what ends in a number is an IPv4 address, and is written as four decimal numbers")


def _ascii(text: str, name: str) -> str:
    """A name with other letters, as DNS has it. Only what comes back the same is taken."""
    if unicodedata.normalize("NFKC", name) != name or any(dot in name for dot in _DOTS):
        raise _bad(text, "full-width and compatibility characters have another form")
    for char in name:
        if not char.isascii() and (unicodedata.category(char)[0] in "NZC" or char.lower().isascii()):
            raise _bad(text, f"U+{ord(char):04X} may not stand in a host")
    try:
        coded = [(label, ToASCII(label).decode("ascii").lower()) for label in name.lower().split(".")]
        if any(ToUnicode(code) != label for label, code in coded):
            raise _bad(text, "it does not survive IDNA")
    except UnicodeError:
        raise _bad(text, "it has no form in IDNA") from None
    return ".".join(code for _, code in coded)


def _bad(text: str, why: str) -> BadCall:
    return BadCall(f"{_shown(text)} is no host: {why}")


def _shown(text: str) -> str:
    """Somebody else's text as an error may quote it."""
    return f"`{ascii(text[:80])[1:-1]}`"
