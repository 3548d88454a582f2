"""A cloud: a moto server that speaks the AWS API, behind a front that keeps two promises moto leaves out.

Rules
1. RunInstances honours `ClientToken` as EC2 documents it: the same token and parameters return the first answer and
   start nothing; the same token with other parameters is refused (`IdempotentParameterMismatch`). moto keeps the token
   and starts the machines again.
2. With `--limit ACTION`, the first ACTION is answered `429` with `Retry-After` and reaches nothing.
3. CreateVpc and CreateSubnet have no such token in EC2 and have none here: made twice, there are two.
4. `GET /changes` tells, in order, every action that was carried out and changes something, and in which region.

Source: Amazon EC2 API reference, "Ensuring idempotency in Amazon EC2 API requests".
"""

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

from moto.moto_server.werkzeug_app import (  # pyright: ignore[reportMissingTypeStubs]
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from holdfast.demo import server

Headers = list[tuple[str, str]]
StartResponse = Callable[[str, Headers], object]
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

CREDENTIAL = re.compile(r"Credential=[^/]+/[0-9]+/([a-z0-9-]+)/")
LOOKING = ("Describe", "List", "Get")

REFUSAL = (
    "<?xml version='1.0' encoding='UTF-8'?><Response><Errors><Error><Code>{code}</Code>"
    "<Message>{message}</Message></Error></Errors><RequestID>{request}</RequestID></Response>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, in full."""

    status: str
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was asked under a token, and answered."""

    asked: frozenset[tuple[str, str]]
    answer: Answer


@dataclass(slots=True, kw_only=True)
class Front:
    """What stands before moto. Requests that it does not know pass through untouched."""

    behind: Application
    limit: str = ""
    retry_after_s: int = 1
    _limited: bool = False
    changes: list[str] = field(default_factory=list[str])
    _answers: dict[str, Given] = field(default_factory=dict[str, Given])
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/changes":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.changes).encode()]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        asked = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        named = asked.get("Action", "")
        if self._refuses(named):
            answer = _refusal("429 Too Many Requests", "RequestLimitExceeded", "slow down")
            answer.headers.append(("Retry-After", str(self.retry_after_s)))
        elif named == "RunInstances" and "ClientToken" in asked:
            answer = self._once(asked, environ)
        elif named and not named.startswith(LOOKING):
            answer = self._counted(named, environ)
        else:
            return self.behind(environ, start_response)
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _refuses(self, named: str) -> bool:
        with self._lock:
            refused = bool(self.limit) and named == self.limit and not self._limited
            self._limited = self._limited or refused
            return refused

    def _counted(self, what: str, environ: dict[str, Any]) -> Answer:
        """Let it be carried out, and remember that it was."""
        answer = _whole(self.behind, environ)
        if answer.status.startswith("200"):
            region = CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
            self.changes.append(f"{region.group(1) if region else ''} {what}")
        return answer

    def _once(self, asked: dict[str, str], environ: dict[str, Any]) -> Answer:
        parameters = frozenset(asked.items())
        with self._lock:
            known = self._answers.get(asked["ClientToken"])
            if known is None:
                answer = self._counted(f"RunInstances {asked.get('InstanceType', '')}".rstrip(), environ)
                if answer.status.startswith("200"):
                    self._answers[asked["ClientToken"]] = Given(asked=parameters, answer=answer)
                return answer
        if known.asked != parameters:
            return _refusal("400 Bad Request", "IdempotentParameterMismatch", "this token came with other parameters")
        return known.answer


def _whole(application: Application, environ: dict[str, Any]) -> Answer:
    started: list[tuple[str, Headers]] = []

    def start(status: str, headers: Headers, _trouble: object = None) -> None:
        started.append((status, list(headers)))

    body = b"".join(application(environ, start))
    status, headers = started[-1]
    return Answer(status=status, headers=headers, body=body)


def _refusal(status: str, code: str, message: str) -> Answer:
    body = REFUSAL.format(code=code, message=message, request="demo").encode()
    return Answer(status=status, headers=[("Content-Type", "text/xml"), ("Content-Length", str(len(body)))], body=body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", default="", help="answer the first request of this name with 429")
    parser.add_argument("--retry-after", type=int, default=1, help="seconds that the 429 asks for")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    front = Front(
        behind=DomainDispatcherApplication(create_backend_app), limit=options.limit, retry_after_s=options.retry_after
    )
    listening = make_server(server.LOOPBACK, 0, front, threaded=True, request_handler=MotoRequestHandler)
    server.ready(listening.server_port)
    listening.serve_forever()


if __name__ == "__main__":
    main()
