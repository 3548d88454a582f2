"""What agents ask models in their providers' own protocols: read strictly, and looked through before it is sent.

Rules
1. A request is parsed once, and what is sent is made from what was parsed: nobody further on reads it in another way.
2. What is not known is refused. A field, a tool or a reference may make the provider fetch, run or remember something:
   that would be a way out that no policy sees, or an answer that rests on what no log holds.
3. Whether an answer is streamed does not change what is asked: `stream` and `stream_options` are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeAlias, cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.errors import BadCall, Unknown

LARGEST_ASKED = 16 << 20  # bytes
HIDDEN_TOKENS = 1000  # what providers put before a request of their own accord (for tools)
MEDIA_TOKENS = 10_000  # for an image, a sound or a file: their size tells little of their tokens
MOST_CHOICES = 128

Protocol: TypeAlias = Literal["openai", "anthropic"]
BETAS = "anthropic-beta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One operation of a protocol. `path`: where it is, behind the base URL. `fields`: what may be asked for. `limits`:
    the fields that bound the tokens of an answer; the first is the one to set. `tools`: types of tools that the agent
    carries out itself; one that ends in `_` stands for all that begin so. `texts`: the fields that hold content."""

    operation: str
    protocol: Protocol
    path: str
    fields: frozenset[str]
    limits: tuple[str, ...]
    tools: tuple[str, ...]
    texts: tuple[str, ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WIRES = {
    "chat": Wire(
        operation="chat",
        protocol="openai",
        path="/chat/completions",
        fields=_names(
            "model messages frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
            "max_tokens metadata n parallel_tool_calls presence_penalty prompt_cache_key prompt_cache_retention "
            "reasoning_effort response_format safety_identifier seed stop store temperature "
            "tool_choice tools top_logprobs top_p user verbosity"
        ),
        limits=("max_completion_tokens", "max_tokens"),
        tools=("function", "custom"),
        texts=("messages",),
    ),
    "responses": Wire(
        operation="responses",
        protocol="openai",
        path="/responses",
        fields=_names(
            "model input include instructions max_output_tokens max_tool_calls metadata parallel_tool_calls "
            "prompt_cache_key prompt_cache_retention reasoning safety_identifier store temperature "
            "text tool_choice tools top_logprobs top_p truncation user"
        ),
        limits=("max_output_tokens",),
        tools=("function", "custom", "local_shell", "apply_patch", "computer_use_preview", "computer"),
        texts=("input",),
    ),
    "messages": Wire(
        operation="messages",
        protocol="anthropic",
        path="/v1/messages",
        fields=_names(
            "model messages cache_control max_tokens metadata output_config output_format stop_sequences system "
            "temperature thinking tool_choice tools top_k top_p"
        ),
        limits=("max_tokens",),
        tools=("custom", "bash_", "text_editor_", "computer_", "memory_"),
        texts=("messages", "system"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be asked: `models` with the most tokens of an answer of each; `fields` and `tools` beyond those of the
    protocol; `betas` by name; `elsewhere`: whether a request may name what lies elsewhere (a URL, a file or an item at
    the provider)."""

    models: Mapping[str, int]
    fields: Collection[str] = ()
    tools: Collection[str] = ()
    betas: Collection[str] = ()
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an answer is to come. `streamed`: as a stream; `usage`: one of chat completions ends in a chunk of usage;
    `options`: what else the agent says of its stream."""

    streamed: bool = False
    usage: bool = False
    options: Mapping[str, JSON] = field(default_factory=dict[str, JSON])


WHOLE = Form()


def take_form(body: dict[str, JSON]) -> Form:
    """Take out of a request what does not change what it asks. Raises BadCall."""
    streamed, options = body.pop("stream", None), body.pop("stream_options", None)
    if not isinstance(streamed, bool | None) or not isinstance(options, dict | None):
        raise BadCall("`stream` is true or false, and `stream_options` an object")
    options = dict(options or {})
    usage = options.pop("include_usage", False)
    return Form(streamed=bool(streamed), usage=usage is True, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and may be: `asked` as the agent says it, `sent` as the provider is told, `betas` what it is told
    beside it. At most so many tokens are read for it and answered: `input_most`, `output_most`."""

    wire: Wire
    model: str
    asked: Mapping[str, JSON]
    sent: Mapping[str, JSON]
    betas: str
    input_most: int
    output_most: int

    def body(self, form: Form) -> bytes:
        """What is sent. A stream of chat completions always tells its usage."""
        told = dict(self.sent)
        if form.streamed:
            options = dict(form.options)
            if self.wire.operation == "chat":
                options["include_usage"] = True
            told |= {"stream": True, **({"stream_options": options} if options else {})}
        return spelt(told)


def spelt(value: JSON) -> bytes:
    """The JSON text of a value that came as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def read_question(wire: Wire, asked: Mapping[str, JSON], terms: Terms) -> Question:
    """What these fields ask, and `anthropic-beta` with them. Raises BadCall for what is not allowed, Unknown for a
    model that is not declared."""
    sent = dict(asked)
    betas = sent.pop(BETAS, "")
    model = sent.get("model")
    if not isinstance(model, str) or model not in terms.models:
        known = ", ".join(sorted(terms.models))
        raise Unknown(f"the model `{shown(model)}` is not declared", fix=f"ask one of: {known}")
    _check_betas(betas, terms)
    _check_fields(wire, sent, terms)
    _check_tools(wire, sent, terms)
    media = sum(_look(sent.get(name), terms) for name in wire.texts)
    output = _bound(wire, sent, terms.models[model])
    return Question(
        wire=wire,
        model=model,
        asked=asked,
        sent=sent,
        betas=str(betas),
        input_most=len(spelt(sent)) + HIDDEN_TOKENS + media * MEDIA_TOKENS,
        output_most=output,
    )


def _check_betas(betas: JSON, terms: Terms) -> None:
    names = betas.split(",") if isinstance(betas, str) else [shown(betas)]
    for name in filter(None, (each.strip() for each in names)):
        if name not in terms.betas:
            raise BadCall(
                f"the beta `{shown(name)}` is not allowed",
                fix="leave it out, or name it in `betas` of the upstream",
            )


def read_object(data: bytes) -> dict[str, JSON]:
    """The JSON object of these bytes, which must say one thing only. Raises BadCall."""
    if len(data) > LARGEST_ASKED:
        raise BadCall(f"the request is larger than {LARGEST_ASKED} bytes", fix="send less")
    try:
        found = cast(JSON, json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_number))
        canonical(found)
    except (Uncanonical, ValueError, RecursionError) as error:
        said = error.args[0] if isinstance(error, _Twice) else str(error).partition("\n")[0]
        raise BadCall(f"the request is not the JSON that it must be: {said[:300]}") from None
    if not isinstance(found, dict):
        raise BadCall("the request is not a JSON object")
    return found


class _Twice(ValueError):
    """A name stands twice in one object: nobody can tell which of the two the next reader takes."""


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"`{shown(next(name for name in names if names.count(name) > 1))}` stands twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def _check_fields(wire: Wire, body: Mapping[str, JSON], terms: Terms) -> None:
    for name, value in body.items():
        if name not in wire.fields and name not in terms.fields and value is not None:
            raise BadCall(
                f"the field `{shown(name)}` is not one that may be asked for",
                fix="leave it out, or name it in `fields` of the upstream",
            )


def _check_tools(wire: Wire, body: Mapping[str, JSON], terms: Terms) -> None:
    """What the provider would carry out itself, nobody here would see."""
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise BadCall("`tools` is a list")
    for tool in tools:
        kind = tool.get("type", "custom" if wire.protocol == "anthropic" else None) if isinstance(tool, dict) else None
        if not isinstance(kind, str):
            raise BadCall("a tool is an object with a `type`")
        own = any(kind == name or (name.endswith("_") and kind.startswith(name)) for name in wire.tools)
        if not own and kind not in terms.tools:
            raise BadCall(
                f"a tool of the type `{shown(kind)}` is carried out by the provider, where nobody judges it",
                fix="leave it out, or name it in `tools` of the upstream",
            )


def _look(value: JSON, terms: Terms) -> int:
    """How many images, sounds and files are in it. Raises BadCall if it names what lies elsewhere."""
    if isinstance(value, list | tuple):
        return sum(_look(item, terms) for item in value)
    if not isinstance(value, dict):
        return 0
    kind, media = value.get("type"), 0
    for name, item in value.items():
        if kind == "tool_use" and name == "input":
            continue  # the agent's own arguments
        text = item.get("url") if isinstance(item, dict) else item
        link = name.endswith("_url") or (kind == "url" and name == "url")
        if (link and isinstance(text, str) and not text.startswith("data:")) or (name == "file_id" and item):
            _elsewhere(name, terms)
        media += link or name in ("input_audio", "file_data", "file_id") or (name == "type" and item == "base64")
        media += _look(item, terms)
    if kind == "item_reference":
        _elsewhere("item_reference", terms)
    return media


def _elsewhere(what: str, terms: Terms) -> None:
    if not terms.elsewhere:
        raise BadCall(
            f"`{what}` names what lies elsewhere: the provider would fetch it, and no policy would be asked",
            fix="send it along (`data:` or base64), or set `elsewhere = true` for the upstream",
        )


def _bound(wire: Wire, body: dict[str, JSON], most: int) -> int:
    """The most tokens of all answers together. Sets the limit that the upstream declares where the agent sets none."""
    limits = [_whole(name, body[name], most) for name in wire.limits if body.get(name) is not None]
    if not limits:
        body[wire.limits[0]] = most
    choices = body.get("n")
    return max(limits, default=most) * (1 if choices is None else _whole("n", choices, MOST_CHOICES))


def _whole(name: str, value: JSON, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise BadCall(f"`{name}` is a whole number from 1 to {most}")
    return value


def shown(value: object) -> str:
    """A name out of a request as it may stand in an error."""
    text = value if isinstance(value, str) else type(value).__name__
    return ascii(text)[1:-1][:80]


# --- errors, as a provider words them ---

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_of(protocol: Protocol, status: int, what: str, code: str) -> dict[str, JSON]:
    """An error in the provider's own form."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if protocol == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": what}, "request_id": None}
    return {"error": {"message": what, "type": kind, "param": None, "code": code}}
