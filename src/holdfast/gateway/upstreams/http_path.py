"""The path and the query of a request, in their one spelling, and the templates that they are matched with.

Rules
1. They are taken apart once, before a route is chosen. What a server could read otherwise than we do is refused.
2. A `{name}` of a template stands for one whole segment that is not empty. A literal segment goes before a `{name}`.
3. A query names each key once. Only a key that ends in `[]` may have several values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, cast
from urllib.parse import quote, unquote_to_bytes

from holdfast.errors import BadCall, BadContract

Fields: TypeAlias = "dict[str, str | list[str]]"

PATH_MAX: Final = 8000  # characters
FIELDS_MOST: Final = 1000
_SAFE: Final = "-._~!$'()*,=:@"
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AGAIN: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_NAME: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@lru_cache(256)
def segments_of(path: str) -> tuple[str, ...]:
    """The decoded segments of a path. Raises BadCall for dot segments, empty ones (but a last one), `;`, `\\`, encoded
    slashes, control characters and what is encoded twice."""
    if not path.startswith("/") or len(path) > PATH_MAX:
        raise BadCall("a path begins with a slash, and has at most 8000 characters")
    if not path.isascii() or any(char in path for char in " \\;?#") or _CONTROL.search(path):
        raise BadCall("a path holds a character that is read in two ways", fix="encode it once (%20), or leave out `;`")
    written = path[1:].split("/")
    segments = tuple(_decoded(segment, "a path") for segment in written)
    for segment in segments:
        if segment in (".", ".."):
            raise BadCall("a path holds a dot segment", fix="write the path that is meant")
        if "/" in segment or "\\" in segment or ";" in segment:
            raise BadCall("a path holds an encoded slash, backslash or `;`", fix="such a name cannot be sent")
    if "" in segments[:-1]:
        raise BadCall("a path holds an empty segment (`//`)", fix="write the path that is meant")
    return segments


def path_of(segments: Sequence[str]) -> str:
    """The one spelling of a path. Raises BadCall as `segments_of`."""
    return _path_of(tuple(segments))


@lru_cache(256)
def _path_of(segments: tuple[str, ...]) -> str:
    path = "/" + "/".join(quote(segment, safe=_SAFE) for segment in segments)
    segments_of(path)
    return path


def fields_of(text: str, what: str) -> Fields:
    """A query, or the body of a form. Raises BadCall for a key that is there twice, and for what cannot be decoded."""
    if not text.isascii() or _CONTROL.search(text) or any(char in text for char in " ;#"):
        raise BadCall(f"{what} holds a character that is read in two ways", fix="encode it (%20, %3B)")
    pairs = [pair.partition("=") for pair in text.split("&") if pair]
    return checked_fields([(_decoded(key, what, "+"), _decoded(value, what, "+")) for key, _, value in pairs], what)


def checked_fields(pairs: Sequence[tuple[str, object]], what: str) -> Fields:
    """The same of pairs: a value is text, a number or a list of these. Raises BadCall."""
    fields: Fields = {}
    if len(pairs) > FIELDS_MOST:
        raise BadCall(f"{what} has more than {FIELDS_MOST} fields")
    for key, value in pairs:
        if not key:
            raise BadCall(f"{what} has a field without a name")
        if key in ("_method", "_httpmethod"):
            raise BadCall(f"{what} overrides the method", fix="ask for the operation that is meant")
        known = fields.get(key)
        if key.endswith("[]"):
            values = [*(known or ()), *([_text(item, what) for item in _items(value)])]
            fields[key] = values
        elif known is not None:
            raise BadCall(f"{what} has `{ascii(key[:80])[1:-1]}` twice", fix="send it once, or name it `…[]`")
        else:
            fields[key] = _text(value, what)
    return fields


def query_of(fields: Mapping[str, str | list[str]]) -> str:
    """The one spelling of fields: in the order of their names, percent-encoded."""
    return "&".join(
        f"{quote(key, safe='-._~[]')}={quote(item, safe='-._~')}"
        for key in sorted(fields)
        for item in _values(fields[key])
    )


def _values(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _items(value: object) -> list[object]:
    return list(cast("list[object]", value)) if isinstance(value, list | tuple) else [value]


def _text(value: object, what: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 128:
        value = str(value)
    if not isinstance(value, str):
        raise BadCall(f"{what} holds a value that is neither text nor a whole number")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadCall(f"{what} holds text that is no Unicode") from None
    if "\x00" in value:
        raise BadCall(f"{what} holds a NUL")
    return value


def _decoded(text: str, what: str, plus: str = "") -> str:
    if _ESCAPE.search(text):
        raise BadCall(f"{what} holds a `%` that encodes nothing", fix="write %25")
    data = unquote_to_bytes(text.replace(plus, " ") if plus else text)
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCall(f"{what} is not UTF-8") from None
    if not plus and (_CONTROL.search(found) or _AGAIN.search(found)):
        raise BadCall(f"{what} holds a control character, or is encoded twice")
    if "\x00" in found:
        raise BadCall(f"{what} holds a NUL")
    return found


@dataclass(frozen=True, slots=True)
class Template:
    """A path with names in it. `parts`: literal text, or None for a name."""

    text: str
    parts: tuple[str | None, ...]
    names: tuple[str, ...]

    @property
    def shape(self) -> tuple[str | None, ...]:
        """What two templates have in common that match the same paths."""
        return self.parts

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The values of the names; None if it does not match."""
        if len(segments) != len(self.parts):
            return None
        found: list[str] = []
        for part, segment in zip(self.parts, segments, strict=True):
            if part is None:
                if not segment:
                    return None
                found.append(segment)
            elif part != segment:
                return None
        return dict(zip(self.names, found, strict=True))

    def fill(self, values: Mapping[str, object]) -> str:
        """The path with these values. Raises BadCall for one that is missing or cannot stand in a path."""
        unknown = values.keys() - set(self.names)
        missing = [name for name in self.names if name not in values]
        if unknown or missing:
            raise BadCall(
                f"the path `{self.text}` is given other names than its own", fix=f"give {', '.join(self.names)}"
            )
        names = iter(self.names)
        return path_of([_text(values[next(names)], "a path") if part is None else part for part in self.parts])


def template_of(text: str) -> Template:
    """A path of the configuration. Raises BadContract."""
    parts: list[str | None] = []
    names: list[str] = []
    try:
        for segment in text.removeprefix("/").split("/") if text.startswith("/") else ():
            found = _NAME.fullmatch(segment)
            if found:
                parts.append(None)
                names.append(found[1])
            elif "{" in segment or "}" in segment:
                raise BadContract(f"in the path `{text}`, a name does not fill its segment", fix="write /{name}/")
            else:
                parts += segments_of(f"/{segment}")
        if "" in parts[:-1]:
            raise BadCall("a path holds an empty segment (`//`)")
    except BadCall as error:
        raise BadContract(f"the path `{text}` cannot be: {error.what}") from None
    if not parts or len(set(names)) != len(names):
        raise BadContract(f"the path `{text}` cannot be: it begins with a slash, and names each thing once")
    return Template(text, tuple(parts), tuple(names))
