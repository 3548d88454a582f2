"""What is known of operations of AWS beyond what their models tell: data, and nothing else.

Rules
1. An operation is `API.Operation`, as botocore names them. What is not here, and reads by its name, is a read; whatever
   else is irreversible, unless its model has a token for it.
2. What hands out secrets is found by the names in its answer, or stands here. What grants power over an account needs
   two people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from holdfast.core.contract import Repeat
from holdfast.core.effect import Kind

READS: Final = re.compile(r"(?:Batch)?(?:Describe|List|Get|Head)(?=[A-Z0-9])")
POWER: Final = frozenset("account iam identitystore organizations rolesanywhere sso-admin sts".split())
"""APIs whose writes need two people."""
TOKEN_TTL_S: Final = 600.0
"""How long a token is remembered where nothing else is known."""

SECRETS: Final = re.compile(
    r"(?i)(aws)?secret(access)?key|session_?token|secretstring|secretbinary|secretvalue|passworddata|keymaterial"
    r"|(\w*_)?private_?key(\w*pem)?|authorizationtoken|auth(entication)?token|plaintext(blob)?|ciphertextforrecipient"
    r"|\w*password|bearertoken|access_?token|refresh_?token|id_?token|apikey|clientsecret|privatekeyplaintext"
    r"|base64userpassword|embedurl|presigned\w*url|signedurl"
)
"""Names in answers that stand for secrets."""
MASKED: Final = frozenset(
    {("docdb", "MasterUserPassword"), ("neptune", "MasterUserPassword"), ("rds", "MasterUserPassword"),
     ("elbv2", "ClientSecret")}
)  # fmt: skip
"""API and name of what is in a model, and in an answer never told."""


class Known(NamedTuple):
    """What is known. None: as the model tells."""

    kind: Kind | None = None
    repeat: Repeat | None = None
    key_ttl_s: float | None = None
    blast: int | str | None = None


_DAY_S: Final = 86_400.0
OPERATIONS: Final[Mapping[str, Known]] = {
    "dynamodb.Query": Known(Kind.READ),
    "dynamodb.Scan": Known(Kind.READ),
    "dynamodb.TransactGetItems": Known(Kind.READ),
    "dynamodb.PutItem": Known(blast=1),
    "dynamodb.UpdateItem": Known(blast=1),
    "dynamodb.DeleteItem": Known(blast=1),
    "dynamodb.TransactWriteItems": Known(key_ttl_s=600.0, blast="TransactItems"),
    "ec2.RunInstances": Known(key_ttl_s=_DAY_S, blast="MaxCount"),
    "ec2.GetVpnConnectionDeviceSampleConfiguration": Known(Kind.IRREVERSIBLE),
    "s3.PutObject": Known(blast=1),
    "s3.SelectObjectContent": Known(Kind.READ),
    "sqs.ReceiveMessage": Known(Kind.IRREVERSIBLE, Repeat.EACH, blast=1),
    "sqs.SendMessage": Known(blast=1),
    "sts.DecodeAuthorizationMessage": Known(Kind.IRREVERSIBLE),
}

MINTING: Final[Mapping[str, tuple[str, ...]]] = {
    "ec2.GetVpnConnectionDeviceSampleConfiguration": ("vpnConnectionDeviceSampleConfiguration",),
    "ecr.GetAuthorizationToken": ("authorizationToken",),
    "iam.CreateVirtualMFADevice": ("Base32StringSeed", "QRCodePNG"),
    "lambda.GetFunction": ("Location",),
    "lambda.GetLayerVersion": ("Location",),
    "s3.CreateSession": ("SecretAccessKey", "SessionToken"),
    "sts.DecodeAuthorizationMessage": ("DecodedMessage",),
}
"""Operations that hand out secrets under these names, besides those that `SECRETS` finds."""

DECRYPTING: Final[Mapping[str, tuple[str, str]]] = {
    "apigateway.GetApiKey": ("includeValue", "value"),
    "apigateway.GetApiKeys": ("includeValues", "value"),
    "ssm.GetParameter": ("WithDecryption", "Value"),
    "ssm.GetParameterHistory": ("WithDecryption", "Value"),
    "ssm.GetParameters": ("WithDecryption", "Value"),
    "ssm.GetParametersByPath": ("WithDecryption", "Value"),
}
"""Operations that hand out a secret where a parameter asks for it: the parameter, and the name in the answer."""

ELSEWHERE: Final = frozenset({"s3.ListDirectoryBuckets"})
"""Operations that look like others, and are at another place."""

THROTTLED: Final = frozenset(
    "BandwidthLimitExceeded EC2ThrottledException PriorRequestNotComplete "
    "ProvisionedThroughputExceededException RequestLimitExceeded RequestThrottled RequestThrottledException SlowDown "
    "ThrottledException Throttling ThrottlingException TooManyRequestsException".split()
)
"""Codes of errors that say: not now, and nothing was done."""

PROVEN: Final = frozenset(
    "BucketAlreadyExists BucketAlreadyOwnedByYou BucketNotEmpty DeleteConflict EntityAlreadyExists "
    "InvalidBucketState".split()
)
"""Codes of a 409 that do prove that nothing was changed."""
