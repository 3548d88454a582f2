"""The agent's tools: what it may do in the world, and what each of them promises.

Rules
1. A contract says what is true of the system behind it, not what would be convenient. EC2 takes a token for machines,
   so starting them is `idempotent`; it takes none for networks, so those are `reversible`, marked with the key, and can
   be asked for. The legacy database can be asked which migrations it has; a mail server cannot be asked anything.
2. Outside a run these are plain functions: the same calls, without a log, and with a new token each time.
3. A refusal that proves that nothing happened is `NotHappened`; "too many requests" is `RetryAfter`; all else is doubt.
"""

import uuid
from collections.abc import Generator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import make_msgid
from smtplib import SMTPRecipientsRefused, SMTPSenderRefused
from typing import Any

from botocore.exceptions import ClientError  # pyright: ignore[reportMissingTypeStubs]

from holdfast import Happened, HoldfastError, NotHappened, RetryAfter, key, tool
from holdfast.demo import reach
from holdfast.demo.legacy import Database, TransactionRefused

KEY_TAG = "holdfast-key"
IMAGE = "ami-12c6146b"
SENDER = "moving@shop.example"
ZONE = "shop.example."
TOKEN_LIFETIME_S = 24 * 3600
DATABASE_LATE_S = 1.0
MODEL_RETRIES = 3
NEVER_A_REFUSAL = {408, 409, 423, 425}

Machine = dict[str, str]


@tool(kind="read", name="east.describe")
def describe_old() -> list[Machine]:
    """The machines of the old cloud."""
    return _machines(_east())


@tool(kind="read", name="west.describe")
def describe_new() -> list[Machine]:
    """The machines of the new cloud."""
    return _machines(_west())


@tool(kind="read", name="legacy.count")
def count_accounts() -> dict[str, int]:
    """How many accounts the legacy database holds, and the sum of their balances."""
    rows = _legacy().transact(("SELECT count(*), sum(balance) FROM accounts", ()))[0].rows
    return {"accounts": int(rows[0][0] or 0), "sum": int(rows[0][1] or 0)}


def _find_vpc(network: str) -> Happened[str] | NotHappened:
    found = _west().describe_vpcs(Filters=[{"Name": f"tag:{KEY_TAG}", "Values": [token()]}])["Vpcs"]
    return Happened(found[0]["VpcId"]) if found else NotHappened(f"no network carries the key of {network}")


def _delete_vpc(answer: str) -> None:
    _west().delete_vpc(VpcId=answer)


@tool(kind="reversible", name="west.create_vpc", probe=_find_vpc, undo=_delete_vpc)
def create_vpc(network: str) -> str:
    """A new network in the new cloud. Returns its id."""
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": KEY_TAG, "Value": token()}, {"Key": "Name", "Value": "shop"}]}]
    with refusals():
        return _west().create_vpc(CidrBlock=network, TagSpecifications=tags)["Vpc"]["VpcId"]


def _find_subnet(vpc: str, block: str) -> Happened[str] | NotHappened:
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "cidrBlock", "Values": [block]}]
    found = _west().describe_subnets(Filters=wanted)["Subnets"]
    return Happened(found[0]["SubnetId"]) if found else NotHappened(f"{vpc} has no subnet {block}")


def _delete_subnet(answer: str) -> None:
    _west().delete_subnet(SubnetId=answer)


@tool(kind="reversible", name="west.create_subnet", probe=_find_subnet, undo=_delete_subnet)
def create_subnet(vpc: str, block: str) -> str:
    """A new subnet of a network of the new cloud. Returns its id."""
    with refusals():
        return _west().create_subnet(VpcId=vpc, CidrBlock=block)["Subnet"]["SubnetId"]


@tool(kind="idempotent", name="west.run_instances", key_ttl_s=TOKEN_LIFETIME_S)
def run_instances(role: str, subnet: str, count: int) -> list[str]:
    """Start `count` machines for `role` in the new cloud. Returns their ids."""
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": role}]}]
    with refusals():
        started = _west().run_instances(
            ImageId=IMAGE,
            InstanceType="t3.small",
            MinCount=count,
            MaxCount=count,
            SubnetId=subnet,
            ClientToken=token(),
            TagSpecifications=tags,
        )
    return [machine["InstanceId"] for machine in started["Instances"]]


def _all_stopped(machines: list[str]) -> Happened[list[str]] | NotHappened:
    running = [each["id"] for each in _machines(_east()) if each["id"] in machines and each["state"] != "stopped"]
    return NotHappened(f"still running: {running}") if running else Happened(machines)


def _start_again(machines: list[str]) -> None:
    _east().start_instances(InstanceIds=machines)


@tool(kind="reversible", name="east.stop", probe=_all_stopped, undo=_start_again)
def stop_old(machines: list[str]) -> list[str]:
    """Stop machines of the old cloud. Returns their ids."""
    with refusals():
        _east().stop_instances(InstanceIds=machines)
    return machines


def _is_applied(migration: int) -> Happened[int] | NotHappened:
    altered = _legacy().value("SELECT count(*) FROM schema_version WHERE version = ?", migration)
    return Happened(migration) if altered else NotHappened(f"the database does not have migration {migration}")


@tool(
    kind="irreversible", name="legacy.alter", identity=["migration"], probe=_is_applied, late_s=DATABASE_LATE_S, blast=5
)
def alter_legacy(migration: int) -> int:
    """Change every balance from euros to cents, in place. Done twice, everybody is a hundred times richer."""
    try:
        _legacy().transact(
            ("UPDATE accounts SET balance = balance * 100", ()),
            ("INSERT INTO schema_version VALUES (?, ?)", (migration, token())),
        )
    except TransactionRefused as refusal:
        raise NotHappened(str(refusal)) from refusal
    return migration


@tool(kind="idempotent", name="dns.point")
def point_dns(name: str, address: str) -> str:
    """Point a name at an address. Doing it again changes nothing: a record is set, not added."""
    dns = reach.cloud(reach.addresses().east, "route53")
    zone = next(each["Id"] for each in dns.list_hosted_zones()["HostedZones"] if each["Name"] == ZONE)
    record = {"Name": name, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": address}]}
    changes = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
    with refusals():
        dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=changes)
    return address


@tool(kind="irreversible", name="mail.send", identity=["to", "subject"])
def send_mail(to: str, subject: str, body: str) -> str:
    """Send a mail. It cannot be taken back, and no mail server can be asked whether it took it. Returns its id."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = SENDER, to, subject
    mail["Message-ID"] = make_msgid(domain="shop.example")
    mail.set_content(body)
    try:
        with reach.post(reach.addresses().post) as server:
            server.send_message(mail)
    except (SMTPRecipientsRefused, SMTPSenderRefused) as refusal:
        raise NotHappened(str(refusal)) from refusal
    return str(mail["Message-ID"])


def ask_model(messages: list[dict[str, str]]) -> str:
    """What the model says to a conversation. Not a tool: the agent hands it to `decide`."""
    here = reach.addresses()
    completions: Any = reach.model(here.model, retries=MODEL_RETRIES).chat.completions
    stream: Any = completions.create(model=here.model_name, messages=messages, stream=True)
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


@contextmanager
def refusals() -> Generator[None]:
    try:
        yield
    except ClientError as error:
        answer: Any = error.response
        status = int(answer["ResponseMetadata"]["HTTPStatusCode"])
        if status == 429:
            raise RetryAfter(float(answer["ResponseMetadata"]["HTTPHeaders"].get("retry-after", "1"))) from error
        if 400 <= status < 500 and status not in NEVER_A_REFUSAL:
            raise NotHappened(str(error)) from error
        raise


def token() -> str:
    """The key of the effect that is being performed; outside a run there is none, and each try has another."""
    try:
        return key()
    except HoldfastError:
        return uuid.uuid4().hex


def _machines(ec2: reach.Cloud) -> list[Machine]:
    found = [machine for held in ec2.describe_instances()["Reservations"] for machine in held["Instances"]]
    return [
        {
            "id": machine["InstanceId"],
            "role": next((tag["Value"] for tag in machine.get("Tags", []) if tag["Key"] == "Name"), ""),
            "state": machine["State"]["Name"],
            "address": machine.get("PrivateIpAddress", ""),
        }
        for machine in found
    ]


def _east() -> reach.Cloud:
    return reach.cloud(reach.addresses().east)


def _west() -> reach.Cloud:
    return reach.cloud(reach.addresses().west)


def _legacy() -> Database:
    return reach.database(reach.addresses().legacy)
