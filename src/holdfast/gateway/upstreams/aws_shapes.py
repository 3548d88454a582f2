"""Values of AWS requests: from a form, JSON, XML, a header or a query to JSON by a shape, and back for botocore.

Rules
1. A name that a shape does not have is refused, and so is one that is there twice.
2. Whatever a form says must be there again when its parameters are written as a form: nothing of it is lost.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from xml.etree import ElementTree as ET

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall
from holdfast.gateway.upstreams.aws_model import Operation, Shape, check, is_moment, written

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_ATTRIBUTE: Final = "{http://www.w3.org/2001/XMLSchema-instance}"


def digits(data: bytes) -> str:
    """Bytes as they stand in parameters."""
    return base64.b64encode(data).decode()


def given(shape: Shape, value: JSON) -> Any:
    """A parameter as botocore takes it. Raises BadCall for what it is not."""
    if shape is None or value is None or (shape.type_name == "structure" and shape.is_document_type):
        return value
    match shape.type_name, value:
        case "structure", Mapping():
            members = shape.members
            return {key: given(members.get(key), inner) for key, inner in _items(value)}
        case "map", Mapping():
            return {key: given(shape.value, inner) for key, inner in _items(value)}
        case "list", list() | tuple():
            return [given(shape.member, inner) for inner in cast("Sequence[JSON]", value)]
        case "blob", str():
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise BadCall("a value is no base64") from None
        case _:
            return value


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(cast("Mapping[str, Any]", value).items())


def scalar(shape: Shape, text: str, place: str) -> JSON:
    """A single value that was written as text, in a `form`, in `xml`, in a `header` or a `query`."""
    kind = shape.type_name
    if kind in ("integer", "long"):
        if not _INTEGER.fullmatch(text):
            raise BadCall("a value is no whole number")
        return int(text)
    if kind in ("float", "double"):
        if not _NUMBER.fullmatch(text):
            raise BadCall("a value is no number")
        return float(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise BadCall("a value is neither true nor false")
        return text == "true"
    if kind == "timestamp" and not is_moment(text):
        raise BadCall("a value is no time")
    if kind in ("structure", "list", "map"):
        raise BadCall(f"a {kind} is written as a single value in the {place}")
    return text


# --- forms ---


def of_fields(operation: Operation, fields: Mapping[str, str]) -> dict[str, JSON]:
    """The parameters of a form (query, ec2)."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        node = tree
        for part in name.split("."):
            node = cast("dict[str, Any]", node.setdefault(part, {}))
        node[""] = value
    if operation.input is None:
        if fields:
            raise BadCall(f"`{operation.full}` has no parameters")
        return {}
    found = cast("dict[str, JSON]", _Form(operation.api.protocol == "ec2").value(operation.input, tree))
    parameters = cast("dict[str, Any]", given(operation.input, cast("JSON", found)))
    check(operation, parameters)
    again = written(operation, parameters)["body"].keys() - {"Action", "Version"}
    if again != fields.keys():
        odd = min(again ^ fields.keys())
        raise BadCall(f"`{odd[:80]}` is no parameter of `{operation.full}`", fix="leave it out")
    return found


class _Form:
    """Reads what botocore's serializers of forms write."""

    def __init__(self, ec2: bool) -> None:
        self._ec2 = ec2

    def value(self, shape: Shape, node: Mapping[str, Any]) -> JSON:
        match shape.type_name:
            case "structure":
                found = {key: (member, self._node(key, member, node)) for key, member in shape.members.items()}
                return {key: self.value(member, inner) for key, (member, inner) in found.items() if inner is not None}
            case "list":
                return self._list(shape, node)
            case "map":
                return self._map(shape, node)
            case _:
                text = node.get("")
                if not isinstance(text, str):
                    raise BadCall("a single value is written as several")
                return scalar(shape, text, "form")

    def _node(self, key: str, member: Shape, node: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not self._ec2 and member.type_name == "list" and member.serialization.get("flattened"):
            inner = member.member.serialization.get("name")
            if inner:
                return cast("Mapping[str, Any] | None", node.get(inner))
        return cast("Mapping[str, Any] | None", node.get(self._name(member, key)))

    def _name(self, shape: Shape, key: str) -> str:
        if self._ec2 and "queryName" in shape.serialization:
            return str(shape.serialization["queryName"])
        name = str(shape.serialization.get("name", key))
        return name[0].upper() + name[1:] if self._ec2 and "name" in shape.serialization else name

    def _list(self, shape: Shape, node: Mapping[str, Any]) -> JSON:
        if set(node) == {""}:
            return []
        if not self._ec2 and not shape.serialization.get("flattened"):
            node = node.get(str(shape.member.serialization.get("name", "member")), {})
        return [self.value(shape.member, node[str(n)]) for n in range(1, len(node) + 1) if str(n) in node]

    def _map(self, shape: Shape, node: Mapping[str, Any]) -> JSON:
        entries = node if shape.serialization.get("flattened") else node.get("entry", {})
        key, value = self._name(shape.key, "key"), self._name(shape.value, "value")
        found: dict[str, JSON] = {}
        for n in range(1, len(entries) + 1):
            entry = entries.get(str(n), {})
            if key not in entry or value not in entry:
                raise BadCall("an entry of a map has no key, or no value")
            name = str(self.value(shape.key, entry[key]))
            if name in found:
                raise BadCall(f"`{name[:80]}` is there twice", fix="send it once")
            found[name] = self.value(shape.value, entry[value])
        return found


# --- JSON ---


def json_of(data: bytes) -> JSON:
    """A body that is a JSON object; nothing is one, too."""
    if not data:
        return {}
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadCall(f"the body is not understood: {error}", fix="send a JSON object, each name once") from None
    if not isinstance(found, dict):
        raise BadCall("the body is no JSON object")
    return cast("JSON", found)


def of_json(shape: Shape, value: JSON) -> JSON:
    """A JSON value by its shape, with botocore's names."""
    if shape.type_name == "structure" and shape.is_document_type:
        return value
    match shape.type_name, value:
        case "structure", dict():
            names = {str(member.serialization.get("name", key)): (key, member) for key, member in shape.members.items()}
            unknown = value.keys() - names.keys()
            if unknown:
                raise BadCall(f"`{min(unknown)[:80]}` is no parameter that is known", fix="leave it out")
            return {
                names[name][0]: of_json(names[name][1], inner) for name, inner in value.items() if inner is not None
            }
        case "map", dict():
            return {name: of_json(shape.value, inner) for name, inner in value.items()}
        case "list", list():
            return [of_json(shape.member, inner) for inner in value]
        case _:
            return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


# --- XML ---


def xml_of(data: bytes, name: str | None) -> ET.Element:
    """A body that is an XML element of this name, without a document type."""
    try:
        text = data.decode()
        if "<!" in text.replace("<![CDATA[", ""):
            raise BadCall("the body declares a document type, or has comments")
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError, LookupError):
        raise BadCall("the body is no XML") from None
    if name is not None and _local(root.tag) != name:
        raise BadCall(f"the body is no `{name}`")
    return root


def of_xml(shape: Shape, node: ET.Element) -> JSON:
    """An XML element by its shape."""
    match shape.type_name:
        case "structure":
            return _xml_structure(shape, node)
        case "list":
            name = str(shape.member.serialization.get("name", "member"))
            if any(_local(child.tag) != name for child in node):
                raise BadCall(f"a list of `{name}` holds something else")
            return [of_xml(shape.member, child) for child in node]
        case "map":
            return _xml_map(shape, list(node))
        case _:
            if len(node) or node.attrib:
                raise BadCall(f"`{_local(node.tag)[:80]}` is a single value")
            return scalar(shape, node.text or "", "xml")


def _xml_structure(shape: Shape, node: ET.Element) -> JSON:
    names = {str(member.serialization.get("name", key)): (key, member) for key, member in shape.members.items()}
    children: dict[str, list[ET.Element]] = {}
    for child in node:
        children.setdefault(_local(child.tag), []).append(child)
    found: dict[str, JSON] = {}
    for name, text in node.attrib.items():
        key, member = names.get(f"xsi:{name.removeprefix(_ATTRIBUTE)}", ("", None))
        if member is None or not member.serialization.get("xmlAttribute"):
            raise BadCall(f"the attribute `{name[:80]}` is not known")
        found[key] = text
    for name, nodes in children.items():
        if name not in names:
            raise BadCall(f"`{name[:80]}` is no parameter that is known", fix="leave it out")
        key, member = names[name]
        flat = bool(member.serialization.get("flattened"))
        if member.type_name == "list" and flat:
            found[key] = [of_xml(member.member, each) for each in nodes]
        elif member.type_name == "map" and flat:
            found[key] = _xml_map(member, nodes)
        elif len(nodes) > 1:
            raise BadCall(f"`{name[:80]}` is there twice", fix="send it once")
        else:
            found[key] = of_xml(member, nodes[0])
    if (node.text or "").strip() or any((child.tail or "").strip() for child in node):
        raise BadCall(f"`{_local(node.tag)[:80]}` holds text")
    return found


def _xml_map(shape: Shape, entries: list[ET.Element]) -> JSON:
    found: dict[str, JSON] = {}
    key, value = str(shape.key.serialization.get("name", "key")), str(shape.value.serialization.get("name", "value"))
    for entry in entries:
        parts = {_local(child.tag): child for child in entry}
        if parts.keys() != {key, value} or len(entry) != 2 or (parts[key].text or "") in found:
            raise BadCall("a map has an entry that is none, or one twice")
        found[parts[key].text or ""] = of_xml(shape.value, parts[value])
    return found


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
