"""A request of an agent, understood: what is written down, what is judged and what is sent are the same.

Rules
1. An agent sets few headers: those of `USUAL`, and what the configuration names. Its own credentials, cookies, proxies
   and hop-by-hop headers go nowhere.
2. JSON and forms are read once, and written anew: a key that is there twice is refused, so nothing is judged by one
   value and carried out by another.
3. The same recorded arguments give the same bytes, always.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.errors import BadCall
from holdfast.gateway.upstreams.http_path import (
    Fields,
    Template,
    checked_fields,
    fields_of,
    path_of,
    query_of,
    segments_of,
)

BODY_MAX: Final = 16 << 20  # bytes
HEADER_MAX: Final = 8000  # bytes of one value
USUAL: Final = frozenset(
    "accept accept-language content-language content-type if-match if-modified-since if-none-match "
    "if-unmodified-since prefer range".split()
)
_NEVER: Final = re.compile(
    r"authorization|cookie2?|connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-length|content-encoding"
    r"|accept-encoding|expect|host|http2-settings|via|forwarded|x-forwarded-.*|x-real-ip|proxy-.*|sec-.*|:.*"
    r"|x-http-method(-override)?|x-method-override"
)
_OVERRIDES: Final = ("x-http-method", "x-http-method-override", "x-method-override")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_JSON_TYPE: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.ASCII)
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Json:
    """A body of JSON."""

    value: JSON


@dataclass(frozen=True, slots=True)
class Form:
    """A body of form fields."""

    fields: Fields


@dataclass(frozen=True, slots=True)
class Raw:
    """A body of anything else."""

    data: bytes


Body: TypeAlias = Json | Form | Raw | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, relative to the system's base. `path` is in its one spelling, names of headers in lower case."""

    method: str
    path: str
    params: Mapping[str, str]
    query: Fields
    headers: Mapping[str, str]
    body: Body = None

    def args(self) -> dict[str, JSON]:
        """What is written down, and read again by `recorded`."""
        args: dict[str, JSON] = {"method": self.method, "path": self.path}
        for name, members in (("params", self.params), ("query", self.query), ("headers", self.headers)):
            if members:
                args[name] = cast("JSON", dict(members))
        match self.body:
            case Json(value):
                args["body"] = value
            case Form(fields):
                args["form"] = cast("JSON", fields)
            case Raw(data):
                args["body_b64"] = base64.b64encode(data).decode()
            case None:
                pass
        return args

    def view(self) -> dict[str, JSON]:
        """What selectors and templates see."""
        body = self.body
        value = body.value if isinstance(body, Json) else cast("JSON", body.fields) if isinstance(body, Form) else None
        return {
            "path": dict(self.params),
            "query": cast("JSON", self.query),
            "header": dict(self.headers),
            "body": value,
        }

    def data(self) -> bytes | None:
        """The bytes of the body."""
        match self.body:
            case Json(value):
                return canonical(value)
            case Form(fields):
                return query_of(fields).encode()
            case Raw(data):
                return data
            case None:
                return None

    def rewritten(self, change: Callable[[str], str]) -> Request:
        """The same with each text changed."""
        path = path_of([change(segment) for segment in segments_of(self.path)])
        headers = {name: change(value) for name, value in self.headers.items()}
        body: Body = self.body
        if isinstance(body, Json):
            body = Json(_changed(body.value, change))
        elif isinstance(body, Form):
            body = Form(_changed_fields(body.fields, change))
        elif isinstance(body, Raw):
            body = Raw(change(body.data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
        query = _changed_fields(self.query, change)
        return replace(self, path=path, headers=headers, query=query, body=body)


def understood(
    method: str, path: str, params: Mapping[str, str], args: Mapping[str, JSON], more: frozenset[str], *, batch: bool
) -> Request:
    """The request of a call. `path` is in its one spelling; `more`: headers that are taken besides the usual ones.
    Raises BadCall."""
    unknown = args.keys() - {"method", "path", "params", "query", "headers", "body", "form", "body_b64"}
    if unknown:
        raise BadCall(
            f"`{ascii(min(unknown)[:80])[1:-1]}` is no part of a request",
            fix="give method, path, query, headers, and body or body_b64",
        )
    headers = _headers(args.get("headers"), more)
    body = _body(args, headers, batch=batch)
    if body is not None and method in ("GET", "HEAD"):
        raise BadCall(f"a {method} with a body is read in two ways", fix="put it into the query")
    data = Request(method=method, path=path, params=params, query=_query(args.get("query")), headers=headers, body=body)
    if len(data.data() or b"") > BODY_MAX:
        raise BadCall(f"the body is larger than {BODY_MAX} bytes", fix="send less")
    return data


def recorded(args: bytes, template: Template) -> Request:
    """The request that was written down. Raises BadCall if the configuration has another path by now."""
    found = cast("dict[str, JSON]", json.loads(args))
    path = cast(str, found["path"])
    params = template.match(segments_of(path))
    if params is None:
        raise BadCall("the recorded request no longer fits its route", fix="declare the route as it was")
    body: Body = None
    if "body" in found:
        body = Json(found["body"])
    elif "form" in found:
        body = Form(cast("Fields", found["form"]))
    elif "body_b64" in found:
        body = Raw(base64.b64decode(cast(str, found["body_b64"])))
    return Request(
        method=cast(str, found["method"]),
        path=path,
        params=params,
        query=cast("Fields", found.get("query", {})),
        headers=cast("dict[str, str]", found.get("headers", {})),
        body=body,
    )


def allowed_header(name: str) -> bool:
    """Whether a configuration may let an agent set this header."""
    return _TOKEN.fullmatch(name) is not None and _NEVER.fullmatch(name.lower()) is None


def json_of(data: bytes) -> JSON:
    """The JSON value of a text. Raises BadCall for what is not JSON, and for a key that is there twice."""
    try:
        value = cast("JSON", json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant))
        canonical(value)
    except (ValueError, RecursionError, Uncanonical):
        raise BadCall("the body is no JSON that has one meaning", fix="send UTF-8, each key once, no NaN") from None
    return value


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _constant(text: str) -> JSON:
    raise ValueError(f"{text} is no JSON")


def _headers(given: JSON, more: frozenset[str]) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadCall("`headers` is no object", fix='give {"accept": "application/json"}')
    found: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise BadCall(f"the header `{ascii(name[:80])[1:-1]}` cannot be sent", fix="give visible ASCII")
        if len(value) > HEADER_MAX:
            raise BadCall(f"the header `{lower}` has more than {HEADER_MAX} bytes")
        if lower in found:
            raise BadCall(f"the header `{lower}` is there twice", fix="send it once")
        found[lower] = value.strip()
    if any(name in found for name in _OVERRIDES):
        raise BadCall("a header overrides the method", fix="ask for the operation that is meant")
    if found.get("content-encoding", "identity") != "identity":
        raise BadCall("the body is packed", fix="send it plain")
    named = {name.strip().lower() for name in found.get("connection", "").split(",")}
    return {name: value for name, value in found.items() if (name in USUAL or name in more) and name not in named}


def _query(given: JSON) -> Fields:
    if given is None:
        return {}
    if isinstance(given, str):
        return fields_of(given, "the query")
    if not isinstance(given, dict):
        raise BadCall("`query` is neither text nor an object", fix='give {"limit": "10"}')
    return checked_fields(list(given.items()), "the query")


def _body(args: Mapping[str, JSON], headers: dict[str, str], *, batch: bool) -> Body:
    given = [name for name in ("body", "form", "body_b64") if args.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise BadCall("a request has one body", fix="give body or body_b64")
    kind, parameters = _content_type(headers)
    value = args[given[0]]
    if given[0] == "form":
        if not isinstance(value, dict):
            raise BadCall("`form` is no object")
        headers["content-type"] = _FORM
        return Form(checked_fields(list(value.items()), "the form"))
    if given[0] == "body_b64":
        data = _unbased(value)
    elif isinstance(value, str):
        data = _utf8(value)
    else:
        if kind and not _JSON_TYPE.fullmatch(kind):
            raise BadCall("the body is JSON, and its content type says otherwise", fix="give the body as text")
        data = None
    if data is None or _JSON_TYPE.fullmatch(kind):
        return _json(value if data is None else json_of(data), headers, kind, parameters, batch=batch)
    if kind == _FORM:
        headers["content-type"] = _FORM
        return Form(fields_of(data.decode("latin-1"), "the form"))
    headers.setdefault("content-type", "application/octet-stream")
    return Raw(data)


def _json(value: JSON, headers: dict[str, str], kind: str, parameters: str, *, batch: bool) -> Json:
    if isinstance(value, list | tuple) and not batch:
        raise BadCall("the body is a list: several requests in one", fix="send them one by one, or declare `batch`")
    try:
        canonical(value)
    except Uncanonical as error:
        raise BadCall(f"the body cannot be sent: {error}") from None
    headers["content-type"] = f"{kind or 'application/json'}{parameters}"
    return Json(value)


def _content_type(headers: Mapping[str, str]) -> tuple[str, str]:
    """The type of the body in lower case, and its parameters. Raises BadCall for JSON or a form that is not UTF-8."""
    kind, semicolon, parameters = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise BadCall("the body is not in UTF-8", fix="send UTF-8")
    return kind, f"{semicolon}{parameters}"


def _unbased(value: JSON) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise BadCall("`body_b64` is no base64")


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise BadCall("the body is no Unicode") from None


def _changed(value: JSON, change: Callable[[str], str]) -> JSON:
    match value:
        case str():
            return change(value)
        case dict():
            return {key: _changed(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_changed(item, change) for item in value]
        case _:
            return value


def _changed_fields(fields: Fields, change: Callable[[str], str]) -> Fields:
    return {
        key: change(value) if isinstance(value, str) else [change(item) for item in value]
        for key, value in fields.items()
    }
