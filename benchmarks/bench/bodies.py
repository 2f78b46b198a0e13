"""Requests' bodies, as chat or as completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from benchmarks.bench.words import Target

_encode = msgspec.json.Encoder().encode


def body(
    target: Target, prompt: str, output: int, *, exact: bool = False, continuous: bool = False, seed: int | None = None, greedy: bool = True
) -> bytes:
    """One request with `prompt` as its only user message, or as its prompt, for at most `output` tokens.

    `exact`: exactly so many, for servers that know `min_tokens` and `ignore_eos` (vLLM, SGLang, llama.cpp in part). `continuous`: counts
    with every chunk (vLLM's `continuous_usage_stats`). `greedy`: temperature 0, and `seed` where there is one. The target's `extra` comes
    last: its fields replace ours, and one that is null takes ours away.
    """
    fields: dict[str, Any] = {"model": target.model}
    if target.api == "chat":
        fields["messages"] = [{"role": "user", "content": prompt}]
    else:
        fields["prompt"] = prompt
    fields |= streaming(target, continuous) | lengths(output, exact)
    if greedy:
        fields["temperature"] = 0
        if seed is not None:
            fields["seed"] = seed
    return merged(fields, target.extra)


def merged(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """`fields` with those of `extra` in their places, as JSON; a null in `extra` takes a field away."""
    return _encode({name: value for name, value in {**fields, **extra}.items() if name not in extra or value is not None})


def streaming(target: Target, continuous: bool) -> dict[str, Any]:
    """The fields that ask for a stream that ends with its usage, or for no stream."""
    if not target.stream:
        return {"stream": False}
    return {"stream": True, "stream_options": {"include_usage": True} | ({"continuous_usage_stats": True} if continuous else {})}


def lengths(output: int, exact: bool) -> dict[str, Any]:
    """The fields that bound an answer's tokens, or set them."""
    return {"max_tokens": output} | ({"min_tokens": output, "ignore_eos": True} if exact else {})
