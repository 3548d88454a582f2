"""What a server says its tools are, held to what somebody has accepted.

Rules
1. A tool is called only while its definition (all of it but `_meta`) is the accepted one, by digest.
2. The first listing of a server may be trusted as a whole (`first_use`); whatever is new or changed later is held until
   a person accepts it: `accept(FILE, TOOL)`, or the same edit by hand (move the tool from `held` to `accepted`).
3. Names are plain ASCII. What looks like another tool's name, what is listed twice, and what holds characters that
   nobody sees is never accepted by itself.
4. A file of pins that cannot be read accepts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.errors import Misuse, Unknown

NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_LOOKS_LIKE = str.maketrans("01i", "oll", "_-./")

_PARTS = frozenset({"description", "title", "inputSchema", "outputSchema", "annotations", "execution", "icons"})

Tool = Mapping[str, JSON]


def digest_of(tool: Tool) -> str:
    """The name (64 hex digits) of this exact definition. Raises Uncanonical where it has no canonical text."""
    whole = {name: value for name, value in tool.items() if name != "_meta"}
    return hashlib.sha256(b"holdfast/mcp-tool/1\0" + canonical(whole)).hexdigest()


class Pins:
    """The accepted and the held tools of one server, in a file that people may edit. `first_use`: what a server lists
    is accepted where there is no file yet."""

    def __init__(self, path: Path, *, first_use: bool) -> None:
        self.path = path
        self._first_use = first_use
        self._accepted: dict[str, Tool] = {}
        self._held: dict[str, tuple[str, Tool]] = {}
        self._current: dict[str, str] | None = None
        self._stamp: tuple[int, int, int] | None = None

    @property
    def accepted(self) -> Mapping[str, Tool]:
        """The accepted definitions by name. Raises Misuse where the file cannot be read."""
        self._load()
        return self._accepted

    def why_not(self, name: str) -> str | None:
        """Why a tool cannot be called now, or None. Raises Misuse where the file cannot be read."""
        accepted = self.accepted.get(name)
        if name in self._held and (accepted is None or self._offers(name) != digest_of(accepted)):
            return f"its definition is held: {self._held[name][0]}"
        if accepted is None:
            return "nobody has accepted its definition"
        if self._current is None or self._offers(name) == digest_of(accepted):
            return None
        return "the server does not offer it any more" if name not in self._current else "its definition has changed"

    def _offers(self, name: str) -> str | None:
        return None if self._current is None else self._current.get(name)

    def learn(self, listed: Sequence[JSON]) -> dict[str, str]:
        """Take up what a server lists now; the tools that cannot be called, and why. What is new or changed is held in
        the file."""
        first = not self.path.exists() and self._first_use
        accepted = dict(self.accepted)
        refused: dict[str, str] = {}
        self._current = {}
        names = Counter(str(tool.get("name")) for tool in listed if isinstance(tool, dict))
        looks = {_looks(name): name for name in accepted}
        for tool in listed:
            name = str(tool.get("name")) if isinstance(tool, dict) else "?"
            if not isinstance(tool, dict) or not NAME.fullmatch(name):
                refused[ascii(name)] = "its name is not plain text"
                continue
            try:
                self._current[name] = digest_of(tool) if names[name] == 1 else ""
            except Uncanonical:
                refused[name] = "its definition has no canonical text"
                continue
            why = _suspicious(tool, names, looks)
            known = accepted.get(name)
            if known is not None and digest_of(known) == self._current[name]:
                self._held.pop(name, None)
            elif known is None and first and why is None:
                accepted[name] = tool
                looks[_looks(name)] = name
            else:
                news = "it is new" if known is None else f"it has changed: {', '.join(_changed(known, tool))}"
                refused[name] = why or news
                self._held[name] = (refused[name], tool)
        self._accepted = accepted
        self._save()
        return refused

    def _load(self) -> None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._accepted.clear()
            self._held.clear()
            self._stamp = None
            return
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._accepted, self._held = _read(self.path)
            self._stamp = stamp

    def _save(self) -> None:
        _write(self.path, self._accepted, self._held)
        found = os.stat(self.path)
        self._stamp = (found.st_mtime_ns, found.st_size, found.st_ino)


def accept(path: Path, *names: str) -> list[str]:
    """Accept the held definitions of these tools (of all, if none is named); their names. A running gateway takes it up
    with the next call. Raises Unknown for a tool that is not held, Misuse for a file that cannot be read."""
    accepted, held = _read(path)
    for name in names:
        if name not in held:
            raise Unknown(
                f"no definition of `{name}` is held", where=path.name, fix="name one that stands under `held`"
            )
    chosen = list(names or held)
    for name in chosen:
        accepted[name] = held.pop(name)[1]
    _write(path, accepted, held)
    return chosen


def _read(path: Path) -> tuple[dict[str, Tool], dict[str, tuple[str, Tool]]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        accepted = {str(name): cast("Tool", dict(tool)) for name, tool in value["accepted"].items()}
        held = {
            str(name): (str(each["why"]), cast("Tool", dict(each["definition"])))
            for name, each in value["held"].items()
        }
        for name, tool in accepted.items():
            if tool.get("name") != name:
                raise ValueError(f"`{name}` is another name than its definition's")
            digest_of(tool)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misuse(
            f"the pins cannot be read: {type(error).__name__}: {error}", where=path.name,
            fix="mend the file; removing it accepts nothing that was not accepted before, unless first use is trusted",
        ) from None  # fmt: skip
    return accepted, held


def _write(path: Path, accepted: Mapping[str, Tool], held: Mapping[str, tuple[str, Tool]]) -> None:
    """The file, whole or not at all. Characters that nobody sees are written as escapes."""
    value = {
        "accepted": {name: dict(tool) for name, tool in sorted(accepted.items())},
        "held": {name: {"why": why, "definition": dict(tool)} for name, (why, tool) in sorted(held.items())},
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _changed(known: Tool, tool: Tool) -> Iterator[str]:
    """What has changed, in words of the protocol: names that a server has made up are not repeated."""
    parts = [part for part in sorted({*known, *tool} - {"_meta"}) if known.get(part) != tool.get(part)]
    yield from (part for part in parts if part in _PARTS)
    if not _PARTS.issuperset(parts):
        yield "other parts"


def _looks(name: str) -> str:
    return name.casefold().translate(_LOOKS_LIKE)


def _suspicious(tool: Mapping[str, JSON], names: Mapping[str, int], looks: Mapping[str, str]) -> str | None:
    name = str(tool["name"])
    if names[name] > 1:
        return "it is listed more than once"
    twin = looks.get(_looks(name), name)
    if twin != name:
        return f"its name looks like that of `{twin}`"
    for text in _texts(tool):
        unseen = next((each for each in text if each not in "\n\r\t" and unicodedata.category(each)[0] == "C"), None)
        if unseen is not None:
            return f"it holds a character that nobody sees (U+{ord(unseen):04X})"
    return None


def _texts(value: JSON | Mapping[str, JSON]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
