"""`holdfast fork`: go on from any place of a run, on a branch of its own.

Rules
1. What the fork means is judged before anything is written; `--dry-run` shows that, and writes nothing.
2. The history is never changed: what is replaced is replaced on the new branch, by a record of its own.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from holdfast.cli.forecast import Forecast, forecast, print_forecast, summary
from holdfast.cli.options import (
    ByOption,
    JsonOption,
    NodeArgument,
    StoreOption,
    existing,
    is_name,
    json_value,
    name_of,
    same_store,
)
from holdfast.cli.remedies import resume
from holdfast.cli.terminal import hint, json_text, out, safe, say
from holdfast.cli.tree import agent_of, line_of
from holdfast.cli.view import reader_of
from holdfast.core.canonical import JSON
from holdfast.core.tree import ForkKind
from holdfast.errors import BadCall
from holdfast.gateway.desk import parse_node
from holdfast.gateway.fork import Cutting, Edit
from holdfast.store.reader import Reader

ASKED = 5  # questions that are told after a fork; `show` and `stranded` tell all
_ANSWER = re.compile(r"([1-9][0-9]{0,14})\.output")
_NAME = re.compile(r"[^\W\d][\w./-]{0,199}")


SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SEQ.output=JSON|NAME=JSON",
        help="Replace the answer of a decision or a read, or set what run.setting(NAME) gives. May be repeated.",
    ),
]


def verb(
    node: NodeArgument,
    set: SetOption = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT|@FILE", help="Set `prompt`, for run.setting.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Set `model`, for run.setting.")] = None,
    input: Annotated[str | None, typer.Option("--input", metavar="JSON", help="Give the agent another task.")] = None,
    code: Annotated[
        str | None, typer.Option("--code", metavar="MODULE:AGENT", help="Let another agent go on from there.")
    ] = None,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="An alternative beside the run's line; else it becomes the line.")
    ] = False,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="An alternative whose effects are held until it is promoted.")
    ] = False,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What it is for.")] = "",
    by: ByOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would mean, and write nothing.")] = False,
    run: Annotated[bool, typer.Option("--run", help="Go on with the new branch at once, as `resume` does.")] = False,
    check_drift: Annotated[
        bool, typer.Option("--check-drift", help="Fork only if the world is as NODE has seen it; else exit 1.")
    ] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Go on from NODE on a new branch. What was done after it is not done twice: the same call is answered by its
    seal."""
    if what_if and speculative:
        raise BadCall("a fork is of one kind", fix="say --what-if or --speculative")
    kind = ForkKind.WHAT_IF if what_if else ForkKind.SPECULATIVE if speculative else ForkKind.RECOVERY
    given = {"prompt": _text(prompt, "--prompt"), "model": model, "code": _code(code)}
    settings: dict[str, JSON] = {name: value for name, value in given.items() if value is not None}
    if input is not None:
        settings["input"] = json_value(input, "--input")
    answers = _set(set or [], settings)
    url = existing(store)
    wanted = Wanted(node, kind, answers, settings, name_of(by, store), why)
    told, recorded = asyncio.run(_foreseen(url, wanted, same_store(store), hold=check_drift))
    if dry_run:
        _show(told, json=json)
        return
    branch = wanted.made(url)
    place = told.run if told.line else f"{told.run}@{branch}"
    _tell(told, branch, place, recorded, same_store(store), json=json, quiet=run)
    if run:
        from holdfast.cli.resume import verb as go_on

        go_on(place, agent=code, store=store)


def _show(told: Forecast, *, json: bool) -> None:
    if json:
        out(json_text(told, indent=2))
        return
    print_forecast(told)
    say("nothing was written")
    hint("the same command without --dry-run makes the fork")


def _tell(told: Forecast, branch: str, place: str, recorded: str, store: str, *, json: bool, quiet: bool) -> None:
    """The new branch on stdout; what it means, and how it goes on, beside it."""
    what = "the run's line now" if told.line else "an alternative" + (
        ", held until it is promoted" if told.kind == ForkKind.SPECULATIVE else " beside the line"
    )  # fmt: skip
    if json:
        out(json_text({"branch": branch, "place": place, "forecast": told}, indent=2))
    else:
        out(safe(f"{told.run}@{branch}  a {told.kind} fork of {told.node}, {what}"))
    say(safe(summary(told)))
    for each in told.people[:ASKED]:
        will = "a person is asked" if each.certain else "a person may be asked"
        say(safe(f"{will}: {each.tool} ({each.node}): {each.why}"))
    if not quiet:
        hint(safe(f"{resume(place, recorded, store)}   # goes on from there"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The fork that the command line asks for."""

    node: str
    kind: ForkKind
    answers: dict[int, JSON]
    settings: dict[str, JSON]
    by: str
    why: str

    def cutting(self) -> Cutting:
        """As the gateway is asked. Raises Misuse."""
        from holdfast.embedded.explore import packed_json

        branch, at = parse_node(self.node)
        edits = [Edit(target, "", packed_json(value)) for target, value in self.answers.items()]
        edits += [Edit(0, name, packed_json(value)) for name, value in self.settings.items()]
        return Cutting(branch, at, self.kind, self.by, self.why, None, edits)

    def made(self, url: str) -> str:
        """Make it: the name of the branch."""
        from holdfast.embedded import open_store

        with open_store(url) as house:
            return house.fork(
                self.node, kind=self.kind, answers=self.answers, settings=self.settings, by=self.by, why=self.why
            )


async def _foreseen(url: str, wanted: Wanted, store: str, *, hold: bool) -> tuple[Forecast, str]:
    """What the fork means, and the agent that would go on with it. Raises Drifted if it is to `hold` to the world, and
    that has moved."""
    cutting = wanted.cutting()
    reader = reader_of(url)
    try:
        with reader.moment():
            await line_of(reader, cutting.run)
            told = await forecast(reader, cutting, [*wanted.answers.values(), *wanted.settings.values()])
            recorded = wanted.settings.get("code") or await agent_of(reader, f"{told.run}@{told.parent}")
        if hold:
            await _hold(reader, wanted, str(recorded), store)
        return told, str(recorded)
    finally:
        await reader.close()


async def _hold(reader: Reader, wanted: Wanted, recorded: str, store: str) -> None:
    """Raise Drifted if the world is not as the place of the fork has seen it. The agent's tools tell, so its module is
    imported."""
    from holdfast.cli.agents import agent_named, allowed_name
    from holdfast.embedded.drift import hold_to_the_world

    branch, at = parse_node(wanted.node)
    way = f"holdfast drift {wanted.node} --agent {recorded if is_name(recorded) else 'MODULE:AGENT'}{store}"
    agent_named(recorded if "code" in wanted.settings else allowed_name(recorded, wanted.node, way))
    await hold_to_the_world(reader, branch, at)


# --- what was said on the command line ---


def _set(given: list[str], settings: dict[str, JSON]) -> dict[int, JSON]:
    """The answers that are replaced; what is set by name is added to `settings`. Raises BadCall."""
    answers: dict[int, JSON] = {}
    for text in given:
        name, sign, value = text.partition("=")
        found = _ANSWER.fullmatch(name)
        if not sign or (found is None and _NAME.fullmatch(name) is None):
            raise BadCall(f"`{text}` sets nothing", fix="write --set SEQ.output=JSON, or --set NAME=JSON")
        if (int(found.group(1)) in answers) if found else (name in settings):
            raise BadCall(f"`{name}` is set twice", fix="set it once")
        if found:
            answers[int(found.group(1))] = json_value(value, f"--set {name}")
        else:
            settings[name] = json_value(value, f"--set {name}")
    return answers


def _text(given: str | None, option: str) -> str | None:
    """A text, or what is in @FILE. Raises BadCall."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "it is no text"
        raise BadCall(f"`{given[1:]}` cannot be read: {what}", fix=f"name a file that exists: {option} @FILE") from None


def _code(given: str | None) -> str | None:
    if given is not None and not is_name(given):
        raise BadCall(f"`{given}` does not name an agent", fix="write --code MODULE:AGENT")
    return given
