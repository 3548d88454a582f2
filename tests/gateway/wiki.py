"""A small wiki over HTTP, in a process of its own: pages with ETags, edited by whoever likes to.

python -m tests.gateway.wiki     writes its port to stdout, and serves until its stdin is closed
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Pages(BaseHTTPRequestHandler):
    """GET, PUT and DELETE of a page (JSON). `/-/asked` lists the requests so far, as `METHOD PATH`."""

    protocol_version = "HTTP/1.1"
    pages: dict[str, tuple[int, bytes]] = {}  # noqa: RUF012 - one wiki in this process
    asked: list[str] = []  # noqa: RUF012
    guard = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/-/asked":
            self._answer(200, json.dumps(self.asked).encode())
            return
        with self.guard:
            self.asked.append(f"GET {self.path}")
            version, text = self.pages.get(self.path, (0, b""))
        self._answer(200 if version else 404, text, version)

    def do_PUT(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        with self.guard:
            self.asked.append(f"PUT {self.path}")
            version = self.pages.get(self.path, (0, b""))[0] + 1
            self.pages[self.path] = (version, text)
        self._answer(200, b"{}", version)

    def do_DELETE(self) -> None:
        with self.guard:
            self.asked.append(f"DELETE {self.path}")
            self.pages.pop(self.path, None)
        self._answer(200, b"{}")

    def _answer(self, status: int, body: bytes, version: int = 0) -> None:
        self.send_response(status)
        if version:
            self.send_header("ETag", f'"v{version}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@dataclass
class Wiki:
    """The wiki as somebody else uses it, beside the agent."""

    url: str

    def request(self, method: str, page: str, body: Any = None) -> tuple[Any, str | None]:
        """A page's JSON and its ETag. Raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        asking = urllib.request.Request(f"{self.url}/{page}", data=data, method=method)
        with urllib.request.urlopen(asking, timeout=30) as response:
            return json.loads(response.read()), response.headers["ETag"]

    def asked(self) -> list[str]:
        """What the wiki was asked so far."""
        return self.request("GET", "-/asked")[0]


@contextmanager
def wiki() -> Iterator[Wiki]:
    """A wiki in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.wiki"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Wiki(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)
