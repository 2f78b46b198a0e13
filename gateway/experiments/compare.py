"""How one answer compares with another: a cheap measure of their texts, and whether they call the same tools. Pure; a comparison of long
texts takes a few milliseconds at most, since only a bounded part of them is looked at."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

HALF = 4000  # characters: of a longer text its first and its last so many are compared
WORDS = 1000  # at most so many words of each are put beside each other in order
_WORD = re.compile(r"[^\W_]+|[^\w\s]")
_LIGHT = 0.15  # the weight of a word that any text has: short ones, and signs
Tool = tuple[str, str]  # name, arguments as JSON text


def alike(one: str, other: str) -> float | None:
    """How alike two texts are: 1 for equal ones (but for case, width of characters and white space), near 0 for texts that have nothing to
    do with each other. None: both are empty.

    The cosine between the bags of words, where short words and signs weigh little, times a factor between a half and 1 that says how much
    of the words comes in the same order (their longest common subsequence).
    """
    a, b = _words(one), _words(other)
    if not a and not b:
        return None
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    first, second = a[:WORDS], b[:WORDS]
    order = 2.0 * _common(first, second) / (len(first) + len(second))
    return _cosine(Counter(a), Counter(b)) * (0.5 + 0.5 * order)


def _words(text: str) -> list[str]:
    if len(text) > 2 * HALF:
        text = text[:HALF] + " " + text[-HALF:]
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    # Scripts without spaces: each character is a word, as no space says where one ends.
    return [part for word in found for part in (word if _spaceless(word[0]) else (word,))]


def _spaceless(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\u0e00" <= character <= "\u0eff" or "\u1000" <= character <= "\u109f"


def _weight(word: str) -> float:
    return 1.0 if len(word) > 3 or not word.isascii() or word.isdigit() else _LIGHT


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    # The logarithm of counts: one word said often is no more than one thing in common.
    left = {word: _weight(word) * (1.0 + math.log(count)) for word, count in a.items()}
    right = {word: _weight(word) * (1.0 + math.log(count)) for word, count in b.items()}
    dot = sum(weight * right[word] for word, weight in left.items() if word in right)
    norm = math.sqrt(sum(w * w for w in left.values()) * sum(w * w for w in right.values()))
    return min(1.0, dot / norm)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, by bits of one large number: one step a word of `b` (Hyyrö 2004, "Bit-parallel
    LCS-length computation revisited", section 3)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << i)
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hits = row & places.get(word, 0)
        if hits:
            row = ((row + hits) | (row - hits)) & full
    return len(a) - row.bit_count()


def same_tools(one: Sequence[Tool], other: Sequence[Tool]) -> bool | None:
    """Whether two answers call the same tools with the same arguments, as JSON values, in any order. None: neither calls any."""
    if not one and not other:
        return None
    return Counter(map(_called, one)) == Counter(map(_called, other))


def _called(tool: Tool) -> tuple[str, str]:
    name, arguments = tool
    try:
        return name, msgspec.json.encode(_plain(msgspec.json.decode(arguments or "{}")), order="sorted").decode()
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return name, "\0" + arguments  # no JSON: equal only to the very same text


def _plain(value: Any) -> Any:
    """The value with numbers in one form: 1.0 is 1."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
