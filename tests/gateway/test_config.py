"""holdfast.toml: every fault is told with its place and what mends it, and no value that could be a secret is shown."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.core.capability import Budget, Limit, Terms
from holdfast.core.contract import Level
from holdfast.errors import Misuse
from holdfast.gateway.config import Config, Fault, examine, load
from holdfast.gateway.settings import Document
from holdfast.gateway.upstreams.kinds import KINDS, config_of, credentials_of
from scripts.configuration import renewed, tables
from tests.store.shelf import ROOT

WHOLE = """
[gateway]
store = "runs.db"
state = "var"

[credentials]
crm = "env:CRM_TOKEN"
spare = "file:secrets/spare"

[upstreams.crm]
kind = "python"
modules = ["crm_tools"]
environment = { CRM_TOKEN = "credential:crm", REGION = "eu" }

[policy]
files = ["policy/*.cedar"]

[agents.biller]
tools = ["crm.update", "crm.*"]
calls = 100
money = "2.50"
blast = 10
expires_s = 60
approval = "one"
arguments."crm.update".customer = { one_of = ["ada", "grace"] }
arguments."crm.*"."order.amount" = { most = 100 }

[sandbox]
processes = 32
read_only = ["data"]

[people.ada]
user = "ada"
may = ["approve", "read"]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "policy").mkdir(exist_ok=True)
    (folder / "policy" / "base.cedar").write_text("")
    (folder / "holdfast.toml").write_text(text)
    return folder / "holdfast.toml"


def faults(folder: Path, text: str) -> list[Fault]:
    config, found = examine(written(folder, text))
    assert config is None
    return found


def config(folder: Path, text: str = WHOLE) -> Config:
    return load(written(folder, text))


def test_a_whole_configuration_is_read_with_paths_relative_to_its_file(tmp_path: Path) -> None:
    found = config(tmp_path)
    assert found.store == f"sqlite:///{tmp_path}/runs.db"
    assert (found.state, found.socket) == (tmp_path / "var", tmp_path / "var" / "admin.sock")
    assert found.policies == (tmp_path / "policy" / "base.cedar",)
    assert found.people["ada"].user == "ada"
    assert found.sandbox.processes == 32


def test_an_empty_configuration_is_one_and_allows_nothing(tmp_path: Path) -> None:
    found = config(tmp_path, "")
    assert (found.upstreams, found.policies, found.agents) == ({}, (), {})


def test_a_credential_is_bound_to_the_systems_that_name_it(tmp_path: Path) -> None:
    assert config(tmp_path).uses == {"crm": frozenset({"crm"})}


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"inject": [{"credential": "one", "header": "X"}], "credentials_file": ""}, {"one"}),
        ({"headers": {"Authorization": "Bearer {credential:two}, {credential:three}"}}, {"two", "three"}),
        ({"read_credential": "four", "credential": "", "role": "five"}, {"four"}),
        ({"env": {"KEY": "credential:six", "OTHER": "seven"}}, {"six"}),
    ],
)
def test_the_credentials_of_any_upstream_are_found_where_it_names_them(table: dict[str, Any], named: set[str]) -> None:
    class Anything(BaseModel, extra="allow"):
        pass

    assert credentials_of(Anything(**table)) == named


def test_what_an_agent_may_do_becomes_the_terms_of_its_capability(tmp_path: Path) -> None:
    assert config(tmp_path).agents["biller"].terms(1_000) == Terms(
        tools=("crm.update", "crm.*"),
        limits=(
            Limit(tool="crm.update", argument="customer", one_of=("ada", "grace")),
            Limit(tool="crm.*", argument="order.amount", most=100),
        ),
        budget=Budget(calls=100, money=2_500_000, blast=10),
        expires_ms=61_000,
        level=Level.ONE,
    )


@pytest.mark.parametrize(
    ("was", "becomes", "key", "what", "fix"),
    [
        ("[gateway]", "[gateway]\nstroe = 1", "gateway.stroe", "there is no such key", "did you mean `store`?"),
        ("[gateway]", "[gatevay]", "gatevay", "there is no such key", "did you mean `gateway`?"),
        ("[gateway]", "[gateway", "", "the file is not TOML", "mend it there"),
        ("[gateway]", "[gateway.remote]\nkey = 'x'\n[gateway]", "gateway.remote.listen", "it is missing", "add it"),
        ("modules =", "module =", "upstreams.crm.module", "there is no such key", "did you mean `modules`?"),
        ("modules = [\"crm_tools\"]", "", "upstreams.crm.modules", "it is missing", "add it"),
        ("\"python\"", "\"pyhton\"", "upstreams.crm.kind", "there is no such kind", "did you mean `python`?"),
        ("kind = \"python\"", "", "upstreams.crm.kind", "it is missing", "known: http"),
        ("credential:crm", "credential:crn", "upstreams.crm", "there is no credential `crn`", "did you mean `crm`?"),
        ("\"crm.*\"]", "\"crn.*\"]", "agents.biller.tools", "there is no system `crn`", "did you mean `crm`?"),
        ("\"crm.*\"]", "\"crm.up*\"]", "agents.biller.tools", "`*` stands only for the whole last part", ""),
        ("\"crm.*\"]", "\"*\"]", "agents.biller.tools", "a tool is SYSTEM.OPERATION", ""),
        ("money = \"2.50\"", "money = 2.5", "agents.biller.money", "write money as a text", ""),
        ("money = \"2.50\"", "money = \"0.0000001\"", "agents.biller.money", "no finer than", ""),
        ("money = \"2.50\"", "money = \"NaN\"", "agents.biller.money", "", ""),
        ("money = \"2.50\"", "money = \"-1\"", "agents.biller.money", "greater than or equal to 0", ""),
        ("approval = \"one\"", "approval = \"three\"", "agents.biller.approval", "'notify', 'one' or 'two'", ""),
        ("{ most = 100 }", "{ mots = 100 }", "agents.biller.arguments.\"crm.*\".\"order.amount\".mots", "", "`most`?"),
        ("{ most = 100 }", "{ }", "agents.biller.arguments.\"crm.*\".\"order.amount\"", "at least one thing", ""),
        ("policy/*.cedar", "policies/*.cedar", "policy.files.0", "no such file", "mend the path"),
        ("processes = 32", "processes = 0", "sandbox.processes", "greater than 0", ""),
        ("user = \"ada\"", "usre = \"ada\"", "people.ada.usre", "there is no such key", "did you mean `user`?"),
        ("env:CRM_TOKEN", "evn:CRM_TOKEN", "credentials.crm", "given by a reference", "env:…"),
        ("env:CRM_TOKEN", "vault:a/b#c", "credentials.crm", "needs a server", "VAULT_ADDR"),
        ("REGION =", "PYTHONPATH =", "upstreams.crm.environment", "`PYTHONPATH` may not be set", ""),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place_and_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str, becomes: str, key: str, what: str, fix: str
) -> None:
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    assert was in WHOLE
    found = faults(tmp_path, WHOLE.replace(was, becomes, 1))
    told = [each for each in found if each.key.startswith(key) and what in each.what and fix in each.fix]
    assert told, found


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path, WHOLE.replace("store =", "stroe =").replace("calls =", "cals =").replace("user =", "usre =")
    )
    assert [each.key for each in found] == ["agents.biller.cals", "gateway.stroe", "people.ada.usre"]


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghij0123456789",
        "ghp_abcdefghijklmnopqrstuvwx0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-12345678901-abcdef",
        "Bearer abcdefghijklmnop",
        "postgresql://app:hunter22@db/crm",
        "-----BEGIN PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_123",
    ],
)
@pytest.mark.parametrize("place", ['crm = "env:CRM_TOKEN"', 'REGION = "eu"', 'store = "runs.db"'])
def test_a_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path, secret: str, place: str) -> None:
    name = place.partition(" ")[0]
    found = faults(tmp_path, WHOLE.replace(place, f'{name} = "{secret}"', 1))
    assert [each for each in found if each.key.endswith(name)]
    assert not [each for each in found if secret in f"{each.key} {each.what} {each.fix}"]


def test_a_plain_text_in_the_place_of_a_reference_is_refused_and_not_shown(tmp_path: Path) -> None:
    found = faults(tmp_path, WHOLE.replace("env:CRM_TOKEN", "hunter2-hunter2"))
    assert [each.key for each in found] == ["credentials.crm"]
    assert "hunter2" not in repr(found)


def test_no_value_is_shown_where_it_does_not_fit(tmp_path: Path) -> None:
    found = faults(tmp_path, WHOLE.replace("calls = 100", 'calls = "hunter2-hunter2"'))
    assert [each.key for each in found] == ["agents.biller.calls"]
    assert "hunter2" not in repr(found)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        load(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Misuse, match="not UTF-8"):
        load(tmp_path / "bytes.toml")


def test_the_kinds_are_a_closed_table(tmp_path: Path) -> None:
    for kind in ("os", "holdfast.gateway.upstreams.http", "python.hosted", ""):
        assert faults(tmp_path, f"[upstreams.x]\nkind = '{kind}'")[0].key == "upstreams.x.kind"
        with pytest.raises(Misuse, match="no kind of upstream"):
            config_of(kind)


# --- the page ---


def page() -> str:
    return (ROOT / "docs" / "configuration.md").read_text()


def test_the_page_lists_every_key_of_every_table_with_what_it_means_and_its_default() -> None:
    assert renewed(page()) == page(), "python scripts/configuration.py writes the tables anew"


def test_every_key_has_a_description() -> None:
    silent = [
        f"{title}.{key}"
        for title, model in tables()
        for key, field in model.model_fields.items()
        if not field.description and key != "kind"
    ]
    assert not silent


def test_every_table_and_every_kind_of_upstream_has_its_place_on_the_page() -> None:
    for name in Document.model_fields:
        assert re.search(rf"^## \[{name}\b", page(), re.MULTILINE), name
    for kind in KINDS:
        assert f"| `{kind}` |" in page(), kind


def test_each_example_of_the_page_is_a_configuration(tmp_path: Path) -> None:
    example, *others = re.findall(r"^```toml\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    for other in others:
        assert load(written(tmp_path, other)).upstreams
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "base.cedar").write_text("")
    found = load(written(tmp_path, example))
    assert found.agents["biller"].money == Decimal("2.50")
