"""Nothing is dialled but declared hosts at addresses that may be dialled; each refusal says why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from holdfast.errors import BadCall, Misuse, NotHappened, Refused
from holdfast.gateway.dial import Dialer

NOT_PUBLIC = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "CGNAT",
    "100.100.100.200": "metadata",
    "169.254.169.254": "metadata",
    "169.254.170.2": "metadata",
    "169.254.1.1": "link-local",
    "168.63.129.16": "platform",
    "192.0.0.192": "protocols",
    "192.0.2.1": "documentation",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "192.88.99.1": "6to4",
    "198.18.0.1": "benchmarks",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "[::]": "unspecified",
    "[::1]": "loopback",
    "[::ffff:127.0.0.1]": "wrapped",
    "[::ffff:169.254.169.254]": "wrapped",
    "[::ffff:8.8.8.8]": "wrapped",
    "[::ffff:0:127.0.0.1]": "wrapped",
    "[::127.0.0.1]": "wrapped",
    "[64:ff9b::169.254.169.254]": "NAT64",
    "[64:ff9b:1::a00:1]": "NAT64",
    "[2002:a9fe:a9fe::1]": "6to4",
    "[2002:7f00:1::]": "6to4",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]": "Teredo",
    "[2001:10::1]": "protocols",
    "[2001:db8::1]": "documentation",
    "[3fff::1]": "documentation",
    "[fc00::1]": "ULA",
    "[fd00:ec2::254]": "metadata",
    "[fd12:3456:789a::1]": "ULA",
    "[fe80::1]": "link-local",
    "[fec0::1]": "site-local",
    "[ff02::1]": "multicast",
    "[100::1]": "discarded",
    "[4000::1]": "not public unicast",
    "[2600:1:2:3:0:5efe:a00:1]": "ISATAP",
}


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_with_its_reason(host: str) -> None:
    with pytest.raises(Refused, match=NOT_PUBLIC[host]):
        Dialer().check(host, 443)


@pytest.mark.parametrize("host", ["8.8.8.8", "1.1.1.1", "[2606:4700:4700::1111]", "[2a00:1450:4001::1]"])
def test_a_public_address_is_not_refused(host: str) -> None:
    assert Dialer().check(host, 443) == host.strip("[]")


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "①②⑦.⓪.⓪.①", "１２７.0.0.1"])
def test_an_odd_spelling_of_an_address_is_no_host(host: str) -> None:
    with pytest.raises(BadCall, match="is no host"):
        Dialer(["127.0.0.1"]).check(host, 80)


@pytest.mark.parametrize(
    ("private", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 1),
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("10.0.0.0/8", "10.1.2.3", 1),
        ("[::1]", "[::1]", 1),
        ("::1", "[::1]", 1),
        ("[::1]:8080", "[::1]", 8080),
        ("fd00::/8", "[fd00::1]", 1),
        ("169.254.169.254", "169.254.169.254", 80),
    ],
)
def test_a_declared_address_may_be_dialled(private: str, host: str, port: int) -> None:
    assert Dialer([private]).check(host, port) == host.strip("[]")


@pytest.mark.parametrize(
    ("private", "host"),
    [
        ("127.0.0.1:8080", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("0.0.0.0", "0.0.0.0"),
        ("224.0.0.0/4", "224.0.0.1"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_a_declaration_opens_nothing_else(private: str, host: str) -> None:
    with pytest.raises(Refused):
        Dialer([private]).check(host, 9090)


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "http://a.example", "a b", "0x7f.1", "a:b", "*"])
def test_a_declaration_that_names_nothing_is_refused(entry: str) -> None:
    with pytest.raises(Misuse, match="cannot be declared private"):
        Dialer([entry])


class Names:
    """A resolver whose answers change with each question: the lowest seam, as an attacker's DNS would answer."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.answers = {name: list(rows) for name, rows in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        rows = self.answers.get(host)
        if not rows:
            raise socket.gaierror("no such name")
        return rows.pop(0) if len(rows) > 1 else rows[0]


@contextlib.asynccontextmanager
async def site(*hosts: str) -> AsyncIterator[tuple[int, list[str]]]:
    """A server that says for whom it was asked."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.headers['host']}{request.path_qs}")
        if request.path == "/away":
            raise web.HTTPFound(request.query["to"])
        return web.Response(text="reached")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        port = 0
        for host in hosts or ("127.0.0.1",):
            place = web.TCPSite(runner, host, port)
            await place.start()
            port = runner.addresses[0][1]
        yield port, seen
    finally:
        await runner.cleanup()


async def ask(client: aiohttp.ClientSession, url: str, **more: bool) -> str:
    async with client.get(URL(url, encoded=True), **{"allow_redirects": False, **more}) as response:
        return await response.text()


async def test_a_name_that_leads_inside_is_not_dialled() -> None:
    async with site() as (port, seen):
        dialer = Dialer(resolve=Names({"a.example": [["127.0.0.1"]]}))
        async with dialer.client(["a.example"]) as client:
            with pytest.raises(Refused, match="loopback"):
                await ask(client, f"http://a.example:{port}/")
    assert not seen


async def test_a_name_is_not_dialled_if_one_of_its_addresses_may_not_be() -> None:
    names = Names({"a.example": [["93.184.216.34", "10.0.0.1"]]})
    async with Dialer(resolve=names).client(["a.example"]) as client:
        with pytest.raises(Refused, match=r"10\.0\.0\.1 is private"):
            await ask(client, "http://a.example/")


async def test_a_private_name_may_lead_to_loopback_but_not_to_the_metadata() -> None:
    async with site() as (port, _):
        names = Names({"in.example": [["127.0.0.1"]], "meta.example": [["169.254.169.254"]]})
        dialer = Dialer(["in.example", "meta.example"], resolve=names)
        async with dialer.client(["in.example", "meta.example"]) as client:
            assert await ask(client, f"http://in.example:{port}/") == "reached"
            with pytest.raises(Refused, match="metadata"):
                await ask(client, f"http://meta.example:{port}/")


async def test_a_name_that_is_rebound_leads_where_it_led_when_it_was_looked_at() -> None:
    async with site() as (port, seen):
        names = Names({"a.example": [["127.0.0.1"], ["169.254.169.254"]]})
        dialer = Dialer(["a.example"], resolve=names)
        for _ in range(3):
            async with dialer.client(["a.example"]) as client:
                assert await ask(client, f"http://a.example:{port}/") == "reached"
    assert names.asked == ["a.example"]
    assert len(seen) == 3


async def test_a_name_that_is_rebound_after_a_while_is_looked_at_again() -> None:
    async with site() as (port, seen):
        names = Names({"a.example": [["127.0.0.1"], ["169.254.169.254"]]})
        dialer = Dialer(["a.example"], resolve=names)
        async with dialer.client(["a.example"]) as client:
            await ask(client, f"http://a.example:{port}/")
        dialer._pins.clear()  # what time does
        async with dialer.client(["a.example"]) as client:
            with pytest.raises(Refused, match="metadata"):
                await ask(client, f"http://a.example:{port}/")
    assert len(seen) == 1


class Careless(Dialer):
    """One whose resolver has been got round."""

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        return ("127.0.0.1",)


async def test_the_socket_itself_refuses_what_nobody_has_looked_at() -> None:
    """Below the resolver: an address that got past it is looked at where it is dialled."""
    async with site() as (port, seen), Careless().client(["a.example"]) as client:
        with pytest.raises(aiohttp.ClientConnectorError, match="loopback"):
            await ask(client, f"http://a.example:{port}/")
    assert not seen


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://b.example:{port}/", "http://[::1]:{port}/"])
async def test_a_client_dials_its_declared_hosts_only(url: str) -> None:
    async with site() as (port, seen):
        names = Names({"a.example": [["127.0.0.1"]], "b.example": [["127.0.0.1"]]})
        dialer = Dialer(["127.0.0.0/8", "::1"], resolve=names)
        async with dialer.client(["a.example"]) as client:
            with pytest.raises(Refused, match="none of the declared hosts"):
                await ask(client, url.format(port=port))
    assert not seen
    assert not names.asked, "a name that is not declared is not even asked for: names carry data out, too"


async def test_a_client_dials_its_declared_port_only() -> None:
    async with site() as (port, seen), Dialer(["127.0.0.1"]).client(["127.0.0.1:1"]) as client:
        with pytest.raises(Refused, match="none of the declared hosts"):
            await ask(client, f"http://127.0.0.1:{port}/")
    assert not seen


async def test_a_client_follows_no_redirect() -> None:
    async with site() as (port, seen), Dialer(["127.0.0.1"]).client(["127.0.0.1"]) as client:
        with pytest.raises(Misuse, match="redirect"):
            await ask(client, f"http://127.0.0.1:{port}/away?to=/there", allow_redirects=True)
    assert len(seen) == 1


async def test_a_client_takes_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as (proxy, through), site() as (port, seen):
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with Dialer(["127.0.0.1"]).client(["127.0.0.1"]) as client:
            assert await ask(client, f"http://127.0.0.1:{port}/") == "reached"
    assert len(seen) == 1
    assert not through


async def test_a_request_that_broke_on_a_kept_connection_is_not_sent_again_by_itself() -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                got.append(await reader.readuntil(b"\r\n\r\n"))
                if b" /break " in got[-1]:
                    break
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Dialer(["127.0.0.1"]).client(["127.0.0.1"]) as client:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with client.delete(f"{base}/first", allow_redirects=False):
            pass
        with pytest.raises(aiohttp.ClientError):
            async with client.delete(f"{base}/break", allow_redirects=False):
                pass
    assert [line.split(b" ")[1] for line in got] == [b"/first", b"/break"]


async def test_what_is_not_http_is_given_the_address_to_connect_to() -> None:
    names = Names({"db.example": [["10.0.0.7", "10.0.0.8"], ["169.254.169.254"]]})
    dialer = Dialer(["db.example:5432"], resolve=names)
    for _ in range(2):
        pinned = await dialer.resolve("DB.example.", 5432)
        assert (pinned.host, pinned.address, pinned.port) == ("db.example", "10.0.0.7", 5432)
    with pytest.raises(Refused, match="private"):
        await dialer.resolve("db.example", 22)


async def test_a_name_without_an_address_was_not_reached() -> None:
    with pytest.raises(NotHappened, match=r"`none\.example` has no address"):
        await Dialer(resolve=Names({})).resolve("none.example", 443)


async def test_names_are_asked_of_the_system_by_default() -> None:
    with pytest.raises(Refused, match="loopback"):
        await Dialer().resolve("localhost", 80)
    assert (await Dialer(["localhost"]).resolve("localhost", 80)).address in ("127.0.0.1", "::1")


IN_AN_EMPTY_NETWORK = """
    import asyncio, sys
    from aiohttp import web
    from holdfast.errors import Refused
    from holdfast.gateway.dial import Dialer

    async def names(host):
        return {"out.example": ["93.184.216.34"], "in.example": ["10.9.8.7"], "doc.example": ["192.0.2.7"]}[host]

    async def main():
        app = web.Application()
        app.router.add_get("/", lambda request: asyncio.sleep(0, web.Response(text=request.host)))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", 80).start()
        dialer = Dialer(["doc.example"], resolve=names)
        async with dialer.client(["out.example", "in.example", "doc.example"]) as client:
            for host in ("out.example", "in.example", "doc.example"):
                try:
                    async with client.get(f"http://{host}/", allow_redirects=False) as response:
                        print(await response.text())
                except Refused as error:
                    print(error.what)
        await runner.cleanup()

    asyncio.run(main())
"""


def test_outside_of_loopback_a_public_address_is_dialled_and_a_private_one_is_not() -> None:
    """In a network of its own, where these addresses lead nowhere but to the test itself."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no `unshare` or no `ip` here: a test cannot make a network of its own")
    made = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*made, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody make a network namespace")
    addresses = " ".join(f"ip addr add {a}/32 dev lo;" for a in ("93.184.216.34", "10.9.8.7", "192.0.2.7"))
    program = textwrap.dedent(IN_AN_EMPTY_NETWORK)
    ran = subprocess.run(
        [*made, "sh", "-c", f'ip link set lo up; {addresses} exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.stdout.splitlines() == [
        "out.example",
        "`in.example` is not dialled: 10.9.8.7 is private",
        "doc.example",
    ], ran.stderr
