"""One letter on the wire, sent by the standard library in a thread.

Rules
1. What is raised before the dot proves that nothing was taken: a server takes no letter that was not ended.
2. After the dot only the server's own answer tells. No answer, or one that any command may get (421), is doubt.
3. The connection goes to the address that was looked at; its certificate must be of the host's name.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from holdfast.core.canonical import JSON
from holdfast.errors import NotHappened
from holdfast.gateway.upstreams.smtp_letter import Letter

_CLOSING: Final = 421
_FAREWELL_S: Final = 5


class Refusal(Exception):
    """The server answered no, and has taken nothing. `later`: it may take it another time."""

    def __init__(self, code: int, message: object) -> None:
        super().__init__(f"{code} {_text(message)}")
        self.code = code
        self.later = code < 500


class Unknown(Exception):
    """The letter was ended, and nobody knows whether it was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The way to a server. `tls`: `starttls`, `tls` or `none`; `user` is empty where nobody signs in."""

    host: str
    address: str
    port: int
    tls: str
    trust: ssl.SSLContext
    user: str
    hello: str
    timeout_s: float


class _Client(smtplib.SMTP):
    """smtplib's own, on a connection of ours."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        way = sending.way
        super().__init__(way.host, way.port, local_hostname=way.hello, timeout=way.timeout_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._sending.connect(timeout)


@dataclass(slots=True)
class Sending:
    """`letter` on its way under `key`."""

    way: Way
    letter: Letter
    password: str
    key: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False
    _socket: socket.socket | None = None
    _client: _Client | None = None

    @property
    def message_id(self) -> str:
        """The letter's Message-ID."""
        return f"<{self.key}@{self.letter.sender.partition('@')[2]}>"

    def send(self) -> dict[str, JSON]:
        """The answer. Raises Refusal and NotHappened, which prove that nothing was taken; anything else is doubt."""
        with self._before_the_dot():
            self._client = client = _Client(self)
            refused = self._envelope(client)
            client.send(self.letter.message(self.message_id, format_datetime(datetime.now(UTC))))
        told = self._end(client)
        away = {str(each["recipient"]) for each in refused}
        accepted: list[JSON] = [each for each in self.letter.recipients if each not in away]
        return {"message_id": self.message_id, "accepted": accepted, "refused": [*refused], "reply": told}

    def connect(self, timeout_s: float) -> socket.socket:
        """A connection to the address that was looked at."""
        made = socket.create_connection((self.way.address, self.way.port), timeout_s)
        if self.way.tls == "tls":
            made = self.way.trust.wrap_socket(made, server_hostname=self.way.host)
        with self._lock:
            self._socket = made
            if self._stopped:
                made.close()
                raise ConnectionAbortedError("nobody waits for it any more")
        return made

    def stop(self) -> None:
        """Let go of the connection, from whatever thread."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _before_the_dot(self) -> Generator[None]:
        """Until the block is left, the server cannot have taken the letter. If it is left by an error, it never
        will."""
        try:
            yield
        except BaseException as error:
            if self._client is not None:
                self._client.close()
            if isinstance(error, smtplib.SMTPResponseException):
                raise _no(error.smtp_code, error.smtp_error) from None
            if isinstance(error, OSError | smtplib.SMTPException | ValueError):
                what = f"{type(error).__name__}: {_text(error)}"
                raise NotHappened(f"the mail server was lost before it had the letter: {what}") from None
            raise

    def _envelope(self, client: _Client) -> list[dict[str, JSON]]:
        """Everything up to the letter's own lines. The recipients that were refused, where not all were."""
        client.ehlo_or_helo_if_needed()
        if self.way.tls == "starttls":
            if not client.has_extn("starttls"):
                raise NotHappened("the mail server offers no STARTTLS, and nothing is sent in the clear")
            client.starttls(context=self.way.trust)
            with self._lock:
                self._socket = client.sock
            client.ehlo_or_helo_if_needed()
        if self.way.user:
            client.login(self.way.user, self.password)
        _expect(client.mail(self.letter.sender), 250)
        refused: list[dict[str, JSON]] = []
        refusals: list[Exception] = []
        for recipient in self.letter.recipients:
            code, message = client.rcpt(recipient)
            if code == _CLOSING:
                raise Refusal(code, message)
            if code not in (250, 251):
                refusals.append(_no(code, message))
                refused.append({"recipient": recipient, "code": code, "message": _text(message)})
        if len(refused) == len(self.letter.recipients):
            raise next((each for each in refusals if isinstance(each, Refusal) and each.later), refusals[0])
        _expect(client.docmd("DATA"), 354)
        return refused

    def _end(self, client: _Client) -> str:
        """Send the dot, and hear what the server says."""
        try:
            client.send(b".\r\n")
            code, message = client.getreply()
        except (OSError, smtplib.SMTPException) as error:
            client.close()
            raise Unknown(f"no answer to the end of the letter {self.message_id}: {type(error).__name__}") from None
        if 200 <= code < 300 and client.sock is not None:
            client.sock.settimeout(_FAREWELL_S)
            with contextlib.suppress(OSError, smtplib.SMTPException):
                client.quit()
        client.close()
        if 200 <= code < 300:
            return f"{code} {_text(message)}"
        if code == _CLOSING or not 400 <= code < 600:
            raise Unknown(f"the end of the letter {self.message_id} was answered by {code}")
        raise Refusal(code, message)


def _expect(told: tuple[int, bytes], code: int) -> None:
    if told[0] != code:
        raise _no(*told)


def _no(code: int, message: object) -> Exception:
    """What an answer means that is not the one to go on with."""
    if 400 <= code < 600:
        return Refusal(code, message)
    return NotHappened(f"the mail server answered what was not asked: {code} {_text(message)}")


def _text(message: object) -> str:
    """One line."""
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return " ".join(text.split())[:500]
