"""Signed notes, heads and the tree: against published vectors, and against every small change."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.note import (
    CheckSignature,
    Frontier,
    Head,
    Note,
    Signature,
    VerifierKey,
    format_head,
    format_note,
    format_vkey,
    from_base64,
    from_decimal,
    leaf,
    newest_note,
    node,
    open_head,
    open_note,
    parse_head,
    parse_note,
    parse_vkey,
    sign_head,
    to_base64,
)
from holdfast.errors import Corrupt

# golang.org/x/mod/sumdb/note, note_test.go
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
BY_PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
BY_ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
SIGNED = f"{TEXT}\n{BY_PETER}"

# c2sp.org/signed-note and c2sp.org/tlog-checkpoint
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore \
NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""

# RFC 6962's reference tree (certificate-transparency, merkletree): leaf data, and the root over the first n of them.
LEAVES = [
    bytes.fromhex(data)
    for data in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def checker(key: VerifierKey) -> CheckSignature:
    def check(message: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return check


def signer(seed: bytes) -> Callable[[bytes], bytes]:
    return Ed25519PrivateKey.from_private_bytes(seed).sign


def opened(note: str, vkey: str = PETER) -> str:
    key = parse_vkey(vkey)
    return open_note(note, key, checker(key))


# --- keys ---


def test_the_published_key_is_read_and_written() -> None:
    key = parse_vkey(PETER)
    assert (key.name, key.key_id.hex()) == ("PeterNeumann", "c74f20a3")
    assert format_vkey(key) == PETER


def test_no_part_of_a_key_is_a_key() -> None:
    for start in range(len(PETER) + 1):
        for end in range(start, len(PETER) + 1):
            if (start, end) != (0, len(PETER)):
                with pytest.raises(Corrupt):
                    parse_vkey(PETER[start:end])


def test_no_changed_byte_of_a_key_is_passed_over() -> None:
    for at in range(len(PETER)):
        for change in (1, -1, 32):
            with pytest.raises(Corrupt):
                parse_vkey(PETER[:at] + chr(ord(PETER[at]) + change) + PETER[at + 1 :])


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long, id adjusted
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown algorithm, id adjusted
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER + "\n",
        " " + PETER,
    ],
)
def test_a_key_of_another_form_is_refused(vkey: str) -> None:
    with pytest.raises(Corrupt):
        parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb"])
def test_a_name_that_could_be_misread_is_refused(name: str) -> None:
    with pytest.raises(Corrupt):
        format_vkey(VerifierKey(name=name, public_key=bytes(32)))


# --- notes ---


def test_the_published_note_is_opened() -> None:
    assert opened(SIGNED) == TEXT


def test_signing_the_published_text_gives_the_published_note() -> None:
    key = parse_vkey(PETER)
    made = signer(from_base64(PETER_SEED)[1:])(TEXT.encode())
    assert format_note(TEXT, [Signature(name=key.name, key_id=key.key_id, signature=made)]) == SIGNED


@pytest.mark.parametrize("note", [POEM, SOFA])
def test_the_notes_in_the_specification_are_read_and_written(note: str) -> None:
    parsed = parse_note(note)
    assert format_note(parsed.text, parsed.signatures) == note
    assert len(parsed.signatures[0].signature) == 64


def test_the_checkpoint_in_the_specification_is_a_head() -> None:
    head = parse_head(parse_note(SOFA).text)
    assert (head.origin, head.size, len(head.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert format_head(head) == parse_note(SOFA).text


def test_signatures_by_other_keys_are_passed_over() -> None:
    both = f"{TEXT}\n{BY_PETER}{BY_ENOCH}"
    assert opened(both, PETER) == TEXT
    assert opened(both, ENOCH) == TEXT
    assert opened(both.replace("rwz+eBzm", "rwz+eAAA"), PETER) == TEXT


def test_a_note_that_the_key_did_not_sign_is_refused() -> None:
    with pytest.raises(Corrupt, match="did not sign"):
        opened(SIGNED, ENOCH)


def test_one_wrong_signature_by_the_key_is_one_too_many() -> None:
    wrong = BY_PETER.replace("x08go/ZJ", "x08go/AA")
    for lines in (wrong, BY_PETER + wrong, wrong + BY_PETER):
        with pytest.raises(Corrupt, match="is wrong"):
            opened(f"{TEXT}\n{lines}")


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        TEXT,
        TEXT + "\n",
        SIGNED[:-1],
        "\x01" + SIGNED,
        "\ud800" + SIGNED,
        SIGNED.replace("\n", "\r\n"),
        SIGNED + "\n",
        SIGNED + "Unexpected line.\n",
        SIGNED.replace("PeterNeumann", "Bad Name"),
        SIGNED.replace("PeterNeumann", "Peter+Neumann"),
        SIGNED.replace("— ", "—"),
        SIGNED.replace("— ", "- "),
        SIGNED.replace("— Peter", "—  Peter"),
        SIGNED.replace("x08go", "\u00a0x08go"),
        SIGNED.replace("nAM=\n", "nAM= \n"),
        SIGNED.replace("nAM=\n", "nAM\n"),
        SIGNED.replace("nAM=\n", "nAN=\n"),
        TEXT + "\n" + BY_PETER * 101,
        TEXT + "\n— PeterNeumann x08gow==\n",
    ],
)
def test_a_note_of_another_form_is_refused(note: str) -> None:
    with pytest.raises(Corrupt):
        opened(note)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_no_changed_byte_of_a_note_is_passed_over(flip: int) -> None:
    note = SIGNED.encode()
    for at in range(len(note)):
        changed = bytearray(note)
        changed[at] ^= flip
        with pytest.raises((Corrupt, UnicodeDecodeError)):
            opened(changed.decode())


@pytest.mark.parametrize("text", ["", "no newline", "\n", "a\r\n", "\ud800\n"])
def test_a_text_that_would_be_read_as_another_is_not_signed(text: str) -> None:
    with pytest.raises(Corrupt):
        format_note(text, [Signature(name="k", key_id=bytes(4), signature=bytes(64))])


def test_a_text_may_look_like_a_note_itself() -> None:
    signature = Signature(name="k", key_id=bytes(4), signature=bytes(64))
    assert parse_note(format_note(SIGNED, [signature])) == Note(text=SIGNED, signatures=(signature,))


# --- spellings ---


@pytest.mark.parametrize(
    "text", ["AA", "AA=", "AB==", "AAB=", "A A==", "AA==\n", " AA==", "AA===", "A-_=", "=", "AA==AA==", "ÄA=="]
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(Corrupt):
        from_base64(text)


@given(st.binary())
def test_base64_comes_back(data: bytes) -> None:
    assert from_base64(to_base64(data)) == data


@pytest.mark.parametrize(
    "text",
    ["", "+7", " 7", "7 ", "7\n", "7_7", "07", "-0", "-1", "0x7", "7.0", "7e0", "٧", "²", str(2**64), "9" * 5000],
)
def test_a_number_has_one_spelling(text: str) -> None:
    with pytest.raises(Corrupt):
        from_decimal(text)


@pytest.mark.parametrize("number", [0, 1, 10, 2**64 - 1])
def test_a_number_comes_back(number: int) -> None:
    assert from_decimal(str(number)) == number


# --- heads ---

SEED = bytes(range(32))
KEY = VerifierKey(
    name="holdfast.local/00112233445566778899aabbccddeeff",
    public_key=Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw(),
)


def published(size: int, root: bytes = bytes(32), origin: str = KEY.name) -> str:
    return sign_head(Head(origin=origin, size=size, root=root), KEY, signer(SEED))


def test_a_head_comes_back() -> None:
    head = Head(origin=KEY.name, size=7, root=hashlib.sha256(b"x").digest())
    assert open_head(published(7, head.root), KEY, checker(KEY)) == head


def test_a_head_of_another_log_is_refused_though_our_key_signed_it() -> None:
    with pytest.raises(Corrupt, match="not of"):
        open_head(published(7, origin="holdfast.local/other"), KEY, checker(KEY))


@pytest.mark.parametrize(
    "text",
    [
        "o\n7\n" + to_base64(bytes(32)),
        "o\n7\n" + to_base64(bytes(32)) + "\nmore\n",
        "o\n7\n" + to_base64(bytes(32)) + "\n\n",
        "o\n07\n" + to_base64(bytes(32)) + "\n",
        "o\n7\n" + to_base64(bytes(31)) + "\n",
        "\n7\n" + to_base64(bytes(32)) + "\n",
        "o\n\n" + to_base64(bytes(32)) + "\n",
    ],
)
def test_a_head_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(Corrupt):
        parse_head(text)


def test_the_newest_complete_note_of_an_anchor_counts() -> None:
    notes = [published(size) for size in (3, 9, 12)]
    anchor = "".join(note + "\n" for note in notes)
    assert newest_note(anchor) == notes[-1]
    whole_from = len(anchor) - len(notes[-1]) - 1
    for end in range(whole_from, len(anchor)):
        assert newest_note(anchor[:end]) == notes[1], anchor[:end]
    assert newest_note(anchor[len(notes[0]) // 2 :]) == notes[-1]


def test_an_anchor_without_a_complete_note_has_none() -> None:
    note = published(3)
    assert all(newest_note(note[:end]) is None for end in range(len(note) + 1))


# --- the tree ---


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_reference_tree(size: int) -> None:
    hashed = [hashlib.sha256(b"\x00" + data).digest() for data in LEAVES[:size]]
    assert Frontier().extend(hashed).root().hex() == ROOTS[size]


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=130), st.data())
def test_a_tree_may_grow_in_any_portions(leaves: list[bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(leaves)))
    grown = Frontier.decode(Frontier().extend(leaves[:cut]).encode()).extend(leaves[cut:])
    assert grown.root() == reference_root(leaves)
    assert (grown.size, len(grown.peaks)) == (len(leaves), len(leaves).bit_count())


def test_growing_leaves_the_smaller_tree_as_it_was() -> None:
    small = Frontier().extend([bytes(32)])
    small.extend([bytes(32)])
    assert small == Frontier(1, (bytes(32),))


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), (3).to_bytes(8, "big") + bytes(32), bytes(8) + bytes(32)])
def test_an_edge_that_does_not_fit_its_size_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        Frontier.decode(data)


def test_leaves_and_nodes_are_hashed_as_the_format_says() -> None:
    digest = hashlib.sha256(b"entry").digest()
    spelled = b"\x00" + b"holdfast/leaf/1" + b"\x00" + b"\x06" + "rün@b".encode() + digest
    assert leaf("rün@b", digest) == hashlib.sha256(spelled).digest()
    assert node(digest, bytes(32)) == hashlib.sha256(b"\x01" + digest + bytes(32)).digest()
