"""How fast a model runs on a machine: seconds to the first token and tokens a second, predicted. Pure.

Decoding reads every weight that a token uses, and the KV cache, once: seconds = bytes / the rate of memory or of the cores, whichever is
lower; and threads meet some twenty times in each layer. Prefill computes two operations for
every such weight, and four for every value of a query and token that it looks back at: seconds = operations / rate. Both are first
estimates, which `quant.calibrate` corrects with what was measured on this machine: how far a core comes depends on the format of the
weights, on the processor, and on what else runs.
"""

from __future__ import annotations

import msgspec

from quant.fit_card import Card, layer_bytes
from quant.fit_factors import AS_PREDICTED, Factors
from quant.fit_memory import Setup, cells
from quant.hardware import Machine

USUAL_HERTZ = 2.5e9
USUAL_BANDWIDTH = 8e9  # bytes a second of a core, where nothing was measured
PER_CYCLE = 8.0  # operations that quantised multiplications do in a core's cycle, measured on AVX2 and AVX-512 cores: 6 to 12
# Bytes of weights and of an F16 cache that one core works through in a cycle when a token is computed, where memory is not slower: measured
# on AVX2 cores with Q8_0, Q4_0 and Q4_K. A quantised cache took as long as an F16 one.
WEIGHTS_PER_CYCLE, CACHE_PER_CYCLE = 2.1, 0.44
LAYER_SECONDS = 200e-6  # of a token in a layer, for what grows with neither: threads that wait for each other (asleep, not spinning)
TOKEN_SECONDS = 200e-6  # of a token, for sampling and the way to the client
# A quantised cache is unpacked for every query (llama.cpp's CPU attention works in tiles on F16 only): the attention of a prompt took some
# four times the processor seconds.
SLOW_CACHE = 4.0
PLAIN = frozenset({"F16", "F32"})
SMALL = "small"


class Pace(msgspec.Struct, frozen=True):
    """`first`: seconds from a prompt of `prompt` new tokens to its first token; `decode`: tokens a second of one stream after it."""

    prompt: int
    first: float
    decode: float


def bandwidth(machine: Machine) -> float:
    """Bytes a second; what is usual where nothing was measured."""
    return machine.bandwidth or USUAL_BANDWIDTH * max(1, machine.cores)


def rate(machine: Machine) -> float:
    """Operations a second of a prefill."""
    return _cycles(machine) * PER_CYCLE


def reading(machine: Machine) -> float:
    """Bytes of weights a second, when tokens are computed one after the other."""
    return min(bandwidth(machine), _cycles(machine) * WEIGHTS_PER_CYCLE)


def _cycles(machine: Machine) -> float:
    """Of all cores, a second."""
    return max(1, machine.cores) * (machine.hertz or USUAL_HERTZ)


def token_seconds(card: Card, setup: Setup, behind: int, machine: Machine) -> float:
    """Seconds of one token with `behind` tokens in its slot."""
    seen = min(cells(behind), cells(setup.context))
    kept = sum(layer_bytes(each, min(seen, each.window or seen), "F16", "F16") + each.state for each in card.layers)
    back = min(bandwidth(machine), _cycles(machine) * CACHE_PER_CYCLE)
    return card.read_bytes / reading(machine) + kept / back + len(card.layers) * LAYER_SECONDS + TOKEN_SECONDS


def kind(card: Card, machine: Machine) -> str:
    """By what the speed of a model is corrected: the kind of its weights, or `SMALL` where reading them is next to nothing of what a token
    takes, so that it tells nothing of models of other sizes."""
    return card.quant if card.read_bytes / reading(machine) > (len(card.layers) * LAYER_SECONDS + TOKEN_SECONDS) / 3 else SMALL


def prompt_seconds(card: Card, setup: Setup, prompt: int, machine: Machine) -> float:
    """Seconds of the prefill of `prompt` tokens in an empty slot."""
    looked = sum(min(prompt / 2, each.window or prompt / 2) for each in card.layers if each.key)
    attention = 4.0 * card.query * looked * (1.0 if {setup.key, setup.value} <= PLAIN else SLOW_CACHE)
    operations = prompt * (2.0 * card.active + attention)
    return operations / rate(machine) + len(card.layers) * LAYER_SECONDS


def pace(card: Card, setup: Setup, prompt: int, machine: Machine, factors: Factors = AS_PREDICTED) -> Pace:
    """How fast one stream is when it is alone. `prompt` is cut to what a slot takes. Pure."""
    length = max(1, min(prompt, setup.context - 1))
    one = token_seconds(card, setup, length, machine) * factors.decode
    return Pace(length, prompt_seconds(card, setup, length, machine) * factors.prefill + one, 1.0 / one)
