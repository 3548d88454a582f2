"""What an agent asks of a system over HTTP is one declared operation, in one spelling, or it is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from holdfast.core.canonical import canonical
from holdfast.core.contract import Drift, Level, Repeat
from holdfast.core.effect import Kind
from holdfast.errors import BadCall, BadContract, Misuse
from holdfast.gateway.upstreams.http_config import HttpConfig, Inject, Probe, Route, Undo
from holdfast.gateway.upstreams.http_path import fields_of, path_of, query_of, segments_of
from holdfast.gateway.upstreams.http_request import recorded
from tests.examples import examples
from tests.gateway.stand_in import system

MAILS = {"method": "GET", "path": "/mails", "name": "list"}
MAIL = {"method": "GET", "path": "/mails/{id}", "name": "get"}
SEND = {"method": "POST", "path": "/mails", "name": "send", "identity": ["body.invoice"]}


async def test_what_is_not_declared_is_refused() -> None:
    async with system(1, MAILS, MAIL, SEND) as shop:
        for asked in ("DELETE /mails/7", "GET /users", "GET /mails/7/raw", "PUT /mails", "delete", "TRACE /mails"):
            with pytest.raises(BadCall, match="no declared operation"):
                await shop.prepare(asked, {})


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("get", {"path": "/mails/7"}),
        ("get", {"path": {"id": "7"}}),
        ("get", {"params": {"id": 7}}),
        ("get", {"method": "get", "path": "/mails/%37"}),
        ("GET /mails/7", {}),
        ("", {"method": "GET", "path": "/mails/7"}),
    ],
)
async def test_an_operation_is_named_in_several_ways_and_is_one_call(operation: str, args: dict) -> None:
    async with system(1, MAILS, MAIL, SEND) as shop:
        prepared = await shop.prepare(operation, args)
    assert prepared.contract.name == "shop.get"
    assert prepared.contract.kind is Kind.READ
    assert prepared.args == {"method": "GET", "path": "/mails/7", "params": {"id": "7"}}


async def test_a_path_may_be_written_as_to_the_system_itself() -> None:
    """The base is `…/v1`: a program that is led here by its host asks for `/v1/mails`."""
    async with system(1, MAILS, MAIL, {"method": "GET", "path": "/v1/{id}", "name": "inner"}) as shop:
        here = await shop.prepare("", {"method": "GET", "path": "/mails/7"})
        there = await shop.prepare("", {"method": "GET", "path": "/v1/mails/7"})
        inner = await shop.prepare("", {"method": "GET", "path": "/v1/mails"})
        with pytest.raises(BadCall, match="no declared operation"):
            await shop.prepare("", {"method": "GET", "path": "/v1/v1/mails/7"})
    assert here.args == there.args
    assert inner.contract.name == "shop.inner", "what is relative to the base goes first"


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("get", {"path": "/mails"}),
        ("get", {"method": "POST", "path": "/mails/7"}),
        ("get", {"path": {}}),
        ("get", {"path": {"id": "7", "more": "x"}}),
        ("get", {"path": {"id": ""}}),
        ("get", {"path": {"id": ".."}}),
        ("get", {"path": {"id": "a/b"}}),
        ("get", {"path": {"id": ["7"]}}),
        ("GET /mails/7", {"path": "/mails/8"}),
        ("GET /mails/7", {"method": "POST"}),
        ("", {"method": "GET"}),
        ("", {}),
        ("list", {"bodY": {}}),
    ],
)
async def test_what_names_two_things_or_none_is_refused(operation: str, args: dict) -> None:
    async with system(1, MAILS, MAIL, SEND) as shop:
        with pytest.raises(BadCall):
            await shop.prepare(operation, args)


PATHS = {
    "dot segments": "/mails/../users",
    "encoded dot segments": "/mails/%2e%2e/users",
    "half encoded dots": "/mails/.%2E/users",
    "a single dot": "/mails/./7",
    "encoded twice": "/mails/%252e%252e",
    "a slash encoded twice": "/mails/7%252f8",
    "two slashes": "/mails//7",
    "two slashes at the beginning": "//mails/7",
    "an encoded slash": "/mails%2f7",
    "an encoded slash in a name": "/mails/7%2F..%2F8",
    "a backslash": "/mails\\7",
    "an encoded backslash": "/mails/..%5c7",
    "a parameter": "/mails;v=1/7",
    "an encoded semicolon": "/mails/7%3Bv=1",
    "dots with a parameter": "/mails/..;/users",
    "a query": "/mails/7?admin=1",
    "an encoded NUL": "/mails/7%00",
    "an encoded newline": "/mails/7%0d%0aX-Evil: 1",
    "a newline": "/mails/7\r\nX-Evil: 1",
    "a blank": "/mails/7 HTTP/1.1",
    "a percent sign alone": "/mails/7%",
    "half an escape": "/mails/7%2",
    "no UTF-8": "/mails/%ff",
    "an overlong slash": "/mails/%c0%af",
    "other letters": "/mails/é",
    "a fragment": "/mails/7#x",
    "an absolute URL": "http://evil.test/mails/7",
    "no slash": "mails/7",
    "nothing": "",
    "too long": f"/mails/{'a' * 9000}",
}


@pytest.mark.parametrize("which", PATHS)
async def test_a_path_that_servers_read_differently_is_refused(which: str) -> None:
    with pytest.raises(BadCall):
        segments_of(PATHS[which])
    async with system(1, MAILS, MAIL, SEND) as shop:
        with pytest.raises(BadCall):
            await shop.prepare("", {"method": "GET", "path": PATHS[which]})


@pytest.mark.parametrize(
    "query",
    ["a=1&a=2", "a=1;b=2", "a=%zz", "a=%ff", "a=1&%61=2", "=x", "a=b c", "a=é", "_method=DELETE", "a=1#x", "a=%00"],
)
async def test_a_query_that_servers_read_differently_is_refused(query: str) -> None:
    async with system(1, MAILS, MAIL, SEND) as shop:
        with pytest.raises(BadCall):
            await shop.prepare("list", {"query": query})


async def test_a_query_has_one_spelling() -> None:
    async with system(1, MAILS) as shop:
        raw = await shop.prepare("list", {"query": "b=x+y%26z&a=1&t[]=2&t[]=1"})
        told = await shop.prepare("list", {"query": {"t[]": ["2", "1"], "a": 1, "b": "x y&z"}})
    assert (
        raw.args
        == told.args
        == {
            "method": "GET",
            "path": "/mails",
            "query": {"a": "1", "b": "x y&z", "t[]": ["2", "1"]},
        }
    )


@pytest.mark.parametrize("value", [True, None, 1.5, {"a": 1}, ["1", "2"]])
async def test_a_query_value_is_text_or_a_whole_number(value: object) -> None:
    async with system(1, MAILS) as shop:
        with pytest.raises(BadCall):
            await shop.prepare("list", {"query": {"a": value}})


BODIES = {
    "a key twice": ('{"invoice": "7", "invoice": "8"}', "application/json"),
    "a key twice, escaped": ('{"invoice": "7", "\\u0069nvoice": "8"}', "application/json"),
    "NaN": ('{"invoice": NaN}', "application/json"),
    "two values": ('{"invoice": "7"}{}', "application/json"),
    "a lone surrogate": ('{"invoice": "\\ud800"}', "application/json"),
    "a byte order mark": ('\ufeff{"invoice": "7"}', "application/json"),
    "deep nesting": ('{"invoice":' + "[" * 5000 + "]" * 5000 + "}", "application/json"),
    "several requests in one": ('[{"invoice": "7"}, {"invoice": "8"}]', "application/json"),
    "another charset": ('{"invoice": "7"}', "application/json; charset=utf-16"),
    "a form key twice": ("invoice=7&invoice=8", "application/x-www-form-urlencoded"),
    "a method in a form": ("invoice=7&_method=DELETE", "application/x-www-form-urlencoded"),
    "JSON under another type": ('{"invoice": "7"}', "text/plain"),
}


@pytest.mark.parametrize("which", BODIES)
async def test_a_body_that_servers_read_differently_is_refused(which: str) -> None:
    body, kind = BODIES[which]
    async with system(1, MAILS, SEND) as shop:
        with pytest.raises(BadCall):
            await shop.prepare("send", {"body": body, "headers": {"content-type": kind}})


@pytest.mark.parametrize(
    "args",
    [
        {"body": {"invoice": "7"}, "body_b64": "e30="},
        {"body_b64": "e30"},
        {"body_b64": 7},
        {"body": {"invoice": "7"}, "headers": {"content-type": "text/plain"}},
        {"body": {"invoice": "7"}, "headers": {"content-encoding": "gzip"}},
        {"body": {"invoice": "7"}, "headers": {"x-http-method-override": "DELETE"}},
        {"body": {"invoice": "7"}, "headers": {"X-Method-Override": "DELETE"}},
        {"body": {"invoice": "7"}, "headers": {"Accept": "a", "accept": "b"}},
        {"body": {"invoice": "7"}, "headers": {"Accept": "a\r\nX-Evil: 1"}},
        {"body": {"invoice": "7"}, "headers": {"Acc ept": "a"}},
        {"body": {"invoice": "7"}, "headers": {"Accept": "é"}},
        {"body": {"invoice": "7"}, "headers": {"Accept": "a" * 9000}},
        {"body": {"invoice": "7"}, "headers": ["Accept"]},
    ],
)
async def test_a_request_that_contradicts_itself_is_refused(args: dict) -> None:
    async with system(1, MAILS, SEND) as shop:
        with pytest.raises(BadCall):
            await shop.prepare("send", args)


async def test_a_get_has_no_body() -> None:
    async with system(1, MAILS) as shop:
        with pytest.raises(BadCall, match="read in two ways"):
            await shop.prepare("list", {"body": {"a": 1}})


async def test_a_body_of_more_than_16_mib_is_refused() -> None:
    async with system(1, {"method": "PUT", "path": "/blob", "name": "put"}) as shop:
        with pytest.raises(BadCall, match="larger"):
            await shop.prepare("put", {"body_b64": base64.b64encode(bytes((16 << 20) + 1)).decode()})


async def test_headers_of_the_agent_that_speak_for_somebody_go_nowhere() -> None:
    given = {
        "Authorization": "Bearer attacker",
        "Proxy-Authorization": "Basic x",
        "Cookie": "a=b",
        "X-Api-Key": "attacker",
        "X-Forwarded-For": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "Host": "evil.test",
        "Transfer-Encoding": "chunked",
        "Content-Length": "5",
        "Expect": "100-continue",
        "Upgrade": "h2c",
        "TE": "trailers",
        "Connection": "close, if-match",
        "If-Match": '"3"',
        "Accept": "application/json",
        "X-Version": "3",
        "X-Other": "4",
        "Idempotency-Key": "mine",
    }
    async with system(1, MAILS, SEND, headers=["X-Version"]) as shop:
        prepared = await shop.prepare("send", {"body": {"invoice": "7"}, "headers": given})
    assert prepared.args["headers"] == {
        "accept": "application/json",
        "content-type": "application/json",
        "x-version": "3",
    }


@pytest.mark.parametrize(
    "header", ["Authorization", "Cookie", "Host", "Connection", "Proxy-X", "X-Forwarded-For", "Idempotency-Key", "a b"]
)
async def test_a_configuration_cannot_let_an_agent_set_these(header: str) -> None:
    with pytest.raises(BadContract, match="not for it to set"):
        async with system(1, MAILS, headers=[header]):
            pass


async def test_the_contract_of_a_route_is_what_it_declares() -> None:
    route = {
        "method": "PUT",
        "path": "/mails/{id}",
        "name": "put",
        "kind": "idempotent",
        "identity": ["path.id", "body.part.0"],
        "resource": ["path.id"],
        "drift": "refuse",
        "approval": "two",
        "blast": "body.to",
        "key_ttl_s": 60,
        "late_s": 1.5,
        "timeout_s": 2,
        "labels": ["untrusted:mail"],
    }
    async with system(1, route) as shop:
        body = {"part": ["x"], "to": ["a", "b", "c"]}
        prepared = await shop.prepare("put", {"path": {"id": "7"}, "body": body})
    contract = prepared.contract
    assert (contract.name, contract.kind) == ("shop.put", Kind.IDEMPOTENT)
    assert (contract.repeat, contract.drift, contract.approval) == (Repeat.ONCE, Drift.REFUSE, Level.TWO)
    assert (contract.key_ttl_ms, contract.late_ms, contract.timeout_ms) == (60_000, 1500, 2000)
    assert prepared.chosen == {"path.id": "7", "body.part.0": "x"}
    assert prepared.touches == {"path.id": "7"}
    assert prepared.blast == 3
    assert prepared.labels == {"untrusted:mail"}


async def test_a_write_that_says_nothing_is_irreversible_and_its_words_are_nobodys() -> None:
    async with system(
        1, *({"method": m, "path": "/x", "name": m.lower()} for m in ("POST", "PUT", "PATCH", "DELETE"))
    ) as shop:
        for name in ("post", "put", "patch", "delete"):
            prepared = await shop.prepare(name, {})
            assert prepared.contract.kind is Kind.IRREVERSIBLE
            assert prepared.contract.repeat is Repeat.ASK
            assert prepared.labels == {"untrusted:shop"}
            assert prepared.blast is None


@pytest.mark.parametrize("body", [{}, {"invoice": None}, {"other": "7"}, None, "invoice=7"])
async def test_a_call_without_what_makes_it_one_is_refused(body: object) -> None:
    async with system(1, SEND) as shop:
        with pytest.raises(BadCall, match=r"needs `body\.invoice`"):
            await shop.prepare("send", {} if body is None else {"body": body})


@pytest.mark.parametrize("value", [-1, 1.5, True, "many", None, {"a": 1}])
async def test_a_call_that_does_not_say_how_much_it_touches_is_refused(value: object) -> None:
    async with system(1, {"method": "POST", "path": "/x", "name": "x", "blast": "body.n"}) as shop:
        with pytest.raises(BadCall, match="how much it touches"):
            await shop.prepare("x", {"body": {"n": value}})


async def test_a_form_is_seen_as_its_fields() -> None:
    async with system(1, SEND) as shop:
        prepared = await shop.prepare(
            "send", {"body": "invoice=7&a=x+y", "headers": {"content-type": "application/x-www-form-urlencoded"}}
        )
    assert prepared.chosen == {"body.invoice": "7"}
    assert prepared.args["form"] == {"invoice": "7", "a": "x y"}


async def test_a_literal_segment_goes_before_a_name() -> None:
    routes = [{"method": "GET", "path": path, "name": name} for path, name in [("/m/{id}", "one"), ("/m/all", "all")]]
    async with system(1, *routes) as shop:
        assert (await shop.prepare("GET /m/all", {})).contract.name == "shop.all"
        assert (await shop.prepare("GET /m/7", {})).contract.name == "shop.one"
        with pytest.raises(BadCall):
            await shop.prepare("one", {"path": {"id": "all"}})


@pytest.mark.parametrize(
    "routes",
    [
        [],
        [{"method": "GET", "path": "x"}],
        [{"method": "GET", "path": "/a//b"}],
        [{"method": "GET", "path": "/a/../b"}],
        [{"method": "GET", "path": "/x{id}"}],
        [{"method": "GET", "path": "/{a}/{a}"}],
        [{"method": "GET", "path": "/{a}", "name": "x"}, {"method": "GET", "path": "/{b}", "name": "y"}],
        [{"method": "GET", "path": "/a", "name": "x"}, {"method": "GET", "path": "/b", "name": "x"}],
        [{"method": "POST", "path": "/a", "identity": ["invoice"]}],
        [{"method": "POST", "path": "/a", "identity": ["path.id"]}],
        [{"method": "POST", "path": "/a", "blast": "n"}],
        [{"method": "POST", "path": "/a", "mints": ["secret"]}],
        [{"method": "POST", "path": "/a", "kind": "reversible"}],
        [{"method": "POST", "path": "/a", "kind": "irreversible", "key_ttl_s": 5}],
        [{"method": "GET", "path": "/a", "probe": {"path": "/a"}}],
        [{"method": "POST", "path": "/a", "probe": {"path": "/a/{answer.body.id}"}}],
        [{"method": "POST", "path": "/a", "undo": {"path": "a"}}],
    ],
)
async def test_a_route_that_contradicts_itself_is_refused_when_it_is_declared(routes: list) -> None:
    with pytest.raises(BadContract):
        async with system(1, *routes):
            pass


@pytest.mark.parametrize(
    "more",
    [
        {"base": "https://user@shop.example/"},
        {"base": "https://shop.example/?a=b"},
        {"base": "https://0x7f.1/"},
        {"base": "https://10.0.0.1/"},
        {"base": "ftp://shop.example/"},
        {"hosts": ["https://files.example/path"]},
        {"hosts": ["https://169.254.169.254"]},
        {"inject": [{"credential": "KEY", "header": "X-Key", "hosts": ["https://other.example"]}]},
        {"private": ["a b"]},
        {"ca_file": "nowhere.pem"},
    ],
)
async def test_a_system_that_cannot_be_is_refused_when_it_is_opened(more: dict, tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        async with system(1, MAILS, folder=tmp_path, **more):
            pass


@pytest.mark.parametrize(
    "inject",
    [
        {"credential": "KEY"},
        {"credential": "KEY", "header": "a", "query": "b"},
        {"credential": "KEY", "query": "a", "user": "b"},
        {"credential": "KEY", "header": "a", "user": "b", "prefix": "c"},
        {"credential": "KEY", "header": "a", "more": "b"},
    ],
)
def test_a_credential_has_one_place(inject: dict) -> None:
    with pytest.raises(ValidationError):
        HttpConfig.model_validate({"kind": "http", "base": "https://a.example", "inject": [inject]})


@pytest.mark.parametrize(
    ("inject", "args"),
    [
        ({"query": "api_key"}, {"query": {"api_key": "mine"}}),
        ({"body": "token"}, {"body": {"token": "mine", "invoice": "7"}}),
        ({"body": "token"}, {"form": {"token": "mine", "invoice": "7"}}),
    ],
)
async def test_the_place_of_a_credential_is_not_for_an_agent_to_fill(inject: dict, args: dict) -> None:
    async with system(1, SEND, inject=[{"credential": "KEY", **inject}]) as shop:
        with pytest.raises(BadCall, match="not for an agent to set"):
            await shop.prepare("send", {"body": {"invoice": "7"}, **args} if "form" not in args else args)


async def test_every_configuration_key_is_described() -> None:
    for model in (HttpConfig, Inject, Route, Probe, Undo):
        assert all(field.description or name == "kind" for name, field in model.model_fields.items())


async def test_what_may_be_asked_for_is_told() -> None:
    async with system(1, MAIL, SEND) as shop:
        told = shop.operations()
    assert told["get"]["schema"]["properties"]["path"]["required"] == ["id"]
    assert told["send"]["kind"] == "irreversible"
    json.dumps(told)


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "Shop", "version": "1"},
    "paths": {
        "/mails": {
            "get": {"operationId": "listMails", "summary": "All mails"},
            "post": {"operationId": "send mail!", "x-holdfast": {"identity": ["body.invoice"]}},
        },
        "/mails/{mail-id}": {
            "parameters": [],
            "get": {},
            "put": {"operationId": "putMail", "x-holdfast": {"kind": "idempotent", "key_ttl_s": 60}},
            "delete": {"operationId": "deleteMail"},
            "trace": {"operationId": "traceMail"},
        },
        "/files/{name}.json": {"get": {"operationId": "getFile"}},
    },
}


async def test_an_openapi_file_names_operations_and_makes_none_of_them_safe(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(OPENAPI))
    override = {"method": "DELETE", "path": "/mails/{id}", "name": "remove", "kind": "idempotent"}
    async with system(1, override, openapi="shop.json", folder=tmp_path) as shop:
        told = {name: operation["kind"] for name, operation in shop.operations().items()}
        prepared = await shop.prepare("putMail", {"path": {"mail-id": "7"}})
        with pytest.raises(BadCall, match="no declared operation"):
            await shop.prepare("GET /files/a.json", {})
    assert told == {
        "remove": "idempotent",
        "listMails": "read",
        "send_mail": "irreversible",
        "get_mails_mail_id": "read",
        "putMail": "idempotent",
    }
    assert prepared.contract.key_ttl_ms == 60_000


@pytest.mark.parametrize(
    "text",
    [
        "openapi: 3.1.0",
        "[]",
        '{"swagger": "2.0", "paths": {}}',
        '{"openapi": "3.0.0"}',
        json.dumps({"openapi": "3.0.0", "paths": {"/a": {"get": {"x-holdfast": {"kind": "harmless"}}}}}),
        json.dumps({"openapi": "3.0.0", "paths": {"/a": {"get": {"x-holdfast": {"knid": "read"}}}}}),
    ],
)
async def test_a_file_that_is_no_openapi_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(text)
    with pytest.raises(BadContract):
        async with system(1, openapi="shop.json", folder=tmp_path):
            pass


texts = st.text(alphabet=st.one_of(st.sampled_from("/%.;\\?#2eEfF5cC0 ~é①"), st.characters()), max_size=30)


@settings(max_examples=examples(60), deadline=None)
@given(texts)
def test_the_one_spelling_of_a_path_is_its_own_one_spelling(text: str) -> None:
    try:
        segments = segments_of(f"/{text}")
    except BadCall:
        return
    path = path_of(segments)
    assert segments_of(path) == segments
    assert path_of(segments_of(path)) == path
    assert not {"", ".", ".."} & {*segments[:-1], *(segment for segment in segments if segment)} - {""}
    assert not set(path) & set(" \\;?#\x00\r\n")
    assert "//" not in path


@settings(max_examples=examples(60), deadline=None)
@given(texts)
def test_the_one_spelling_of_a_query_is_its_own_one_spelling(text: str) -> None:
    try:
        fields = fields_of(text, "the query")
    except BadCall:
        return
    assert fields_of(query_of(fields), "the query") == fields


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
)
async def test_what_is_written_down_gives_the_same_request_again(body: dict, query: dict) -> None:
    async with system(1, {"method": "POST", "path": "/mails/{id}", "name": "x"}) as shop:
        try:
            prepared = await shop.prepare("x", {"path": {"id": "a b"}, "body": body, "query": query})
        except BadCall:
            return
    upstream = prepared.upstream
    again = recorded(canonical(dict(prepared.args)), upstream._operation.template)
    assert canonical(again.args()) == canonical(dict(prepared.args))
    assert again.data() == upstream._request.data()
    assert query_of(again.query) == query_of(upstream._request.query)
