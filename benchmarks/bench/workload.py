"""What is sent in a stage: one request after the other, each made when it is asked for.

Everything follows from the seed: lengths and times from the generator that `asks` is given, texts from theirs (`prompts.Texts`). Give each
stage texts of its own (`Texts.part`), or a cache of the server answers for the stage before. Pure, but for the file that a trace is read
from, line by line.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.bench import bodies, traces
from benchmarks.bench.arrivals import due_times, endless
from benchmarks.bench.captures import MOST, Line
from benchmarks.bench.errors import BenchError
from benchmarks.bench.prompts import Texts
from benchmarks.bench.traces import BLOCK, Counts, Cut
from benchmarks.bench.words import Ask, Profile, Target

_MARK = 8  # tokens before a captured prompt that make it new to caches
_BLOCKS = 2048  # texts of a trace's blocks that are kept for the next prompts with them


class Length(msgspec.Struct, frozen=True):
    """How many tokens: `fixed` (a), `uniform` (from a to b, both included), or `lognormal` with the mean a and the standard deviation b."""

    kind: Literal["fixed", "uniform", "lognormal"]
    a: float
    b: float = 0.0

    def draw(self, rng: random.Random) -> int:
        """One length, at least 1. Of a lognormal distribution with mean m and deviation d the logarithm has the variance
        ln(1 + d²/m²) and the mean ln(m) - variance/2."""
        if self.kind == "uniform":
            return rng.randint(int(self.a), int(self.b))
        if self.kind == "fixed" or not self.b:
            return int(self.a)
        variance = math.log1p((self.b / self.a) ** 2)
        return min(MOST, max(1, round(rng.lognormvariate(math.log(self.a) - variance / 2, math.sqrt(variance)))))


_LENGTH = re.compile(r"([0-9]{1,8})(?:([-:])([0-9]{1,8}))?")


def parse_length(text: str) -> Length:
    """`N`, `N-M` (uniform) or `MEAN:DEVIATION` (lognormal). Raises `BenchError`."""
    match = _LENGTH.fullmatch(text.strip())
    if match:
        a, b = int(match[1]), int(match[3] or 0)
        if 1 <= a <= MOST and b <= MOST and (match[2] != "-" or a <= b):
            return Length({None: "fixed", "-": "uniform", ":": "lognormal"}[match[2]], a, b)  # type: ignore[arg-type]
    raise BenchError(f"a length of {text[:40]!r} tokens is not known; write N, N-M (any between) or MEAN:DEVIATION (lognormal)", usage=True)


class Lengths(msgspec.Struct, frozen=True):
    """Tokens of prompts (`input`, with the chat template's) and of answers. `prefix`: so many more at the start of each prompt, the same
    for all of its group, of `groups`. `most`: of prompt (prefix included) and answer together, prompts are cut to
    it: what a model's context holds."""

    input: Length
    output: Length
    prefix: int = 0
    groups: int = 1
    most: int | None = None


class Workload:
    """The requests for one target.

    `exact`, `continuous`, `greedy`: see `bodies.body`. `cut`: which lines of a trace are taken. `fresh`: captured prompts get a few words
    of the stage's texts in front, the same for all, so that they share with each other what they shared, and nothing with the stage
    before; without it they are sent as they were. `counts`: what became of the lines that were read so far, of the latest `asks`.
    """

    def __init__(
        self, target: Target, shape: Lengths, texts: Texts, *, exact: bool, continuous: bool, greedy: bool = True,
        cut: Cut | None = None, fresh: bool = True,
    ) -> None:  # fmt: skip
        if shape.prefix < 0 or shape.prefix > MOST or shape.groups < 1:
            raise BenchError(
                f"a prefix of {shape.prefix} tokens in {shape.groups} groups is none; write 0 or more, in 1 or more", usage=True
            )
        self.target, self.shape, self.texts = target, shape, texts
        self.exact, self.continuous, self.greedy = exact, continuous, greedy
        self.cut, self.fresh = cut or Cut(), fresh
        self.counts = Counts()

    def asks(self, profile: Profile, count: int | None, rng: random.Random) -> Iterator[Ask]:
        """Requests in the order they are due: `count` of them, or without an end (None), or until the trace ends. With a rate and a count
        the last one is due at count/rate. Raises `BenchError`, also later, when a line of a trace is reached that is at fault."""
        arrivals, sizes = random.Random(rng.getrandbits(64)), random.Random(rng.getrandbits(64))
        self.counts = Counts()
        dues = _dues(profile, count, arrivals)
        if profile.source:
            return islice(self._replayed(profile, dues), count)
        if profile.name in ("trace", "capture"):
            raise BenchError(f"the profile {profile.name} needs a file; write {profile.name}=FILE", usage=True)
        return islice(self._made(dues or repeat(0.0), sizes), count)

    def _made(self, dues: Iterator[float], rng: random.Random) -> Iterator[Ask]:
        shape, texts = self.shape, self.texts
        prefixes = lru_cache(64)(lambda group: texts.text(shape.prefix, key=("prefix", group)))
        for index, due in enumerate(dues):
            size, output, group = shape.input.draw(rng), shape.output.draw(rng), rng.randrange(shape.groups)
            if shape.most is not None and shape.prefix + size + output > shape.most:
                size = max(1, shape.most - shape.prefix - output)
                self.counts.clipped += 1
            self.counts.taken += 1
            own = texts.text(max(1, size - texts.offset), key=("prompt", index))
            prompt = f"{prefixes(group)} {own}" if shape.prefix else own
            yield self._ask(index, prompt, shape.prefix + size, output, due)

    def _replayed(self, profile: Profile, dues: Iterator[float] | None) -> Iterator[Ask]:
        path = Path(profile.source)
        mark = self.texts.text(_MARK, key="run") + "\n\n" if self.fresh else ""
        blocks = lru_cache(_BLOCKS)(lambda id: self.texts.text(BLOCK, key=("block", id)))
        for index, line in enumerate(traces.lines(path, self.cut, self.counts)):
            if dues is None and not line.timed and profile.name in ("trace", "capture"):
                raise BenchError(f'{path.name} has no times to replay; give each line "at" in seconds, or send its requests at a rate')
            due = next(dues, None) if dues is not None else self._time(line, profile)
            if due is None:
                return
            if line.body is None:
                size, output = max(1, line.input_tokens), max(1, line.output_tokens)
                prompt = self._text(index, line, max(1, size - self.texts.offset), blocks)
                yield self._ask(index, prompt, size, output, due, line.number)
                continue
            try:
                body = bodies.replayed(
                    self.target, line.body, line.output_tokens, mark=mark, exact=self.exact, continuous=self.continuous
                )  # fmt: skip
            except ValueError as error:
                raise BenchError(f"line {line.number} of {path.name} {error}", usage=True) from None
            yield Ask(index, body, line.input_tokens, line.output_tokens, due, line.headers, line.number)

    def _time(self, line: Line, profile: Profile) -> float:
        return line.at / profile.speed if profile.name in ("trace", "capture") else 0.0

    def _text(self, index: int, line: Line, tokens: int, blocks: Callable[[int], str]) -> str:
        """The prompt of a line: equal beginnings by blocks are equal texts. What the chat template takes is taken from the end."""
        parts = []
        for id in line.blocks:
            if tokens <= 0:
                break
            parts.append(blocks(id) if tokens >= BLOCK else self.texts.text(tokens, key=("block", id)))
            tokens -= BLOCK
        if tokens > 0:
            parts.append(self.texts.text(tokens, key=("prompt", index)))
        return " ".join(parts)

    def _ask(self, index: int, prompt: str, size: int, output: int, due: float, origin: int = -1) -> Ask:
        body = bodies.body(
            self.target, prompt, output, exact=self.exact, continuous=self.continuous, seed=self.texts.seed, greedy=self.greedy
        )  # fmt: skip
        return Ask(index, body, size, output, due, origin=origin)


def _dues(profile: Profile, count: int | None, rng: random.Random) -> Iterator[float] | None:
    """When requests are due, where the profile says how many a second; None where the file says when, or all are sent as others end."""
    if not (profile.speed > 0 and math.isfinite(profile.speed)):
        raise BenchError(f"a trace cannot be replayed {profile.speed:g} times as fast; write a number above 0", usage=True)
    if profile.name != "rate" and not (profile.name == "sweep" and profile.value):
        return None
    return iter(due_times(profile.value, profile.shape, count, rng)) if count is not None else endless(profile.value, profile.shape, rng)
