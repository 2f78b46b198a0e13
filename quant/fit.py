"""Which form of a model fits a machine, and which is best: from cards, a machine and a wish to options, a choice and its reasons. Pure.

An option is a quantisation with a context, a number of slots and types of the KV cache. It fits when its memory with a full prompt cache
is within the machine's budget. Of those that fit, the choice is first a quantisation that does little harm (KLD below 0.035), then the
context that is wanted, then everything else that is better. The harm that a quantisation does is what was measured for the model (its
label), or what llama.cpp publishes for Llama-3-8B (`tools/perplexity/README.md`), which is a guide, not a promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from backends.engines import sizing
from quant.fit_card import Card
from quant.fit_factors import Factors
from quant.fit_memory import MIB, Parts, Setup, predict
from quant.fit_speed import PLAIN, Pace, kind, pace
from quant.hardware import Machine

# Mean KLD against F16 (Llama-3-8B, without an importance matrix where both are published).
KLD: Mapping[str, float] = {
    "F32": 0.0, "BF16": 0.0006, "F16": 0.0006, "Q8_0": 0.0014, "Q6_K": 0.0055, "Q5_K_M": 0.0108, "Q5_K_S": 0.0166, "Q4_K_M": 0.0313,
    "Q4_K_S": 0.0320, "IQ4_XS": 0.0363, "Q4_0": 0.0719, "Q3_K_M": 0.1019, "IQ3_M": 0.1025, "IQ3_XXS": 0.1836, "Q3_K_S": 0.2282,
    "IQ2_M": 0.3260, "Q2_K": 0.4451, "IQ2_XXS": 0.8120, "IQ1_M": 1.3931,
}  # fmt: skip
# What a quantised cache adds (llama.cpp PR 7412 for q8_0; for 4 bits the order of the losses that users report).
CACHES: Mapping[tuple[str, str], float] = {("F16", "F16"): 0.0, ("Q8_0", "Q8_0"): 0.0008, ("Q8_0", "Q4_0"): 0.006, ("Q4_0", "Q4_0"): 0.02}
GOOD = 0.035
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
WANTED = 32_768  # tokens beyond which more context is no reason to choose anything, where nobody asked
PROMPT = 1000  # tokens of the prompt for which the time to the first token is told
SLOW = 4.0  # tokens a second: less than people read
MAX_CARDS = 64


class Candidate(msgspec.Struct, frozen=True):
    """A form that the model has or can be given. `how`: "here" (a file), "make" (quantised from one) or "fetch"; `kld`: measured."""

    card: Card
    how: str = "here"
    kld: float | None = None
    name: str = ""


class Wish(msgspec.Struct, frozen=True):
    """What is asked for. `context`: tokens a slot, None: as much as is useful; `cache`: types of K and V, None: whatever fits; `prompt`:
    tokens for which the first token is timed; `floor`: tokens a second that a stream must reach."""

    context: int | None = None
    slots: int = 4
    cache: tuple[str, str] | None = None
    prompt: int = PROMPT
    floor: float = SLOW


class Option(msgspec.Struct, frozen=True):
    """One way to run a model. `needs`: bytes with a full prompt cache; `kld`: expected harm, `told`: it was measured for this model."""

    quant: str
    how: str
    name: str
    setup: Setup
    parts: Parts
    pace: Pace
    kld: float
    told: bool
    needs: int
    fits: bool


class Answer(msgspec.Struct, frozen=True):
    """`best` is None when nothing fits; then `would` says what would, in sentences. `measured`: memory of such models was held against
    running engines."""

    budget: int
    best: Option | None
    runner_up: Option | None
    reasons: tuple[str, ...]
    would: tuple[str, ...]
    measured: bool
    options: tuple[Option, ...]


Correct = Callable[[str], Factors]


def none(name: str) -> Factors:
    """No correction, for no kind of model."""
    return Factors()


def harm(card: Card, measured: float | None = None) -> float:
    """Expected mean KLD of a card against its source: measured, published for its kind, or by its bits a weight between those published."""
    if measured is not None:
        return measured
    if card.quant in KLD:
        return KLD[card.quant]
    bits = 8 * card.weights_bytes / max(1, card.parameters)
    return min(2.0, 0.0313 * 2 ** (1.6 * (4.85 - bits))) if bits < 16 else 0.0006


def option(candidate: Candidate, setup: Setup, machine: Machine, wish: Wish, factors: Factors) -> Option:
    """One option, judged. Pure; raises `GgmlError` for a type of the cache that the model cannot take."""
    card = candidate.card
    parts = predict(card, setup, machine.features)
    needs = parts.needs(factors)
    measured = candidate.kld
    return Option(
        quant=card.quant or "unknown", how=candidate.how, name=candidate.name or card.name, setup=setup, parts=parts,
        pace=pace(card, setup, wish.prompt, machine, factors), kld=harm(card, measured) + CACHES.get((setup.key, setup.value), 0.0),
        told=measured is not None, needs=needs, fits=needs <= machine.budget,
    )  # fmt: skip


def contexts(card: Card, wish: Wish) -> list[int]:
    """The contexts that are tried: the one that is wished for, else all usual ones up to what the model was trained for."""
    if wish.context:
        return [wish.context]
    most = card.context or sizing.DEFAULT_CONTEXT
    return sorted({*(each for each in CONTEXTS if each < most), min(most, CONTEXTS[-1])})


def every(candidates: Iterable[Candidate], wish: Wish, machine: Machine, correct: Correct = none) -> list[Option]:
    """All options: every candidate with every context and every cache that the wish allows. Pure."""
    found = []
    limit = sizing.prompt_cache_mib(machine.available) * MIB
    for candidate in list(candidates)[:MAX_CARDS]:
        factors = correct(kind(candidate.card, machine))
        for context in contexts(candidate.card, wish):
            for key, value in [wish.cache] if wish.cache else CACHES:
                if candidate.card.takes(key, value):
                    setup = Setup(context, wish.slots, key, value, limit)
                    found.append(option(candidate, setup, machine, wish, factors))
    return found


def rank(one: Option, wish: Wish) -> tuple[float, ...]:
    """The larger, the better. A file that is here wins over an equal one that has to be made or fetched."""
    useful = min(one.setup.context, wish.context or WANTED)
    fast = min(one.pace.decode, wish.floor)
    bad = -max(one.kld, GOOD)
    return (fast, bad, useful, -one.kld, one.setup.context, float(one.how == "here"), -float(one.needs))


def answer(candidates: Sequence[Candidate], wish: Wish, machine: Machine, correct: Correct = none) -> Answer:
    """The best option and the runner-up (of another quantisation where there is one), with reasons; or what would fit. Pure."""
    options = sorted(every(candidates, wish, machine, correct), key=partial(rank, wish=wish), reverse=True)
    fitting = [each for each in options if each.fits]
    best = fitting[0] if fitting else None
    others = [each for each in fitting if best and each.quant != best.quant] or fitting[1:]
    second = others[0] if others else None
    reasons = tuple(_reasons(best, second, options, wish, machine)) if best else ()
    would = () if best else tuple(_would(candidates, options, wish, machine, correct))
    known = all(candidate.card.measured for candidate in candidates)
    return Answer(machine.budget, best, second, reasons, would, known, tuple(options))


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / (1 << 30):.2f} GiB" if number >= 1 << 30 else f"{number / MIB:.0f} MiB"


def figure(value: float) -> str:
    """A measured or estimated number with two digits that mean something, as people write it: 0.18, 3.5, 31, 740, 1,400. Pure."""
    if value <= 0 or value >= 1e15:
        return f"{value:g}"
    value = float(f"{value:.1e}")
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"


def called(one: Option) -> str:
    """An option in words."""
    return f"{one.quant}, {one.setup.context} tokens x {one.setup.slots} slots, KV {one.setup.key}/{one.setup.value}"


def _reasons(best: Option, second: Option | None, options: Sequence[Option], wish: Wish, machine: Machine) -> Iterable[str]:
    yield f"It needs {size(best.needs)} of {size(machine.budget)} that may be used ({size(machine.reserve)} are left to others)."
    source = "measured for this model" if best.told else "published for Llama-3-8B, a guide"
    yield f"Expected harm of {best.quant}: mean KLD {best.kld:.4f} ({source})."
    better = min((each for each in options if each.kld < best.kld and not each.fits), key=lambda each: each.needs, default=None)
    if better is not None:
        yield f"{called(better)} would do less harm, but needs {size(better.needs)}."
    if best.pace.decode < wish.floor:
        yield f"At {best.pace.decode:.1f} tokens a second it is slow; a smaller model would be faster."
    if {best.setup.key, best.setup.value} - PLAIN:
        yield "Its quantised KV cache saves memory; on a processor long prompts take longer with it than with F16."
    if second is not None:
        yield f"Runner-up: {called(second)}: {_difference(best, second)}."


def _difference(best: Option, second: Option) -> str:
    """What one has over the other."""
    said = []
    if second.needs < best.needs:
        said.append(f"{size(best.needs - second.needs)} smaller")
    if second.pace.decode > best.pace.decode * 1.02:
        said.append(f"{second.pace.decode / best.pace.decode - 1:.0%} faster")
    if second.kld > best.kld:
        said.append(f"KLD {second.kld:.4f} instead of {best.kld:.4f}")
    if second.setup.context != best.setup.context:
        said.append(f"{second.setup.context} tokens of context")
    return ", ".join(said) or "otherwise alike"


def _would(candidates: Sequence[Candidate], options: Sequence[Option], wish: Wish, machine: Machine, correct: Correct) -> Iterable[str]:
    """What to do when nothing fits: the least that was asked for, and the nearest wishes that can be met."""
    if not options:
        yield "No type of KV cache fits the rows of this model; leave its types to us."
        return
    least = min(options, key=lambda each: each.needs)
    yield f"The least that was asked for, {called(least)}, needs {size(least.needs)}; {size(machine.budget)} may be used."
    tries = [
        msgspec.structs.replace(wish, cache=None),
        msgspec.structs.replace(wish, cache=None, slots=1),
        *(
            msgspec.structs.replace(wish, cache=None, slots=slots, context=context)
            for slots in (wish.slots, 1)
            for context in _smaller(wish)
        ),
    ]
    for each in tries:
        found = [one for one in every(candidates, each, machine, correct) if one.fits]
        if found:
            yield f"This would fit: {called(max(found, key=partial(rank, wish=each)))}."
            return
    smallest = min((each.card for each in candidates), key=lambda card: card.weights_bytes)
    short = max(0, least.needs - machine.budget)
    yield (
        f"No form of {smallest.name} that is known here fits, whatever its context: free {size(max(short, MIB))}, or choose a smaller "
        f"model or quantisation (its weights alone take {size(smallest.weights_bytes)})."
    )


def _smaller(wish: Wish) -> list[int]:
    """Contexts below the one that was wished for, the largest first."""
    return [each for each in reversed(CONTEXTS) if each < (wish.context or math.inf)]
