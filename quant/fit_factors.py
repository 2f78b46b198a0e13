"""By what predictions are corrected on one machine."""

from __future__ import annotations

import msgspec


class Factors(msgspec.Struct, frozen=True):
    """What predictions are multiplied by; 1: as predicted. `decode`, `prefill`: seconds; `base`: bytes that a loaded engine holds beside
    weights and cache; `memory`: bytes that prompts add."""

    decode: float = 1.0
    prefill: float = 1.0
    base: float = 1.0
    memory: float = 1.0


AS_PREDICTED = Factors()
