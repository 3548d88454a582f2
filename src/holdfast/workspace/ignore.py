"""What of a directory is not captured: patterns in the spelling of .gitignore, without its negations.

    *.pyc             a name, anywhere
    build/            a directory of that name, anywhere
    /out, docs/tmp    a path from the root
    **/cache/*.bin    `**` stands for any number of directories, `*` and `?` never for a slash

Rules
1. What is ignored is neither captured nor touched by a restore; but a directory that the capture does not have is
   removed with all that is in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.errors import Misuse


class Ignore:
    """Tells what is not captured."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)
        kinds: dict[bool, list[str]] = {True: [], False: []}
        for pattern in self.patterns:
            kinds[pattern.endswith("/")].append(_expression(pattern))
        self._anything = _either(kinds[False])
        self._folder = _either(kinds[True])

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def covers(self, path: str, *, folder: bool) -> bool:
        """Whether the file or directory at `path`, from the root, is ignored."""
        return bool(self._anything and self._anything.fullmatch(path)) or bool(
            folder and self._folder and self._folder.fullmatch(path)
        )


def _either(expressions: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(expressions), re.DOTALL) if expressions else None


def _expression(pattern: str) -> str:
    body = pattern.strip("/")
    if not body or "\0" in body or ".." in body.split("/"):
        raise Misuse(f"not a pattern of what to ignore: `{pattern}`", fix="name files or directories below the root")
    anywhere = "/" not in pattern.rstrip("/")
    return ("(?:.*/)?" if anywhere else "") + "".join(_pieces(body))


def _pieces(body: str) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(body):
        if body.startswith("**/", at) and (at == 0 or body[at - 1] == "/"):
            found.append("(?:.*/)?")
            at += 3
        elif body.startswith("**", at):
            found.append(".*")
            at += 2
        elif body[at] in "*?":
            found.append("[^/]*" if body[at] == "*" else "[^/]")
            at += 1
        elif body[at] == "[" and (end := body.find("]", at + 2)) > 0:
            inside = body[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            found.append("[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            at = end + 1
        else:
            found.append(re.escape(body[at]))
            at += 1
    return found
