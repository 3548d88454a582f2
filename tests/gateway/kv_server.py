"""A server that speaks HashiCorp Vault's HTTP interface for KV version 2, as far as reading and writing secrets goes.

Written after Vault's public API pages: versions, soft deletion (404 with `data: null`), 403 for a wrong token, errors
as `{"errors": […]}`. `python -m tests.gateway.kv_server TOKEN` prints its port, and serves until it is killed.

Source: HashiCorp Vault API documentation, "KV secrets engine - version 2 (API)".
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = sys.argv[1] if len(sys.argv) > 1 else ""
VERSIONS: dict[str, list[dict[str, Any] | None]] = {}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if not self._allowed():
            return
        versions = VERSIONS.get(self.path, [])
        if not versions:
            self._tell(404, {"errors": []})
            return
        data = versions[-1]
        metadata = {
            "version": len(versions),
            "destroyed": False,
            "deletion_time": "" if data else "2026-01-01T00:00:00Z",
        }
        self._tell(200 if data is not None else 404, {"request_id": "1", "data": {"data": data, "metadata": metadata}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self._allowed():
            VERSIONS.setdefault(self.path, []).append(json.loads(body)["data"])
            self._tell(200, {"data": {"version": len(VERSIONS[self.path])}})

    def do_DELETE(self) -> None:
        if self._allowed():
            VERSIONS[self.path].append(None)
            self._tell(204, None)

    def _allowed(self) -> bool:
        if self.path.startswith("/moved/"):
            self.send_response(307)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        if self.headers.get("X-Vault-Token") == TOKEN:
            return True
        self._tell(403, {"errors": ["permission denied"]})
        return False

    def _tell(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    print(server.server_port, flush=True)
    server.serve_forever()
