"""How much of llama.cpp's compute buffer a prompt touches: its graph of one batch, placed by its allocator, both in small.

The buffer that llama.cpp reserves (and prints) is for a batch in which every token is an output, so it holds a row of logits for each. A
prompt needs one row only, and the pages of the others are never touched: what is resident is what the graph of a *prompt* spans. So that
graph is placed here as llama.cpp places it: tensors in the order in which they are computed, each into the smallest hole that takes it,
freed after their last reader, and sums and rotations in place of their operand (ggml, `ggml-alloc.c`: `ggml_gallocr_alloc_graph_impl`;
llama.cpp, `llama-graph.cpp`: `build_attn`, `build_ffn`). Held against measured points in `tests/quant/test_fit_memory.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

_ALIGN = 64  # bytes, ggml's CPU buffers
_LAYERS = 4  # the third layer lies as the second one does, and so do all up to the last


class Shape(msgspec.Struct, frozen=True):
    """Values for a token: `width` of the model, `query` of all heads, `shared` of all keys (and of all values), `inner` of the FFN;
    `used` experts of it (1: a model without). `layers`: a number of them."""

    layers: int
    width: int
    query: int
    shared: int
    inner: int
    used: int = 1


class Batch(msgspec.Struct, frozen=True):
    """What is computed at once: `tokens` of which `outputs` are wanted, over a cache of `cells` tokens. `several`: the
    prompt needs more than one batch."""

    tokens: int
    cells: int
    outputs: int = 1
    several: bool = False


class _Node:
    """A tensor of the graph. `inplace`: the operand whose bytes it may take; `size` in bytes."""

    __slots__ = ("at", "inplace", "readers", "size", "sources")

    def __init__(self, size: int, sources: Iterable[_Node] = (), inplace: _Node | None = None) -> None:
        self.size = -(-size // _ALIGN) * _ALIGN
        self.sources, self.inplace = tuple(sources), inplace
        self.readers = 0
        self.at = -1  # its offset while it is placed


class _Space:
    """Free stretches, sorted: (first byte, size). The last one has no end. `span` is the end of the farthest byte that was ever taken."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = [(0, 1 << 62)]
        self.span = 0

    def take(self, size: int) -> int:
        """The smallest hole that is large enough, the last of equals; else what follows everything."""
        holes = [(room, -place, place) for place, (_, room) in enumerate(self._free[:-1]) if room >= size]
        place = min(holes)[2] if holes else len(self._free) - 1
        at, room = self._free[place]
        self._free[place : place + 1] = [(at + size, room - size)] if room > size else []
        self.span = max(self.span, at + size)
        return at

    def give(self, at: int, size: int) -> None:
        """Puts a stretch back and joins it with its neighbours."""
        joined: list[tuple[int, int]] = []
        for start, room in sorted([*self._free, (at, size)]):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + room)
            else:
                joined.append((start, room))
        self._free = joined


def _place(inputs: Sequence[_Node], order: Sequence[_Node]) -> int:
    """Bytes that the graph spans. `order`: as it is computed. Mutates the nodes."""
    space = _Space()
    for node in order:
        for source in node.sources:
            source.readers += 1
    for node in inputs:
        node.at = space.take(node.size)
    for node in order:
        over = node.inplace
        if over is not None and over.readers == 1 and over.size == node.size:
            node.at, over.at = over.at, -1
        else:
            node.at = space.take(node.size)
        for source in node.sources:
            source.readers -= 1
            if source.readers == 0 and source.at >= 0:
                space.give(source.at, source.size)
                source.at = -1
    return space.span


class _Builder:
    """A Llama-like graph, in the order in which llama.cpp computes it."""

    def __init__(self, shape: Shape, batch: Batch) -> None:
        self.shape, self.batch = shape, batch
        n = batch.tokens
        self.mask = _Node(2 * batch.cells * n)  # F16, for flash attention
        self.places, self.keys, self.chosen = _Node(4 * n), _Node(8 * n), _Node(4 * batch.outputs)
        self.inputs = [_Node(4 * n), self.places, self.keys, _Node(8 * n), self.mask, self.chosen]
        self.order: list[_Node] = []

    def add(self, values: int, rows: int, *sources: _Node, inplace: _Node | None = None) -> _Node:
        node = _Node(4 * values * rows, sources, inplace)
        self.order.append(node)
        return node

    def normed(self, x: _Node, rows: int) -> _Node:
        scaled = self.add(self.shape.width, rows, x, inplace=x)
        return self.add(self.shape.width, rows, scaled, inplace=scaled)

    def attention(self, x: _Node) -> _Node:
        n, shape = self.batch.tokens, self.shape
        normed = self.normed(x, n)
        query = self.add(shape.query, n, normed)
        query = self.add(shape.query, n, query, self.places, inplace=query)
        value = self.add(shape.shared, n, normed)
        key = self.add(shape.shared, n, normed)
        key = self.add(shape.shared, n, key, self.places, inplace=key)
        self.order.append(_Node(0, (key, self.keys)))  # into the cache, which is no part of this buffer
        self.order.append(_Node(0, (value, self.inputs[3])))
        seen = self.add(shape.query, n, query, self.mask)
        return self.add(shape.width, n, seen)

    def feed_forward(self, x: _Node, rows: int) -> _Node:
        shape = self.shape
        normed = self.normed(x, rows)
        up = self.add(shape.inner * shape.used, rows, normed)
        gate = self.add(shape.inner * shape.used, rows, normed)
        active = self.add(shape.inner * shape.used, rows, gate, up)
        down = self.add(shape.width * shape.used, rows, active)
        if shape.used > 1:  # what the experts say is weighed and summed
            down = self.add(shape.width, rows, down)
        return self.add(shape.width, rows, down, x, inplace=down)

    def build(self) -> None:
        n, width = self.batch.tokens, self.shape.width
        x = self.add(width, n, self.inputs[0])
        layers = min(self.shape.layers, _LAYERS)
        for number in range(layers):
            before, rows = x, n
            seen = self.attention(x)
            if number == layers - 1:  # from here on only the rows that are wanted
                rows = self.batch.outputs
                seen = self.add(width, rows, seen, self.chosen)
                before = self.add(width, rows, before, self.chosen)
            summed = self.add(width, rows, seen, before, inplace=seen)
            x = self.feed_forward(summed, rows)
        self.order.append(_Node(0, (x,)))


@lru_cache(maxsize=4096)
def touched(shape: Shape, batch: Batch) -> int:
    """Bytes of the compute buffer that a prompt touches whose largest batch this is. Pure.

    llama.cpp keeps a place for embeddings as input. Nothing is written there, but later batches of a prompt lie elsewhere (their mask is
    larger) and reach it. It is reached, too, where the heads are wider than the model (seen, not explained).
    """
    builder = _Builder(shape, batch)
    builder.build()
    reached = shape.query > shape.width or batch.several
    return _place(builder.inputs, builder.order) + (4 * shape.width * batch.tokens if reached else 0)
