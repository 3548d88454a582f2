"""Programs that know nothing of a gateway: through a proxy with TLS inside, or by the names of their hosts alone."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import shutil
import struct
from collections.abc import Generator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from holdfast.gateway.names import AAAA, A, answer_to, question_of
from tests.gateway.premises import Premises, premises

PYTHON = "/usr/bin/python3"


def certificate(place: Path) -> Path:
    """A server's own certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    file = place / "shop.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def secure(tmp_path: Path) -> Generator[Premises]:
    """A shop that speaks TLS."""
    own = certificate(tmp_path)
    with premises(tmp_path, own) as found:
        found.configure()
        text = (tmp_path / "holdfast.toml").read_text()
        text = text.replace('base = "http://', f'ca_file = "{own}"\nbase = "https://')
        (tmp_path / "holdfast.toml").write_text(text)
        yield found


@pytest.fixture
def plain(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def test_a_program_that_only_knows_a_proxy_speaks_tls_to_its_system_and_the_gateway_reads_it(secure: Premises) -> None:
    program = secure.program(
        f"""
    import json, os, urllib.request
    del os.environ["NO_PROXY"], os.environ["no_proxy"]
    url = "https://127.0.0.1:{secure.port}"
    with urllib.request.urlopen(url + "/customers") as answer:
        print(json.dumps(json.load(answer)["customers"]))
    request = urllib.request.Request(url + "/mails", b'{{"invoice": "5"}}', {{"content-type": "application/json"}})
    with urllib.request.urlopen(request) as answer:
        print(answer.read().decode())
    """
    )
    code, out, err = secure.run(PYTHON, str(program))
    assert code == 0, err
    assert json.loads(out.splitlines()[0]) == ["ann@example.com"]
    assert secure.sent == ["5"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_curl_speaks_through_the_tunnel_with_its_usual_variables(secure: Premises) -> None:
    url = f"https://127.0.0.1:{secure.port}/customers"
    secure.program("")
    code, out, err = secure.run("curl", "-sS", "--noproxy", "", url)
    assert (code, json.loads(out)["customers"]) == (0, ["ann@example.com"]), err


def test_another_host_inside_a_tunnel_is_refused(secure: Premises) -> None:
    program = secure.program(
        f"""
    import http.client, ssl
    connection = http.client.HTTPSConnection("127.0.0.1", 8080, context=ssl.create_default_context())
    connection.set_tunnel("127.0.0.1", {secure.port})
    connection.request("GET", "/customers", headers={{"Host": "elsewhere.example"}})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
    """
    )
    code, out, err = secure.run(PYTHON, str(program))
    assert code == 0, err
    assert out.startswith("403")
    assert "says another host" in out


def test_a_host_is_found_by_its_name_and_another_name_does_not_exist(plain: Premises) -> None:
    more = """
    [upstreams.named]
    kind = "http"
    base = "http://shop.example"
    private = ["127.0.0.1"]
    [[upstreams.named.routes]]
    method = "GET"
    path = "/customers"
    [upstreams.tls]
    kind = "http"
    base = "https://safe.example"
    [[upstreams.tls.routes]]
    method = "GET"
    path = "/customers"
    """
    plain.configure(more)
    plain.gateway()  # a process of its own, which runs on another loop than a gateway of one command
    program = plain.program(
        """
    import json, os, socket, ssl, urllib.error, urllib.request
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    def ask(url):
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return [error.code, error.read().decode()]
        except OSError as error:
            return str(error)
    print(json.dumps([socket.gethostbyname("shop.example"), ask("http://shop.example/nothing"),
                      ask("https://safe.example/nothing"), ask("https://evil.example/"),
                      ask("https://safe.example:8080/")]))
    """
    )
    code, out, err = plain.run(PYTHON, str(program))
    assert code == 0, err
    address, http, tls, evil, other = json.loads(out)
    assert address == "127.0.0.1"
    assert http[0] == tls[0] == 400
    assert "no declared operation" in http[1]
    assert "no declared operation" in tls[1]
    assert "Name or service not known" in evil
    assert isinstance(other, str)
    log = plain.holdfast("log", "r")
    assert "evil.example" in log


def packet(name: str, kind: int = A, *, flags: int = 0x0100, questions: int = 1) -> bytes:
    """A question as a resolver sends it."""
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split(".")) + b"\0"
    return struct.pack("!6H", 7, flags, questions, 0, 0, 0) + labels + struct.pack("!2H", kind, 1)


def test_a_question_is_answered_with_this_machine_or_with_nothing() -> None:
    asked = question_of(packet("Shop.Example"))
    assert asked is not None
    assert asked.name == "shop.example"
    assert answer_to(asked, here=True)[-4:] == bytes((127, 0, 0, 1))
    assert struct.unpack_from("!6H", answer_to(asked, here=False)) == (7, 0x8583, 1, 0, 0, 0)
    six = question_of(packet("shop.example", AAAA))
    assert six is not None
    assert answer_to(six, here=True)[-16:] == ipaddress.ip_address("::1").packed
    text = question_of(packet("shop.example", 16))
    assert text is not None
    assert struct.unpack_from("!6H", answer_to(text, here=True)) == (7, 0x8580, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 11, packet("a.b", flags=0x8100), packet("a.b", questions=2), packet("a.b")[:-3], b"\0" * 600],
)
def test_what_is_no_single_question_is_not_answered(data: bytes) -> None:
    assert question_of(data) is None


@given(st.binary(max_size=600))
def test_no_packet_does_any_harm(data: bytes) -> None:
    found = question_of(data)
    if found is not None:
        assert len(answer_to(found, here=False)) <= len(data) + 12
