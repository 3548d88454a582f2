"""Versions: a tool that can tell the version of what it read or wrote answers `Happened(answer, etag)`. The seal keeps
the version; the agent, and whoever calls the tool outside a run, sees the answer alone."""

import dataclasses
import inspect
from typing import Any, get_type_hints

import pytest

from holdfast import Happened, agent, open_store, tool
from holdfast.core.record import Seal
from tests.stage import life, of


@dataclasses.dataclass
class Page:
    title: str
    words: int


def sealed(call: Any) -> tuple[Any, Any, list[Seal]]:
    """What an agent gets from `call()` in a first life and in a replay, and the seals."""
    seen: list[Any] = []

    @agent
    async def caller(run: Any, task: Any) -> None:
        seen.append(await call())
        if len(seen) == 1:
            raise RuntimeError("the first life ends")

    with open_store("memory://") as house:
        life(house, caller)
        life(house, caller)
        return seen[0], seen[1], of(Seal, house)


@pytest.mark.parametrize("kind", ["read", "idempotent", "irreversible"])
def test_the_seal_keeps_the_version_and_the_agent_sees_the_answer(kind: str) -> None:
    @tool(kind=kind)
    async def page(id: str) -> Happened[Page]:
        return Happened(Page("Tide", 3), etag="v7")

    first, replayed, (seal,) = sealed(lambda: page("p"))
    assert first == replayed == Page("Tide", 3)
    assert seal.outcome.etag == "v7"  # type: ignore[union-attr]


def test_a_tool_may_tell_a_version_whatever_its_annotation_says() -> None:
    @tool(kind="read")
    async def page(id: str) -> Page:
        return Happened(Page("Tide", 3), etag="v7")  # type: ignore[return-value]

    first, replayed, (seal,) = sealed(lambda: page("p"))
    assert first == replayed == Page("Tide", 3)
    assert seal.outcome.etag == "v7"  # type: ignore[union-attr]


def test_a_tool_that_sometimes_knows_a_version_answers_either() -> None:
    @tool(kind="read")
    async def page(id: str) -> Happened[Page] | Page:
        return Happened(Page("Tide", 3), etag="v7") if id == "p" else Page("Ebb", 1)

    assert sealed(lambda: page("p"))[:2] == (Page("Tide", 3), Page("Tide", 3))
    first, replayed, (seal,) = sealed(lambda: page("q"))
    assert first == replayed == Page("Ebb", 1)
    assert seal.outcome.etag is None  # type: ignore[union-attr]


class Textless:
    def __str__(self) -> str:
        raise RuntimeError("no text")


LONG = "e" * 500


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ('W/"abc"', 'W/"abc"'),
        (12, "12"),
        ("", None),
        (None, None),
        (LONG, LONG),
        (Textless(), None),
        # printf 'e%.0s' $(seq 501) | sha256sum
        (LONG + "e", "sha256:d5bf40de6ada070e9ec6292ac5d4fd3da8f04e76fff12e6e596d347c3014c1d2"),
        # printf '\xed\xa0\x80' | sha256sum: half a character has no UTF-8, so it is written as if it had
        ("\ud800", "sha256:91a681b998555fb475479817b126c94e57e52011fa1842c5d188795a4a05226b"),
    ],
)
def test_a_version_is_kept_as_text_and_one_that_does_not_fit_by_its_digest(told: Any, kept: str | None) -> None:
    @tool(kind="read")
    async def page() -> Happened[int]:
        return Happened(1, etag=told)

    *_, (seal,) = sealed(page)
    assert seal.outcome.etag == kept  # type: ignore[union-attr]


def test_two_long_versions_that_differ_at_their_end_stay_two() -> None:
    etags = []
    for end in "ab":

        @tool(kind="read")
        async def page(end: str = end) -> Happened[int]:
            return Happened(1, etag=LONG * 20 + end)

        *_, (seal,) = sealed(page)
        etags.append(seal.outcome.etag)  # type: ignore[union-attr]
    assert len(set(etags)) == 2


async def test_outside_a_run_the_answer_comes_alone() -> None:
    @tool(kind="read")
    def page(id: str) -> Happened[str]:
        return Happened("text", etag="v7")

    @tool(kind="read")
    async def later(id: str) -> Happened[str]:
        return Happened("text", etag="v7")

    assert page("p") == "text"
    assert page.again("more")("p") == "text"
    assert await later("p") == "text"


def test_a_tool_inside_a_tool_does_not_lend_it_its_version() -> None:
    @tool(kind="read")
    async def page(id: str) -> Happened[str]:
        return Happened("text", etag="of the page")

    @tool(kind="idempotent")
    async def put(id: str) -> str:
        return await page(id) + ", longer"

    first, _, (seal,) = sealed(lambda: put("p"))
    assert first == "text, longer"
    assert seal.outcome.etag is None  # type: ignore[union-attr]


def test_a_decorated_function_says_what_it_answers() -> None:
    @tool(kind="read")
    def page(id: str) -> Happened[Page]:
        return Happened(Page("Tide", 3), etag="v7")

    assert get_type_hints(page)["return"] is Page
    assert inspect.signature(page).return_annotation is Page
    assert list(inspect.signature(page).parameters) == ["id"]
    assert get_type_hints(page.holdfast.function)["return"] == Happened[Page]
