"""One entry of a log, whole: its fields, and its payloads up to a bound."""

from __future__ import annotations

import dataclasses
import json as json_
from dataclasses import dataclass
from typing import cast

from holdfast.cli.terminal import json_text, line, out, safe, styled
from holdfast.cli.view import look, reader_of, size_text, when
from holdfast.cli.words import Teller
from holdfast.core.codec import decode
from holdfast.core.effect import Encoding, Happened, Parcel, Payload
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.desk import parse_node
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader

SHOWN = 64 << 10  # signs of one payload
READ_BYTES = 64 << 20  # a larger payload is not even read


@dataclass(frozen=True, slots=True)
class Whole:
    """One entry as JSON. `fields` are the record's; a payload is `{digest, encoding, size_bytes, text, cut}`, its text
    cut at 65,536 signs."""

    node: str
    seq: int
    at_ms: int
    epoch: int
    digest: str
    name: str
    words: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class Content:
    """A payload with its text; `text` is null where it cannot be shown, and `cut` if there is more of it."""

    digest: str
    encoding: str
    size_bytes: int
    text: str | None
    cut: bool


async def show_entry(url: str, node: str, *, json: bool) -> None:
    """Write the entry at `node` to stdout. Raises Unknown if there is none."""
    branch, seq = parse_node(node)
    reader = reader_of(url)
    try:
        whole = await _whole(reader, branch, seq)
    finally:
        await reader.close()
    if json:
        out(json_text(whole, indent=2))
        return
    line(styled(f"{whole.node}  ", "bold") + styled(f"{whole.name}  ") + styled(whole.words))
    who = "placed without a claim" if whole.epoch == 0 else f"epoch {whole.epoch}"
    line(styled(f"{when(whole.at_ms)}, {who}, digest {whole.digest}", "dim"))
    for name, value in whole.fields.items():
        _field(name, value)


async def _whole(reader: Reader, branch: str, seq: int) -> Whole:
    looked = await look(reader, branch)
    found = await reader.read(looked.home(seq), after=seq - 1, upto=seq) if seq else []
    if not found:
        raise Unknown(f"there is no entry {seq} in `{branch}`", where=str(reader.path),
                      fix=f"holdfast log {looked.name} shows them all")  # fmt: skip
    record = decode(found[0].body)
    told = await Teller(reader, looked).tell(record)
    fields = {field.name: await _value(reader, getattr(record, field.name)) for field in dataclasses.fields(record)}
    entry = found[0]
    return Whole(
        looked.node(seq), seq, entry.at_ms, entry.epoch, entry.digest.hex(), told.name, told.text, fields
    )  # fmt: skip


async def _value(reader: Reader, value: object) -> object:
    match value:
        case Payload():
            return await _content(reader, value)
        case Happened(answer=Payload() as answer, etag=etag):
            return {"happened": await _content(reader, answer), "etag": etag}
        case tuple():
            return [_plain(each) for each in cast("tuple[object, ...]", value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"not_happened": getattr(value, "reason", "")}
        case _:
            return value


def _plain(value: object) -> object:
    if isinstance(value, Parcel):
        return [value.tree, value.payload.digest, value.payload.size_bytes]
    return value


async def _content(reader: Reader, payload: Payload) -> Content:
    text, cut = None, False
    if payload.size_bytes <= READ_BYTES:
        try:
            data = await read_payload(reader, payload)
        except (Unknown, Corrupt):
            data = None
        if data is not None:
            whole = data.hex() if payload.encoding is Encoding.BYTES else data.decode("utf-8", "replace")
            text, cut = whole[:SHOWN], len(whole) > SHOWN
    return Content(payload.digest, payload.encoding.value, payload.size_bytes, text, cut)


def _field(name: str, value: object) -> None:
    match value:
        case Content():
            out()
            line(
                styled(f"{name}  ", "bold")
                + styled(f"{value.encoding}, {size_text(value.size_bytes)}, {value.digest}", "dim")
            )
            _text(value)
        case {"happened": Content() as content, "etag": (str() | None) as etag}:
            _field(f"{name}: happened" + (f", etag {etag}" if etag else ""), content)
        case _:
            line(styled(f"{name:<10} ", "dim") + styled(value if isinstance(value, str) else json_.dumps(value)))


def _text(content: Content) -> None:
    """The text, line by line: JSON is laid out if it is whole."""
    if content.text is None:
        out("  (pruned, too large to be shown, or not what was sealed: `holdfast verify` tells)")
        return
    shown = content.text
    if content.encoding == "json" and not content.cut:
        shown = json_text(json_.loads(shown), indent=2)
    for each in shown.splitlines():
        out(f"  {safe(each)}")
    if content.cut:
        out(f"  … of {size_text(content.size_bytes)}")
