"""Random payloads for the toy model's data, with a hold-out by hash so that training never sees an evaluation payload."""

import random
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from .words import CITIES, NAMES, WORDS

HELD_OUT_SHARE = 8
"""One payload in this many (words, number pairs) is kept for evaluation."""

_T = TypeVar("_T")
_ONSETS = "b c d f g h j k l m n p r s t v w y z bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sk sl sm sn sp st str th tr wh".split()
_NUCLEI = "a e i o u a e i o u ai ea ee ie oa oo ou y".split()
_CODAS = ["", "", "", *"b d g k l m n p r s t x ck ff ll ss nd ng nk nt rd rk rm rn rt sh st th".split()]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_KEEP_TRYING = 1000


def held_out(payload: str) -> bool:
    """Whether a word (or a pair such as ``"12+7"``) belongs to evaluation; case does not matter."""
    return zlib.crc32(b"pointsman:" + payload.strip().lower().encode()) % HELD_OUT_SHARE == 0


class Sampler:
    """Draws payloads from one side of the hold-out.

    Args:
        rng: the source of randomness (seeded by the caller, so that data are reproducible).
        evaluation: True draws only held-out payloads, False only the others.
        prefixes: word beginnings that the tokenizer joins into one token; training words start with one now and then so
            that the model learns how each is spelled.
        taught: words exempt from the hold-out (training may draw them, evaluation never does): the instruction words, which the
            tokenizer knows whole, so that nothing but training can tell how they are spelled.
        prefix_share: how many of the words start with a prefix or are taught ones.
    """

    def __init__(
        self,
        rng: random.Random,
        evaluation: bool = False,
        prefixes: Sequence[str] = (),
        taught: Collection[str] = (),
        prefix_share: float = 0.1,
    ) -> None:
        self.rng = rng
        self.evaluation = evaluation
        self.prefixes = list(prefixes)
        self.taught = sorted(taught)
        self._exempt = frozenset(taught)
        self.prefix_share = prefix_share

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[_T]) -> _T:
        """One item, uniformly."""
        return items[int(self.rng.random() * len(items))]

    def _mine(self, draw: Callable[[], str]) -> str:
        for _ in range(_KEEP_TRYING):
            text = draw()
            if (held_out(text) and text.lower() not in self._exempt) == self.evaluation:
                return text
        raise RuntimeError("no payload on this side of the hold-out")

    def _invented(self) -> str:
        kind = self.rng.random()
        if kind < 0.6:
            return "".join(self.pick(_ONSETS) + self.pick(_NUCLEI) + self.pick(_CODAS) for _ in range(self.pick((1, 1, 2, 2, 2, 3))))
        length = self.rng.randint(2, 9)
        letters = _LETTERS if kind < 0.8 or self.evaluation else self.rng.sample(_LETTERS, 3)
        return "".join(self.pick(letters) for _ in range(length))

    def _word(self) -> str:
        kind = self.rng.random()
        if kind < (0.6 if self.evaluation else 0.4):
            return self.pick(WORDS)
        if kind < 0.4 + self.prefix_share and self.prefixes:
            if self.taught and self.chance(0.3):
                return self.pick(self.taught)
            return self.pick(self.prefixes) + (self._invented() if self.chance(0.5) else self.pick(_LETTERS))
        return self._invented()

    def word(self, longest: int = 12) -> str:
        """A lower-case word of 2 to ``longest`` letters: real ones and invented ones."""
        return self._mine(lambda: self._bounded(longest))

    def _bounded(self, longest: int) -> str:
        while True:
            word = self._word()
            if 2 <= len(word) <= longest:
                return word

    def words(self, low: int, high: int) -> str:
        """``low`` to ``high`` words joined by spaces; not held out only when each word is not."""
        return " ".join(self.word(9) for _ in range(self.rng.randint(low, high)))

    def name(self) -> str:
        """A first name in lower case (or an invented one)."""
        return self._mine(lambda: self.pick(NAMES) if self.chance(0.5) else self._bounded(8))

    def city(self) -> str:
        """A city, capitalised; some are invented."""
        return self._mine(lambda: self.pick(CITIES) if self.chance(0.6) else self._bounded(9).capitalize())

    def number(self) -> int:
        """An integer of 1 to 4 digits, small ones more often (never held out by itself)."""
        return self.rng.randrange(self.pick((10, 100, 100, 1000, 10000)))

    def pair(self) -> tuple[int, int]:
        """Two summands of one or two digits each."""
        for _ in range(_KEEP_TRYING):
            a, b = self.rng.randrange(self.pick((10, 100, 100))), self.rng.randrange(self.pick((10, 100, 100)))
            if held_out(f"{a}+{b}") == self.evaluation:
                return a, b
        raise RuntimeError("no pair on this side of the hold-out")
