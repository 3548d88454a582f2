"""`holdfast config check`: what a configuration rests on is looked at, and no secret is shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.keyboard import typed

SECRET = "s3cr3t-canary-77"
TOOLS = """
import os
from holdfast import tool

@tool(kind="read")
def find(name: str) -> list[str]: ...

@tool(kind="irreversible", identity=["invoice"], approval="one")
def remind(invoice: str, body: str) -> str: ...

@tool()
def wipe(name: str) -> None: ...
"""
WHOLE = """
[credentials]
crm = "file:token"
[upstreams.crm]
kind = "python"
modules = ["crm_things"]
environment = { CRM_TOKEN = "credential:crm" }
[upstreams.shop]
kind = "http"
base = "https://shop.example/v1"
[[upstreams.shop.routes]]
method = "POST"
path = "/orders"
name = "order"
identity = ["body.number"]
[policy]
files = ["base.cedar"]
"""


@pytest.fixture
def place(here: Path) -> Path:
    (here / "crm_things.py").write_text(TOOLS)
    (here / "token").write_text(SECRET)
    (here / "token").chmod(0o600)
    (here / "base.cedar").write_text('@id("reads") permit (principal, action, resource);\n')
    written(WHOLE)
    return here


def written(text: str) -> None:
    Path("holdfast.toml").write_text(text)
    Path("holdfast.toml").chmod(0o600)


def checked(code: int = 0) -> dict[str, Any]:
    result = typed("config", "check", "--json")
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    return json.loads(result.stdout)


def test_the_promises_of_all_tools_are_shown(place: Path) -> None:
    found = checked()
    assert found["tools"] == [
        {"tool": "crm.find", "kind": "read", "identity": None, "approval": "none"},
        {"tool": "crm.remind", "kind": "irreversible", "identity": ["invoice"], "approval": "one"},
        {"tool": "crm.wipe", "kind": "irreversible", "identity": None, "approval": "none"},
        {"tool": "shop.order", "kind": "irreversible", "identity": ["body.number"], "approval": "none"},
    ]
    assert found["credentials"] == [{"name": "crm", "scheme": "file", "systems": ["crm"], "there": True}]
    assert [each["key"] for each in found["warnings"]] == ["crm.wipe"]


def test_the_table_is_shown_to_people(place: Path) -> None:
    result = typed("config", "check")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:3] == [
        "tool        kind          identity       approval",
        "crm.find    read          all arguments  none",
        "crm.remind  irreversible  invoice        one",
    ]


@pytest.mark.parametrize(
    ("break_it", "key", "what"),
    [
        (lambda: Path("token").unlink(), "credentials.crm", "No such file"),
        (lambda: Path("token").chmod(0o644), "credentials.crm", "mode 644"),
        (lambda: Path("crm_things.py").write_text("import nothing_there"), "upstreams.crm", "cannot be imported"),
        (lambda: Path("base.cedar").write_text("permit (principal"), "policy.files", "base.cedar"),
        (lambda: written(WHOLE.replace("/orders", "orders")), "upstreams.shop", ""),
        (lambda: written(WHOLE.replace("kind = \"http\"", "kind = \"htpp\"")), "upstreams.shop.kind", "no such kind"),
        (lambda: written("[gateway"), "", "not TOML"),
        (lambda: Path("holdfast.toml").unlink(), "", "cannot be read"),
    ],
)  # fmt: skip
def test_what_it_rests_on_is_a_fault_where_it_is_not_in_order(place: Path, break_it: Any, key: str, what: str) -> None:
    break_it()
    told = [each for each in checked(1)["faults"] if each["key"] == key and what in each["what"]]
    assert told


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        (lambda: Path("holdfast.toml").chmod(0o644), "", "everybody may read"),
        (lambda: Path("holdfast.toml").chmod(0o666), "", "others may write"),
        (lambda: Path("base.cedar").chmod(0o666), "policy.files", "others may write base.cedar"),
        (lambda: written(WHOLE.partition("[policy]")[0]), "policy", "everything is denied"),
        (lambda: written(WHOLE.replace("https://", "http://")), "upstreams.shop.base", "without TLS"),
        (lambda: written(WHOLE.replace("file:token", "file:token?lax")), "credentials.crm", "others may read"),
        (lambda: written(WHOLE.replace("crm = ", "spare = \"file:token\"\ncrm = ")), "credentials.spare", "no system"),
    ],
)  # fmt: skip
def test_what_is_unwise_is_a_warning_and_no_fault(place: Path, change: Any, key: str, what: str) -> None:
    change()
    assert [each for each in checked()["warnings"] if each["key"] == key and what in each["what"]]


def test_a_private_address_without_tls_is_nothing_to_warn_of(place: Path) -> None:
    written(WHOLE.replace("https://shop.example", "http://10.1.2.3:8080"))
    assert "upstreams.shop.base" not in [each["key"] for each in checked()["warnings"]]


def test_a_variable_that_is_not_set_is_told_by_its_name(place: Path) -> None:
    written(WHOLE.replace("file:token", "env:HOLDFAST_TEST_NOT_SET"))
    assert "`HOLDFAST_TEST_NOT_SET` is not set" in checked(1)["faults"][0]["what"]


def test_checking_leaves_the_environment_and_the_place_as_they_were(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_TOKEN", SECRET)
    before = sorted(each.name for each in place.iterdir())
    written(WHOLE.replace("file:token", "env:HOLDFAST_TEST_TOKEN"))
    checked()
    assert os.environ["HOLDFAST_TEST_TOKEN"] == SECRET
    assert sorted(each.name for each in place.iterdir() if each.name != "__pycache__") == before
