"""What stands between a store and PostgreSQL in tests: it passes bytes on, and cuts them off at a chosen message."""

from __future__ import annotations

import contextlib
import queue
import socket
import tempfile
import threading
from pathlib import Path


class Wire:
    """A Unix socket that leads to the server at `target`. `plan` says what becomes of the next message of a client that
    holds `MARK`: `before` it is dropped (`always`: this one, and each that follows), `after` it arrives and its answer
    is dropped, `late` it arrives only when `deliver` is called; the client's connection is cut each time. With `stall`
    it is kept, and nothing passes on."""

    MARK = b"cut here"

    def __init__(self, target: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hf-")
        self._target = target
        self.plan = ""
        self.down = False
        self.cuts = 0
        self._kept: tuple[socket.socket, bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder.name}/{target.name}")
        self._listener.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def folder(self) -> str:
        """What a URL names as its host."""
        return self._folder.name

    def cut(self) -> None:
        """End every connection."""
        while self._open:
            _end(self._open.pop())

    def close(self) -> None:
        """Listen no more."""
        _end(self._listener)
        self.cut()
        self._folder.cleanup()

    def deliver(self) -> bytes:
        """Let the message that was kept back arrive; what the server answers."""
        assert self._kept is not None, "nothing was kept back"
        server, message = self._kept
        server.sendall(message)
        answer = b""
        while answer[-6:-1] != b"Z\0\0\0\5":  # ready for the next query
            answer += self._answers.get(timeout=60)
        _end(server)
        return answer

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                _end(client)
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._open += [client, server]
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(1 << 20):
                if self.plan == "stall" and self.MARK in chunk:
                    self.cuts, self.plan = self.cuts + 1, ""
                    client.recv(1)  # until the client has had enough
                    break
                if self.plan and self.MARK in chunk:
                    self._cut(client, server, chunk)
                    return
                server.sendall(chunk)
        _end(client)
        _end(server)

    def _cut(self, client: socket.socket, server: socket.socket, chunk: bytes) -> None:
        plan = self.plan
        self.plan = plan if plan == "always" else ""
        self.cuts += 1
        if plan == "late":
            self._open.remove(server)
            self._kept = (server, chunk)
        _end(client)  # whatever comes back now reaches nobody
        if plan == "after":
            server.sendall(chunk)
        elif plan in ("before", "always"):
            _end(server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(1 << 20):
                if self._kept is not None and server is self._kept[0]:
                    self._answers.put(chunk)
                else:
                    client.sendall(chunk)
        _end(client)
        _end(server)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
