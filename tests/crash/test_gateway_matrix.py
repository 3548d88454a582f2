"""Each kind of effect behind a gateway, with the gateway, the program or both killed at each boundary of a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.gateway_trial import BOTH, GatewayTrial

GATEWAY, AGENT = ("gateway",), ("agent",)
VICTIMS = {"gateway": GATEWAY, "agent": AGENT, "both": BOTH}
KINDS = ("look", "put", "make", "build", "mail", "pay")
OF_THE_START = ["before Claim 1", "after Claim 1", "before Issued 1", "after Issued 1"]
OF_A_THOUGHT = ["in thinking 1", "in thought 1", "before Decision 1", "after Decision 1"]
OF_ITS_END = ["in ending 1", "before Finished 1", "after Finished 1"]
OF_A_READ = [
    "in asking 1", "in acting 1", "in acted 1", "before Seal 1", "after Seal 1", "after answered 1",
    "before delivered 1", "after delivered 1", "in told 1", "in acted 2", "before Seal 2", "after Seal 2",
]  # fmt: skip
OF_A_WRITE = ["before Intent 1", "after Intent 1", *OF_A_READ, "before Intent 2", "after Intent 2"]
OWN = ("in asking", "in told", "in ending")  # a program's own: nobody else can die there
IN_DOUBT = {"after Intent", "in acting", "in acted", "before Seal"}


def boundaries(kind: str) -> list[tuple[str, str]]:
    """Where, and who dies."""
    where = OF_THE_START + OF_A_THOUGHT + OF_A_READ if kind == "look" else list(OF_A_WRITE)
    return [
        (boundary, who)
        for boundary in where + OF_ITS_END
        for who in VICTIMS
        if who == "agent" or not boundary.startswith(OWN)
    ]


def dies(trial: GatewayTrial, tool: str, boundary: str, who: str) -> None:
    """Die there, come back, and count."""
    trial.end(boundary, VICTIMS[who])
    answers = trial.finish()
    kind = tool.partition(".")[2]
    if kind != "look":
        trial.census([tool], ["a", "b"])
        told = {name: trial.world.living(tool, name)[0] for name in ("a", "b")}
        assert not answers or told == {name: answers[f"{tool} {name}"] for name in ("a", "b")}
    trial.consistent()
    in_doubt = boundary.rpartition(" ")[0] in IN_DOUBT and who != "agent"
    assert trial.doubts == ([tool] if kind == "mail" and in_doubt else [])
    if kind in ("mail", "pay"):
        assert all(len(trial.world.effects(tool, name)) == 1 for name in ("a", "b"))
    if not boundary.startswith(("in think", "in thought", "before Decision")):
        assert len(trial.world.asked()) == 1, "the model was asked again"


SHOP = [(f"shop.{kind}", where, who) for kind in KINDS for where, who in boundaries(kind)]
CRM = [(f"crm.{kind}", where, who) for kind in KINDS for where, who in boundaries(kind)]


@pytest.mark.soak
@pytest.mark.parametrize(("tool", "boundary", "who"), SHOP + CRM)
def test_every_death_at_every_boundary(behind: Callable[..., GatewayTrial], tool: str, boundary: str, who: str) -> None:
    dies(behind(tool, hosted=tool.startswith("crm.")), tool, boundary, who)


# Of the whole, what differs most: each boundary once, each kind in doubt, both kinds of tools.
CHOSEN = [
    *[("shop.look", where, "both") for where in ("after Claim 1", "after Issued 1")],
    ("shop.look", "in thought 1", "gateway"),
    ("shop.look", "before Decision 1", "agent"),
    ("shop.look", "after Decision 1", "gateway"),
    ("shop.look", "before Seal 1", "both"),
    *[("shop.mail", where, "gateway") for where in OF_A_WRITE if where.endswith("1") and not where.startswith(OWN)],
    *[("shop.mail", where, "agent") for where in ("in asking 1", "in acted 1", "after Seal 1", "in told 1")],
    *[("shop.mail", where, "both") for where in ("after Intent 2", "before Finished 1", "after Finished 1")],
    ("shop.put", "before Seal 1", "both"),
    ("shop.make", "in acted 1", "gateway"),
    ("shop.build", "after Intent 1", "gateway"),
    ("shop.build", "in acted 1", "gateway"),
    ("shop.pay", "in acting 1", "both"),
    ("shop.pay", "before Seal 1", "gateway"),
    ("crm.mail", "in acting 1", "gateway"),
]


@pytest.mark.parametrize(("tool", "boundary", "who"), CHOSEN)
def test_what_was_sent_is_not_sent_again(
    behind: Callable[..., GatewayTrial], tool: str, boundary: str, who: str
) -> None:
    dies(behind(tool, hosted=tool.startswith("crm.")), tool, boundary, who)


# A second death, while the first is dealt with: counted in the life that recovers.
OF_A_REDO = ["before Attempt 1", "after Attempt 1", "in acting 1", "in acted 1", "before Seal 1", "after Seal 1"]
RECOVERIES = [
    ("put", "in acted 1", OF_A_REDO),
    ("make", "in acted 1", ["before Intent 1", "after Intent 1", "in undoing 1", "in undone 1", *OF_A_REDO]),
    ("build", "in acted 1", ["in probing 1", "before Settled 1", "after Settled 1"]),
    ("build", "after Intent 1", ["in probing 1", *OF_A_REDO]),
    ("pay", "before Seal 1", ["in probing 1", "before Settled 1", "after Settled 1"]),
    ("pay", "in acting 1", ["in probing 1", *OF_A_REDO]),
]


@pytest.mark.soak
@pytest.mark.parametrize("who", list(VICTIMS))
@pytest.mark.parametrize(
    ("kind", "first", "second"), [(kind, first, second) for kind, first, found in RECOVERIES for second in found]
)
def test_a_recovery_survives_a_second_death(
    behind: Callable[..., GatewayTrial], kind: str, first: str, second: str, who: str
) -> None:
    tool = f"shop.{kind}"
    here = behind(tool)
    here.end(first, BOTH)
    here.end(second, VICTIMS[who])
    here.finish()
    here.census([tool], ["a", "b"])
    assert not here.doubts
