"""Counting and splitting tokens on an engine: vLLM's `/tokenize` and `/detokenize` as the public form, translated where the
engine has another. Pure but for the `ask` that is passed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from backends import wire
from backends.faults import from_answer
from backends.openai import OpenAILink
from backends.types import Fault
from backends.wire import Doc

LLAMA = frozenset({"llamacpp", "llama-server"})
Ask = Callable[[str, bytes], Awaitable[bytes]]


async def tokenize(link: OpenAILink, doc: Doc, model: str, unix: float) -> bytes:
    """`{"prompt" | "messages", "add_special_tokens"}` → `{"tokens", "count", "max_model_len"}` as JSON. Raises `Fault`."""
    if link.kind not in LLAMA:
        return await _post(link, "/tokenize", {**doc, "model": wire.raw(model)}, unix)
    if "messages" in doc:
        templated = _object(await _post(link, "/apply-template", {k: v for k, v in doc.items() if k in _TEMPLATE}, unix))
        prompt, special = msgspec.Raw(msgspec.json.encode(templated.get("prompt", ""))), b"false"
    elif "prompt" in doc:
        prompt, special = doc["prompt"], bytes(doc.get("add_special_tokens", b"true"))
    else:
        raise wire.bad("'prompt' or 'messages' is missing.", param="prompt")
    question = {"content": prompt, "add_special": msgspec.Raw(special), "parse_special": wire.TRUE}
    answer = _object(await _post(link, "/tokenize", question, unix))
    tokens = answer.get("tokens", [])
    return msgspec.json.encode({"tokens": tokens, "count": len(tokens), "max_model_len": await _context(link)})


_TEMPLATE = frozenset({"messages", "tools", "chat_template_kwargs", "add_generation_prompt"})


async def detokenize(link: OpenAILink, doc: Doc, model: str, unix: float) -> bytes:
    """`{"tokens"}` → `{"prompt"}` as JSON. Raises `Fault`."""
    if "tokens" not in doc:
        raise wire.bad("'tokens' is missing.", param="tokens")
    if link.kind not in LLAMA:
        return await _post(link, "/detokenize", {**doc, "model": wire.raw(model)}, unix)
    if link.guard is not None and (refused := link.guard({"prompt": doc["tokens"]})) is not None:
        raise refused
    answer = _object(await _post(link, "/detokenize", {"tokens": doc["tokens"]}, unix))
    return msgspec.json.encode({"prompt": answer.get("content", "")})


async def _post(link: OpenAILink, path: str, doc: Doc, unix: float) -> bytes:
    status, headers, body = await link.ask(link.post(link.root + path, wire.encode(doc)))
    if status != 200:
        raise from_answer(status, headers, body, link.pool.name, unix)
    return body


async def _context(link: OpenAILink) -> int | None:
    """Tokens a slot of a llama.cpp server has, from /props; None when it does not say."""
    status, _, body = await link.ask(link.get(link.root + "/props"))
    settings = _object(body).get("default_generation_settings") if status == 200 else None
    value = settings.get("n_ctx") if isinstance(settings, dict) else None
    return value if isinstance(value, int) else None


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        value = None
    if not isinstance(value, dict):
        raise Fault("upstream", "The engine's answer is not a JSON object.", origin="backend", code="not_json")
    return value
