"""The page of guarantees names tests that exist, and says something about every promise."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PROMISES = [f"G{number}" for number in range(1, 12)]
NOT_BUILT: set[str] = set()


def cases_in(path: Path) -> set[str]:
    """The names of the test functions in a file, by its source: nothing is imported or run."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def sections() -> dict[str, str]:
    """Each promise's part of the page, by its number."""
    parts = re.split(r"^## (G\d+) .*$", PAGE.partition("## What is not promised")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_promise_has_its_part_in_order() -> None:
    assert list(sections()) == PROMISES


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(PAGE)
    assert named
    assert not [
        f"{file}::{test}" for file, test in named if not (ROOT / file).is_file() or test not in cases_in(ROOT / file)
    ]


def test_every_promise_is_proven_as_far_as_it_is_kept() -> None:
    assert not {promise for promise, text in sections().items() if not NAMED.search(text)}


def test_what_is_not_built_is_said_not_to_be() -> None:
    assert {promise for promise, text in sections().items() if text.lstrip().startswith("**Not yet")} == NOT_BUILT


def test_every_line_of_a_list_names_a_test() -> None:
    items = [line for text in sections().values() for line in text.splitlines() if line.startswith("- ")]
    assert not [line for line in items if not NAMED.fullmatch(line.removeprefix("- "))]
