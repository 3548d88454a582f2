"""An unmodified program with OpenAI's SDK, in a sandbox, killed together with its gateway in the midst of an answer."""

import asyncio
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.gateway.premises import Premises, eventually, premises
from tests.gateway.switchboard import SECRET, Provider, provider

PROGRAM = """
    from openai import OpenAI
    client = OpenAI()
    for number in range(3):
        asked = [{"role": "user", "content": f"question {number}"}]
        stream = client.chat.completions.create(model="gpt-test", messages=asked, stream=True)
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print(flush=True)
"""


@pytest.fixture
def here(tmp_path: Path) -> Generator[Premises]:
    with premises(tmp_path) as found:
        yield found


def configuration(model: Provider) -> str:
    return f"""
        [sandbox]
        read_only = ["{sys.prefix}", "{sys.base_prefix}"]
        [upstreams.llm]
        kind = "model"
        protocol = "openai"
        base_url = "{model.url}/v1"
        private = ["127.0.0.1"]
        credential = "provider"
        models = {{ gpt-test = {{ input = "2.5", output = "10", max_output = 1000 }} }}
        """


def test_what_a_model_has_said_is_said_again_and_what_broke_off_is_asked_again(tmp_path: Path, here: Premises) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    with provider(tmp_path / "server") as model:
        here.configure(configuration(model))
        toml = here.place / "holdfast.toml"
        text = toml.read_text().replace("[credentials]", '[credentials]\nprovider = "file:key"')
        toml.write_text(text.replace('tools = ["shop.*"]', 'tools = ["llm.*"]'))
        program = here.program(PROGRAM)
        asyncio.run(model.plan({"text": "the first"}, {"text": "never said to its end", "hold_after": 3}))
        process = here.start(sys.executable, str(program))
        assert process.stdout is not None
        assert process.stdout.readline() == "the first\n", process.communicate()[1]
        eventually(lambda: len(asyncio.run(model.heard())) == 2, "the second question was heard")
        process.send_signal(signal.SIGKILL)
        process.wait()
        asyncio.run(model.go())
        asyncio.run(model.plan({"text": "the second"}, {"text": "the third"}))
        code, out, err = here.run(sys.executable, str(program))
        assert (code, out) == (0, "the first\nthe second\nthe third\n"), err
        asked = [each["body"]["messages"][0]["content"] for each in asyncio.run(model.heard())]
    assert asked == ["question 0", "question 1", "question 1", "question 2"]
    for file in here.place.rglob("*"):
        if file.is_file() and file.name != "key":
            assert SECRET.encode() not in file.read_bytes(), file
