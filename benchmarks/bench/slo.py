"""Service levels: what a good request keeps, from the command line's text, and levels that others have set. Pure.

A limit counts from when the schedule wanted the request sent, where there is a schedule: who waits does not care on which side of the
socket. `tpot` is the mean gap of one answer (GuideLLM calls this inter-token latency), `itl` its longest gap by token.
"""

from __future__ import annotations

import math

import msgspec

from benchmarks.bench.errors import BenchError
from benchmarks.bench.times import first_after, gaps, output_tokens, tpot, whole_after
from benchmarks.bench.words import Slo, Timed

_LIMITS = ("ttft", "tpot", "itl", "e2e")
_LONGEST = 3_600_000.0  # milliseconds; more is a slip of the unit
_MLPERF = "MLPerf Inference rules (mlcommons/inference_policies, inference_rules.adoc at ac93e89), 99 % of requests"
_GUIDELLM = "GuideLLM, docs/guides/service_level_objectives.md, 99 % of requests"


class Preset(msgspec.Struct, frozen=True):
    """A level, and where it comes from."""

    slo: Slo
    source: str


def _mlperf(name: str, ttft: float, tpot: float) -> Preset:
    return Preset(Slo(name, ttft=ttft / 1000, tpot=tpot / 1000), _MLPERF)


def _guidellm(name: str, *, ttft: float | None = None, tpot: float | None = None, e2e: float | None = None) -> Preset:
    return Preset(Slo(name, ttft=_seconds(ttft), tpot=_seconds(tpot), e2e=_seconds(e2e)), _GUIDELLM)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


PRESETS: dict[str, Preset] = {
    preset.slo.name: preset
    for preset in (
        _mlperf("llama-3.1-8b-server", 2000, 100),
        _mlperf("llama-3.1-8b-interactive", 500, 30),
        _mlperf("llama-2-70b-server", 2000, 200),
        _mlperf("llama-2-70b-interactive", 450, 40),
        _mlperf("llama-3.1-405b-server", 6000, 175),
        _mlperf("llama-3.1-405b-interactive", 4500, 80),
        _mlperf("gpt-oss-120b-server", 3000, 80),
        _mlperf("gpt-oss-120b-interactive", 2000, 20),
        _mlperf("deepseek-r1-server", 2000, 80),
        _mlperf("deepseek-r1-interactive", 1500, 15),
        _guidellm("chat", ttft=200, tpot=50),
        _guidellm("rag", ttft=300, tpot=100, e2e=3000),
        _guidellm("agent", e2e=5000),
        _guidellm("content", ttft=600, tpot=200),
        _guidellm("code", ttft=500, tpot=150),
        _guidellm("code-completion", e2e=2000),
    )
}


def parse(text: str) -> Slo:
    """`ttft:500,tpot:30` in milliseconds (also itl, e2e, and share:0.95 of requests), or a preset's name. Raises BenchError."""
    text = text.strip()
    if text.lower() in PRESETS:
        return PRESETS[text.lower()].slo
    if ":" not in text:
        raise BenchError(f"--slo {text!r} is neither limits (ttft:500,tpot:30, in ms) nor one of {', '.join(PRESETS)}", usage=True)
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition(":")
        if name not in (*_LIMITS, "share"):
            raise BenchError(f"--slo {text!r}: {name!r} is no limit; there are {', '.join(_LIMITS)} in milliseconds, and share", usage=True)
        if name in found:
            raise BenchError(f"--slo {text!r}: {name} is given twice; give it once", usage=True)
        found[name] = _share(text, value) if name == "share" else _limit(text, name, value)
    if not found.keys() & set(_LIMITS):
        raise BenchError(f"--slo {text!r} limits nothing; add one of {', '.join(_LIMITS)}, as in ttft:500", usage=True)
    return Slo(text, **found)


def _limit(text: str, name: str, value: str) -> float:
    number = _number(value)
    if number is None or not 0 < number <= _LONGEST:
        raise BenchError(f"--slo {text!r}: {name} is in milliseconds, above 0 and at most an hour, not {value!r}", usage=True)
    return number / 1000


def _share(text: str, value: str) -> float:
    number = _number(value)
    if number is None or not 0 < number <= 1:
        raise BenchError(f"--slo {text!r}: share is of requests that must keep the limits, as in share:0.99, not {value!r}", usage=True)
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def describe(slo: Slo) -> str:
    """The level in words: `TTFT <= 500 ms and TPOT <= 30 ms for 99 % of requests`."""
    limits = [(name, getattr(slo, name)) for name in _LIMITS]
    kept = " and ".join(f"{name.upper()} <= {limit * 1000:g} ms" for name, limit in limits if limit is not None)
    return f"{kept} for {slo.share * 100:g} % of requests"


def keeps(slo: Slo, timed: Timed) -> bool:
    """Whether a request was answered whole and within every limit. A limit that cannot be checked (TTFT of an answer without content, TPOT
    of one that came in one piece or whose tokens are not known) is not kept; TPOT and ITL do not apply to answers of one token or none."""
    if not timed.good:
        return False
    if slo.ttft is not None and not _within(first_after(timed), slo.ttft):
        return False
    if slo.e2e is not None and not _within(whole_after(timed), slo.e2e):
        return False
    tokens = output_tokens(timed)
    if tokens is not None and tokens < 2:
        return True
    if slo.tpot is not None and not _within(tpot(timed), slo.tpot):
        return False
    return slo.itl is None or _within(max((gap for gap, _ in gaps(timed)), default=None), slo.itl)


def _within(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
