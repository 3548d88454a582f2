"""The verifier against honest logs of a second hand, against each known attack, and against every small change."""

import ast
import json
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import codec as product_codec
from holdfast.core import entry as product_entry
from holdfast.core import log as product_log
from holdfast.core import note as product_note
from holdfast.core import record as product_record
from holdfast.core import verify
from holdfast.core.verify import Report, Verifier, verify_bundle
from tests.core.attacks import ATTACKS, RUNS, cut_with_heads, delete_run_and_heads, edit, edit_and_chain, sample
from tests.core.bundle_writer import OTHER_SEED, Story, Writer, base64, body, check_signature, line, sha256
from tests.examples import examples


def judged(log: Writer, run: str | None = None, **asked: object) -> Report:
    return verify_bundle(log.lines(run), check_signature, log.vkey, **asked)  # type: ignore[arg-type]


def broken(report: Report) -> tuple[str, int | None, str | None]:
    assert report.fault is not None
    return report.fault.rule, report.fault.index, report.fault.node


# --- honest logs ---

choices = st.lists(st.tuples(st.integers(0, len(RUNS) - 1), st.integers(0, 10**6), st.booleans()), max_size=60)


def written(steps: list[tuple[int, int, bool]]) -> Writer:
    """A log in which each step adds an entry to one of the branches, and perhaps a head."""
    log = Writer()
    stories = [Story(log, branch) for branch in RUNS]
    for which, choice, publishes in steps:
        stories[which].go_on(choice)
        if publishes:
            log.publish()
    return log


@given(choices)
def test_an_honest_log_is_whole(steps: list[tuple[int, int, bool]]) -> None:
    log = written(steps)
    report = judged(log, anchor=log.anchor if log.heads else None)
    assert report.fault is None, str(report.fault)
    branches = {row.branch for row in log.rows}
    assert (report.entries, report.branches) == (len(log.rows), len(branches))
    assert (report.blobs, report.heads) == (len(log.blobs), len(log.heads))
    newest = max((at for at, (_, _, publishes) in enumerate(steps, 1) if publishes), default=0)
    assert report.unsigned == len(log.rows) - newest


@given(choices, st.sampled_from(["invoice-77", "invoice-78", "köln"]))
def test_an_honest_log_is_whole_seen_from_one_run(steps: list[tuple[int, int, bool]], run: str) -> None:
    log = written(steps)
    report = judged(log, run)
    assert report.fault is None, str(report.fault)
    assert report.entries == sum(row.branch.startswith(f"{run}@") for row in log.rows)


@given(choices)
def test_the_product_reads_what_the_second_hand_writes(steps: list[tuple[int, int, bool]]) -> None:
    """Chain, tree, records and successions are the same in the product, in the verifier and in these tests."""
    log = written(steps)
    for branch in RUNS:
        rows = [row for row in log.rows if row.branch == branch]
        entries = [product_entry.Entry(r.branch, r.seq, r.epoch, r.at_ms, r.key, r.body, r.digest) for r in rows]
        product_entry.check_chain(product_entry.origin(branch), entries)
        folded = product_log.Log(branch)
        for entry in entries:
            assert product_codec.encode(folded.fold(entry)) == entry.body
    leaves = [product_note.leaf(row.branch, row.digest) for row in log.rows]
    assert product_note.Frontier().extend(leaves).root() == log.root(len(log.rows))
    key = product_note.parse_vkey(log.vkey)
    for head in log.heads:
        product_note.open_head(
            head, key, lambda message, signature: check_signature(log.public_key, message, signature)
        )


def test_the_verifier_knows_the_records_of_the_product() -> None:
    names = {product_codec.name_of(record) for record in product_record.RECORDS}
    assert {name for name in verify._FOLLOWS if name} | set(verify._OTHERS.pattern.split("|")) == names
    named = {"" if record is None else product_codec.name_of(record): after for record, after in FOLLOWS.items()}
    assert {name: {product_codec.name_of(each) for each in after} for name, after in named.items()} == {
        name: {"seal" if each == "read" else each for each in after} for name, after in verify._FOLLOWS.items()
    }


FOLLOWS = product_log.FOLLOWS


# --- attacks ---


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_found_or_known_to_be_missed(attack: Callable[[Writer], Writer]) -> None:
    honest = sample()
    attacked = attack(honest.copy())
    assert attacked.lines() != honest.lines()
    found, found_with_anchor = ATTACKS[attack]
    without = verify_bundle(attacked.lines(), check_signature, honest.vkey, max_unsigned=12)
    assert (without.fault and (without.fault.rule, without.fault.index)) == found, str(without.fault)
    anchored = verify_bundle(attacked.lines(), check_signature, honest.vkey, honest.anchor, max_unsigned=12)
    assert anchored.fault is not None
    if found_with_anchor != "anchor":
        assert anchored.fault.rule == found_with_anchor
    elif found is None:
        assert anchored.fault.rule == "anchor"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_on_a_database_is_found_alike(attack: Callable[[Writer], Writer]) -> None:
    """The same, row by row: heads first, as a reader of a database may give them."""
    honest = sample()
    attacked = attack(honest.copy())
    verifier = Verifier(check_signature, honest.vkey)
    for head in attacked.heads:
        verifier.head(head)
    for index, row in enumerate(attacked.rows):
        verifier.entry(
            index=index, branch=row.branch, seq=row.seq, epoch=row.epoch, at_ms=row.at_ms,
            key=row.key, body=row.body, digest=row.digest,
        )  # fmt: skip
    fault = verifier.finish(max_unsigned=12).fault
    assert (fault and (fault.rule, fault.index)) == ATTACKS[attack][0], str(fault)


def test_the_sample_is_whole() -> None:
    log = sample()
    report = judged(log, anchor=log.anchor)
    assert (report.fault, report.entries, report.heads, report.unsigned) == (None, 24, 3, 2)


def test_a_whole_unsigned_log_is_as_good_as_its_bound() -> None:
    """Deleting all heads of a log that is not longer than the bound is not seen without an anchor."""
    log = delete_run_and_heads(sample())
    assert judged(log).fault is None
    assert broken(judged(log, max_unsigned=4))[0] == "unsigned"
    assert broken(judged(log, anchor=sample().anchor))[0] == "anchor"


@pytest.mark.parametrize("run", [None, "a"])
def test_entries_stand_in_the_order_of_their_indexes(run: str | None) -> None:
    log = Writer()
    for branch in ("a@main", "a@b2"):
        Story(log, branch).claim()
    lines = log.lines(run)
    assert verify_bundle(lines, check_signature, log.vkey).fault is None
    lines[1], lines[2] = lines[2], lines[1]
    assert broken(verify_bundle(lines, check_signature, log.vkey))[0] == "place"


def test_positions_of_a_branch_have_no_gap_though_they_are_chained() -> None:
    log = Writer()
    log.place("r@main", body("claim", worker="w", previous="none"), epoch=1)
    log.rows[0].seq = 2
    origin = sha256(b"holdfast/branch/1\x00r@main")
    numbers = b"".join(number.to_bytes(8, "big") for number in (2, 1, log.rows[0].at_ms))
    log.rows[0].digest = sha256(b"holdfast/entry/1\x00" + origin + numbers + b"\x00" + log.rows[0].body)
    assert broken(judged(log)) == ("place", 0, "r@main:2")


@pytest.mark.parametrize("branch", ["", "main", "@main", "r@", "a" * 251 + "@main", "é" * 126 + "@main"])
def test_a_branch_has_the_name_of_a_run_and_a_line(branch: str) -> None:
    log = Writer()
    log.place(branch, body("claim", worker="w", previous="none"), epoch=1)
    assert broken(judged(log)) == ("place", 0, f"{branch}:1")


def test_a_bad_head_does_not_keep_the_entries_from_being_judged() -> None:
    log = edit(sample())
    verifier = Verifier(check_signature, log.vkey)
    verifier.head(log.heads[0].replace("\n8\n", "\n7\n"))
    for index, row in enumerate(log.rows):
        verifier.entry(index, row.branch, row.seq, row.epoch, row.at_ms, row.key, row.body, row.digest)
    assert broken(verifier.finish())[:2] == ("chain", 9)


def test_a_removed_row_is_named_by_its_index() -> None:
    log = sample()
    lines = log.lines()
    del lines[1 + 10]
    assert broken(verify_bundle(lines, check_signature, log.vkey))[:2] == ("place", 10)


def test_the_first_of_several_broken_entries_is_named() -> None:
    log = edit(sample())
    log.rows[20].body = b"{}"
    log.rows[3].digest = bytes(32)
    assert broken(judged(log)) == ("chain", 3, "köln@main:2")


def test_entries_that_no_good_head_covers_are_named_before_later_faults() -> None:
    log = edit_and_chain(sample())
    log.rows[20].body = b"{}"
    assert broken(judged(log))[:2] == ("root", 8)


@settings(max_examples=examples(30))
@given(choices, st.data())
def test_a_changed_byte_of_a_body_is_named(steps: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    log = written([*steps, (0, 0, False)])
    index = data.draw(st.integers(0, len(log.rows) - 1))
    row = log.rows[index]
    at = data.draw(st.integers(0, len(row.body) - 1))
    row.body = row.body[:at] + bytes((row.body[at] ^ data.draw(st.integers(1, 255)),)) + row.body[at + 1 :]
    assert broken(judged(log)) == ("chain", index, f"{row.branch}:{row.seq}")


@settings(max_examples=examples(30))
@given(choices, st.data())
def test_a_cut_below_a_head_is_found(steps: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    log = written([*steps, (0, 0, True)])
    size = data.draw(st.integers(0, len(log.rows) - 1))
    del log.rows[size:]
    assert broken(judged(log))[:2] == ("shorter", size)


# --- anchors and keys ---


def test_a_bundle_of_another_key_is_refused_though_it_agrees_with_itself() -> None:
    log = sample()
    log.seed = OTHER_SEED
    log.republish(8, 16, 22)
    assert verify_bundle(log.lines(), check_signature).fault is None
    assert broken(verify_bundle(log.lines(), check_signature, sample().vkey))[0] == "signature"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda anchor: "",
        lambda anchor: anchor[:100],
        lambda anchor: anchor.replace("\n22\n", "\n21\n"),
        lambda anchor: anchor.replace("\n22\n", "\n+22\n"),
        lambda anchor: anchor.replace("\n", "\r\n"),
        lambda anchor: anchor.replace("0011", "0012"),
    ],
)
def test_a_spoiled_anchor_is_no_anchor(spoil: Callable[[str], str]) -> None:
    log = sample()
    assert broken(judged(log, anchor=spoil(log.anchor)))[0] == "anchor"


def test_a_note_that_was_cut_off_is_passed_over() -> None:
    log = sample()
    assert judged(log, anchor=log.anchor + log.heads[2][:-9]).fault is None
    assert judged(cut_with_heads(sample()), anchor=log.anchor[:-1]).fault is None, "the newest complete note covers 16"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "x",
        sample().vkey.replace(sample().key_id.hex(), "00000000"),
        sample().vkey[:-1],
        sample().vkey + "\n",
        sample().vkey.replace("+", " "),
    ],
)
def test_a_spoiled_key_verifies_nothing(vkey: str) -> None:
    assert verify_bundle(sample().lines(), check_signature, vkey).fault is not None
    with pytest.raises(verify.Fault):
        Verifier(check_signature, vkey)


# --- one spelling ---


def small(run: str | None = None) -> tuple[Writer, list[bytes]]:
    log = Writer()
    story = Story(log, "a@main")
    story.claim()
    Story(log, "é@main").claim()
    story.start()
    log.publish()
    return log, log.lines(run)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
@pytest.mark.parametrize("run", [None, "a"])
def test_no_changed_byte_of_a_bundle_is_passed_over(run: str | None, flip: int) -> None:
    log, lines = small(run)
    whole = b"".join(lines)
    assert verify_bundle(lines, check_signature, log.vkey).fault is None
    for at in range(len(whole)):
        changed = whole[:at] + bytes((whole[at] ^ flip,)) + whole[at + 1 :]
        assert verify_bundle(changed.splitlines(keepends=True), check_signature, log.vkey).fault, (at, changed)


def test_no_missing_line_is_passed_over() -> None:
    log, lines = small()
    for at in range(len(lines)):
        assert verify_bundle(lines[:at] + lines[at + 1 :], check_signature, log.vkey).fault
        assert verify_bundle(lines[: at + 1] + lines[at:], check_signature, log.vkey).fault
        assert verify_bundle(lines[:at], check_signature, log.vkey).fault


def respelt(old: str, new: str) -> Callable[[bytes], bytes]:
    def spoil(text: bytes) -> bytes:
        assert old.encode() in text, f"{old} is not there"
        return text.replace(old.encode(), new.encode(), 1)

    return spoil


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seq":1', '"seq":+1'),
        ('"seq":1', '"seq": 1'),
        ('"seq":1', '"seq":01'),
        ('"seq":1', '"seq":1.0'),
        ('"seq":1', '"seq":1e0'),
        ('"seq":1', '"seq":"1"'),
        ('"seq":1', '"seq":true'),
        ('"seq":1', '"seq":1_0'),
        ('"seq":1', '"seq":-0'),
        ('"seq":1', '"seq":1,"seq":1'),
        ('"seq":1', '"seq":1,"more":1'),
        ('"seq":1,', ""),
        ("}}\n", '},"more":1}\n'),
        ('"run":null', '"run":null,"more":1'),
        ('"index":0', '"index":-0'),
        ('"epoch":1', '"epoch":' + "1" * 5000),
        ('"key":""', '"key":null'),
        ('"key":""', '"key":"A"'),
        ('"key":""', '"key":"AA"'),
        ('"key":""', '"key":"AB=="'),
        ('"key":""', '"key":"\\n"'),
        ('"branch":"a@main"', '"branch":"\\u0061@main"'),
        ('"branch":"é@main"', '"branch":"\\u00e9@main"'),
        ('"branch":"a@main"', '"branch":"a\\/main"'),
        ('"branch":"a@main"', '"branch":"\\ud800@main"'),
        ('{"entry":', ' {"entry":'),
        ('{"entry":', '{"entry" :'),
        ('{"entry":', '\ufeff{"entry":'),
        ('{"entry":', '\n{"entry":'),
        ('{"entry":', '[{"entry":'),
        ('{"entry":', '{"more":1,"entry":'),
        ('"scope":"all"', '"scope":"run"'),
        ('"run":null', '"run":""'),
        ('"run":null', '"run":"a"'),
        ("bundle/1", "bundle/2"),
        ('{"end":', '{"stop":'),
        ("}}\n", "}} \n"),
        ("}}\n", "}}\r\n"),
        ('"heads":1', '"heads":2'),
        ('"blobs":1', '"blobs":0'),
        ('"entries":3', '"entries":4'),
    ],
)
def test_a_bundle_has_one_spelling(old: str, new: str) -> None:
    log, lines = small()
    spoiled = respelt(old, new)(b"".join(lines))
    assert verify_bundle(spoiled.splitlines(keepends=True), check_signature, log.vkey).fault is not None


@pytest.mark.parametrize("size", ["+3", " 3", "3 ", "03", "3_0", "3.0", "-3", "٣", "0x3", ""])
def test_a_head_has_one_spelling_though_it_is_signed(size: str) -> None:
    log, _ = small()
    log.heads = [log.sign(f"{log.origin}\n{size}\n{base64(log.root(3))}\n")]
    assert broken(judged(log))[0] == "form"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda head: head + head.rpartition("\n\n")[2],
        lambda head: head.replace("\n\n", "\n\n\n"),
        lambda head: head[:-1],
        lambda head: head.replace("=\n\n", "\n\n"),
        lambda head: head.replace("\u2014 ", "- "),
    ],
)
def test_a_head_is_exactly_a_note_of_one_signature(spoil: Callable[[str], str]) -> None:
    log, _ = small()
    log.heads = [spoil(log.heads[0])]
    assert broken(judged(log))[0] in {"form", "signature"}


def test_a_head_speaks_of_its_own_log_only() -> None:
    log, _ = small()
    log.heads = [log.sign(f"holdfast.local/other\n3\n{base64(log.root(3))}\n")]
    assert broken(judged(log))[0] == "signature"


def test_a_line_with_a_head_is_plain() -> None:
    log, lines = small()
    at = next(number for number, each in enumerate(lines) if each.startswith(b'{"head"'))
    lines[at] = line({"head": {"head": log.heads[0]}})
    assert broken(verify_bundle(lines, check_signature, log.vkey))[0] == "form"


def test_the_last_line_ends_too() -> None:
    log, lines = small()
    lines[-1] = lines[-1][:-1]
    assert broken(verify_bundle(lines, check_signature, log.vkey))[0] == "form"


def test_heads_stand_oldest_first() -> None:
    log = sample()
    log.heads.reverse()
    assert broken(judged(log))[0] == "form"


def test_a_payload_has_its_bytes_and_stands_once() -> None:
    log, lines = small()
    at = next(number for number, each in enumerate(lines) if each.startswith(b'{"blob"'))
    other = line({"blob": {"digest": sha256(b"payload 0").hex(), "data": base64(b"payload 1")}})
    assert broken(verify_bundle([*lines[:at], other, *lines[at + 1 :]], check_signature, log.vkey))[0] == "blob"
    assert broken(verify_bundle([*lines[: at + 1], *lines[at:]], check_signature, log.vkey))[0] == "blob"


LEAF = 32


# where leaf hashes begin, and how many bytes of them there are; entry 1 of 3 is hidden
@pytest.mark.parametrize(
    "stretches",
    [
        [],
        [(1, 0)],
        [(1, LEAF + 1)],
        [(1, LEAF - 1)],
        [(1, 2 * LEAF)],
        [(2, LEAF)],
        [(1, LEAF), (1, LEAF)],
        [(0, LEAF), (1, LEAF)],
        [(1, LEAF), (3, 1)],
        [(1, LEAF), (4, LEAF)],
        [(1, LEAF), (10**18, LEAF)],
    ],
)
def test_hidden_entries_fill_exactly_their_places(stretches: list[tuple[int, int]]) -> None:
    log, lines = small("a")
    leaf = log.rows[1].leaf()
    made = [line({"leaf": {"from": start, "hashes": base64((leaf * 3)[:size])}}) for start, size in stretches]
    at = next(number for number, each in enumerate(lines) if each.startswith(b'{"leaf"'))
    assert verify_bundle([*lines[:at], *made, *lines[at + 1 :]], check_signature, log.vkey).fault is not None


def test_nothing_is_hidden_in_a_bundle_of_everything() -> None:
    log, lines = small()
    hidden = line({"leaf": {"from": 2, "hashes": base64(log.rows[2].leaf())}})
    ends = line({"end": {"entries": 2, "blobs": 1, "heads": 1}})
    spoiled = [*lines[:3], hidden, *lines[4:-1], ends]
    assert broken(verify_bundle(spoiled, check_signature, log.vkey))[0] == "form"


def test_a_bundle_of_one_run_holds_no_other() -> None:
    log, _ = small()
    lines = log.lines()
    lines[0] = lines[0].replace(b'"scope":"all","run":null', b'"scope":"run","run":"a"')
    assert broken(verify_bundle(lines, check_signature, log.vkey))[:2] == ("place", 1)


# --- what may follow what ---

CALL = {"tool": "t", "identity": "aa", "n": 0}
SENT = {**CALL, "kind": "irreversible", "args": None, "key": "", "contract": "", "level": "", "resource": None}
INTENT = ("intent", 1, {**SENT, "blast": None, "approval": None, "undoes": None})
HOLD = (
    "hold",
    1,
    {**CALL, "kind": "read", "args": None, "call": "", "contract": "", "level": "", "why": "", "expires_ms": 1},
)
CLAIM = ("claim", 1, {"worker": "w", "previous": "none"})
FINISHED = ("finished", 1, {"answer": ["00", "json", 1], "error": None})
FAILED = ("finished", 1, {"answer": None, "error": "e"})
ISSUED = ("issued", 0, {"capability": "c", "parent": None, "handle": "", "terms": "{}", "by": "b"})
REVOKED = ("revoked", 0, {"capability": "c", "by": "b", "reason": ""})
SIGNAL = ("signal", 0, {"name": "s", "value": None, "by": "b"})


def seal(intent: object) -> tuple[str, int, dict[str, object]]:
    return ("seal", 1, {**CALL, "intent": intent, "args": None, "outcome": {"not_happened": ""}})


def settled(intent: object) -> tuple[str, int, dict[str, object]]:
    return ("settled", 0, {"intent": intent, "outcome": {"not_happened": ""}, "by": ""})


def attempt(intent: object) -> tuple[str, int, dict[str, object]]:
    return ("attempt", 1, {"intent": intent, "number": 2, "why": "doubt"})


def approval(hold: object) -> tuple[str, int, dict[str, object]]:
    return ("approval", 0, {"hold": hold, "call": "", "by": "", "expires_ms": 1})


def refusal(hold: object) -> tuple[str, int, dict[str, object]]:
    return ("refusal", 0, {**CALL, "hold": hold, "by": "", "reason": ""})


def epoch(number: int, record: tuple[str, int, dict[str, object]]) -> tuple[str, int, dict[str, object]]:
    return (record[0], number, record[2])


# records after a claim, and the rule that the last of them breaks
HISTORIES: list[tuple[list[tuple[str, int, dict[str, object]]], str | None]] = [
    ([INTENT, attempt(2), attempt(2), seal(2)], None),
    ([INTENT, attempt(2), settled(2)], None),
    ([HOLD, approval(2), INTENT, seal(4)], None),
    ([HOLD, approval(2), seal(None)], None),
    ([HOLD, approval(2), approval(2), INTENT, seal(5)], None),
    ([HOLD, approval(2), approval(2), refusal(2)], None),
    ([ISSUED, REVOKED, INTENT, ISSUED, seal(4), FINISHED, REVOKED], None),
    ([HOLD, HOLD, approval(3), HOLD, refusal(5)], None),
    ([HOLD, approval(2), refusal(2)], None),
    ([seal(None)], None),
    ([refusal(None)], None),
    ([FINISHED, SIGNAL, epoch(2, CLAIM)], None),
    ([FAILED, epoch(2, CLAIM), epoch(2, INTENT), epoch(2, seal(4)), epoch(2, FAILED), epoch(3, CLAIM)], None),
    ([FAILED, SIGNAL, epoch(2, CLAIM), epoch(2, FINISHED)], None),
    ([epoch(3, CLAIM), epoch(3, INTENT)], None),
    ([seal(2)], "succession"),
    ([seal(1)], "succession"),
    ([INTENT, seal(1)], "succession"),
    ([INTENT, seal(None)], "succession"),
    ([INTENT, INTENT], "succession"),
    ([INTENT, HOLD], "succession"),
    ([INTENT, seal(2), seal(2)], "succession"),
    ([INTENT, seal(2), settled(2)], "succession"),
    ([INTENT, settled(2), attempt(2)], "succession"),
    ([INTENT, seal(2), INTENT], "succession"),
    ([INTENT, approval(2)], "succession"),
    ([INTENT, refusal(2)], "succession"),
    ([HOLD, seal(2)], "succession"),
    ([HOLD, approval(2), seal(2)], "succession"),
    ([HOLD, approval(2), attempt(2)], "succession"),
    ([HOLD, approval(2), settled(2)], "succession"),
    ([HOLD, seal(None)], "succession"),
    ([HOLD, INTENT], "succession"),
    ([HOLD, attempt(2)], "succession"),
    ([HOLD, approval(2), approval(2), attempt(2)], "succession"),
    ([HOLD, approval(2), approval(2), INTENT, approval(2)], "succession"),
    ([HOLD, approval(2), refusal(2), approval(2)], "succession"),
    ([HOLD, approval(2), INTENT, approval(2)], "succession"),
    ([HOLD, approval(2), INTENT, refusal(2)], "succession"),
    ([HOLD, refusal(2), approval(2)], "succession"),
    ([HOLD, refusal(2), INTENT], "succession"),
    ([HOLD, HOLD, approval(2)], "succession"),
    ([approval(2)], "succession"),
    ([refusal(2)], "succession"),
    ([refusal(None), INTENT], "succession"),
    ([seal(None), seal(None)], "succession"),
    ([FINISHED, seal(None)], "succession"),
    ([FAILED, seal(None)], "succession"),
    ([FAILED, FINISHED], "succession"),
    ([FAILED, epoch(2, CLAIM), epoch(2, FINISHED), epoch(3, CLAIM), epoch(3, INTENT)], "succession"),
    ([FINISHED, FINISHED], "succession"),
    ([FINISHED, epoch(2, CLAIM), epoch(2, INTENT)], "succession"),
    ([epoch(2, INTENT)], "epoch"),
    ([epoch(0, INTENT)], "epoch"),
    ([INTENT, epoch(0, seal(2))], "epoch"),
    ([HOLD, epoch(1, approval(2)), INTENT], None),
    ([INTENT, epoch(1, settled(2)), epoch(1, SIGNAL)], None),
    ([epoch(1, CLAIM)], "epoch"),
    ([epoch(0, CLAIM)], "epoch"),
    ([epoch(2, CLAIM), INTENT], "epoch"),
    ([epoch(2, CLAIM), epoch(1, CLAIM)], "epoch"),
    ([INTENT, seal(True)], "form"),
    ([INTENT, seal("2")], "form"),
    ([INTENT, seal([2])], "form"),
    ([("seal", 1, {"intent": None, "n": 0})], "form"),
    ([("seal", 1, {"intent": None, "identity": {}, "n": 0})], "form"),
    ([("seal", 1, {"intent": None, "identity": "aa", "n": True})], "form"),
    ([("sealed", 1, {})], "record"),
    ([("", 1, {})], "record"),
    ([("Seal", 1, {})], "record"),
    ([("decision|draw", 1, {})], "record"),
]


@pytest.mark.parametrize(("history", "rule"), HISTORIES)
def test_a_record_stands_where_it_may(history: list[tuple[str, int, dict[str, object]]], rule: str | None) -> None:
    log = Writer()
    for t, at_epoch, fields in [CLAIM, *history]:
        log.place("r@main", body(t, **fields), epoch=at_epoch)
    log.publish()
    fault = judged(log).fault
    if rule is None:
        assert fault is None, str(fault)
    else:
        assert fault is not None
        last = len(history)
        assert (fault.rule, fault.index, fault.node) == (rule, last, f"r@main:{last + 1}"), str(fault)


def test_an_entry_without_a_claim_is_an_owners_only_after_one() -> None:
    log = Writer()
    log.place("r@main", body("started", agent="a", input=None), epoch=1)
    assert broken(judged(log)) == ("epoch", 0, "r@main:1")


@pytest.mark.parametrize(
    ("written_body", "rule"),
    [
        (b"", "form"),
        (b"[]", "form"),
        (b"null", "form"),
        (b'{"t":"claim","v":1} ', "form"),
        (b'{"v":1,"t":"claim"}', "form"),
        (b'{"t":"claim","t":"claim","v":1}', "form"),
        (b'{"t":"cl\\u0061im","v":1}', "form"),
        (b'{"t":"claim","v":1,"x":\xff}', "form"),
        (b"[" * 100_000, "form"),
        (b'{"t":"claim","v":true}', "form"),
        (b'{"t":"claim","v":1.0}', "form"),
        (b'{"t":"claim"}', "form"),
        (b'{"t":7,"v":1}', "form"),
        (b'{"v":1}', "form"),
        (b'{"t":"claim","v":2}', "record"),
        (b'{"t":"spooned","v":1}', "record"),
    ],
)
def test_a_body_is_a_record_in_its_one_spelling(written_body: bytes, rule: str) -> None:
    log = Writer()
    log.place("r@main", written_body, epoch=1)
    log.publish()
    assert broken(judged(log)) == (rule, 0, "r@main:1")


@pytest.mark.parametrize(
    ("field", "value"), [("epoch", -1), ("epoch", 2**64), ("at_ms", -1), ("at_ms", 2**64), ("key", bytes(33))]
)
def test_a_row_of_a_database_may_hold_anything(field: str, value: object) -> None:
    row = {
        "index": 0,
        "branch": "r@main",
        "seq": 1,
        "epoch": 1,
        "at_ms": 1,
        "key": b"",
        "body": b"{}",
        "digest": bytes(32),
    }
    verifier = Verifier(check_signature, sample().vkey)
    verifier.entry(**{**row, field: value})  # type: ignore[arg-type]
    assert broken(verifier.finish()) == ("form", 0, "r@main:1")


# --- alone ---


def test_the_verifier_imports_nothing_but_the_standard_library() -> None:
    module = ast.parse(Path(verify.__file__).read_text())
    names = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def alone(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The file by itself, in another place, without the product on the path."""
    copied = tmp_path / "verify.py"
    copied.write_bytes(Path(verify.__file__).read_bytes())
    command = [sys.executable, "-I", str(copied), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_verifier_runs_alone(tmp_path: Path) -> None:
    log = sample()
    bundle, anchor, other = tmp_path / "bundle", tmp_path / "anchor", tmp_path / "other"
    bundle.write_bytes(b"".join(log.lines()))
    anchor.write_bytes(log.anchor.encode())
    other.write_bytes(b"".join(edit(sample()).lines()))
    whole = alone(tmp_path, str(bundle), "--vkey", log.vkey, "--anchor", str(anchor))
    assert (whole.returncode, whole.stdout[:3]) == (0, "OK:"), whole.stderr
    changed = alone(tmp_path, str(other), "--vkey", log.vkey)
    assert changed.returncode == 1
    assert "entry 9 (köln@main:4)" in changed.stdout
    foreign = alone(tmp_path, str(bundle), "--vkey", log.vkey.replace("0011", "0012"))
    assert (foreign.returncode, "[signature]" in foreign.stdout) == (1, True)


def test_a_report_can_be_read(tmp_path: Path) -> None:
    log = sample()
    assert str(judged(edit(sample())).fault).startswith("entry 9 (köln@main:4): ")
    assert json.loads(log.lines()[0])["vkey"] == log.vkey


@pytest.mark.parametrize("field", ["key", "body"])
def test_base64_that_says_the_same_in_another_spelling_is_refused(field: str) -> None:
    """The last letter before the padding has bits that no byte is made of: another letter decodes to the same bytes."""
    log = Writer()
    log.place("a@main", body("claim", worker="w" * 3, previous="none"), epoch=1, key=b"name")
    log.publish()
    text = b"".join(log.lines(None))
    found = re.search(rf'"{field}":"([A-Za-z0-9+/]+)(=+)"'.encode(), text)
    assert found, "pad it: another length of what is written"
    other = bytes((found[1][-1] + 1,))
    assert b64decode(found[1][:-1] + other + found[2]) == b64decode(found[1] + found[2])
    spoiled = text[: found.end(1) - 1] + other + text[found.end(1) :]
    assert verify_bundle(text.splitlines(keepends=True), check_signature, log.vkey).fault is None
    fault = verify_bundle(spoiled.splitlines(keepends=True), check_signature, log.vkey).fault
    assert fault is not None
    assert fault.rule == "form"
