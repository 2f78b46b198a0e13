"""Prompts of a wanted number of tokens: English-like sentences of common words, the same for the same seed, salt and key.

How many tokens a word has differs between models, so it is measured on the server first (`calibrate`): a text of u words (a full stop is
one) and c characters is taken to have o + a * u + b * c tokens, where o are those of the chat template. Tokenizers of today know our words
whole (a = 1, b = 0); one that knows letters alone has a = 0, b = 1.

Texts are generated between requests that are being timed, so that is made cheap: whole sentences are drawn from a pool of 2,048. Each
text begins with six words drawn one by one, so that two texts share k words of their beginning once in 900^k: a prefix cache gains
nothing by them.
"""

from __future__ import annotations

import copy
import math
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from hashlib import shake_128
from itertools import accumulate
from struct import unpack
from urllib.parse import urlsplit

import msgspec

from benchmarks.bench.bodies import body
from benchmarks.bench.errors import BenchError
from benchmarks.bench.vocabulary import WORDS
from benchmarks.bench.words import Target, Timed

MOST = 1 << 24  # tokens of one text
_SENTENCES = 2048
_OPENING = 6  # words that are drawn one by one
_TAIL = 64  # words that the last, partial sentence may have: more than any whole one
_SHORTEST, _LONGEST = 5, 12  # words in a sentence
# Characters a word, with the space or the stop behind it, over sentences.
_MEAN = (sum(len(word) + 1 for word in WORDS) / len(WORDS) * (_SHORTEST + _LONGEST) / 2 + 1) / ((_SHORTEST + _LONGEST) / 2 + 1)

AskUsage = Callable[[str], Awaitable[int | None]]  # a text -> tokens of a prompt that is just this text; None: not told
Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]  # URL, JSON -> status (0: no answer), body


class Calibration(msgspec.Struct, frozen=True):
    """What a server's tokenizer makes of our words. `per_token`: words a token, full stops counted as words; `per_letter`: by how many
    tokens a word of one character more is longer; `offset`: tokens around a prompt (chat template, beginning of text). `source`: who
    counted, `tokenize`, `usage` or `guess`."""

    per_token: float = 1.0
    per_letter: float = 0.0
    offset: int = 0
    source: str = "guess"

    def texts(self, seed: int, salt: str) -> Texts:
        """Texts for this server."""
        return Texts(seed, salt, self.per_token, per_letter=self.per_letter, offset=self.offset)


class Texts:
    """Texts by key. `per_token`, `per_letter`, `offset`: see `Calibration`. Texts of different seeds, salts or keys have no beginning in
    common. Not mutated after it is made; every thread may use it."""

    def __init__(self, seed: int, salt: str, per_token: float, *, per_letter: float = 0.0, offset: int = 0) -> None:
        if not (0 < per_token < math.inf and 0 <= per_letter * _MEAN <= 1 / per_token + 1e-9):
            raise BenchError(f"{per_token:g} words a token and {per_letter:g} tokens a letter are no calibration")
        self.seed, self.salt, self.offset = seed, salt, offset
        self._letter = per_letter
        self._word = max(0.0, 1 / per_token - per_letter * _MEAN)
        pool = _pool(seed)
        self._sentences = [text for text, _ in pool]
        self._costs = [self.cost(words, len(text) + 1) for text, words in pool]  # with the space behind it
        self._least = min(self._costs)

    def cost(self, words: int, letters: int) -> float:
        """Tokens that a text of so many words and characters is expected to have, without those around the prompt."""
        return self._word * words + self._letter * letters

    def part(self, name: object) -> Texts:
        """The same with another salt, made of this one and `name`."""
        other = copy.copy(self)
        other.salt = repr((self.salt, name))
        return other

    def text(self, tokens: int, *, key: object) -> str:
        """A text of about `tokens` tokens, empty for none. `key`: strings, numbers and tuples of them. Raises `BenchError` for more than
        `MOST` tokens."""
        if tokens > MOST:
            raise BenchError(f"a text of {tokens:,} tokens is too long; ask for at most {MOST:,}", usage=True)
        if tokens < 1:
            return ""
        count = int(tokens / self._least) + 1
        size = _OPENING + _TAIL + count
        drawn = unpack(f"<{size}H", shake_128(repr((self.seed, self.salt, key)).encode()).digest(2 * size))
        opening, spent = self._words(drawn[:_OPENING], tokens)
        chosen = [number % _SENTENCES for number in drawn[_OPENING : _OPENING + count]]
        sums = list(accumulate(map(self._costs.__getitem__, chosen), initial=spent))
        whole = bisect_right(sums, tokens) - 1
        if whole < 0:  # the opening alone is long enough
            return opening
        tail, _ = self._words(drawn[_OPENING + count :], tokens - sums[whole])
        return " ".join(filter(None, (opening, *map(self._sentences.__getitem__, chosen[:whole]), tail)))

    def _words(self, drawn: Iterable[int], tokens: float) -> tuple[str, float]:
        """As many words of those drawn as make `tokens`, to the nearest; and what they come to."""
        words: list[str] = []
        spent = 0.0
        for number in drawn:
            word = WORDS[number * len(WORDS) >> 16]
            cost = self.cost(1, len(word) + 1)
            if tokens - spent < cost / 2:
                break
            words.append(word if words else word.capitalize())
            spent += cost
        return " ".join(words), spent


@lru_cache(4)
def _pool(seed: int) -> list[tuple[str, int]]:
    """Sentences with their words' number. Every word comes equally often."""
    rng = random.Random(f"sentences {seed}")
    left: list[str] = []
    pool = []
    for _ in range(_SENTENCES):
        length = rng.randint(_SHORTEST, _LONGEST)
        if len(left) < length:
            left += rng.sample(WORDS, len(WORDS))
        words, left = left[:length], left[length:]
        pool.append((" ".join(words).capitalize() + ".", length + 1))
    return pool


# -- how many words make a token on a server ----------------------------------------------------------------------------------------------


async def calibrate(target: Target, post: Post) -> Calibration:
    """Asks the target what its tokens are: its `/tokenize` where it has one (nothing is computed then), and two or three short requests
    otherwise. Awaits the answers; raises nothing of its own: where nothing is told, it is a guess."""

    async def usage(text: str) -> int | None:
        for most in (1, 16):  # some servers answer no less than 16 tokens
            short = body(msgspec.structs.replace(target, stream=False), text, most)
            status, answer = await post(f"{target.url.rstrip('/')}/{_PATHS[target.api]}", short)
            if 200 <= status < 300:
                return _told(answer, "usage", "prompt_tokens")
        return None

    async def tokenize(text: str) -> int | None:
        status, answer = await post(tokenize_url(target), tokenize_body(target, text))
        return _counted(answer) if status == 200 else None

    return await words_per_token(usage, tokenize)


_PATHS = {"chat": "chat/completions", "completions": "completions"}


async def words_per_token(ask_usage: AskUsage, tokenize: AskUsage | None = None) -> Calibration:
    """What the tokenizer behind the two makes of our words. `ask_usage` counts a prompt with its template, `tokenize` the text alone.

    A short and a longer text give tokens a word (the slope) and those of the template (where the line begins), one of long words what a
    letter adds. `tokenize` is asked for every word of ours, as it costs no computing; `ask_usage` for a quarter of them.
    """
    short = _probe(1)
    if tokenize is not None and (first := await tokenize(short[0])):
        found = await _fitted(tokenize, first, short, (len(WORDS), 256), "tokenize")
        if found is not None:
            whole = await ask_usage(short[0])
            return msgspec.structs.replace(found, offset=max(0, whole - first) if whole is not None else 0)
    if first := await ask_usage(short[0]):
        found = await _fitted(ask_usage, first, short, (256, 64), "usage")
        if found is not None:
            return found
    return Calibration()


async def _fitted(ask: AskUsage, first: int, short: tuple[str, int], sizes: Iterable[int], source: str) -> Calibration | None:
    """The plane through three counts. `first`: of the short text; `sizes`: words of the longer one, the next where one is too long for the
    model. None where what is told cannot be a count."""
    count = None
    for size in sizes:
        long = _probe(size)
        if (count := await ask(long[0])) is not None:
            break
    wide = _wide()
    words, letters = long[1] - short[1], len(long[0]) - len(short[0])
    if count is None or not 0.05 <= (count - first) / words <= 20:
        return None
    tokens = count - first
    more = await ask(wide[0])
    letter = 0.0
    if more is not None:
        words2, letters2 = wide[1] - short[1], len(wide[0]) - len(short[0])
        letter = (words * (more - first) - words2 * tokens) / (words * letters2 - words2 * letters)
        letter = min(max(0.0, letter), tokens / letters)
    word = max(0.0, (tokens - letter * letters) / words)
    offset = max(0, round(first - word * short[1] - letter * len(short[0])))
    mean = word + letter * _MEAN
    return Calibration(1 / mean, min(letter, mean / _MEAN), offset, source)


def _probe(words: int) -> tuple[str, int]:
    """Sentences of at least so many words, each word once before any comes again; and how many words, stops counted."""
    texts: list[str] = []
    count = 0
    for text, size in _pool(0):
        texts.append(text)
        count += size
        if count >= words:
            break
    return " ".join(texts), count


def _wide() -> tuple[str, int]:
    """The 96 longest words as one sentence; and how many words, the stop counted."""
    words = sorted(sorted(WORDS), key=len)[-96:]
    return " ".join(words).capitalize() + ".", len(words) + 1


def tokenize_url(target: Target) -> str:
    """Where vLLM, SGLang, llama.cpp's server and Pointsman count tokens: at the root, not below /v1."""
    parts = urlsplit(target.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}/tokenize"


def tokenize_body(target: Target, text: str) -> bytes:
    """A text alone to be counted, in the words of vLLM (`prompt`, `add_special_tokens`) and of llama.cpp (`content`, `add_special`) at
    once: each leaves the other's aside."""
    fields = {"model": target.model, "prompt": text, "content": text, "add_special_tokens": False, "add_special": False}
    return msgspec.json.encode(fields)


def _counted(answer: bytes) -> int | None:
    """Tokens in an answer to `tokenize_body`."""
    if (count := _told(answer, "count")) is not None:
        return count
    try:
        tokens = msgspec.json.decode(answer).get("tokens")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        return None
    return len(tokens) if isinstance(tokens, list) else None


def _told(answer: bytes, *path: str) -> int | None:
    """A whole number in a JSON document; None where there is none."""
    try:
        value = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if type(value) is int and 0 <= value <= MOST else None


def on_target(timed: Iterable[Timed], within: float = 0.1) -> float | None:
    """The share of prompts whose tokens, as the server counted them, are within this share of what was aimed at. None: not told, or nothing
    was aimed at. Pure."""
    told = [(each.prompt_tokens, each.asked_prompt) for each in timed if each.prompt_tokens is not None and each.asked_prompt > 0]
    return sum(abs(count - asked) <= within * asked for count, asked in told) / len(told) if told else None
