"""What an agent's program is told by its environment: where its doors are, and what to show there.

Rules
1. These are all the variables that speak of the outside: no credential, only the run's own handle.
2. Programs are pointed to the doors by the names that their libraries look for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import Enum

from holdfast.errors import Misuse
from holdfast.gateway.config import Config
from holdfast.gateway.wards import Taken

PORT = 8080
INSIDE = f"http://127.0.0.1:{PORT}"
AUTHORITY = "/etc/holdfast/ca.pem"
"""Where a sandbox has the certificate of its run's authority."""
_FILLED = re.compile(r"\{(handle|door|url:[a-z][a-z0-9_-]*)\}")


class Place(Enum):
    """Where a program runs: in a sandbox with listeners of its own, beside the gateway (trusted), or elsewhere."""

    SANDBOX = "sandbox"
    LOCAL = "local"
    REMOTE = "remote"


def environment_of(config: Config, taken: Taken, place: Place, remote: str | None) -> Mapping[str, str]:
    """The variables of a run's program. `remote`: where programs elsewhere find the doors. Raises Misuse for one that
    would be elsewhere where there is no door for it."""
    rights, handle = taken.ward.rights, taken.handle
    if place is Place.REMOTE and remote is None:
        raise Misuse("no agents elsewhere are listened to", where=str(config.file), fix="declare [gateway.remote]")
    base = remote if place is Place.REMOTE and remote else INSIDE
    door = f"unix:{config.door}" if place is Place.LOCAL else base
    found = {"HOLDFAST_RUN": rights.run, "HOLDFAST_DOOR": door, "HOLDFAST_HANDLE": handle}
    if place is not Place.LOCAL:
        found |= _known_libraries(config, taken, handle, base)
    if place is Place.SANDBOX:
        found |= _proxied()
    agent = config.agents.get(taken.ward.agent)
    for name, text in (agent.environment if agent else {}).items():
        found[name] = _FILLED.sub(lambda part: _fill(part[1], handle, door, config, base), text)
    return found


def url_of(config: Config, system: str, base: str) -> str:
    """Where the door of a system is, for a program to which all doors are at `base`."""
    upstream = config.upstreams.get(system)
    kind = str(getattr(upstream, "kind", "http"))
    if kind == "model":
        return f"{base}/model/{system}" + ("/v1" if getattr(upstream, "protocol", "") == "openai" else "")
    return f"{base}/{kind}/{system}"


def dummy_keys(taken: Taken) -> tuple[str, str]:
    """The AWS key id and secret that a run's program signs with: worth something at its own door only. They follow
    from its handle, so nobody else can make them."""
    seed = hashlib.sha256(b"holdfast/aws/1\0" + taken.handle.encode()).digest()
    return "AKIAHF" + seed[:7].hex().upper(), hmac.digest(seed, b"secret", "sha256").hex()[:40]


def _proxied() -> dict[str, str]:
    found = dict[str, str]()
    found |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), INSIDE)
    found |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost,::1")
    libraries = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE")
    return found | dict.fromkeys(libraries, AUTHORITY)


def _known_libraries(config: Config, taken: Taken, handle: str, base: str) -> dict[str, str]:
    """The first system of each kind is the one that a library finds by itself."""
    found: dict[str, str] = {}
    for name, upstream in config.upstreams.items():
        kind, protocol = str(getattr(upstream, "kind", "")), str(getattr(upstream, "protocol", ""))
        if kind == "model" and protocol == "openai" and "OPENAI_BASE_URL" not in found:
            found |= {"OPENAI_BASE_URL": url_of(config, name, base), "OPENAI_API_KEY": handle}
        elif kind == "model" and protocol == "anthropic" and "ANTHROPIC_BASE_URL" not in found:
            found |= {"ANTHROPIC_BASE_URL": url_of(config, name, base), "ANTHROPIC_API_KEY": handle}
        elif kind == "aws" and "AWS_ENDPOINT_URL" not in found:
            key, secret = dummy_keys(taken)
            found |= {
                "AWS_ENDPOINT_URL": url_of(config, name, base),
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_EC2_METADATA_DISABLED": "true",
                # A body that is signed in chunks, or that is compressed, is not understood at the door.
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                "AWS_DISABLE_REQUEST_COMPRESSION": "true",
            }
            region = getattr(upstream, "region", None)
            if region:
                found |= {"AWS_REGION": str(region), "AWS_DEFAULT_REGION": str(region)}
    return found


def _fill(what: str, handle: str, door: str, config: Config, base: str) -> str:
    if what == "handle":
        return handle
    return door if what == "door" else url_of(config, what.removeprefix("url:"), base)
