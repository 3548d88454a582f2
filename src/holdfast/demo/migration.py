"""The agent: it moves a shop from the old cloud to the new one, in seventeen steps from first look to last mail.

It is an ordinary program: it looks, asks a model, changes the world, and looks again. Nothing in it speaks of crashes,
retries or logs, and nothing in it knows of the demo.
"""

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from holdfast import agent
from holdfast.demo import tools

CUSTOMERS = "customers@shop.example"
SHOP = "www.shop.example."
MIGRATION = 7
CENTS = 100
NETWORK = re.compile(r"\b10\.(\d{1,2}|1\d\d|2[0-4]\d|25[0-5])\.0\.0/16\b")
USUAL_NETWORK = "77"
BRIEF = "You plan the move of a small web shop from one cloud to another. Answer in at most three sentences."

Message = dict[str, str]
Value = TypeVar("Value")


class Running(Protocol):
    """What the agent needs of its run."""

    def call(self, tool: Callable[..., Value], **arguments: object) -> Value: ...
    def decide(self, ask: Callable[..., Value], *arguments: object) -> Value: ...


class MovingFailed(Exception):
    """What the agent sees is not what it must see before it goes on."""


@agent
def migrate(run: Running, task: dict[str, Any]) -> dict[str, Any]:
    """Move `task["shop"]`. Returns where it is now and what was counted."""
    talk: list[Message] = [{"role": "system", "content": BRIEF}]
    old = run.call(tools.describe_old)  # 1
    before = run.call(tools.count_accounts)  # 2
    plan = _ask(run, talk, f"Plan the move of {task['shop']}: {len(old)} machines. Which 10.x.0.0/16 network?")  # 3
    number = NETWORK.search(plan)
    first = f"10.{number.group(1) if number else USUAL_NETWORK}"
    new = _build(run, first)  # 4 to 9
    notice = _ask(run, talk, f"{len(new)} machines are up. Tell the customers that we move tonight.")  # 10
    run.call(tools.send_mail, to=CUSTOMERS, subject="We move tonight", body=notice)  # 11
    run.call(tools.stop_old, machines=[machine["id"] for machine in old])  # 12
    run.call(tools.alter_legacy, migration=MIGRATION)  # 13
    after = run.call(tools.count_accounts)  # 14
    if after != {"accounts": before["accounts"], "sum": before["sum"] * CENTS}:
        raise MovingFailed(f"the accounts were {before} and are {after}")
    address = next(machine["address"] for machine in new if machine["role"] == "web")
    run.call(tools.point_dns, name=SHOP, address=address)  # 15
    farewell = _ask(run, talk, "The move is finished. Tell the customers.")  # 16
    run.call(tools.send_mail, to=CUSTOMERS, subject="We have moved", body=farewell)  # 17
    return {"address": address, "accounts": after["accounts"], "machines": len(new)}


def _build(run: Running, first: str) -> list[tools.Machine]:
    vpc = run.call(tools.create_vpc, network=f"{first}.0.0/16")
    outside = run.call(tools.create_subnet, vpc=vpc, block=f"{first}.1.0/24")
    inside = run.call(tools.create_subnet, vpc=vpc, block=f"{first}.2.0/24")
    web = run.call(tools.run_instances, role="web", subnet=outside, count=2)
    database = run.call(tools.run_instances, role="database", subnet=inside, count=1)
    started = {*web, *database}
    return [machine for machine in run.call(tools.describe_new) if machine["id"] in started]


def _ask(run: Running, talk: list[Message], question: str) -> str:
    """One more question in the same conversation; it grows by the question and the answer."""
    talk.append({"role": "user", "content": question})
    answer = str(run.decide(tools.ask_model, list(talk)))
    talk.append({"role": "assistant", "content": answer})
    return answer
