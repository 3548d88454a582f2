"""Best of n: a model writes four reminders, each on a branch of its own, and only the best of them is sent.

    python examples/best_of_n.py       # sends one mail
    python examples/best_of_n.py       # the run has finished: the recorded answer

Every branch goes on as if it were the only one; that it sends the mail is written down, and held. One branch is
promoted, and does what it planned. The others have done nothing. Mails go to the directory `outbox`.
"""

import asyncio
import random
from pathlib import Path
from uuid import uuid4

from holdfast import Attempt, Run, agent, open_store, tool

OUTBOX = Path("outbox")
TONES = ["friendly", "formal", "funny", "firm"]


async def ask_model(tone: str, invoice: str) -> str:
    """Stands for your model. It words nothing twice in the same way."""
    await asyncio.sleep(0)
    please = " ".join(random.choices(["please", "kindly", "now", "soon", "today"], k=random.randrange(1, 9)))
    return f"A {tone} word: invoice {invoice} is open, {please}."


def score(attempt: Attempt) -> float:
    """Stands for a judge, which may be a model, too: its answer is recorded. The shorter the better."""
    return -len(attempt.offer)


@tool(kind="irreversible", identity=["invoice"])
async def send(invoice: str, body: str) -> str:
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
    tone = await run.explore(TONES, score=score)
    text = await run.decide(ask_model, tone, task["invoice"])
    await run.offer(text)  # what there is to judge; a branch that is not promoted ends here
    await send(task["invoice"], text)
    return text


if __name__ == "__main__":
    with open_store("sqlite:///runs.db") as house:
        print(house.run(dun, {"invoice": "77"}, id="dun-77"))
