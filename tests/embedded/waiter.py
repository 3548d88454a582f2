"""A process that runs one agent to its end and waits with it: `python -m tests.embedded.waiter URL RUN`.

It says `running` before it begins, and then the answer or the error, as one line each. Payments go to the file `paid`
beside the database.
"""

import sys
from pathlib import Path
from typing import Any

from holdfast import HoldfastError, agent, open_store, tool


def paid() -> Path:
    """Where payments are counted."""
    return Path(sys.argv[1].removeprefix("sqlite:///").partition("?")[0]).with_name("paid")


@tool(kind="irreversible", name="bank.pay", approval="one")
def pay(to: str) -> str:
    with paid().open("a") as book:
        book.write(f"{to}\n")
    return f"paid {to}"


@agent
def payer(run: Any, task: Any) -> str:
    return pay(task)


if __name__ == "__main__":
    print("running", flush=True)
    with open_store(sys.argv[1]) as house:
        try:
            print("answer", house.run(payer, "ann", id=sys.argv[2]), flush=True)
        except HoldfastError as error:
            print("error", type(error).__name__, error.what, flush=True)
