"""What several verbs are asked with: the store, `--json`, `--by`, JSON values, nodes.

Rules
1. What cannot be understood is refused before anything is opened.
2. A store that is only read, or written to by people, must exist: only `run` makes one.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias, cast

import typer

from holdfast.agent.note import is_name
from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, Misuse, Unknown

ALLOWED = "HOLDFAST_AGENTS"
DEFAULT_STORE = "sqlite:///holdfast.db"

StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store: sqlite:///FILE, or FILE. [HOLDFAST_STORE; holdfast.db]"),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON.")]
ByOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who says so. [the login name; to a gateway: who you are there]"),
]
RunArgument: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
LineArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="A run, as its line stands; RUN@BRANCH is one branch of it.")
]
NodeArgument: TypeAlias = Annotated[str, typer.Argument(metavar="NODE", help="A place: RUN@SEQ, or RUN@BRANCH:SEQ.")]


def store_url(given: str | None) -> str:
    """The store's URL: as given, or from the environment, or the default. A plain path names a SQLite file."""
    url = given or os.environ.get("HOLDFAST_STORE") or DEFAULT_STORE
    return url if "://" in url else f"sqlite:///{url}"


def existing(given: str | None) -> str:
    """As `store_url`, for a store that must be there. Raises Unknown."""
    from holdfast.store.url import sqlite_files

    url = store_url(given)
    if url.startswith("memory:"):
        raise Unknown(
            "a store in memory ends with its process", where=url, fix="name a file: --store sqlite:///runs.db"
        )
    if url.startswith("sqlite:") and not sqlite_files(url).path.exists():
        raise Unknown(
            "there is no store here", where=url, fix="name it: --store URL, or HOLDFAST_STORE; `holdfast run` makes one"
        )
    return url


def same_store(given: str | None) -> str:
    """What a command that we suggest needs so that it speaks of the same store."""
    return f" --store {shlex.quote(given)}" if given else ""


def name_of(by: str | None, store: str | None = None) -> str:
    """Who gives a verdict: as given, or the login name; to a gateway, as it knows whoever asks."""
    if by:
        return by
    url = store_url(store)
    if url.startswith("gateway:"):
        from holdfast.store.remote import RemoteStore
        from holdfast.store.url import gateway_socket

        return str(RemoteStore(gateway_socket(url)).ask_now("whoami")["name"])
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def json_value(text: str, what: str) -> JSON:
    """The JSON value of an argument: a text, `@FILE`, or `-` for stdin. Raises BadCall."""
    source = what
    try:
        if text == "-":
            source, text = "stdin", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text()
        return cast(JSON, json.loads(text, parse_constant=_no_number))
    except OSError as error:
        raise BadCall(f"`{source}` cannot be read: {error.strerror}", fix="name a file that exists: @FILE") from None
    except (ValueError, RecursionError) as error:
        fix = "quote it for the shell: '{\"a\": 1}', a text: '\"a\"', a file: @FILE"
        raise BadCall(f"`{source}` is not JSON: {error}", fix=fix) from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def branch_of(run: str) -> str:
    """The branch that a RUN names: its main line, or `RUN@BRANCH`. Raises Misuse."""
    name, _, line = run.partition("@")
    if not name or ":" in line or line.isdigit():
        raise Misuse(f"`{run}` is not a run", fix="write RUN, or RUN@BRANCH")
    return f"{name}@{line or 'main'}"


def is_allowed(agent: str) -> bool:
    """Whether this user lets a log name this agent: its module, or it alone, in HOLDFAST_AGENTS or in
    `tool.holdfast.agents` of the pyproject.toml of this directory. Raises Misuse if that cannot be read."""
    return is_name(agent) and not allowed_names().isdisjoint({agent, agent.partition(":")[0]})


def allowed_names() -> set[str]:
    """The modules and agents that this user lets a log name. Raises Misuse."""
    return ({name.strip() for name in os.environ.get(ALLOWED, "").split(",")} | _in_project()) - {""}


def _in_project() -> set[str]:
    project = Path("pyproject.toml")
    if not project.is_file():
        return set()
    where = str(project.absolute())
    try:
        table: Any = tomllib.loads(project.read_text())
    except (OSError, ValueError) as error:
        raise Misuse(f"pyproject.toml cannot be read: {error}", where=where, fix="mend it") from None
    for name in ("tool", "holdfast", "agents"):
        table = cast("dict[str, Any]", table).get(name, {}) if isinstance(table, dict) else {}
    if table and not isinstance(table, list):
        raise Misuse("`tool.holdfast.agents` is not a list", where=where, fix='agents = ["module"]')
    return {str(name) for name in cast("list[object]", table or [])}
