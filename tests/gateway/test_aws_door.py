"""Programs that use boto3 as they always do, through the gateway, to an account that checks who has signed what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from holdfast.core.capability import Budget
from holdfast.core.effect import Kind
from holdfast.core.record import Hold, Intent
from holdfast.store.memory import MemoryStore
from tests.gateway.aws_account import REGION, Account, Door, account, does, door
from tests.gateway.lodge import Rules

IMAGE = "ami-12c6146b"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with account(tmp_path_factory.mktemp("cloud")) as found:
        yield found


async def code_of(work: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(ClientError) as caught:
        await does(work, *args, **more)
    return str(caught.value.response["Error"]["Code"])


async def test_a_program_keeps_objects_that_it_finds_again(tmp_path: Path, there: Account) -> None:
    key, data = "a b/ü+c&d=1.txt", bytes(range(256)) * 40

    def work(at: Door) -> tuple[bytes, Any, list[str], Any]:
        s3 = at.client("s3")
        s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket="kept", Key=key, Body=data, Metadata={"who": "me"})
        s3.copy_object(Bucket="kept", Key="copy", CopySource={"Bucket": "kept", "Key": key})
        head, body = s3.head_object(Bucket="kept", Key=key), s3.get_object(Bucket="kept", Key=key)["Body"].read()
        found = [each["Key"] for each in s3.list_objects_v2(Bucket="kept")["Contents"]]
        gone = s3.delete_objects(Bucket="kept", Delete={"Objects": [{"Key": "copy"}]})["Deleted"]
        return body, (head["ContentLength"], head["Metadata"]), found, gone

    async with door(tmp_path, there) as at:
        assert await does(work, at) == (data, (len(data), {"who": "me"}), [key, "copy"], [{"Key": "copy"}])
    direct = there.client("s3")
    assert direct.get_object(Bucket="kept", Key=key)["Body"].read() == data
    assert [each["Key"] for each in direct.list_objects_v2(Bucket="kept")["Contents"]] == [key]


async def test_a_request_is_signed_for_the_host_that_is_sent(tmp_path: Path, there: Account) -> None:
    endpoint = f"http://LOCALHOST.:{there.url.rpartition(':')[2]}/"

    def work(at: Door) -> str:
        return at.client("sqs").create_queue(QueueName="by-another-name")["QueueUrl"]

    async with door(tmp_path, there, services=["sqs"], endpoints={"sqs": endpoint}, private=["localhost"]) as at:
        assert (await does(work, at)).endswith("/by-another-name")


async def test_a_program_uses_queues_and_tables(tmp_path: Path, there: Account) -> None:
    item = {"id": {"S": "1"}, "raw": {"B": b"\0\xff"}, "n": {"N": "1.50"}}

    def work(at: Door) -> tuple[Any, Any]:
        sqs, tables = at.client("sqs"), at.client("dynamodb")
        url = sqs.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "5"})["QueueUrl"]
        about = {"raw": {"DataType": "Binary", "BinaryValue": b"\0\xff"}}
        sqs.send_message(QueueUrl=url, MessageBody="ünïcode", MessageAttributes=about)
        heard = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"][0]
        keys = {"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}], "BillingMode": "PAY_PER_REQUEST"}
        names = [{"AttributeName": "id", "AttributeType": "S"}]
        tables.create_table(TableName="t", AttributeDefinitions=names, **keys)
        tables.put_item(TableName="t", Item=item)
        return (heard["Body"], heard["MessageAttributes"]), tables.get_item(TableName="t", Key={"id": item["id"]})[
            "Item"
        ]

    async with door(tmp_path, there) as at:
        (body, about), found = await does(work, at)
    assert (body, about["raw"]["BinaryValue"], found) == ("ünïcode", b"\0\xff", item)


async def test_no_credential_is_in_the_log_and_an_error_is_the_accounts_own(tmp_path: Path, there: Account) -> None:
    async with door(tmp_path, there) as at:
        assert await code_of(at.client("ec2").delete_vpc, VpcId="vpc-12345678") == "InvalidVpcID.NotFound"
        assert (
            await code_of(at.client("sqs").get_queue_url, QueueName="none") == "AWS.SimpleQueueService.NonExistentQueue"
        )
        seen = await at.seen()
    assert b"vpc-12345678" in seen
    for secret in (there.id, there.secret, *at.keys):
        assert secret.encode() not in seen


async def test_an_account_is_spoken_to_with_its_own_key_or_not_at_all(tmp_path: Path, there: Account) -> None:
    wrong = Account(there.url, there.id, there.secret[:-1] + ("a" if there.secret[-1] != "a" else "b"))
    async with door(tmp_path, wrong) as at:
        assert await code_of(at.client("ec2").describe_vpcs) in ("AuthFailure", "SignatureDoesNotMatch")


async def test_a_program_that_is_started_again_is_answered_from_the_log(tmp_path: Path, there: Account) -> None:
    store, before = MemoryStore(), len(there.changes())

    def work(at: Door) -> tuple[str, list[str]]:
        ec2 = at.client("ec2")
        network = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        # boto3 makes up a new ClientToken each time.
        return network, [each["InstanceId"] for each in
                         ec2.run_instances(ImageId=IMAGE, MinCount=2, MaxCount=2)["Instances"]]  # fmt: skip

    lives = []
    for _ in range(2):
        async with door(tmp_path, there, store=store) as at:
            lives.append(await does(work, at))
    assert lives[0] == lives[1]
    assert [each.partition(" ")[0] for each in there.changes()[before:]] == ["CreateVpc", "RunInstances"]


async def test_a_call_is_judged_by_what_it_asks_for(tmp_path: Path, there: Account) -> None:
    rules = Rules()

    def work(at: Door) -> None:
        ec2 = at.client("ec2")
        made = ec2.run_instances(ImageId=IMAGE, MinCount=3, MaxCount=3)["Instances"]
        ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running", "pending"]}])
        ec2.terminate_instances(InstanceIds=[each["InstanceId"] for each in made])

    async with door(tmp_path, there, policy=lambda: rules) as at:
        await does(work, at)
    told = {facts.tool: facts for facts in rules.judged}
    assert {tool: (facts.kind, facts.blast) for tool, facts in told.items()} == {
        "cloud.ec2.RunInstances": (Kind.IDEMPOTENT, 3),
        "cloud.ec2.DescribeInstances": (Kind.READ, 1),
        "cloud.ec2.TerminateInstances": (Kind.IRREVERSIBLE, 3),
    }
    asked = told["cloud.ec2.RunInstances"].args
    assert asked == {"region": REGION, "parameters": {"ImageId": IMAGE, "MinCount": 3, "MaxCount": 3}}


async def test_a_budget_of_blast_radius_holds_for_machines(tmp_path: Path, there: Account) -> None:
    before = len(there.changes())
    async with door(tmp_path, there, budget=Budget(blast=2)) as at:
        ec2 = at.client("ec2")
        assert await code_of(ec2.run_instances, ImageId=IMAGE, MinCount=3, MaxCount=3) == "AccessDenied"
    assert there.changes()[before:] == []


async def test_a_dry_run_is_a_read(tmp_path: Path, there: Account) -> None:
    before = len(there.changes())
    async with door(tmp_path, there) as at:
        ec2 = at.client("ec2")
        assert await code_of(ec2.run_instances, ImageId=IMAGE, MinCount=1, MaxCount=1, DryRun=True) == "DryRunOperation"
        assert not [record for record in await at.records() if isinstance(record, Intent)]
    assert there.changes()[before:] == []


async def test_power_over_the_account_waits_for_two_people(tmp_path: Path, there: Account) -> None:
    async with door(tmp_path, there) as at:
        assert await code_of(at.client("iam").create_user, UserName="mallory") == "ServiceUnavailable"
        holds = [record for record in await at.records() if isinstance(record, Hold)]
    assert [(hold.tool, hold.level) for hold in holds] == [("cloud.iam.CreateUser", "two")]
    assert "mallory" not in {user["UserName"] for user in there.client("iam").list_users()["Users"]}


async def test_what_hands_out_secrets_is_refused_where_nothing_is_said(tmp_path: Path, there: Account) -> None:
    role = {"RoleArn": "arn:aws:iam::123456789012:role/admin", "RoleSessionName": "me"}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("iam", "create_access_key", {"UserName": "gateway"}),
        ("sts", "get_session_token", {}),
        ("sts", "assume_role", role),
        ("secretsmanager", "get_secret_value", {"SecretId": "x"}),
        ("ssm", "get_parameter", {"Name": "/x", "WithDecryption": True}),
        ("ec2", "create_key_pair", {"KeyName": "x"}),
        ("ec2", "get_password_data", {"InstanceId": "i-12345678"}),
    ]
    async with door(tmp_path, there) as at:
        codes = [await code_of(getattr(at.client(api), call), **args) for api, call, args in asked]
        intents = [record for record in await at.records() if isinstance(record, Intent)]
    assert codes == ["AccessDenied"] * len(asked)
    assert intents == []


async def test_secrets_that_may_be_handed_out_become_handles(tmp_path: Path, there: Account) -> None:
    there.client("secretsmanager").create_secret(Name="db", SecretString="hunter2-hunter2")
    free = {"iam.CreateAccessKey": {"approval": "none"}}
    async with door(tmp_path, there, mints=True, operations=free) as at:
        found = await does(at.client("secretsmanager").get_secret_value, SecretId="db")
        key = (await does(at.client("iam").create_access_key, UserName="gateway"))["AccessKey"]
        seen = await at.seen()
    real = {
        each["AccessKeyId"] for each in there.client("iam").list_access_keys(UserName="gateway")["AccessKeyMetadata"]
    }
    assert found["Name"] == "db"
    assert found["SecretString"].startswith("hfv_")
    assert key["SecretAccessKey"].startswith("hfv_")
    assert key["AccessKeyId"] in real
    assert b"hunter2" not in seen


async def test_a_retry_of_an_sdk_is_the_same_call(tmp_path: Path, there: Account) -> None:
    before, body = len(there.changes()), "Action=CreateVpc&Version=2016-11-15&CidrBlock=10.9.0.0%2F16"
    async with door(tmp_path, there) as at:
        first = await at.form(body, amz_sdk_invocation_id="one", amz_sdk_request="attempt=1").send()
        again = await at.form(body, amz_sdk_invocation_id="one", amz_sdk_request="attempt=2").send()
        other = await at.form(body, amz_sdk_invocation_id="two", amz_sdk_request="attempt=1").send()
    assert first[0] == 200
    assert again == first
    assert other[0] == 503
    assert there.changes()[before:] == ["CreateVpc"]


async def test_a_token_that_was_shown_before_is_the_same_call_and_another_one_is_not(
    tmp_path: Path, there: Account
) -> None:
    def work(at: Door) -> list[str]:
        ec2 = at.client("ec2")
        runs = [
            ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, ClientToken=token) for token in ("a", "a", "b")
        ]
        return [run["Instances"][0]["InstanceId"] for run in runs]

    async with door(tmp_path, there) as at:
        first, again, other = await does(work, at)
    assert first == again
    assert first != other


async def test_a_read_that_is_retried_is_asked_again(tmp_path: Path, there: Account) -> None:
    body = "Action=DescribeVpcs&Version=2016-11-15&Filter.1.Name=cidr&Filter.1.Value.1=10.11.0.0%2F16"
    async with door(tmp_path, there) as at:
        before = await at.form(body, amz_sdk_invocation_id="one").send()
        there.client("ec2").create_vpc(CidrBlock="10.11.0.0/16")
        after = await at.form(body, amz_sdk_invocation_id="one").send()
    assert b"10.11.0.0/16" not in before[1]
    assert b"10.11.0.0/16" in after[1]


async def test_the_same_operations_are_asked_without_an_sdk(tmp_path: Path, there: Account) -> None:
    async with door(tmp_path, there, services=["sqs"]) as at:
        prepared = await at.system.prepare("sqs.ListQueues", {"parameters": {"QueueNamePrefix": "none-of-these"}})
        reply = await at.taken.ward.call(at.taken.right, prepared)
        told = at.system.operations()
    assert reply.data.startswith(b"HTTP/1.1 200")
    assert {told[name]["kind"] for name in ("sqs.ListQueues", "sqs.GetQueueUrl")} == {"read"}  # type: ignore[index,call-overload]
