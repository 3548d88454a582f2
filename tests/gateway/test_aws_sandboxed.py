"""A program with an unmodified SDK of AWS in a sandbox, behind a gateway that is a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gateway.aws_account import REGION, account
from tests.gateway.premises import premises

PROGRAM = """
import json, os
import boto3
ec2, s3 = boto3.client("ec2"), boto3.client("s3")
network = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
here = {"LocationConstraint": s3.meta.region_name}
s3.create_bucket(Bucket="sandboxed", CreateBucketConfiguration=here)
s3.put_object(Bucket="sandboxed", Key="a", Body=b"from the sandbox")
body = s3.get_object(Bucket="sandboxed", Key="a")["Body"].read().decode()
told = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
print(json.dumps({"network": network, "body": body, "environment": told}))
"""


def test_an_unmodified_program_in_a_sandbox_reaches_the_account_and_never_its_keys(tmp_path: Path) -> None:
    with account(tmp_path) as there, premises(tmp_path) as at:
        for name, text in (("id", there.id), ("key", there.secret)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o600)
        at.configure()
        config = tmp_path / "holdfast.toml"
        text = config.read_text()
        text = text.replace("[credentials]\n", '[credentials]\nid = "file:id"\nkey = "file:key"\n')
        text = text.replace('tools = ["shop.*"]', 'tools = ["cloud.*"]')
        text += f"""
[upstreams.cloud]
kind = "aws"
access_key_id = "id"
secret_access_key = "key"
regions = ["{REGION}"]
services = ["ec2", "s3"]
private = ["127.0.0.1"]
[upstreams.cloud.endpoints]
ec2 = "{there.url}"
s3 = "{there.url}"
"""
        config.write_text(text)
        code, out, err = at.run(sys.executable, str(at.program(PROGRAM)))
        assert code == 0, err
        direct = there.client("s3").get_object(Bucket="sandboxed", Key="a")["Body"].read()
    assert direct == b"from the sandbox"
    assert '"body": "from the sandbox"' in out
    assert there.id not in out + err
    assert there.secret not in out + err
