"""What the native door says of itself: an OpenAPI document, made from the models that read its bodies."""

from __future__ import annotations

from functools import cache
from typing import Any

from holdfast.gateway.doors.agent import (
    CheckpointBody,
    DecideBody,
    DecidedBody,
    DrawBody,
    FinishBody,
    WaitBody,
)
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


def _object(required: str = "", **members: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": members}


_TEXT = {"type": "string"}
_ANSWERS: dict[str, Any] = {
    "Ticket": _object(ticket=_TEXT, answer={}),
    "Drawn": _object("value", value=_TEXT),
    "Value": _object("value", value={}),
    "Node": _object("node", node={"type": ["string", "null"]}),
    "Stranded": _object("stranded", stranded={"type": "array", "items": _object("node tool happened undone")}),
    "Beginning": _object(
        "run branch input settings restored state services",
        run=_TEXT, branch=_TEXT, input={}, settings={"type": "object"}, restored={"type": "boolean"}, state={},
        services={"type": "array", "items": _TEXT},
    ),
}  # fmt: skip

_MAKER: dict[str, Any] = {
    "name": "maker", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 200},
    "description": "The program's own random name: who says it again is told again.",
}  # fmt: skip


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
    schemas: dict[str, Any] = {"Error": error, "Answer": answer, "Given": given, **_ANSWERS}
    for model in (CallBody, NarrowBody, DecideBody, DecidedBody, DrawBody, WaitBody, CheckpointBody, FinishBody):
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
        "paths": _paths(),
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/call": {"post": _operation("Call a tool.", "Answer", "CallBody")},
        "/v1/narrow": {"post": _operation("Get a capability that allows less.", "Given", "NarrowBody")},
        "/v1/operations": {"get": _operation("What may be called.", None)},
        "/v1/run": {"get": _operation("Whose right this is, and what it allows.", None)},
        "/v1/decide": {
            "post": _operation("Has this been decided? If not: who asks finds out.", "Ticket", "DecideBody")
        },
        "/v1/decided": {"post": _operation("Say what was decided.", "Ticket", "DecidedBody")},
        "/v1/draw": {"post": _operation("The recorded value of a name, or else this one.", "Drawn", "DrawBody")},
        "/v1/wait": {"post": _operation("Wait for a time, or for a signal.", "Value", "WaitBody")},
        "/v1/checkpoint": {"post": _operation("Go on from here after a crash.", "Node", "CheckpointBody")},
        "/v1/stranded": {"get": _operation("What was left behind by branches given up.", "Stranded")},
        "/v1/finish": {"post": _operation("What the agent came to.", None, "FinishBody")},
        "/v1/begin": {
            "get": {**_operation("What the run's program begins with.", "Beginning"), "parameters": [_MAKER]}
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
