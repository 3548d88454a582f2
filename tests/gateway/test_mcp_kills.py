"""The gateway is killed between sending a call to an MCP server and hearing its answer, and started again."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast import open_store
from tests.gateway.mcp_gateway import Server, config_of, living, serving, until

LOOK = b'{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"look","arguments":{"x":1}}}'
PUT = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"put","arguments":{"x":1}}}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as started:
        yield started


def configure(server: Server, **config: Any) -> None:
    (server.folder / "gateway.json").write_text(json.dumps(config))


def killed_after_the_effect(server: Server, looked: list[bytes] | None = None) -> None:
    """One life: the tool has its effect, and the gateway dies before the server answers. `looked` is given the answer
    to another call, made before."""
    server.script({"put": "wait", "look": "ok"}, "put", "look")
    with living(server.folder) as (client, process):
        if looked is not None:
            looked.append(asyncio.run(client.post(LOOK))[2])

        def ask() -> None:
            with pytest.raises(Exception):  # noqa: B017, PT011 - the gateway dies meanwhile
                asyncio.run(client.post(PUT))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: [effect for effect in server.effects if effect["tool"] == "put"])
        process.kill()
        asking.join()


def answered(server: Server, looked: list[bytes] | None = None) -> dict[str, Any]:
    """What a further life says to the same call."""
    server.script("ok", "put", "look")
    with living(server.folder) as (client, _):
        if looked is not None:
            looked.append(asyncio.run(client.post(LOOK))[2])
        return json.loads(asyncio.run(client.post(PUT))[2])


def test_an_irreversible_call_waits_for_a_person_whose_word_is_then_its_answer(server: Server) -> None:
    configure(server, **config_of(server))
    killed_after_the_effect(server)
    error = answered(server)["error"]
    assert error["data"]["kind"] == "in_doubt"
    assert "irreversible and has no probe" in error["message"]
    assert len(server.effects) == 1
    with open_store(f"sqlite:///{server.folder}/runs.db") as house:
        house.settle(error["data"]["where"], happened={"id": 5}, by="ann")
    result = answered(server)["result"]
    assert result == {"content": [{"type": "text", "text": '{"id":5}'}], "structuredContent": {"id": 5}}
    assert len(server.effects) == 1


@dataclass
class TwoLives:
    """A sealed call, and one that the gateway died in; what both came to in the next life, and what the world saw."""

    looked: list[bytes]
    put: dict[str, Any]
    effects: list[dict[str, Any]]


@pytest.fixture(scope="module")
def two_lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoLives]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        configure(server, **config_of(server, tools={"put": {"kind": "idempotent"}}))
        looked: list[bytes] = []
        killed_after_the_effect(server, looked)
        put = answered(server, looked)
        yield TwoLives(looked, put, server.effects)


def test_an_idempotent_call_is_redone_with_the_same_key_and_the_same_bytes(two_lives: TwoLives) -> None:
    assert two_lives.put["result"]["content"][0]["text"] == "done 3"
    first, second = (effect for effect in two_lives.effects if effect["tool"] == "put")
    assert first["key"] == second["key"]
    assert first["args"] == second["args"] == {"x": 1}


def test_a_sealed_call_is_answered_with_the_same_bytes_and_nothing_is_sent(two_lives: TwoLives) -> None:
    first, again = two_lives.looked
    assert b"done 1" in first
    assert again == first
    assert [effect["tool"] for effect in two_lives.effects].count("look") == 1


def test_a_server_that_the_gateway_ran_dies_with_it_and_its_call_is_a_doubt(tmp_path: Path) -> None:
    server = Server(tmp_path)
    env = {"TOKEN": "credential:kv"}
    configure(server, command=[*server.command, "--stdio"], env=env, unsafe_no_sandbox=True)
    killed_after_the_effect(server)
    (started,) = server.lines("started.jsonl")
    until(lambda: not Path(f"/proc/{started['pid']}").exists())
    assert answered(server)["error"]["data"]["kind"] == "in_doubt"
    assert len(server.effects) == 1
