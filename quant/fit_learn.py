"""What a gateway's engine turned out to be, compared with its prediction and kept for the machine, by the engine's spec. Blocks: it reads
the model's header and the file of what was measured, and writes that.

Every function returns a sentence for the log, "" where nothing could be learned, and raises `CalibrationError` where it cannot be kept.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from backends.engines.spec import EngineSpec
from quant import calibrate, fit_engine, fit_truth
from quant.calibrate import Book
from quant.fit_card import Card
from quant.fit_memory import MIB, Setup, predict
from quant.fit_speed import kind, token_seconds
from quant.fit_truth import Pace
from quant.hardware import Machine

Teach = Callable[[Book, Card, Setup, Machine], tuple[Book, str]]


# Settings that `fit_engine` knows of.
USUAL = frozenset({"cache_type_k", "cache_type_v", "n_ubatch", "cache_ram_mib"})


def usual(spec: EngineSpec) -> bool:
    """Whether an engine runs as it is predicted to: our own, with nothing beside its model nor among its arguments that changes what it
    takes. Pure."""
    beside = spec.lora or spec.projector or spec.draft
    return spec.kind == "llamacpp" and not beside and {item.partition("=")[0].strip() for item in spec.args} <= USUAL


def whole(spec: EngineSpec) -> bool:
    """Whether it has all cores, as far as its settings say. Pure."""
    return spec.threads is None and spec.replicas == 1 and not spec.nice


def memory(spec: EngineSpec, anonymous: int) -> str:
    """After an engine said how many anonymous bytes it holds, loaded and not asked anything yet."""

    def teach(book: Book, card: Card, setup: Setup, machine: Machine) -> tuple[Book, str]:
        parts, factor = predict(card, setup, machine.features), book.factors(kind(card, machine)).base
        said = parts.repacked + parts.cache + int(parts.base * factor)
        told = f"loaded, it holds {anonymous / MIB:.0f} MiB beside its file; predicted: {said / MIB:.0f}"
        return fit_truth.loaded(book, card, setup, machine, anonymous), told

    return _learned(spec, teach)


def speed(spec: EngineSpec, seen: Pace) -> str:
    """After requests that had an engine to themselves."""

    def teach(book: Book, card: Card, setup: Setup, machine: Machine) -> tuple[Book, str]:
        new = fit_truth.paced(book, card, setup, machine, seen)
        if not seen.token:
            return new, f"it computed {seen.prompt} tokens of prompts in {seen.prompt_seconds:.2f} s"
        length = max(1, min(seen.prompt, seen.depth, setup.context - 1))
        said = token_seconds(card, setup, length, machine) * book.factors(kind(card, machine)).decode
        return new, f"it wrote {1 / seen.token:.1f} tokens a second; predicted: {1 / said:.1f}"

    return _learned(spec, teach)


def _learned(spec: EngineSpec, teach: Teach) -> str:
    known = fit_engine.known(spec)
    if known is None:
        return ""
    card, setup, machine = known
    told: list[str] = []

    def change(book: Book) -> Book:
        new, said = teach(book, card, setup, msgspec.structs.replace(machine, bandwidth=book.bandwidth))
        told.append("" if new == book else said)
        return new

    calibrate.update(calibrate.place(), machine.fingerprint, change)
    return told[0]
