"""The model server: OpenAI's chat-completions protocol, streaming or not, and a count of what it was asked.

Rules
1. `POST /v1/chat/completions` answers as the protocol says: `choices`, `finish_reason`, `usage`; with `stream`, in
   server-sent events that end in `data: [DONE]`, with a chunk of usage if `stream_options.include_usage` asks for it.
2. The scripted voice never words an answer twice the same way, as models do: who asks again is told something else.
3. With `--upstream URL` a real model answers instead (its key from `OPENAI_API_KEY`); bytes pass through unchanged.
4. Request number `--refuse N` is answered `429` with `Retry-After` before any voice hears of it.
5. With `--obeys` the voice is a clerk's (`obeying`), and only whoever shows the key in `OPENAI_API_KEY` is answered.
6. `GET /asked` says how many requests were answered and how many refused.
"""

import argparse
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Protocol, TypeAlias, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from holdfast.demo import server
from holdfast.demo.obeying import Obeying

Json: TypeAlias = dict[str, object]
UPSTREAM_TIMEOUT_S = 120.0

PLAN = ("Build the new network first", "Start with the network", "Lay the network down before anything else")
THEN = (
    "then the machines, then the data",
    "machines next, data last",
    "bring machines up, and only then touch the data",
)
STRAY = "us-west-2: it is the cheapest, and new things come there first"
REGIONS = (
    "eu-central-1: it is near the customers, and their data stays where it may be",
    "eu-west-1: it is large, it is calm, and it is in the Union",
    STRAY,
)
SIZES = ("t3.nano", "t3.medium", "m5.xlarge", "r5.4xlarge")
GREETING = ("Dear customer", "Hello", "Good evening")
NOTICE = ("we move the shop tonight", "the shop moves to a new home tonight", "tonight the shop changes houses")
FAREWELL = ("the move is done", "we have moved", "everything is in its new place")
CALM = ("Your balance is safe", "Your account comes along", "You need to do nothing")


class Voice(Protocol):
    """Answers one request: status, headers, and the body in pieces. What cannot be answered has an error status."""

    def answer(self, asked: Json) -> tuple[int, dict[str, str], Iterator[bytes]]: ...


class Scripted:
    """Knows five questions, and words each answer anew. One of its wordings about regions is a bad one; with `astray`
    it is the first."""

    def __init__(self, *, astray: bool = False) -> None:
        self._astray = astray

    def answer(self, asked: Json) -> tuple[int, dict[str, str], Iterator[bytes]]:
        words = self._words(_last_question(asked))
        reply_id, model = f"chatcmpl-{uuid.uuid4().hex}", str(asked.get("model", "scripted"))
        usage = {"prompt_tokens": len(json.dumps(asked)) // 4, "completion_tokens": len(words.split())}
        usage["total_tokens"] = sum(usage.values())
        same: Json = {"id": reply_id, "created": int(time.time()), "model": model}
        if asked.get("stream"):
            options = cast("Json", asked.get("stream_options") or {})
            last = usage if options.get("include_usage") else None
            return 200, {"Content-Type": "text/event-stream"}, _chunks(words, same, last)
        message = {"role": "assistant", "content": words}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        whole = {**same, "object": "chat.completion", "choices": [choice], "usage": usage}
        return 200, {"Content-Type": "application/json"}, iter([json.dumps(whole).encode()])

    def _words(self, question: str) -> str:
        draft = f"(draft {uuid.uuid4().hex[:8]})"
        pick = random.SystemRandom().choice
        if "Which region" in question:
            region, self._astray = STRAY if self._astray else pick(REGIONS), False
            return f"I would take {region}. {draft}"
        if "Which sizes" in question:
            return f"Try {', '.join(random.SystemRandom().sample(SIZES, len(SIZES)))}. {draft}"
        if "network" in question:
            network = f"10.{random.SystemRandom().randrange(16, 240)}.0.0/16"
            return f"{pick(PLAN)}, {pick(THEN)}. Take {network} for the network. {draft}"
        if "tonight" in question:
            return f"{pick(GREETING)}, {pick(NOTICE)}. {pick(CALM)}. {draft}"
        if "finished" in question:
            return f"{pick(GREETING)}, {pick(FAREWELL)}. {pick(CALM)}. {draft}"
        return f"I have heard {len(question)} characters. {draft}"


class Forwarded:
    """Asks a real model, whose key stays in this process."""

    def __init__(self, upstream: str, key: str) -> None:
        self._url = upstream.rstrip("/") + "/chat/completions"
        self._key = key

    def answer(self, asked: Json) -> tuple[int, dict[str, str], Iterator[bytes]]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = Request(self._url, data=json.dumps(asked).encode(), headers=headers, method="POST")
        try:
            reply = urlopen(request, timeout=UPSTREAM_TIMEOUT_S)
        except HTTPError as refusal:
            kept = {name: value for name in ("Content-Type", "Retry-After") if (value := refusal.headers.get(name))}
            return refusal.code, kept, iter([refusal.read()])
        except (URLError, TimeoutError) as problem:
            return 502, {"Content-Type": "application/json"}, iter([_error(f"the model is out of reach: {problem}")])
        kind = str(reply.headers.get("Content-Type", "application/json"))
        return 200, {"Content-Type": kind}, iter(lambda: cast("bytes", reply.read1(65536)), b"")


class _Asked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    voice: Voice
    refuse: int
    retry_after_s: int
    counts: dict[str, int]
    key = ""
    turn = Lock()

    def do_GET(self) -> None:
        if self.path != "/asked":
            return self._say(404, {"Content-Type": "application/json"}, iter([_error(f"nothing at {self.path}")]))
        return self._say(200, {"Content-Type": "application/json"}, iter([json.dumps(self.counts).encode()]))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = {"Content-Type": "application/json"}
        if self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            return self._say(401, kind, iter([_error("this key is not known", "invalid_api_key")]))
        if not self.path.endswith("/chat/completions"):
            return self._say(404, kind, iter([_error(f"nothing at {self.path}")]))
        try:
            asked = cast("Json", json.loads(body))
            _last_question(asked)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
            return self._say(400, kind, iter([_error(f"not a chat completion request: {problem!r}")]))
        with self.turn:
            refused = self.refuse > 0 and sum(self.counts.values()) + 1 == self.refuse
            if refused:
                limit = {**kind, "Retry-After": str(self.retry_after_s)}
                answer = 429, limit, iter([_error("rate limit reached", "rate_limit_exceeded")])
            else:
                answer = self.voice.answer(asked)
            self.counts["answered" if answer[0] == 200 else "refused"] += 1
        return self._say(*answer)

    def _say(self, status: int, headers: dict[str, str], pieces: Iterator[bytes]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the owner's standard error is for what goes wrong."""


def _last_question(asked: Json) -> str:
    messages = cast("list[dict[str, object]]", asked["messages"])
    return str([each["content"] for each in messages if each["role"] == "user"][-1])


def _chunks(words: str, same: Json, usage: dict[str, int] | None) -> Iterator[bytes]:
    def chunk(choices: list[Json], **more: object) -> bytes:
        body = {**same, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    def choice(delta: Json, finish_reason: str | None = None) -> Json:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason}

    yield chunk([choice({"role": "assistant", "content": ""})])
    for number, word in enumerate(words.split(" ")):
        time.sleep(0.002)
        yield chunk([choice({"content": word if number == 0 else f" {word}"})])
    yield chunk([choice({}, "stop")])
    if usage is not None:
        yield chunk([], usage=usage)
    yield b"data: [DONE]\n\n"


def _error(message: str, code: str = "invalid_request_error") -> bytes:
    return json.dumps({"error": {"message": message, "type": code, "code": code, "param": None}}).encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", default="", help="base URL of a real model, such as https://api.openai.com/v1")
    parser.add_argument("--refuse", type=int, default=0, help="answer this request with 429 (1 is the first)")
    parser.add_argument("--retry-after", type=int, default=1, help="seconds that the 429 asks for")
    parser.add_argument("--astray", action="store_true", help="begin with the bad one of the answers about regions")
    parser.add_argument(
        "--obeys", action="store_true", help="be a clerk that does what it reads, whoever has written it"
    )
    options = parser.parse_args()
    key = os.environ.get("OPENAI_API_KEY", "none")
    _Asked.voice = Forwarded(options.upstream, key) if options.upstream else Scripted(astray=options.astray)
    if options.obeys:
        _Asked.voice, _Asked.key = Obeying(), key
    _Asked.refuse, _Asked.retry_after_s = options.refuse, options.retry_after
    _Asked.counts = {"answered": 0, "refused": 0}
    with ThreadingHTTPServer((server.LOOPBACK, 0), _Asked) as listening:
        server.ready(listening.server_port)
        listening.serve_forever()


if __name__ == "__main__":
    main()
