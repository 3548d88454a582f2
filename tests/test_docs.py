"""The pages tell the truth: their programs run, their links lead somewhere, their commands exist.

A block fenced as `python` is a whole program and is run, in a directory of its own. If a block fenced as `output`
follows it, that is exactly what it prints. `python no-run` is for fragments: they must still be Python. `json` must
be JSON. `console` blocks are typed in, page by page, in one directory that holds the page's `python file=NAME` blocks;
what they show is what a terminal shows, and `…` stands for what is another each time.
"""

import ast
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

from holdfast import tool
from holdfast.core.canonical import canonical
from holdfast.core.effect import Kind
from holdfast.core.log import FOLLOWS
from holdfast.core.record import RECORDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\((?P<target>[^()\s]+(?:\([^()\s]*\))?)(?:\s+\"[^\"]*\")?\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(?P<target>\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.MULTILINE)
ANCHOR = re.compile(r"<a\s+(?:id|name)=\"(?P<name>[^\"]+)\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: where it stands, what it is, and what the next block (if it is `output`) says it prints."""

    page: Path
    line: int
    info: str
    body: str
    output: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks() -> tuple[Block, ...]:
    found: list[Block] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = list(FENCE.finditer(text))
        for here, after in zip_longest(fences, fences[1:]):
            adjacent = (
                after is not None and after["info"].strip() == "output" and not text[here.end() : after.start()].strip()
            )
            found.append(
                Block(
                    page=page,
                    line=text.count("\n", 0, here.start()) + 1,
                    info=here["info"].strip(),
                    body=here["body"],
                    output=after["body"] if adjacent and after is not None else None,
                )
            )
    return tuple(found)


@cache
def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives the headings of a page, and those it sets itself."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: list[str] = [match["name"] for match in ANCHOR.finditer(text)]
    for match in HEADING.finditer(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["text"])
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        twins = sum(1 for name in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", name))
        found.append(f"{slug}-{twins}" if slug in found else slug)
    return frozenset(found)


def programs(info: str) -> list[object]:
    return [pytest.param(block, id=block.place) for block in blocks() if block.info == info]


@pytest.mark.parametrize("program", programs("python"))
def test_a_program_runs_and_prints_what_the_page_says(program: Block, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program.body, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, f"{program.place}\n{ran.stdout}{ran.stderr}"
    if program.output is not None:
        assert ran.stdout == program.output


WALKS = sorted({block.page for block in blocks() if block.info == "console"})


@pytest.mark.parametrize("page", WALKS, ids=lambda page: page.name)
def test_what_a_page_types_shows_what_the_page_says(page: Path, tmp_path: Path) -> None:
    for block in blocks():
        if block.page == page and block.info.startswith("python file="):
            (tmp_path / block.info.partition("=")[2]).write_text(block.body, encoding="utf-8")
    for block in blocks():
        if block.page == page and block.info == "console":
            for command, said in commands(block.body):
                shown = typed(command, tmp_path)
                expected = ".*".join(re.escape(part) for part in said.split("…"))
                assert re.fullmatch(expected, shown), f"{block.place}\n$ {command}\n{shown}\ninstead of\n{said}"


def commands(body: str) -> list[tuple[str, str]]:
    """What is typed at a `$ `, and what is shown below it."""
    parts = re.split(r"^\$ (.*)\n", body, flags=re.MULTILINE)
    assert not parts[0], f"a console block begins with a command, not with {parts[0]!r}"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def typed(command: str, where: Path) -> str:
    """What a terminal in the directory `where` shows for a command."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=where,
        env={**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    killed = ran.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return ran.stdout + ("Killed\n" if killed else "")


def test_the_readme_opens_with_a_program_that_is_run() -> None:
    first = [block for block in blocks() if block.page.name == "README.md" and block.info.startswith("python")]
    assert first
    assert first[0].info == "python"
    assert first[0].output is not None


def test_fences_are_of_a_known_kind() -> None:
    known = {"python", "python no-run", "output", "sh", "json", "sql", "toml", "text", "console", "mermaid", "c", ""}
    wrong = [block for block in blocks() if block.info not in known and not block.info.startswith("python file=")]
    assert not [f"{block.place} {block.info}" for block in wrong]


def test_an_output_stands_below_its_program() -> None:
    outputs = sum(1 for block in blocks() if block.info == "output")
    owned = sum(1 for block in blocks() if block.info == "python" and block.output is not None)
    assert outputs == owned


def test_the_state_diagram_of_a_call_is_the_table_of_what_may_follow() -> None:
    """The page's arrows are those of `FOLLOWS`; where nothing follows, its arrow to the end."""
    (diagram,) = [
        block.body for block in blocks() if block.page.name == "log-format.md" and "stateDiagram" in block.body
    ]
    drawn = re.findall(r"^\s*(\S+) --> (\S+)$", diagram, re.MULTILINE)
    assert len(drawn) == len(set(drawn)) == diagram.count("-->")
    names = {kind: "[*]" if kind is None else kind.__name__ for kind in FOLLOWS}
    legal = {(names[kind], follower.__name__) for kind, followers in FOLLOWS.items() for follower in followers}
    legal |= {(names[kind], "[*]") for kind, followers in FOLLOWS.items() if not followers}
    assert set(drawn) == legal


def test_the_log_format_lists_every_record_and_field() -> None:
    page = (ROOT / "docs/log-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \| (.*?) \|", page.partition("## Records")[2], re.MULTILINE)
    listed = {name: re.findall(r"`([a-z_]+)`", fields) for name, fields in rows}
    assert listed == {kind.__name__.lower(): [field.name for field in fields(kind)] for kind in RECORDS}


def test_the_log_format_vectors_hold() -> None:
    """Each row of the table of canonical JSON: a JSON text, and its one spelling."""
    page = (ROOT / "docs/log-format.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `` (.+?) `` \| `` (.+?) `` \|$", page, re.MULTILINE)
    assert len(rows) >= 10
    assert {text: canonical(json.loads(text)).decode() for text, _ in rows} == dict(rows)


def test_the_concepts_list_every_argument_of_a_contract_and_every_kind() -> None:
    page = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    arguments, kinds = (
        re.findall(r"^\| `(\w+)` \|", page.partition(f"\n## {title}\n")[2].partition("\n## ")[0], re.MULTILINE)
        for title in ("Tool and contract", "Kind")
    )
    assert sorted(arguments) == sorted(inspect.signature(tool).parameters)
    assert kinds == [kind.value for kind in Kind]


def test_fragments_are_at_least_well_formed() -> None:
    for block in blocks():
        if block.info == "python no-run":
            ast.parse(block.body, filename=block.place)
        elif block.info == "json":
            json.loads(block.body)


def test_every_link_inside_the_repository_leads_somewhere() -> None:
    dead: list[str] = []
    followed = 0
    for page in PAGES:
        for match in [*LINK.finditer(prose(page)), *REFERENCE.finditer(prose(page))]:
            target, _, anchor = match["target"].partition("#")
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            followed += 1
            path = (page.parent / target).resolve() if target else page
            lost = not path.exists() or not path.is_relative_to(ROOT)
            if lost or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                dead.append(f"{page.relative_to(ROOT)}: {match['target']}")
    assert followed
    assert not dead


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (str(page.relative_to(ROOT)), target)
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert not {(page, target) for page, target in named if target not in targets}
