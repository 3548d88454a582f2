"""Text as agents and their tools write it: English sentences with names, numbers and dates, never twice the same.

Random bytes would not compress, one byte repeated would compress to nothing: both would make the figures lie. A
kilobyte of this compresses about as well as a kilobyte of a manual (docs/performance.md has the comparison).
"""

from __future__ import annotations

import mmap
import random
from pathlib import Path

_COMMON = (
    "the of and to in is was for that on with as it by be are from at this have an or which had not but all were "
    "when we there can been has more if no out so said what up its about into than them only other time new some "
    "could these two may first then do any like my now over such our man me even most made after also did many "
    "off before must well back through years much where your way down should because long each just state those "
    "people too little good world make very year still see own work here get between both life being under three "
    "never know same last another while us might great go day against come right used take states himself few "
    "house use during without again place around however small found part"
).split()
_TRADE = (
    "order invoice account payment customer shipment warehouse delivery address contract request server network "
    "address subnet instance database table column record backup migration region volume balance refund ticket "
    "message reply meeting report deadline budget estimate supplier product price discount quantity carrier "
    "tracking number reference department approval question answer summary document page section paragraph "
    "schedule booking flight hotel passenger policy claim damage repair confirm confirmed cancel cancelled "
    "received sent shipped delayed expected required missing available complete pending created updated removed "
    "checked attached enclosed forwarded according immediately approximately currently separately unfortunately "
    "therefore although regarding concerning including excluding previous following original remaining several"
).split()
_NAMES = "Ana Ruiz Jonas Weber Mei Lin Omar Haddad Priya Nair Tomasz Nowak Grace Okafor Lars Holm Yuki Tanaka".split()
_MONTHS = "January February March April May June July August September October November December".split()

SPAN = 1400  # characters from one step's text to the next
ARGUMENT = 260  # characters: with their names and the number, the arguments of a step are 300 bytes of JSON
ANSWER = 1000


def write(path: Path, size_bytes: int) -> None:
    """Write `size_bytes` of text, the same on every machine."""
    draw = random.Random(77)
    parts: list[str] = []
    size = 0
    while size < size_bytes:
        part = _sentence(draw)
        parts.append(part)
        size += len(part)
    path.write_text("".join(parts)[:size_bytes], encoding="ascii")


def _sentence(draw: random.Random) -> str:
    words = [draw.choice(_COMMON if draw.random() < 0.55 else _TRADE) for _ in range(draw.randint(6, 19))]
    place = draw.randrange(len(words))
    match draw.randrange(5):
        case 0:
            words[place] = f"{draw.choice(_NAMES)} {draw.choice(_NAMES)}"
        case 1:
            words[place] = f"{draw.randint(1, 28)} {draw.choice(_MONTHS)}"
        case 2:
            words[place] = f"{draw.randint(10, 9999)}.{draw.randint(0, 99):02} EUR"
        case 3:
            words[place] = f"no. {draw.randint(10_000, 9_999_999)}"
        case _:
            words[place] += ","
    text = " ".join(words)
    return text[0].upper() + text[1:] + draw.choice(". . . . ? ; :".split()) + " "


class Texts:
    """The texts of numbered steps, cut from one long text: a step has no other's."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _cut(self, number: int, offset: int, size: int) -> str:
        start = number * SPAN + offset
        laps, start = divmod(start, len(self._text) - SPAN)
        start = (start + 11 * laps) % (len(self._text) - SPAN)
        return self._text[start : start + size].decode("ascii")

    def argument(self, number: int) -> str:
        """What the step is given (ARGUMENT characters)."""
        return self._cut(number, 0, ARGUMENT)

    def answer(self, number: int) -> str:
        """What it returns (ANSWER characters)."""
        return self._cut(number, ARGUMENT, ANSWER)
