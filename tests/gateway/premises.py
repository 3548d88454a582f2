"""A whole gateway: its configuration, systems that it reaches, and programs behind it, each a process of its own.

Rules
1. The systems count what is done to them in files: what was done twice is there twice, whoever died meanwhile.
2. Programs are started as a user starts them: `holdfast run --sandbox`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.gateway.preflight import preflight

SECRET = "canary-7f3c19d2e5a84b60"
DEADLINE_S = 90.0

SHOP = """
import http.server, json, os, sys, time
place, key = sys.argv[1], sys.argv[2]
class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        if self.headers.get("authorization") != "Bearer " + key:
            return self.answer(401, {"error": "who are you?"})
        self.answer(200, {"customers": ["ann@example.com"], "echo": self.headers.get("authorization")})
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != "Bearer " + key:
            return self.answer(401, {"error": "who are you?"})
        with open(os.path.join(place, "sent"), "a") as file:
            file.write(json.dumps([json.loads(body)["invoice"], self.headers.get("idempotency-key")]) + "\\n")
        self.answer(200, {"sent": json.loads(body)["invoice"]})
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
if len(sys.argv) > 3:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@dataclass
class Premises:
    """A directory with a configuration, and the shop that it speaks of. `state`: where the gateway's sockets are; its
    path is short, whatever the test is called."""

    place: Path
    state: Path
    port: int
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SHOP_KEY": SECRET, "XDG_CACHE_HOME": str(self.place.parent / "cache")}

    def configure(self, more: str = "", policy: str = '@id("all") permit(principal, action, resource);') -> None:
        """Write holdfast.toml and its policy."""
        (self.place / "policy.cedar").write_text(policy)
        (self.place / "holdfast.toml").write_text(
            textwrap.dedent(f"""
                [gateway]
                store = "runs.db"
                state = "{self.state}"
                [credentials]
                shop = "env:SHOP_KEY"
                [upstreams.shop]
                kind = "http"
                base = "http://127.0.0.1:{self.port}"
                private = ["127.0.0.1"]
                inject = [{{ credential = "shop", header = "authorization", prefix = "Bearer " }}]
                [[upstreams.shop.routes]]
                method = "GET"
                path = "/customers"
                [[upstreams.shop.routes]]
                method = "POST"
                path = "/mails"
                name = "mail"
                kind = "irreversible"
                identity = ["body.invoice"]
                repeat = "each"
                [policy]
                files = ["policy.cedar"]
                [agents.clerk]
                tools = ["shop.*"]
                [agents.clerk.environment]
                SHOP = "{{url:shop}}"
                """)
            + textwrap.dedent(more)
        )

    def program(self, text: str, name: str = "program.py") -> Path:
        """A program in a directory that sandboxes may read."""
        folder = self.place / "programs"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, *command: str, run: str = "r", **options: Any) -> subprocess.Popen[str]:
        """`holdfast run --sandbox` of a command."""
        line = [
            sys.executable, "-m", "holdfast", "run", "--sandbox", "--id", run, "--read-only",
            str(self.place / "programs"), "--config", str(self.place / "holdfast.toml"), "--", *command,
        ]  # fmt: skip
        process = subprocess.Popen(
            line, cwd=self.place, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            **options,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *command: str, run: str = "r") -> tuple[int, str, str]:
        """As `start`, to its end: exit code, stdout, stderr."""
        process = self.start(*command, run=run)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def holdfast(self, *command: str, check: bool = True, by_gateway: bool = False) -> str:
        """What another `holdfast` command says."""
        store = f"gateway://{self.admin}" if by_gateway else "runs.db"
        ran = subprocess.run(
            [sys.executable, "-m", "holdfast", *command], cwd=self.place, capture_output=True, text=True,
            env={**self.environment, "HOLDFAST_STORE": store, "HOLDFAST_GATEWAY": str(self.admin)},
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout if check else ran.stdout + ran.stderr

    @property
    def admin(self) -> Path:
        return self.state / "admin.sock"

    @property
    def sent(self) -> list[str]:
        """What the shop has sent, in order."""
        file = self.place / "sent"
        return [json.loads(line)[0] for line in file.read_text().splitlines()] if file.exists() else []

    def gateway(self) -> subprocess.Popen[str]:
        """`holdfast gateway`, ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "gateway", "holdfast.toml"], cwd=self.place, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), process.communicate()[1]
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


@contextlib.contextmanager
def premises(place: Path, certificate: Path | None = None) -> Generator[Premises]:
    """A shop, and a directory for a gateway before it. Skips where nothing can be confined."""
    missing = preflight()
    if missing:
        pytest.skip(f"nothing can be confined here: {missing[0].what}")
    more = [] if certificate is None else [str(certificate)]
    shop = subprocess.Popen([sys.executable, "-c", SHOP, str(place), SECRET, *more], stdout=subprocess.PIPE, text=True)
    try:
        assert shop.stdout is not None
        with tempfile.TemporaryDirectory() as state:
            found = Premises(place, Path(state), int(shop.stdout.readline()))
            found.configure()
            try:
                yield found
            finally:
                found.close()
    finally:
        shop.kill()
        shop.communicate()


def eventually(holds: Any, what: str) -> None:
    """Wait until something holds; at most a minute and a half."""
    until = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < until, f"it never came to pass: {what}"
        time.sleep(0.02)
