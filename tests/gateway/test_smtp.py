"""The smtp upstream against a real mail server: whom it lets be written to, and what it knows when the server dies."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from holdfast.core.canonical import canonical
from holdfast.core.contract import Repeat
from holdfast.core.effect import Encoding, Kind
from holdfast.errors import BadCall, Misuse, Refused, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.smtp import SmtpConfig, SmtpSystem, open_smtp
from tests.gateway.mail_server import PASSWORD, USER
from tests.gateway.outfit import Outfit

WAIT_S = 60


def certificate(folder: Path) -> None:
    """A certificate for 127.0.0.1 that only itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.shop.example")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)


class MailServer:
    """One in a process of its own."""

    def __init__(self, folder: Path, tls: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.mail_server", str(folder), tls], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def letters(self) -> list[dict[str, Any]]:
        """What it has taken since it was asked last."""
        path = self.folder / "letters"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mail")
    certificate(folder)
    return folder


@pytest.fixture(scope="module")
def lasting(place: Path) -> Iterator[MailServer]:
    server = MailServer(place, "starttls")
    yield server
    server.stop()


@pytest.fixture
def server(lasting: MailServer) -> MailServer:
    lasting.letters()
    return lasting


@pytest.fixture
def mortal(place: Path) -> Iterator[MailServer]:
    """A server that this test may end."""
    server = MailServer(place, "starttls")
    server.letters()
    yield server
    server.stop()


class Desk:
    """One declared mail server, and letters to it."""

    def __init__(self, system: SmtpSystem, outfit: Outfit) -> None:
        self.system = system
        self.outfit = outfit

    async def prepare(self, **args: Any) -> Prepared:
        return await self.system.prepare("send", {"to": "anna@shop.example", "reference": "invoice 77", **args})

    async def send(self, *, key: str = "", **args: Any) -> Reply:
        prepared = await self.prepare(**args)
        return await prepared.upstream.perform(None, await self.outfit.write(key))


async def desk_on(server: MailServer, folder: Path, **more: Any) -> Desk:
    outfit = Outfit(folder, "mail", "mail.send", {"mail": PASSWORD, "wrong": "not-the-password"})
    told: dict[str, Any] = {
        "kind": "smtp", "host": "127.0.0.1", "port": server.port, "ca": str(server.folder / "cert.pem"), "user": USER,
        "credential": "mail", "senders": ["billing@shop.example", "die@shop.example"],
        "recipients": ["shop.example", "ceo@other.example"], "headers": ["Reply-To"], "timeout_s": WAIT_S,
    }  # fmt: skip
    return Desk(await open_smtp("mail", SmtpConfig(**{**told, **more}), outfit.kit), outfit)


@pytest.fixture
async def desk(server: MailServer, tmp_path: Path) -> AsyncIterator[Desk]:
    desk = await desk_on(server, tmp_path)
    yield desk
    await desk.system.close()


# --- what is sent ---


async def test_a_letter_arrives_as_it_was_written(server: MailServer, desk: Desk) -> None:
    text = "Liebe Anna,\n.\n..\r\nFrom here on: ünïcödé\rend"
    reply = await desk.send(
        to=["anna@shop.example", "bob@SHOP.example"], cc="carl@shop.example", bcc=["ceo@other.example"],
        subject="Rechnung für 77 €", text=text, html="<p>.\n.</p>", headers={"Reply-To": "desk@shop.example"},
        key="0a" * 16,
    )  # fmt: skip
    (letter,) = server.letters()
    people = ["anna@shop.example", "bob@shop.example", "carl@shop.example", "ceo@other.example"]
    told = message_from_string(letter["content"], policy=default)
    assert reply.value == {
        "message_id": f"<{'0a' * 16}@shop.example>", "accepted": people, "refused": [],
        "reply": "250 2.0.0 queued as 4711",
    }  # fmt: skip
    assert (letter["from"], letter["to"], letter["ssl"]) == ("billing@shop.example", people, True)
    assert [told[name] for name in ("From", "To", "Cc", "Bcc", "Subject", "Reply-To", "Message-ID")] == [
        "billing@shop.example", "anna@shop.example, bob@shop.example", "carl@shop.example", None, "Rechnung für 77 €",
        "desk@shop.example", f"<{'0a' * 16}@shop.example>",
    ]  # fmt: skip
    plain, html = told.iter_parts()
    assert plain.get_content().splitlines() == ["Liebe Anna,", ".", "..", "From here on: ünïcödé", "end"]
    assert html.get_content().splitlines() == ["<p>.", ".</p>"]


async def test_a_letter_is_irreversible_and_known_by_whom_it_goes_to_and_what_it_is_about(desk: Desk) -> None:
    one = await desk.prepare(to=["b@shop.example", "a@shop.example"], text="x")
    two = await desk.prepare(to="a@shop.example", bcc="B@shop.example", subject="y", text="z")
    other = await desk.prepare(to=["b@shop.example", "a@shop.example"], text="x", reference="invoice 78")
    assert (one.contract.kind, one.contract.repeat, one.contract.probe, one.blast) == (
        Kind.IRREVERSIBLE, Repeat.ONCE, False, 2,
    )  # fmt: skip
    assert one.chosen == two.chosen != other.chosen


async def test_without_a_reference_each_further_letter_is_asked_about(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, reference=False)
    prepared = await desk.system.prepare("send", {"to": "anna@shop.example"})
    assert prepared.contract.repeat is Repeat.ASK


async def test_a_recorded_letter_is_sent_from_its_bytes(server: MailServer, desk: Desk) -> None:
    prepared, other = await desk.prepare(subject="recorded"), await desk.prepare(subject="other")
    reply = await other.upstream.perform(canonical(dict(prepared.args)), await desk.outfit.write())
    (letter,) = server.letters()
    assert "Subject: recorded" in letter["content"]
    assert prepared.upstream.read(reply.data, Encoding.JSON) == reply


async def test_a_server_that_speaks_tls_from_the_beginning_is_spoken_to(place: Path, tmp_path: Path) -> None:
    server = MailServer(place, "tls")
    try:
        desk = await desk_on(server, tmp_path, tls="tls")
        await desk.send(text="x")
        assert len(server.letters()) == 1
    finally:
        server.stop()


# --- what is refused before anything is asked ---


@pytest.mark.parametrize(
    "args",
    [
        {"to": "eve@evil.example"},
        {"to": "anna@shop.example.evil.example"},
        {"to": ["anna@shop.example", "eve@evil.example"]},
        {"bcc": "eve@evil.example"},
        {"to": "eve@evil.example@shop.example"},
        {"to": '"eve@evil.example"@shop.example'},
        {"to": "eve@evil.example, anna@shop.example"},
        {"to": "Anna <anna@shop.example>"},
        {"to": "<eve@evil.example> anna@shop.example"},
        {"to": "anna@shop.example\r\nRCPT TO:<eve@evil.example>"},
        {"to": "anna@shop.example\n"},
        {"to": "anna@shop.example>\r\nDATA"},
        {"to": "anna(comment)@shop.example"},
        {"to": "anna@[127.0.0.1]"},
        {"to": "anna@shop.example "},
        {"to": "ann\u0430@shop.example"},
        {"to": "anna\u202e@shop.example"},
        {"to": "anna@sh\u043ep.example"},
        {"to": "anna@shop\uff0eexample"},
        {"to": "@shop.example"},
        {"to": "a" * 65 + "@shop.example"},
        {"to": []},
        {"to": [1]},
        {"to": {"a": "b"}},
        {"to": [f"p{n}@shop.example" for n in range(11)]},
        {"from": "boss@shop.example"},
        {"from": "billing@shop.example\r\nBcc: eve@evil.example"},
        {"from": ["billing@shop.example"]},
        {"subject": "x\r\nBcc: eve@evil.example"},
        {"subject": "x\ny"},
        {"subject": "x\x0by"},
        {"subject": "x\x85y"},
        {"subject": "x\u2028y"},
        {"subject": "\u202egnp.exe"},
        {"subject": "x\0"},
        {"subject": "\ud800"},
        {"subject": "x" * 501},
        {"reference": ""},
        {"reference": "a\nb"},
        {"headers": {"Bcc": "eve@evil.example"}},
        {"headers": {"bcc": "eve@evil.example"}},
        {"headers": {"From": "ceo@shop.example"}},
        {"headers": {"X-Any": "x"}},
        {"headers": {"Reply-To": "a\r\nBcc: eve@evil.example"}},
        {"headers": {"Reply-To\r\nBcc": "eve@evil.example"}},
        {"headers": {"Reply-To": "a@b", "reply-to": "c@d"}},
        {"headers": {"Reply-To": ["a@b"]}},
        {"headers": ["Reply-To"]},
        {"text": 1},
        {"text": "x\0y"},
        {"text": "\udfff"},
        {"html": ["x"]},
        {"text": "x" * 1_000_001},
        {"attachments": []},
    ],
)
async def test_a_letter_that_is_not_as_declared_is_refused(desk: Desk, args: dict[str, Any]) -> None:
    with pytest.raises(BadCall):
        await desk.prepare(**args)


async def test_nobody_is_written_to_unless_somebody_said_so(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, recipients=[])
    with pytest.raises(BadCall, match="may not be written to"):
        await desk.prepare()


async def test_there_is_no_other_operation(desk: Desk) -> None:
    with pytest.raises(BadCall, match="no operation"):
        await desk.system.prepare("vrfy", {})
    assert list(desk.system.operations()) == ["send"]


@pytest.mark.parametrize(
    "told",
    [
        {"senders": []},
        {"senders": ["Billing <billing@shop.example>"]},
        {"headers": ["Bcc"]},
        {"headers": ["Content-Type"]},
        {"headers": ["X-A: b"]},
        {"user": "x"},
        {"credential": "x"},
        {"hello": "a\r\nb"},
        {"tls": "maybe"},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SmtpConfig(**{"kind": "smtp", "host": "x", "senders": ["a@b.example"], **told})


async def test_authorities_that_cannot_be_read_are_named_when_it_is_opened(server: MailServer, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="authorities"):
        await desk_on(server, tmp_path, ca="nowhere.pem")


# --- what the server's answers mean ---


async def test_recipients_that_are_refused_are_named_in_the_answer(server: MailServer, desk: Desk) -> None:
    reply = await desk.send(to=["anna@shop.example", "nobody@shop.example", "busy@shop.example"])
    told: Any = reply.value
    assert told["accepted"] == ["anna@shop.example"]
    assert [(each["recipient"], each["code"]) for each in told["refused"]] == [
        ("nobody@shop.example", 550), ("busy@shop.example", 451),
    ]  # fmt: skip
    assert [letter["to"] for letter in server.letters()] == [["anna@shop.example"]]


@pytest.mark.parametrize(
    ("args", "meaning"),
    [
        ({"to": "nobody@shop.example"}, Declined),
        ({"to": ["nobody@shop.example", "busy@shop.example"]}, RetryAfter),
        ({"to": "busy@shop.example"}, RetryAfter),
        ({"to": ["anna@shop.example", "closing@shop.example"]}, RetryAfter),
        ({"subject": "late"}, RetryAfter),
        ({"subject": "spam"}, Declined),
    ],
)
async def test_a_no_proves_that_nothing_was_taken(
    server: MailServer, desk: Desk, args: dict[str, Any], meaning: type[Exception]
) -> None:
    with pytest.raises(meaning):
        await desk.send(**args)
    assert server.letters() == []


async def test_that_the_server_closes_is_no_answer_to_a_letter_that_it_has(desk: Desk) -> None:
    with pytest.raises(Exception, match="answered by 421") as doubt:
        await desk.send(subject="closing")
    assert not isinstance(doubt.value, DidNotHappen | RetryAfter)


async def test_no_credential_is_in_what_comes_back(desk: Desk) -> None:
    reply = await desk.send(to=["anna@shop.example", "nobody@shop.example"])
    with pytest.raises(Declined) as refused:
        await desk.send(to="nobody@shop.example")
    told = reply.data.decode() + str(refused.value) + refused.value.reply.data.decode()
    assert "no such user" in told
    assert PASSWORD not in told


# --- what is known when the server is gone ---


async def test_a_server_that_dies_after_the_dot_leaves_a_doubt(mortal: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(mortal, tmp_path)
    with pytest.raises(Exception, match=r"no answer to the end of the letter <(0b){16}@shop.example>") as doubt:
        await desk.send(subject="die", key="0b" * 16)
    assert not isinstance(doubt.value, DidNotHappen | RetryAfter)
    assert len(mortal.letters()) == 1
    prepared = await desk.prepare(subject="die")
    assert await prepared.upstream.probe(None, await desk.outfit.write()) is None


async def test_a_server_that_dies_before_the_dot_has_taken_nothing(mortal: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(mortal, tmp_path)
    with pytest.raises(DidNotHappen, match="lost before it had the letter"):
        await desk.send(**{"from": "die@shop.example"})
    assert mortal.letters() == []


async def test_a_server_that_is_not_there_has_taken_nothing(mortal: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(mortal, tmp_path)
    mortal.stop()
    with pytest.raises(DidNotHappen, match="lost before it had the letter"):
        await desk.send()


async def test_a_letter_whose_waiter_is_gone_stops(mortal: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(mortal, tmp_path)
    os.kill(mortal.process.pid, signal.SIGSTOP)
    sending = asyncio.create_task(desk.send(key="0c" * 16))
    await running(desk, True)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await running(desk, False)
    os.kill(mortal.process.pid, signal.SIGCONT)
    assert mortal.letters() == []


async def running(desk: Desk, state: bool) -> None:
    """Until it is, or is no more."""
    prepared = await desk.prepare()
    for _ in range(WAIT_S * 100):
        if prepared.upstream.running("0c" * 16) is state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


# --- the way there ---


async def test_nobody_signs_in_where_the_server_offers_no_tls(place: Path, tmp_path: Path) -> None:
    server = MailServer(place, "none")
    try:
        desk = await desk_on(server, tmp_path)
        with pytest.raises(DidNotHappen, match="offers no STARTTLS"):
            await desk.send()
        assert server.letters() == []
    finally:
        server.stop()


async def test_a_certificate_that_nobody_vouches_for_is_refused(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, ca="")
    with pytest.raises(DidNotHappen, match="CERTIFICATE_VERIFY_FAILED"):
        await desk.send()


async def test_a_certificate_of_another_name_is_refused(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, host="127.0.0.2", private=["127.0.0.2"])
    with pytest.raises(DidNotHappen):
        await desk.send()


async def test_a_password_that_is_wrong_changes_nothing_and_is_not_named(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, credential="wrong")
    with pytest.raises(Declined, match="535") as refused:
        await desk.send()
    assert "not-the-password" not in str(refused.value)


async def test_an_address_that_is_not_declared_is_not_dialled(server: MailServer, tmp_path: Path) -> None:
    for host in ("10.0.0.1", "169.254.169.254"):
        desk = await desk_on(server, tmp_path, host=host)
        with pytest.raises(Refused, match="not dialled"):
            await desk.send()


async def test_nothing_goes_to_a_public_address_in_the_clear(server: MailServer, tmp_path: Path) -> None:
    desk = await desk_on(server, tmp_path, host="192.88.100.1", tls="none", user="", credential="")
    with pytest.raises(DidNotHappen, match="without TLS"):
        await desk.send()
