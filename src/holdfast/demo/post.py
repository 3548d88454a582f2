"""The mail server: real SMTP. Every mail that it accepts becomes one file `NNNN.eml`, and none is ever taken back."""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.demo import server

if TYPE_CHECKING:
    from aiosmtpd.smtp import SMTP, Envelope
    from aiosmtpd.smtp import Session as Conversation


class Outbox:
    """Keeps accepted mails in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._accepted = len(mails(directory))

    async def handle_DATA(self, _server: "SMTP", _conversation: "Conversation", envelope: "Envelope") -> str:
        """Called by aiosmtpd when a mail is complete. `250` is said only after the mail is on disk."""
        assert isinstance(envelope.content, bytes)
        self._accepted += 1
        (self._directory / f"{self._accepted:04}.eml").write_bytes(envelope.content)
        return f"250 accepted as {self._accepted:04}"


def mails(directory: Path) -> list[Path]:
    """The accepted mails, oldest first."""
    return sorted(directory.glob("*.eml"))


async def serve(directory: Path) -> None:
    from aiosmtpd.smtp import SMTP

    outbox = Outbox(directory)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: SMTP(outbox, hostname="post.shop.example", loop=loop), server.LOOPBACK, 0
    )
    server.ready(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(options.directory))


if __name__ == "__main__":
    main()
