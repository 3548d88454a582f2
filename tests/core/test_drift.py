"""What a branch relies on in the world, and how that stands when it was asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.contract import Contract
from holdfast.core.drift import (
    Absent,
    Fate,
    Now,
    Relied,
    Seen,
    Untold,
    Write,
    by_answer,
    by_version,
    relied,
    same_version,
    thing,
    told_apart,
    writes,
)
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Outcome, Payload, key_of, undo_identity
from holdfast.core.record import Intent, Record, Seal
from tests.core.lives import CLAIM, IDENTITY, approval, folded, hold, intent, read, seal, settled

OTHER = bytes([1]) * 32
ARGS = "a1" * 32  # the arguments of every call in `lives`
ANSWER = Payload("b2" * 32, Encoding.JSON, 7)


def told(etag: str | None) -> Outcome:
    return Happened(ANSWER, etag)


# --- what is relied on ---


def test_only_the_newest_reading_of_each_identity_counts() -> None:
    log = folded(CLAIM, read(n=0, outcome=told("v1")), read(OTHER), read(n=1, outcome=told("v2")))
    assert [(one.seq, one.etag, one.key) for one in relied(log)] == [(3, None, None), (4, "v2", None)]


def test_what_comes_after_the_node_does_not_count() -> None:
    log = folded(CLAIM, read(n=0, outcome=told("v1")), intent(OTHER), seal(3, identity=OTHER), read(n=1))
    assert [one.seq for one in relied(log, 2)] == [2]
    assert [one.seq for one in relied(log, 3)] == [2], "nobody knew at 3 what had come of the effect"
    assert [one.seq for one in relied(log, 4)] == [2, 3]
    assert [one.seq for one in relied(log)] == [3, 5]


def test_an_effect_is_asked_about_under_its_key() -> None:
    log = folded(CLAIM, intent(), seal(2, told("v1")))
    (one,) = relied(log)
    assert (one.seq, one.sealed_seq, one.etag) == (2, 3, "v1")
    assert one.key == key_of("r", IDENTITY, 0)


def test_what_certainly_did_not_happen_is_relied_on_only_as_a_reading() -> None:
    log = folded(CLAIM, intent(), seal(2, NotHappened("no")), read(OTHER, outcome=NotHappened("there is none")))
    assert [(one.seq, one.outcome) for one in relied(log)] == [(4, NotHappened("there is none"))]


def test_a_doubt_is_not_relied_on_before_it_is_settled() -> None:
    assert relied(folded(CLAIM, intent())) == []
    assert [one.seq for one in relied(folded(CLAIM, intent(), settled(2)))] == [2]


def test_what_was_taken_back_is_not_relied_on_and_what_was_taken_back_later_is_marked() -> None:
    undo = intent(OTHER, kind=Kind.IDEMPOTENT, undoes=2)
    log = folded(CLAIM, intent(kind=Kind.REVERSIBLE), seal(2), undo, seal(4, identity=OTHER))
    assert relied(log) == [], "neither the effect nor its undo"
    assert [(one.seq, one.undone_seq) for one in relied(log, 3)] == [(2, 5)]
    assert [(one.seq, one.undone_seq) for one in relied(log, 4)] == [(2, 5)]


def test_a_reading_that_people_agreed_to_is_marked() -> None:
    log = folded(CLAIM, hold(kind=Kind.READ), (approval(2), 0), read())
    assert [(one.seq, one.agreed) for one in relied(log)] == [(4, True)]


OPS = st.lists(st.tuples(st.sampled_from(["read", "begin", "end", "undo"]), st.integers(0, 3)), max_size=25)


def lived(ops: list[tuple[str, int]]) -> list[Record]:
    """The records of a life in which things are read, and effects begin, end and are taken back, in any order."""
    placed: list[Record] = [CLAIM]
    times: dict[bytes, int] = {}
    begun: list[tuple[int, bytes, int]] = []  # where, what, and which time
    ended: list[tuple[int, bytes, int]] = []
    for what, which in ops:
        identity = bytes([which, what == "read"]) * 16
        if what in ("read", "begin"):
            n = times.get(identity, 0)
            times[identity] = n + 1
            if what == "read":
                placed.append(read(identity, n, told(f"v{len(placed)}")))
                continue
            placed.append(intent(identity, n, kind=Kind.REVERSIBLE))
            begun.append((len(placed), identity, n))
        elif what == "end" and begun:
            at, identity, n = begun.pop(which % len(begun))
            placed.append(seal(at, told(None) if which else NotHappened("no"), identity, n))
            ended += [(at, identity, n)] if which else []
        elif what == "undo" and ended:
            at, identity, n = ended.pop(which % len(ended))
            undo = undo_identity(identity, n)
            placed.append(intent(undo, kind=Kind.IDEMPOTENT, undoes=at))
            begun.append((len(placed), undo, 0))
    return placed


@given(OPS, st.integers(1, 30))
def test_at_a_node_a_branch_relies_on_what_it_would_if_it_had_ended_there(ops: list[tuple[str, int]], at: int) -> None:
    placed = lived(ops)
    here = [replace(one, undone_seq=None) for one in relied(folded(*placed), at)]
    assert here == relied(folded(*placed[:at]))


@given(OPS)
def test_nothing_that_was_taken_back_or_read_anew_is_relied_on(ops: list[tuple[str, int]]) -> None:
    placed = lived(ops)
    found = relied(folded(*placed))
    newest = {record.identity: seq for seq, record in enumerate(placed, 1) if getattr(record, "intent", 0) is None}
    sealed = {
        record.intent: record for record in placed if isinstance(record, Seal) and isinstance(record.outcome, Happened)
    }
    undone = {
        record.undoes for seq, record in enumerate(placed, 1) if isinstance(record, Intent) and record.undoes in sealed
        and seq in sealed
    }  # fmt: skip
    standing = {seq for seq in sealed if seq is not None and getattr(placed[seq - 1], "undoes", 0) is None} - undone
    assert {one.seq for one in found if one.key is None} == set(newest.values())
    assert {one.seq for one in found if one.key is not None} == standing


# --- the run's own writes ---


def test_an_effect_explains_what_was_read_before_its_seal() -> None:
    log = folded(CLAIM, intent(), read(OTHER), seal(2, told("v2")))
    assert writes(log.branch, log.slots.values()) == [
        Write(branch="r@main", seq=2, tool="t", args=ARGS, before=4, etag="v2")
    ]


@pytest.mark.parametrize("maybe", [True, False])
def test_an_effect_in_doubt_may_yet_explain_anything(maybe: bool) -> None:
    log = folded(CLAIM, intent(), seal(2, NotHappened("no"))) if not maybe else folded(CLAIM, intent())
    assert [(write.before > 10**9, write.etag) for write in writes(log.branch, log.slots.values())] == (
        [(True, None)] if maybe else []
    )


def test_an_effect_that_was_taken_back_has_left_no_version() -> None:
    undo = intent(OTHER, kind=Kind.IDEMPOTENT, undoes=2)
    log = folded(CLAIM, intent(kind=Kind.REVERSIBLE), seal(2, told("v2")), undo, seal(4, identity=OTHER))
    assert [(write.seq, write.before, write.etag) for write in writes(log.branch, log.slots.values())] == [(2, 5, None)]
    in_doubt = folded(CLAIM, intent(kind=Kind.REVERSIBLE), seal(2, told("v2")), undo)
    assert [
        (write.seq, write.before > 10**9, write.etag) for write in writes(in_doubt.branch, in_doubt.slots.values())
    ] == [(2, True, None)]


def test_another_branch_explains_what_was_read_before_the_two_parted() -> None:
    log = folded(CLAIM, intent(), seal(2, told("v2")), intent(OTHER), seal(4, told("v3"), OTHER))
    assert [(write.seq, write.before, write.etag) for write in writes("r@main", log.slots.values(), shared=3)] == [
        (4, 4, "v3")
    ]


@pytest.mark.parametrize(
    ("reads", "writes_", "same"),
    [
        (("wiki.page", ["page"], {"page": "p"}), ("wiki.put", ["page"], {"page": "p", "text": "x"}), True),
        (("wiki.page", ["page"], {"page": "p"}), ("wiki.put", ["page"], {"page": "q", "text": "x"}), False),
        (("wiki.page", ["page"], {"page": "p"}), ("mail.put", ["page"], {"page": "p"}), False),
        (("wiki.page", ["page"], {"page": "p"}), ("wiki.put", ["name"], {"name": "p"}), False),
        (("page", ["page"], {"page": 1}), ("put", ["page"], {"page": 1}), True),
        (("a.b.page", ["page"], {"page": 1}), ("a.page", ["page"], {"page": 1}), False),
    ],
)
def test_two_tools_of_one_namespace_mean_the_same_thing_by_the_same_resource(
    reads: tuple[str, list[str], dict[str, object]], writes_: tuple[str, list[str], dict[str, object]], same: bool
) -> None:
    names = [
        thing(Contract(name=name, kind=kind, resource=tuple(resource)), arguments)  # type: ignore[arg-type]
        for kind, (name, resource, arguments) in zip((Kind.READ, Kind.IDEMPOTENT), (reads, writes_), strict=True)
    ]
    assert (names[0] == names[1]) is same
    assert None not in names


def test_a_call_without_a_resource_names_no_thing() -> None:
    assert thing(Contract(name="wiki.page"), {"page": "p"}) is None
    assert thing(Contract(name="wiki.page", resource=("page",)), {"title": "p"}) is None, "recorded by older code"


def reading(seq: int = 2, *, etag: str | None = None, args: str = ARGS, **more: object) -> Relied:
    return Relied(seq=seq, sealed_seq=seq, tool="wiki.page", args=args, outcome=told(etag), key=None, **more)  # type: ignore[arg-type]


def effect(seq: int = 2, *, etag: str | None = None, args: str = ARGS, **more: object) -> Relied:
    return Relied(seq=seq, sealed_seq=seq, tool="wiki.put", args=args, outcome=told(etag), key="k", **more)  # type: ignore[arg-type]


def write(seq: int, *, etag: str | None = None, args: str = ARGS, branch: str = "r@main") -> Write:
    return Write(branch=branch, seq=seq, tool="wiki.put", args=args, before=seq + 1, etag=etag)


THINGS = {"wiki.page": {ARGS: b"p", "other": b"q"}, "wiki.put": {ARGS: b"p", "other": b"q"}}


def test_the_newest_later_write_of_the_same_thing_is_told_on_each_branch() -> None:
    written = [
        write(3), write(9, etag="v9"), write(10, args="other"), write(9, branch="r@b2"), write(4, branch="r@b2"),
    ]  # fmt: skip
    (one,) = told_apart([reading(5)], written, THINGS)
    assert [(each.branch, each.seq) for each in one.writes] == [("r@main", 9), ("r@b2", 9)]
    assert told_apart([reading(5)], written, {}) == [reading(5)], "nothing says what they are about"


def test_an_effect_whose_thing_was_read_again_is_not_held_to_its_own_version() -> None:
    before, after = told_apart([effect(2, etag="v1"), reading(5, etag="v2")], [], THINGS)
    assert (before.seen_since, after.seen_since) == (True, False)
    assert by_version(before, Seen("v2")) is Fate.SAME
    assert by_version(before, Absent("deleted")) is Fate.GONE


# --- how it stands ---

V1, V2 = Seen("v1"), Seen("v2")


@pytest.mark.parametrize(
    ("then", "now", "fate"),
    [
        (reading(etag="v1"), V1, Fate.SAME),
        (reading(etag="v1"), V2, Fate.MOVED),
        (reading(etag="v1"), Absent("no such page"), Fate.GONE),
        (reading(etag="v1"), Untold("timeout"), Fate.UNKNOWN),
        (reading(etag="v1"), Seen(None), None),
        (reading(), V1, None),
        (reading(), Seen(None), None),
        (effect(etag="v1"), V1, Fate.SAME),
        (effect(etag="v1"), V2, Fate.MOVED),
        (effect(etag="v1"), Seen(None), Fate.SAME),
        (effect(), V1, Fate.SAME),
        (effect(), Absent("deleted"), Fate.GONE),
        (effect(), Untold("its probe cannot tell"), Fate.UNKNOWN),
        (effect(undone_seq=9), V1, Fate.GONE),
    ],
)
def test_versions_decide_where_both_were_told(then: Relied, now: Now, fate: Fate | None) -> None:
    assert by_version(then, now) is fate


@pytest.mark.parametrize(
    ("now", "fate"),
    [(Absent("none"), Fate.SAME), (V1, Fate.MOVED), (Seen(None), Fate.MOVED),
     (Untold("timeout"), Fate.UNKNOWN)],
)  # fmt: skip
def test_what_was_not_there_and_is_there_now_has_moved(now: Now, fate: Fate) -> None:
    then = Relied(seq=2, sealed_seq=2, tool="t", args=ARGS, outcome=NotHappened("none"), key=None)
    assert by_version(then, now) is fate


OURS, MOVED = Fate.OURS, Fate.MOVED


@pytest.mark.parametrize(
    ("then", "version_left", "now", "fate"),
    [
        # the write told a version: only that one is ours
        (reading(etag="v1"), "v2", V2, OURS),
        (reading(etag="v1"), "v2", Seen("v3"), MOVED),
        (reading(etag="v1"), "v2", V1, MOVED),  # somebody has put the old one back
        (reading(), "v2", V2, OURS),
        (reading(etag="v1"), "v2", Absent("deleted"), Fate.GONE),
        # it told none: nobody can tell whether somebody else wrote too
        (reading(etag="v1"), None, V2, OURS),
        (reading(etag="v1"), None, V1, Fate.SAME),
        (reading(etag="v1"), None, Absent("deleted"), OURS),
        (reading(), None, V2, None),
        # an effect after which the run wrote the same thing again
        (effect(etag="v1"), "v2", V2, OURS),
        (effect(etag="v1"), "v2", Seen("v3"), MOVED),
        (effect(etag="v1"), None, V2, Fate.SAME),
    ],
)
def test_the_runs_own_later_write_explains_a_difference(
    then: Relied, version_left: str | None, now: Now, fate: Fate | None
) -> None:
    (one,) = told_apart([then], [write(7, etag=version_left)], THINGS)
    assert by_version(one, now) is fate


def test_what_was_not_there_may_be_what_the_run_itself_has_made() -> None:
    then = Relied(seq=2, sealed_seq=2, tool="wiki.page", args=ARGS, outcome=NotHappened("none"), key=None)
    (one,) = told_apart([then], [write(7, etag="v1")], THINGS)
    assert by_version(one, V1) is OURS
    assert by_version(one, V2) is MOVED
    assert by_version(one, Absent("none")) is Fate.GONE
    (one,) = told_apart([then], [write(7)], THINGS)
    assert by_version(one, Absent("none")) is Fate.SAME, "it may have been a deletion"


@pytest.mark.parametrize(("alike", "fate"), [(True, Fate.SAME), (False, MOVED), (None, Fate.UNKNOWN)])
def test_the_answers_decide_where_versions_do_not(alike: bool | None, fate: Fate) -> None:
    assert by_answer(reading(), alike) is fate


def test_an_answer_unlike_the_one_before_may_be_of_the_runs_own_making() -> None:
    (one,) = told_apart([reading()], [write(7, etag="v2")], THINGS)
    assert by_answer(one, alike=False) is OURS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('"x"', '"x"', True),
        ('W/"x"', '"x"', True),
        ('W/"x"', 'W/"x"', True),
        ('W/"x"', 'W/"y"', False),
        ('"x"', '"X"', False),
        ('W/"x"', "x", False),
        ("W/x", "x", False),
        ('W/"', '"', False),
        ("12", "12", True),
        ("12", "012", False),
    ],
)
def test_versions_are_compared_as_http_does_weakly(one: str, other: str, same: bool) -> None:
    # RFC 9110, 8.8.3.2: two are equivalent if their opaque tags match character by character, weak or not
    assert same_version(one, other) is same
    assert same_version(other, one) is same
