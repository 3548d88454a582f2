"""A real mail server in a process of its own, which does what the words of an address or a subject tell it to.

    python -m tests.gateway.mail_server FOLDER starttls|tls|none

FOLDER holds `cert.pem` and `key.pem`; the port is printed; letters are appended to `letters` (JSON, one a line).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session, syntax

USER, PASSWORD = "shop", "mail-canary-99"


class Words:
    """What aiosmtpd asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 no such user, your password is mail-canary-99"
        if address.startswith("busy"):
            return "451 4.3.0 try later"
        if address.startswith("closing"):
            return "421 4.3.2 shutting down"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content.decode() if isinstance(envelope.content, bytes) else envelope.content
        letter = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "content": content, "ssl": bool(session.ssl)}
        if "Subject: late" in letter["content"]:
            return "451 4.7.1 greylisted"
        if "Subject: spam" in letter["content"]:
            return "554 5.7.1 refused"
        if "Subject: closing" in letter["content"]:
            return "421 4.3.2 shutting down"
        with (self.folder / "letters").open("a") as out:
            out.write(json.dumps(letter) + "\n")
        if "Subject: die" in letter["content"]:
            os._exit(1)
        return "250 2.0.0 queued as 4711"


class Server(SMTP):
    """aiosmtpd's, which dies where a sender asks for it."""

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        if self.envelope.mail_from == "die@shop.example":
            os._exit(1)
        await super().smtp_DATA(arg)


def signed_in(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=good)


async def main() -> None:
    folder, tls = Path(sys.argv[1]), sys.argv[2]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    def made() -> SMTP:
        return Server(
            Words(folder),
            hostname="mail.shop.example",
            tls_context=context if tls == "starttls" else None,
            require_starttls=tls == "starttls",
            authenticator=signed_in,
            auth_required=tls != "none",
            auth_require_tls=tls == "starttls",
        )

    listening = await asyncio.get_running_loop().create_server(
        made, "127.0.0.1", 0, ssl=context if tls == "tls" else None
    )
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
