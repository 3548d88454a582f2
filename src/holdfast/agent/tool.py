"""Tools: functions with a contract. Inside a run they go through the log by themselves; outside they are plain
functions.

Rules
1. The decorated function keeps its name, signature and colour (sync or async), so that any framework can take it. Where
   the function answers `Happened(answer, etag)`, the decorated one answers `answer`: the version is for the seal.
2. A contract that contradicts itself is refused when the module is imported.
3. Arguments are bound with their defaults before they are compared.
4. A log names its tools; `tool_named` finds what is declared under a name in this process, and nothing is imported for
   it. A tool that nobody holds any more is not found.
"""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints, overload

from holdfast.agent.run import current
from holdfast.core.contract import Contract, Drift, Level, Repeat, breach, default_drift, default_repeat
from holdfast.core.effect import Happened, Kind
from holdfast.errors import BadCall, BadContract, Misuse

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
_declared: dict[str, list[weakref.ref[Tool]]] = {}  # by the contract's name, oldest first


class ToolFunction(Protocol[P, R_co]):
    """A decorated function: called as before, and `again(label)` for a deliberate further effect."""

    holdfast: Tool

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Through the log inside a run, else the plain function."""
        ...

    def again(self, label: str) -> Callable[P, R_co]:
        """The same tool, as an effect of its own under `label`."""
        ...


class Declared(Protocol):
    """What `@tool(…)` makes of a function."""

    @overload
    def __call__(self, function: Callable[P, Happened[A]], /) -> ToolFunction[P, A]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, Happened[A]]], /
    ) -> ToolFunction[P, Coroutine[Any, Any, A]]: ...
    @overload
    def __call__(self, function: Callable[P, R_co], /) -> ToolFunction[P, R_co]: ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Tool:
    """A function, its contract, and how to ask the world about it. `rest` is the parameter that takes all other
    names."""

    contract: Contract
    function: Callable[..., object]
    probe: Callable[..., object] | None
    undo: Callable[..., object] | None
    blast: int | Callable[..., int] | None
    names: tuple[str, ...]
    defaults: dict[str, object]
    simple: bool
    signature: inspect.Signature
    rest: str | None = None
    upstream: object = None

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """All arguments by name, with defaults. Raises BadCall if they do not fit the signature."""
        if self.simple and len(args) <= len(self.names):
            values = dict(zip(self.names, args, strict=False))
            doubled = not values.keys().isdisjoint(kwargs)
            values.update(kwargs)
            if len(values) != len(self.names):
                values = {**self.defaults, **values}
            if len(values) == len(self.names) and not doubled and values.keys() == set(self.names):
                return values
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadCall(
                f"`{self.contract.name}`: {error}", fix="call it with the arguments of its signature"
            ) from None
        bound.apply_defaults()
        named = dict(bound.arguments)
        if self.rest is not None:
            named |= cast("dict[str, object]", named.pop(self.rest))
        return named

    def radius(self, values: Mapping[str, object]) -> int | None:
        """How much this call touches, if the contract says. Raises BadCall for what is no natural number."""
        found: object = self.blast(**values) if callable(self.blast) else self.blast
        if found is None or (type(found) is int and found >= 0):
            return found
        raise BadCall(
            f"the blast radius of `{self.contract.name}` is {found!r}", fix="make it a whole number, 0 or more"
        )


def tool(
    *,
    kind: str = "irreversible",
    name: str | None = None,
    identity: Sequence[str] | None = None,
    resource: Sequence[str] | None = None,
    repeat: str | None = None,
    drift: str | None = None,
    key_ttl_s: float | None = None,
    late_s: float | None = None,
    timeout_s: float | None = None,
    probe: Callable[..., object] | None = None,
    undo: Callable[..., object] | None = None,
    blast: int | Callable[..., int] | None = None,
    approval: str = "none",
    secret: Sequence[str] = (),
) -> Declared:
    """Declare what a function promises about its effect on the world. It answers a value, or `Happened(value, etag)`
    where it can tell the version of what it read or wrote.

    `kind`: read, idempotent (safe to send again with the same `holdfast.key()`), reversible (has an `undo`),
    irreversible (the default). `identity`: the arguments that make two calls the same (default: all). `resource`: those
    that name what is touched. `repeat`: once, ask or each; `drift`: adopt, ask or refuse. Times in seconds. `probe` and
    `undo` take the tool's arguments; `undo` may take `answer` too. `approval`: none, notify, one or two. `secret`:
    arguments that are written down only as commitments. Raises BadContract if this contradicts itself.
    """

    def decorate(function: Callable[P, Any]) -> Any:
        made = _tool_of(
            function,
            _contract(
                name or f"{function.__module__}.{function.__name__}",
                kind=kind, identity=identity, resource=resource, repeat=repeat, drift=drift, key_ttl_s=key_ttl_s,
                late_s=late_s, timeout_s=timeout_s, probe=probe is not None, undo=undo is not None,
                approval=approval, secret=secret,
            ),
            probe, undo, blast,
        )  # fmt: skip
        _declare(made)
        return _wrapped(made, None, function)

    return cast(Declared, decorate)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _contract(
    name: str,
    *,
    kind: str,
    identity: Sequence[str] | None,
    resource: Sequence[str] | None,
    repeat: str | None,
    drift: str | None,
    key_ttl_s: float | None,
    late_s: float | None,
    timeout_s: float | None,
    probe: bool,
    undo: bool,
    approval: str,
    secret: Sequence[str],
) -> Contract:
    for field, names in (("identity", identity), ("resource", resource), ("secret", secret)):
        if isinstance(names, str):
            raise BadContract(f"`{name}`: {field} is a list of names, not a text", fix=f'{field}=["{names}"]')
    try:
        chosen = Kind(kind)
        return Contract(
            name=name,
            kind=chosen,
            identity=None if identity is None else tuple(identity),
            resource=None if resource is None else tuple(resource),
            repeat=default_repeat(chosen, identity) if repeat is None else Repeat(repeat),
            drift=default_drift(chosen) if drift is None else Drift(drift),
            key_ttl_ms=_ms(key_ttl_s),
            late_ms=_ms(late_s),
            timeout_ms=_ms(timeout_s),
            probe=probe,
            undo=undo,
            approval=Level(approval),
            secret=tuple(secret),
        )
    except ValueError as error:
        raise BadContract(f"`{name}`: {error}", fix="use a value that docs/concepts.md lists") from None


def _tool_of(
    function: Callable[..., object],
    contract: Contract,
    probe: Callable[..., object] | None,
    undo: Callable[..., object] | None,
    blast: int | Callable[..., int] | None,
) -> Tool:
    signature = inspect.signature(function)
    parameters = signature.parameters
    simple = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters.values())
    nameless = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)
    if any(parameter.kind in nameless for parameter in parameters.values()):
        raise BadContract(f"`{contract.name}` takes arguments that cannot be passed by name", fix="name its parameters")
    rest = next((known for known, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD), None)
    why = breach(contract, parameters.keys() - {rest})
    if why is not None:
        raise BadContract(why, fix="mend the arguments of @tool")
    defaults: dict[str, object] = {
        known: parameter.default for known, parameter in parameters.items() if parameter.default is not parameter.empty
    }
    return Tool(contract, function, probe, undo, blast, tuple(parameters), defaults, simple, signature, rest)


def _wrapped(made: Tool, again: str | None, function: Callable[P, R_co]) -> ToolFunction[P, R_co]:
    plain = cast(Any, function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def in_async(*args: Any, **kwargs: Any) -> Any:
            run = current()
            if run is None:
                return _answer(await plain(*args, **kwargs))
            return await run.mediate(made, args, kwargs, again)

        wrapper = cast(Any, in_async)
    else:

        @functools.wraps(function)
        def in_sync(*args: Any, **kwargs: Any) -> Any:
            run = current()
            if run is None:
                return _answer(plain(*args, **kwargs))
            return run.wait(run.mediate(made, args, kwargs, again))

        wrapper = cast(Any, in_sync)
    _sign(wrapper, made)
    wrapper.holdfast = made
    wrapper.holdfast_again = again

    def labelled(label: str) -> ToolFunction[P, R_co]:
        return cast("ToolFunction[P, R_co]", _wrapped(made, label, function))

    wrapper.again = labelled
    return cast("ToolFunction[P, R_co]", wrapper)


def _answer(answer: Any) -> Any:
    return cast(Any, answer).answer if isinstance(answer, Happened) else answer


def _sign(wrapper: Any, made: Tool) -> None:
    """Let a decorated function say what it answers, where the function itself says `Happened[…]`."""
    if "Happened" not in str(made.signature.return_annotation):
        return
    try:
        hint = get_type_hints(made.function).get("return")
    except Exception:  # noqa: BLE001 - a forward reference that only a type checker can follow
        return
    if get_origin(hint) is Happened:
        told = get_args(hint)[0]
        wrapper.__annotations__ = {**wrapper.__annotations__, "return": told}
        wrapper.__signature__ = made.signature.replace(return_annotation=told)


def _declare(made: Tool) -> None:
    name = made.contract.name
    living = [known for known in _declared.get(name, ()) if known() is not None]
    _declared[name] = [*living, weakref.ref(made)]


def tool_named(name: str) -> Tool | None:
    """The tool that is declared under the contract's name in this process; None if there is none. One function that was
    loaded or made anew is its newest self. Raises Misuse where different functions go by this name."""
    if len(_places(name)) > 1:
        gc.collect()  # one that nobody holds any more may still be there
    places = _places(name)
    if len(places) > 1:
        raise Misuse(
            f"different functions are declared as the tool `{name}`: {', '.join(places)}",
            fix="give one of them another name: @tool(name=…)",
        )
    return next(reversed(_living(name)), None)


def _living(name: str) -> list[Tool]:
    return [made for known in _declared.get(name, ()) if (made := known()) is not None]


def _places(name: str) -> list[str]:
    return sorted({_place(made) for made in _living(name)})


def _place(made: Tool) -> str:
    """Where a tool's function is written: the same when its module is loaded once more, under whatever name."""
    function = inspect.unwrap(made.function)
    code = getattr(function, "__code__", None)
    file = getattr(function, "__module__", "") if code is None else code.co_filename
    return f"{file}:{getattr(function, '__qualname__', type(function).__name__)}"


def tool_of(function: object) -> Tool:
    """The tool of a decorated function. Raises BadCall if it has none."""
    found = getattr(function, "holdfast", None)
    if isinstance(found, Tool):
        return found
    raise BadCall(f"`{getattr(function, '__name__', function)}` is not a tool", fix="decorate it with @tool")


def label_of(function: object) -> str | None:
    """The label of `tool.again(label)`; None for the tool itself."""
    return cast("str | None", getattr(function, "holdfast_again", None))
