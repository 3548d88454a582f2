"""Writes the tables of docs/configuration.md anew: `python scripts/configuration.py`. The prose between them stays.

Each table stands below a heading `## [TABLE]`; a table that has no heading yet gets one at the end of the page.
"""

# ruff: noqa: INP001 - a program, and no part of a package
from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from holdfast.gateway.settings import Document
from holdfast.gateway.upstreams.kinds import KINDS, config_of

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = "| key | what it means | default |\n|---|---|---|\n"


def tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of holdfast.toml as it is headed on the page, with its model."""
    for name, field in Document.model_fields.items():
        if name not in ("credentials", "upstreams"):
            yield from _below(name, field)
    for kind, (module, _, _) in KINDS.items():
        if find_spec(module) is not None:
            model = config_of(kind)
            yield f"upstreams.NAME] `{kind}", model
            for inner, field in model.model_fields.items():
                yield from _below(f"upstreams.NAME.{inner}", field, f"] `{kind}")


def _below(path: str, field: FieldInfo, mark: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for model, named in _models(field.annotation):
        here = path + named
        yield f"{here}{mark}", model
        for name, inner in model.model_fields.items():
            yield from _below(f"{here}.{name}", inner, mark)


def _models(annotation: object, named: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation, named
        return
    parts = typing.get_args(annotation)
    mapping = typing.get_origin(annotation) in (dict, Mapping)
    for part in parts:
        yield from _models(part, f"{named}.NAME" if mapping else named)


def default_of(field: FieldInfo) -> str:
    """The default as the page tells it."""
    if field.is_required():
        return "needed"
    value = field.default
    if field.default_factory is not None or value is None or value in ((), "", frozenset()):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return "`true`" if value is True else "`false`" if value is False else f"`{value}`"


def row(name: str, field: FieldInfo) -> str:
    """One key."""
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {meaning} | {default_of(field)} |\n"


def table(model: type[BaseModel]) -> str:
    """All keys of a model."""
    return HEAD + "".join(row(name, field) for name, field in model.model_fields.items())


def heading(title: str) -> str:
    """How a table is headed."""
    path, bracket, kind = title.partition("]")
    return f"## [{path}]{kind}`" if bracket else f"## [{path}]"


def renewed(page: str) -> str:
    """The page with its tables as they must be."""
    for title, model in tables():
        line = heading(title)
        if f"\n{line}\n" not in page:
            page = page.rstrip("\n") + f"\n\n{line}\n\n"
        before, after = page.split(f"\n{line}\n", 1)
        section, *rest = re.split(r"(?=\n## )", after, maxsplit=1)
        if HEAD in section:
            start = section.index(HEAD)
            lines = section[start:].split("\n")
            length = next((n for n, each in enumerate(lines) if not each.startswith("|")), len(lines))
            section = section[:start] + table(model) + "\n".join(lines[length:])
        else:
            prose = section.strip("\n")
            section = (f"\n{prose}\n" if prose else "") + f"\n{table(model)}"
        page = f"{before}\n{line}\n{section}{''.join(rest)}"
    return page.rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
