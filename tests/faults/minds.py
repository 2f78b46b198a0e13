"""An engine that counts aloud, and goes on exactly where an answer was left: by vLLM's and SGLang's parameters, or by a prefill."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.fakes.answers import DONE, data, openai_error, reply, sse
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, Step

WORDS = 24


def words(question: str) -> list[str]:
    """The whole answer to a question, as tokens."""
    return [f"{question}: 0", *(f" {at}" for at in range(1, WORDS))]


class Counter:
    """A responder. `gate`: where a fresh stream waits, after `held` tokens. `spoil`: what becomes of the script of a fresh answer.
    `prefill`: an assistant's message at the end is gone on with by itself, with an `echo` of it or without."""

    def __init__(
        self,
        gate: Gate | None = None,
        held: int = WORDS // 2,
        spoil: Callable[[Script], Script] | None = None,
        *,
        prefill: bool = False,
        echo: bool = False,
    ) -> None:
        self.gate, self.held, self.spoil, self.prefill, self.echo = gate, held, spoil, prefill, echo

    def __call__(self, request: Request) -> Script:
        doc = request.doc
        assert isinstance(doc, dict)
        turns = doc["messages"]
        fresh = turns[-1]["role"] != "assistant"
        if not fresh and not self.prefill and not (doc.get("continue_final_message") is True and doc.get("add_generation_prompt") is False):
            return openai_error(400, "the last message is the assistant's, and nothing says that it goes on")
        question = turns[-1 if fresh else -2]["content"]
        question = question if isinstance(question, str) else question[0]["text"]
        whole, sent = words(question), "" if fresh else turns[-1]["content"]
        rest = "".join(whole).removeprefix(sent)
        if not "".join(whole).startswith(sent):
            return openai_error(400, f"this is not how the answer began: {sent!r}")
        tokens = whole[len(whole) - len(tail(whole, rest)) :] if fresh else tail(whole, rest)
        tokens = [sent, *tokens] if self.echo and sent else tokens
        limit = doc.get("max_completion_tokens") or doc.get("max_tokens")
        finish = "length" if limit is not None and limit < len(tokens) else "stop"
        made = self._answer(doc, tokens[:limit], finish, self.gate if fresh else None)
        return self.spoil(made) if fresh and self.spoil is not None else made

    def _answer(self, doc: dict[str, Any], tokens: list[str], finish: str, gate: Gate | None) -> Script:
        head = {"id": "chatcmpl-count", "created": 1, "model": doc["model"]}
        prompt = len(json.dumps(doc["messages"]))
        counts = {"prompt_tokens": prompt, "completion_tokens": len(tokens), "total_tokens": prompt + len(tokens)}
        if not doc.get("stream"):
            message = {"role": "assistant", "content": "".join(tokens)}
            return reply(
                head
                | {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": counts}
            )
        head["object"] = "chat.completion.chunk"
        steps: list[Step] = [data(head | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})]
        for at, token in enumerate(tokens):
            if gate is not None and at == self.held:
                steps.append(gate)
            steps.append(data(head | {"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]}))
        steps.append(data(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
        if (doc.get("stream_options") or {}).get("include_usage"):
            steps.append(data(head | {"choices": [], "usage": counts}))
        return sse([*steps, DONE])


def tail(whole: list[str], rest: str) -> list[str]:
    """The last tokens, of which the text is `rest`; a token that was cut within gives its remainder."""
    out: list[str] = []
    for token in reversed(whole):
        if not rest:
            break
        out.insert(0, token if rest.endswith(token) else rest)
        rest = rest[: -len(token)] if rest.endswith(token) else ""
    return out
