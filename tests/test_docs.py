"""The pages tell the truth: their programs run, their links lead somewhere, their commands exist.

A block fenced as `python` is a whole program and is run, in a directory of its own. If a block fenced as `output`
follows it, that is exactly what it prints. `python no-run` is for fragments: they must still be Python. `json` must
be JSON.
"""

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

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


def test_the_readme_opens_with_a_program_that_is_run() -> None:
    first = [block for block in blocks() if block.page.name == "README.md" and block.info.startswith("python")]
    assert first
    assert first[0].info == "python"
    assert first[0].output is not None


def test_fences_are_of_a_known_kind() -> None:
    known = {"python", "python no-run", "output", "sh", "json", "sql", "toml", "text", "console", "mermaid", "c", ""}
    assert not [f"{block.place} {block.info}" for block in blocks() if block.info not in known]


def test_an_output_stands_below_its_program() -> None:
    outputs = sum(1 for block in blocks() if block.info == "output")
    owned = sum(1 for block in blocks() if block.info == "python" and block.output is not None)
    assert outputs == owned


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
