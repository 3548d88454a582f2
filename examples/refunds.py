"""Parallel calls: many refunds under way at once, each of them made once.

    python examples/refunds.py         # refunds twelve customers, at most four seconds
    python examples/refunds.py         # the run has finished: the recorded answer

Kill it at any moment and start it again. The bank is the file `bank.txt`. It knows its idempotency keys, as a real one
does: a refund that is asked for again under the same key is not made again.
"""

import asyncio
import random
import sys
from pathlib import Path

from holdfast import Run, agent, key, open_store, tool

BANK = Path("bank.txt")


@tool(kind="idempotent", identity=["customer"], key_ttl_s=24 * 3600)
async def refund(customer: str, cents: int) -> int:
    """Give the money back. Sent again with the same key, it does nothing."""
    await asyncio.sleep(random.uniform(0, PACE_S))
    give(key(), customer, cents)
    return cents


def give(mark: str, customer: str, cents: int) -> None:
    """Stands for the bank's API: once for each key."""
    made = BANK.read_text().splitlines() if BANK.exists() else []
    if not any(line.startswith(mark) for line in made):
        with BANK.open("a") as bank:
            bank.write(f"{mark} {customer} {cents}\n")


@agent
async def give_back(run: Run, task: dict[str, int]) -> int:
    """The order is another one in each life: calls are known by what they ask, not by when they ask it."""
    customers = [f"customer-{number}" for number in range(task["customers"])]
    random.shuffle(customers)
    return sum(await asyncio.gather(*(refund(customer, 500) for customer in customers)))


PACE_S = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0

if __name__ == "__main__":
    with open_store("sqlite:///runs.db") as house:
        print(house.run(give_back, {"customers": 12}, id="refunds-1"))
