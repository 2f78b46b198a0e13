"""Answers of OpenAI's Responses API: the response as a document, and the same as a life of events. Pure.

Order and fields: the SDK's `types/responses/*_event.py` and `response.py`; T27 (every event is named and numbered), T28 (how it fails).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes.answers import dumps
from tests.fakes.providers.brain import Answer, tokens
from tests.fakes.providers.common import name_of, pieces, seal
from tests.fakes.providers.openai_table import Doc

CREATED = 1_700_000_000
ECHOED: tuple[tuple[str, Any], ...] = (
    ("background", False), ("instructions", None), ("max_output_tokens", None), ("max_tool_calls", None), ("parallel_tool_calls", True),
    ("previous_response_id", None), ("prompt_cache_key", None), ("safety_identifier", None), ("store", True), ("temperature", 1.0),
    ("tool_choice", "auto"), ("tools", []), ("top_logprobs", 0), ("top_p", 1.0), ("truncation", "disabled"), ("user", None),
    ("metadata", {}),
)  # fmt: skip


def event(doc: Doc) -> bytes:
    """One event: named, and the name again in its data."""
    return f"event: {doc['type']}\ndata: {json.dumps(doc)}\n\n".encode()


def briefly(rows: list[Doc]) -> list[Doc]:
    """Logprobs as events have them: without bytes."""
    return [
        {
            "token": row["token"],
            "logprob": row["logprob"],
            "top_logprobs": [{"token": one["token"], "logprob": one["logprob"]} for one in row["top_logprobs"]],
        }
        for row in rows
    ]


@dataclass
class Writer:
    """One answer. `doc` is the request filled in; `prompt` counts its tokens."""

    doc: Doc
    serial: int
    secret: bytes
    answer: Answer
    prompt: int

    @property
    def id(self) -> str:
        return name_of(self.serial, "resp_", 48)

    def whole(self) -> Doc:
        """The finished response."""
        short = self.answer.finish == "length"
        details = {"reason": "max_output_tokens"} if short else None
        return self._response("incomplete" if short else "completed", list(self._items()), self._usage(), details)

    def events(self) -> Iterator[Doc]:
        """All events in order, numbered from 0."""
        whole = self.whole()
        for number, one in enumerate(self._life(whole)):
            yield {"type": one.pop("type"), "sequence_number": number, **one}

    def failed(self, number: int, message: str) -> Doc:
        """The event of a response that failed on the way."""
        broken = {**self._response("failed", [], None, None), "error": {"code": "server_error", "message": message}}
        return {"type": "response.failed", "sequence_number": number, "response": broken}

    # The document.

    def _response(self, status: str, output: list[Doc], usage: Doc | None, incomplete: Doc | None) -> Doc:
        text, reasoning = self.doc.get("text") or {}, self.doc.get("reasoning") or {}
        echoed = {name: usual if self.doc.get(name) is None else self.doc[name] for name, usual in ECHOED}
        return {
            "id": self.id, "object": "response", "created_at": CREATED, "status": status, "error": None, "incomplete_details": incomplete,
            "model": self.doc["model"], "output": output, **echoed, "service_tier": "default",
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
            "usage": usage,
        }  # fmt: skip

    def _usage(self) -> Doc:
        """Output tokens have the reasoning in them (T41)."""
        thought = self.answer.thinking_tokens
        out = self.answer.output_tokens + thought
        return {
            "input_tokens": self.prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": out,
            "output_tokens_details": {"reasoning_tokens": thought}, "total_tokens": self.prompt + out,
        }  # fmt: skip

    def _name(self, prefix: str, index: int = 0) -> str:
        return name_of(self.serial * 1000 + index, prefix, 48)

    def _items(self) -> Iterator[Doc]:
        answer = self.answer
        if answer.thinking:
            yield self._reasoning()
        if answer.text or not (answer.calls or answer.thinking):
            status = "incomplete" if answer.finish == "length" else "completed"
            yield {"id": self._name("msg_"), "type": "message", "status": status, "role": "assistant", "content": [self._part(answer.text)]}
        for index, call in enumerate(answer.calls):
            yield {
                "id": self._name("fc_", index), "type": "function_call", "status": "completed", "name": call.name,
                "call_id": name_of(self.serial * 1000 + index, "call_", 24), "arguments": dumps(call.arguments).decode(),
            }  # fmt: skip

    def _reasoning(self) -> Doc:
        """The thoughts themselves are never shown: a summary if one was asked for, and sealed content if it was included."""
        shown = (self.doc.get("reasoning") or {}).get("summary") is not None
        item: Doc = {"id": self._name("rs_"), "type": "reasoning", "summary": []}
        if shown:
            item["summary"] = [{"type": "summary_text", "text": self.answer.thinking}]
        if "reasoning.encrypted_content" in (self.doc.get("include") or ()):
            item["encrypted_content"] = seal(self.secret, b"T", self.answer.thinking)
        return item

    def _part(self, text: str) -> Doc:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(text)}

    def _logprobs(self, text: str) -> list[Doc]:
        if "message.output_text.logprobs" not in (self.doc.get("include") or ()):
            return []
        top = self.doc.get("top_logprobs") or 0
        rows = [{"token": word, "logprob": -0.125, "bytes": list(word.encode())} for word in tokens(text)]
        return [{**row, "top_logprobs": [row][:top]} for row in rows]

    # The events.

    def _life(self, whole: Doc) -> Iterator[Doc]:
        begun = self._response("in_progress", [], None, None)
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for at, item in enumerate(whole["output"]):
            yield from {"reasoning": self._thinking, "message": self._message, "function_call": self._call}[item["type"]](item, at)
        yield {"type": f"response.{whole['status']}", "response": whole}

    def _framed(self, item: Doc, at: int, empty: Doc, inner: Iterator[Doc]) -> Iterator[Doc]:
        yield {"type": "response.output_item.added", "output_index": at, "item": {**item, **empty}}
        for one in inner:
            yield {"item_id": item["id"], "output_index": at, **one}
        yield {"type": "response.output_item.done", "output_index": at, "item": item}

    def _thinking(self, item: Doc, at: int) -> Iterator[Doc]:
        def inner() -> Iterator[Doc]:
            for index, part in enumerate(item["summary"]):
                where, name = {"summary_index": index}, "response.reasoning_summary"
                yield {"type": f"{name}_part.added", **where, "part": {"type": "summary_text", "text": ""}}
                for delta in pieces(part["text"]):
                    yield {"type": f"{name}_text.delta", **where, "delta": delta}
                yield {"type": f"{name}_text.done", **where, "text": part["text"]}
                yield {"type": f"{name}_part.done", **where, "part": part}

        yield from self._framed(item, at, {"summary": []}, inner())

    def _message(self, item: Doc, at: int) -> Iterator[Doc]:
        def inner() -> Iterator[Doc]:
            part, where = item["content"][0], {"content_index": 0}
            yield {"type": "response.content_part.added", **where, "part": {**part, "text": "", "logprobs": []}}
            for word in tokens(part["text"]):
                yield {"type": "response.output_text.delta", **where, "delta": word, "logprobs": briefly(self._logprobs(word))}
            yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": briefly(part["logprobs"])}
            yield {"type": "response.content_part.done", **where, "part": part}

        yield from self._framed(item, at, {"status": "in_progress", "content": []}, inner())

    def _call(self, item: Doc, at: int) -> Iterator[Doc]:
        def inner() -> Iterator[Doc]:
            for delta in pieces(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", "delta": delta}
            yield {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}

        yield from self._framed(item, at, {"status": "in_progress", "arguments": ""}, inner())
