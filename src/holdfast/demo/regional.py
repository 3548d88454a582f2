"""The tools of the agent that chooses a region: what it builds there, and how it is taken down again."""

from typing import Any

from holdfast import Happened, NotHappened, tool
from holdfast.demo import reach
from holdfast.demo.tools import IMAGE, KEY_TAG, refusals, token


@tool(kind="read", name="cloud.size")
def describe_size(region: str, size: str) -> dict[str, int]:
    """What a machine of this size has."""
    found: Any = _west(region).describe_instance_types(InstanceTypes=[size])["InstanceTypes"][0]
    return {"vcpus": found["VCpuInfo"]["DefaultVCpus"], "memory_mib": found["MemoryInfo"]["SizeInMiB"]}


@tool(kind="read", name="cloud.address")
def find_address(region: str, machine: str) -> str:
    """The address of a machine."""
    return _machines(region, {"InstanceIds": [machine]})[0]["PrivateIpAddress"]


def _find_vpc(region: str) -> Happened[str] | NotHappened:
    found = _west(region).describe_vpcs(Filters=_marked())["Vpcs"]
    return Happened(found[0]["VpcId"]) if found else NotHappened(f"no network of {region} carries the key")


def _delete_vpc(region: str, answer: str) -> None:
    _west(region).delete_vpc(VpcId=answer)


@tool(kind="reversible", name="cloud.create_vpc", probe=_find_vpc, undo=_delete_vpc)
def create_vpc(region: str, network: str) -> str:
    """A new network. Returns its id."""
    with refusals():
        return _west(region).create_vpc(CidrBlock=network, TagSpecifications=_tagged("vpc", "shop"))["Vpc"]["VpcId"]


def _find_subnet(region: str) -> Happened[str] | NotHappened:
    found = _west(region).describe_subnets(Filters=_marked())["Subnets"]
    return Happened(found[0]["SubnetId"]) if found else NotHappened(f"no subnet of {region} carries the key")


def _delete_subnet(region: str, answer: str) -> None:
    _west(region).delete_subnet(SubnetId=answer)


@tool(kind="reversible", name="cloud.create_subnet", probe=_find_subnet, undo=_delete_subnet)
def create_subnet(region: str, vpc: str, block: str) -> str:
    """A new subnet of a network. Returns its id."""
    with refusals():
        made = _west(region).create_subnet(VpcId=vpc, CidrBlock=block, TagSpecifications=_tagged("subnet", "shop"))
    return made["Subnet"]["SubnetId"]


def _find_machine(region: str) -> Happened[str] | NotHappened:
    found = _machines(region, {"Filters": _marked()})
    return Happened(found[0]["InstanceId"]) if found else NotHappened(f"no machine of {region} carries the key")


def _terminate(region: str, answer: str) -> None:
    _west(region).terminate_instances(InstanceIds=[answer])


@tool(kind="reversible", name="cloud.start_machine", probe=_find_machine, undo=_terminate)
def start_machine(region: str, role: str, size: str, subnet: str) -> str:
    """Start a machine. Returns its id."""
    with refusals():
        started = _west(region).run_instances(
            ImageId=IMAGE,
            InstanceType=size,
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            ClientToken=token(),
            TagSpecifications=_tagged("instance", role),
        )
    return started["Instances"][0]["InstanceId"]


def _machines(region: str, which: dict[str, Any]) -> list[dict[str, Any]]:
    found = _west(region).describe_instances(**which)["Reservations"]
    return [each for held in found for each in held["Instances"] if each["State"]["Name"] == "running"]


def _tagged(what: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": what, "Tags": [{"Key": KEY_TAG, "Value": token()}, {"Key": "Name", "Value": name}]}]


def _marked() -> list[dict[str, Any]]:
    return [{"Name": f"tag:{KEY_TAG}", "Values": [token()]}]


def _west(region: str) -> reach.Cloud:
    return reach.cloud(reach.addresses().west, region=region)
