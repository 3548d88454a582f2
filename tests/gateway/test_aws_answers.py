"""What an answer of AWS to a write means, by what the program hears and by what is sent again."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdfast.core.canonical import canonical
from holdfast.gateway.receipt import for_read
from holdfast.gateway.upstreams.aws_proof import Asked, claim_of
from holdfast.store.memory import MemoryStore
from tests.gateway.aws_account import Account, Door, Raw, door
from tests.gateway.stand_in import answer, peer

CREATE = "Action=CreateVpc&Version=2016-11-15&CidrBlock=10.0.0.0%2F16"
RUN = "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&MinCount=1&MaxCount=1&ClientToken=mine"
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n<Run"


def said(code: str) -> bytes:
    return f"<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors></Response>".encode()


def to(port: int) -> Account:
    return Account(f"http://127.0.0.1:{port}", "AKIAREALREALREAL1234", "real/Secret+canary0123456789abcdefghij7Q")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "InvalidParameterValue"),
        (403, "UnauthorizedOperation"),
        (404, "NoSuchBucket"),
        (409, "BucketAlreadyExists"),
        (412, "PreconditionFailed"),
        (301, "PermanentRedirect"),
    ],
)
async def test_a_refusal_is_given_as_it_came_and_again_after_a_restart(tmp_path: Path, status: int, code: str) -> None:
    store = MemoryStore()
    async with peer(answer(status, said(code)), answer(200, b"<no/>")) as there:
        heard = []
        for _ in range(2):
            async with door(tmp_path, to(there.port), store=store, services=["ec2"]) as at:
                heard.append(await at.form(CREATE).send())
    assert heard == [(status, said(code))] * 2
    assert len(there.got) == 1


@pytest.mark.parametrize(
    "first",
    [
        answer(500, said("InternalError")),
        answer(503, said("Unavailable")),
        answer(408, said("RequestTimeout")),
        answer(409, said("OperationAborted")),
        CUT,
    ],
    ids=["500", "503", "408", "409", "cut off"],
)
async def test_what_proves_nothing_leaves_an_irreversible_write_in_doubt(tmp_path: Path, first: bytes) -> None:
    async with peer(first, answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["ec2"]) as at:
        told = [await at.form(CREATE).send() for _ in range(2)]
    assert [status for status, _ in told] == [503, 503]
    assert b"holdfast settle" in told[0][1]
    assert len(there.got) == 1


async def test_a_copy_that_answers_with_an_error_inside_200_is_in_doubt(tmp_path: Path) -> None:
    first = answer(200, b'<?xml version="1.0"?>\n<Error><Code>InternalError</Code></Error>')
    async with peer(first, answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["s3"]) as at:
        status, _ = await at.signed("s3", "PUT", "/bucket/key", x_amz_copy_source="bucket/other").send()
    assert status == 503
    assert len(there.got) == 1


@pytest.mark.parametrize("first", [answer(500, said("InternalError")), CUT], ids=["500", "cut off"])
async def test_a_write_with_a_token_is_sent_again_with_the_same_token_and_body(tmp_path: Path, first: bytes) -> None:
    async with peer(first, answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["ec2"]) as at:
        assert await at.form(RUN).send() == (200, b"<ok/>")
    bodies = [request.partition(b"\r\n\r\n")[2] for request in there.got]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert token(bodies[0])
    assert b"ClientToken=mine" not in bodies[0]


async def test_each_of_two_equal_calls_has_a_token_of_its_own(tmp_path: Path) -> None:
    async with peer(answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["ec2"]) as at:
        await at.form(RUN.replace("mine", "one")).send()
        await at.form(RUN.replace("mine", "two")).send()
    assert len({token(request) for request in there.got}) == 2


def token(request: bytes) -> bytes:
    found = re.search(rb"ClientToken=([0-9a-f-]{36})(&|$)", request)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("status", "code"), [(400, "Throttling"), (503, "RequestLimitExceeded"), (429, "Other")])
async def test_a_throttled_write_is_sent_again_later(tmp_path: Path, status: int, code: str) -> None:
    first = answer(status, said(code), retry_after="0")
    async with peer(first, answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["ec2"]) as at:
        assert await at.form(CREATE).send() == (200, b"<ok/>")
    assert len(there.got) == 2


async def test_to_a_read_every_answer_is_one(tmp_path: Path) -> None:
    look = "Action=DescribeVpcs&Version=2016-11-15"
    async with (
        peer(answer(500, said("InternalError"))) as there,
        door(tmp_path, to(there.port), services=["ec2"]) as at,
    ):
        assert await at.form(look).send() == (500, said("InternalError"))


async def test_a_write_is_never_sent_over_a_connection_that_was_kept(tmp_path: Path) -> None:
    async with peer(answer(200, b"<ok/>")) as there, door(tmp_path, to(there.port), services=["ec2"]) as at:
        await at.form(CREATE).send()
    assert b"connection: close" in there.got[0].lower()


@pytest.mark.parametrize(
    "raw",
    [
        lambda at: at.form(RUN + "&TagSpecification.1.ResourceType=vpc&TagSpecification.1.Tag.1.Key=a%26b"),
        lambda at: at.target("PutItem", '{"TableName": "t", "Item": {"n": {"N": "1.50"}, "b": {"B": "AP8="}}}'),
        lambda at: at.signed("s3", "PUT", "/bucket/a%20b/%C3%BC", body=bytes(range(256)), x_amz_meta_who="me"),
        lambda at: at.signed(
            "s3", "PUT", "/bucket/k?tagging",
            body=b"<Tagging><TagSet><Tag><Key>a</Key><Value>&lt;b&gt;</Value></Tag></TagSet></Tagging>",
        ),
    ],
    ids=["form", "JSON", "object", "XML"],
)  # fmt: skip
async def test_what_is_sent_from_the_log_is_byte_for_byte_what_was_sent(tmp_path: Path, raw: object) -> None:
    apis = ["dynamodb", "ec2", "s3"]
    async with peer(answer(200, b"{}")) as there, door(tmp_path, to(there.port), services=apis) as at:
        made = sending(raw, at)
        place = urlsplit(made.url)
        headers = {"host": place.netloc} | {name.lower(): value for name, value in made.headers}
        asked = Asked(made.method, place.path, place.query, headers, made.body)
        asked = replace(asked, path=asked.path.removeprefix("/aws/cloud"))
        operation, args, _ = at.system.understood(claim_of(asked, time.time()), asked)
        prepared = await at.system.prepare(operation, args)
        receipt = for_read("r@main", prepared.contract.name)
        for recorded in (None, canonical(dict(prepared.args))):
            await prepared.upstream.perform(recorded, receipt)
    assert len(there.got) == 2
    assert len({unsigned(request) for request in there.got}) == 1


def sending(raw: object, at: Door) -> Raw:
    assert callable(raw)
    made = raw(at)
    assert isinstance(made, Raw)
    return made


def unsigned(request: bytes) -> bytes:
    """A request without what tells when it was signed."""
    own = (b"authorization:", b"x-amz-date:", b"connection:")
    return b"\r\n".join(line for line in request.split(b"\r\n") if not line.lower().startswith(own))
