"""The rules of forks, each of which can be left out: then the invariants must catch it.

Rules
1. A rule is a field of `Rules`; its text is what docs/fork-model.md calls it.
2. `BREAKS` says beforehand which invariants notice that a rule is gone. A rule that nobody misses is no rule.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All rules hold, unless one is taken away."""

    intent_first: bool = True
    stable_key: bool = True
    occurrence: bool = True
    along_lineage: bool = True
    adopt: bool = True
    refused_do_not_count: bool = True
    wait_for_kin: bool = True
    refusals_in_doubt: bool = True
    new_identity: bool = True
    undone_is_not_replayed: bool = True
    near_duplicates: bool = True
    watch: bool = True
    fence: bool = True
    proof_of_death: bool = True
    whole_calls: bool = True
    override_in_child: bool = True
    hold: bool = True
    one_winner: bool = True
    fresh_reads: bool = True
    planned_order: bool = True
    newest_first: bool = True
    spare_survivors: bool = True
    lazy_undo: bool = True
    settle_before_closing: bool = True
    residue: bool = True
    approval_once: bool = True
    budget_of_the_run: bool = True


TEXT = {
    "intent_first": "the intent is written before the effect",
    "stable_key": "the key is the same on every attempt",
    "occurrence": "the n-th call of an identity is not the first",
    "along_lineage": "n counts along the lineage, not on the branch",
    "adopt": "what another branch has done is adopted",
    "refused_do_not_count": "a refused attempt does not hide the later one that happened",
    "wait_for_kin": "an open effect of another branch is waited for",
    "refusals_in_doubt": "a refusal is believed only if no other sending of the key may be there",
    "new_identity": "what was refused or taken back is done anew under another key",
    "undone_is_not_replayed": "what was taken back is no answer any more",
    "near_duplicates": "the same resource: undo the other effect first, or ask",
    "watch": "an intent rests on what the other branches were when it was decided",
    "fence": "a superseded, abandoned or overtaken worker writes no intent",
    "proof_of_death": "an open effect is settled only when its sender has stopped",
    "whole_calls": "no fork between an intent and its seal",
    "override_in_child": "an override stands on the child",
    "hold": "a speculative branch holds its effects",
    "one_winner": "one promotion in a group",
    "fresh_reads": "reads are checked again at the promotion",
    "planned_order": "held effects are performed in their order",
    "newest_first": "undo goes from the newest to the oldest",
    "spare_survivors": "what a surviving branch holds is not undone",
    "lazy_undo": "undo waits until the run is closed",
    "settle_before_closing": "doubts of other branches end before the run is closed",
    "residue": "what cannot be undone is listed",
    "approval_once": "an approval is for one effect of the run",
    "budget_of_the_run": "a budget is spent by the run, not by the branch",
}

BREAKS = {
    "intent_first": {"I10"},
    "stable_key": {"I10"},
    "occurrence": {"I9"},
    "along_lineage": {"I9"},
    "adopt": {"I1"},
    "refused_do_not_count": {"I1"},
    "wait_for_kin": {"I1"},
    "refusals_in_doubt": {"I10"},
    "new_identity": {"key"},
    "undone_is_not_replayed": {"I2"},
    "near_duplicates": {"near"},
    "watch": {"I1"},
    "fence": {"I7"},
    "proof_of_death": {"key"},
    "whole_calls": {"key"},
    "override_in_child": {"I4"},
    "hold": {"I3"},
    "one_winner": {"I8"},
    "fresh_reads": {"I12"},
    "planned_order": {"order"},
    "newest_first": {"I6"},
    "spare_survivors": {"I2"},
    "lazy_undo": {"lazy"},
    "settle_before_closing": {"I10"},
    "residue": {"I10"},
    "approval_once": {"I11"},
    "budget_of_the_run": {"I11"},
}

NAMES = tuple(field.name for field in fields(Rules))
ALL = Rules()


def without(name: str) -> Rules:
    """All rules but one."""
    return replace(ALL, **{name: False})
