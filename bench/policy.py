"""`python -m bench.policy`: what one judgement of a policy costs, on this machine, as the gateway asks for it.

Rules
1. Each policy judges the same calls, in rounds and in turns; the median round is told, with the slowest percent of all.
2. What parsing anew at each call would cost is told beside it, since that is what the rules are parsed once for.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator

from cedarpy import is_authorized
from rich.console import Console
from rich.table import Table

from holdfast.core.effect import Kind
from holdfast.core.policy import Facts
from holdfast.gateway.cedar import Cedar
from holdfast.gateway.rules import FOLDER, schema_text

MOST_MS = 0.5
ROUNDS, CALLS = 9, 400
MANY = 100  # rules
LONG = "x" * 20_000


def rules(number: int) -> str:
    """So many rules that speak of arguments, of which the last permits."""
    made = [
        f'@id("r{n}") forbid (principal, action, resource) when {{ context.text.hasTag("field{n}")'
        f' && context.text.getTag("field{n}") like "*forbidden*" }};'
        for n in range(number - 1)
    ]
    return "\n".join([*made, '@id("all") @level("notify") permit (principal, action, resource);'])


def calls() -> Iterator[Facts]:
    """Calls as a gateway has them: small and large, of all kinds."""
    args = [
        {"to": "ann@example.com", "body": LONG},
        {"field1": "a", "field2": "b", "rows": [1, 2, 3]},
        {"message": {"to": ["a", "b"], "text": LONG}, "field9": "c"},
    ]
    for kind, given in itertools.cycle(itertools.product(Kind, args)):
        yield Facts(
            agent="m:clerk", run="run-77", capability="c7", system="mail", tool="mail.send", kind=kind, args=given,
            blast=3, labels=frozenset({"untrusted:email"}), now_ms=1_764_198_000_000, spent_calls=12, spent_money=34,
        )  # fmt: skip


def timed(cedar: Cedar) -> list[float]:
    """How long each judgement took, in ms."""
    found: list[float] = []
    for facts in itertools.islice(calls(), CALLS):
        began = time.perf_counter()
        cedar.judge(facts)
        found.append((time.perf_counter() - began) * 1000)
    return found


def parsed_anew(text: str) -> float:
    """What a judgement costs if everything is parsed for it, in ms: the median of some."""
    schema, found = schema_text(), list[float]()
    request = {"principal": 'Agent::"a"', "action": 'Action::"read"', "resource": 'Tool::"a.b"', "context": {}}
    for _ in range(30):
        began = time.perf_counter()
        is_authorized(request, text, [], schema)
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found)


def main() -> int:
    """Measure, and tell; 1 if the bar is missed."""
    texts = {
        "the starter policy": (FOLDER / "starter.cedar").read_text(encoding="utf-8"),
        f"{MANY} rules that look at arguments": rules(MANY),
    }
    policies = {name: Cedar([(name, text)]) for name, text in texts.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in policies}
    for _ in range(ROUNDS):
        for name, cedar in policies.items():
            rounds[name].append(timed(cedar))
    table = Table("policy", "median ms", "p99 ms", "parsed anew, ms")
    missed = False
    for name, found in rounds.items():
        middle = statistics.median(statistics.median(each) for each in found)
        slow = sorted(itertools.chain.from_iterable(found))[int(ROUNDS * CALLS * 0.99)]
        missed = missed or (name == "the starter policy" and middle > MOST_MS)
        table.add_row(name, f"{middle:.3f}", f"{slow:.3f}", f"{parsed_anew(texts[name]):.3f}")
    console = Console()
    console.print(table)
    console.print(f"bar: the starter policy at most {MOST_MS} ms: {'missed' if missed else 'reached'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
