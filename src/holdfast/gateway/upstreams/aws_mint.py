"""Secrets that an answer of AWS brings: kept in the vault, with handles in their place.

Rules
1. An answer that cannot be searched, or whose secrets cannot be kept, is not given away.
2. A secret is taken out wherever else it stands in the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import cast
from xml.etree import ElementTree as ET

from holdfast.core.canonical import JSON
from holdfast.errors import HoldfastError
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams.http_answer import Answer
from holdfast.gateway.vault import Vault

SHORTEST = 4  # bytes of a secret that is looked for elsewhere


class _Brought:
    """A secret that an answer brought, for the scrubber."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text

    def forms(self) -> tuple[bytes, ...]:
        return (self._text.encode(),) if len(self._text.encode()) >= SHORTEST else ()


async def minted(answer: Answer, names: Sequence[str], tool: str, vault: Vault, receipt: Receipt) -> Answer:
    """The answer with handles in the place of what stands under these names. `tool`: what brought them."""
    brought: list[_Brought] = []

    async def keep(name: str, text: str) -> str:
        handle = await vault.keep(f"{tool}.{name}", text, receipt)
        brought.append(_Brought(f"{tool}.{name}", text))
        return handle

    try:
        body = await _replaced(answer.body, frozenset(names), keep)
    except HoldfastError as error:
        return replace(answer, headers=(), body=b"", trouble=f"its secret could not be kept: {error.what}")
    except (ValueError, RecursionError, ET.ParseError):
        return replace(answer, headers=(), body=b"", trouble="it should bring a secret, and is neither JSON nor XML")
    scrubber = Scrubber(brought)
    headers = tuple((name, scrubber.text(value)) for name, value in answer.headers)
    return replace(answer, headers=headers, body=scrubber.clean(body))


async def _replaced(body: bytes, names: frozenset[str], keep: Callable[[str, str], Awaitable[str]]) -> bytes:
    if body.lstrip().startswith(b"{"):
        return json.dumps(await _json(cast("JSON", json.loads(body)), names, keep)).encode()
    root = ET.fromstring(body)
    for node in root.iter():
        name = node.tag.rpartition("}")[2]
        if name in names and (node.text or "").strip():
            node.text = await keep(name, (node.text or "").strip())
    if root.tag.startswith("{"):
        ET.register_namespace("", root.tag[1:].partition("}")[0])
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


async def _json(value: JSON, names: frozenset[str], keep: Callable[[str, str], Awaitable[str]]) -> JSON:
    match value:
        case dict():
            found: dict[str, JSON] = {}
            for name, inner in value.items():
                secret = name in names and inner not in (None, "", [], {})
                text = inner if isinstance(inner, str) else json.dumps(inner)
                found[name] = await keep(name, text) if secret else await _json(inner, names, keep)
            return found
        case list():
            return [await _json(each, names, keep) for each in value]
        case _:
            return value
