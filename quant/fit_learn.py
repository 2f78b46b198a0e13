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


def memory(spec: EngineSpec, anonymous: int) -> str:
    """After an engine said how many anonymous bytes it holds, loaded and not asked anything yet."""
    if spec.lora or spec.projector or spec.draft:
        return ""  # they are in these bytes too

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
        length = max(1, min(seen.prompt, setup.context - 1))
        said = token_seconds(card, setup, length, machine) * book.factors(kind(card, machine)).decode
        return new, f"it wrote {1 / seen.token:.1f} tokens a second; predicted: {1 / said:.1f}"

    return _learned(spec, teach)


def _learned(spec: EngineSpec, teach: Teach) -> str:
    known = fit_engine.known(spec)
    if known is None:
        return ""
    card, setup, machine = known
    book = calibrate.load(calibrate.place(), machine.fingerprint)
    new, told = teach(book, card, setup, msgspec.structs.replace(machine, bandwidth=book.bandwidth))
    if new == book:
        return ""
    calibrate.save(calibrate.place(), new)
    return told
