"""The agent of the demo of forks: it moves the shop to a region that its model chooses.

It is an ordinary program, and believes its model: it builds a network where the model says, and stops the old machines,
before it sees whether the customers' data may be there at all. Nothing in it knows that somebody will fork it. Of which
sizes of machine the shop will run on it tries four, and goes on with the one that is best.
"""

import re
from typing import Any

from holdfast import Attempt, agent, briefing
from holdfast.demo import regional, tools
from holdfast.demo.migration import BRIEF, CENTS, CUSTOMERS, MIGRATION, NETWORK, SHOP, USUAL_NETWORK, MovingFailed

REGION = re.compile(r"\b[a-z]{2}-[a-z]+-[0-9]\b")
SIZE = re.compile(r"\b[a-z][0-9][a-z]*\.[0-9a-z]+\b")
COPIER = "t3.micro"
LEAST_MIB = 4096
TOO_SMALL = -1e9

Message = dict[str, str]


@agent
def relocate(run: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Move `task["shop"]` to a region within `task["within"]`. Returns where it is now."""
    talk: list[Message] = [{"role": "system", "content": BRIEF}]
    old = run.call(tools.describe_old)  # node 3
    plan = _ask(run, talk, f"Plan the move of {task['shop']}: {len(old)} machines. Which 10.x.0.0/16 network?")  # 5
    run.call(tools.send_mail, to=CUSTOMERS, subject="We move tonight", body="Your data comes along.")  # 7
    region = REGION.findall(_ask(run, talk, "Which region shall the shop move to?"))[0]  # 9
    sizes = SIZE.findall(_ask(run, talk, "Which sizes of machine shall I try?"))
    subnet = _build(run, region, plan)
    run.call(tools.stop_old, machines=[machine["id"] for machine in old])
    if not region.startswith(task["within"]):
        raise MovingFailed(f"the accounts may be copied to {task['within']}* only, and the network is in {region}")
    size = run.explore(sizes, score=fitness)  # each size on a branch of its own, from here on
    has = run.call(regional.describe_size, region=region, size=size)
    web = run.call(regional.start_machine, region=region, role="web", size=size, subnet=subnet)
    run.call(regional.start_machine, region=region, role="database", size=size, subnet=subnet)
    run.offer({"size": size, **has})
    return {"region": region, "size": size, **_switch(run, region, web, talk)}


def fitness(attempt: Attempt) -> float:
    """The smallest machine that has enough memory."""
    has = attempt.offer
    return TOO_SMALL if has["memory_mib"] < LEAST_MIB else -has["memory_mib"] - has["vcpus"]


def _build(run: Any, region: str, plan: str) -> str:
    """A network with a machine that copies the data. Returns its subnet."""
    number = NETWORK.search(plan)
    first = f"10.{number.group(1) if number else USUAL_NETWORK}"
    vpc = run.call(regional.create_vpc, region=region, network=f"{first}.0.0/16")
    subnet = run.call(regional.create_subnet, region=region, vpc=vpc, block=f"{first}.1.0/24")
    run.call(regional.start_machine, region=region, role="copier", size=COPIER, subnet=subnet)
    return subnet


def _switch(run: Any, region: str, web: str, talk: list[Message]) -> dict[str, Any]:
    """Everything that nobody can take back."""
    before = run.call(tools.count_accounts)
    run.call(tools.alter_legacy, migration=MIGRATION)
    after = run.call(tools.count_accounts)
    if after != {"accounts": before["accounts"], "sum": before["sum"] * CENTS}:
        raise MovingFailed(f"the accounts were {before} and are {after}")
    address = run.call(regional.find_address, region=region, machine=web)
    run.call(tools.point_dns, name=SHOP, address=address)
    farewell = _ask(run, talk, "The move is finished. Tell the customers.")
    run.call(tools.send_mail, to=CUSTOMERS, subject="We have moved", body=farewell)
    return {"address": address, "accounts": after["accounts"]}


def _ask(run: Any, talk: list[Message], question: str) -> str:
    """One more question; before it, the model is told what else its task has done in the world."""

    def brief() -> str:
        return briefing(run.stranded(undone=True))

    note = str(run.decide(brief))
    if note:
        talk.append({"role": "system", "content": note})
    talk.append({"role": "user", "content": question})
    answer = str(run.decide(tools.ask_model, list(talk)))
    talk.append({"role": "assistant", "content": answer})
    return answer
