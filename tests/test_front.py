"""What `import holdfast` gives, in whatever order it is asked for."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "program",
    [
        "from holdfast import agent",
        "from holdfast import tool; from holdfast import agent",
        "import holdfast.agent.run; from holdfast import agent",
        "import holdfast; holdfast.open_store; from holdfast import agent",
        "from holdfast.agent.tool import tool; import holdfast; agent = holdfast.agent",
    ],
)
def test_agent_is_the_decorator_and_never_the_package(program: str) -> None:
    say = "print(type(agent(lambda run, task: None)).__name__)"
    ran = subprocess.run([sys.executable, "-c", f"{program}\n{say}"], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("Agent", "")


def test_everything_that_is_promised_is_there() -> None:
    import holdfast

    assert sorted(holdfast.__all__) == holdfast.__all__
    assert [name for name in holdfast.__all__ if getattr(holdfast, name, None) is None] == []
