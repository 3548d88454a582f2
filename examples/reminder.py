"""A run that lives for weeks: it sends an invoice, sleeps, reminds, and waits for the word that it was paid.

    python examples/reminder.py 77 604800                              # sends invoice 77, then sleeps for a week
    HOLDFAST_AGENTS=reminder holdfast run --watch --store runs.db       # in examples/: goes on with whatever can
    holdfast signal invoice-77 paid '"by transfer"' --store runs.db     # whenever the money comes, from anywhere

Without a watcher, `python examples/reminder.py 77` goes on with the run as far as it can. Mails go to the directory
`outbox`, the log to `runs.db`. Kill whatever you like.
"""

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from holdfast import Run, Waiting, agent, open_store, tool

OUTBOX = Path("outbox")


@tool(kind="irreversible", identity=["invoice", "subject"])
def mail(invoice: str, subject: str) -> str:
    """Stands for your mail server: a mail is one more file in the outbox. Returns its id."""
    OUTBOX.mkdir(exist_ok=True)
    sent = OUTBOX / f"{uuid4().hex}.eml"
    sent.write_text(f"Subject: {subject}\n\nInvoice {invoice}.\n")
    return sent.stem


@agent
def collect(run: Run, task: dict[str, Any]) -> str:
    mail(task["invoice"], "your invoice")
    run.sleep(task["seconds"])
    mail(task["invoice"], "a friendly reminder")
    how = run.wait_for("paid")
    mail(task["invoice"], "thank you")
    return f"paid {how}"


if __name__ == "__main__":
    import reminder  # so that the log names the agent as the watcher finds it: `reminder:collect`

    invoice = sys.argv[1] if len(sys.argv) > 1 else "77"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 7 * 24 * 3600.0
    with open_store("sqlite:///runs.db") as house:
        try:
            print(
                house.run(
                    reminder.collect, {"invoice": invoice, "seconds": seconds}, id=f"invoice-{invoice}", wait=False
                )
            )
        except Waiting as waiting:
            print(waiting)
