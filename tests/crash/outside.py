"""The systems outside, of gateways that are killed: a shop over HTTP and a provider of models, as one process.

    python -m tests.crash.outside      prints its port; ends when its standard input does

Whose world is meant stands in the path: `/FOLDER/…`, the trial's folder in hex. While something is done, points are
passed (`acting`, `acted`, …); whoever is aimed at (`aim`) dies there, by SIGKILL, and where the gateway is among the
victims the point is never left: what stands behind it does not happen.

Rules
1. Nothing is deduplicated but `put`, by its idempotency key.
2. The victims are dead before anything else happens: nothing of what is measured is left to chance.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.crash.world import World

DEADLINE_S = 60.0
MODEL = "gpt-test"


# --- deaths by somebody else's hand ---


class Cut(Exception):
    """The gateway is dead: nobody is answered."""


def aim(folder: Path, point: str, nth: int, victims: Sequence[str], *, gone: Path | None = None) -> None:
    """From now on the `nth` passing of a point kills the victims (`gateway`, `agent`). `gone`: they are only told to
    stop, and the point is left when this file of theirs is gone."""
    text = {"id": uuid.uuid4().hex, "point": point, "nth": nth, "victims": list(victims), "gone": gone and str(gone)}
    (folder / "aim.new").write_text(json.dumps(text))
    (folder / "aim.new").replace(folder / "aim")


def point(folder: Path, what: str) -> None:
    """A point of what is done outside. Raises Cut where the gateway has died at it."""
    try:
        aimed = json.loads((folder / "aim").read_text())
    except FileNotFoundError:
        return
    if aimed["point"] != what or World(folder / "world").meet(aimed["id"], "") + 1 != aimed["nth"]:
        return
    (folder / "aim").unlink()
    if aimed["gone"]:
        _stop(folder, aimed["victims"], Path(aimed["gone"]))
        return
    kill(folder, aimed["victims"])
    if "gateway" in aimed["victims"]:
        raise Cut


def _stop(folder: Path, victims: Sequence[str], gone: Path) -> None:
    for victim in victims:
        os.kill(int((folder / f"{victim}.pid").read_text()), signal.SIGTERM)
    until = time.monotonic() + DEADLINE_S
    while gone.exists():
        assert time.monotonic() < until, f"{gone} does not go"
        time.sleep(0.001)


def kill(folder: Path, victims: Sequence[str]) -> None:
    """SIGKILL to each; back when all are dead. Oneself comes last."""
    pids = [int((folder / f"{victim}.pid").read_text()) for victim in victims]
    for pid in sorted(pids, key=lambda pid: pid == os.getpid()):
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + DEADLINE_S
        while alive(pid):
            assert time.monotonic() < until, f"{pid} does not die"
            time.sleep(0.0005)


def alive(pid: int) -> bool:
    """Whether a process runs, or may still do so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- the shop, and the provider ---


class Outside(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        parts = urlsplit(self.path)
        place, *path = parts.path.strip("/").split("/")
        folder = Path(bytes.fromhex(place).decode())
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            status, value = self._done(folder, path, parse_qs(parts.query), body)
        except Cut:
            self.close_connection = True
            return
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _done(
        self, folder: Path, path: Sequence[str], query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        world = World(folder / "world")
        match [self.command, *path]:
            case ["POST", "v1", "chat", "completions"]:
                return 200, _thought(folder, world, json.loads(body))
            case ["GET", "there", what]:
                point(folder, "probing")
                there = world.there(f"shop.{what}", query["key"][0])
                return (200, {"answer": there[0]}) if there else (404, {})
            case ["GET", "look", name]:
                point(folder, "acting")
                point(folder, "acted")
                return 200, {"answer": f"{name} is fine"}
            case ["DELETE", what, name]:
                point(folder, "undoing")
                world.clear(f"shop.{what}", name)
                point(folder, "undone")
                return 200, {}
            case ["POST" | "PUT", what, name]:
                point(folder, "acting")
                key = self.headers["idempotency-key"]
                answer = world.act(f"shop.{what}", name, key, once=what == "put")
                point(folder, "acted")
                return 200, {"answer": answer}
            case _:
                return 404, {"error": "there is nothing here"}

    do_GET = do_POST = do_PUT = do_DELETE = do

    def log_message(self, *_: object) -> None:
        """Nothing is told."""


def _thought(folder: Path, world: World, asked: dict[str, Any]) -> dict[str, Any]:
    point(folder, "thinking")
    text = world.answer(asked["messages"][-1]["content"])
    point(folder, "thought")
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512


def main() -> None:
    server = _Server(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
