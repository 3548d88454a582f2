"""Clients that resend at once what they got no answer to, while the gateway is killed and started again: the world is
counted.

Rules
1. A gateway, a shop and a store are real, each a process or a file of its own; the gateway dies by SIGKILL.
2. What is in doubt is settled as a person would: by a look at the world.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.canonical import canonical
from holdfast.core.codec import decode
from holdfast.core.effect import Encoding
from holdfast.core.payload import pack_bytes
from holdfast.core.record import Intent, Seal, Settled
from holdfast.errors import HoldfastError
from holdfast.gateway.config import load
from holdfast.gateway.desk import Desk
from holdfast.gateway.launcher import Starting
from holdfast.store.reader import Reader
from holdfast.store.remote import RemoteStore
from tests.gateway.premises import SECRET, SHOP
from tests.gateway.threshold import heard, request

RUN = "r"
AT_ONCE = 50
CONFIG = """
[gateway]
store = "runs.db"
[credentials]
shop = "env:SHOP_KEY"
[upstreams.shop]
kind = "http"
base = "http://127.0.0.1:{port}"
private = ["127.0.0.1"]
inject = [{{ credential = "shop", header = "authorization", prefix = "Bearer " }}]
[[upstreams.shop.routes]]
method = "POST"
path = "/mails"
name = "mail"
kind = "{kind}"
identity = ["body.invoice"]
repeat = "each"
[policy]
files = ["policy.cedar"]
[agents.clerk]
tools = ["shop.*"]
"""


class Storm:
    """A shop, and a gateway before it that dies now and then."""

    def __init__(self, place: Path, kind: str) -> None:
        self.place = place
        self.kind = kind
        self.up = asyncio.Event()
        self.handle = ""
        self.life = 0
        self.answered = 0
        self._opened = contextlib.AsyncExitStack()
        self._gateway: asyncio.subprocess.Process | None = None
        self._shop = subprocess.Popen(
            [sys.executable, "-c", SHOP, str(place), SECRET], stdout=subprocess.PIPE, text=True
        )
        assert self._shop.stdout is not None
        port = int(self._shop.stdout.readline())
        (place / "policy.cedar").write_text('@id("all") permit(principal, action, resource);')
        (place / "holdfast.toml").write_text(textwrap.dedent(CONFIG.format(port=port, kind=kind)))
        self.config = load(place / "holdfast.toml")

    def sent(self, invoice: str) -> list[str]:
        """The keys with which the shop was asked to send it, each time."""
        file = self.place / "sent"
        lines = file.read_text().splitlines() if file.exists() else []
        return [str(key) for each, key in map(json.loads, lines) if each == invoice]

    async def start(self) -> None:
        """Start the gateway, and take the run up."""
        self._gateway = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", "gateway", "holdfast.toml", cwd=self.place,
            env={"SHOP_KEY": SECRET, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._gateway.stdout is not None
        assert (await self._gateway.stdout.readline()).startswith(b"ready")
        starting = await self._opened.enter_async_context(Starting(self.config.launching))
        taken = await starting.ask({"open": {"run": RUN, "agent": "clerk", "place": "local"}})
        self.handle, self.life = taken["handle"], self.life + 1
        self.up.set()

    async def kill(self) -> None:
        assert self._gateway is not None
        self.up.clear()
        self._gateway.kill()
        await self._gateway.wait()
        await self._opened.aclose()

    async def close(self) -> None:
        await self.kill()
        self._shop.kill()
        self._shop.communicate()

    # --- clients ---

    async def once(self, door: str, invoice: str) -> dict[str, Any] | None:
        """What comes of a call that is marked as sent before; None if nothing does, or it is to be sent again."""
        body = {"invoice": invoice}
        if door == "http":
            data = request("POST", "/http/shop/mails", json.dumps(body), self.handle, "X-Holdfast-Resend: 1")
        else:
            asked = {"tool": "shop.mail", "args": {"body": body}, "resend": True}
            data = request("POST", "/v1/call", json.dumps(asked), self.handle)
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.config.door))
        except OSError:
            return None
        try:
            writer.write(data)
            answer = await heard(reader)
        except OSError:
            return None
        finally:
            writer.close()
        found = json.loads(answer.body) if answer.status not in (0, 503) and answer.body else None
        if answer.status in (401, 403) and found is not None:
            assert "earlier life" in found["error"]["what"] or "not taken up" in found["error"]["what"], found
            return None
        return found

    async def settle(self, invoice: str) -> None:
        """Say of each doubt, as long as there may be one, what a look at the world says."""
        people = RemoteStore(self.config.socket)
        while True:
            with contextlib.suppress(HoldfastError, OSError):  # it is gone just now; or what is open is under way
                entries = [decode(entry.body) for entry in await people.read(f"{RUN}@main")]
                ended = {each.intent for each in entries if isinstance(each, Seal | Settled)}
                for seq, each in enumerate(entries, 1):
                    if isinstance(each, Intent) and seq not in ended:
                        said = pack_bytes(canonical({"sent": invoice}), Encoding.JSON)
                        outcome = said if self.sent(invoice) else "it is not there"
                        await Desk(people).settle(f"{RUN}@{seq}", outcome, by="root")
            await asyncio.sleep(0.05)

    async def resend(self, door: str, invoice: str) -> dict[str, Any]:
        """Ask until there is an answer."""
        while True:
            await self.up.wait()
            found = await self.once(door, invoice)
            if found is not None:
                self.answered += 1
                return found
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def storm(place: Path, kind: str) -> AsyncGenerator[Storm]:
    found = Storm(place, kind)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


def said(answer: dict[str, Any]) -> str:
    """What a client was told. The head of an answer is left out: one that is asked for anew, under its key, because its
    seal was lost has another date."""
    if "answer_b64" in answer:
        return base64.b64decode(answer["answer_b64"]).partition(b"\r\n\r\n")[2].decode()
    return json.dumps(answer.get("answer", answer), sort_keys=True)


async def killed_in_the_midst(found: Storm, invoice: str, dice: random.Random) -> None:
    """Kill the gateway when the shop was asked, or when some have their answers; and start it again."""
    at = found.answered + dice.randrange(AT_ONCE // 2)
    by_the_shop = dice.random() < 0.6
    while not (found.sent(invoice) if by_the_shop else found.answered >= at):  # noqa: ASYNC110 - nobody tells this side
        await asyncio.sleep(0.001)
    await found.kill()
    await found.start()


@pytest.mark.parametrize(
    ("door", "kind", "invoices"),
    [
        ("http", "irreversible", 2),
        *(
            pytest.param(door, kind, 25, marks=pytest.mark.soak)
            for door in ("http", "native")
            for kind in ("irreversible", "idempotent")
        ),
    ],
)
async def test_whatever_is_resent_while_gateways_die_happens_once(
    tmp_path: Path, door: str, kind: str, invoices: int
) -> None:
    dice = random.Random(invoices)
    async with storm(tmp_path, kind) as found:
        for invoice in map(str, range(invoices)):
            clients = [found.resend(door, invoice) for _ in range(AT_ONCE)]
            settling = asyncio.ensure_future(found.settle(invoice))
            *answers, _ = await asyncio.gather(*clients, killed_in_the_midst(found, invoice, dice))
            settling.cancel()
            told = {said(each) for each in answers}
            keys = found.sent(invoice)
            assert len(told) == 1, "all have the same answer"
            happened = "error" not in json.loads(told.pop())
            assert len(set(keys)) == (1 if happened else 0), invoice
            assert kind == "idempotent" or len(keys) == (1 if happened else 0), invoice
        assert found.life == invoices + 1
    with Reader(tmp_path / "runs.db") as reader:
        records = [decode(entry.body) for entry in await reader.read(f"{RUN}@main")]
    assert sum(isinstance(each, Intent) for each in records) == invoices
