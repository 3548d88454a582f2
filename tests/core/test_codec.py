"""The codec of records is closed: what was written reads back, and nothing else reads at all."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import effect, record
from holdfast.core.codec import decode, encode
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Payload
from holdfast.core.record import (
    RECORDS,
    Attempt,
    Cancelled,
    Checkpoint,
    Decision,
    Draw,
    Finished,
    Intent,
    Parcel,
    Record,
    Seal,
    Settled,
)
from holdfast.errors import Corrupt
from tests.core.lives import ANSWER, intent
from tests.examples import examples

# --- records as they can be built: each field by its type, with nothing known of what it means ---

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NATURAL = st.integers(0, 2**70)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
PAYLOAD = st.builds(Payload, HEX, st.sampled_from(Encoding), NATURAL)
OF_TYPE: dict[object, st.SearchStrategy[object]] = {
    str: TEXT,
    int: NATURAL,
    Kind: st.sampled_from(Kind),
    Payload: PAYLOAD,
    tuple[int, ...]: st.lists(NATURAL, max_size=3).map(tuple),
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
    effect.Outcome: st.builds(Happened, PAYLOAD, st.none() | TEXT) | st.builds(NotHappened, TEXT, st.none() | PAYLOAD),
    str | None: st.none() | TEXT,
    int | None: st.none() | NATURAL,
    Payload | None: st.none() | PAYLOAD,
    tuple[Parcel, ...] | None: st.none() | st.lists(st.builds(Parcel, HEX, PAYLOAD), max_size=3).map(tuple),
}


def built(kind: type[Record]) -> st.SearchStrategy[Record]:
    hints = typing.get_type_hints(kind, vars(record))
    return st.builds(kind, **{field.name: OF_TYPE[hints[field.name]] for field in dataclasses.fields(kind)})


# docs/log-format.md: fields that came later. They are left out where they are null.
LATER: dict[type[Record], set[str]] = {
    Decision: {"capability", "cost"},
    Intent: {"capability", "policy", "rule"},
    Seal: {"capability"},
    Checkpoint: {"capability", "parcels"},
}
EACH = pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
FEW = settings(max_examples=examples(15))  # of each of the records


@EACH
@FEW
@given(data=st.data())
def test_what_is_written_reads_back(kind: type[Record], data: st.DataObject) -> None:
    made = data.draw(built(kind))
    assert decode(encode(made)) == made


@EACH
@FEW
@given(data=st.data())
def test_the_bytes_of_a_record_are_canonical(kind: type[Record], data: st.DataObject) -> None:
    """Written a second time here: names in order, no white space, no escape but those that JSON must have."""
    made = data.draw(built(kind))
    written = encode(made)
    body = json.loads(written)
    assert json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode() == written
    assert (body["t"], body["v"]) == (kind.__name__.lower(), 1)
    left_out = {name for name in LATER.get(kind, ()) if getattr(made, name) is None}
    assert body.keys() - {"t", "v"} == {field.name for field in dataclasses.fields(kind)} - left_out


@EACH
@FEW
@given(data=st.data())
def test_two_records_never_have_the_same_bytes(kind: type[Record], data: st.DataObject) -> None:
    one, other = data.draw(built(kind)), data.draw(built(kind))
    assert (encode(one) == encode(other)) == (one == other)


# --- and nothing else ---


def otherwise(body: bytes, made: Record) -> None:
    """Bytes that are not those of `made` are corrupt, or those of another record in its one spelling."""
    try:
        read = decode(body)
    except Corrupt:
        return
    assert read != made
    assert encode(read) == body


@EACH
@FEW
@given(data=st.data())
def test_no_changed_byte_is_passed_over(kind: type[Record], data: st.DataObject) -> None:
    made = data.draw(built(kind))
    written = encode(made)
    flip = data.draw(st.integers(1, 255))
    for at in range(len(written)):
        otherwise(written[:at] + bytes((written[at] ^ flip,)) + written[at + 1 :], made)


@EACH
@FEW
@given(data=st.data())
def test_no_missing_or_additional_byte_is_passed_over(kind: type[Record], data: st.DataObject) -> None:
    made = data.draw(built(kind))
    written = encode(made)
    more = data.draw(st.integers(0, 255))
    for at in range(len(written)):
        otherwise(written[:at] + written[at + 1 :], made)
        otherwise(written[:at] + bytes((more,)) + written[at:], made)
        with pytest.raises(Corrupt):
            decode(written[:at])


@EACH
@FEW
@given(data=st.data())
def test_a_record_has_exactly_its_fields(kind: type[Record], data: st.DataObject) -> None:
    made = data.draw(built(kind))
    body = json.loads(encode(made))
    for name in body:
        without = spelt({field: value for field, value in body.items() if field != name})
        if name in LATER.get(kind, ()):
            assert decode(without) == dataclasses.replace(made, **{name: None})
        else:
            with pytest.raises(Corrupt):
                decode(without)
    with pytest.raises(Corrupt):
        decode(spelt({**body, "more": 1}))
    if kind is not Cancelled:
        with pytest.raises(Corrupt):
            decode(spelt({**body, "t": "cancelled"}))


WRONG = [True, False, -1, 1.0, 1.5, [], {}, [1, -1], ["a"], {"happened": None}, "\u0000", 7, "text", None]


@EACH
@FEW
@given(data=st.data())
def test_a_field_of_another_type_is_corrupt(kind: type[Record], data: st.DataObject) -> None:
    made = data.draw(built(kind))
    body = json.loads(encode(made))
    hints = typing.get_type_hints(kind, vars(record))
    for name, hint in hints.items():
        for wrong in WRONG:
            if fits(wrong, hint) and not (wrong is None and name in LATER.get(kind, ())):
                read = tuple(wrong) if isinstance(wrong, list) else wrong
                assert getattr(decode(spelt({**body, name: wrong})), name) == read
            else:
                with pytest.raises(Corrupt):
                    decode(spelt({**body, name: wrong}))


def fits(value: object, hint: object) -> bool:
    """Whether this JSON value can stand where a field of this type is."""
    match value:
        case None:
            return type(None) in typing.get_args(hint)
        case bool():
            return False
        case str():
            return hint in (str, str | None)
        case int():
            return value >= 0 and hint in (int, int | None)
        case []:
            return hint in (tuple[int, ...], tuple[str, ...], tuple[Parcel, ...] | None)
        case [str()]:
            return hint == tuple[str, ...]
        case _:
            return False


def spelt(body: dict[str, object]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


DIGEST = "ab" * 32
PAYLOADS = [
    [DIGEST, "json"],
    [DIGEST, "json", 1, 1],
    [DIGEST, "json", -1],
    [DIGEST, "json", True],
    [DIGEST, "json", 1.0],
    [DIGEST, "json", "1"],
    [DIGEST, "pickle", 1],
    [DIGEST, None, 1],
    [DIGEST[:-1], "json", 1],
    [DIGEST + "a", "json", 1],
    [DIGEST.upper(), "json", 1],
    ["g" * 64, "json", 1],
    [{}, "json", 1],
    {"digest": DIGEST, "encoding": "json", "size": 1},
]
OUTCOMES: list[object] = [
    {"happened": [DIGEST, "json", 1]},
    {"happened": [DIGEST, "json", 1], "etag": 1},
    {"happened": [DIGEST, "json", 1], "etag": None, "not_happened": "no"},
    {"happened": None, "etag": None},
    {"happened": [DIGEST, "json"], "etag": None},
    {"not_happened": None},
    {"not_happened": 7},
    {"not_happened": "no", "etag": None},
    {"not_happened": "no", "answer": None},
    {"not_happened": "no", "answer": "gone"},
    {"not_happened": None, "answer": [DIGEST, "json", 1]},
    {"answer": [DIGEST, "json", 1]},
    {"answer": [DIGEST, "json", 1], "happened": [DIGEST, "json", 1]},
    {"answer": [DIGEST, "json", 1], "etag": None, "not_happened": "no"},
    {"unknown": "perhaps"},
    ["not_happened", "no"],
]


def test_these_would_read_if_they_were_right() -> None:
    """So that what follows fails for its own reason."""
    body = {"t": "finished", "v": 1, "error": None, "answer": [DIGEST, "json", 1]}
    assert decode(spelt(body)) == Finished(answer=Payload(DIGEST, Encoding.JSON, 1), error=None)
    happened = {"happened": [DIGEST, "json", 1], "etag": None}
    assert decode(spelt({"t": "settled", "v": 1, "intent": 1, "by": "ann", "outcome": happened}))
    declined = {"answer": [DIGEST, "bytes", 1], "not_happened": "no"}
    said = NotHappened("no", Payload(DIGEST, Encoding.BYTES, 1))
    read = decode(spelt({"t": "settled", "v": 1, "intent": 1, "by": "ann", "outcome": declined}))
    assert read == Settled(intent=1, by="ann", outcome=said)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_a_digest_an_encoding_and_a_size(payload: object) -> None:
    with pytest.raises(Corrupt, match=r"finished\.answer"):
        decode(spelt({"t": "finished", "v": 1, "error": None, "answer": payload}))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_says_one_thing(outcome: object) -> None:
    with pytest.raises(Corrupt, match=r"settled\.outcome"):
        decode(spelt({"t": "settled", "v": 1, "intent": 1, "by": "ann", "outcome": outcome}))


@pytest.mark.parametrize("kind", ["READ", "Read", "", "repeatable", None])
def test_a_kind_is_one_of_four(kind: object) -> None:
    body = json.loads(encode(intent()))
    with pytest.raises(Corrupt, match=r"intent\.kind"):
        decode(spelt({**body, "kind": kind}))


def test_the_bytes_of_a_record_are_those_of_the_format() -> None:
    assert encode(Cancelled(by="ann", reason="no")) == b'{"by":"ann","reason":"no","t":"cancelled","v":1}'
    seal = Seal(intent=3, tool="t", identity="00", n=0, args=None, outcome=Happened(ANSWER, None))
    assert encode(seal) == (
        b'{"args":null,"identity":"00","intent":3,"n":0,"outcome":{"etag":null,"happened":["'
        + b"b2" * 32
        + b'","json",7]},'
        b'"t":"seal","tool":"t","v":1}'
    )


def test_what_a_system_said_no_with_stands_in_its_outcome() -> None:
    seal = Seal(intent=3, tool="t", identity="00", n=0, args=None, outcome=NotHappened("no", ANSWER), capability="c1")
    assert encode(seal) == (
        b'{"args":null,"capability":"c1","identity":"00","intent":3,"n":0,"outcome":{"answer":["'
        + b"b2" * 32
        + b'","json",7],"not_happened":"no"},"t":"seal","tool":"t","v":1}'
    )


def test_the_parcels_of_a_checkpoint_are_pairs_of_a_tree_and_a_payload() -> None:
    parcels = (Parcel("c3" * 32, ANSWER),)
    made = Checkpoint(state=ANSWER, workspace="c3" * 32, services=(), labels=(), parcels=parcels)
    assert b'"parcels":[["' + b"c3" * 32 + b'",["' + b"b2" * 32 + b'","json",7]]],' in encode(made)
    assert decode(encode(made)) == made


@pytest.mark.parametrize("parcels", [[[DIGEST]], [["ab", [DIGEST, "json", 7]]], [[DIGEST, 7]], [{}], {}, ["a"]])
def test_what_is_no_list_of_parcels_is_corrupt(parcels: object) -> None:
    made = Checkpoint(state=ANSWER, workspace=None, services=(), labels=())
    with pytest.raises(Corrupt, match="parcels`: a"):
        decode(spelt({**json.loads(encode(made)), "parcels": parcels}))


@pytest.mark.parametrize("version", [0, 2, -1, 1.0, True, "1", None, 10**30])
def test_a_record_of_another_version_is_corrupt_and_says_so(version: object) -> None:
    with pytest.raises(Corrupt, match="version") as corrupt:
        decode(spelt({"by": "a", "reason": "b", "t": "cancelled", "v": version}))
    assert corrupt.value.fix


@pytest.mark.parametrize("name", ["unheard", "Cancelled", "record", "__init__", "", None, 7, ["cancelled"], {}])
def test_a_record_of_an_unknown_type_is_corrupt(name: object) -> None:
    with pytest.raises(Corrupt, match="type"):
        decode(spelt({"by": "a", "reason": "b", "t": name, "v": 1}))


SPELLINGS = [
    b'{ "by":"a","reason":"b","t":"cancelled","v":1}',
    b'{"by":"a","reason":"b","t":"cancelled","v":1}\n',
    b'\xef\xbb\xbf{"by":"a","reason":"b","t":"cancelled","v":1}',
    b'{"reason":"b","by":"a","t":"cancelled","v":1}',
    b'{"by":"x","by":"a","reason":"b","t":"cancelled","v":1}',
    b'{"by":"\\u0061","reason":"b","t":"cancelled","v":1}',
    b'{"by":"a","reason":"\\/","t":"cancelled","v":1}',
    b'{"by":"a","reason":"b","t":"cancelled","v":1e0}',
    '{"by":"a","reason":"b","t":"cancelled","v":1}'.encode("utf-16"),
    '{"by":"a","reason":"b","t":"cancelled","v":1}'.encode("utf-32-le"),
]


def test_a_record_has_one_spelling() -> None:
    assert decode(b'{"by":"a","reason":"b","t":"cancelled","v":1}') == Cancelled(by="a", reason="b")
    passed_over = []
    for body in SPELLINGS:
        try:
            passed_over.append(decode(body))
        except Corrupt:
            continue
    assert not passed_over


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"7", b'"cancelled"', b"{}", b"\xff", b"[" * 100_000, b'{"v":NaN}']
)
def test_what_is_no_record_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(body)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_but_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from(RECORDS), JSON, st.data())
def test_no_json_raises_anything_but_corrupt(kind: type[Record], value: object, data: st.DataObject) -> None:
    body = json.loads(encode(data.draw(built(kind))))
    body[data.draw(st.sampled_from(sorted(body)))] = value
    try:
        read = decode(spelt(body))
    except Corrupt:
        return
    assert encode(read) == spelt(body)


# --- nothing is written that could not be read ---


@pytest.mark.parametrize(
    "made",
    [
        Draw(name="now", n=-1, value=""),
        Draw(name="now", n=True, value=""),
        Draw(name="now", n=1.0, value=""),  # type: ignore[arg-type]
        Draw(name="now", n=0, value=None),  # type: ignore[arg-type]
        Draw(name=b"now", n=0, value=""),  # type: ignore[arg-type]
        Attempt(intent=None, number=2, why="doubt"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_could_not_be_read_is_not_written(made: Record) -> None:
    with pytest.raises(TypeError):
        encode(made)


def test_a_text_that_utf8_cannot_say_is_not_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode(Cancelled(by="\ud800", reason=""))


@pytest.mark.parametrize("half", [b"\xed\xa0\x80", b"\\ud800"])
def test_half_a_character_is_corrupt(half: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(b'{"by":"a","reason":"' + half + b'","t":"cancelled","v":1}')


def test_a_text_where_bytes_were_is_corrupt() -> None:
    """One flipped bit of a database makes it of a column's bytes."""
    with pytest.raises(Corrupt, match="not JSON"):
        decode("{}")  # type: ignore[arg-type]
