"""What an engine that runs teaches about predictions: its memory when it has loaded, and how fast it was. Pure.

Seconds are compared as they were predicted without any correction, bytes by part: weights, cache and interleaved copies are certain; what
a loaded engine holds beside them (`Factors.base`) and what prompts add (`Factors.memory`) is corrected.
"""

from __future__ import annotations

import re

import msgspec

from quant.calibrate import Book, learn
from quant.fit_card import Card
from quant.fit_memory import Parts, Setup, predict
from quant.fit_speed import kind, prompt_seconds, token_seconds
from quant.hardware import Machine

TOKENS = 16  # answered, and
PROMPT = 64  # computed of prompts: less says nothing
SHARED = 1.05  # requests at once, on average, from which on a request is not alone
STEP = 1e-4  # of a counter: what moved by less says little, since they are told with six digits
_FIGURE = re.compile(r"^llamacpp:(\w+) ([0-9.eE+-]+)$", re.M)


class Truth(msgspec.Struct, frozen=True):
    """What was seen after a prompt in every slot: bytes (0 where the system does not tell), tokens, and seconds of the best slot. `loaded`:
    anonymous bytes before the first prompt."""

    resident: int
    anonymous: int
    prompt: int
    first: float
    decode: float
    loaded: int = 0


class Counters(msgspec.Struct, frozen=True):
    """What llama.cpp's server counts from its start (`GET /metrics`): tokens computed of prompts and answered, seconds of each, calls of
    `llama_decode`, and the sum over these of requests they were for. `depth`: most tokens that a slot ever held. `working`: requests that
    are under way or wait; what is under way is counted in part."""

    prompt: float
    prompt_seconds: float
    tokens: float
    token_seconds: float
    calls: float
    busy: float
    depth: float
    working: float


class Pace(msgspec.Struct, frozen=True):
    """How fast requests were that had the engine to themselves. `prompt`: tokens computed in `prompt_seconds`, of prompts of `depth` tokens
    at most; `token`: seconds of one. 0.0: too few to tell."""

    prompt: int
    prompt_seconds: float
    token: float
    depth: int


def counters(text: str) -> Counters | None:
    """Reads the metrics of llama.cpp's server (Prometheus' text format; llama.cpp, tools/server/README.md, `GET /metrics`); None where one
    is missing. Pure."""
    found = {name: float(value) for name, value in _FIGURE.findall(text)}
    try:
        calls = found["n_decode_total"]
        return Counters(
            found["prompt_tokens_total"], found["prompt_seconds_total"], found["tokens_predicted_total"],
            found["tokens_predicted_seconds_total"], calls, found["n_busy_slots_per_decode"] * calls, found["n_tokens_max"],
            found["requests_processing"] + found["requests_deferred"],
        )  # fmt: skip
    except KeyError:
        return None


def alone(before: Counters, after: Counters) -> Pace | None:
    """How fast the requests between two looks at an engine at rest were, with 0.0 for what were too few. None: nothing is to be told of
    them, since they shared the engine, guessed tokens ahead, found most of their prompts in its cache (what they looked back at was not
    computed with them), or are lost in what was counted before. Pure."""
    calls, tokens, prompt = after.calls - before.calls, after.tokens - before.tokens, int(after.prompt - before.prompt)
    if calls < 0 or after.busy - before.busy > SHARED * calls or tokens > calls:
        return None
    if after.depth > 1.25 * prompt + tokens + PROMPT:
        return None
    writing, reading = after.token_seconds - before.token_seconds, after.prompt_seconds - before.prompt_seconds
    if (tokens >= TOKENS and writing <= STEP * after.token_seconds) or (prompt >= PROMPT and reading <= STEP * after.prompt_seconds):
        return None
    return Pace(prompt, reading if prompt >= PROMPT else 0.0, writing / tokens if tokens >= TOKENS else 0.0, int(after.depth))


def paced(book: Book, card: Card, setup: Setup, machine: Machine, seen: Pace) -> Book:
    """The book after a pace. Several prompts are compared as so many of the longest. Pure."""
    name, length = kind(card, machine), max(1, min(seen.prompt, seen.depth, setup.context - 1))
    book = learn(book, name, "decode", token_seconds(card, setup, length, machine), seen.token)
    said = prompt_seconds(card, setup, length, machine) * seen.prompt / length
    return learn(book, name, "prefill", said, seen.prompt_seconds)


def loaded(book: Book, card: Card, setup: Setup, machine: Machine, anonymous: int) -> Book:
    """The book after the anonymous bytes of an engine that was just loaded and has not been asked anything. Pure."""
    parts = predict(card, setup, machine.features)
    return learn(book, kind(card, machine), "base", parts.base, anonymous - parts.repacked - parts.cache)


def taught(book: Book, card: Card, setup: Setup, machine: Machine, truth: Truth, *, memory: bool = True) -> Book:
    """The book after a truth. `memory`: the prompts were as long as the context, so that memory can be compared. Pure."""
    token = 1 / truth.decode
    book = paced(book, card, setup, machine, Pace(truth.prompt, truth.first - token, token, truth.prompt))
    if truth.loaded:
        book = loaded(book, card, setup, machine, truth.loaded)
    if not memory or not truth.anonymous:
        return book
    return _filled(book, kind(card, machine), predict(card, setup, machine.features), truth.anonymous)


def _filled(book: Book, name: str, parts: Parts, anonymous: int) -> Book:
    """After an engine's anonymous bytes with a prompt in every slot: what is beyond those of a loaded one."""
    before = parts.repacked + parts.cache + parts.copies + int(parts.base * book.factors(name).base)
    return learn(book, name, "memory", parts.prompted, anonymous - before)
