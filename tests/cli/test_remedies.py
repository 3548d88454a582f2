"""The commands that are suggested go on with the run that they are suggested for."""

from __future__ import annotations

import pytest

from holdfast.cli.remedies import resume

STORE = " --store runs.db"


@pytest.mark.parametrize(
    ("run", "agent", "way"),
    [
        ("r", "clerk", "holdfast run --sandbox --id r --agent clerk -- CMD…"),
        (
            "r@b2",
            "clerk",
            "holdfast promote r b2 --store runs.db && holdfast run --sandbox --id r --agent clerk -- CMD…",
        ),
        ("r", "dun:dun", "holdfast resume r --agent dun:dun --store runs.db"),
        ("r@b2", "dun:dun", "holdfast resume r@b2 --agent dun:dun --store runs.db"),
        ("r", "clerk; true", "holdfast resume r --agent MODULE:AGENT --store runs.db"),
        ("r", "--help", "holdfast resume r --agent MODULE:AGENT --store runs.db"),
        ("r", "", "holdfast resume r --agent MODULE:AGENT --store runs.db"),
    ],
)
def test_a_run_goes_on_as_it_was_begun(run: str, agent: str, way: str) -> None:
    assert resume(run, agent, STORE) == way
