"""Attacks on the log: no effect without an intent, whatever dies, fails or is full: each failure denies, and says
why."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.codec import decode
from holdfast.core.policy import Facts, Verdict
from holdfast.core.record import Intent
from holdfast.errors import Refused
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import RUN
from tests.gateway.premises import SECRET, Premises, eventually, premises
from tests.gateway.threshold import Shop, Threshold, shop, threshold

PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def store_front(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    with shop(tmp_path_factory.mktemp("shop")) as found:
        yield found


@pytest.fixture
async def here(tmp_path: Path, store_front: Shop) -> AsyncGenerator[Threshold]:
    async with threshold(tmp_path, store_front.port) as found:
        yield found


# --- an effect without an intent ---


def mail(invoice: str) -> dict[str, Any]:
    return {
        "method": "POST", "path": "/mails", "headers": {"content-type": "application/json"},
        "body_b64": base64.b64encode(json.dumps({"invoice": invoice}).encode()).decode(),
    }  # fmt: skip


def forged(branch: str, seq: int, tool: str, key: str) -> Iterator[tuple[str, Any]]:
    """Receipts that nobody has written an intent for."""
    yield "by hand", Receipt(branch, seq, tool, key, b"\0" * 32)
    yield "for an intent that is not there", for_effect(branch, 9999, tool, key)
    yield "for the claim", for_effect(branch, 1, tool, key)
    yield "for another branch", for_effect("other@main", 1, tool, key)
    yield "for a branch that is no branch", for_effect("r@b9", 1, tool, key)
    yield "for a read, of a write", Receipt(branch, 0, tool, "", for_effect(branch, 1, tool, "").mark)


FORGED = [name for name, _ in forged("", 1, "", "")]


@pytest.mark.parametrize("kind", FORGED)
async def test_a_receipt_without_an_intent_sends_nothing(here: Threshold, store_front: Shop, kind: str) -> None:
    before = list(store_front.sent)
    prepared = await here.gate.systems["shop"].prepare("", mail("forged"))
    receipt = dict(forged(f"{RUN}@main", 1, "shop.mail", "0" * 32))[kind]
    with pytest.raises(Refused, match="stays closed"):
        await prepared.upstream.perform(None, receipt)
    assert store_front.sent == before


@pytest.mark.parametrize("kind", ["None", "a text", "one that says so itself"])
async def test_what_is_no_receipt_sends_nothing(here: Threshold, store_front: Shop, kind: str) -> None:
    class Genuine(Receipt):
        """Says of itself that it is one."""

        genuine = True  # type: ignore[assignment]

    no_receipt: Any = {
        "None": None, "a text": "receipt",
        "one that says so itself": Genuine(f"{RUN}@main", 1, "shop.mail", "0" * 32, b""),
    }[kind]  # fmt: skip
    before = list(store_front.sent)
    prepared = await here.gate.systems["shop"].prepare("", mail("none"))
    with pytest.raises((Refused, AttributeError)):
        await prepared.upstream.perform(None, no_receipt)
    assert store_front.sent == before


async def test_the_receipt_of_a_call_that_was_sealed_sends_nothing_more(here: Threshold, store_front: Shop) -> None:
    prepared = await here.gate.systems["shop"].prepare("", mail("stale"))
    await here.taken.ward.call(here.taken.right, prepared)
    sent = list(store_front.sent)
    (intent,) = [
        (entry.seq, record)
        for entry in await here.store.read(f"{RUN}@main")
        if isinstance(record := decode(entry.body), Intent)
    ]
    with pytest.raises(Refused, match="the call is sealed"):
        await prepared.upstream.perform(None, for_effect(f"{RUN}@main", intent[0], "shop.mail", intent[1].key))
    assert store_front.sent == sent


async def test_the_receipt_of_a_read_opens_no_write(here: Threshold, store_front: Shop) -> None:
    before = list(store_front.sent)
    prepared = await here.gate.systems["shop"].prepare("", mail("read"))
    with pytest.raises(Refused):
        await prepared.upstream.perform(None, for_read(f"{RUN}@main", "shop.mail"))
    assert store_front.sent == before


# --- whatever fails ---


async def test_a_policy_that_fails_denies_and_the_log_says_so(here: Threshold) -> None:
    def broken(facts: Facts) -> Verdict:
        raise RuntimeError(f"the engine has failed at {SECRET}")

    here.rules.rule = broken
    answer = await here.call()
    assert (answer.status, here.office.sent) == (403, [])
    assert "the policy has failed (RuntimeError), and silence denies" in answer.what
    assert "the policy has failed (RuntimeError)" in await here.reasons()
    assert SECRET not in answer.what + await here.reasons()


async def test_a_store_that_is_closed_denies_and_says_why(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    async with threshold(tmp_path, store=store) as here:
        await store.close()
        answer = await here.call()
        assert (answer.status, here.office.sent) == (503, [])
        assert json.loads(answer.body)["error"]["kind"] == "stopped"
        assert answer.what


FULL = """
import asyncio, json, os, resource, signal, sys
from pathlib import Path
sys.path[:0] = [os.getcwd()]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from holdfast.store.sqlite import SqliteStore
from tests.gateway.threshold import threshold
async def main():
    place = Path(sys.argv[1])
    async with threshold(place, store=SqliteStore(place / "runs.db")) as here:
        before = await here.call(args={"to": "before"})
        most = max(each.stat().st_size for each in place.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        found = []
        for each in range(400):
            answer = await here.call(args={"to": str(each), "text": os.urandom(2000).hex()})
            found.append(answer.status)
            if answer.status != 200:
                break
        sent = len(here.office.sent)
        again = await here.call(args={"to": "again", "text": os.urandom(2000).hex()})
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(json.dumps([before.status, found.count(200), found[-1], answer.what, sent, again.status,
                          len(here.office.sent)]), flush=True)
        os._exit(0)
asyncio.run(main())
"""


def test_a_disk_that_is_full_sends_nothing_and_the_agent_is_told(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True,
        text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": "src"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    before, went_well, last, why, sent, again, at_the_end = json.loads(ran.stdout)
    assert (before, last, again) == (200, 503, 503)
    assert why
    assert sent - (went_well + 1) in (0, 1), "of what was told as failed at most the seal was missing"
    assert at_the_end == sent, "once the disk is full nothing more is sent"


# --- whoever dies ---


class Counter:
    """A shop that kills the gateway when it is asked to send a mail: `before` it has sent, or after (`sent`)."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.victim: subprocess.Popen[str] | None = None
        self.when = "never"
        self.seen: list[list[str]] = []
        self.store: Path | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.look()
                outer.kill("before")
                outer.sent.append(body["invoice"])
                outer.kill("after")
                data = json.dumps({"sent": body["invoice"]}).encode()
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def look(self) -> None:
        """What the log has at the moment at which something is sent."""
        assert self.store is not None

        async def read() -> list[str]:
            store = SqliteStore(self.store)  # type: ignore[arg-type]
            try:
                return [type(decode(entry.body)).__name__ for entry in await store.read(f"{RUN}@main")]
            finally:
                await store.close()

        self.seen.append(asyncio.run(read()))

    def kill(self, when: str) -> None:
        if self.when == when and self.victim is not None:
            self.when = "never"
            self.victim.send_signal(signal.SIGKILL)
            self.victim.wait()


@pytest.fixture
def counter(tmp_path: Path) -> Generator[tuple[Premises, Counter]]:
    with premises(tmp_path) as found:
        shop = Counter()
        shop.store = tmp_path / "runs.db"
        found.port = shop.server.server_address[1]
        found.configure()
        try:
            yield found, shop
        finally:
            shop.server.shutdown()
            shop.server.server_close()


MAIL = """
    import json, os, urllib.error, urllib.request
    request = urllib.request.Request(os.environ["SHOP"] + "/mails", b'{"invoice": "7"}',
                                     {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            print(json.dumps([answer.status, json.load(answer)]), flush=True)
    except urllib.error.HTTPError as error:
        print(json.dumps([error.code, json.load(error)]), flush=True)
"""


@pytest.mark.soak
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_gateway_that_dies_while_it_sends_sends_no_second_time(counter: tuple[Premises, Counter], when: str) -> None:
    here, shop = counter
    program = here.program(MAIL)
    shop.victim, shop.when = here.gateway(), when
    code, _, err = here.run(PYTHON, str(program))
    assert code != 0
    assert "gateway is gone" in err
    assert shop.seen[0][-1] == "Intent", "the intent was durable before anything was sent"
    eventually(lambda: len(shop.sent) == 1, "the shop has sent what it was asked for before it was cut off")
    here.gateway()
    process = here.start(PYTHON, str(program))
    eventually(lambda: "doubt" in here.holdfast("show", RUN, check=False), "the doubt is shown")
    assert len(shop.sent) == 1
    process.kill()
    process.wait()


@pytest.mark.soak
def test_a_gateway_that_dies_after_the_seal_answers_from_the_log(counter: tuple[Premises, Counter]) -> None:
    here, shop = counter
    program = here.program(MAIL + '\n    import sys; sys.exit(3 if not os.path.exists("/workspace/x") else 0)')
    gateway = here.gateway()
    code, out, err = here.run(PYTHON, str(program))
    assert (code, json.loads(out)) == (3, [200, {"sent": "7"}]), err
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    here.gateway()
    code, out, err = here.run(PYTHON, str(program))
    assert (json.loads(out), shop.sent) == ([200, {"sent": "7"}], ["7"]), err
    assert shop.seen == [[*shop.seen[0][:-1], "Intent"]]


async def test_every_effect_has_an_intent_before_it_and_a_seal_after_it(here: Threshold) -> None:
    for each in range(5):
        assert (await here.call(args={"to": str(each)})).status == 200
    kinds = [type(each).__name__ for each in await here.records()]
    assert kinds.count("Intent") == kinds.count("Seal") == len(here.office.sent) == 5
    order = [each for each in kinds if each in ("Intent", "Seal")]
    assert order == ["Intent", "Seal"] * 5
    assert {receipt.seq for receipt in here.office.receipts} == {
        entry.seq for entry in await here.store.read(f"{RUN}@main") if isinstance(decode(entry.body), Intent)
    }
