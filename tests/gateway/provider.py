"""A provider of models, in a process of its own: OpenAI's chat completions and responses, Anthropic's messages.

It answers as those protocols say, streaming or not, and never says the same twice. It answers only who shows its key,
and remembers all that it heard. `POST /plan` tells how the next requests are answered:

    text, calls            what is said, which tools are called ({key} in a text is the key that was shown)
    cut                    so many bytes are written at a time (else frame by frame)
    hold_after             after so many frames (0: before it answers at all) it waits for `POST /go`
    break_after            after so many frames (0: before it answers at all) the connection is torn
    error_after            after so many frames there is an error instead of more
    status, headers, error an error instead of an answer
    silent                 nothing is told of what was used
    raw, type              these bytes (base64) instead of an answer

`POST /forget` makes it forget all that it was told, and `GET /heard` tells what it heard.
"""

import asyncio
import base64
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from holdfast.demo import server

KEY = os.environ.get("PROVIDER_KEY", "")
USED = {"input": 20, "cached": 8, "output": 5}


class Provider:
    def __init__(self) -> None:
        self.plans: deque[dict[str, Any]] = deque()
        self.heard: list[dict[str, Any]] = []
        self.told = 0
        self.go = asyncio.Event()

    async def plan(self, request: web.Request) -> web.Response:
        self.plans.extend(await request.json())
        return web.json_response({})

    async def went(self, request: web.Request) -> web.Response:
        self.go.set()
        return web.json_response({})

    async def forget(self, request: web.Request) -> web.Response:
        self.plans.clear()
        self.heard.clear()
        self.go.clear()
        return web.json_response({})

    async def memory(self, request: web.Request) -> web.Response:
        return web.json_response({"heard": self.heard, "told": self.told})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        operation = request.path.rpartition("/")[2]
        shown = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key", "")
        self.heard.append({"path": request.path, "headers": dict(request.headers), "body": body})
        plan = self.plans.popleft() if self.plans else {}
        if shown != KEY:
            return web.json_response(error(operation, f"Incorrect API key provided: {shown}"), status=401)
        if "raw" in plan:
            return await self.raw(request, base64.b64decode(plan["raw"]), plan)
        if "status" in plan:
            said = error(operation, plan.get("error", "no").replace("{key}", shown))
            return web.json_response(said, status=plan["status"], headers=plan.get("headers", {}))
        if plan.get("hold_after") == 0:
            await self.go.wait()
            self.go.clear()
        if plan.get("break_after") == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        words = plan.get("text", f"answer {len(self.heard)}").replace("{key}", shown)
        whole = WHOLE[operation](body, words, plan.get("calls", []))
        if plan.get("silent"):
            whole.pop("usage", None)
        headers = {"x-request-id": f"req_{len(self.heard)}", "request-id": f"req_{len(self.heard)}"}
        if not body.get("stream"):
            self.told += 1
            return web.json_response(whole, headers={**headers, **plan.get("headers", {})})
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await self.stream(request, response, plan, [*FRAMES[operation](body, whole)], operation)
        return response

    async def raw(self, request: web.Request, data: bytes, plan: dict[str, Any]) -> web.StreamResponse:
        cut, headers = plan.get("cut", 0), {"content-type": plan["type"], **plan.get("headers", {})}
        response = web.StreamResponse(status=plan.get("status", 200), headers=headers)
        await response.prepare(request)
        for at in range(0, len(data), cut or len(data) or 1):
            await response.write(data[at : at + (cut or len(data))])
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    async def stream(
        self, request: web.Request, response: web.StreamResponse, plan: dict[str, Any], frames: list[bytes], op: str
    ) -> None:
        for number, frame in enumerate(frames):
            if number and plan.get("hold_after") == number:
                await self.go.wait()
                self.go.clear()
            if plan.get("break_after") == number:
                assert request.transport is not None
                request.transport.abort()
                return
            if plan.get("error_after") == number:
                named = "" if op == "completions" else "event: error\n"
                await response.write(f"{named}data: {json.dumps(error(op, 'overloaded'))}\n\n".encode())
                return
            cut = plan.get("cut") or len(frame)
            for at in range(0, len(frame), cut):
                await response.write(frame[at : at + cut])
                if cut < len(frame):
                    await asyncio.sleep(0)
        self.told += 1
        await response.write_eof()


def error(operation: str, message: str) -> dict[str, Any]:
    if operation == "messages":
        return {"type": "error", "error": {"type": "api_error", "message": message}, "request_id": "req_0"}
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


# --- chat completions ---


def chat(body: dict[str, Any], words: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": words, "refusal": None}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for n, c in enumerate(calls)
        ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": body["model"],
        "choices": [
            {"index": n, "message": message, "logprobs": None, "finish_reason": "tool_calls" if calls else "stop"}
            for n in range(body.get("n") or 1)
        ],
        "usage": {
            "prompt_tokens": USED["input"],
            "completion_tokens": USED["output"],
            "total_tokens": USED["input"] + USED["output"],
            "prompt_tokens_details": {"cached_tokens": USED["cached"]},
        },
    }


def chat_frames(body: dict[str, Any], whole: dict[str, Any]) -> Iterator[bytes]:
    counted = bool((body.get("stream_options") or {}).get("include_usage"))
    same = {"id": whole["id"], "object": "chat.completion.chunk", "created": whole["created"], "model": whole["model"]}

    def frame(choices: list[Any], **more: Any) -> bytes:
        told = {**same, "choices": choices, **({"usage": None} if counted else {}), **more}
        return f"data: {json.dumps(told)}\n\n".encode()

    for choice in whole["choices"]:
        at, message = choice["index"], choice["message"]
        yield frame([{"index": at, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for word in pieces(message["content"]):
            yield frame([{"index": at, "delta": {"content": word}, "finish_reason": None}])
        for number, call in enumerate(message.get("tool_calls", [])):
            function = {"name": call["function"]["name"], "arguments": ""}
            first = {"index": number, "id": call["id"], "type": "function", "function": function}
            yield frame([{"index": at, "delta": {"tool_calls": [first]}, "finish_reason": None}])
            for piece in pieces(call["function"]["arguments"]):
                more = {"index": number, "function": {"arguments": piece}}
                yield frame([{"index": at, "delta": {"tool_calls": [more]}, "finish_reason": None}])
        yield frame([{"index": at, "delta": {}, "finish_reason": choice["finish_reason"]}])
    if counted and "usage" in whole:
        yield frame([], usage=whole["usage"])
    yield b"data: [DONE]\n\n"


# --- responses ---


def response(body: dict[str, Any], words: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    content = [{"type": "output_text", "text": words, "annotations": [], "logprobs": []}]
    output: list[dict[str, Any]] = [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    ]
    for n, call in enumerate(calls):
        output.append(
            {
                "type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "status": "completed",
                "name": call["name"], "arguments": call["arguments"],
            }
        )  # fmt: skip
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": USED["input"],
            "input_tokens_details": {"cached_tokens": USED["cached"]},
            "output_tokens": USED["output"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": USED["input"] + USED["output"],
        },
    }


def response_frames(body: dict[str, Any], whole: dict[str, Any]) -> Iterator[bytes]:
    number = 0

    def frame(kind: str, **more: Any) -> bytes:
        nonlocal number
        told = {"type": kind, "sequence_number": number, **more}
        number += 1
        return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()

    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield frame("response.created", response=begun)
    yield frame("response.in_progress", response=begun)
    for at, item in enumerate(whole["output"]):
        place = {"output_index": at, "item_id": item["id"]}
        if item["type"] == "message":
            yield frame("response.output_item.added", output_index=at, item={**item, "content": []})
            part = item["content"][0]
            place["content_index"] = 0
            yield frame("response.content_part.added", **place, part={**part, "text": ""})
            for word in pieces(part["text"]):
                yield frame("response.output_text.delta", **place, delta=word, logprobs=[])
            yield frame("response.output_text.done", **place, text=part["text"], logprobs=[])
            yield frame("response.content_part.done", **place, part=part)
        else:
            yield frame("response.output_item.added", output_index=at, item={**item, "arguments": ""})
            for piece in pieces(item["arguments"]):
                yield frame("response.function_call_arguments.delta", **place, delta=piece)
            yield frame("response.function_call_arguments.done", **place, arguments=item["arguments"])
        yield frame("response.output_item.done", output_index=at, item=item)
    yield frame("response.completed", response=whole)


# --- messages ---


def message(body: dict[str, Any], words: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": words}]
    for n, call in enumerate(calls):
        made = json.loads(call["arguments"])
        blocks.append({"type": "tool_use", "id": f"toolu_{n}", "name": call["name"], "input": made})
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": blocks,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": USED["input"] - USED["cached"],
            "cache_read_input_tokens": USED["cached"],
            "cache_creation_input_tokens": 0,
            "output_tokens": USED["output"],
        },
    }


def message_frames(body: dict[str, Any], whole: dict[str, Any]) -> Iterator[bytes]:
    def frame(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    usage = whole.get("usage", {})
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1} if usage else {}}
    yield frame("message_start", message=begun)
    yield frame("ping")
    for at, block in enumerate(whole["content"]):
        if block["type"] == "text":
            yield frame("content_block_start", index=at, content_block={"type": "text", "text": ""})
            for word in pieces(block["text"]):
                yield frame("content_block_delta", index=at, delta={"type": "text_delta", "text": word})
        else:
            yield frame("content_block_start", index=at, content_block={**block, "input": {}})
            for piece in pieces(json.dumps(block["input"])):
                yield frame("content_block_delta", index=at, delta={"type": "input_json_delta", "partial_json": piece})
        yield frame("content_block_stop", index=at)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield frame("message_delta", delta=ended, usage={"output_tokens": usage["output_tokens"]} if usage else {})
    yield frame("message_stop")


def pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


WHOLE = {"completions": chat, "responses": response, "messages": message}
FRAMES = {"completions": chat_frames, "responses": response_frames, "messages": message_frames}


async def main() -> None:
    provider = Provider()
    app = web.Application(client_max_size=64 << 20)
    app.add_routes(
        [
            web.post("/plan", provider.plan),
            web.post("/go", provider.went),
            web.post("/forget", provider.forget),
            web.get("/heard", provider.memory),
            web.post("/v1/chat/completions", provider.answer),
            web.post("/v1/responses", provider.answer),
            web.post("/v1/messages", provider.answer),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, server.LOOPBACK, 0)
    await site.start()
    server.ready(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
