"""What the native door says of itself: an OpenAPI document, made from the models that read its bodies."""

from __future__ import annotations

from functools import cache
from typing import Any

from holdfast.gateway.doors.native import CallBody, NarrowBody

_ERRORS = {
    "400": "The body is not understood, or the call breaks the tool's contract.",
    "401": "No capability was shown, or one that is worth nothing here.",
    "403": "The capability, the policy or a person said no.",
    "409": "It cannot be done now.",
    "410": "The run was cancelled.",
    "413": "The body is too large.",
    "422": "It certainly did not happen; the system's own answer may be there.",
    "500": "The gateway has failed.",
    "502": "The system could not be reached.",
    "503": "The call waits: for people, for a time, for a doubt to be settled. Send it again.",
}


@cache
def document() -> dict[str, Any]:
    """The document, as JSON values."""
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["kind", "what", "where", "fix"],
                "properties": {name: {"type": "string"} for name in ("kind", "what", "where", "fix")},
            },
            "answer": {},
            "answer_b64": {"type": "string"},
            "etag": {"type": ["string", "null"]},
        },
    }
    answer = {
        "type": "object",
        "properties": {"answer": {}, "answer_b64": {"type": "string"}, "etag": {"type": ["string", "null"]}},
    }
    given = {
        "type": "object",
        "required": ["capability", "handle"],
        "properties": {"capability": {"type": "string"}, "handle": {"type": "string"}},
    }
    schemas: dict[str, Any] = {"Error": error, "Answer": answer, "Given": given}
    for model in (CallBody, NarrowBody):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast, native door", "version": "1"},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"handle": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"handle": []}],
        "paths": {
            "/v1/call": {"post": _operation("Call a tool.", "Answer", "CallBody")},
            "/v1/narrow": {"post": _operation("Get a capability that allows less.", "Given", "NarrowBody")},
            "/v1/operations": {"get": _operation("What may be called.", None)},
            "/v1/run": {"get": _operation("Whose right this is, and what it allows.", None)},
        },
    }


def _operation(summary: str, answer: str | None, body: str | None = None) -> dict[str, Any]:
    ref = {"type": "object"} if answer is None else {"$ref": f"#/components/schemas/{answer}"}
    responses: dict[str, Any] = {
        "200": {"description": "Done.", "content": {"application/json": {"schema": ref}}},
    }
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses |= {status: {"description": what, "content": failed} for status, what in _ERRORS.items()}
    found: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found
