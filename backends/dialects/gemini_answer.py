"""Gemini's answers by type, and what each part of one is in a chat answer. Pure. Shared by whole answers and streams.

Field names: `GenerateContentResponse` of the `google-genai` SDK. Wire traps 15, 17, 22 to 24, 31, 37, 40, 41.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from backends import wire
from backends.dialects.types import Context
from backends.types import Fault, Kind

Out = dict[str, Any]


class FunctionCall(msgspec.Struct):
    name: str = ""
    args: msgspec.Raw = wire.NULL
    id: str | None = None


class Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: msgspec.Raw = wire.NULL
    code_execution_result: msgspec.Raw = wire.NULL
    file_data: msgspec.Raw = wire.NULL


class Content(msgspec.Struct):
    parts: list[Part] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None
    logprobs_result: msgspec.Raw = wire.NULL
    citation_metadata: msgspec.Raw = wire.NULL
    grounding_metadata: msgspec.Raw = wire.NULL
    url_context_metadata: msgspec.Raw = wire.NULL


class Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None
    block_reason_message: str | None = None


class Answer(msgspec.Struct, rename="camel"):
    """A whole answer or one chunk of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: msgspec.Raw = wire.NULL
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class Turn(msgspec.Struct):
    """One candidate as far as it has come. `single`: only the first call counts, the client wants no parallel ones."""

    index: int
    prefix: str
    single: bool = False
    begun: bool = False
    calls: int = 0
    images: int = 0
    ids: set[str] = msgspec.field(default_factory=set)
    native: str | None = None
    told: str | None = None
    blocked: bool = False
    google: Out = {}


class _Count(msgspec.Struct, rename="camel"):
    modality: str = ""
    token_count: int = 0


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    cached_content_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    prompt_tokens_details: list[_Count] = []
    candidates_tokens_details: list[_Count] = []


class _Token(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Tops(msgspec.Struct):
    candidates: list[_Token] = []


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] = []
    top_candidates: list[_Tops] = []


_answer = msgspec.json.Decoder(Answer)
_answers = msgspec.json.Decoder(list[Answer])
_usage = msgspec.json.Decoder(_Usage)
_logprobs = msgspec.json.Decoder(_Logprobs)
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_FINISHES = {
    "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "BLOCKLIST": "content_filter", "RECITATION": "content_filter",
    "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter", "LANGUAGE": "content_filter", "MODEL_ARMOR": "content_filter",
    "JAILBREAK": "content_filter",
}  # fmt: skip
_PLAIN = frozenset({"STOP", "MAX_TOKENS"})  # OpenAI's words say as much
_KINDS: dict[int, Kind] = {400: "bad_request", 404: "not_found", 429: "rate_limited", 503: "overloaded", 504: "timeout"}
_PASSING = frozenset({429, 500, 502, 503, 504})


def decode(body: bytes) -> Answer:
    """One answer. An error may come wrapped in a list (wire trap 31). Raises one of `UNREADABLE`."""
    if body[:64].lstrip()[:1] == b"[":
        answers = _answers.decode(body)
        return next((a for a in answers if a.error is not None), answers[0] if answers else Answer())
    return _answer.decode(body)


def prefix(context: Context) -> str:
    """What the tool call ids of one answer begin with: the same for the same request, different for any other."""
    return "call_" + hashlib.blake2b(context.id.encode(), digest_size=10).hexdigest()


def delta(part: Part, turn: Turn) -> Out | None:
    """What one part adds to the message, as a chat delta; None when nothing. Mutates `turn`."""
    if part.function_call is not None:
        return _call(part.function_call, part.thought_signature, turn)
    out: Out = {}
    if part.text:
        out["reasoning_content" if part.thought else "content"] = part.text
    elif part.inline_data is not None:
        blob = part.inline_data
        if not blob.mime_type.startswith("image/"):
            return _other({"inlineData": blob})
        url = f"data:{blob.mime_type};base64,{blob.data}"
        out["images"] = [{"type": "image_url", "image_url": {"url": url}, "index": turn.images}]
        turn.images += 1
    elif (other := _unnamed(part)) is not None:
        out = _other(other)
    if part.thought_signature:
        out.setdefault("extra_content", {"google": {}})["google"]["thought_signature"] = part.thought_signature
    return out or None


def _unnamed(part: Part) -> Out | None:
    """A part that chat has no word for: what Gemini ran or read by itself."""
    found = {"executableCode": part.executable_code, "codeExecutionResult": part.code_execution_result, "fileData": part.file_data}
    return {k: v for k, v in found.items() if v != wire.NULL} or None


def _other(part: Out) -> Out:
    return {"extra_content": {"google": {"parts": [part]}}}


def _call(call: FunctionCall, signature: str | None, turn: Turn) -> Out | None:
    """A whole call: Gemini sends arguments in one piece. Ids are Gemini's own where it gives one that is new, else made (wire trap 17)."""
    if turn.single and turn.calls:
        return None
    name = call.id
    if not name or name in turn.ids:
        name = f"{turn.prefix}_{turn.index}_{turn.calls}"
    turn.ids.add(name)
    arguments = "{}" if call.args == wire.NULL else msgspec.json.format(bytes(call.args), indent=-1).decode()
    made: Out = {"index": turn.calls, "id": name, "type": "function", "function": {"name": call.name, "arguments": arguments}}
    if signature:
        made["extra_content"] = {"google": {"thought_signature": signature}}
    turn.calls += 1
    return {"tool_calls": [made]}


def sourced(candidate: Candidate) -> bool:
    """Whether a candidate names its sources."""
    return not (candidate.citation_metadata == candidate.grounding_metadata == candidate.url_context_metadata == wire.NULL)


def settle(turn: Turn, candidate: Candidate) -> None:
    """Keeps what a candidate says about its end and its sources. Mutates `turn`."""
    turn.native = candidate.finish_reason or turn.native
    turn.told = candidate.finish_message or turn.told
    for name, value in (
        ("citation_metadata", candidate.citation_metadata), ("grounding_metadata", candidate.grounding_metadata),
        ("url_context_metadata", candidate.url_context_metadata),
    ):  # fmt: skip
        if value != wire.NULL:
            turn.google = {**turn.google, name: value}


def block(turn: Turn, feedback: Feedback) -> None:
    """A prompt that was refused: there is no candidate (wire trap 24). Mutates `turn`."""
    turn.native, turn.told, turn.blocked = feedback.block_reason, feedback.block_reason_message, True


def finish(turn: Turn) -> tuple[str, str | None]:
    """(finish_reason, native_finish_reason or None). STOP after calls is `tool_calls`, whenever they came (wire trap 23). A word that
    is not known does not fail: it is `stop`, and told natively."""
    native = turn.native or "STOP"
    reason = _FINISHES.get(native) or ("content_filter" if native.startswith("IMAGE_") else "stop")
    if turn.blocked:
        reason = "content_filter"
    if reason == "stop" and turn.calls:
        reason = "tool_calls"
    return reason, None if native in _PLAIN else native


def last_words(turn: Turn, reason: str) -> Out:
    """What is only known at the end, as a delta: why it was refused, and the sources."""
    out: Out = {"refusal": turn.told} if turn.told and reason == "content_filter" else {}
    return out | ({"extra_content": {"google": turn.google}} if turn.google else {})


def usage(raw: msgspec.Raw) -> Out | None:
    """Chat's `usage`. Gemini's prompt count includes cached tokens but not what its own tools read; its candidates' count excludes
    thoughts (wire trap 41). None when nothing is told or it cannot be read."""
    try:
        u = _usage.decode(raw) if raw != wire.NULL else None
    except UNREADABLE:
        return None
    if u is None:
        return None
    prompt = u.prompt_token_count + u.tool_use_prompt_token_count
    completion = u.candidates_token_count + u.thoughts_token_count
    asked: Out = {"cached_tokens": min(u.cached_content_token_count, prompt)}
    answered: Out = {"reasoning_tokens": u.thoughts_token_count}
    for out, counts in ((asked, u.prompt_tokens_details), (answered, u.candidates_tokens_details)):
        if heard := sum(c.token_count for c in counts if c.modality == "AUDIO"):
            out["audio_tokens"] = heard
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": asked, "completion_tokens_details": answered,
    }  # fmt: skip


def logprobs(raw: msgspec.Raw) -> Out | None:
    """Chat's `logprobs` of a choice. Raises one of `UNREADABLE`."""
    if raw == wire.NULL:
        return None
    result = _logprobs.decode(raw)
    tops = result.top_candidates
    return {
        "content": [
            {**_token(chosen), "top_logprobs": [_token(t) for t in (tops[i].candidates if i < len(tops) else ())]}
            for i, chosen in enumerate(result.chosen_candidates)
        ],
        "refusal": None,
    }


def _token(token: _Token) -> Out:
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode())}


def error(found: Any) -> Out:
    """Google's error object as OpenAI's: `status` becomes the type, `code` stays the HTTP status it is."""
    fields = found if isinstance(found, dict) else {"message": found}
    message, status, code = fields.get("message"), fields.get("status"), fields.get("code")
    return {
        "message": message if isinstance(message, str) and message else "Gemini reported an error and gave no message.",
        "type": status if isinstance(status, str) else "upstream_error",
        "param": None,
        "code": code if isinstance(code, int) else 502,
    }


def failed(found: Any) -> Fault:
    """The fault of an error that came under status 200."""
    fields = error(found)
    code = fields["code"]
    kind = _KINDS.get(code, "upstream")
    return Fault(kind, fields["message"], origin="backend", type=fields["type"], code=str(code), retry=code in _PASSING)
