"""The operations that an OpenAPI file (JSON) describes, as routes.

Rules
1. The file tells names, methods and paths. What repeating a call means it does not tell: reads are those of HTTP, all
   else is irreversible, unless an operation carries `x-holdfast` with the fields of a route.
2. An operation that has no route (a name that does not fill a segment, another method) is left out, and so refused.

Source: OpenAPI 3.1 §4.8.8–4.8.10.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from holdfast.core.canonical import JSON
from holdfast.errors import BadContract
from holdfast.gateway.upstreams.http_config import Route
from holdfast.gateway.upstreams.http_path import template_of

_METHODS = ("get", "head", "options", "post", "put", "patch", "delete")


def routes_of(path: Path) -> tuple[Route, ...]:
    """The routes of a file. Raises BadContract for one that is no OpenAPI 3 in JSON."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadContract(f"`{path}` cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BadContract(f"`{path}` is no JSON", fix="write the OpenAPI file as JSON") from None
    document = cast("JSON", found)
    paths = document.get("paths") if isinstance(document, dict) else None
    if (
        not isinstance(document, dict)
        or not isinstance(paths, dict)
        or not str(document.get("openapi", "")).startswith("3.")
    ):
        raise BadContract(f"`{path}` is no OpenAPI 3 file")
    return tuple(_routes(path, paths))


def _routes(file: Path, paths: dict[str, JSON]) -> Iterator[Route]:
    for path, item in paths.items():
        try:
            template_of(path)
        except BadContract:
            continue
        if isinstance(item, dict):
            for method in _METHODS:
                operation = item.get(method)
                if isinstance(operation, dict):
                    yield _route(file, method, path, operation)


def _route(file: Path, method: str, path: str, operation: dict[str, JSON]) -> Route:
    told = operation.get("operationId")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", told).strip("_")[:80] if isinstance(told, str) else ""
    about = operation.get("summary") or operation.get("description")
    more = operation.get("x-holdfast")
    fields: dict[str, object] = {
        "name": name or None,
        "description": about if isinstance(about, str) else "",
        **(more if isinstance(more, dict) else {}),
        "method": method.upper(),
        "path": path,
    }
    try:
        return Route.model_validate(fields)
    except ValidationError as error:
        where = error.errors()[0]
        place = ".".join(str(part) for part in where["loc"])
        raise BadContract(f"`{method.upper()} {path}` of `{file}`: {where['msg']} (`{place}`)") from None
