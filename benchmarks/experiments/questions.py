"""Questions with one right answer, for a small model: words backwards, words spelled, sums. Pure; the same for one seed."""

from __future__ import annotations

import random

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnprstvw"


def word(rng: random.Random) -> str:
    """Four to six syllables: a good small model gets most of them right, a bad one fewer."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.choice((4, 5, 6))))


def question(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    kind = rng.randrange(3)
    if kind == 0:
        text = word(rng)
        return f"Reverse: {text}", text[::-1]
    if kind == 1:
        text = word(rng)
        return f"Spell: {text}", "-".join(text)
    a, b = rng.randrange(1, 99), rng.randrange(1, 99)
    return f"What is {a} + {b}?", str(a + b)


def right(answer: str, wanted: str) -> bool:
    """Whether an answer is the one wanted, whatever its case and final stop."""
    return answer.strip().rstrip(".").lower() == wanted.lower()
