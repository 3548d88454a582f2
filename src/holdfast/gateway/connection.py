"""One connection of HTTP/1.1: an exchange at a time, and whether another one may follow.

Rules
1. An answer ends where the parser and the headers agree that it does, or it is none.
2. Another exchange follows only if the request was all sent, the answer was whole, nothing came behind it, and the
   other side wants to go on.
3. What an answer may make us keep is bounded, whatever the pieces in which it comes.

Source: RFC 9112 §6.3 (where an answer ends), §9.3 (connections), §9.8 (what TLS has to say of an end). Answers are
read by httptools, strictly.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from dataclasses import dataclass
from io import BytesIO
from typing import Final, cast

import httptools

from holdfast.gateway.dial import HEADER_MAX

HEAD_MAX: Final = 64 << 10  # bytes of all headers of an answer, of what it announces, and behind its body
INFORMED_MAX: Final = 10  # answers that only announce another one
BETWEEN_MAX: Final = 2 * HEAD_MAX  # bytes that may come before a piece of the body does
_LARGE: Final = 64 << 10  # bytes of a body that are not copied behind its header
_CODING: Final = "transfer-encoding"
_LARGER: Final = f"it has a header of more than {HEADER_MAX} bytes, or {HEAD_MAX} bytes of them"


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came, with its headers in order. `body`: None if it is larger than was allowed."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes | None


class Unreached(Exception):
    """Nothing was sent."""


class Unanswered(Exception):
    """No whole answer came. `silent`: the connection ended before a byte of one."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class Connection(asyncio.Protocol):
    """One connection: an exchange at a time."""

    def __init__(self, plain: socket.socket) -> None:
        self.since_s = 0.0
        self._look = select.poll()
        self._look.register(plain, select.POLLIN)
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None  # `_raw`, or TLS over it
        self._answer: asyncio.Future[Heard] | None = None
        self._clean = True  # nothing has gone wrong on it, and nothing came that was not asked for
        self._parser: httptools.HttpResponseParser | None = None
        self._method, self._most = "", 0
        self._silent, self._informed, self._between, self._heads = True, 0, 0, 0
        self._begin()

    def secured(self, transport: asyncio.Transport | None) -> None:
        """From now on, all goes over TLS. Raises OSError if the connection is gone."""
        if transport is None:
            raise ConnectionAbortedError("the connection was lost")
        self._transport = transport

    def ask(self, method: str, head: bytes, data: bytes, most: int) -> asyncio.Future[Heard]:
        """Send a request: what will be answered. Raises Unreached if the connection is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Unreached("the connection was lost before anything was sent")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._method, self._most = method, most
        self._silent, self._informed, self._between, self._heads = True, 0, 0, 0
        self._begin()
        if len(data) > _LARGE:
            transport.write(head)
            transport.write(data)
        else:
            transport.write(head + data)
        return self._answer

    def reusable(self) -> bool:
        """Whether another request may be sent on it."""
        raw, transport = self._raw, self._transport
        return (
            self._clean
            and self._parser is None
            and raw is not None
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
            and (raw is transport or not raw.get_write_buffer_size())
        )

    def quiet(self) -> bool:
        """Whether nothing has come, not even its end, that the loop has not read yet."""
        return not self._look.poll(0)

    def drop(self) -> None:
        """Close it at once."""
        self._clean = False
        if self._transport is not None:
            self._transport.abort()

    def end(self, error: Unanswered) -> None:
        """No answer comes any more."""
        self._clean = False
        answer = self._answer
        if answer is not None and not answer.done():
            answer.set_exception(error)

    # --- as asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._raw = self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A piece of the answer; or what nobody has asked for."""
        parser = self._parser
        if parser is None or self._answer is None or self._answer.done():
            self.drop()
            return
        self._silent = False
        self._between += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.end(Unanswered(f"what came is no answer: {type(error).__name__}"))
        if self._between > BETWEEN_MAX:
            self.end(Unanswered(f"more than {BETWEEN_MAX} bytes of it are neither header nor body"))
        elif self._method == "HEAD" and not data.endswith(b"\r\n\r\n"):
            self._clean = False  # something may have come behind it that the parser holds back

    def eof_received(self) -> bool:
        """The other side has said all: where nothing else does, that ends the body."""
        self._clean = False
        if self._headed and self._until_end and not self._whole and not self._cut():
            self._done()
        else:
            self.end(Unanswered("the connection was closed", silent=self._silent))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.end(Unanswered("the connection was lost", silent=self._silent))

    def _cut(self) -> bool:
        """Whether this is not how TLS says that all was said."""
        secure = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        try:
            return secure is not None and secure.read(1) != b""
        except ssl.SSLError:
            return True

    # --- as httptools calls it ---

    def on_message_begin(self) -> None:
        """One more answer begins."""
        if self._whole:
            self._clean = False

    def on_status(self, status: bytes) -> None:
        """A piece of the words beside the status."""
        self._heads += len(status)
        if self._heads > HEAD_MAX:
            self.end(Unanswered(_LARGER))
        elif not self._whole:
            self._reason += status

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """A header; those behind the body are left out."""
        value = value or b""
        size = len(name) + len(value)
        self._heads += size + 4
        if size > HEADER_MAX or self._heads > HEAD_MAX:
            self.end(Unanswered(_LARGER))
        elif not self._headed:
            self._headers.append((name.decode("ascii"), value.strip(b" \t").decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        """The body comes now, if there is one."""
        if self._whole:
            return
        assert self._parser is not None
        self._headed = True
        self._status = self._parser.get_status_code()
        if self._status < 100 or self._status == 101:
            self.end(Unanswered(f"nothing was asked to which {self._status} is an answer"))
        coding = [value.lower() for name, value in self._headers if len(name) == 17 and name.lower() == _CODING]
        if coding not in ([], ["chunked"]):
            self.end(Unanswered("its body is coded in a way that is not known"))
        self._until_end = not coding and not any(
            len(name) == 14 and name.lower() == "content-length" for name, _ in self._headers
        )
        if self._method == "HEAD" and self._status >= 200:
            self._done()

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        if self._whole:
            self._clean = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._whole:
            self._clean = False
            return
        self._between = 0
        self._size += len(body)
        if self._status < 200:
            self.end(Unanswered("what only announces an answer has a body"))
        elif self._size > self._most:
            self._clean = False
            self._done(lost=True)
        else:
            self._body.write(body)

    def on_message_complete(self) -> None:
        """All of it is there; or of an answer that only announces another one."""
        if self._whole:
            return
        if self._status >= 200:
            self._done()
            return
        self._informed += 1
        if self._informed > INFORMED_MAX:
            self.end(Unanswered("it announces an answer again and again"))
        self._begin()

    def _begin(self) -> None:
        self._headed = self._whole = self._until_end = False
        self._status, self._size, self._reason = 0, 0, b""
        self._headers: list[tuple[str, str]] = []
        self._body = BytesIO()

    def _done(self, *, lost: bool = False) -> None:
        assert self._parser is not None
        self._whole = True
        body = None if lost else self._body.getvalue()
        heard = Heard(self._status, self._reason.decode("utf-8", "replace"), self._headers, body)
        self._clean = self._clean and self._parser.should_keep_alive()
        self._body = BytesIO()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(heard)
        self._parser = None
