"""One answer, as a stream or whole: for a program that asks again in the other way than it was answered.

Rules
1. What came from the provider is given as it came wherever it was asked for in that form. Only a recorded answer that
   is asked for in the other form is written anew here, from all that it says.
2. What is written anew says the same, in fewer frames: nobody waits for what is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from holdfast.core.canonical import JSON
from holdfast.errors import Misuse
from holdfast.gateway.upstreams.model_answer import STREAM, Answer, Listener, Mark, frames_of, part, parts, told_by
from holdfast.gateway.upstreams.model_wire import Form, spelt


def delivered(answer: Answer, operation: str, form: Form) -> Answer:
    """The answer as whoever asked for it expects it. Raises Misuse for an answer to another operation, and for one
    that cannot be told in the other form."""
    if answer.operation != operation:
        raise Misuse(
            f"the recorded answer is one to `{answer.operation}`, and what is asked now is `{operation}`",
            fix="let the program ask as it did, or fork the run before that decision",
        )
    if answer.status != 200:
        return answer
    if answer.streamed != form.streamed:
        answer = _other_form(answer)
    if form.streamed and operation == "chat" and not form.usage:
        return replace(answer, body=b"".join(_without_usage(answer.body)))
    return answer


def _other_form(answer: Answer) -> Answer:
    try:
        return _gathered(answer) if answer.streamed else _streamed(answer)
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:  # a provider may say anything
        form = "whole" if answer.streamed else "as a stream"
        raise Misuse(
            f"the recorded answer is not one that can be told {form}", fix="let the program ask in the form it did"
        ) from error


def _without_usage(body: bytes) -> Iterable[bytes]:
    hearing = Listener("chat")
    return (frame for frame in frames_of(body) if hearing.hear(frame) is not Mark.USAGE)


# --- from a stream to the whole ---


def _gathered(answer: Answer) -> Answer:
    heard = [told_by(frame) for frame in frames_of(answer.body)]
    told: list[JSON] = [each for each in heard if each is not None]
    gather = {"chat": _chat_whole, "responses": _response_whole, "messages": _message_whole}[answer.operation]
    body = spelt(gather(told))
    return replace(answer, kind="application/json", body=body)


def _chat_whole(told: list[JSON]) -> JSON:
    whole: dict[str, JSON] = {}
    choices: dict[int, dict[str, JSON]] = {}
    for chunk in told:
        if not isinstance(chunk, dict):
            continue
        whole |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for piece in parts(chunk.get("choices")):
            choice = choices.setdefault(_place(piece, 0), {"finish_reason": None, "message": {}, "logprobs": None})
            choice["finish_reason"] = part(piece, "finish_reason") or choice["finish_reason"]
            choice["message"] = _joined(choice["message"], part(piece, "delta"))
            choice["logprobs"] = _joined(choice["logprobs"], part(piece, "logprobs"))
    for choice in choices.values():
        message = cast("dict[str, JSON]", choice["message"])
        message.setdefault("content", None)
        message["role"] = message.get("role") or "assistant"
        for call in parts(message.get("tool_calls")):
            cast("dict[str, JSON]", call).pop("index", None)
    made = [{"index": number, **choices[number]} for number in sorted(choices)]
    return {**whole, "object": "chat.completion", "choices": cast(JSON, made)}


def _place(value: JSON, default: int) -> int:
    index = part(value, "index")
    return index if type(index) is int else default


def _joined(so_far: JSON, delta: JSON) -> JSON:
    """A delta put on what came before: texts follow one another, lists grow, what has an index is put on its like."""
    if delta is None:
        return so_far
    if isinstance(so_far, dict) and isinstance(delta, dict):
        return {
            name: (delta[name] or so_far.get(name)) if name in _SAID_ONCE and name in delta
            else _joined(so_far.get(name), delta.get(name))
            for name in (so_far | delta)
        }  # fmt: skip
    if isinstance(so_far, str) and isinstance(delta, str):
        return so_far + delta
    if isinstance(delta, list) and (so_far is None or isinstance(so_far, list)):
        grown: list[JSON] = list(so_far or ())
        for item in delta:
            index = part(item, "index")
            like = [at for at, other in enumerate(grown) if part(other, "index") == index]
            if index is None or not like:
                grown.append(item)
            else:
                grown[like[0]] = _joined(grown[like[0]], item)
        return grown
    return delta


_SAID_ONCE = frozenset({"id", "index", "type", "role", "name"})


def _response_whole(told: list[JSON]) -> JSON:
    responses = [part(each, "response") for each in told]
    return next((each for each in reversed(responses) if each is not None), None)


def _message_whole(told: list[JSON]) -> JSON:
    message: dict[str, JSON] = {}
    blocks: dict[int, dict[str, JSON]] = {}
    for each in told:
        match part(each, "type"):
            case "message_start":
                message = dict(cast("dict[str, JSON]", part(each, "message") or {}))
            case "content_block_start":
                blocks[_place(each, len(blocks))] = dict(cast("dict[str, JSON]", part(each, "content_block") or {}))
            case "content_block_delta":
                _grow(blocks.setdefault(_place(each, 0), {}), part(each, "delta"))
            case "message_delta":
                message |= cast("dict[str, JSON]", part(each, "delta") or {})
                usage = {**cast("dict[str, JSON]", message.get("usage") or {})}
                message["usage"] = usage | cast("dict[str, JSON]", part(each, "usage") or {})
            case _:
                pass
    for block in blocks.values():
        text = block.pop("$input", None)
        if isinstance(text, str):
            block["input"] = cast(JSON, json.loads(text)) if text else {}
    return {**message, "content": [blocks[number] for number in sorted(blocks)]}


def _grow(block: dict[str, JSON], delta: JSON) -> None:
    for name, into in (("text", "text"), ("thinking", "thinking"), ("partial_json", "$input")):
        piece = part(delta, name)
        if isinstance(piece, str):
            block[into] = str(block.get(into) or "") + piece
    if isinstance(signature := part(delta, "signature"), str):
        block["signature"] = signature
    if (citation := part(delta, "citation")) is not None:
        block["citations"] = [*parts(block.get("citations")), citation]


# --- from the whole to a stream ---


def _streamed(answer: Answer) -> Answer:
    whole = cast(JSON, json.loads(answer.body))
    cut = {"chat": _chat_chunks, "responses": _response_frames, "messages": _message_frames}[answer.operation]
    return replace(answer, kind=f"{STREAM}; charset=utf-8", body=b"".join(cut(whole)))


def _frame(told: JSON, *, named: bool) -> bytes:
    name = str(part(told, "type")).encode() if named else b""
    return (b"event: " + name + b"\n" if named else b"") + b"data: " + spelt(told) + b"\n\n"


def _chat_chunks(whole: JSON) -> Iterable[bytes]:
    same = {name: part(whole, name) for name in ("id", "created", "model", "system_fingerprint")}
    same["object"] = "chat.completion.chunk"
    said: list[JSON] = []
    ended: list[JSON] = []
    for choice in parts(part(whole, "choices")):
        delta = dict(cast("dict[str, JSON]", part(choice, "message") or {}))
        calls = [
            {"index": at, **cast("dict[str, JSON]", call)} for at, call in enumerate(parts(delta.get("tool_calls")))
        ]
        if calls:
            delta["tool_calls"] = cast(JSON, calls)
        at = _place(choice, 0)
        said.append({"index": at, "delta": delta, "logprobs": part(choice, "logprobs"), "finish_reason": None})
        ended.append({"index": at, "delta": {}, "finish_reason": part(choice, "finish_reason")})
    yield _frame({**same, "choices": said}, named=False)
    yield _frame({**same, "choices": ended}, named=False)
    if part(whole, "usage") is not None:
        yield _frame({**same, "choices": [], "usage": part(whole, "usage")}, named=False)
    yield b"data: [DONE]\n\n"


def _message_frames(whole: JSON) -> Iterable[bytes]:
    message = cast("dict[str, JSON]", whole)
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield _frame({"type": "message_start", "message": begun}, named=True)
    for at, block in enumerate(parts(message.get("content"))):
        empty, deltas = _emptied(cast("dict[str, JSON]", block))
        yield _frame({"type": "content_block_start", "index": at, "content_block": empty}, named=True)
        for delta in deltas:
            yield _frame({"type": "content_block_delta", "index": at, "delta": delta}, named=True)
        yield _frame({"type": "content_block_stop", "index": at}, named=True)
    ended = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    yield _frame({"type": "message_delta", "delta": ended, "usage": message.get("usage")}, named=True)
    yield _frame({"type": "message_stop"}, named=True)


def _emptied(block: dict[str, JSON]) -> tuple[JSON, list[JSON]]:
    """A block as it begins, and the deltas that fill it."""
    match block.get("type"):
        case "text":
            cited: list[JSON] = [
                {"type": "citations_delta", "citation": each} for each in parts(block.get("citations"))
            ]
            filled = {**block, "text": ""} | ({"citations": []} if cited else {})
            return filled, [{"type": "text_delta", "text": block.get("text")}, *cited]
        case "thinking":
            deltas: list[JSON] = [{"type": "thinking_delta", "thinking": block.get("thinking")}]
            signed: JSON = {"type": "signature_delta", "signature": block.get("signature")}
            return {**block, "thinking": "", "signature": ""}, [*deltas, signed]
        case "tool_use":
            text = spelt(block.get("input")).decode("utf-8", "replace")
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
        case _:
            return block, []


def _response_frames(whole: JSON) -> Iterable[bytes]:
    response = cast("dict[str, JSON]", whole)
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    told: list[dict[str, JSON]] = [{"type": f"response.{at}", "response": begun} for at in ("created", "in_progress")]
    for at, item in enumerate(parts(response.get("output"))):
        told += _item(at, cast("dict[str, JSON]", item))
    status = "incomplete" if response.get("status") == "incomplete" else "completed"
    told.append({"type": f"response.{status}", "response": response})
    return (_frame({**each, "sequence_number": number}, named=True) for number, each in enumerate(told))


def _item(at: int, item: dict[str, JSON]) -> list[dict[str, JSON]]:
    """The frames by which one item of an output comes."""
    place: dict[str, JSON] = {"output_index": at, "item_id": item.get("id")}
    told: list[dict[str, JSON]] = []
    begun: dict[str, JSON] = dict(item)
    if item.get("type") == "message":
        begun |= {"content": [], "status": "in_progress"}
        for number, piece in enumerate(parts(item.get("content"))):
            told += _piece({**place, "content_index": number}, cast("dict[str, JSON]", piece))
    for field, name in (("arguments", "function_call_arguments"), ("input", "custom_tool_call_input")):
        if item.get("type") in ("function_call", "custom_tool_call") and isinstance(text := item.get(field), str):
            begun |= {field: "", "status": "in_progress"}
            told.append({"type": f"response.{name}.delta", **place, "delta": text})
            told.append({"type": f"response.{name}.done", **place, field: text})
    first: dict[str, JSON] = {"type": "response.output_item.added", "output_index": at, "item": begun}
    return [first, *told, {"type": "response.output_item.done", "output_index": at, "item": item}]


def _piece(place: dict[str, JSON], piece: dict[str, JSON]) -> list[dict[str, JSON]]:
    field = "refusal" if piece.get("type") == "refusal" else "text"
    name = "refusal" if field == "refusal" else "output_text"
    begun = {**piece, field: ""}
    return [
        {"type": "response.content_part.added", **place, "part": begun},
        {"type": f"response.{name}.delta", **place, "delta": piece.get(field), "logprobs": []},
        {"type": f"response.{name}.done", **place, field: piece.get(field), "logprobs": []},
        {"type": "response.content_part.done", **place, "part": piece},
    ]
