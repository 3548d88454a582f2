"""Requests at the AWS door that nobody may make: each is refused, and nothing of it reaches the account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from holdfast.core.record import Refusal
from holdfast.gateway.environment import dummy_keys
from tests.gateway.aws_account import REGION, Account, Door, Raw, door
from tests.gateway.stand_in import Peer, answer, peer

LOOK = "Action=DescribeVpcs&Version=2016-11-15"
ID, SECRET = "AKIAREALREALREAL1234", "real/Secret+canary0123456789abcdefghij7Q"
JSON = "application/x-amz-json-1.0"


@dataclass
class Stage:
    """A door before a server that only listens."""

    at: Door
    there: Peer


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """The door is on the listener of the run `r`."""
    async with peer(answer(200, b"<ok/>")) as there:
        account = Account(f"http://127.0.0.1:{there.port}", ID, SECRET)
        async with door(tmp_path, account, run="r", services=["ec2", "s3", "dynamodb"]) as at:
            yield Stage(at, there)


async def refused(stage: Stage, raw: Raw) -> str:
    """The words in which a request is refused; nothing of it may have been sent."""
    status, body = await raw.send()
    assert 400 <= status < 500, body
    assert not stage.there.got
    assert SECRET.encode() not in body
    return body.decode()


async def test_a_request_of_the_run_itself_is_sent_with_the_real_key_and_nothing_of_the_runs(stage: Stage) -> None:
    status, _ = await stage.at.form(LOOK).send()
    assert status == 200
    sent = stage.there.got[0]
    assert f"Credential={ID}/".encode() in sent
    for own in (*stage.at.keys, stage.at.taken.handle):
        assert own.encode() not in sent


async def test_the_keys_of_another_run_are_worth_nothing_on_this_listener(stage: Stage) -> None:
    other = dummy_keys(stage.at.other)
    assert "no run here" in await refused(stage, stage.at.form(LOOK, keys=other))


async def test_a_key_without_its_secret_is_worth_nothing(stage: Stage) -> None:
    forged = (stage.at.keys[0], dummy_keys(stage.at.other)[1])
    assert "signature" in await refused(stage, stage.at.form(LOOK, keys=forged))


async def test_who_was_turned_away_is_in_the_log(stage: Stage) -> None:
    await refused(stage, stage.at.form(LOOK, keys=(stage.at.keys[0], "guessed")))
    assert [record.by for record in await stage.at.records() if isinstance(record, Refusal)] == ["door aws"]


async def test_a_request_that_was_caught_is_worth_nothing_at_the_listener_of_another_run(tmp_path: Path) -> None:
    async with peer(answer(200, b"<ok/>")) as there:
        account = Account(f"http://127.0.0.1:{there.port}", ID, SECRET)
        async with door(tmp_path, account, run="other", services=["ec2"]) as at:
            await refused(Stage(at, there), at.form(LOOK))


async def test_a_run_whose_right_was_revoked_is_not_heard(stage: Stage) -> None:
    await stage.at.gate.revoke("r", stage.at.taken.right.id, by="ann", reason="test")
    assert "revoked" in await refused(stage, stage.at.form(LOOK))


CHANGED: dict[str, Callable[[Raw], Raw]] = {
    "body": lambda raw: replace(raw, body=raw.body.replace(b"DescribeVpcs", b"DeleteVpcs12")),
    "body made longer": lambda raw: replace(raw, body=raw.body + b"&DryRun=false"),
    "signed header": lambda raw: raw.with_header("X-Amz-Target", "EC2.DeleteVpc"),
    "content type": lambda raw: raw.with_header("Content-Type", "application/json"),
    "header that is not signed": lambda raw: raw.with_header("X-Amz-Copy-Source", "a/b"),
    "query": lambda raw: replace(raw, url=raw.url + "?Action=DeleteVpc"),
    "path": lambda raw: replace(raw, url=raw.url + "other"),
    "method": lambda raw: replace(raw, method="PUT"),
    "region": lambda raw: _with_authorization(raw, f"/{REGION}/", "/eu-west-1/"),
    "API": lambda raw: _with_authorization(raw, "/ec2/", "/s3/"),
    "names of the signed headers": lambda raw: _with_authorization(raw, "content-type;", ""),
}


def _with_authorization(raw: Raw, was: str, becomes: str) -> Raw:
    text = dict(raw.headers)["Authorization"]
    assert was in text
    return raw.with_header("Authorization", text.replace(was, becomes))


@pytest.mark.parametrize("change", CHANGED)
async def test_a_request_that_was_changed_after_it_was_signed_is_refused(stage: Stage, change: str) -> None:
    await refused(stage, CHANGED[change](stage.at.form(LOOK)))


async def test_an_unsigned_request_is_refused_even_from_the_runs_own_sandbox(stage: Stage) -> None:
    raw = stage.at.form(LOOK)
    bare = replace(raw, headers=[pair for pair in raw.headers if pair[0] != "Authorization"])
    assert "not signed" in await refused(stage, bare)


async def test_a_presigned_url_is_refused(stage: Stage) -> None:
    request = AWSRequest("GET", f"{stage.at.url}/aws/cloud/bucket/key")
    SigV4QueryAuth(Credentials(*stage.at.keys), "s3", REGION).add_auth(request)
    assert "presigned" in await refused(stage, Raw("GET", str(request.prepare().url), [], b""))


@pytest.mark.parametrize(
    ("header", "value", "why"),
    [
        ("Authorization", "AWS4-ECDSA-P256-SHA256 Credential=x", "SigV4A"),
        ("Authorization", "AWS AKIA:c2lnbmF0dXJl", "no form"),
        ("Authorization", "Bearer hfc_something", "no form"),
        ("X-Amz-Security-Token", "token", "not signed"),
        ("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD", "the body is not signed"),
        ("X-Amz-Content-SHA256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        ("X-Amz-Content-SHA256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        ("X-Amz-Content-SHA256", "0" * 64, "not the one that was signed"),
        ("Content-Encoding", "aws-chunked", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        ("X-Amz-Date", "20200101T000000Z", "another day"),
        ("X-Amz-Date", "yesterday", "when it was signed"),
    ],
)
async def test_what_is_signed_in_another_way_is_refused_with_the_reason(
    stage: Stage, header: str, value: str, why: str
) -> None:
    assert why in await refused(stage, stage.at.form(LOOK).with_header(header, value))


async def test_a_request_that_is_old_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    then = datetime.now(UTC) - timedelta(seconds=400)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: then)
    assert "ago" in await refused(stage, stage.at.form(LOOK))


@pytest.mark.parametrize("twice", ["X-Amz-Target", "Authorization", "X-Amz-Date"])
async def test_a_header_that_is_there_twice_is_refused(stage: Stage, twice: str) -> None:
    raw = stage.at.target("ListTables", "{}")
    value = next(value for name, value in raw.headers if name.lower() == twice.lower())
    assert "twice" in await refused(stage, replace(raw, headers=[*raw.headers, (twice.lower(), value)]))


FORMS = {
    "another API": lambda at: at.signed("sqs", body=b"Action=ListQueues&Version=2012-11-05"),
    "another region": lambda at: at.form(LOOK, region="eu-central-1"),
    "another operation": lambda at: at.form("Action=LaunchMissiles&Version=2016-11-15"),
    "no operation": lambda at: at.form("Version=2016-11-15"),
    "another version": lambda at: at.form("Action=DescribeVpcs&Version=2011-01-01"),
    "an unknown parameter": lambda at: at.form(LOOK + "&Sudo=true"),
    "an unknown part": lambda at: at.form(LOOK + "&Filter.1.Name=x&Filter.1.Sudo=x"),
    "a gap in a list": lambda at: at.form(LOOK + "&VpcId.1=vpc-1&VpcId.3=vpc-3"),
    "a list from zero": lambda at: at.form(LOOK + "&VpcId.0=vpc-1"),
    "a value that is a list, too": lambda at: at.form(LOOK + "&VpcId=vpc-1&VpcId.1=vpc-2"),
    "no boolean": lambda at: at.form("Action=DeleteVpc&Version=2016-11-15&VpcId=vpc-1&DryRun=maybe"),
    "Action twice": lambda at: at.form(LOOK + "&Action=DeleteVpc"),
    "Action twice, once encoded": lambda at: at.form(LOOK + "&%41ction=DeleteVpc"),
    "Action in the query": lambda at: at.form(LOOK, path="/?Action=DeleteVpc"),
    "only the query": lambda at: at.signed("ec2", "GET", f"/?{LOOK}"),
    "a target besides": lambda at: at.form(LOOK, x_amz_target="EC2.DeleteVpc"),
    "a method override": lambda at: at.form(LOOK, x_http_method_override="DELETE"),
    "another path": lambda at: at.form(LOOK, path="/other"),
    "JSON": lambda at: at.signed("ec2", body=b'{"Action": "DescribeVpcs"}', content_type="application/json"),
    "another target": lambda at: at.target("DropEverything", "{}"),
    "the target of another API": lambda at: at.signed(
        "dynamodb", body=b"{}", x_amz_target="AmazonSQS.ListQueues", content_type=JSON
    ),
    "a name twice": lambda at: at.target("GetItem", '{"TableName": "a", "TableName": "b", "Key": {"id": {"S": "1"}}}'),
    "an unknown name": lambda at: at.target("GetItem", '{"TableName": "a", "Key": {"id": {"S": "1"}}, "Sudo": 1}'),
    "a wrong type": lambda at: at.target("GetItem", '{"TableName": ["a"], "Key": {"id": {"S": "1"}}}'),
    "no object": lambda at: at.target("GetItem", "[]"),
    "NaN": lambda at: at.target("Scan", '{"TableName": "a", "Limit": NaN}'),
    "Action beside a target": lambda at: at.target("ListTables", "{}", path="/?Action=DeleteTable"),
    "dots in a key": lambda at: at.signed("s3", "GET", "/bucket/../other/key"),
    "encoded dots in a key": lambda at: at.signed("s3", "GET", "/bucket/%2e%2e/other/key"),
    "a slash in a bucket": lambda at: at.signed("s3", "GET", "/bucket%2Fkey?list-type=2"),
    "a bucket of dots": lambda at: at.signed("s3", "GET", "/..?list-type=2"),
    "an ARN as a bucket": lambda at: at.signed("s3", "GET", "/arn%3Aaws%3As3%3Aus-west-2%3A1%3Aaccesspoint%2Fx/key"),
    "two subresources": lambda at: at.signed("s3", "PUT", "/bucket/key?acl&tagging"),
    "an unknown subresource": lambda at: at.signed("s3", "GET", "/bucket/key?sudo"),
    "a subresource twice": lambda at: at.signed("s3", "GET", "/bucket?list-type=2&prefix=a&prefix=b"),
    "a plus in the query": lambda at: at.signed("s3", "GET", "/bucket?list-type=2&prefix=a+b"),
    "an unknown header": lambda at: at.signed("s3", "PUT", "/bucket/key", body=b"x", x_amz_sudo="yes"),
    "a source for what is no copy": lambda at: at.signed("s3", "GET", "/bucket/key", x_amz_copy_source="a/b"),
    "an operation of the wrong hint": lambda at: at.signed("s3", "GET", "/bucket/key?x-id=DeleteObject"),
    "a document type": lambda at: at.signed(
        "s3", "PUT", "/bucket/key?tagging", body=b"<!DOCTYPE a [<!ENTITY b 'c'>]><Tagging><TagSet/></Tagging>"
    ),
    "an unknown element": lambda at: at.signed(
        "s3", "PUT", "/bucket/key?tagging", body=b"<Tagging><TagSet/><Sudo/></Tagging>"
    ),
    "an element twice": lambda at: at.signed(
        "s3", "PUT", "/bucket/key?tagging", body=b"<Tagging><TagSet/><TagSet/></Tagging>"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_not_understood_in_one_way_only_is_refused_though_it_is_signed(stage: Stage, form: str) -> None:
    assert "signature" not in await refused(stage, FORMS[form](stage.at))


async def test_a_credential_that_the_account_sends_back_is_not_shown(tmp_path: Path) -> None:
    def reflect(request: bytes) -> bytes:
        said = b"<Error><Code>Echo</Code><M>" + request + SECRET.encode() + b"</M></Error>"
        return answer(403, said, x_echo=SECRET)

    async with peer(reflect) as there:
        account = Account(f"http://127.0.0.1:{there.port}", ID, SECRET)
        async with door(tmp_path, account, services=["ec2"]) as at:
            status, body = await at.form("Action=DeleteVpc&Version=2016-11-15&VpcId=vpc-1").send()
            seen = await at.seen()
    assert (status, b"[credential:" in body) == (403, True)
    for text in (body, seen):
        for secret in (ID, SECRET):
            assert secret.encode() not in text


async def test_an_account_that_cannot_be_reached_is_told_without_a_credential(tmp_path: Path) -> None:
    async with peer() as gone:
        port = gone.port
    async with door(tmp_path, Account(f"http://127.0.0.1:{port}", ID, SECRET), services=["ec2"]) as at:
        status, body = await at.form("Action=DeleteVpc&Version=2016-11-15&VpcId=vpc-1").send()
    assert status == 502
    for secret in (ID, SECRET):
        assert secret.encode() not in body
