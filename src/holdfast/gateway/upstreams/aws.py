"""AWS: programs speak to it as they always do, and each request is understood, judged, and signed with the real keys.

Rules
1. A request is understood by botocore's models, and what is sent is written anew from what was understood.
2. Reads are told by their names, idempotent writes by the token in their model; everything else is irreversible, unless
   the configuration says more. What hands out secrets is refused, unless the configuration says `mints`.
3. What an answer to a write means stands in one place, `_outcome`: what is not proven is doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, cast

from pydantic import BaseModel, Field, StringConstraints, model_validator

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.contract import Contract, Drift, Level, Repeat, default_drift, default_repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, BadContract, HoldfastError, Misuse, Refused, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.aws_mint import minted
from holdfast.gateway.upstreams.aws_model import Apis, Operation, check
from holdfast.gateway.upstreams.aws_proof import Asked, Claim
from holdfast.gateway.upstreams.aws_read import heard
from holdfast.gateway.upstreams.aws_send import AwsSender, request_of
from holdfast.gateway.upstreams.aws_shapes import given
from holdfast.gateway.upstreams.aws_table import OPERATIONS, POWER, PROVEN, READS, THROTTLED, TOKEN_TTL_S, Known
from holdfast.gateway.upstreams.http_answer import Answer, lost, retry_after_s, unpack
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault

UNPROVEN: Final = frozenset({408, 409, 423, 425})
PAUSE_S: Final = 1.0  # after a throttled request that does not say for how long
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,100})\s*</Code>")
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z0-9]+)+$")]
Whole = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*\.[A-Z][A-Za-z0-9]*$")]


class AwsOperation(BaseModel, extra="forbid", frozen=True):
    """What is known of one operation beyond what its model tells."""

    kind: Literal["read", "idempotent", "irreversible"] | None = Field(None, description="What repeating it means.")
    identity: tuple[str, ...] | None = Field(None, description="Parameters that make two calls the same; none: all.")
    resource: tuple[str, ...] | None = Field(None, description="Parameters of what it touches.")
    repeat: Repeat | None = Field(None, description="What a further call of the same identity means.")
    drift: Drift | None = Field(None, description="What the same identity with other parameters means.")
    approval: Level | None = Field(None, description="How many people must agree; two where it is a power (IAM).")
    blast: int | str | None = Field(None, description="How much it touches: a number, or a parameter.")
    key_ttl_s: float | None = Field(None, gt=0, description="How long its token is remembered.")


_NOTHING: Final = AwsOperation.model_validate({})


class AwsConfig(BaseModel, extra="forbid", frozen=True):
    """An account of AWS, or what speaks like one."""

    kind: Literal["aws"] = Field(description="`aws`.")
    access_key_id: str = Field(description="The credential that holds the id of the key.")
    secret_access_key: str = Field(description="The credential that holds the key.")
    session_token: str = Field("", description="The credential that holds the token of temporary keys.")
    regions: tuple[Region, ...] = Field(
        min_length=1, description="The regions that may be asked; the first is the usual."
    )
    services: tuple[Name, ...] = Field(min_length=1, description="The APIs that may be asked, as boto3 names them.")
    endpoints: dict[Name, str] = Field(
        default_factory=dict[str, str], description="Where an API is, if not at AWS: `https://HOST`."
    )
    private: tuple[str, ...] = Field((), description="Hosts, addresses or networks of these that are not public.")
    ca_file: str | None = Field(None, description="Certificates (PEM) to trust instead of the system's.")
    operations: dict[Whole, AwsOperation] = Field(
        default_factory=dict[str, AwsOperation], description="What is known of operations, by `API.Operation`."
    )
    mints: bool = Field(False, description="Whether what hands out secrets may be asked; the agent is given handles.")
    timeout_s: float = Field(60, gt=0, le=3600, description="How long an answer is waited for.")
    labels: tuple[str, ...] | None = Field(None, description="Marks on what it answers; none: `untrusted:NAME`.")

    @model_validator(mode="after")
    def _whole(self) -> AwsConfig:
        for name in (*self.endpoints, *(each.partition(".")[0] for each in self.operations)):
            if name not in self.services:
                raise ValueError(f"`{name}` is not among `services`")
        return self

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of those that it uses."""
        return tuple(name for name in (self.access_key_id, self.secret_access_key, self.session_token) if name)

    @property
    def region(self) -> str:
        """The region where none is named."""
        return self.regions[0]


async def open_aws(name: str, config: AwsConfig, kit: Kit) -> AwsSystem:
    """The system `name`. Connects to nothing yet. Raises BadContract and Misuse for what cannot be."""
    apis = Apis(config.services)
    for full in config.operations:
        try:
            operation = apis.operation(full)
            contract_of(name, config, operation, {})
            names = operation.parameters
        except BadCall as error:
            raise BadContract(f"`{name}` declares `{full}`: {error.what}") from None
        said = config.operations[full]
        blast = (said.blast,) if isinstance(said.blast, str) else ()
        for parameter in (*(said.identity or ()), *(said.resource or ()), *blast):
            if parameter not in names:
                raise BadContract(f"`{full}` has no parameter `{parameter}`", where=name)
    return AwsSystem(name, config, apis, AwsSender(name, config, kit, apis), kit.vault)


def contract_of(name: str, config: AwsConfig, operation: Operation, parameters: Mapping[str, JSON]) -> Contract:
    """What an operation promises, asked for with these parameters."""
    said = config.operations.get(operation.full, _NOTHING)
    known = OPERATIONS.get(operation.full, Known())
    kind = _kind(said, known, operation, parameters)
    read = kind is Kind.READ
    repeat = said.repeat or known.repeat or default_repeat(kind, said.identity)
    approval = said.approval or (Level.TWO if operation.api.name in POWER and not read else Level.NONE)
    ttl_s = said.key_ttl_s or known.key_ttl_s or (TOKEN_TTL_S if operation.token else None)
    return Contract(
        name=f"{name}.{operation.full}",
        kind=kind,
        identity=None if said.identity is None else tuple(f"parameters.{each}" for each in said.identity),
        resource=None if said.resource is None else tuple(f"parameters.{each}" for each in said.resource),
        repeat=Repeat.EACH if read else repeat,
        drift=default_drift(kind) if read or said.drift is None else said.drift,
        approval=Level.NONE if read else approval,
        key_ttl_ms=int(ttl_s * 1000) if kind is Kind.IDEMPOTENT and ttl_s is not None else None,
    )


def _kind(said: AwsOperation, known: Known, operation: Operation, parameters: Mapping[str, JSON]) -> Kind:
    if operation.api.protocol == "ec2" and parameters.get("DryRun") is True:
        return Kind.READ
    if said.kind is not None:
        return Kind(said.kind)
    if known.kind is not None:
        return known.kind
    if READS.match(operation.name):
        return Kind.READ
    return Kind.IDEMPOTENT if operation.token else Kind.IRREVERSIBLE


class AwsSystem:
    """As `System`."""

    def __init__(self, name: str, config: AwsConfig, apis: Apis, sender: AwsSender, vault: Vault) -> None:
        self._name = name
        self.config = config
        self.apis = apis
        self.sender = sender
        self.vault = vault

    @property
    def name(self) -> str:
        """As `System`."""
        return self._name

    def protocol(self, signing: str) -> str:
        """How the API that a signature is for is spoken: one of `json`, `query`, `ec2`, `rest-json`, `rest-xml`."""
        return next((api.protocol for api in self.apis.signed_for(signing)), "query")

    def understood(self, claim: Claim, asked: Asked) -> tuple[str, dict[str, JSON], str | None]:
        """The operation that a request asks for, its arguments for `prepare`, and its own token. Raises BadCall."""
        found = heard(self.apis, claim, asked)
        return found.operation.full, {"region": claim.region, "parameters": found.parameters}, found.token

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """As `System`. `operation`: `API.Operation`; `args`: `region` (or the usual one) and `parameters`."""
        unknown = args.keys() - {"region", "parameters"}
        if unknown:
            raise BadCall(f"`{min(unknown)[:80]}` is not known", fix="send `region` and `parameters`")
        found, region = self.apis.operation(operation), args.get("region", self.config.region)
        if not isinstance(region, str) or region not in self.config.regions:
            raise BadCall(
                f"the region `{str(region)[:40]}` is not declared", fix="name it under `regions`, if it is meant"
            )
        parameters = args.get("parameters", {})
        if not isinstance(parameters, dict):
            raise BadCall("`parameters` is no object")
        if found.token is not None and found.token in parameters:
            raise BadCall(f"`{found.token}` is not for an agent to set", fix="leave it out")
        try:  # as they will be read when they are recorded
            parameters = cast("dict[str, JSON]", json.loads(canonical(cast("JSON", parameters))))
        except Uncanonical as error:
            raise BadCall(f"the parameters cannot be written down: {error}") from None
        self._check(found, parameters)
        said = self.config.operations.get(found.full, _NOTHING)
        secrets = found.secrets(parameters)
        if secrets and not self.config.mints:
            raise Refused(
                f"`{found.full}` hands out a secret (`{secrets[0]}`), and that is not declared",
                fix="set `mints = true`, if the agent may have handles of such secrets",
            )
        return Prepared(
            system=self._name,
            contract=contract_of(self._name, self.config, found, parameters),
            args={"region": region, "parameters": parameters},
            upstream=AwsUpstream(self, found, region, parameters, secrets),
            chosen=_chosen(said.identity, region, parameters),
            touches=_chosen(said.resource, region, parameters),
            blast=blast_of(said, OPERATIONS.get(found.full, Known()), parameters),
            labels=frozenset((f"untrusted:{self._name}",) if self.config.labels is None else self.config.labels),
        )

    def _check(self, operation: Operation, parameters: Mapping[str, JSON]) -> None:
        """Raise BadCall unless the parameters are whole: then the same request can always be written from them."""
        token = {} if operation.token is None else {operation.token: "0" * 36}
        check(operation, {**given(operation.input, cast("JSON", dict(parameters))), **token})
        for key, value in parameters.items():
            located = operation.input.members[key].serialization.get("location") == "uri"
            if located and isinstance(value, str) and (not value or {".", ".."} & set(value.split("/"))):
                raise BadCall(f"`{key}` is empty, or has a part that is only dots")
        request_of(operation, parameters, "")

    def operations(self) -> Mapping[str, JSON]:
        """As `System`."""
        found: dict[str, JSON] = {}
        for api in self.apis.by_name.values():
            for name in api.names:
                operation = api.operation(name)
                regions: JSON = {"type": "string", "enum": [*self.config.regions]}
                schema: JSON = {
                    "type": "object",
                    "properties": {"region": regions, "parameters": {"type": "object"}},
                    "additionalProperties": False,
                }
                kind = contract_of(self._name, self.config, operation, {}).kind.value
                found[operation.full] = {"description": f"{operation.full} of AWS", "kind": kind, "schema": schema}
        return found

    async def close(self) -> None:
        """As `System`."""
        await self.sender.close()


class AwsUpstream:
    """One call, as `Upstream`."""

    def __init__(
        self,
        system: AwsSystem,
        operation: Operation,
        region: str,
        parameters: Mapping[str, JSON],
        secrets: tuple[str, ...],
    ) -> None:
        self._system = system
        self._operation = operation
        self._region = region
        self._parameters = parameters
        self._secrets = secrets

    def running(self, key: str) -> bool:
        """Nothing runs here that nobody waits for."""
        return False

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """The reply of one HTTP message."""
        if encoding is Encoding.LOST:
            return Reply(data, encoding, data.decode())
        return Reply(data, encoding, data, None, unpack(data).etag)

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """AWS is not asked what became of a request."""
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """No contract of ours says that there is an undo."""
        raise Misuse("an operation of AWS is not taken back by itself")

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Send it."""
        region, parameters = self._region, self._parameters
        if args is not None:
            recorded = cast("dict[str, JSON]", json.loads(args))
            region, parameters = cast("str", recorded["region"]), cast("dict[str, JSON]", recorded["parameters"])
        kind = contract_of(self._system.name, self._system.config, self._operation, parameters).kind
        again = kind is not Kind.IRREVERSIBLE
        answer, _ = await self._system.sender.answer(self._operation, region, parameters, receipt, again=again)
        if 200 <= answer.status < 300 and self._secrets and answer.trouble is None:
            answer = await minted(answer, self._secrets, self._operation.full, self._system.vault, receipt)
        return self._answered(answer) if receipt.read else self._outcome(answer)

    def _answered(self, answer: Answer) -> Reply:
        """To a read every answer is one, but that it is to come back later."""
        if code_of(answer) in THROTTLED:
            raise RetryAfter(_later_s(answer), f"`{self._operation.full}` was throttled")
        if answer.trouble is not None:
            raise DidNotHappen(f"`{self._operation.full}`: {answer.trouble}")
        return answer.reply()

    def _outcome(self, answer: Answer) -> Reply:
        """What an answer to a write means: an answer, a refusal (raised), or nothing for certain (raised)."""
        status, code = answer.status, code_of(answer)
        said = f"`{self._operation.full}` was answered {status} {code}".rstrip()
        if 200 <= status < 300:
            if self._operation.api.signing == "s3" and answer.body.lstrip()[:200].find(b"<Error>") >= 0:
                raise HoldfastError(f"{said}, with an error in it: nobody knows whether it has happened")
            return answer.reply() if answer.trouble is None else lost(answer.trouble)
        if status == 429 or (code in THROTTLED and status in (400, 503)):
            raise RetryAfter(_later_s(answer), said)
        if (300 <= status < 500 and status not in UNPROVEN) or (status == 409 and code in PROVEN):
            raise Declined(said, answer.reply())
        raise HoldfastError(f"{said}, which does not say whether it has happened")


def code_of(answer: Answer) -> str:
    """The code of an error; empty where there is none."""
    if answer.status < 300:
        return ""
    value = answer.value()
    shown = answer.header("x-amzn-errortype") or (
        str(value.get("__type") or value.get("code") or value.get("Code") or "") if isinstance(value, dict) else ""
    )
    if not shown:
        found = _CODE.search(answer.body[:10_000])
        shown = found[1].decode() if found else ""
    return shown.partition(":")[0].rpartition("#")[2][:100]


def blast_of(said: AwsOperation, known: Known, parameters: Mapping[str, JSON]) -> int:
    """How much a call touches: what is declared of it, or the most that one of its parameters lists."""
    declared = known.blast if said.blast is None else said.blast
    if isinstance(declared, int):
        return declared
    if declared is not None:
        value = parameters.get(declared)
        return max(1, value if isinstance(value, int) else _size(value))
    return max(
        [1, *(_size(value) for name, value in parameters.items() if not re.match(r"Tag|Filter|Attribute", name))]
    )


def _size(value: JSON) -> int:
    """How many things a parameter names."""
    match value:
        case list() | tuple():
            return sum(max(1, _size(each)) for each in value)
        case dict():
            return sum(_size(each) for each in value.values() if isinstance(each, list | dict))
        case _:
            return 0


def _later_s(answer: Answer) -> float:
    seconds = retry_after_s(answer.header("retry-after"))
    return PAUSE_S if seconds is None else seconds


def _chosen(names: tuple[str, ...] | None, region: JSON, parameters: Mapping[str, JSON]) -> dict[str, JSON] | None:
    """The parameters of these names, in their region; None where none are declared."""
    if names is None:
        return None
    return {"region": region, **{f"parameters.{name}": parameters.get(name) for name in names}}
