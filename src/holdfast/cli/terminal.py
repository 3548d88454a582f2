"""What reaches the terminal, and how.

Rules
1. Text from a log, an agent or a file is data: every sign that could steer a terminal (controls, escapes, bidirectional
   overrides, invisible signs) is written out as an escape; Rich's markup is never interpreted.
2. Results go to stdout, one thing a line where they can; the rest goes to stderr.
3. Where stdout is no terminal nothing is cut to its width.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_OUTSIDE_ASCII = re.compile(r"[^\x20-\x7e]")
_UNPIPED = 100_000  # columns
LEAST_CUT = 12  # columns: where less is left, a line is wrapped rather than cut


class Tick(Protocol):
    """Tells how far something is."""

    def __call__(self, steps: int = 1, /) -> None:
        """So many steps further."""
        ...


def safe(text: str, most: int | None = None) -> str:
    """`text` in one line of printable signs; with `most`, cut to so many."""
    if most is not None and len(text) > most:
        return safe(text[: max(0, most - 1)]) + "…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(sign)
    code = ord(sign)
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def json_text(value: object, *, indent: int | None = None) -> str:
    """`value` (JSON, or frozen dataclasses of it) as a JSON text of printable signs; its own meaning is unchanged."""
    plain = asdict(cast(Any, value)) if is_dataclass(value) else value
    text = json.dumps(plain, ensure_ascii=False, indent=indent, default=_as_json)
    return _OUTSIDE_ASCII.sub(lambda found: _in_json(found.group()), text)


def _as_json(value: object) -> object:
    if is_dataclass(value):
        return asdict(cast(Any, value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _in_json(sign: str) -> str:
    return sign if sign == "\n" or sign.isprintable() else json.dumps(sign)[1:-1]


def out(line: str = "") -> None:
    """One line of a result. The caller has made it safe."""
    sys.stdout.write(line + "\n")


def say(line: str) -> None:
    """One line beside the result."""
    sys.stdout.flush()
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def hint(line: str) -> None:
    """What to do next."""
    say(f"Hint: {line}")


@functools.cache
def console(*, beside: bool = False) -> Console:
    """Rich's console for stdout (stderr if `beside`), which interprets nothing."""
    from rich.console import Console

    stream = sys.stderr if beside else sys.stdout
    width = None if stream.isatty() else _UNPIPED
    return Console(stderr=beside, markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


def styled(text: str, style: str = "", most: int | None = None) -> Text:
    """A safe piece of a line; pieces are joined with `+`, and each keeps its own style."""
    from rich.text import Text

    return Text().append(safe(text, most), style or None)


def line(text: Text, *, cut: bool = False) -> None:
    """One styled line of a result; `cut` to the terminal's width, or wrapped by it."""
    if not sys.stdout.isatty():
        out(text.plain)
        return
    if cut:
        text.truncate(console().width, overflow="ellipsis")
    console().print(text, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """A table on stdout, one row a line. Only the last column is ever cut; names that start with `#` are numbers."""
    names = [styled(name.removeprefix("#"), "dim") for name in columns]
    lines = [names, *rows]
    widths = [max(each[place].cell_len for each in lines) for place in range(len(columns) - 1)]
    left = console().width - sum(widths) - 2 * len(widths)
    for each in lines:
        made = styled("")
        for name, width, cell in zip(columns, widths, each, strict=False):
            blank = styled(" " * (width - cell.cell_len))
            made += (blank + cell if name.startswith("#") else cell + blank) + styled("  ")
        last = each[-1].copy()
        if left >= LEAST_CUT:
            last.truncate(left, overflow="ellipsis")
        made += last
        made.rstrip()
        line(made)


@contextmanager
def progress(what: str, total: int) -> Generator[Tick]:
    """While a block runs: how far it is, on stderr, if that is a terminal. What it gives is called with the steps
    made."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    from rich.progress import Progress

    with Progress(console=console(beside=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(steps: int = 1) -> None:
            bar.advance(task, steps)

        yield advance


def _unseen(_steps: int = 1) -> None:
    return None


def busy(what: str) -> AbstractContextManager[object]:
    """While a block runs: a sign of life on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    return console(beside=True).status(what)
