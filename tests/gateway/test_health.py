"""Health: of a real gateway over TCP and at its admin door, of stores that are away or broken, and the numbers."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.core.contract import Level
from holdfast.core.policy import Denied
from holdfast.errors import NotHappened, Refused, Stopped, Waiting
from holdfast.gateway.health import Health, HealthDoor, Metric, broken, exposition, writable
from holdfast.gateway.meters import metrics
from holdfast.store import Store
from holdfast.store.memory import MemoryStore
from holdfast.store.postgres import PostgresStore
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import Lodge
from tests.postgres import Postgres
from tests.store.shelf import draft
from tests.store.wire import Wire

ALLOW = '@id("all") permit(principal, action, resource);'


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("gateway", timeout=60)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def asked(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@contextmanager
def gateway(place: Path, policy: bool = True) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A gateway's process, and the port at which it tells its health."""
    (place / "policy.cedar").write_text(ALLOW)
    (place / "holdfast.toml").write_text(
        '[gateway]\nstore = "runs.db"\nhealth = "127.0.0.1:0"\n' + ('[policy]\nfiles = ["policy.cedar"]\n' * policy)
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "gateway", "holdfast.toml"], cwd=place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), process.communicate()[1]
        yield process, int(line.split()[-1])
    finally:
        process.kill()
        process.communicate()


def told(port: int, path: str) -> tuple[int, str]:
    return asked(http.client.HTTPConnection("127.0.0.1", port, timeout=60), path)


def test_a_gateway_tells_that_it_is_alive_and_ready_and_what_it_has_done(tmp_path: Path) -> None:
    with gateway(tmp_path) as (process, port):
        assert told(port, "/healthz") == (200, '{"alive": true}')
        assert told(port, "/readyz") == (200, '{"ready": true, "failing": []}')
        status, text = told(port, "/metrics")
        assert (status, "holdfast_runs 0\n" in text) == (200, True)
        door = tmp_path / "holdfast-state" / "admin.sock"
        assert json.loads(asked(OverSocket(door), "/readyz")[1]) == {"ready": True, "failing": {}}
        assert asked(OverSocket(tmp_path / "holdfast-state" / "door.sock"), "/readyz")[0] == 403, "not to agents"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_gateway_without_a_policy_is_alive_and_not_ready_and_only_people_are_told_why(tmp_path: Path) -> None:
    with gateway(tmp_path, policy=False) as (_, port):
        assert told(port, "/healthz")[0] == 200
        assert told(port, "/readyz") == (503, '{"ready": false, "failing": ["policy"]}')
        status, body = asked(OverSocket(tmp_path / "holdfast-state" / "admin.sock"), "/readyz")
        assert (status, json.loads(body)["failing"]) == (503, {"policy": "no policy is declared, and silence denies"})


def test_what_is_no_request_harms_nobody(tmp_path: Path) -> None:
    with gateway(tmp_path) as (_, port):
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]  # and never say a word
        for data in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz HTTP/1.1\r\n" + b"x" * 20_000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(data)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/metrics", b"x" * 100)
        assert connection.getresponse().status == 405
        assert told(port, "/nothing")[0] == 404
        assert told(port, "/healthz?verbose=1")[0] == 200
        for client in waiting:
            client.close()


def test_a_worker_tells_the_same_until_it_is_told_to_stop(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.empty()
    url += f"{'&' if '?' in url else '?'}key={tmp_path}/log-key"
    worker = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "worker", "--health", "127.0.0.1:0", "--store", url], cwd=tmp_path,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "HOLDFAST_AGENTS": "nothing"},
    )  # fmt: skip
    try:
        assert worker.stderr is not None
        lines = iter(worker.stderr.readline, "")
        port = next(int(line.split()[-1]) for line in lines if line.startswith("health at port"))
        assert told(port, "/healthz") == (200, '{"alive": true}')
        assert told(port, "/readyz") == (200, '{"ready": true, "failing": []}')
        assert "holdfast_runs 0\n" in told(port, "/metrics")[1]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.communicate()


# --- stores ---


def health_of(store: Store, patience_s: float = 60.0) -> Health:
    found = Health({"store": writable(store)}, broken=lambda: broken(store), metrics=list, patience_s=patience_s)
    found.stage = ""
    return found


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
async def test_asking_whether_a_store_can_be_written_leaves_nothing_in_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: Store
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        store = PostgresStore(server.empty())
    else:
        store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "runs.db", anchor=None)
    health = health_of(store)
    assert await health.failing() == {}
    assert await store.branches() == []
    assert health.dead() is None
    await store.close()


@pytest.fixture
async def wire(postgres: Postgres) -> AsyncIterator[Wire]:
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server whose socket is not ours")
    wire = Wire(postgres.socket)
    yield wire
    wire.close()


def through(wire: Wire, url: str) -> str:
    return url.partition("?")[0] + f"?host={wire.folder}"


async def test_while_the_database_is_away_a_process_is_alive_and_not_ready(postgres: Postgres, wire: Wire) -> None:
    store = PostgresStore(through(wire, postgres.empty()), patience_s=60)
    health = health_of(store, patience_s=0.2)
    wire.down = True
    wire.cut()
    assert await health.failing() == {"store": "no answer in 0.2 s"}
    assert health.dead() is None
    wire.down = False
    async with asyncio.timeout(60):
        while await health.failing():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)
    await store.close()


async def test_a_store_that_writes_nothing_any_more_asks_for_a_new_process(postgres: Postgres, wire: Wire) -> None:
    store = PostgresStore(through(wire, postgres.empty()), patience_s=0.2)
    health = health_of(store)
    wire.down = True  # for whoever comes from now on
    wire.plan = "before"
    with pytest.raises(Stopped):
        await store.append("run@main", [draft("cut here")], epoch=0, barrier=True)
    assert health.dead() is not None
    status, _, body = await health.answer("/healthz", detail=False)
    assert (status, body) == (503, '{"alive": false}')
    await store.close()


# --- numbers ---


async def test_calls_are_counted_by_how_they_were_answered(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        await lodge.send(taken, "a")
        await lodge.look(taken)
        lodge.office.declines = True
        with pytest.raises(NotHappened):
            await lodge.send(taken, "b")
        lodge.rules.rule = lambda facts: Denied("nobody", "it is late")
        with pytest.raises(Refused):
            await lodge.send(taken, "c")
        lodge.rules.rule = Lodge(tmp_path).rules.rule
        lodge.office.approval = Level.ONE
        with pytest.raises(Waiting):
            await lodge.send(taken, "d")
        found = {metric.name: metric for metric in metrics([taken], taken.ward.tally, MemoryStore())}
    calls = {dict(labels)["outcome"]: value for labels, value in found["holdfast_calls_total"].values.items()}
    assert {name: value for name, value in calls.items() if value} == {
        "answered": 2, "declined": 1, "refused": 1, "waiting": 1,
    }  # fmt: skip
    runs = {name: found[f"holdfast_runs{name}"].values[()] for name in ("", "_waiting", "_in_doubt")}
    assert runs == {"": 1, "_waiting": 1, "_in_doubt": 0}


def test_numbers_are_written_as_prometheus_reads_them() -> None:
    labels = (("who", 'a "quoted"\nname\\'), ("of", "b"))
    text = exposition([Metric("x_total", "What it is.", "counter", {labels: 3.0, (): 2.5})])
    assert text == (
        "# HELP x_total What it is.\n# TYPE x_total counter\n"
        'x_total{who="a \\"quoted\\"\\nname\\\\",of="b"} 3\nx_total 2.5\n'
    )


async def test_a_door_that_cannot_be_opened_is_told() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(Exception, match="nobody can listen at"):
        await HealthDoor(health_of(MemoryStore()), f"127.0.0.1:{taken.getsockname()[1]}").open()
