"""The world: two clouds, a legacy database, a mail server and a model, and a count of what was left in it.

Rules
1. Counting asks the systems themselves (describe, select, list), never the agent, the log or Holdfast.
2. Each world is fresh: its servers, its ports and its directory are its own.
3. However a world ends, its servers end with it.
"""

import json
import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from holdfast.demo import legacy, post, reach
from holdfast.demo.server import Server, end, start

OLD_MACHINES = {"web": 2, "database": 1}
OLD_NETWORK_ADDRESS = "192.0.2.10"
ZONE = "shop.example."
SHOP = "www.shop.example."
LATE_S = 30.0
RETRY_AFTER_S = 1
REAL_MODEL = "gpt-4o-mini"
OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One thing that can be counted in the world, and how many of it a finished move leaves behind."""

    name: str
    found: int
    right: int

    @property
    def problem(self) -> str:
        """What is wrong with it, or nothing."""
        if self.found == self.right:
            return ""
        return f"{self.name}: {self.found} instead of {self.right}"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Running servers, and where to find them."""

    directory: Path
    addresses: reach.Addresses
    servers: tuple[Server, ...]

    @property
    def environment(self) -> dict[str, str]:
        """For a program that shall live in this world."""
        return {**environment(), reach.WORLD: str(self.directory / "world.json")}

    def alterations(self) -> int:
        """How often the legacy database was altered, by its own account."""
        return int(reach.database(self.addresses.legacy).value("SELECT count(*) FROM alterations") or 0)

    def census(self) -> list[Count]:
        """Everything that was left behind, counted now."""
        west = reach.cloud(self.addresses.west)
        networks = [each["VpcId"] for each in west.describe_vpcs()["Vpcs"] if not each["IsDefault"]]
        subnets = [each for each in west.describe_subnets()["Subnets"] if each["VpcId"] in networks]
        subjects = self.subjects()
        running = _machines(west, "running")
        return [
            Count(name="networks (VPCs)", found=len(networks), right=1),
            Count(name="subnets", found=len(subnets), right=2),
            Count(name="machines: web", found=running.count("web"), right=2),
            Count(name="machines: database", found=running.count("database"), right=1),
            Count(name="old machines stopped", found=self.stopped(), right=sum(OLD_MACHINES.values())),
            Count(name="alterations of the database", found=self.alterations(), right=1),
            Count(name="the customers' money, in cents", found=self.money(), right=money_in_cents()),
            Count(name="names that point to the new cloud", found=self.switched(), right=1),
            Count(name='mails "We move tonight"', found=subjects.count("We move tonight"), right=1),
            Count(name='mails "We have moved"', found=subjects.count("We have moved"), right=1),
            Count(name="answers of the model", found=self.asked()["answered"], right=3),
        ]

    def money(self) -> int:
        """The sum of what the legacy database says that the customers have."""
        return int(reach.database(self.addresses.legacy).value("SELECT sum(balance) FROM accounts") or 0)

    def stopped(self) -> int:
        """How many machines of the old cloud are stopped."""
        return len(_machines(reach.cloud(self.addresses.east), "stopped"))

    def asked(self) -> dict[str, int]:
        """How many requests the model answered and refused."""
        return _told(self.addresses.model, "asked")

    def changes(self, port: int) -> list[str]:
        """What the cloud at `port` has carried out, in order: `REGION ACTION`."""
        return _told(port, "changes")

    def subjects(self) -> list[str]:
        """What the mails are about that were accepted, in order."""
        return [str(message_from_bytes(mail.read_bytes())["Subject"]) for mail in post.mails(self.directory / "mails")]

    def switched(self, region: str = reach.REGION) -> int:
        """How many names point to a machine of the new cloud in `region`."""
        west = reach.cloud(self.addresses.west, region=region)
        ours = {each.get("PrivateIpAddress") for each in _described(west)}
        dns = reach.cloud(self.addresses.east, "route53")
        zone = dns.list_hosted_zones()["HostedZones"][0]["Id"]
        records = dns.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        return sum(value["Value"] in ours for each in records for value in each["ResourceRecords"])


Servers = Callable[[Path], dict[str, tuple[str, list[str]]]]
"""What a world in a directory is made of: the module and the arguments of each server."""


@contextmanager
def world(directory: Path, made_of: Servers | None = None) -> Generator[World]:
    """A fresh world in `directory`, furnished with the old shop. Raises WorldBroken if a server does not start."""
    parts = (made_of or servers)(directory)
    directory.mkdir(parents=True, exist_ok=True)
    started: list[Server] = []
    try:
        with ThreadPoolExecutor(max_workers=5) as at_once:
            waiting = [at_once.submit(_start, name, part, directory, started) for name, part in parts.items()]
        ports = {each.result().name: each.result().port for each in waiting}
        real = "--upstream" in parts["model"][1]
        name = os.environ.get("OPENAI_MODEL", REAL_MODEL) if real else "scripted"
        found = reach.Addresses(**ports, model_name=name)
        found.write(directory / "world.json")
        with ThreadPoolExecutor(max_workers=2) as at_once:
            furnished = at_once.submit(_furnish, found)
            reach.cloud(found.west).describe_vpcs()
            furnished.result()
        yield World(directory=directory, addresses=found, servers=tuple(started))
    finally:
        for each in started:
            end(each.process)


def _start(name: str, part: tuple[str, list[str]], directory: Path, started: list[Server]) -> Server:
    module, arguments = part
    key = {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "none")} if name == "model" else {}
    one = start(name, module, *arguments, directory=directory, environment={**environment(), **key})
    started.append(one)
    return one


def servers(directory: Path) -> dict[str, tuple[str, list[str]]]:
    """What a world is made of: the module and the arguments of each server."""
    wait = ["--retry-after", str(RETRY_AFTER_S)]
    upstream = ["--upstream", _upstream()] if _upstream() else []
    return {
        "east": ("holdfast.demo.cloud", []),
        "west": ("holdfast.demo.cloud", ["--limit", "RunInstances", *wait]),
        "legacy": ("holdfast.demo.legacy", [str(directory / "legacy.db"), "--late-s", str(LATE_S)]),
        "post": ("holdfast.demo.post", [str(directory / "mails")]),
        "model": ("holdfast.demo.model", ["--refuse", "2", *wait, *upstream]),
    }


def _upstream() -> str:
    """The real model's address, or nothing: then the scripted voice answers."""
    return os.environ.get("OPENAI_BASE_URL") or (OPENAI if os.environ.get("OPENAI_API_KEY") else "")


def environment() -> dict[str, str]:
    """Ours, without what would reach a real account: the model's key goes to the model server alone."""
    foreign = ("AWS_", "MOTO_", "OPENAI_", reach.WORLD)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def _furnish(found: reach.Addresses) -> None:
    """The old shop: its machines, and its name."""
    east = reach.cloud(found.east)
    for role, count in OLD_MACHINES.items():
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": role}]}]
        east.run_instances(ImageId="ami-12c6146b", MinCount=count, MaxCount=count, TagSpecifications=tags)
    dns = reach.cloud(found.east, "route53")
    zone = dns.create_hosted_zone(Name=ZONE, CallerReference="furnish")["HostedZone"]["Id"]
    old = {"Name": SHOP, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": OLD_NETWORK_ADDRESS}]}
    changes = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": old}]}
    dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=changes)


def _told(port: int, what: str) -> Any:
    """What a server of the world tells of itself."""
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/{what}", timeout=10) as reply:
        return json.loads(reply.read())


def _described(ec2: reach.Cloud) -> list[Mapping[str, Any]]:
    return [machine for held in ec2.describe_instances()["Reservations"] for machine in held["Instances"]]


def _machines(ec2: reach.Cloud, state: str) -> list[str]:
    """The role of each machine in `state`."""
    return [
        next((tag["Value"] for tag in each.get("Tags", []) if tag["Key"] == "Name"), "")
        for each in _described(ec2)
        if each["State"]["Name"] == state
    ]


def money_in_cents() -> int:
    """What the customers have, as it is to be written after the alteration."""
    return 100 * sum(balance for _, balance in legacy.ACCOUNTS)
