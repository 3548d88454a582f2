"""A cloud: a moto server that speaks the AWS API, behind a front that keeps two promises moto leaves out.

Rules
1. RunInstances honours `ClientToken` as EC2 documents it: the same token and parameters return the first answer and
   start nothing; the same token with other parameters is refused (`IdempotentParameterMismatch`). moto keeps the token
   and starts the machines again.
2. With `--limit ACTION`, the first ACTION is answered `429` with `Retry-After` and reaches nothing.
3. CreateVpc and CreateSubnet have no such token in EC2 and have none here: made twice, there are two.

Source: Amazon EC2 API reference, "Ensuring idempotency in Amazon EC2 API requests".
"""

import argparse
import logging
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
    _answers: dict[str, Given] = field(default_factory=dict[str, Given])
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        asked = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if self._refuses(asked.get("Action", "")):
            answer = _refusal("429 Too Many Requests", "RequestLimitExceeded", "slow down")
            answer.headers.append(("Retry-After", str(self.retry_after_s)))
        elif asked.get("Action") == "RunInstances" and "ClientToken" in asked:
            answer = self._once(asked, environ)
        else:
            return self.behind(environ, start_response)
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _refuses(self, named: str) -> bool:
        with self._lock:
            refused = bool(self.limit) and named == self.limit and not self._limited
            self._limited = self._limited or refused
            return refused

    def _once(self, asked: dict[str, str], environ: dict[str, Any]) -> Answer:
        parameters = frozenset(asked.items())
        with self._lock:
            known = self._answers.get(asked["ClientToken"])
            if known is None:
                answer = _whole(self.behind, environ)
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
