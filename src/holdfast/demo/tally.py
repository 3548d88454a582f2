"""The counts of the demo of forks: what the servers of its world say was made, taken down, stopped, altered and sent.

Rules
1. Everything is asked of the systems themselves, never of the agent, the log or Holdfast.
"""

from collections.abc import Sequence

from holdfast.demo import reach
from holdfast.demo.model import SIZES
from holdfast.demo.world import OLD_MACHINES, Count, World, money_in_cents

WRONG, REGION = "us-west-2", "eu-central-1"
BEST = "t3.medium"  # the smallest that has the memory
MADE = ["CreateVpc", "CreateSubnet", "RunInstances t3.micro"]
UNMADE = ["TerminateInstances", "DeleteSubnet", "DeleteVpc"]


def tally(ours: World) -> list[Count]:
    """Everything that was made and left, counted now."""
    west, east = ours.changes(ours.addresses.west), ours.changes(ours.addresses.east)
    machines = {size: _of(west, REGION).count(f"RunInstances {size}") for size in SIZES}
    subjects = ours.subjects()
    return [
        _count(f"{WRONG}: network, subnet, machine made", _known(west, WRONG, MADE), 3),
        _count(f"{WRONG}: taken down, the last one first", _known(west, WRONG, UNMADE), 3),
        _count(f"{WRONG}: still there", _left(ours, WRONG), 0),
        _count(f"{REGION}: network, subnet, copier made", _known(west, REGION, MADE), 3),
        _count(f"{REGION}: taken down", sum(each in UNMADE for each in _of(west, REGION)), 0),
        _count(f"machines of the size that won ({BEST})", machines.pop(BEST), 2),
        _count("machines of the three sizes that lost", sum(machines.values()), 0),
        _count("changes of the new cloud in all", len(west), 11),
        _count("stops of the old machines (two branches asked)", _of(east, reach.REGION).count("StopInstances"), 1),
        _count("old machines stopped", ours.stopped(), sum(OLD_MACHINES.values())),
        _count("alterations of the database", ours.alterations(), 1),
        _count("the customers' money, in cents", ours.money(), money_in_cents()),
        _count(f"names that point to {REGION}", ours.switched(REGION), 1),
        _count('mails "We move tonight" (before the fork)', subjects.count("We move tonight"), 1),
        _count('mails "We have moved"', subjects.count("We have moved"), 1),
        _count("mails in all", len(subjects), 2),
        _count("answers of the model", ours.asked()["answered"], 5),
    ]


def _count(name: str, found: int, right: int) -> Count:
    return Count(name=name, found=found, right=right)


def _of(changes: Sequence[str], region: str) -> list[str]:
    """What was carried out in a region, in order."""
    return [each.removeprefix(f"{region} ") for each in changes if each.startswith(f"{region} ")]


def _known(changes: Sequence[str], region: str, wanted: Sequence[str]) -> int:
    """How many changes of the region are of the `wanted` ones; none, if they came in another order."""
    found = [each for each in _of(changes, region) if each in wanted]
    return len(found) if [each for each in wanted if each in found] == list(dict.fromkeys(found)) else -len(found)


def _left(ours: World, region: str) -> int:
    """The networks and subnets of ours, and the machines that run, in a region."""
    west = reach.cloud(ours.addresses.west, region=region)
    networks = [each["VpcId"] for each in west.describe_vpcs()["Vpcs"] if not each["IsDefault"]]
    subnets = [each for each in west.describe_subnets()["Subnets"] if each["VpcId"] in networks]
    held = west.describe_instances()["Reservations"]
    running = [each for group in held for each in group["Instances"] if each["State"]["Name"] == "running"]
    return len(networks) + len(subnets) + len(running)
