"""What the tests of AWS stand on: an account in a moto server of its own process, which checks who has signed a request
and what he may, and a gateway before it with a real store, vault and dialer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from aiohttp import web
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from holdfast.core.capability import Budget, Terms
from holdfast.core.codec import decode
from holdfast.core.policy import Policy
from holdfast.core.record import Record
from holdfast.demo import server
from holdfast.gateway.dial import Dialer
from holdfast.gateway.doors.table import application
from holdfast.gateway.environment import dummy_keys
from holdfast.gateway.gate import Gate
from holdfast.gateway.upstreams.aws import AwsConfig, AwsSystem, open_aws
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store import Store
from holdfast.store.memory import MemoryStore
from tests.gateway.switchboard import Permissive

REGION = "us-west-2"
SERVICES = ("dynamodb", "ec2", "iam", "s3", "secretsmanager", "sqs", "ssm", "sts")
SDK = boto3.session.Session()  # which reads the models of an API once
T = TypeVar("T")


@dataclass(frozen=True)
class Account:
    """An account at `url`, and its keys."""

    url: str
    id: str
    secret: str

    def client(self, api: str, **more: Any) -> Any:
        """Who speaks to it without a gateway."""
        return client(api, self.url, self.id, self.secret, **more)

    def changes(self) -> list[str]:
        """What was carried out that changes something, in order (ec2, iam, sts)."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/changes") as reply:
            return [each.partition(" ")[2] for each in json.loads(reply.read())]


def client(api: str, url: str, key: str, secret: str, **more: Any) -> Any:
    config = Config(retries={"max_attempts": 1}, **more)
    return SDK.client(
        api, region_name=REGION, endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, config=config
    )


@contextlib.contextmanager
def account(folder: Path) -> Generator[Account]:
    """The first three requests make a user, who may do everything; all that follow must be signed with its key."""
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3", "PYTHONPATH": os.pathsep.join(["src", "."])}
    started = server.start("cloud", "holdfast.demo.cloud", directory=folder, environment=environment)
    try:
        iam = client("iam", started.url, "nobody-yet", "nothing")
        iam.create_user(UserName="gateway")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="gateway", PolicyName="all", PolicyDocument=json.dumps(everything))
        made = iam.create_access_key(UserName="gateway")["AccessKey"]
        yield Account(started.url, made["AccessKeyId"], made["SecretAccessKey"])
    finally:
        started.leave()


@dataclass(frozen=True)
class Raw:
    """A request on the wire, to be sent as it is."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes

    def with_header(self, name: str, value: str) -> Raw:
        """With a header more, or instead of the one that is there."""
        kept = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        return replace(self, headers=[*kept, (name, value)])

    async def send(self) -> tuple[int, bytes]:
        """Its answer: status and body. No client mends what is sent."""
        url = urlsplit(self.url)
        names = {name.lower() for name, _ in self.headers}
        more = {"host": url.netloc, "content-length": str(len(self.body)), "connection": "close"}
        pairs = [*self.headers, *(pair for pair in more.items() if pair[0] not in names)]
        target = url.path + (f"?{url.query}" if url.query else "")
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "", ""]
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write("\r\n".join(lines).encode() + self.body)
        whole = await reader.read()
        writer.close()
        head, _, body = whole.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body


@dataclass
class Door:
    """A gateway that serves an account as `cloud`; `other` is a further run that is taken up there."""

    url: str
    taken: Taken
    other: Taken
    store: Store
    gate: Gate
    system: AwsSystem

    @property
    def keys(self) -> tuple[str, str]:
        return dummy_keys(self.taken)

    def client(self, api: str, **more: Any) -> Any:
        """An SDK of a program of the run."""
        return client(api, f"{self.url}/aws/cloud", *self.keys, **more)

    def signed(
        self,
        api: str,
        method: str = "POST",
        path: str = "/",
        *,
        body: bytes = b"",
        keys: tuple[str, str] | None = None,
        region: str = REGION,
        **headers: str,
    ) -> Raw:
        """A request as an SDK signs it. Names of headers are written with `_`."""
        url = f"{self.url}/aws/cloud{path}"
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        request = AWSRequest(method, url, headers=shown, data=body)
        kind = S3SigV4Auth if api == "s3" else SigV4Auth
        kind(Credentials(*(keys or self.keys)), api, region).add_auth(request)
        return Raw(method, url, list(request.headers.items()), body)

    def form(self, body: str, **more: Any) -> Raw:
        """A request to EC2."""
        kind = "application/x-www-form-urlencoded; charset=utf-8"
        return self.signed("ec2", body=body.encode(), **{"content_type": kind, **more})

    def target(self, name: str, body: str, **more: Any) -> Raw:
        """A request to DynamoDB."""
        return self.signed(
            "dynamodb", body=body.encode(), x_amz_target=f"DynamoDB_20120810.{name}",
            content_type="application/x-amz-json-1.0", **more,
        )  # fmt: skip

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.store.read("r@main")]

    async def seen(self) -> bytes:
        """All that the log and its payloads hold."""
        entries = await self.store.read("r@main")
        found = [entry.body for entry in entries]
        for record in [decode(entry.body) for entry in entries]:
            for payload in (getattr(record, "args", None), getattr(getattr(record, "outcome", None), "answer", None)):
                if payload is not None and payload.digest:
                    with contextlib.suppress(LookupError):
                        found.append((await self.store.blob(bytes.fromhex(payload.digest))).data)
        return b"\n".join(found)


@contextlib.asynccontextmanager
async def door(
    folder: Path,
    there: Account,
    *,
    store: Store | None = None,
    run: str | None = None,
    policy: Callable[[], Policy] = Permissive,
    budget: Budget | None = None,
    **options: Any,
) -> AsyncIterator[Door]:
    """One life of the run `r`, which ends as a crash ends it. `run`: whose listener the door is on; None: a shared one.
    `options` go into the configuration."""
    store = store or MemoryStore()
    for name, text in (("id", there.id), ("secret", there.secret)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    references = {"id": "file:id", "secret": "file:secret"}
    vault = Vault(references, store, uses={name: {"cloud"} for name in references}, folder=folder)
    services = options.get("services", SERVICES)
    config = AwsConfig.model_validate(
        {
            "kind": "aws", "access_key_id": "id", "secret_access_key": "secret", "regions": [REGION],
            "services": services, "endpoints": dict.fromkeys(services, there.url), "private": ["127.0.0.1"], **options,
        }
    )  # fmt: skip
    system = await open_aws("cloud", config, Kit(vault=vault, dialer=Dialer()))
    wards = Wards(store, policy, patience_s=0.2)
    terms = Terms(tools=("cloud.*",), budget=budget or Budget())
    taken = await wards.open(Wanted(run="r", agent="tests", terms=terms, by="tests"))
    other = await wards.open(Wanted(run="other", agent="tests", terms=terms, by="tests"))
    gate = Gate(wards, {"cloud": system}, kinds={"cloud": "aws"})
    runner = web.AppRunner(application(gate, run, 17 << 20), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, server.LOOPBACK, 0).start()
    try:
        url = f"http://{server.LOOPBACK}:{runner.addresses[0][1]}"
        yield Door(url, taken, other, store, gate, system)
    finally:
        await runner.cleanup()
        await wards.close("r", ended=False)
        await wards.close("other", ended=False)
        await system.close()


async def does(work: Callable[..., T], *args: Any, **more: Any) -> T:
    """What blocking work gives, while the gateway goes on."""
    return await asyncio.to_thread(work, *args, **more)
