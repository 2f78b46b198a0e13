"""chat → Gemini's `generateContent`, on AI Studio and on Vertex AI. Pure.

The two take the same documents; what differs (address, credentials) is the carrier's. The path is below `…/v1beta` on AI Studio and
below `…/publishers/google` on Vertex AI. Source of the wire format: the types and converters of the `google-genai` SDK.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects import gemini_answer as answer
from backends.dialects import gemini_chat, gemini_config, gemini_contents, gemini_tools
from backends.dialects.gemini_answer import Answer, Candidate, Out, Turn
from backends.dialects.gemini_chat import Chat, Notes
from backends.dialects.gemini_path import path
from backends.dialects.gemini_stream import GeminiStream
from backends.dialects.types import Context, Request, Stream
from backends.types import Fault
from backends.wire import Doc


class Memo(msgspec.Struct, frozen=True):
    """What the answer's translator must know of the request: that the client wants no parallel calls, which Gemini cannot be told."""

    single: bool = False


class Gemini:
    """A `dialects.types.Dialect`. Holds nothing."""

    name = "gemini"

    def request(self, doc: Doc, context: Context) -> Request:
        """Raises `Fault` (bad_request, client) for what is malformed or, when strict, cannot be honoured. Does not change `doc`."""
        chat, notes = gemini_chat.read(doc), Notes(context.strict)
        google = gemini_chat.google(chat)
        gemini_config.leftovers(doc, chat, notes)
        out: Out = {}
        system, out["contents"] = gemini_contents.contents(chat.messages, context.facts, notes)
        if system:
            out["systemInstruction"] = {"parts": system}
        config = gemini_config.config(chat, google, context, notes)
        out |= _tools(chat, config, context, notes)
        if config:
            out["generationConfig"] = config
        out |= gemini_config.beside(chat, google, notes)
        single = chat.parallel_tool_calls is False and "tools" in out
        if single:
            notes.add("parallel_tool_calls", "emulated", "Gemini has no such switch: calls after the first are left out of the answer")
        method = "streamGenerateContent?alt=sse" if context.stream else "generateContent"
        return Request(path(context.model, method), wire.encode(out), notes=notes.all(), memo=Memo(single))

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        """A whole answer as a `chat.completion`. Raises `Fault` when it is an error or none at all."""
        try:
            found = answer.decode(body)
            if found.error is not None:
                raise answer.failed(found.error)
            return wire.encode(_completion(found, request.memo, context))
        except answer.UNREADABLE:
            raise Fault("upstream", "The backend's answer cannot be read as one of Gemini's.", origin="backend", retry=True) from None

    def stream(self, request: Request, context: Context) -> Stream:
        """A translator of one streamed answer."""
        return GeminiStream(context, single=request.memo.single)


def _tools(chat: Chat, config: Out, context: Context, notes: Notes) -> Out:
    """The tools, unless none may be used and the answer is JSON: models before 3 refuse that pair even so."""
    if chat.tools and chat.tool_choice == "none" and "responseMimeType" in config and context.facts.thinking != "level":
        notes.add("tools", "emulated", "none may be used, and this model takes no tools beside an answer format: they were not sent")
        return {}
    return gemini_tools.tools(chat, context.facts, notes)


def _completion(found: Answer, memo: Memo, context: Context) -> Out:
    feedback, prefix = found.prompt_feedback, answer.prefix(context)
    if found.candidates:
        choices = [_choice(c, Turn(c.index if c.index is not None else i, prefix, memo.single)) for i, c in enumerate(found.candidates)]
    elif feedback is not None and feedback.block_reason:
        blocked = Turn(0, prefix)
        answer.block(blocked, feedback)
        choices = [_choice(Candidate(), blocked)]
    else:
        raise Fault("upstream", "Gemini answered without a candidate, and without a reason.", origin="backend", retry=True)
    out: Out = {
        "id": found.response_id or context.id, "object": "chat.completion", "created": context.unix,
        "model": found.model_version or context.model, "choices": choices,
    }  # fmt: skip
    if (usage := answer.usage(found.usage_metadata)) is not None:
        out["usage"] = usage
    return out


def _choice(candidate: Candidate, turn: Turn) -> Out:
    parts = candidate.content.parts if candidate.content is not None else None
    deltas = [made for part in parts or () if (made := answer.delta(part, turn)) is not None]
    answer.settle(turn, candidate)
    reason, native = answer.finish(turn)
    out: Out = {"index": turn.index, "message": _message([*deltas, answer.last_words(turn, reason)]), "finish_reason": reason}
    if (told := answer.logprobs(candidate.logprobs_result)) is not None:
        out["logprobs"] = told
    return out | ({"native_finish_reason": native} if native is not None else {})


def _message(deltas: list[Out]) -> Out:
    """All deltas of one message as a whole one."""
    texts: dict[str, str] = {}
    lists: dict[str, list[Any]] = {}
    google: Out = {}
    for made in deltas:
        for key, value in made.items():
            if key == "extra_content":
                parts = [*google.get("parts", ()), *value["google"].get("parts", ())]
                google |= value["google"] | ({"parts": parts} if parts else {})
            elif isinstance(value, str):
                texts[key] = texts.get(key, "") + value
            else:
                lists.setdefault(key, []).extend({k: v for k, v in item.items() if k != "index"} for item in value)
    out: Out = {"role": "assistant", "content": texts.pop("content", None if lists else ""), **texts, **lists}
    return out | ({"extra_content": {"google": google}} if google else {})
