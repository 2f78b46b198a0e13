"""From what was measured of each text to figures with intervals. Pure.

Tokens of one text are alike, so the texts are what is drawn: a figure is a sum over texts divided by their tokens, and its interval is
that of a ratio of sums over clusters (Cochran, "Sampling Techniques", 3rd ed., 6.4), with Student's t for their number less one.
Shares of questions have Wilson's interval (JASA 22, 1927).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import msgspec

from quant.evaluate_jobs import Figures

LEVEL = 0.95  # of every interval


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; None where there is too little for one."""

    value: float
    low: float | None = None
    high: float | None = None


class Scores(msgspec.Struct, frozen=True):
    """What a model's reading of some texts says about it. KLD in nats a token, from the source's distribution to the model's. `same`:
    share of tokens where both have the same first choice. `flips`: share where just one of both has the text's own token as its first
    choice. `ratio`: the model's perplexity by the source's. `moved`: the root of the mean square of how much the text's token's probability
    changed. Without a source everything that compares is None."""

    texts: int
    tokens: int
    perplexity: Estimate
    source_perplexity: Estimate | None = None
    ratio: Estimate | None = None
    kld: Estimate | None = None
    kld_99: float | None = None
    kld_worst: float | None = None
    worst_text: str | None = None
    same: Estimate | None = None
    flips: Estimate | None = None
    moved: float | None = None


class TaskScores(msgspec.Struct, frozen=True):
    """How many questions were `asked`, what share was `right`, of the source too, and what share changed between right and wrong."""

    asked: int
    right: Estimate
    source_right: Estimate | None = None
    flips: Estimate | None = None


def t_quantile(p: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, then Abramowitz and Stegun 26.7.5 (off by less than 0.1 % at p = 0.975)."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z, v = NormalDist().inv_cdf(p), float(freedom)
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return z + sum(terms)


def ratio(sums: Sequence[float], counts: Sequence[int], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """All of `sums` by all of `counts`, one of each a text; the interval is cut at `low` and `high`. There must be a count above 0."""
    total, number = sum(counts), len(counts)
    value = math.fsum(sums) / total
    if number < 2:
        return Estimate(value)
    squares = math.fsum((part - value * count) ** 2 for part, count in zip(sums, counts, strict=True))
    reach = t_quantile(0.5 + LEVEL / 2, number - 1) * math.sqrt(squares * number / (number - 1)) / total
    return Estimate(value, max(low, value - reach), min(high, value + reach))


def share(part: int, of: int) -> Estimate:
    """A share of independent questions, with Wilson's interval."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    value = part / of
    middle = (value + z * z / (2 * of)) / (1 + z * z / of)
    reach = z / (1 + z * z / of) * math.sqrt(value * (1 - value) / of + z * z / (4 * of * of))
    return Estimate(value, max(0.0, middle - reach) if part else 0.0, min(1.0, middle + reach) if part < of else 1.0)


def _exp(estimate: Estimate) -> Estimate:
    """A perplexity from a mean loss."""

    def up(value: float | None) -> float | None:
        return None if value is None else math.exp(min(value, 700.0))

    return Estimate(math.exp(min(estimate.value, 700.0)), up(estimate.low), up(estimate.high))


def scores(found: Sequence[Figures], compared: bool) -> Scores | None:
    """Of a model. `compared`: with a source. None where no text had two tokens."""
    read = [figures for figures in found if figures.tokens]
    if not read:
        return None
    counts = [figures.tokens for figures in read]

    def mean(of: Callable[[Figures], float], low: float = -math.inf, high: float = math.inf) -> Estimate:
        return ratio([of(figures) for figures in read], counts, low, high)

    perplexity = _exp(mean(lambda f: f.loss))
    if not compared:
        return Scores(len(read), sum(counts), perplexity)
    places = [len(figures.kld) for figures in read]
    every = sorted(value for figures in read for value in figures.kld)
    worst = max(read, key=lambda f: math.fsum(f.kld) / len(f.kld))
    return Scores(
        texts=len(read), tokens=sum(places), perplexity=perplexity, source_perplexity=_exp(mean(lambda f: f.source_loss)),
        ratio=_exp(mean(lambda f: f.loss - f.source_loss)), kld=ratio([math.fsum(f.kld) for f in read], places, 0.0),
        kld_99=every[min(len(every) - 1, len(every) * 99 // 100)], kld_worst=every[-1], worst_text=worst.name,
        same=ratio([f.same for f in read], places, 0.0, 1.0), flips=mean(lambda f: f.flips, 0.0, 1.0),
        moved=math.sqrt(math.fsum(f.moved for f in read) / sum(counts)),
    )  # fmt: skip


def of_the_source(found: Sequence[Figures]) -> Scores | None:
    """The source's own perplexity, by what it said while another was compared with it."""
    return scores([msgspec.structs.replace(figures, loss=figures.source_loss) for figures in found], compared=False)


def task_scores(right: Sequence[bool], source: Sequence[bool] | None) -> TaskScores | None:
    """Of the same questions, asked of a model and of its source."""
    if not right:
        return None
    made = TaskScores(len(right), share(sum(right), len(right)))
    if source is None:
        return made
    flips = sum(one != other for one, other in zip(right, source, strict=True))
    return TaskScores(made.asked, made.right, share(sum(source), len(source)), share(flips, len(right)))
