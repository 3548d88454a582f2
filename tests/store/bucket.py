"""Where large payloads are in tests: a bucket of a moto server in a process of its own, behind a line that can be cut,
or a directory; looked at without the product.

    python -m tests.store.bucket      serve, on the port that is told, until stdin ends
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Protocol

from tests.store.shelf import heard, start

NAME = "runs"
SIGNED = "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"  # moto


class Outside(Protocol):
    """A place for objects, as a test sees it."""

    url: str

    def objects(self) -> dict[str, bytes]: ...

    def put(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def away(self) -> None:
        """Nobody can reach it."""
        ...

    def back(self) -> None: ...


class Directory:
    """A directory, as if of a file server."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path
        self.url = f"file://{path}"

    def objects(self) -> dict[str, bytes]:
        files = [path for path in self._path.rglob("*") if path.is_file()]
        return {path.relative_to(self._path).as_posix(): path.read_bytes() for path in files}

    def put(self, name: str, data: bytes) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, name: str) -> None:
        (self._path / name).unlink()

    def away(self) -> None:
        self._path.rename(self._path.with_name("unmounted"))

    def back(self) -> None:
        self._path.with_name("unmounted").rename(self._path)


class Bucket:
    """A prefix of a bucket. `environment` is what whoever uses it needs."""

    def __init__(self) -> None:
        self._process = start("tests.store.bucket")
        self._server = ("127.0.0.1", int(heard(self._process)))
        self._open: list[socket.socket] = []
        self._listener = self._listening(0)
        self._port = self._listener.getsockname()[1]
        self.environment = {
            "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}", "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        self.url = f"s3://{NAME}/holdfast"
        self._ask("PUT", "")

    def empty(self) -> None:
        for name in self.objects():
            self.delete(name)

    def objects(self) -> dict[str, bytes]:
        listed = self._ask("GET", "?list-type=2&prefix=holdfast/").decode()
        keys = re.findall("<Key>holdfast/([^<]+)</Key>", listed)
        return {key: self._ask("GET", f"/holdfast/{key}") for key in keys}

    def put(self, name: str, data: bytes) -> None:
        self._ask("PUT", f"/holdfast/{name}", data)

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/holdfast/{name}")

    def away(self) -> None:
        _end(self._listener)
        while self._open:
            _end(self._open.pop())

    def back(self) -> None:
        self._listener = self._listening(self._port)

    def close(self) -> None:
        self.away()
        self._process.communicate("", timeout=60)

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """What the server itself answers, whatever the line does."""
        host, port = self._server
        signed = {"Authorization": SIGNED, "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"http://{host}:{port}/{NAME}{path}", data, signed, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def _listening(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := one.recv(1 << 20):
            other.sendall(chunk)
    _end(one)
    _end(other)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def serve() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
