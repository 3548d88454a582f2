"""The only code that turns records into bytes and back.

Rules
1. Decoding is closed: an unknown type, version or field, or a field of another type, is `Corrupt`. No class is looked
   up by a name that the data chose beyond the table below.
2. Nothing is encoded that could not be decoded: that would end the log.
3. Encoding is total for every record that can be built: texts pass through `effect.legible` before they come here.
4. A field that came later has a default, None, and is left out of the body where it has that value: what was written
   before it came still reads the same.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable
from typing import TypeAlias, cast

from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Outcome, Parcel, Payload
from holdfast.core.record import RECORDS, Record
from holdfast.errors import Corrupt

VERSION = 1


def name_of(kind: type[Record]) -> str:
    """The type's name on the wire."""
    return kind.__name__.lower()


# --- fields: one writer and one reader for each type of field that a record may have ---


def _same(value: object) -> object:
    return value


def _put_text(value: object) -> object:
    if not isinstance(value, str):
        raise TypeError(f"a record holds text, not {value!r}")
    return value


def _put_natural(value: object) -> object:
    if type(value) is not int or value < 0:
        raise TypeError(f"a record holds natural numbers, not {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Corrupt("a text was expected")
    return value


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise Corrupt("a natural number was expected")
    return value


def _naturals(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise Corrupt("a list of natural numbers was expected")
    return tuple(_natural(item) for item in cast("list[object]", value))


def _put_naturals(value: object) -> object:
    return list(cast("tuple[int, ...]", value))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Corrupt("a list of texts was expected")
    return tuple(_text(item) for item in cast("list[object]", value))


def _put_texts(value: object) -> object:
    return [_put_text(item) for item in cast("tuple[object, ...]", value)]


_ENCODINGS = {encoding.value: encoding for encoding in Encoding}
_KINDS = {kind.value: kind for kind in Kind}
_HEX = frozenset("0123456789abcdef")


def _kind(value: object) -> Kind:
    if not isinstance(value, str) or value not in _KINDS:
        raise Corrupt("a kind was expected")
    return _KINDS[value]


def _payload(value: object) -> Payload:
    match value:
        case [str(digest), str(encoding), int(size)] if encoding in _ENCODINGS and type(size) is int and size >= 0:
            if len(digest) == 64 and _HEX.issuperset(digest):
                return Payload(digest, _ENCODINGS[encoding], size)
        case _:
            pass
    raise Corrupt("a payload was expected")


def _put_payload(value: object) -> object:
    payload = cast(Payload, value)
    return [payload.digest, payload.encoding, payload.size_bytes]


def _parcels(value: object) -> tuple[Parcel, ...]:
    if not isinstance(value, list):
        raise Corrupt("a list of parcels was expected")
    return tuple(_parcel(item) for item in cast("list[object]", value))


def _parcel(value: object) -> Parcel:
    found = cast("list[object]", value) if isinstance(value, list) else []
    if len(found) == 2 and isinstance(found[0], str) and len(found[0]) == 64 and _HEX.issuperset(found[0]):
        return Parcel(found[0], _payload(found[1]))
    raise Corrupt("a parcel was expected")


def _put_parcels(value: object) -> object:
    return [[each.tree, _put_payload(each.payload)] for each in cast("tuple[Parcel, ...]", value)]


def _outcome(value: object) -> Outcome:
    if not isinstance(value, dict):
        raise Corrupt("an outcome was expected")
    found = cast("dict[str, object]", value)
    reason, etag = found.get("not_happened"), found.get("etag")
    if found.keys() == {"happened", "etag"} and (etag is None or isinstance(etag, str)):
        return Happened(_payload(found["happened"]), etag)
    if found.keys() == {"not_happened"} and isinstance(reason, str):
        return NotHappened(reason)
    if found.keys() == {"answer", "not_happened"} and isinstance(reason, str):
        return NotHappened(reason, _payload(found["answer"]))
    raise Corrupt("an outcome was expected")


def _put_outcome(value: object) -> object:
    outcome = cast("Outcome", value)
    if isinstance(outcome, Happened):
        return {
            "etag": None if outcome.etag is None else _put_text(outcome.etag),
            "happened": _put_payload(outcome.answer),
        }
    if outcome.answer is not None:
        return {"answer": _put_payload(outcome.answer), "not_happened": outcome.reason}
    return {"not_happened": outcome.reason}


_Put: TypeAlias = Callable[[object], object]
_FIELDS: dict[str, tuple[_Put, _Put]] = {
    "str": (_put_text, _text),
    "int": (_put_natural, _natural),
    "Kind": (_same, _kind),
    "Payload": (_put_payload, _payload),
    "Outcome": (_put_outcome, _outcome),
    "tuple[int, ...]": (_put_naturals, _naturals),
    "tuple[str, ...]": (_put_texts, _texts),
    "tuple[Parcel, ...]": (_put_parcels, _parcels),
}


def _codec(annotation: str) -> tuple[_Put, _Put]:
    base = annotation.removesuffix(" | None")
    put, get = _FIELDS[base]
    if base == annotation:
        return put, get
    return (
        lambda value: None if value is None else put(value),
        lambda value: None if value is None else get(value),
    )


def _usual(annotation: str) -> type:
    """The type whose values stand in the body as they are: what most values of such a field have, where there is
    one."""
    if annotation.endswith(" | None"):
        return type(None)
    return str if annotation == "str" else _Nothing


class _Nothing:
    """No value has this type."""


def _values_of(record: type[Record]) -> Callable[[Record], tuple[object, ...]]:
    """The values of its fields, in the order of their names."""
    names = sorted(field.name for field in dataclasses.fields(record))
    if len(names) == 1:
        return lambda made: (getattr(made, names[0]),)
    return cast("Callable[[Record], tuple[object, ...]]", operator.attrgetter(*names))


_Field: TypeAlias = tuple[str, _Put, _Put, type, bool]  # the last: it came later
_TABLE: dict[type[Record], tuple[str, tuple[_Field, ...], Callable[[Record], tuple[object, ...]]]] = {
    record: (
        name_of(record),
        tuple(
            (
                field.name,
                *_codec(cast(str, field.type)),
                _usual(cast(str, field.type)),
                field.default is not dataclasses.MISSING,
            )
            for field in sorted(dataclasses.fields(record), key=lambda each: each.name)
        ),
        _values_of(record),
    )
    for record in RECORDS
}
# Canonical for what a record holds: ASCII names, texts and whole numbers. Made once: it is asked for at each step.
_make = getattr(json.encoder, "c_make_encoder")  # noqa: B009 - not in the type stubs
_quoted = json.encoder.encode_basestring
_write = cast(
    "Callable[[object, int], tuple[str, ...]]", _make(None, _same, _quoted, None, ":", ",", True, False, False)
)


def _spelt(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return str(value) if type(value) is int else "".join(_write(value, 0))


_Spelling: TypeAlias = tuple[tuple[str, _Put, type, bool] | str, ...]


def _spelling_of(record: type[Record]) -> _Spelling:
    """What a body is put together from, in the order of names: `"NAME":` with its writer, or a whole member."""
    name, fields, _ = _TABLE[record]
    parts: dict[str, tuple[str, _Put, type, bool] | str] = {"t": f'"t":"{name}"', "v": f'"v":{VERSION}'}
    for field, put, _, usual, later in fields:
        parts[field] = (f'"{field}":', put, _Nothing if later else usual, later)
    return tuple(part for _, part in sorted(parts.items(), key=lambda each: each[0]))


_SPELLING = {record: (_spelling_of(record), _TABLE[record][2]) for record in RECORDS}
_BY_NAME = {name: record for record, (name, _, _) in _TABLE.items()}


def encode(record: Record) -> bytes:
    """The canonical JSON body of a record."""
    spelling, values_of = _SPELLING[type(record)]
    values = iter(values_of(record))
    members: list[str] = []
    for part in spelling:
        if isinstance(part, str):
            members.append(part)
            continue
        field, put, usual, later = part
        value = next(values)
        if type(value) is usual:
            members.append(field + (_quoted(cast(str, value)) if usual is str else "null"))
        elif not (later and value is None):
            members.append(field + _spelt(put(value)))
    return ("{" + ",".join(members) + "}").encode()


def decode(body: bytes) -> Record:
    """The record of a body. Raises Corrupt for anything that this version did not write."""
    try:
        parsed = cast(object, json.loads(body.decode()))  # strictly UTF-8: from bytes, `loads` takes surrogates too
    except (AttributeError, ValueError, RecursionError) as error:  # a flipped bit makes a text of bytes
        raise Corrupt("a record is not JSON") from error
    if not isinstance(parsed, dict):
        raise Corrupt("a record is not an object")
    found = cast("dict[str, object]", parsed)
    version, name = found.pop("v", None), found.pop("t", None)
    if type(version) is not int or version != VERSION:
        raise Corrupt(
            f"a record has version {version!r}; this Holdfast reads version {VERSION}",
            fix="use the Holdfast that wrote it, or a newer one",
        )
    if not isinstance(name, str) or name not in _BY_NAME:
        raise Corrupt(f"unknown record type {name!r}", fix="use the Holdfast that wrote it, or a newer one")
    record = _build(_BY_NAME[name], name, found)
    try:
        canonical = encode(record) == body
    except UnicodeEncodeError:  # half a character, spelt as an escape
        canonical = False
    if not canonical:
        raise Corrupt(f"a `{name}` record is not in its canonical spelling")
    return record


def _build(record: type[Record], name: str, found: dict[str, object]) -> Record:
    fields = _TABLE[record][1]
    if not found.keys() <= {field[0] for field in fields}:
        raise Corrupt(f"a `{name}` record has additional fields")
    values: dict[str, object] = {}
    for field, _, get, _, later in fields:
        if field not in found:
            if later:
                continue
            raise Corrupt(f"a `{name}` record has no field `{field}`")
        try:
            values[field] = get(found[field])
        except Corrupt as error:
            raise Corrupt(f"`{name}.{field}`: {error.what}") from None
    return cast("Callable[..., Record]", record)(**values)
