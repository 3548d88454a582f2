"""What botocore's models tell of AWS: its APIs, their operations, where they are, and which of them hand out secrets.

Rules
1. Only declared APIs are known. One that is spoken in a way that is not understood here is refused when it is declared.
2. This is the one file that touches botocore, whose values have no types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, Final, cast

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, Misuse
from holdfast.gateway.upstreams.aws_table import DECRYPTING, MASKED, MINTING, SECRETS

_auth: Any = import_module("botocore.auth")
_awsrequest: Any = import_module("botocore.awsrequest")
_config: Any = import_module("botocore.config")
_credentials: Any = import_module("botocore.credentials")
_exceptions: Any = import_module("botocore.exceptions")
_loaders: Any = import_module("botocore.loaders")
_model: Any = import_module("botocore.model")
_regions: Any = import_module("botocore.regions")
_serialize: Any = import_module("botocore.serialize")
_utils: Any = import_module("botocore.utils")
_validate: Any = import_module("botocore.validate")

PROTOCOLS: Final = ("json", "query", "ec2", "rest-json", "rest-xml")
DEEPEST: Final = 12  # levels of an answer in which secrets are looked for
Shape = Any
"""A shape of botocore: type_name, members, member, key, value, serialization, metadata."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation `API.Name`. `token`: the parameter that carries an idempotency key, if there is one."""

    api: Api
    name: str
    model: Any
    token: str | None

    @property
    def full(self) -> str:
        """As in a table: `API.Name`."""
        return f"{self.api.name}.{self.name}"

    @property
    def input(self) -> Shape:
        """The shape of its parameters; None where it has none."""
        return self.model.input_shape

    @property
    def parameters(self) -> frozenset[str]:
        """The names of its parameters."""
        return frozenset(map(str, () if self.input is None else self.input.members))

    def secrets(self, parameters: Mapping[str, JSON]) -> tuple[str, ...]:
        """The names under which its answer holds secrets, asked for with these parameters."""
        found = [*MINTING.get(self.full, ()), *_secrets(self.model.output_shape, 0)]
        asked, name = DECRYPTING.get(self.full, ("", ""))
        if parameters.get(asked, False) is not False:
            found.append(name)
        return tuple(name for name in dict.fromkeys(found) if (self.api.name, name) not in MASKED)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Api:
    """One API, as `ec2`. `signing`: the name in a signature. `protocol`: one of `PROTOCOLS`."""

    name: str
    signing: str
    protocol: str
    model: Any
    _known: dict[str, Operation] = field(default_factory=dict[str, Operation])

    @property
    def names(self) -> Sequence[str]:
        """The names of its operations."""
        return cast("Sequence[str]", self.model.operation_names)

    @property
    def version(self) -> str:
        """The version that requests name."""
        return str(self.model.metadata["apiVersion"])

    @property
    def target(self) -> str:
        """What stands before an operation's name in X-Amz-Target."""
        return str(self.model.metadata.get("targetPrefix", ""))

    def operation(self, name: str) -> Operation:
        """An operation by its name. Raises BadCall."""
        if name not in self._known:
            if name not in self.names:
                raise BadCall(f"`{self.name}` has no operation `{name[:80]}`", fix="see the API's reference")
            model = self.model.operation_model(name)
            shape = model.input_shape
            tokens = [] if shape is None else [key for key, each in shape.members.items() if _is_token(each)]
            self._known[name] = Operation(self, name, model, tokens[0] if tokens else None)
        return self._known[name]

    def serializer(self) -> Any:
        """What writes requests of it."""
        return _serialize.create_serializer(self.protocol, False)


class Apis:
    """The declared APIs. Raises Misuse for one that botocore does not know, or that cannot be understood."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ends = _ends()
        self.by_name = {name: _api(name) for name in names}

    def signed_for(self, signing: str) -> list[Api]:
        """The APIs that a signature for this name may be for."""
        return [api for api in self.by_name.values() if api.signing == signing]

    def operation(self, full: str) -> Operation:
        """An operation by `API.Name`. Raises BadCall."""
        name, _, operation = full.partition(".")
        api = self.by_name.get(name)
        if api is None:
            raise BadCall(f"the API `{name[:80]}` is not declared", fix="name it under `services`, if it is meant")
        return api.operation(operation)

    def end(self, api: Api, region: str) -> tuple[str, str]:
        """Where an API of a region is (an URL), and the region to sign for. Raises Misuse."""
        found = self._ends.construct_endpoint(api.model.endpoint_prefix, region)
        if not found or not found.get("hostname"):
            raise Misuse(f"`{api.name}` has no place in `{region}` that is known", fix="name it under `endpoints`")
        scope = found.get("credentialScope", {})
        return f"https://{found['hostname']}", str(scope.get("region", region))


@cache
def _loader() -> Any:
    return _loaders.create_loader()


@cache
def _ends() -> Any:
    return _regions.EndpointResolver(_loader().load_data("endpoints"))


@cache
def _api(name: str) -> Api:
    """An API by its name: read once, and never changed. Raises Misuse."""
    if name not in _loader().list_available_services("service-2"):
        raise Misuse(f"botocore knows no API `{name}`", fix="name it as boto3.client(…) does: ec2, s3, sqs")
    model = _model.ServiceModel(_loader().load_service_model(name, "service-2"), name)
    spoken = [*model.metadata.get("protocols", ()), model.metadata.get("protocol")]
    protocol = next((each for each in PROTOCOLS if each in spoken), None)
    first = next(each for each in spoken if each)
    if protocol is None or first == "smithy-rpc-v2-cbor":
        raise Misuse(f"`{name}` is spoken in {first}, which is not understood here", fix="take it out")
    return Api(name, str(model.signing_name), protocol, model)


def check(operation: Operation, parameters: Mapping[str, Any]) -> None:
    """Raise BadCall unless these are parameters of an operation."""
    shape = operation.input
    if shape is None:
        if parameters:
            raise BadCall(f"`{operation.full}` has no parameters")
        return
    try:
        report = _validate.ParamValidator().validate(dict(parameters), shape)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadCall(f"the parameters of `{operation.full}` are not understood: {type(error).__name__}") from None
    if report.has_errors():
        first = str(report.generate_report()).partition("\n")[0].partition(", value:")[0].partition(", must be")[0]
        raise BadCall(f"the parameters of `{operation.full}` are not understood: {first[:300]}")


def is_moment(value: Any) -> bool:
    """Whether botocore reads this as a time."""
    try:
        return isinstance(_utils.parse_to_aware_datetime(value), datetime)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return False


def written(operation: Operation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A request as its protocol writes it: method, url_path, query_string, headers, body. Raises BadCall."""
    try:
        return operation.api.serializer().serialize_to_request(dict(parameters), operation.model)
    except (_exceptions.BotoCoreError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadCall(f"`{operation.full}` cannot be written: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class Keys:
    """Real keys, for one signature. Nothing shows them."""

    id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class Wire:
    """A request as it leaves. Its headers carry a signature."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes


def signed(request: dict[str, Any], end: str, api: Api, region: str, keys: Keys) -> Wire:
    """A request for `end` (an URL), signed. The whole body is always signed."""
    request["headers"] = {**request["headers"], "User-Agent": "holdfast"}
    _awsrequest.prepare_request_dict(
        request, end, context={"client_config": _config.Config(s3={"payload_signing_enabled": True})}
    )
    made = _awsrequest.create_request_object(request)
    secret = _credentials.Credentials(keys.id, keys.secret, keys.token)
    kind = _auth.S3SigV4Auth if api.signing == "s3" else _auth.SigV4Auth
    kind(secret, api.signing, region).add_auth(made)
    ready = made.prepare()
    body = ready.body or b""
    headers = {str(name): value.decode() if isinstance(value, bytes) else str(value) for name, value in _pairs(ready)}
    return Wire(str(ready.method), str(ready.url), headers, body.encode() if isinstance(body, str) else bytes(body))


def needs_digest(operation: Operation) -> bool:
    """Whether a request must carry a digest of its body."""
    told: Mapping[str, Any] = operation.model.http_checksum or {}
    return bool(operation.model.http_checksum_required or told.get("requestChecksumRequired"))


def algorithm(operation: Operation) -> str | None:
    """The parameter that names how the body is digested."""
    told: Mapping[str, Any] = operation.model.http_checksum or {}
    name = told.get("requestAlgorithmMember")
    return str(name) if name else None


def has_host_prefix(operation: Operation) -> bool:
    """Whether it is at a host of its own."""
    told: Mapping[str, Any] = operation.model.endpoint or {}
    return bool(told.get("hostPrefix"))


def _pairs(ready: Any) -> Iterator[tuple[Any, Any]]:
    yield from ready.headers.items()


def _is_token(shape: Shape) -> bool:
    return bool(shape.metadata.get("idempotencyToken"))


def _secrets(shape: Shape, depth: int, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of an answer that stand for secrets."""
    if shape is None or depth > DEEPEST or shape.name in above:
        return
    within = (*above, shape.name)
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            shown = str(member.serialization.get("name", name))
            if member.type_name in ("string", "blob") and (SECRETS.fullmatch(name) or SECRETS.fullmatch(shown)):
                yield shown
            else:
                yield from _secrets(member, depth + 1, within)
    elif shape.type_name == "list":
        yield from _secrets(shape.member, depth + 1, within)
    elif shape.type_name == "map":
        yield from _secrets(shape.value, depth + 1, within)
