"""The contract of a tool: what is declared of it, made stricter by what it says of itself."""

from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.core.contract import Drift, Level, Repeat
from holdfast.core.effect import Kind
from holdfast.gateway.upstreams.mcp_tools import READS, McpConfig, contract_of, contract_of_request


def config(tool: dict[str, Any] | None = None, **more: Any) -> McpConfig:
    tools = {} if tool is None else {"t": tool}
    return McpConfig.model_validate({"kind": "mcp", "url": "https://kv.example/mcp", "tools": tools, **more})


def kind(declared: McpConfig, **hints: bool) -> Kind:
    return contract_of("kv", declared, "t", {"name": "t", "annotations": hints}).kind


READ, SAME, NEVER = Kind.READ, Kind.IDEMPOTENT, Kind.IRREVERSIBLE


@pytest.mark.parametrize(
    ("said", "trusted", "hints", "expected"),
    [
        (None, False, {}, NEVER),
        (None, False, {"readOnlyHint": True}, NEVER),
        (None, False, {"idempotentHint": True}, NEVER),
        (None, True, {"readOnlyHint": True}, READ),
        (None, True, {"readOnlyHint": True, "destructiveHint": True}, NEVER),
        (None, True, {"idempotentHint": True}, SAME),
        (None, True, {"readOnlyHint": False}, NEVER),
        ({"read_only_trusted": True}, False, {"readOnlyHint": True}, READ),
        ({"read_only_trusted": True}, False, {"idempotentHint": True}, NEVER),
        ({"read_only_trusted": True}, False, {}, NEVER),
        ({"kind": "read"}, False, {}, READ),
        ({"kind": "read"}, False, {"readOnlyHint": False}, NEVER),
        ({"kind": "read"}, True, {"destructiveHint": True}, NEVER),
        ({"kind": "idempotent"}, False, {}, SAME),
        ({"kind": "idempotent"}, False, {"idempotentHint": False}, NEVER),
        ({"kind": "idempotent"}, False, {"destructiveHint": True}, SAME),
        ({"kind": "irreversible"}, True, {"readOnlyHint": True}, NEVER),
    ],
)
def test_annotations_loosen_only_where_they_are_trusted_and_tighten_always(
    said: dict[str, Any] | None, trusted: bool, hints: dict[str, bool], expected: Kind
) -> None:
    assert kind(config(said, trust_annotations=trusted), **hints) is expected


@pytest.mark.parametrize("annotations", [None, "readOnlyHint", [], {"readOnlyHint": "true"}, {"readOnlyHint": 1}])
def test_annotations_that_are_none_say_nothing(annotations: Any) -> None:
    tool = {"name": "t", "annotations": annotations}
    assert contract_of("kv", config(trust_annotations=True), "t", tool).kind is NEVER


def test_of_what_destroys_people_are_told() -> None:
    destroys = {"name": "t", "annotations": {"destructiveHint": True}}
    assert contract_of("kv", config(), "t", destroys).approval is Level.NOTIFY
    assert contract_of("kv", config({"approval": "two"}), "t", destroys).approval is Level.TWO
    assert contract_of("kv", config(), "t", {"name": "t"}).approval is Level.NONE


def test_what_is_declared_stands_in_the_contract() -> None:
    said = {"kind": "idempotent", "identity": ["x"], "resource": ["y"], "repeat": "each", "drift": "refuse"}
    found = contract_of("kv", config({**said, "timeout_s": 1.5, "key_ttl_s": 60, "late_s": 2}), "t", {"name": "t"})
    assert (found.name, found.identity, found.resource) == ("kv.t", ("x",), ("y",))
    assert (found.repeat, found.drift) == (Repeat.EACH, Drift.REFUSE)
    assert (found.timeout_ms, found.key_ttl_ms, found.late_ms) == (1500, 60_000, 2000)


def test_a_request_is_a_read_only_where_the_protocol_says_so() -> None:
    assert {contract_of_request("kv", config(), method).kind for method in READS} == {READ}
    assert contract_of_request("kv", config(), "future/method").kind is NEVER


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": None},
        {"command": ["server"]},
        {"env": {"A": "b"}},
        {"unsafe_no_sandbox": True},
        {"url": None, "command": []},
        {"url": None, "command": ["server"], "headers": {"A": "b"}},
        {"tools": {"t": {"kind": "reversible"}}},
        {"tools": {"t": {"unknown": 1}}},
        {"timeout_s": 0},
        {"protocol": "2024-11-05"},
    ],
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


def test_a_configuration_tells_which_credentials_and_hosts_it_uses() -> None:
    both = {
        "Authorization": "Bearer {credential:b}",
        "X-Both": "{credential:a}:{credential:b}",
        "X-Plain": "credential",
    }
    assert config(headers=both).credentials == ("a", "b")
    assert config(url=None, command=["s"], env={"T": "credential:c", "U": "d"}).credentials == ("c",)
    assert config().hosts == ("kv.example:443",)
    assert config(url="http://kv.example:8080/mcp").hosts == ("kv.example:8080",)


@pytest.mark.parametrize(
    "url", ["ftp://a/", "https://user@a/", "https://a/?q=1", "https://a/#f", "https://ä/", "https:///x", "https://a b/"]
)
def test_a_url_that_can_be_misread_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        config(url=url)
