"""No credential comes back to an agent over HTTP, and none goes where it is not declared for."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import gzip
import json
import ssl
import urllib.parse
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.errors import HoldfastError, NotHappened, Refused
from holdfast.gateway.upstreams import Declined, Reply
from holdfast.gateway.upstreams.http import HttpSystem
from holdfast.gateway.upstreams.http_answer import unpack
from tests.gateway.stand_in import SECRET, answer, peer, reading, system, writing

LIST = {"method": "GET", "path": "/mails", "name": "list"}
GET = {"method": "GET", "path": "/mails/{id}", "name": "get"}
CREATE = {"method": "POST", "path": "/mails", "name": "create"}
RAW = SECRET.encode()
TRACES = [RAW[4:20], base64.b64encode(RAW)[4:24], RAW.hex().encode()[8:40], base64.b64encode(b"xx" + RAW)[8:28]]


async def carried_out(shop: HttpSystem, operation: str, **args: object) -> Reply:
    prepared = await shop.prepare(operation, args)
    receipt = reading() if prepared.contract.kind == "read" else writing()
    return await prepared.upstream.perform(None, receipt)


REFLECTIONS: dict[str, Callable[[bytes], bytes]] = {
    "an echo of the whole request": lambda request: answer(200, request),
    "the body": lambda _: answer(200, b"your key is " + RAW),
    "a header": lambda _: answer(200, b"", X_Debug=f"Bearer {SECRET}"),
    "the name of a header": lambda _: answer(200, b"").replace(b"content-length", RAW + b": 1\r\ncontent-length"),
    "the reason": lambda _: answer(200, b"").replace(b"Said", RAW),
    "an error": lambda _: answer(401, json.dumps({"error": f"bad key {SECRET}"}).encode()),
    "a server's error": lambda _: answer(500, RAW),
    "a challenge": lambda _: answer(401, b"", WWW_Authenticate=f'Bearer error="{SECRET}"'),
    "gzip": lambda _: answer(200, gzip.compress(RAW), Content_Encoding="gzip"),
    "deflate": lambda _: answer(200, zlib.compress(RAW), Content_Encoding="deflate"),
    "zstd": lambda _: answer(200, zstandard.ZstdCompressor().compress(RAW), Content_Encoding="zstd"),
    "gzip twice": lambda _: answer(200, gzip.compress(gzip.compress(RAW)), Content_Encoding="gzip, gzip"),
    "brotli": lambda _: answer(200, b"\x0b\x0d\x80" + RAW + b"\x03", Content_Encoding="br"),
    "base64": lambda _: answer(200, base64.b64encode(RAW)),
    "base64 of more": lambda _: answer(200, base64.urlsafe_b64encode(b"a" + RAW + b"b")),
    "hex": lambda _: answer(200, RAW.hex().encode()),
    "percent-encoded": lambda _: answer(200, "".join(f"%{byte:02x}" for byte in RAW).encode()),
    "JSON in JSON": lambda _: answer(200, json.dumps(json.dumps({"k": SECRET})).encode()),
    "cut short": lambda _: answer(200, RAW[:22] + b"..."),
    "events": lambda _: answer(200, b"data: {" + RAW + b"}\n\ndata: [DONE]\n\n", Content_Type="text/event-stream"),
    "a cookie": lambda _: answer(200, b"", Set_Cookie=f"key={SECRET}"),
    "chunks cut in its middle": lambda _: (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (RAW[:5], RAW[5:9], RAW[9:]))
        + b"0\r\n\r\n"
    ),
    "an answer that is none": lambda _: b"HTTP/1.1 " + RAW + b"\r\n\r\n",
    "an answer with a broken header": lambda _: b"HTTP/1.1 200 OK\r\n" + RAW + b"\r\n\r\n",
}


@pytest.mark.parametrize("which", REFLECTIONS)
@pytest.mark.parametrize("operation", ["list", "create"])
async def test_a_credential_that_a_system_reflects_does_not_come_back(which: str, operation: str) -> None:
    async with peer(REFLECTIONS[which]) as there, system(there.port, LIST, CREATE) as shop:
        try:
            reply = await carried_out(shop, operation)
            said = reply.data
        except Declined as error:
            said = str(error).encode() + error.reply.data
        except HoldfastError as error:
            said = str(error).encode()
    assert RAW in there.got[0]
    assert not [trace for trace in TRACES if trace.lower() in said.lower()]
    assert "%37%51%76%39" not in said.decode("utf-8", "replace").lower()


@pytest.mark.parametrize("inject", [{"query": "key"}, {"header": "Authorization", "user": "shop"}, {"body": "key"}])
async def test_a_credential_that_is_reflected_as_it_was_sent_does_not_come_back(inject: dict) -> None:
    echo = peer(lambda request: answer(200, request))
    async with echo as there, system(there.port, CREATE, inject=[{"credential": "KEY", **inject}]) as shop:
        reply = await carried_out(shop, "create", body={"a": 1})
    assert b"[credential:KEY]" in reply.data
    assert not [trace for trace in TRACES if trace in reply.data]
    assert b"c2hvcDpz" not in reply.data, "the beginning of what a Basic header carries"


async def test_an_error_on_the_way_does_not_tell_the_credential() -> None:
    async with peer() as there:
        port = there.port
    async with system(port, LIST, inject=[{"credential": "KEY", "query": "key"}]) as shop:
        with pytest.raises(NotHappened) as raised:
            await carried_out(shop, "list")
    assert SECRET not in repr(raised.value) + str(raised.value) + str(raised.value.__cause__)


@pytest.mark.parametrize("value", ["shorty7", "with\nnewline-0123456", "wïth-ümlauts-0123"])
async def test_a_credential_that_cannot_be_sent_safely_stops_the_call_and_is_not_told(value: str) -> None:
    async with peer() as there, system(there.port, CREATE, secrets={"KEY": value}) as shop:
        with pytest.raises(NotHappened, match="`KEY`") as raised:
            await carried_out(shop, "create")
    assert value not in str(raised.value)
    assert not there.got


async def test_a_decompression_bomb_is_not_passed_on() -> None:
    bomb = gzip.compress(bytes(80 << 20))
    async with peer(answer(200, bomb, Content_Encoding="gzip")) as there, system(there.port, LIST) as shop:
        with pytest.raises(NotHappened, match="larger"):
            await carried_out(shop, "list")


# --- redirects ---


def away(to: str, status: int = 302) -> bytes:
    return answer(status, b"", Location=to)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_read_is_followed_within_the_system_to_a_declared_read(status: int) -> None:
    answers = (away("/v1/mails/7?a=1", status), answer(200, b"there"))
    async with peer(*answers) as there, system(there.port, LIST, GET) as shop:
        assert unpack((await carried_out(shop, "list")).data).body == b"there"
    assert there.got[1].startswith(b"GET /v1/mails/7?a=1 HTTP/1.1")
    assert RAW in there.got[1]


ASTRAY = {
    "inside": ("http://169.254.169.254/latest/meta-data/", "none of its hosts"),
    "loopback by another name": ("http://localhost:{port}/v1/mails", "none of its hosts"),
    "another host": ("https://evil.test/", "none of its hosts"),
    "another port": ("http://127.0.0.1:1/v1/mails", "none of its hosts"),
    "decimal": ("http://2130706433/", "not understood"),
    "a user": ("http://127.0.0.1:{port}@evil.test/", "not understood"),
    "no scheme": ("//evil.test/", "not understood"),
    "another scheme": ("file:///etc/passwd", "not understood"),
    "a backslash": ("http://127.0.0.1:{port}\\@evil.test/", "not understood"),
    "what is not declared": ("/v1/users", "no declared read"),
    "a write": ("/v1/purge", "no declared read"),
    "below the base": ("/admin", "no declared read"),
    "out of the base": ("/v1/../admin", "not understood"),
    "relative": ("mails/7", "not understood"),
    "a method override": ("/v1/mails?_method=DELETE", "not understood"),
    "nowhere": ("", "not understood"),
}


@pytest.mark.parametrize("which", ASTRAY)
async def test_a_redirect_that_leads_astray_is_refused_with_the_reason(which: str) -> None:
    to, why = ASTRAY[which]
    purge = {"method": "GET", "path": "/purge", "name": "purge", "kind": "irreversible"}
    async with peer() as there, system(there.port, LIST, GET, purge) as shop:
        there.answers = [away(to.format(port=there.port))]
        with pytest.raises(Refused, match=why):
            await carried_out(shop, "list")
    assert len(there.got) == 1


async def test_a_redirect_without_an_end_is_refused() -> None:
    async with peer(away("/v1/mails")) as there, system(there.port, LIST) as shop:
        with pytest.raises(Refused, match="more than"):
            await carried_out(shop, "list")
    assert len(there.got) == 6


async def test_a_credential_does_not_go_to_another_declared_host() -> None:
    async with peer(lambda request: answer(200, request)) as files, peer() as there:
        there.answers = [away(f"http://127.0.0.1:{files.port}/f?sig={SECRET}")]
        async with system(there.port, LIST, hosts=[f"http://127.0.0.1:{files.port}"]) as shop:
            reply = await carried_out(shop, "list", headers={"accept": "x/y", "if-match": "3"})
    assert files.got[0].startswith(b"GET /f?sig=")
    assert RAW not in files.got[0]
    assert b"authorization" not in files.got[0].lower()
    assert b"if-match" not in files.got[0].lower()
    assert RAW not in reply.data


async def test_a_credential_goes_to_the_other_host_that_it_is_declared_for() -> None:
    async with peer(answer(200, b"file")) as files, peer() as there:
        other = f"http://127.0.0.1:{files.port}"
        there.answers = [away(f"{other}/f")]
        inject = [
            {"credential": "KEY", "header": "Authorization"},
            {"credential": "FILES", "header": "X-Files", "hosts": [other]},
        ]
        secrets = {"KEY": SECRET, "FILES": "files-0123456789"}
        async with system(there.port, LIST, hosts=[other], inject=inject, secrets=secrets) as shop:
            await carried_out(shop, "list")
    assert b"files-0123456789" in files.got[0]
    assert RAW not in files.got[0]
    assert b"files-0123456789" not in there.got[0]


async def test_a_handle_that_a_system_redirects_with_is_not_resolved() -> None:
    async with peer(answer(200, b"file")) as files, peer() as there:
        other = f"http://127.0.0.1:{files.port}"
        async with system(there.port, LIST, hosts=[other]) as shop:
            handle = await shop.vault.keep("shop.create.body.secret", "minted-0123456789", writing())
            there.answers = [away(f"{other}/f?x={handle}")]
            await carried_out(shop, "list")
    assert b"minted" not in files.got[0]


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_write_is_not_followed_and_its_answer_is_shown(status: int) -> None:
    async with peer(away(f"/v1/mails/7?key={SECRET}", status)) as there, system(there.port, CREATE, GET) as shop:
        told = unpack((await carried_out(shop, "create", body={})).data)
    assert (told.status, told.header("location")) == (status, "/v1/mails/7?key=[credential:KEY]")
    assert len(there.got) == 1


@pytest.mark.parametrize("status", [307, 308])
async def test_a_write_that_is_sent_elsewhere_was_refused_here(status: int) -> None:
    async with peer(away("/v1/mails", status)) as there, system(there.port, CREATE) as shop:
        with pytest.raises(Declined):
            await carried_out(shop, "create", body={})
    assert len(there.got) == 1


# --- TLS ---


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for `name` that nobody else knows, and what a server needs of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


async def test_a_system_is_known_by_its_certificate_and_never_left_for_http(tmp_path: Path) -> None:
    path, context = certificate(tmp_path, "localhost")
    said = [answer(200, b"safe")]

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said[0])
        writer.close()

    async with peer() as plain, await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context) as server:
        base = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        more = {
            "base": base,
            "private": ["localhost", "127.0.0.1"],
            "folder": tmp_path,
            "hosts": [f"http://127.0.0.1:{plain.port}"],
        }
        async with system(1, LIST, ca_file=path.name, **more) as shop:
            assert unpack((await carried_out(shop, "list")).data).body == b"safe"
            said[0] = away(f"http://127.0.0.1:{plain.port}/v1/mails")
            with pytest.raises(Refused, match="from https to http"):
                await carried_out(shop, "list")
        async with system(1, LIST, **more) as shop:
            with pytest.raises(NotHappened, match="could not be reached"):
                await carried_out(shop, "list")
    assert not plain.got
    assert urllib.parse.urlsplit(base).hostname == "localhost"
