"""Two rows of logits compared: how far the second distribution is from the first, and what both say of the token that really follows.

ggml does the sums (softmax in 32 bits, sums in 64), a few rows at a time in memory that is used again. With p the first distribution, a and
b the logits: KL(p‖q) = Σ p·(a − b) − lse(a) + lse(b), where lse(a) = a[top] − log p[top]. Equal rows give exactly 0; the error of
others is some 10⁻⁶. Blocks; not thread-safe.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from quant.evaluate_llama import Library, LlamaError, declared

STEP = 8  # rows at a time: 30 MB with a vocabulary of 152,000
_OBJECTS = 1 << 20  # bytes for what describes tensors, the graph and the threads' scratch, beside the rows
_P, _L = ctypes.c_void_p, ctypes.c_int64
_F32 = 0


class _Init(ctypes.Structure):
    """ggml.h, `struct ggml_init_params`."""

    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_P, (_Init,)),
    "ggml_free": (None, (_P,)),
    "ggml_new_tensor_2d": (_P, (_P, ctypes.c_int, _L, _L)),
    "ggml_get_data": (_P, (_P,)),
    "ggml_soft_max": (_P, (_P, _P)),
    "ggml_argmax": (_P, (_P, _P)),
    "ggml_sub": (_P, (_P, _P, _P)),
    "ggml_mul": (_P, (_P, _P, _P)),
    "ggml_sum_rows": (_P, (_P, _P)),
    "ggml_new_graph": (_P, (_P,)),
    "ggml_build_forward_expand": (None, (_P, _P)),
    "ggml_graph_compute_with_ctx": (ctypes.c_int, (_P, _P, ctypes.c_int)),
}


class Row(msgspec.Struct, frozen=True):
    """One position. `kld`: nats. `loss`, `source_loss`: nats, of the token that follows. `top`, `source_top`: the likeliest tokens."""

    kld: float
    source_loss: float
    loss: float
    source_top: int
    top: int


class Rows:
    """Compares rows of `vocab` logits. Raises `LlamaError` where the library lacks what is needed, or logits are no numbers."""

    def __init__(self, library: Library, vocab: int, threads: int) -> None:
        self._call = declared(library.dll, _FUNCTIONS)
        self._vocab, self._threads = vocab, threads
        self._buffer = ctypes.create_string_buffer(6 * STEP * (vocab + 64) * 4 + _OBJECTS + threads * (vocab + 64) * 4)

    def compare(self, source: Sequence[int], other: Sequence[int], follows: Sequence[int]) -> list[Row]:
        """`source`, `other`: addresses of rows of logits. `follows`: the token after each."""
        made: list[Row] = []
        for at in range(0, len(follows), STEP):
            made += self._some(source[at : at + STEP], other[at : at + STEP], follows[at : at + STEP])
        return made

    def _some(self, source: Sequence[int], other: Sequence[int], follows: Sequence[int]) -> list[Row]:
        call, count = self._call, len(follows)
        context = call["ggml_init"](_Init(len(self._buffer), ctypes.addressof(self._buffer), False))
        if not context:
            raise LlamaError("ggml makes no context.")
        try:
            a, b = (call["ggml_new_tensor_2d"](context, _F32, self._vocab, count) for _ in range(2))
            for tensor, rows in ((a, source), (b, other)):
                start = call["ggml_get_data"](tensor)
                for at, row in enumerate(rows):
                    ctypes.memmove(start + at * self._vocab * 4, row, self._vocab * 4)
            p, q = call["ggml_soft_max"](context, a), call["ggml_soft_max"](context, b)
            tops = call["ggml_argmax"](context, a), call["ggml_argmax"](context, b)
            cross = call["ggml_sum_rows"](context, call["ggml_mul"](context, p, call["ggml_sub"](context, a, b)))
            graph = call["ggml_new_graph"](context)
            for end in (cross, q, *tops):
                call["ggml_build_forward_expand"](graph, end)
            if status := call["ggml_graph_compute_with_ctx"](context, graph, self._threads):
                raise LlamaError(f"ggml cannot compare logits (status {status}).")
            floats = [
                self._view(tensor, ctypes.c_float, size) for tensor, size in zip((a, b, p, q, cross), self._sizes(count), strict=True)
            ]
            whole = [self._view(tensor, ctypes.c_int32, count) for tensor in tops]
            return [self._row(at, follows[at], floats, whole) for at in range(count)]
        finally:
            call["ggml_free"](context)

    def _sizes(self, count: int) -> tuple[int, ...]:
        return (count * self._vocab,) * 4 + (count,)

    def _view(self, tensor: int, kind: Any, count: int) -> Any:
        return (kind * count).from_address(self._call["ggml_get_data"](tensor))

    def _row(self, at: int, follows: int, floats: Sequence[Any], whole: Sequence[Any]) -> Row:
        a, b, p, q, cross = floats
        start, (source_top, top) = at * self._vocab, (int(tops[at]) for tops in whole)
        masses = p[start + source_top], q[start + top]
        # softmax of what is no number has no greatest element; the greatest of a true one is at least 1 / vocab
        if not (math.isfinite(cross[at]) and min(masses) > 0.5 / self._vocab):
            raise LlamaError("the logits are no numbers")
        source_sum = a[start + source_top] - math.log(masses[0])
        other_sum = b[start + top] - math.log(masses[1])
        kld = max(0.0, cross[at] - source_sum + other_sum)
        return Row(kld, source_sum - a[start + follows], other_sum - b[start + follows], source_top, top)
