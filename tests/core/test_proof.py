"""Proofs over the tree: the published ones, a naive tree, and a verifier that passes over no changed byte."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import verify
from holdfast.core.entry import Entry
from holdfast.core.note import Frontier
from holdfast.core.proof import consistency, extra_of, format_growth, format_proof, inclusion, roots
from holdfast.core.verify import Fault, verify_growth, verify_proof
from tests.core.attacks import sample
from tests.core.bundle_writer import OTHER_SEED, Writer, check_signature, mth
from tests.core.test_note import LEAVES, ROOTS
from tests.examples import examples

HASHED = [sha256(b"\0" + data).digest() for data in LEAVES]

# The proofs of certificate-transparency's reference tree (merkletree): (index, size) or (old, new), and the path.
INCLUSION = {
    (0, 1): [],
    (0, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): ["6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}  # fmt: skip
CONSISTENCY = {
    (1, 1): [],
    (1, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
    (6, 7): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
}  # fmt: skip


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_the_published_proofs_that_a_leaf_is_there_are_made_and_believed(index: int, size: int) -> None:
    made = roots(inclusion(index, size), Frontier(), HASHED)
    assert [each.hex() for each in made] == INCLUSION[index, size]
    assert verify._up(HASHED[index], index, size, made).hex() == ROOTS[size]


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_the_published_proofs_that_a_tree_has_grown_are_made_and_believed(old: int, size: int) -> None:
    made = roots(consistency(old, size), Frontier(), HASHED)
    assert [each.hex() for each in made] == CONSISTENCY[old, size]
    found = verify._grown(bytes.fromhex(ROOTS[old]), old, size, made, True)
    assert [each.hex() for each in found] == [ROOTS[old], ROOTS[size]]


# --- a naive tree, as RFC 6962 words it ---


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < k:
        return [*naive_path(index, leaves[:k]), mth(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), mth(leaves[:k])]


def naive_rest(old: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    if old <= k:
        return [*naive_rest(old, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*naive_rest(old - k, leaves[k:], whole=False), mth(leaves[:k])]


def leaves_of(size: int) -> list[bytes]:
    return [sha256(number.to_bytes(4, "big")).digest() for number in range(size)]


@given(st.data())
def test_a_proof_is_that_of_a_naive_tree_from_whichever_edge_it_is_made(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    index = data.draw(st.integers(0, size - 1))
    edge = data.draw(st.integers(0, index))
    leaves = leaves_of(size)
    made = roots(inclusion(index, size), Frontier().extend(leaves[:edge]), iter(leaves[edge:]))
    assert made == naive_path(index, leaves)
    assert verify._up(leaves[index], index, size, made) == mth(leaves)


@given(st.data())
def test_a_grown_tree_is_that_of_a_naive_one_from_whichever_edge_it_is_made(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    old = data.draw(st.integers(1, size))
    edge = data.draw(st.integers(0, old))
    leaves = leaves_of(size)
    made = roots(consistency(old, size), Frontier().extend(leaves[:edge]), iter(leaves[edge:]))
    assert made == naive_rest(old, leaves)
    assert verify._grown(mth(leaves[:old]), old, size, made, True) == (mth(leaves[:old]), mth(leaves))


@given(st.data())
def test_no_path_leads_from_another_leaf_place_or_size(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 60))
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    path = naive_path(index, leaves)
    place, other = data.draw(st.integers(0, 59)), data.draw(st.integers(1, 60))
    hashed = data.draw(st.sampled_from(leaves))
    if (place, hashed) != (index, leaves[index]) and place < other:
        with contextlib.suppress(Fault):
            assert verify._up(hashed, place, other, path) != mth(leaves) or hashed == leaves[index]


# --- evidence files ---


def evidence(log: Writer, index: int, head: int = -1) -> str:
    """The proof of an entry of the second hand's, put together from its parts."""
    row = log.rows[index]
    before = [each for each in log.rows[:index] if each.branch == row.branch]
    previous = before[-1].digest if before else sha256(b"holdfast/branch/1\0" + row.branch.encode()).digest()
    size = int(log.heads[head].split("\n")[1])
    entry = Entry(row.branch, row.seq, row.epoch, row.at_ms, row.key, row.body, row.digest)
    leaves = [each.leaf() for each in log.rows[:size]]
    return format_proof(index, naive_path(index, leaves), log.heads[head], extra=extra_of(entry, previous))


def growth(log: Writer, old: int) -> str:
    size = int(log.heads[-1].split("\n")[1])
    leaves = [each.leaf() for each in log.rows[:size]]
    return format_growth(old, naive_rest(old, leaves) if old else [], log.heads[-1])


@pytest.mark.parametrize("index", [0, 7, 13, 21])
def test_an_entry_is_proven_to_whoever_has_the_key_alone(index: int) -> None:
    log = sample()
    proven = verify_proof(evidence(log, index), check_signature, log.vkey)
    row = log.rows[index]
    assert (proven.index, proven.size, proven.node, proven.body) == (index, 22, f"{row.branch}:{row.seq}", row.body)


@pytest.mark.parametrize("old", [0, 8, 16, 22])
def test_a_log_is_proven_to_have_grown_to_whoever_has_its_anchor(old: int) -> None:
    log = sample()
    proven = verify_growth(growth(log, old), log.anchor, check_signature, log.vkey)
    assert (proven.index, proven.size) == (old, 22)


def test_an_evidence_file_is_the_one_that_the_specification_describes() -> None:
    note = "example.com/log\n3\nAAAA\n\n— example.com/log BBBB\n"
    path = [bytes(32), b"\1" * 32]
    encoded = [b64encode(each).decode() for each in path]
    assert format_proof(5, path, note) == f"c2sp.org/tlog-proof@v1\nindex 5\n{encoded[0]}\n{encoded[1]}\n\n{note}"
    assert format_proof(0, [], note, extra=b"more") == f"c2sp.org/tlog-proof@v1\nextra bW9yZQ==\nindex 0\n\n{note}"
    assert format_growth(3, path, note) == f"old 3\n{encoded[0]}\n{encoded[1]}\n\n{note}"


def refuses(judge: Callable[[], object]) -> bool:
    try:
        judge()
    except Fault:
        return True
    return False


@pytest.mark.parametrize("flip", [1, 2, 4, 8, 16, 32, 64, 128])
def test_no_changed_byte_of_a_proof_is_passed_over(flip: int) -> None:
    log = sample()
    for proof, judge in (
        (evidence(log, 13).encode(), lambda text: verify_proof(text, check_signature, log.vkey)),
        (growth(log, 16).encode(), lambda text: verify_growth(text, log.anchor, check_signature, log.vkey)),
    ):
        for at in range(len(proof)):
            changed = proof[:at] + bytes((proof[at] ^ flip,)) + proof[at + 1 :]
            text = changed.decode(errors="replace")
            assert refuses(lambda judge=judge, text=text: judge(text)), (at, text)  # type: ignore[misc]


@given(st.data())
@settings(max_examples=examples(60))
def test_no_missing_or_added_text_of_a_proof_is_passed_over(data: st.DataObject) -> None:
    log = sample()
    proof = evidence(log, 13)
    start = data.draw(st.integers(0, len(proof)))
    stop = data.draw(st.integers(start, min(len(proof), start + 80)))
    put = data.draw(st.sampled_from(["", "\n", " ", "0", "+", "A", "=", "\n\n", "index 1\n", "\r"]))
    changed = proof[:start] + put + proof[stop:]
    if changed != proof:
        assert refuses(lambda: verify_proof(changed, check_signature, log.vkey))


def respelled(extra: str) -> str:
    """The sample's proof with another text as its extra line."""
    proof = evidence(sample(), 9)
    head, _, rest = proof.partition("extra ")
    return f"{head}extra {b64encode(extra.encode()).decode()}\n{rest.partition(chr(10))[2]}"


@pytest.mark.parametrize(
    "spell",
    [
        lambda entry: json.dumps({"entry": entry}, ensure_ascii=False),
        lambda entry: json.dumps({"entry": entry}, separators=(",", ":")),
        lambda entry: json.dumps({"entry": {**entry, "more": 1}}, ensure_ascii=False, separators=(",", ":")),
        lambda entry: json.dumps({"entry": entry, "more": 1}, ensure_ascii=False, separators=(",", ":")),
        lambda entry: json.dumps({"entry": [entry]}, ensure_ascii=False, separators=(",", ":")),
        lambda entry: json.dumps({"entry": dict(sorted(entry.items()))}, ensure_ascii=False, separators=(",", ":")),
        lambda entry: json.dumps({"entry": {**entry, "seq": True}}, ensure_ascii=False, separators=(",", ":")),
        lambda entry: json.dumps({"entry": {**entry, "branch": ""}}, ensure_ascii=False, separators=(",", ":")),
        lambda _: "[]",
        lambda _: "{}",
    ],
)
def test_the_entry_of_a_proof_has_one_spelling(spell: Callable[[dict[str, object]], str]) -> None:
    log = sample()
    it = log.rows[9]
    line = [each for each in log.rows if each.branch == it.branch]
    before = line[line.index(it) - 1].digest
    whole = extra_of(Entry(it.branch, it.seq, it.epoch, it.at_ms, it.key, it.body, it.digest), before).decode()
    verify_proof(respelled(whole), check_signature, log.vkey)
    with pytest.raises(Fault):
        verify_proof(respelled(spell(json.loads(whole)["entry"])), check_signature, log.vkey)


def test_a_proof_by_another_key_or_of_another_log_shows_nothing() -> None:
    log, other = sample(), sample()
    other.seed = OTHER_SEED
    other.republish(22)
    for forged in (evidence(other, 13), growth(other, 16)):
        judge = verify_proof if forged.startswith("c2sp") else lambda *a: verify_growth(a[0], log.anchor, *a[1:])
        with pytest.raises(Fault, match="not signed by"):
            judge(forged, check_signature, log.vkey)


def test_a_rewritten_log_cannot_be_shown_to_have_grown_even_with_the_stolen_key() -> None:
    log, rewritten = sample(), sample()
    rewritten.rows[9].body = rewritten.rows[9].body.replace(b"irreversible", b"reversible")
    rewritten.rechain()
    rewritten.republish(8, 16, 22)
    with pytest.raises(Fault, match="not those that the anchor knows") as found:
        verify_growth(growth(rewritten, 16), log.anchor, check_signature, log.vkey)
    assert found.value.rule == "proof"


@pytest.mark.parametrize("old", ["7", "23", "18446744073709551616", "016", "+16", "-1", "1_6"])
def test_a_log_has_grown_only_since_what_the_anchor_holds(old: str) -> None:
    log = sample()
    with pytest.raises(Fault):
        verify_growth(growth(log, 16).replace("old 16", f"old {old}"), log.anchor, check_signature, log.vkey)


def test_the_verifier_judges_proofs_alone(tmp_path: Path) -> None:
    """The file by itself, in another place, without the product on the path."""
    log = sample()
    (tmp_path / "verify.py").write_bytes(Path(verify.__file__).read_bytes())
    (tmp_path / "entry").write_text(evidence(log, 9))
    (tmp_path / "bad").write_text(evidence(log, 9).replace("index 9", "index 8"))
    (tmp_path / "grown").write_text(growth(log, 16))
    (tmp_path / "anchor").write_text(log.anchor)
    for name, more, code, said in (
        ("entry", (), 0, "OK: Proven(index=9, size=22, node='köln@main:4'"), ("bad", (), 1, "BAD: entry 8"),
        ("grown", ("--anchor", "anchor"), 0, "OK: Proven(index=16, size=22"), ("grown", (), 1, "BAD: "),
    ):  # fmt: skip
        ended = subprocess.run(
            [sys.executable, "-I", "verify.py", name, "--vkey", log.vkey, *more],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (ended.returncode, ended.stdout[: len(said)]) == (code, said), ended
