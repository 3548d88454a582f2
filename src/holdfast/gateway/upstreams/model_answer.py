"""What a model answered: its exact bytes, heard to the end, counted, and written down so that they can be given again.

Rules
1. An answer is whole or it is none: a stream without its last frame, or with an error in it, is never recorded.
2. An agent may act on an answer as soon as it has a whole call of a tool, or the end. From the frame that tells it on,
   all is held back until the answer is recorded.
3. A frame of a stream ends with an empty line. Frames are never changed; one may be left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from enum import Enum
from typing import cast

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import Encoding
from holdfast.errors import Corrupt
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.model_wire import spelt

STREAM = "text/event-stream"
_ENDS = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What an answer used: `input` tokens that were read anew, `cached` ones out of the provider's cache, `written`
    ones into it, and `output`."""

    input: int
    cached: int
    written: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Millionths of a US dollar per token: that is, US dollars per million tokens."""

    input: Decimal
    cached: Decimal
    written: Decimal
    output: Decimal

    def cost(self, tokens: Tokens) -> int:
        """What that costs, in millionths of a US dollar, rounded up."""
        cost = self.input * tokens.input + self.cached * tokens.cached
        cost += self.written * tokens.written + self.output * tokens.output
        return int(cost.to_integral_value(ROUND_CEILING))

    def most(self, input_most: int, output_most: int) -> int:
        """The most that so many tokens can cost."""
        return self.cost(
            Tokens(input=0, cached=0, written=0, output=output_most)
        ) + int((max(self.input, self.cached, self.written) * input_most).to_integral_value(ROUND_CEILING))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A provider's answer to `operation`. `kind` is its content type, `headers` are those that are given on."""

    operation: str
    status: int
    kind: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    tokens: Tokens | None = None

    @property
    def streamed(self) -> bool:
        """Whether it is a stream of frames."""
        return self.kind.partition(";")[0].strip().lower() == STREAM

    def written(self, cost: int | None = None) -> Reply:
        """As it is recorded: JSON, with the body as text, or in base64 (`body64`) where it is none."""
        told: dict[str, JSON] = {"operation": self.operation, "status": self.status, "type": self.kind}
        try:
            told["body"] = self.body.decode()
        except UnicodeDecodeError:
            told["body64"] = base64.b64encode(self.body).decode()
        if self.headers:
            told["headers"] = dict(self.headers)
        if self.tokens is not None:
            used = self.tokens
            told["tokens"] = {
                "input": used.input, "cached": used.cached, "written": used.written, "output": used.output
            }  # fmt: skip
        return Reply(canonical(told), Encoding.JSON, told, told, cost=cost)


def read_answer(data: bytes, operation: str) -> Answer:
    """The answer that `Answer.written` wrote. Where a person has put something in its place (a fork that asks what
    if), an object is the body of an answer to `operation`, and a text is what the model said. Raises Corrupt for
    anything else."""
    try:
        told = cast(object, json.loads(data))
    except (ValueError, RecursionError) as error:
        raise Corrupt("a recorded answer of a model is not JSON") from error
    match told:
        case {"operation": str(wire), "status": int(status), "type": str(kind)}:
            found = cast("dict[str, object]", told)
        case dict() | str():
            body = said(operation, told) if isinstance(told, str) else cast(JSON, told)
            return Answer(operation=operation, status=200, kind="application/json", body=spelt(body))
        case _:
            raise Corrupt("a recorded answer of a model is neither an object nor a text")
    headers = found.get("headers")
    kept = {str(k): str(v) for k, v in cast("dict[str, object]", headers).items()} if isinstance(headers, dict) else {}
    return Answer(operation=wire, status=status, kind=kind, body=_body(found), headers=kept)


def said(operation: str, text: str) -> JSON:
    """An answer that says this, and nothing else."""
    same: dict[str, JSON] = {"id": "override", "model": "override"}
    match operation:
        case "chat":
            message: JSON = {"role": "assistant", "content": text, "refusal": None}
            choice: JSON = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            return {**same, "object": "chat.completion", "created": 0, "choices": [choice]}
        case "responses":
            content: JSON = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
            item: dict[str, JSON] = {"type": "message", "id": "override", "role": "assistant", "status": "completed"}
            more: dict[str, JSON] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}
            output: JSON = [{**item, "content": content}]
            return {**same, "object": "response", "created_at": 0, "status": "completed", "output": output, **more}
        case _:
            blocks: JSON = [{"type": "text", "text": text}]
            usage: JSON = {"input_tokens": 0, "output_tokens": 0}
            ended: dict[str, JSON] = {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
            return {**same, "type": "message", "role": "assistant", "content": blocks, **ended}


def _body(found: Mapping[str, object]) -> bytes:
    text, coded = found.get("body"), found.get("body64")
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(coded, str):
        try:
            return base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Corrupt("a recorded answer of a model has no body") from error
    raise Corrupt("a recorded answer of a model has no body")


# --- frames ---


class Frames:
    """Cuts a stream of bytes into its frames, wherever the bytes were cut on their way."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._looked = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now."""
        self._kept += data
        while (end := _ENDS.search(self._kept, self._looked)) is not None:
            frame = bytes(self._kept[: end.end()])
            del self._kept[: end.end()]
            self._looked = 0
            yield frame
        self._looked = max(0, len(self._kept) - 3)

    @property
    def rest(self) -> bytes:
        """What has no end yet."""
        return bytes(self._kept)


def frames_of(body: bytes) -> list[bytes]:
    """The frames of a whole stream; their concatenation is `body`."""
    frames = Frames()
    found = list(frames.feed(body))
    return [*found, frames.rest] if frames.rest else found


def told_by(frame: bytes) -> JSON:
    """What a frame tells: its JSON, the text `[DONE]`, or None (a comment, or nothing that can be read)."""
    lines = [line for line in re.split(rb"\r\n|\n|\r", frame) if line.startswith(b"data:")]
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines)
    if data.strip() == b"[DONE]":
        return "[DONE]"
    try:
        return cast(JSON, json.loads(data)) if data else None
    except (ValueError, RecursionError):
        return None


def part(value: JSON, name: str) -> JSON:
    """A member of an object; None where there is none."""
    return value.get(name) if isinstance(value, dict) else None


def parts(value: JSON) -> list[JSON] | tuple[JSON, ...]:
    """The items of a list; none where it is no list."""
    return value if isinstance(value, list | tuple) else ()


class Mark(Enum):
    """What a frame means: more to come; enough to act on; the usage alone; the end; the answer has failed."""

    MORE = "more"
    ENOUGH = "enough"
    USAGE = "usage"
    END = "end"
    FAILED = "failed"


class Listener:
    """Hears one stream, frame by frame."""

    def __init__(self, operation: str) -> None:
        self._marks = {"chat": self._chat, "responses": self._responses, "messages": self._messages}[operation]
        self._count = {"chat": count_openai, "responses": count_openai, "messages": count_anthropic}[operation]
        self._usage: dict[str, JSON] = {}
        self._calls: set[int] = set()

    def hear(self, frame: bytes) -> Mark:
        """What this frame means."""
        told = told_by(frame)
        if told is None:
            return Mark.MORE
        if part(told, "type") == "error" or part(told, "error"):
            return Mark.FAILED
        return self._marks(told)

    @property
    def tokens(self) -> Tokens | None:
        """What was used, if that was told."""
        return self._count(self._usage)

    def _used(self, usage: JSON) -> None:
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _chat(self, told: JSON) -> Mark:
        if told == "[DONE]":
            return Mark.END
        self._used(part(told, "usage"))
        choices = parts(part(told, "choices"))
        if not choices and isinstance(part(told, "usage"), dict):
            return Mark.USAGE
        for choice in choices:
            calls = parts(part(part(choice, "delta"), "tool_calls"))
            if part(choice, "finish_reason") or any(part(call, "index") not in (0, None) for call in calls):
                return Mark.ENOUGH  # a second call begins where the first is whole
        return Mark.MORE

    def _responses(self, told: JSON) -> Mark:
        match part(told, "type"):
            case "response.completed" | "response.incomplete":
                self._used(part(part(told, "response"), "usage"))
                return Mark.END
            case "response.failed" | "response.cancelled":
                return Mark.FAILED
            case "response.function_call_arguments.done" | "response.custom_tool_call_input.done":
                return Mark.ENOUGH
            case "response.output_item.done":
                plain = part(part(told, "item"), "type") in ("message", "reasoning")
                return Mark.MORE if plain else Mark.ENOUGH
            case _:
                return Mark.MORE

    def _messages(self, told: JSON) -> Mark:
        index = part(told, "index")
        index = index if isinstance(index, int) else -1
        match part(told, "type"):
            case "message_stop":
                return Mark.END
            case "message_start":
                self._used(part(part(told, "message"), "usage"))
            case "message_delta":
                self._used(part(told, "usage"))
                return Mark.ENOUGH
            case "content_block_start" if part(part(told, "content_block"), "type") not in ("text", "thinking"):
                self._calls.add(index)
            case "content_block_stop" if index in self._calls:
                return Mark.ENOUGH
            case _:
                pass
        return Mark.MORE


# --- counting ---


def count(operation: str, usage: JSON) -> Tokens | None:
    """What an answer that came whole says that it used; None where it does not say."""
    return count_anthropic(usage) if operation == "messages" else count_openai(usage)


def count_openai(usage: JSON) -> Tokens | None:
    """As chat completions and responses tell it: cached tokens are among those of the input."""
    read = _number(usage, "prompt_tokens", "input_tokens")
    output = _number(usage, "completion_tokens", "output_tokens")
    if read is None or output is None:
        return None
    details = part(usage, "prompt_tokens_details") or part(usage, "input_tokens_details")
    cached = min(_number(details, "cached_tokens") or 0, read)
    return Tokens(input=read - cached, cached=cached, written=0, output=output)


def count_anthropic(usage: JSON) -> Tokens | None:
    """As messages tell it: those of the cache are told beside those of the input."""
    read, output = _number(usage, "input_tokens"), _number(usage, "output_tokens")
    if read is None or output is None:
        return None
    cached, written = _number(usage, "cache_read_input_tokens"), _number(usage, "cache_creation_input_tokens")
    return Tokens(input=read, cached=cached or 0, written=written or 0, output=output)


def _number(usage: JSON, *names: str) -> int | None:
    """The first of these that is told; None if none is, or what is told is no number of tokens."""
    told = next((value for name in names if (value := part(usage, name)) is not None), None)
    return told if type(told) is int and 0 <= told < 1 << 40 else None
