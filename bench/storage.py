"""What a growing conversation costs on disk: the case in which stores that keep each state whole grow with its square.

Each step is one turn of an agent as people write it: the model is asked with the whole transcript, its reply (a message
that names a tool and its arguments) is appended, the tool is called, and its result is appended as a message.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.text import Texts
from holdfast import Run, agent, open_store, tool

Message = Mapping[str, Any]


def dense(value: object) -> bytes:
    """A value as JSON with nothing in between."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Talk:
    """One conversation, and a count of what was said in it, each thing once."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._said: dict[bytes, int] = {}
        self.messages_bytes = 0

    @property
    def payload_bytes(self) -> int:
        """The distinct messages, tool arguments and answers as JSON, each once."""
        return sum(self._said.values())

    def say(self, value: object) -> int:
        """Count a value, if it is new; its size."""
        text = dense(value)
        self._said.setdefault(text, len(text))
        return len(text)

    def message(self, value: Message) -> Message:
        """Count a message."""
        self.messages_bytes += self.say(value)
        return value

    def model(self, messages: list[Message]) -> Message:
        """The reply to a transcript: a call of the tool `put`, in the words of the chat-completions protocol."""
        number = len(messages)
        arguments = {"order": str(number), "body": self._texts.argument(number)}
        call = {
            "id": f"call_{number:08}",
            "type": "function",
            "function": {"name": "put", "arguments": json.dumps(arguments)},
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def answer(self, arguments: Mapping[str, str]) -> str:
        """The tool's answer."""
        self.say(arguments)
        found = self._texts.answer(int(arguments["order"]))
        self.say(found)
        return found

    def first(self) -> list[Message]:
        """How the conversation begins."""
        return [
            self.message({"role": "system", "content": self._texts.answer(0)}),
            self.message({"role": "user", "content": self._texts.argument(0)}),
        ]


def grow(folder: Path, texts: Texts, steps: int) -> dict[str, float]:
    """Let a conversation of `steps` turns grow in a fresh store; the size of its database after closing, and what was
    said."""
    talk = Talk(texts)

    @tool(kind="idempotent", name="desk.put")
    async def put(order: str, body: str) -> str:
        return talk.answer({"order": order, "body": body})

    async def model(messages: list[Message]) -> Message:
        return talk.model(messages)

    @agent
    async def talking(run: Run, _task: object) -> None:
        messages = talk.first()
        for _ in range(steps):
            reply = await run.decide(model, messages)
            messages = [*messages, talk.message(reply)]
            (call,) = reply["tool_calls"]
            result = await put(**json.loads(call["function"]["arguments"]))
            messages = [*messages, talk.message({"role": "tool", "tool_call_id": call["id"], "content": result})]

    began, began_cpu = time.perf_counter(), time.process_time()
    path = folder / "talk.db"
    with open_store(f"sqlite:///{path}?anchor={folder / 'anchor'}") as house:
        house.run(talking, id="talk")
    kept = sum(os.path.getsize(part) for part in (path, Path(f"{path}-wal")) if part.exists())
    return {
        "steps": steps,
        "messages": 2 + 2 * steps,
        "bytes": kept,
        "payload_bytes": talk.payload_bytes,
        "messages_bytes": talk.messages_bytes,
        "seconds": time.perf_counter() - began,
        "cpu_ms_per_step": (time.process_time() - began_cpu) / steps * 1000,
    }
