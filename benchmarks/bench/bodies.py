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


def replayed(target: Target, captured: bytes, output: int, *, mark: str = "", exact: bool = False, continuous: bool = False) -> bytes:
    """A captured chat or completions body for this target: its model, its way to answer, its `extra`; all else as it was. `mark`: goes
    before the prompt's first text. `output`: tokens of the answer; with `exact` it is as long as it was. Raises ValueError, which says
    why, where the body is not for the target's API."""
    fields: dict[str, Any] = msgspec.json.decode(captured)
    wanted, other = ("messages", "prompt") if target.api == "chat" else ("prompt", "messages")
    if wanted not in fields:
        raise ValueError(
            f"has {other} and the target is asked for {target.api}; use --api {'completions' if other == 'prompt' else 'chat'}"
        )
    if mark:
        fields[wanted] = _marked(fields[wanted], mark)
    fields.pop("stream_options", None)
    fields |= {"model": target.model} | streaming(target, continuous)
    if exact and output > 0:
        fields |= lengths(output, exact)
        fields.pop("max_completion_tokens", None)
    return merged(fields, target.extra)


def _marked(prompt: Any, mark: str) -> Any:
    """The prompt, or the messages or their parts, with `mark` before the first text; as it is where there is none."""
    if isinstance(prompt, str):
        return mark + prompt
    found = list(prompt) if isinstance(prompt, list) else []
    for at, each in enumerate(found):
        if isinstance(each, str):
            return [*found[:at], mark + each, *found[at + 1 :]]
        for name in ("content", "text"):
            inner = each.get(name) if isinstance(each, dict) else None
            if inner and (changed := _marked(inner, mark)) != inner:
                return [*found[:at], {**each, name: changed}, *found[at + 1 :]]
    return prompt
