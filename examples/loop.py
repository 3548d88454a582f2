"""An agent loop of one's own: a model chooses a tool, the tool is called, the model sees the result, and so on.

    python examples/loop.py            # books three amounts
    python examples/loop.py            # the run has finished: the recorded answer

Kill it at any moment and start it again: no amount is booked twice, none is forgotten, and the model is not asked again
what it has answered. The tools are the ledger `ledger.txt`; the log is `runs.db`.
"""

import json
import random
import sys
import time
from pathlib import Path

from holdfast import Happened, NotHappened, Run, agent, key, open_store, tool

LEDGER = Path("ledger.txt")
ASKED = Path("asked.txt")
Message = dict[str, str]


@tool(kind="read")
def balance() -> int:
    """The sum of what is booked."""
    return sum(int(amount) for _, amount in booked())


def is_booked(amount: int) -> Happened[int] | NotHappened:
    """Asked after a crash. The key says which booking is meant, so that an equal amount is not taken for it."""
    return Happened(amount) if any(mark == key() for mark, _ in booked()) else NotHappened("the ledger has no such key")


@tool(kind="irreversible", probe=is_booked, repeat="each")
def book(amount: int) -> int:
    """Add a line to the ledger; it can never be removed."""
    with LEDGER.open("a") as ledger:
        ledger.write(f"{key()} {amount}\n")
    return amount


def booked() -> list[tuple[str, str]]:
    """The complete lines of the ledger: the key and the amount of each."""
    lines = LEDGER.read_text().splitlines(keepends=True) if LEDGER.exists() else []
    return [(mark, amount) for mark, amount in (line.split() for line in lines if line.endswith("\n"))]


def model(messages: list[Message], pace_s: float) -> dict[str, object]:
    """Stands for your model. It thinks for a while, and would choose other amounts if it were asked again."""
    time.sleep(pace_s)
    with ASKED.open("a") as asked:
        asked.write(f"{len(messages)}\n")
    turns = sum(message["role"] == "assistant" for message in messages)
    if turns < 3:
        return {"tool": "book", "arguments": {"amount": random.randrange(1, 1000)}}
    if turns == 3:
        return {"tool": "balance", "arguments": {}}
    return {"answer": f"The balance is {messages[-1]['content']}."}


@agent
def bookkeeper(run: Run, task: dict[str, float]) -> str:
    tools = {"book": book, "balance": balance}
    messages: list[Message] = [{"role": "user", "content": "Book three amounts and tell me the balance."}]
    while True:
        reply = run.decide(model, list(messages), task["pace_s"])
        messages.append({"role": "assistant", "content": json.dumps(reply)})
        if "answer" in reply:
            return str(reply["answer"])
        result = tools[reply["tool"]](**reply["arguments"])
        messages.append({"role": "tool", "content": str(result)})


if __name__ == "__main__":
    pace_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    with open_store("sqlite:///runs.db") as house:
        print(house.run(bookkeeper, {"pace_s": pace_s}, id="books-1"))
