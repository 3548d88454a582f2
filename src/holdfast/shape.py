"""Python values and the JSON that stands for them.

Rules
1. What a value looks like after it was read back is what its user sees the first time too.
2. Writing down an answer is total: what cannot be written down becomes `lost`, with the reason. Arguments are refused
   instead.
3. Types are taken from annotations of the user's own functions, never from data.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, Happened, legible

LARGEST_BYTES = 256 << 20
_PLAIN: frozenset[object] = frozenset({Any, object, None, type(None), str, int, float, bool, dict, list, bytes})
_dense = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Written:
    """An answer as bytes; `woven` is the JSON value that they give, `value` what the user gets."""

    data: bytes
    encoding: Encoding
    woven: JSON
    value: object


class Shape:
    """Reads and writes the values of one annotation. Plain JSON types pass as they are, all others go through
    pydantic."""

    def __init__(self, annotation: object) -> None:
        self.plain = _is_plain(annotation)
        self._annotation = annotation
        self._adapter: Any = None

    def to_json(self, value: object) -> JSON:
        """The JSON value of `value`. Raises ValueError or TypeError if it has none."""
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        try:
            if self.plain:
                return cast(JSON, to_jsonable_python(value, inf_nan_mode="constants"))
            return cast(JSON, self._pydantic().dump_python(value, mode="json"))
        except PydanticSerializationError as error:
            raise TypeError(str(error)) from error

    def from_json(self, value: JSON) -> object:
        """The value that `value` stands for. Raises ValueError if it does not fit the annotation."""
        return value if self.plain else self._pydantic().validate_python(value)

    def write(self, value: object) -> Written:
        """Write an answer down. Total: never raises."""
        if isinstance(value, bytes | bytearray):
            data = bytes(value)
            return _lost("too large", value) if len(data) > LARGEST_BYTES else Written(data, Encoding.BYTES, None, data)
        try:
            data, woven = self._text(value)
            if len(data) > LARGEST_BYTES:
                return _lost(f"{len(data)} bytes are more than {LARGEST_BYTES}", value)
            return Written(data, Encoding.JSON, woven, self._value(woven))
        except Exception as error:  # noqa: BLE001 - the effect has happened: whatever its answer does, it is sealed
            return _lost(f"{type(error).__name__}: {legible(error)}", value)

    def read(self, data: bytes, encoding: Encoding) -> Written:
        """What sealed bytes stand for."""
        match encoding:
            case Encoding.BYTES:
                return Written(data, encoding, None, data)
            case Encoding.LOST:
                return Written(data, encoding, None, data.decode())
            case Encoding.JSON:
                woven = cast(JSON, json.loads(data))
                return Written(data, encoding, woven, self._value(woven))

    def _value(self, woven: JSON) -> object:
        """The value of the annotation; the JSON itself where the function did not keep to its annotation."""
        try:
            return self.from_json(woven)
        except ValueError:
            return woven

    def _text(self, value: object) -> tuple[bytes, JSON]:
        if self.plain:
            try:
                data = _encoded(value)
            except TypeError:
                data = _encoded(self.to_json(value))
        else:
            data = _encoded(self.to_json(value))
        if type(value) is str and value.isascii():
            return data, value
        return data, cast(JSON, json.loads(data))

    def _pydantic(self) -> Any:
        if self._adapter is None:
            from pydantic import TypeAdapter

            self._adapter = TypeAdapter(cast(Any, self._annotation))
        return self._adapter


def _encoded(value: object) -> bytes:
    try:
        return _dense(value).encode()
    except UnicodeEncodeError:
        return _ascii(value).encode()


def _lost(reason: str, value: object) -> Written:
    text = {"reason": legible(reason, 500), "type": legible(type(value).__name__, 200)}
    data = _dense(text).encode()
    return Written(data, Encoding.LOST, None, data.decode())


def _is_plain(annotation: object) -> bool:
    try:
        if annotation in _PLAIN:
            return True
    except TypeError:
        return False
    origin = typing.get_origin(annotation)
    if origin in (dict, list, typing.Union, types.UnionType):
        return all(_is_plain(part) for part in typing.get_args(annotation))
    return False


def hints_of(function: Callable[..., object]) -> dict[str, object]:
    """The annotations of a function, resolved; those that cannot be are left out, and count as plain."""
    try:
        return dict(typing.get_type_hints(function))
    except Exception:  # noqa: BLE001 - a forward reference that only a type checker can follow
        return {}


@dataclass(slots=True)
class Function:
    """A user's function with what its annotations say; `outside` is the context in which it runs."""

    call: Callable[..., object]
    probe: Callable[..., object] | None = None
    undo: Callable[..., object] | None = None
    _shapes: dict[str, Shape] | None = field(default=None, init=False)
    awaited: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.awaited = inspect.iscoroutinefunction(self.call)

    def shape(self, name: str) -> Shape:
        """The shape of a parameter, or of the answer (`return`)."""
        if self._shapes is None:
            hints = hints_of(self.call)
            hints["return"] = _answer_hint(hints.get("return", object))
            self._shapes = {known: Shape(hint) for known, hint in hints.items()}
        return self._shapes.get(name) or self._shapes.setdefault(name, Shape(object))


def _answer_hint(hint: Any) -> Any:
    """The annotation of the answer itself, where a function says that it answers `Happened[…]`."""
    if hint is Happened:
        return object
    if typing.get_origin(hint) is Happened:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Union[tuple(_answer_hint(part) for part in typing.get_args(hint))]  # noqa: UP007
    return hint
