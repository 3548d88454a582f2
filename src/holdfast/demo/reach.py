"""How the agent reaches the world: the ordinary client of each system, pointed at a loopback address.

Rules
1. The addresses come from one file, named by `HOLDFAST_DEMO_WORLD`; a program without it is told so.
2. No client of a system that can be changed retries by itself: what may be sent again, the tool's contract says.
3. No client reads the user's own configuration: no proxies, no AWS profiles, no real account can be touched.
"""

import json
import os
import smtplib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.demo.legacy import Database
from holdfast.demo.server import LOOPBACK

if TYPE_CHECKING:
    from openai import OpenAI

Cloud: TypeAlias = Any
"""A boto3 client: its methods are made while the program runs, so no type knows them."""

WORLD = "HOLDFAST_DEMO_WORLD"
REGION = "us-east-1"
CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The ports of one world, and the name its model goes by."""

    east: int
    west: int
    legacy: int
    post: int
    model: int
    model_name: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Addresses":
        return cls(**json.loads(path.read_text()))


def addresses() -> "Addresses":
    """Of the world this process was started in."""
    path = os.environ.get(WORLD)
    if not path:
        raise SystemExit(f"{WORLD} is not set: this program is started by `holdfast demo`")
    return Addresses.read(Path(path))


def cloud(port: int, api: str = "ec2", region: str = REGION, keys: tuple[str, str] = ("demo", "demo")) -> Cloud:
    """A boto3 client of the cloud at `port`. `keys`: the id of its key, and the key."""
    import boto3  # pyright: ignore[reportMissingTypeStubs]
    from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]

    return boto3.client(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        api,
        endpoint_url=f"http://{LOOPBACK}:{port}",
        region_name=region,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        config=Config(retries={"total_max_attempts": 1}, read_timeout=CALL_TIMEOUT_S, proxies={}),
    )


def database(port: int) -> Database:
    return Database(port=port, timeout_s=CALL_TIMEOUT_S)


def post(port: int) -> smtplib.SMTP:
    return smtplib.SMTP(LOOPBACK, port, timeout=CALL_TIMEOUT_S)


def model(port: int, *, retries: int = 0) -> "OpenAI":
    """OpenAI's own client. Asking a model changes nothing, so it may ask again by itself after a 429."""
    from openai import DefaultHttpxClient, OpenAI

    return OpenAI(
        base_url=f"http://{LOOPBACK}:{port}/v1",
        api_key="held-by-the-model-server",
        max_retries=retries,
        timeout=CALL_TIMEOUT_S * 2,
        http_client=DefaultHttpxClient(trust_env=False),
    )
