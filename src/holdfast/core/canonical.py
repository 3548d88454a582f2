"""Canonical JSON: one value, one string of bytes.

Rules
1. Order, strings and floats are RFC 8785's: keys by UTF-16 code units, strings with the fewest escapes, floats as
   ECMAScript writes them (`1.0` is `1`, `-0.0` is `0`).
2. Integers are written exactly, however large. This is the one departure from RFC 8785, which would round them.
3. What has no single JSON text is refused, never repaired: NaN, infinities, lone surrogates, keys that are not text,
   other types, and nesting beyond `DEPTH_MAX` (so also a value that contains itself).
4. A subclass of a JSON type is written as its base value: `IntEnum` as a number, `StrEnum` as text.

Identities, keys and digests hang on these bytes, so a change here is a change of the log format (docs/log-format.md).
Source: RFC 8785; ECMA-262 §6.1.6.1.20 (Number::toString).
"""

from json.encoder import encode_basestring as _quoted
from math import isfinite
from typing import Final, TypeAlias, cast

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | tuple[JSON, ...] | str | int | float | bool | None"

DEPTH_MAX: Final = 200
"""Dicts, lists and tuples inside one another, the outermost included."""

_DIGITS_AT_ONCE: Final = 512
"""So many digits Python converts under any setting: its limit (4300, if nobody changed it) is at least 640."""


class Uncanonical(ValueError):
    """A value that has no canonical JSON. The message says where in the value, why, and what to do."""


class _Refused(Exception):
    """Raised on the hot path, which does not know where it is; `_fault` then finds the place."""


def canonical(value: JSON) -> bytes:
    """The canonical JSON of `value`, in UTF-8. Equal values give equal bytes, in any order of keys.

    Raises `Uncanonical` for what rule 3 names.
    """
    try:
        return _text(value, DEPTH_MAX).encode()
    except (_Refused, UnicodeEncodeError):
        fault = _fault(value, "", DEPTH_MAX)
    assert fault, "INVARIANT: `_fault` names whatever the writer refuses"
    raise Uncanonical(fault)


def _text(value: JSON, depth: int) -> str:
    """The text of `value`, at most `depth` levels deep. The commonest types come first."""
    if type(value) is str:
        return _quoted(value)
    if type(value) is int:
        return _integer(value)
    if type(value) is dict:
        return _object(value, depth)
    if type(value) is list or type(value) is tuple:
        if not depth:
            raise _Refused
        return "[" + ",".join([_text(item, depth - 1) for item in value]) + "]"
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is float:
        return _number(value)
    return _text(_base_value(value), depth)


def _object(value: dict[str, JSON], depth: int) -> str:
    if not depth:
        raise _Refused
    depth -= 1
    members: list[str] = []
    for key in _ordered(value):
        if type(key) is not str:
            return _object(_plain_keys(value), depth + 1)
        item = value[key]
        if type(item) is str:
            members.append(f"{_quoted(key)}:{_quoted(item)}")
        else:
            members.append(f"{_quoted(key)}:{_text(item, depth)}")
    return "{" + ",".join(members) + "}"


def _plain_keys(value: dict[str, JSON]) -> dict[str, JSON]:
    """The same dict under keys of type `str` itself. Keys that only their subclass keeps apart are refused."""
    plain = {str.__str__(key): item for key, item in value.items()}
    if len(plain) != len(value):
        raise _Refused
    return plain


def _ordered(value: dict[str, JSON]) -> list[str]:
    """The keys by UTF-16 code units. Among ASCII keys that is Python's own order."""
    try:
        keys = sorted(value)
        if "".join(keys).isascii():
            return keys
    except TypeError:
        raise _Refused from None  # some key is not text
    return sorted(keys, key=_utf16)


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _integer(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than Python converts at once
        width = _DIGITS_AT_ONCE
        while width * 3 < value.bit_length():  # a digit holds more than three bits
            width *= 2
        digits = _digits(abs(value), width).lstrip("0")
        return f"-{digits}" if value < 0 else digits


def _digits(value: int, width: int) -> str:
    """`value` in exactly `width` decimal digits."""
    if width <= _DIGITS_AT_ONCE:
        return int.__repr__(value).zfill(width)
    high, low = divmod(value, 10 ** (width // 2))
    return _digits(high, width // 2) + _digits(low, width // 2)


def _number(value: float) -> str:
    """Number::toString: Python finds the same shortest digits, and writes exponents from other bounds on."""
    if not isfinite(value):
        raise _Refused
    text = float.__repr__(value)
    if text.endswith(".0"):
        return "0" if text == "-0.0" else text[:-2]
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    sign = "-" if mantissa.startswith("-") else ""
    digits = mantissa.lstrip("-").replace(".", "")
    point = int(exponent) + 1  # where the decimal point stands, counted from the first digit
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _base_value(value: object) -> JSON:
    """The JSON value under a subclass of its type. Only a level is changed: the writer comes by again for each."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, dict):
        return dict(cast("dict[str, JSON]", value))
    if isinstance(value, list | tuple):
        return list(cast("list[JSON] | tuple[JSON, ...]", value))
    raise _Refused


def _fault(value: object, at: str, depth: int) -> str | None:
    """What is wrong at the first place of `value` that cannot be written; None if all of it can."""
    match value:
        case None | bool() | int():
            return None
        case float():
            return None if isfinite(value) else _sentence(f"{value!r} is not a number in JSON", at, "use None or text")
        case str():
            return _surrogate("text", value, at)
        case dict() | list() | tuple() if not depth:
            return _sentence(f"nested more than {DEPTH_MAX} deep", at, "flatten it")
        case dict():
            members = cast("dict[object, object]", value)
            faults = (_member_fault(key, item, at, depth - 1) for key, item in members.items())
            return next((fault for fault in faults if fault), None) or _twin_keys(members, at)
        case list() | tuple():
            items = cast("list[object] | tuple[object, ...]", value)
            faults = (_fault(item, f"{at}[{index}]", depth - 1) for index, item in enumerate(items))
            return next((fault for fault in faults if fault), None)
        case _:
            return _sentence(f"`{type(value).__name__}` is no type of JSON", at, "make it a dict, list, text or number")


def _member_fault(key: object, item: object, at: str, depth: int) -> str | None:
    if not isinstance(key, str):
        return _sentence(f"the key `{ascii(key)[:40]}` is not text", at, "use str(key)")
    return _surrogate("a key", key, at) or _fault(item, _below(at, str.__str__(key)), depth)


def _surrogate(what: str, text: str, at: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(text[error.start]):04X}"
        return _sentence(f"{what} holds a lone surrogate ({lone})", at, "decode it again with errors='replace'")
    return None


def _twin_keys(members: dict[object, object], at: str) -> str | None:
    if len({str.__str__(key) for key in members if isinstance(key, str)}) == len(members):
        return None
    return _sentence("two keys have the same text", at, "keep one of them")


def _below(at: str, key: str) -> str:
    """The path of the member `key` of the dict at `at`."""
    if not key.isidentifier():
        return f"{at}[{ascii(key)[:40]}]"
    return f"{at}.{key[:40]}" if at else key[:40]


def _sentence(what: str, at: str, fix: str) -> str:
    if len(at) > 100:
        at = f"{at[:60]}…{at[-39:]}"
    return f"no canonical JSON: {what}, at {f'`{at}`' if at else 'the top'}\n  fix: {fix}"
