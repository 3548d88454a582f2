"""The demo's world: every server speaks the real protocol to the real client, and none outlives its owner."""

import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
from botocore.exceptions import ClientError
from openai import BadRequestError, RateLimitError

from holdfast.demo import legacy, post, reach, server
from holdfast.demo.world import World, world

MACHINE = {"ImageId": "ami-12c6146b", "MinCount": 1, "MaxCount": 1}
QUESTION = [{"role": "user", "content": "Which network shall it be?"}]


class Starter:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[server.Server] = []

    def __call__(self, module: str, *arguments: str, **environment: str) -> server.Server:
        one = server.start(
            module.rpartition(".")[2],
            module,
            *arguments,
            directory=self.directory,
            environment={**os.environ, **environment},
        )
        self.started.append(one)
        return one


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as started:
        yield started


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for each in starter.started:
        server.end(each.process)


def counts(of: World) -> dict[str, int]:
    return {each.name: each.found for each in of.census()}


def test_a_fresh_world_holds_the_old_shop_and_nothing_of_the_new(here: World) -> None:
    found = counts(here)
    assert found.pop("the customers' money, in cents") == sum(balance for _, balance in legacy.ACCOUNTS)
    assert set(found.values()) == {0}
    assert len(machines(reach.cloud(here.addresses.east))) == 3


def test_the_two_clouds_are_two(here: World) -> None:
    east, west = reach.cloud(here.addresses.east), reach.cloud(here.addresses.west)
    made = east.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    assert made in {each["VpcId"] for each in east.describe_vpcs()["Vpcs"]}
    assert made not in {each["VpcId"] for each in west.describe_vpcs()["Vpcs"]}


def test_machines_started_twice_with_one_token_are_started_once(here: World) -> None:
    ec2 = reach.cloud(here.addresses.east)
    before = machines(ec2)
    first, again = (ec2.run_instances(**MACHINE, ClientToken="one") for _ in range(2))
    other = ec2.run_instances(**MACHINE, ClientToken="another")
    ids = [each["Instances"][0]["InstanceId"] for each in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert machines(ec2) - before == {*ids}


def test_a_token_with_other_parameters_is_refused(here: World) -> None:
    ec2 = reach.cloud(here.addresses.east)
    ec2.run_instances(**MACHINE, ClientToken="same")
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        ec2.run_instances(**{**MACHINE, "MaxCount": 2, "MinCount": 2}, ClientToken="same")


def test_networks_have_no_token_so_two_calls_make_two(here: World) -> None:
    ec2 = reach.cloud(here.addresses.east)
    assert len({ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"] for _ in range(2)}) == 2


def test_a_limited_cloud_says_429_once_and_starts_nothing_then(alone: Starter) -> None:
    ec2 = reach.cloud(alone("holdfast.demo.cloud", "--limit", "RunInstances", "--retry-after", "3").port)
    with pytest.raises(ClientError) as refused:
        ec2.run_instances(**MACHINE, ClientToken="one")
    answer = refused.value.response["ResponseMetadata"]
    assert (answer["HTTPStatusCode"], answer["HTTPHeaders"]["retry-after"]) == (429, "3")
    assert machines(ec2) == set()
    assert len(ec2.run_instances(**MACHINE, ClientToken="one")["Instances"]) == 1


def test_a_cloud_tells_in_order_what_it_carried_out_and_in_which_region(alone: Starter) -> None:
    one = alone("holdfast.demo.cloud")
    ec2 = reach.cloud(one.port, region="eu-central-1")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    for _ in range(2):
        ec2.run_instances(**MACHINE, InstanceType="t3.nano", ClientToken="one")
    ec2.describe_vpcs()
    with pytest.raises(ClientError):
        ec2.delete_vpc(VpcId="vpc-of-nobody")
    ec2.delete_vpc(VpcId=vpc)
    reach.cloud(one.port, region="us-west-2").run_instances(**MACHINE)
    with build_opener(ProxyHandler({})).open(f"{one.url}/changes", timeout=10) as reply:
        assert json.loads(reply.read()) == [
            "eu-central-1 CreateVpc",
            "eu-central-1 RunInstances t3.nano",
            "eu-central-1 DeleteVpc",
            "us-west-2 RunInstances",
        ]


def test_a_model_that_goes_astray_does_so_at_first(alone: Starter) -> None:
    model = reach.model(alone("holdfast.demo.model", "--astray").port)
    asked: Any = [{"role": "user", "content": "Which region shall the shop move to?"}]
    first, *later = (
        model.chat.completions.create(model="scripted", messages=asked).choices[0].message.content for _ in range(30)
    )
    assert "us-west-2" in str(first)
    assert {"eu-central-1", "eu-west-1"} <= {str(each).split(":")[0].split()[-1] for each in later}


def test_a_transaction_happens_whole_or_not_at_all(alone: Starter, tmp_path: Path) -> None:
    database = reach.database(alone("holdfast.demo.legacy", str(tmp_path / "l.db")).port)
    before = database.value("SELECT sum(balance) FROM accounts")
    with pytest.raises(legacy.TransactionRefused, match="no such table"):
        database.transact(("UPDATE accounts SET balance = 0", ()), ("INSERT INTO nowhere VALUES (1)", ()))
    assert database.value("SELECT sum(balance) FROM accounts") == before
    assert database.value("SELECT count(*) FROM alterations") == 0


def test_the_database_itself_counts_who_altered_it(alone: Starter, tmp_path: Path) -> None:
    database = reach.database(alone("holdfast.demo.legacy", str(tmp_path / "l.db")).port)
    for _ in range(2):
        database.transact(("UPDATE accounts SET balance = balance * 100", ()))
    database.transact(("SELECT * FROM accounts", ()))
    assert database.transact(("SELECT rows FROM alterations", ()))[0].rows == [[len(legacy.ACCOUNTS)]] * 2


def test_a_late_answer_comes_after_the_database_has_changed(alone: Starter, tmp_path: Path) -> None:
    port = alone("holdfast.demo.legacy", str(tmp_path / "l.db"), "--late-s", "60").port
    with pytest.raises(TimeoutError):
        legacy.Database(port=port, timeout_s=0.5).transact(("DELETE FROM accounts", ()))
    assert reach.database(port).value("SELECT count(*) FROM accounts") == 0
    reach.database(port).transact(("DELETE FROM schema_version", ()))


def test_an_answer_from_the_database_survives_its_process(alone: Starter, tmp_path: Path) -> None:
    first = alone("holdfast.demo.legacy", str(tmp_path / "l.db"))
    reach.database(first.port).transact(("DELETE FROM accounts WHERE owner = 'ada'", ()))
    first.process.kill()
    second = reach.database(alone("holdfast.demo.legacy", str(tmp_path / "l.db")).port)
    assert second.value("SELECT count(*) FROM accounts") == len(legacy.ACCOUNTS) - 1
    assert second.value("SELECT count(*) FROM alterations") == 1


def test_a_mail_that_was_accepted_is_on_disk(alone: Starter, tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@shop.example", "b@shop.example", "hello"
    mail.set_content("words")
    with smtplib.SMTP(server.LOOPBACK, alone("holdfast.demo.post", str(tmp_path / "out")).port, timeout=10) as line:
        line.send_message(mail)
        line.send_message(mail)
    kept = post.mails(tmp_path / "out")
    assert [path.name for path in kept] == ["0001.eml", "0002.eml"]
    assert b"Subject: hello" in kept[0].read_bytes()


def test_the_model_answers_whole_with_usage(alone: Starter) -> None:
    model = reach.model(alone("holdfast.demo.model").port)
    answer = model.chat.completions.create(model="m", messages=QUESTION)  # type: ignore[arg-type]
    assert answer.choices[0].finish_reason == "stop"
    assert "/16" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_the_model_streams_and_ends_with_its_usage(alone: Starter) -> None:
    model = reach.model(alone("holdfast.demo.model").port)
    stream = model.chat.completions.create(  # type: ignore[call-overload]
        model="m", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    words = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert len(words) > 5
    assert "/16" in "".join(words)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len("".join(words).split())


def test_the_model_never_words_an_answer_twice_and_counts_what_it_was_asked(alone: Starter) -> None:
    one = alone("holdfast.demo.model")
    model = reach.model(one.port)
    said = {
        model.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content  # type: ignore[arg-type]
        for _ in range(20)
    }
    assert len(said) == 20
    assert asked(one) == {"answered": 20, "refused": 0}


def test_the_model_refuses_once_and_says_when_to_come_back(alone: Starter) -> None:
    one = alone("holdfast.demo.model", "--refuse", "2", "--retry-after", "4")
    model = reach.model(one.port)
    model.chat.completions.create(model="m", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(RateLimitError) as refused:
        model.chat.completions.create(model="m", messages=QUESTION, stream=True)  # type: ignore[arg-type, call-overload]
    assert refused.value.response.headers["retry-after"] == "4"
    model.chat.completions.create(model="m", messages=QUESTION)  # type: ignore[arg-type]
    assert asked(one) == {"answered": 2, "refused": 1}


def test_what_is_not_a_question_is_refused(alone: Starter) -> None:
    model = reach.model(alone("holdfast.demo.model").port)
    with pytest.raises(BadRequestError, match="not a chat completion request"):
        model.chat.completions.create(model="m", messages=[])


@pytest.mark.parametrize("stream", [False, True])
def test_a_real_model_behind_answers_instead_with_its_own_key(alone: Starter, stream: bool) -> None:
    real = alone("holdfast.demo.model", "--refuse", "2", "--retry-after", "9")
    front = alone("holdfast.demo.model", "--upstream", f"{real.url}/v1", OPENAI_API_KEY="sk-real")
    model = reach.model(front.port)
    answer = model.chat.completions.create(model="m", messages=QUESTION, stream=stream)  # type: ignore[call-overload]
    if stream:
        said = "".join(c.delta.content or "" for chunk in answer for c in chunk.choices)
    else:
        said = answer.choices[0].message.content
    assert "/16" in said
    assert asked(real) == asked(front) == {"answered": 1, "refused": 0}
    with pytest.raises(RateLimitError) as refused:
        model.chat.completions.create(model="m", messages=QUESTION)  # type: ignore[arg-type]
    assert refused.value.response.headers["retry-after"] == "9"
    assert asked(front) == {"answered": 1, "refused": 1}


def test_a_server_that_cannot_start_says_why(alone: Starter) -> None:
    with pytest.raises(server.WorldBroken, match="unrecognized arguments: --nonsense"):
        alone("holdfast.demo.model", "--nonsense")


def test_the_servers_leave_when_their_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from holdfast.demo import server; import os;"
        f"one = server.start('post', 'holdfast.demo.post', {str(tmp_path)!r}, directory=Path({str(tmp_path)!r}),"
        " environment=os.environ); print(one.process.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    until = time.monotonic() + 30
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)


def machines(ec2: Any) -> set[str]:
    return {each["InstanceId"] for held in ec2.describe_instances()["Reservations"] for each in held["Instances"]}


def asked(model: server.Server) -> dict[str, int]:
    opener = build_opener(ProxyHandler({}))
    return json.loads(opener.open(f"{model.url}/asked", timeout=10).read())


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
