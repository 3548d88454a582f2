"""What a request to AWS is signed with: the proof that it comes from the run whose keys it names.

Rules
1. A signature covers all that is heard: every header but those of the connection, the whole query, and the body.
2. What is signed in another way is refused, with the reason: in the query, with a curve, in chunks, without the body.
3. A proof holds for a few minutes, and for nobody else: keys are worth something at the door of their run only.

Source: AWS Signature Version 4, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote

from holdfast.errors import Refused

SKEW_S: Final = 300
ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNSIGNED: Final = frozenset(
    "authorization accept accept-encoding accept-language connection content-length expect keep-alive te "
    "transfer-encoding user-agent x-amzn-trace-id x-amz-user-agent amz-sdk-invocation-id amz-sdk-request".split()
)
"""Headers that nobody needs to sign: what they say is not passed on."""
_FORM: Final = re.compile(
    ALGORITHM + r" +Credential=([A-Za-z0-9]{8,128})/([0-9]{8})/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/aws4_request"
    r", *SignedHeaders=([a-z0-9!#$%&'*+.^_`|~;-]{1,8192}), *Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came. `path`, `query`: as they were sent; names of headers in lower case, each once."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a request says that it is from, for which region and API, and what it has signed."""

    key: str
    day: str
    region: str
    api: str
    signed: tuple[str, ...]
    signature: str


def claim_of(asked: Asked, now_s: float) -> Claim:
    """What a request claims. Raises Refused for one that is not signed, or not in a way that can be proven."""
    names = {unquote(part.partition("=")[0]).lower() for part in asked.query.split("&")}
    if not names.isdisjoint(("x-amz-signature", "x-amz-algorithm", "x-amz-credential", "signature", "awsaccesskeyid")):
        raise Refused("a presigned URL is not taken here", fix="send the request itself, signed in its headers")
    shown = asked.headers.get("authorization")
    if shown is None:
        raise Refused("the request is not signed", fix="sign it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if shown.startswith("AWS4-ECDSA"):
        raise Refused("a SigV4A signature is not taken here", fix="name one region: SigV4")
    found = _FORM.fullmatch(shown)
    if found is None:
        raise Refused("the signature is in no form that is taken here", fix="sign with SigV4, in the header")
    claim = Claim(found[1], found[2], found[3], found[4], tuple(found[5].split(";")), found[6])
    _check_body(asked)
    _check_signed(claim, asked.headers)
    _check_time(claim, asked.headers.get("x-amz-date", ""), now_s)
    return claim


def proven(asked: Asked, claim: Claim, secret: str) -> bool:
    """Whether this very request was signed with `secret`."""
    stamp = asked.headers["x-amz-date"]
    scope = f"{claim.day}/{claim.region}/{claim.api}/aws4_request"
    written = hashlib.sha256(_canonical(asked, claim).encode("utf-8", "surrogateescape")).hexdigest()
    key = b"AWS4" + secret.encode()
    for part in (claim.day, claim.region, claim.api, "aws4_request", f"{ALGORITHM}\n{stamp}\n{scope}\n{written}"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(key.hex(), claim.signature)


def check_whole(headers: Mapping[str, str]) -> None:
    """Raise Refused for a body that comes in chunks of its own, before it is read."""
    chunked = "aws-chunked" in headers.get("content-encoding", "").lower()
    if chunked or headers.get("x-amz-content-sha256", "").upper().startswith("STREAMING-"):
        fix = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and send the body in one piece"
        raise Refused("a body that is signed in chunks is not taken here", fix=fix)


def _check_body(asked: Asked) -> None:
    check_whole(asked.headers)
    said = asked.headers.get("x-amz-content-sha256")
    if said is None or hmac.compare_digest(said.encode(), hashlib.sha256(asked.body).hexdigest().encode()):
        return
    if said == "UNSIGNED-PAYLOAD":
        raise Refused("the body is not signed", fix="let the payload be signed (payload_signing_enabled)")
    raise Refused("the body is not the one that was signed")


def _check_signed(claim: Claim, headers: Mapping[str, str]) -> None:
    if list(claim.signed) != sorted(set(claim.signed)):
        raise Refused("the signed headers are not in order, or one is there twice")
    missing = set(claim.signed) - headers.keys()
    if missing:
        raise Refused(f"the header `{min(missing)[:80]}` was signed and is not there")
    loose = headers.keys() - set(claim.signed) - _UNSIGNED
    if loose or "host" not in claim.signed:
        raise Refused(f"the header `{min(loose or {'host'})[:80]}` is not signed", fix="sign all that is sent")
    if "x-amz-security-token" in headers:
        raise Refused("the keys of a run have no token", fix="unset AWS_SESSION_TOKEN")


def _check_time(claim: Claim, stamp: str, now_s: float) -> None:
    try:
        at_s = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Refused("the request does not say when it was signed (x-amz-date)") from None
    if stamp[:8] != claim.day:
        raise Refused("the request was signed on another day than its key is for")
    if abs(now_s - at_s) > SKEW_S:
        raise Refused(f"the request was signed more than {SKEW_S} seconds ago, or ahead", fix="set the clock")


def _canonical(asked: Asked, claim: Claim) -> str:
    path = asked.path if claim.api in ("s3", "s3-outposts") else quote(_plain(asked.path), safe="/~")
    pairs = sorted(tuple(part.partition("=")[::2]) for part in asked.query.split("&") if part)
    headers = "".join(f"{name}:{' '.join(asked.headers[name].split())}\n" for name in claim.signed)
    body = hashlib.sha256(asked.body).hexdigest()
    query = "&".join(f"{name}={value}" for name, value in pairs)
    return "\n".join((asked.method, path or "/", query, headers, ";".join(claim.signed), body))


def _plain(path: str) -> str:
    """A path without its dots, as every API but S3 signs it."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == ".." and kept:
            kept.pop()
        elif part not in ("", ".", ".."):
            kept.append(part)
    end = "/" if path.endswith("/") and kept else ""
    return "/" + "/".join(kept) + end
