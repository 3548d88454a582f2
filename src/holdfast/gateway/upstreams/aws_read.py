"""A request to AWS, as it came, read as an operation and its parameters.

Rules
1. A request that can be read in two ways, or of which anything is left over, is refused. What is understood is written
   anew (`aws_send.py`), so that what was judged is what is sent.
2. Parameters are JSON: blobs as base64, times as they were written. The token of an operation is none of them: each
   call is given one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote
from weakref import WeakKeyDictionary

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall
from holdfast.gateway.upstreams.aws_model import Api, Apis, Operation, Shape, algorithm, has_host_prefix
from holdfast.gateway.upstreams.aws_proof import Asked, Claim
from holdfast.gateway.upstreams.aws_shapes import digits, json_of, of_fields, of_json, of_xml, scalar, xml_of
from holdfast.gateway.upstreams.aws_table import ELSEWHERE

MOST_FIELDS: Final = 10_000
_LABEL: Final = re.compile(r"\{([^{}]+)\}")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,253}[a-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_CHECKSUMS: Final = re.compile(
    r"x-amz-checksum-(?!algorithm$|type$|mode$)[a-z0-9]+|content-md5|x-amz-sdk-checksum-algorithm"
)
_OURS: Final = frozenset(
    "host date x-amz-date x-amz-content-sha256 x-amzn-query-mode content-type content-length "
    "amz-sdk-invocation-id amz-sdk-request authorization user-agent x-amz-user-agent x-amzn-trace-id accept "
    "accept-encoding accept-language connection expect keep-alive te transfer-encoding".split()
)
"""Headers that are written anew, or that nobody needs to hear."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A request that was understood. `token`: what it has shown as its own idempotency key, if anything."""

    operation: Operation
    parameters: dict[str, JSON]
    token: str | None


def heard(apis: Apis, claim: Claim, asked: Asked) -> Heard:
    """What a request asks for. Raises BadCall."""
    found = apis.signed_for(claim.api)
    if not found:
        raise BadCall(f"the API `{claim.api}` is not declared", fix="name it under `services`, if it is meant")
    protocols = {api.protocol for api in found}
    if len(protocols) > 1:
        kind = "x-amz-target" in asked.headers
        found = [api for api in found if (api.protocol == "json") is kind]
    if not found:
        raise BadCall(f"nothing of `{claim.api}` is spoken like this")
    rest = [api for api in found if api.protocol.startswith("rest")]
    try:
        if rest:
            operation, parameters = _rest(rest, asked)
        elif found[0].protocol == "json":
            operation, parameters = _json(found, asked)
        else:
            operation, parameters = _query(found, asked)
    except RecursionError:
        raise BadCall("the request is nested too deeply") from None
    if has_host_prefix(operation):
        raise BadCall(f"`{operation.full}` is at a host of its own, which cannot be asked from here")
    token = parameters.pop(operation.token, None) if operation.token else None
    return Heard(operation, parameters, token if isinstance(token, str) else None)


# --- json ---


def _json(found: list[Api], asked: Asked) -> tuple[Operation, dict[str, JSON]]:
    target, _, name = asked.headers.get("x-amz-target", "").rpartition(".")
    api = _one([api for api in found if api.target == target], f"`{target[:80]}` is no target that is declared")
    _only(asked, "application/x-amz-json-1.", "x-amz-target")
    operation = api.operation(name)
    value = json_of(asked.body)
    if operation.input is None:
        if value:
            raise BadCall(f"`{operation.full}` has no parameters")
        return operation, {}
    return operation, cast("dict[str, JSON]", of_json(operation.input, value))


# --- query, ec2 ---


def _query(found: list[Api], asked: Asked) -> tuple[Operation, dict[str, JSON]]:
    _only(asked, "application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            asked.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=MOST_FIELDS,
            errors="strict",
        )  # fmt: skip
    except ValueError:
        raise BadCall("the body is no form", fix="send Action=…&Version=…") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise BadCall(f"`{twice[:80]}` is there twice", fix="send it once")
    name, version = fields.pop("Action", ""), fields.pop("Version", "")
    api = _one([api for api in found if api.version == version], f"the version `{version[:20]}` is not known")
    operation = api.operation(name)
    return operation, of_fields(operation, fields)


def _only(asked: Asked, kind: str, *more: str) -> None:
    """Raise BadCall for what this protocol has no place for."""
    if asked.method != "POST" or asked.path != "/" or asked.query:
        raise BadCall("this API is asked by POST /, and nothing stands in its path or query")
    if not asked.headers.get("content-type", "").lower().startswith(kind):
        raise BadCall(f"the body is no `{kind}`")
    for header in asked.headers.keys() - _OURS - {*more}:
        if not _CHECKSUMS.fullmatch(header):
            raise BadCall(f"the header `{header[:80]}` is not understood", fix="leave it out")


# --- rest ---


@dataclass(frozen=True, slots=True)
class _Route:
    """An operation that a method and a path may mean."""

    operation: Operation
    labels: Mapping[str, str]
    fixed: Mapping[str, str]
    literal: int


def _rest(found: list[Api], asked: Asked) -> tuple[Operation, dict[str, JSON]]:
    query = _query_of(asked.query)
    routes = [route for api in found for route in _routes(api, asked, query)]
    fit: list[tuple[tuple[int, int, int], _Route]] = []
    for route in routes:
        names = {name for name, _ in query}
        shape = route.operation.input
        known, needed, free = _bound(shape)
        headers = {header for header in asked.headers if header not in _OURS}
        left = {name for name in names - route.fixed.keys() if ("querystring", name) not in known} - {"x-id"}
        if (left and not free) or any(not _header_known(known, each) for each in headers):
            continue
        shown = {("querystring", name) for name in names} | {("header", name) for name in headers}
        if needed <= shown | {("uri", name) for name in route.labels}:
            fit.append(((route.literal, len(route.fixed), len(needed)), route))
    best = max((rank for rank, _ in fit), default=None)
    chosen = [route for rank, route in fit if rank == best]
    chosen = [route for route in chosen if not route.operation.model.deprecated] or chosen
    if len(chosen) != 1:
        what = "can be read in two ways" if chosen else "is no operation of a declared API, or has more than it knows"
        raise BadCall(f"`{asked.method} {asked.path[:120]}` {what}")
    return chosen[0].operation, _rest_parameters(chosen[0], asked, query)


@dataclass(frozen=True, slots=True)
class _Template:
    """How a request for an operation looks: its method, its path, and what its query always has."""

    name: str
    method: str
    path: re.Pattern[str]
    labels: tuple[str, ...]
    fixed: Mapping[str, str]
    literal: int


_TEMPLATES: WeakKeyDictionary[Api, list[_Template]] = WeakKeyDictionary()


def _templates(api: Api) -> list[_Template]:
    if api not in _TEMPLATES:
        _TEMPLATES[api] = [_template(api, name) for name in api.names if f"{api.name}.{name}" not in ELSEWHERE]
    return _TEMPLATES[api]


def _template(api: Api, name: str) -> _Template:
    told = api.model.operation_model(name).http
    path, _, fixed = str(told["requestUri"]).partition("?")
    return _Template(
        name=name,
        method=str(told.get("method", "POST")),
        path=re.compile(_pattern(path)),
        labels=tuple(label.rstrip("+") for label in _LABEL.findall(path)),
        fixed={part.partition("=")[0]: part.partition("=")[2] for part in fixed.split("&") if part},
        literal=len(_LABEL.sub("", path)),
    )


def _routes(api: Api, asked: Asked, query: list[tuple[str, str]]) -> list[_Route]:
    given = dict(query)
    found: list[_Route] = []
    for template in _templates(api):
        match = template.path.fullmatch(asked.path) if template.method == asked.method else None
        if match is None or any(given.get(key) != value for key, value in template.fixed.items()):
            continue
        labels = {label: _unquoted(text) for label, text in zip(template.labels, match.groups(), strict=True)}
        found.append(_Route(api.operation(template.name), labels, template.fixed, template.literal))
    return found


def _pattern(path: str) -> str:
    parts = _LABEL.split(path)
    pieces = [
        (r"(.+)" if part.endswith("+") else r"([^/]+)") if at % 2 else re.escape(part) for at, part in enumerate(parts)
    ]
    return "".join(pieces)


def _bound(shape: Shape) -> tuple[set[tuple[str, str]], set[tuple[str, str]], bool]:
    """What of a request an operation knows (place, name), what it needs of that, and whether any query will do."""
    known: set[tuple[str, str]] = set()
    needed: set[tuple[str, str]] = set()
    free = False
    if shape is None:
        return known, needed, free
    for key, member in shape.members.items():
        place, name = member.serialization.get("location"), str(member.serialization.get("name", key))
        if place in ("header", "headers"):
            name = name.lower()
        if place == "querystring" and member.type_name == "map":
            free = True
        elif place is not None:
            known.add((place, name))
            if key in shape.required_members and place != "headers":
                needed.add((place, name))
    needed.discard(("header", "content-length"))
    return known, needed, free


def _header_known(known: set[tuple[str, str]], header: str) -> bool:
    if ("header", header) in known or _CHECKSUMS.fullmatch(header):
        return True
    return any(place == "headers" and header.startswith(prefix) for place, prefix in known)


def _rest_parameters(route: _Route, asked: Asked, query: list[tuple[str, str]]) -> dict[str, JSON]:
    operation, shape = route.operation, route.operation.input
    if shape is None:
        if asked.body:
            raise BadCall(f"`{operation.full}` has no body")
        return {}
    found: dict[str, JSON] = {}
    rest = [
        (name, value) for name, value in query if name not in route.fixed and (name, value) != ("x-id", operation.name)
    ]
    for key, member in shape.members.items():
        place, name = member.serialization.get("location"), str(member.serialization.get("name", key))
        if place == "uri" and name in route.labels:
            found[key] = scalar(member, _label(operation, name, route.labels[name]), "header")
        elif place == "querystring" and member.type_name != "map":
            values = [value for other, value in rest if other == name]
            rest = [pair for pair in rest if pair[0] != name]
            if values:
                found[key] = _values(member, name, values)
        elif place in ("header", "headers") and name.lower() != "content-length":
            value = _from_headers(member, name.lower(), asked.headers)
            if value is not None:
                found[key] = value
    free = [key for key, member in shape.members.items() if member.serialization.get("location") == "querystring"
            and member.type_name == "map"]  # fmt: skip
    if rest and (not free or len(dict(rest)) != len(rest)):
        raise BadCall(f"`{rest[0][0][:80]}` of the query is not understood, or there twice")
    if rest:
        found[free[0]] = dict(rest)
    return _without_digests(operation, found | _body(operation, shape, asked))


def _body(operation: Operation, shape: Shape, asked: Asked) -> dict[str, JSON]:
    name = shape.serialization.get("payload")
    inner = shape if name is None else shape.members[name]
    if name is not None and inner.type_name == "blob":
        return {name: digits(asked.body)} if asked.body else {}
    if name is not None and inner.type_name == "string":
        return {name: asked.body.decode()} if asked.body else {}
    if not asked.body:
        return {}
    if operation.api.protocol == "rest-json":
        value = of_json(inner, json_of(asked.body))
    else:
        value = of_xml(inner, xml_of(asked.body, inner.serialization.get("name")))
    if name is not None:
        return {name: value}
    located = {key for key, member in shape.members.items() if member.serialization.get("location")}
    twice = located & cast("dict[str, JSON]", value).keys()
    if twice:
        raise BadCall(f"`{min(twice)}` does not belong in the body")
    return cast("dict[str, JSON]", value)


def _without_digests(operation: Operation, parameters: dict[str, JSON]) -> dict[str, JSON]:
    """The parameters, where the body is written anew, without what tells how the old one is digested."""
    name, shape = algorithm(operation), operation.input
    body = shape.members.get(shape.serialization.get("payload"))
    if body is not None and body.type_name in ("blob", "string"):
        return parameters
    gone = {
        key for key, member in shape.members.items()
        if member.serialization.get("location") == "header"
        and _CHECKSUMS.fullmatch(str(member.serialization.get("name", key)).lower())
    }  # fmt: skip
    return {key: value for key, value in parameters.items() if key != name and key not in gone}


def _from_headers(member: Any, name: str, headers: Mapping[str, str]) -> JSON:
    if member.serialization.get("location") == "headers":
        found = {header[len(name) :]: value for header, value in headers.items() if header.startswith(name)}
        return cast("JSON", found) if found else None
    value = headers.get(name)
    if value is None:
        return None
    if member.serialization.get("jsonvalue"):
        raise BadCall(f"the header `{name}` holds JSON, which is not understood here")
    if member.type_name == "list":
        if '"' in value:
            raise BadCall(f"the header `{name}` is a list with quotes, which is not understood here")
        return [scalar(member.member, part.strip(), "header") for part in value.split(",")]
    return scalar(member, value, "header")


def _values(member: Any, name: str, values: list[str]) -> JSON:
    if member.type_name == "list":
        return [scalar(member.member, value, "query") for value in values]
    if len(values) > 1:
        raise BadCall(f"`{name[:80]}` of the query is there twice", fix="send it once")
    return scalar(member, values[0], "query")


def _label(operation: Operation, name: str, value: str) -> str:
    if any(part in (".", "..") for part in value.split("/")):
        raise BadCall("the path has a part that is only dots")
    if operation.api.signing == "s3" and name == "Bucket" and not _BUCKET.fullmatch(value):
        raise BadCall(f"`{value[:80]}` is no name of a bucket")
    return value


def _query_of(text: str) -> list[tuple[str, str]]:
    if "+" in text or ";" in text:
        raise BadCall("the query has a `+` or a `;`, which can be read in two ways", fix="write %20, %2B, %3B")
    parts = [part.partition("=") for part in text.split("&") if part]
    return [(_unquoted(name), _unquoted(value)) for name, _, value in parts]


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadCall("the path or query is no UTF-8") from None


def _one(found: list[Api], why: str) -> Api:
    if len(found) != 1:
        raise BadCall(why if not found else "it may be for two of the declared APIs")
    return found[0]
