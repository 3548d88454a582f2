"""Canonical JSON against RFC 8785's own vectors, its laws, and what it refuses."""

import enum
import json
import math
import random
import re
import struct
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.core.canonical import DEPTH_MAX, JSON, Uncanonical, canonical

# RFC 8785, Appendix B: the bits of a double, and its text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# RFC 8785, §3.2.2 (input) and §3.2.4 (output, in hexadecimal).
SAMPLE = r"""
{
  "numbers": [333333333.33333329, 1E30, 4.50,
              2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}
"""
SAMPLE_HEX = """
7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72
75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a
5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31
65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37
5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30
30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d
"""

# RFC 8785, §3.2.3: the input, and the order of its values in the output.
KEYS = r"""
{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}
"""
KEYS_IN_ORDER = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]


def double(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_a_double_is_written_as_in_the_rfc(bits: str, text: str) -> None:
    assert canonical(double(bits)) == text.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_what_the_rfc_calls_an_error_is_refused(bits: str) -> None:
    with pytest.raises(Uncanonical):
        canonical(double(bits))


def test_the_sample_of_the_rfc_gives_its_bytes() -> None:
    assert canonical(json.loads(SAMPLE)) == bytes.fromhex(SAMPLE_HEX)


def test_keys_are_ordered_by_utf_16_code_units_as_in_the_rfc() -> None:
    written = canonical(json.loads(KEYS))
    assert list(json.loads(written).values()) == KEYS_IN_ORDER


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**53 + 1, "9007199254740993"),
        (2**64 + 1, "18446744073709551617"),
        (-(2**64) - 1, "-18446744073709551617"),
        (10**21, "1" + "0" * 21),
        (1e21, "1e+21"),
        (1.0, "1"),
        (-1.0, "-1"),
        (True, "true"),
        (1, "1"),
        (None, "null"),
        ("\x00\x1f\x7f\u2028/\\", '"\\u0000\\u001f\x7f\u2028/\\\\"'),
        ({}, "{}"),
        ([], "[]"),
        ((1, (2,)), "[1,[2]]"),
        ({"": {"b": [], "a": {}}}, '{"":{"a":{},"b":[]}}'),
    ],
)
def test_one_value_has_one_text(value: JSON, text: str) -> None:
    assert canonical(value) == text.encode()


@pytest.mark.parametrize("exponent", [639, 640, 4299, 4300, 5000, 20_000])
def test_an_integer_of_thousands_of_digits_is_exact(exponent: int) -> None:
    limit = sys.get_int_max_str_digits()
    assert canonical(10**exponent) == b"1" + b"0" * exponent
    assert canonical(1 - 10**exponent) == b"-" + b"9" * exponent
    assert sys.get_int_max_str_digits() == limit


def test_an_integer_is_exact_under_the_lowest_limit_that_python_allows() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(sys.int_info.str_digits_check_threshold)
    try:
        assert canonical([10**5000 + 7]) == b"[1" + b"0" * 4999 + b"7]"
    finally:
        sys.set_int_max_str_digits(limit)


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Apart(str):
    """Text that equals only itself."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Tenth(float):
    def __repr__(self) -> str:
        return "0.1"


class Counted(dict[str, JSON]):
    pass


def test_a_subclass_is_written_as_its_base_value() -> None:
    value: JSON = {Colour.RED: [Level.HIGH, Colour.RED, Loud("x"), Tenth(2.5)], "a": Counted(b=1)}
    assert canonical(value) == b'{"a":{"b":1},"red":[3,"red","x",2.5]}'


def loop() -> JSON:
    itself: list[JSON] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        (math.nan, "the top", "nan is not a number"),
        ({"a": [1, {"b c": -math.inf}]}, "`a[1]['b c']`", "-inf is not a number"),
        ({"lines": [{"price": "\ud800"}]}, "`lines[0].price`", "a lone surrogate (U+D800)"),
        ("\ud83d\ude00", "the top", "a lone surrogate (U+D83D)"),
        ({"a": {"\udc00": 1}}, "`a`", "a key holds a lone surrogate (U+DC00)"),
        ({1: 2}, "the top", "the key `1` is not text"),
        ({"a": 1, None: 2}, "the top", "the key `None` is not text"),
        ({"a": 1, ("a", "b"): 2}, "the top", "is not text"),
        ({"a": {1, 2}}, "`a`", "`set` is no type of JSON"),
        ([b"raw"], "`[0]`", "`bytes` is no type of JSON"),
        ({"a": [0, object()]}, "`a[1]`", "`object` is no type of JSON"),
        ({Apart("k"): 1, Apart("k"): 2}, "the top", "two keys have the same text"),
        (loop(), "[0][0]", f"nested more than {DEPTH_MAX} deep"),
    ],
)
def test_a_refusal_says_where_and_why(value: JSON, where: str, why: str) -> None:
    with pytest.raises(Uncanonical) as refusal:
        canonical(value)
    first, fix = str(refusal.value).split("\n")
    assert first.endswith((f"at {where}", f"{where}`"))
    assert why in first
    assert fix.startswith("  fix: ")
    assert len(str(refusal.value)) < 300


def nested(depth: int, *, by_key: bool) -> JSON:
    value: JSON = 1
    for _ in range(depth):
        value = {"a": value} if by_key else [value]
    return value


@pytest.mark.parametrize("by_key", [True, False])
def test_nesting_is_bounded(by_key: bool) -> None:
    canonical(nested(DEPTH_MAX, by_key=by_key))
    with pytest.raises(Uncanonical):
        canonical(nested(DEPTH_MAX + 1, by_key=by_key))


def test_a_path_of_any_length_stays_readable() -> None:
    with pytest.raises(Uncanonical) as refusal:
        canonical({"k" * 10_000: {"\n" * 10_000: math.nan}})
    assert len(str(refusal.value)) < 300


# --- laws ---

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


def shortest(value: float) -> str:
    """Number::toString by its definition: the fewest digits that give the number back, the nearest of them."""
    if value == 0:
        return "0"
    exact = abs(Decimal(value))
    for k in range(1, 18):
        ends = [Context(prec=k, rounding=way).plus(exact) for way in (ROUND_FLOOR, ROUND_CEILING)]
        fits = [end for end in ends if float(end) == abs(value)]
        if fits:
            break
    chosen = min(fits, key=lambda end: (abs(end - exact), end.as_tuple().digits[-1] % 2)).normalize()
    digits, n = "".join(map(str, chosen.as_tuple().digits)), chosen.adjusted() + 1
    return ("-" if value < 0 else "") + laid_out(digits, n)


def laid_out(digits: str, n: int) -> str:
    """`0.digits` times ten to the `n`, as ECMA-262 lays it out."""
    k = len(digits)
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    return digits[0] + ("." + digits[1:] if k > 1 else "") + f"e{'+' if n > 0 else '-'}{abs(n - 1)}"


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(2.0**-24)
@example(2.0**-44)
@example(1e-6)
@example(1e-7)
@example(123456789012345680000.0)
@example(1e16)
@example(-1.5e300)
def test_a_double_has_the_shortest_text_that_gives_it_back(value: float) -> None:
    text = canonical(value).decode()
    assert text == shortest(value)
    assert float(text) == value


@given(values)
def test_the_value_comes_back(value: JSON) -> None:
    """Python holds 1 == 1.0 and 0 == -0.0, which is exactly what canonical JSON does not tell apart."""
    assert json.loads(canonical(value), parse_float=float) == as_parsed(value)


def as_parsed(value: JSON) -> JSON:
    """`value` after its whole floats have become what their text says: 1e+21 stays a float, 1e20 is an integer."""
    if isinstance(value, float):
        return json.loads(shortest(value))
    if isinstance(value, dict):
        return {key: as_parsed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_parsed(item) for item in value]
    return value


@given(values)
def test_writing_what_was_read_changes_nothing(value: JSON) -> None:
    written = canonical(value)
    assert canonical(json.loads(written)) == written


@given(st.dictionaries(texts, values), st.randoms())
def test_the_order_of_insertion_does_not_show(value: dict[str, JSON], dice: random.Random) -> None:
    items = list(value.items())
    dice.shuffle(items)
    assert canonical(dict(items)) == canonical(value)


@given(st.dictionaries(texts, st.none()))
def test_keys_stand_in_the_order_of_their_utf_16_code_units(value: dict[str, JSON]) -> None:
    keys = list(json.loads(canonical(value)))
    assert keys == sorted(keys, key=lambda key: list(struct.iter_unpack(">H", key.encode("utf-16-be"))))


@given(values)
def test_there_is_no_white_space_outside_texts(value: JSON) -> None:
    outside = re.sub(rb'"(\\.|[^"\\])*"', b'""', canonical(value))
    assert not re.search(rb"\s", outside)
