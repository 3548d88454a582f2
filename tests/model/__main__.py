"""The table of docs/fork-model.md: `python -m tests.model [SCHEDULES]`. With a rule left out, how many schedules break
an invariant, and which one first."""

from __future__ import annotations

import sys

from tests.model.rules import ALL, NAMES, TEXT, without
from tests.model.schedule import tally

SCHEDULES = 4000


def row(name: str, schedules: int) -> str:
    """One line of the table."""
    first, broken, _ = tally(range(schedules), without(name))
    seen = ", ".join(which for which, _ in first.most_common())
    return f"| {TEXT[name]} | {broken:,} | {seen} |"


def main(schedules: int) -> None:
    _, broken, happened = tally(range(schedules), ALL)
    counted = ", ".join(f"{times:,} {what}" for what, times in sorted(happened.items()))
    print(f"all rules, {schedules:,} schedules: {broken} violations ({counted})\n")
    print(f"| left out | schedules that break (of {schedules:,}) | first broken |\n|---|---|---|")
    for name in NAMES:
        print(row(name, schedules), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SCHEDULES)
