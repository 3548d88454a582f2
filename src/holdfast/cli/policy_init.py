"""`holdfast policy init`: a policy to begin with, what it says to some calls, and what rules may speak of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.terminal import hint, out, safe
from holdfast.errors import Misuse

FOLDER = Path(__file__).parent.parent / "gateway" / "policies"
FILES = ("starter.cedar", "starter.toml", "holdfast.cedarschema")


def verb(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; it is made.")] = Path("policies"),
) -> None:
    """Write a policy to begin with to DIR (policies). Nothing that is there is replaced."""
    for name in FILES:
        if (directory / name).exists():
            raise Misuse("the file exists", where=str(directory / name), fix="name another directory, or move it away")
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        with (directory / name).open("xb") as file:
            file.write((FOLDER / name).read_bytes())
        out(safe(str(directory / name)))
    hint(f"holdfast policy test {safe(str(directory / FILES[1]))}")
