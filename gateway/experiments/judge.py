"""What a judge is asked about two answers, and how its word is read. Pure; `shadow` asks it."""

from __future__ import annotations

import re

import xxhash

from backends import wire
from backends.wire import Doc
from gateway.experiments.heard import Answer

MAX_TEXT = 12_000  # characters of the request, and of each answer, that a judge is shown
MAX_TOKENS = 16  # of its word
_SEED = 0x6A75646765
_WORD = re.compile(r"\W*(?:answer\s+)?(a|b|tie)\W*\Z", re.IGNORECASE)


def drawn(request: bytes, share: float) -> bool:
    """Whether the judge is asked about this request: by a hash of its id, so that it can be told again."""
    return xxhash.xxh3_64_intdigest(request, _SEED) < share * 2.0**64


def shadow_first(request: bytes, arm: str) -> bool:
    """Whether the shadow's answer stands first, as A: for half of all requests, since judges like what they read first."""
    return bool(xxhash.xxh3_64_intdigest(b"%b\0%b" % (request, arm.encode()), _SEED + 1) & 1)


def question(prompt: str, asked: Doc, own: Answer, shadow: Answer, first: bool) -> Doc:
    """The chat document that asks. `first`: the shadow's answer stands first. The user's own request is shown as JSON."""
    a, b = (shadow, own) if first else (own, shadow)
    request = bytes(asked.get("messages", wire.NULL)).decode("utf-8", "replace")
    parts = [("request", request), ("answer_a", _shown(a)), ("answer_b", _shown(b))]
    text = "\n\n".join(f"<{name}>\n{_cut(value)}\n</{name}>" for name, value in parts)
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": f"{text}\n\nA, B or TIE?"}]
    return {"messages": wire.raw(messages), "temperature": wire.raw(0), "max_tokens": wire.raw(MAX_TOKENS)}


def preferred(said: str | None, first: bool) -> float | None:
    """What a judge said: 1 where it prefers the shadow's answer, 0 the user's own, 0.5 neither. None: it said something else."""
    found = _WORD.match(said or "")
    if found is None:
        return None
    word = found[1].lower()
    if word == "tie":
        return 0.5
    return 1.0 if (word == "a") is first else 0.0


def _shown(answer: Answer) -> str:
    calls = [f"[calls {name} with {arguments}]" for name, arguments in answer.tools]
    return "\n".join([answer.text or "", *calls]).strip() or "(empty)"


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
