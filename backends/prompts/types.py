"""What a call's prompt is to who places it: how long, and which hashed blocks its beginning has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec


class Prompt(msgspec.Struct, frozen=True):
    """The prompt of one call.

    `tokens`: of the whole prompt; counted when `exact`, else estimated. `blocks`: chained hashes of its full blocks, each standing for
    everything up to its end. `session`: equal for the turns of one conversation of one tenant, "" when nothing tells. `needs`: what the
    model must be able to do: "tools", "images", "audio", "documents", "json_schema". `output`: tokens that the client allows at most.
    `bytes`: of the rendered text. `estimate`: tokens by the fixed rules of `dialects.count`, before what was learned. `media`: the part of
    `tokens` that is a guess for images, audio and files.
    """

    tokens: int
    blocks: list[int]
    exact: bool
    session: str = ""
    needs: frozenset[str] = frozenset()
    output: int | None = None
    bytes: int = 0
    estimate: int = 0
    media: int = 0


class Hashing(msgspec.Struct, frozen=True):
    """How blocks are hashed. Made by the caller, so that prompts, engines' events and other gateways agree.

    `digest(data, seed)`: a 64-bit hash. `text(data, root)` and `tokens(ids, root)`: chained hashes of full blocks of `text_block` bytes
    and `token_block` ids. `root(*parts)`: the root of a chain that is salted by texts.
    """

    digest: Callable[[bytes, int], int]
    text: Callable[[bytes, int], list[int]]
    tokens: Callable[[Sequence[int], int], list[int]]
    root: Callable[..., int]
    text_block: int = 512
    token_block: int = 64


class Unreadable(ValueError):
    """A body or template that cannot be rendered as the engine would. `str()` is one sentence; the call falls back to text."""
