"""Which of a server's tools may be called: those whose definitions somebody has accepted."""

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Misuse, Unknown
from holdfast.gateway.upstreams.mcp_pins import Pins, accept, digest_of


def tool(name: str, description: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.pins.json"


def test_what_is_listed_first_is_accepted_and_still_is_in_another_life(path: Path) -> None:
    assert Pins(path, first_use=True).learn([tool("put")]) == {}
    again = Pins(path, first_use=True)
    assert again.why_not("put") is None
    assert again.learn([tool("put")]) == {}


def test_nothing_is_accepted_by_itself_where_first_use_is_not_trusted(path: Path) -> None:
    pins = Pins(path, first_use=False)
    assert pins.learn([tool("put")]) == {"put": "it is new"}
    assert pins.why_not("put") == "its definition is held: it is new"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (tool("put", "other"), "it has changed: description"),
        (tool("put", annotations={"readOnlyHint": True}), "it has changed: annotations"),
        (tool("put", inputSchema={"type": "object", "x": 1}), "it has changed: inputSchema"),
        (tool("put", **{"obey me": 1}), "it has changed: other parts"),
    ],
)
def test_a_change_of_any_part_is_held(path: Path, changed: dict[str, Any], why: str) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put")])
    assert pins.learn([changed]) == {"put": why}
    assert pins.why_not("put") == f"its definition is held: {why}"


def test_metadata_that_changes_holds_nothing(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put", _meta={"n": 1})])
    assert pins.learn([tool("put", _meta={"n": 2})]) == {}


def test_a_tool_that_is_listed_as_before_again_is_held_no_more(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put")])
    pins.learn([tool("put", "other")])
    pins.learn([tool("put")])
    assert pins.why_not("put") is None
    assert json.loads(path.read_text())["held"] == {}


def test_what_a_person_accepts_is_taken_up_by_who_runs(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put"), tool("get")])
    pins.learn([tool("put", "other"), tool("get", "other"), tool("new")])
    assert accept(path, "put", "new") == ["put", "new"]
    assert [pins.why_not(name) for name in ("put", "new")] == [None, None]
    assert pins.why_not("get") is not None


def test_what_was_accepted_is_refused_when_the_server_changes_it_once_more(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put")])
    pins.learn([tool("put", "second")])
    pins.learn([tool("put", "third")])
    accept(path, "put")
    assert pins.why_not("put") is None
    pins.learn([tool("put", "second")])
    assert pins.why_not("put") is not None


def test_a_tool_that_is_not_listed_any_more_cannot_be_called(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("put")])
    pins.learn([])
    assert pins.why_not("put") == "the server does not offer it any more"


def test_only_what_is_held_is_accepted(path: Path) -> None:
    Pins(path, first_use=True).learn([tool("put")])
    with pytest.raises(Unknown, match="no definition of `put` is held"):
        accept(path, "put")


@pytest.mark.parametrize(
    ("listed", "refused"),
    [
        ([tool("pаy")], {"'p\\u0430y'": "its name is not plain text"}),
        ([tool("pay\u202e")], {"'pay\\u202e'": "its name is not plain text"}),
        ([tool("a b")], {"'a b'": "its name is not plain text"}),
        (["text"], {"'?'": "its name is not plain text"}),
        ([tool("pay", "kind\u200b words")], {"pay": "it holds a character that nobody sees (U+200B)"}),
        ([tool("pay", "tags \U000e0041")], {"pay": "it holds a character that nobody sees (U+E0041)"}),
        ([tool("pay", x={"de\u202eep": 1})], {"pay": "it holds a character that nobody sees (U+202E)"}),
        ([tool("pay", "\ud800")], {"pay": "its definition has no canonical text"}),
        ([tool("list_all"), tool("listAll")], {"listAll": "its name looks like that of `list_all`"}),
        ([tool("pay1"), tool("payl")], {"payl": "its name looks like that of `pay1`"}),
        ([tool("pay"), tool("pay")], {"pay": "it is listed more than once"}),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_what_is_made_to_be_misread_is_never_accepted_by_itself(
    path: Path, listed: list[Any], refused: dict[str, str]
) -> None:
    pins = Pins(path, first_use=True)
    assert pins.learn(listed) == refused
    assert all(pins.why_not(name) is not None for name in refused)


def test_a_tool_that_is_suddenly_listed_twice_cannot_be_called(path: Path) -> None:
    pins = Pins(path, first_use=True)
    pins.learn([tool("pay")])
    pins.learn([tool("pay", "other"), tool("pay")])
    assert pins.why_not("pay") == "its definition is held: it is listed more than once"


@pytest.mark.parametrize("text", ["", "{}", '{"accepted": {"a": {"name": "b"}}, "held": {}}', '{"accepted": []}'])
def test_a_file_that_cannot_be_read_accepts_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(Misuse, match="the pins cannot be read"):
        Pins(path, first_use=True).why_not("a")
    with pytest.raises(Misuse, match="the pins cannot be read"):
        Pins(path, first_use=True).learn([tool("a")])
    assert path.read_text() == text


def test_a_definition_is_known_by_its_content_not_by_its_order() -> None:
    assert digest_of({"name": "a", "description": "b"}) == digest_of({"description": "b", "name": "a"})
