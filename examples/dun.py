"""The smallest program: a model writes a reminder, and the reminder is sent once, whatever happens.

    python examples/dun.py 77          # sends the mail
    python examples/dun.py 77          # the same id: answered from the log, nothing is sent

Mails go to the directory `outbox`, the log to `runs.db`. Kill the program at any moment and start it again.
"""

import asyncio
import random
import sys
from pathlib import Path
from uuid import uuid4

from holdfast import Run, agent, open_store, tool

OUTBOX = Path("outbox")
GREETINGS = ("Dear customer", "Hello", "Good morning")


async def ask_model(invoice: str) -> str:
    """Stands for your model: any async function will do. Asked twice, it would answer something else."""
    await asyncio.sleep(0)
    return f"{random.choice(GREETINGS)}, invoice {invoice} is still open."


@tool(kind="irreversible", identity=["invoice"])
async def remind(invoice: str, body: str) -> str:
    """Send the mail. Returns its id."""
    return deliver(f"Subject: invoice {invoice}\n\n{body}\n")


def deliver(text: str) -> str:
    """Stands for your mail server: a mail is one more file in the outbox."""
    OUTBOX.mkdir(exist_ok=True)
    mail = OUTBOX / f"{uuid4().hex}.eml"
    mail.write_text(text)
    return mail.stem


@agent
async def dun(run: Run, task: dict[str, str]) -> str:
    text = await run.decide(ask_model, task["invoice"])
    return await remind(task["invoice"], text)


if __name__ == "__main__":
    invoice = sys.argv[1] if len(sys.argv) > 1 else "77"
    with open_store("sqlite:///runs.db") as house:
        print(house.run(dun, {"invoice": invoice}, id=f"dun-{invoice}"))
