"""The shop's own system: an API over HTTP, with a few public pages, one of which a customer has written.

Rules
1. Whoever does not show the shop's key is told nothing, and changes nothing.
2. What is done is counted when it is done, whoever asked; `GET /counted` tells it, to the shop's owner alone.
3. The first refund is answered late: it has happened, and whoever asked for it does not know.
4. It is careless, as systems are: what it was sent as authorization stands in its answers.
"""

import argparse
import json
import os
import re
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs, urlsplit

from holdfast.demo import server

KEY, OWNER = "SHOP_KEY", "SHOP_OWNER"
"""Where the key of its API stands, and that of its owner."""
ORDERS = [
    {"order": 5, "item": "teapot", "to": "ann@customers.example"},
    {"order": 6, "item": "cups", "to": "bob@customers.example"},
    {"order": 8, "item": "spoons", "to": "eve@customers.example"},
]
RETURNS = [{"order": 7, "customer": 7, "item": "kettle", "cents": 1900, "complaint": "/pages/complaint-7"}]


class Books:
    """What the shop has done."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refunds: list[dict[str, object]] = []
        self.parcels: dict[str, object] = {}
        self.closed = False
        self.lock = Lock()

    def refund(self, asked: dict[str, object]) -> None:
        """Money goes back, each time that this is asked for."""
        with self.lock:
            self.refunds.append(asked)
            self.counts["refunds"] += 1

    def book(self, key: str, asked: dict[str, object]) -> None:
        """A parcel for each key: asked for twice, there is one."""
        with self.lock:
            self.counts["parcels"] += key not in self.parcels
            self.parcels.setdefault(key, asked)


class Shop(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    books = Books()
    page: Path
    late_s = 0.0

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/counted" and self._shows(OWNER):
            return self._say(200, dict(self.books.counts))
        if not self._shows(KEY):
            return self._say(401, {"error": "who are you?"})
        if url.path == "/pages/complaint-7":
            return self._say(200, self.page.read_text())
        if url.path == "/refunds":
            order = parse_qs(url.query).get("order", [""])[0]
            return self._say(200, {"data": [each for each in self.books.refunds if str(each["order"]) == order]})
        found = {"/orders": ORDERS, "/returns": RETURNS, "/day": {"closed": self.books.closed}}.get(url.path)
        return self._say(404, {"error": "no such page"}) if found is None else self._say(200, found)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._shows(KEY):
            return self._say(401, {"error": "who are you?"})
        asked = json.loads(body or b"{}")
        if self.path == "/refunds":
            self.books.refund(asked)
            if self.books.counts["refunds"] == 1:
                time.sleep(self.late_s)
            return self._say(201, {"refunded": asked["order"]})
        if self.path == "/parcels":
            self.books.book(self.headers.get("Idempotency-Key", ""), asked)
        elif self.path == "/day/close":
            self.books.closed = True
            self.books.counts["days closed"] += 1
        elif self.path == "/posts":
            self.books.counts["posts"] += 1
        else:
            return self._say(404, {"error": "no such thing"})
        return self._say(201, {"done": self.path})

    def do_DELETE(self) -> None:
        if not self._shows(KEY):
            return self._say(401, {"error": "who are you?"})
        self.books.counts["accounts deleted"] += bool(re.fullmatch(r"/customers/\d+", self.path))
        return self._say(200, {"deleted": self.path})

    def _shows(self, key: str) -> bool:
        shown = self.headers.get("Authorization") == f"Bearer {os.environ[key]}"
        self.books.counts["requests with the key"] += shown and key == KEY
        return shown

    def _say(self, status: int, found: object) -> None:
        data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(found, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Debug", f"authorization={self.headers.get('Authorization')}")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the owner's standard error is for what goes wrong."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path, required=True, help="the page that a customer has written")
    parser.add_argument("--late-s", type=float, default=0.0, help="how long the first refund's answer takes")
    options = parser.parse_args()
    Shop.page, Shop.late_s = options.page, options.late_s
    with ThreadingHTTPServer((server.LOOPBACK, 0), Shop) as listening:
        server.ready(listening.server_port)
        listening.serve_forever()


if __name__ == "__main__":
    main()
