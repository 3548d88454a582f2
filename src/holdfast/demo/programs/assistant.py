"""A shop's clerk: a model decides, and these tools carry out whatever it says. It knows nothing of Holdfast.

What it needs stands in its environment, where its libraries look for it: OPENAI_BASE_URL and OPENAI_API_KEY,
AWS_ENDPOINT_URL and its keys, the shop's address (SHOP_URL), a queue's (QUEUE_URL), and that of a service that queries
the database and sends mail (TOOLS_URL).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import boto3  # pyright: ignore[reportMissingTypeStubs]
import requests
from openai import OpenAI

TASK = "Deal with today's returns: read the complaint, refund, note it in the database, write to the customer."


def fetch(method: str, url: str, body: Any = None) -> str:
    """A request over HTTP; a URL without a host is the shop's."""
    whole = os.environ["SHOP_URL"] + url if url.startswith("/") else url
    answer = requests.request(method, whole, json=body, timeout=120)
    return f"{answer.status_code} {answer.text}"


def call(tool: str, arguments: dict[str, Any]) -> str:
    answer = requests.post(os.environ["TOOLS_URL"] + "/v1/call", json={"tool": tool, "args": arguments}, timeout=120)
    return f"{answer.status_code} {answer.text}"


def sql(**arguments: Any) -> str:
    """One statement, with its parameters."""
    return call("books.query", arguments)


def mail(**arguments: Any) -> str:
    """A letter."""
    return call("post.send", arguments)


def message(text: str) -> str:
    """A message to the warehouse, by its queue in the cloud."""
    cloud = cast("Any", boto3.client("sqs"))  # pyright: ignore[reportUnknownMemberType]
    sent = cloud.send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=text)
    return f"sent as {sent['MessageId']}"


def shell(command: str) -> str:
    """A command, as a shell runs it."""
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    return f"exit {ran.returncode}\n{ran.stdout}{ran.stderr}"


TOOLS: dict[str, Callable[..., str]] = {each.__name__: each for each in (fetch, sql, mail, message, shell)}


def main() -> None:
    model = OpenAI()
    offered: list[Any] = [
        {"type": "function", "function": {"name": name, "description": tool.__doc__, "parameters": {"type": "object"}}}
        for name, tool in TOOLS.items()
    ]
    messages: list[Any] = [
        {"role": "system", "content": "You are the clerk of a shop."},
        {"role": "user", "content": TASK},
    ]
    while True:
        answer = model.chat.completions.create(model="scripted", messages=messages, tools=offered)
        said: Any = answer.choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        if not said.tool_calls:
            print(said.content)
            return
        for wanted in said.tool_calls:
            arguments = json.loads(wanted.function.arguments)
            try:
                found = TOOLS[wanted.function.name](**arguments)
            except Exception as error:  # noqa: BLE001 - the model is told whatever went wrong
                found = f"{type(error).__name__}: {error}"
            print(wanted.function.name, json.dumps(arguments), "->", found, file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": wanted.id, "content": found})


if __name__ == "__main__":
    main()
