"""How much memory a llama.cpp engine of ours takes, by part: predicted from a model's card and the engine's settings. Pure.

What is predicted is the resident memory of `backends.engines.child` after a prompt of the whole context in every slot. Formulas by part:

- weights: all tensors' bytes, pages of the mapped file (the kernel may drop them, but then decoding waits for the disk);
- repacked: a second copy, interleaved, of matrices whose type the machine computes that way (llama.cpp `ggml-cpu/repack.cpp`);
- cache: cells x layers x (K + V), of every slot (`llama-kv-cache.cpp`; exact); windowed layers keep window + batch cells;
- compute: what a prompt touches of the compute buffer (`fit_graph`);
- work: one batch's activations as the weights' type wants them (`ggml-cpu.c`: `ggml_graph_plan`);
- output: logits of one token for every slot; vocabulary: texts and hash tables of tokens and merges;
- prompts: what llama-server keeps of requests; copies: the KV of idle slots, which it copies into its prompt cache whenever another slot
  gets a task (`cache_idle_slots`);
- process: interpreter and libraries.

The constants of the last four were measured on x86-64 Linux with xllamacpp 2026.10 (tests/quant/fit_points.json).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from backends.engines import sizing
from backends.engines.gguf import BLOCKS
from quant import ggml
from quant.fit_card import Card, Layer, layer_bytes
from quant.fit_factors import Factors
from quant.fit_graph import Batch, Shape, touched

MIB = 1 << 20
# Which types llama.cpp keeps a second time, interleaved, by what the processor can do.
REPACKED: Mapping[str, frozenset[str]] = {
    "avx2": frozenset({"Q4_0", "Q4_K", "IQ4_NL"}),
    "dotprod": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL"}),
    "": frozenset(),
}
CACHE_KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
PROCESS = int(18.9 * MIB)  # anonymous, of an engine without a model
LIBRARIES = int(20.7 * MIB)  # pages of program files; other processes share them
TOKEN = 210  # bytes of one entry of the vocabulary
MERGE = 210  # and of one merge
PROMPT = 450  # bytes that are kept of one token of a prompt that came as JSON
STEP = sizing.STEP


class Setup(msgspec.Struct, frozen=True):
    """Settings of an engine. `context`: tokens of one slot; `key`, `value`: types of the cache; `embeds`: it has to embed texts too;
    `prompt_cache`: bytes of finished prompts that llama.cpp may keep; `batch`: tokens computed at once (0: our own choice)."""

    context: int
    slots: int = 4
    key: str = "F16"
    value: str = "F16"
    prompt_cache: int = 0
    batch: int = 0


class Parts(msgspec.Struct, frozen=True):
    """Bytes by part. `cache_limit` is how much the prompt cache may grow to; it is no part of `total`."""

    weights: int
    repacked: int
    cache: int
    compute: int
    work: int
    output: int
    vocabulary: int
    prompts: int
    copies: int
    process: int
    cache_limit: int = 0

    @property
    def total(self) -> int:
        """Resident bytes after a prompt of the whole context in every slot."""
        return sum(getattr(self, name) for name in SUMMED)

    @property
    def most(self) -> int:
        """Resident bytes when the prompt cache is full: what has to be there so that nothing is killed."""
        return self.total - self.copies + max(self.copies, self.cache_limit)

    @property
    def base(self) -> int:
        """Anonymous bytes of an engine that has loaded the model and has not been asked anything, beside cache and interleaved copies."""
        return self.vocabulary + self.process - LIBRARIES

    @property
    def prompted(self) -> int:
        """What prompts add, beside copies of the cache."""
        return self.compute + self.work + self.output + self.prompts

    def needs(self, factors: Factors) -> int:
        """`most`, corrected by what was measured on this machine."""
        return self.most + int(self.base * (factors.base - 1) + self.prompted * (factors.memory - 1))

    @property
    def anonymous(self) -> int:
        """What the kernel cannot drop: everything but pages of files."""
        return self.total - self.weights - LIBRARIES


SUMMED = ("weights", "repacked", "cache", "compute", "work", "output", "vocabulary", "prompts", "copies", "process")


def cells(context: int) -> int:
    """Cells that a slot of `context` tokens gets: a multiple of 256, as llama.cpp pads."""
    return -(-context // STEP) * STEP


def batch(card: Card, setup: Setup) -> int:
    """Tokens computed at once, as our engines choose it."""
    return setup.batch or sizing.batch(cells(setup.context), card.parameters, card.pooling not in ("", "none"), setup.slots)


def repacked(card: Card, features: str) -> int:
    """Bytes of the interleaved copies. Embeddings are looked up as they are, but are copied too where they are the output."""
    kinds = REPACKED.get(features, frozenset())
    return sum(
        each.bytes
        for each in card.matrices
        if each.kind in kinds and each.even and (each.place in ("matrix", "experts") or (each.place == "embedding" and card.tied))
    )


def cache(card: Card, setup: Setup) -> int:
    """Bytes of the KV cache (and of recurrent states) of all slots. Raises `GgmlError` where a type does not fit the rows."""
    return sum(setup.slots * _kept(card, layer, setup) for layer in card.layers)


def _kept(card: Card, layer: Layer, setup: Setup) -> int:
    count = cells(setup.context)
    if layer.window:
        count = min(count, cells(layer.window + batch(card, setup)))
    return layer_bytes(layer, count, setup.key, setup.value) + layer.state


def _compute(card: Card, setup: Setup) -> int:
    tokens = min(batch(card, setup), setup.context)
    every, used, width = card.experts
    inner = width if every and width else card.inner
    shared = max((layer.key for layer in card.layers), default=0)
    shape = Shape(len(card.layers), card.width, card.query, shared, inner, used if every else 1)
    return touched(shape, Batch(tokens, cells(setup.context), several=setup.context > tokens))


def _work(card: Card, setup: Setup) -> int:
    """The widest operand of a multiplication, one batch of it, in the type that goes with the weights' type: the blocks of 256 go with
    Q8_K (292 bytes), those of 32 with Q8_0 (34), halves with themselves; F32 needs nothing."""
    tokens = min(batch(card, setup), setup.context)
    rows = [each.columns * _partner(each.kind) for each in card.matrices if each.place in ("matrix", "experts")]
    return int(tokens * max(rows, default=0.0))


def _partner(kind: str) -> float:
    """Bytes of a value in the type that is multiplied with `kind` (ggml-cpu.c, `vec_dot_type`)."""
    block = BLOCKS[ggml.number(kind)][0]
    return {256: 292 / 256, 32: 34 / 32}.get(block, 2.0 if kind in ("F16", "BF16") else 0.0)


def predict(card: Card, setup: Setup, features: str = "avx2") -> Parts:
    """Memory by part. `features`: what the processor can do ("avx2", "dotprod" or ""). Pure; raises `GgmlError` for a type of the cache
    that the model's rows do not fit (`Card.takes` tells)."""
    kept = cache(card, setup)
    copies = kept * (setup.slots - 1) // setup.slots
    return Parts(
        weights=card.weights_bytes,
        repacked=repacked(card, features),
        cache=kept,
        compute=_compute(card, setup),
        work=_work(card, setup),
        output=setup.slots * (card.vocab + card.width) * 4,
        vocabulary=card.vocab * TOKEN + card.merges * MERGE,
        prompts=setup.slots * setup.context * PROMPT,
        copies=min(copies, setup.prompt_cache),
        process=PROCESS + LIBRARIES,
        cache_limit=setup.prompt_cache,
    )
