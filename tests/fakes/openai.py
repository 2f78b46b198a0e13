"""The fake engine's own mind: OpenAI-style answers computed from the request. Deterministic; pure.

The text is an echo of the last message, so that a test can see that its words went through. What a client can ask for
is done for real: n, stop, max_tokens, seed, logprobs, tools and tool_choice, response_format, reasoning, usage.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

from tests.fakes.answers import DONE, data, openai_error, reply, sse
from tests.fakes.request import Request
from tests.fakes.script import Script

CREATED = 1_700_000_000
MODELS = ("fake", "fake-reasoning", "fake-embed")
Doc = dict[str, Any]


def respond(request: Request) -> Script:
    """The answer to any request. An unknown path is a 404, a body without what it needs a 400."""
    handler = HANDLERS.get((request.method, request.path))
    if handler is None:
        return openai_error(404, f"no such path: {request.method} {request.path}")
    try:
        return handler(request.doc or {})
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        return openai_error(400, f"malformed request: {error!r}")


def words(text: str) -> list[str]:
    """Tokens of this engine: words with their leading space."""
    parts = text.split(" ")
    return [parts[0], *(" " + part for part in parts[1:])] if text else []


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])


def shape(tokens: list[str], doc: Doc) -> tuple[list[str], str]:
    """Tokens after stop strings and the token limit, with the finish reason."""
    limit = doc.get("max_completion_tokens") or doc.get("max_tokens")
    stops = doc.get("stop") or []
    text = "".join(tokens)
    cuts = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in text]
    tokens = words(text[: min(cuts)]) if cuts else tokens
    return (tokens[:limit], "length") if limit and limit < len(tokens) else (tokens, "stop")


def usage(prompt: int, completion: int) -> Doc:
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def token_logprob(token: str, top: int) -> Doc:
    raw = list(token.encode())
    best = [{"token": token, "logprob": -0.125, "bytes": raw}, {"token": "~", "logprob": -3.5, "bytes": [126]}]
    return {"token": token, "logprob": -0.125, "bytes": raw, "top_logprobs": best[:top]}


def prompt_size(doc: Doc) -> int:
    return sum(len(words(text_of(message.get("content")))) + 1 for message in doc["messages"])


def example(schema: Doc) -> Any:
    """The smallest value of a JSON schema (types, enums, required properties)."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties: Doc = schema.get("properties", {})
        return {name: example(properties.get(name, {"type": "string"})) for name in schema.get("required", properties)}
    simple: Doc = {"string": "x", "integer": 1, "number": 0.5, "boolean": True, "array": [], "null": None}
    return simple[kind]


def tool_calls(doc: Doc) -> list[Doc]:
    """The calls this engine makes: the named tool, or with `required` and `auto` the first one (with parallel calls: every one)."""
    tools, choice = doc.get("tools") or [], doc.get("tool_choice", "auto")
    answered = doc["messages"][-1]["role"] == "tool"
    if not tools or choice == "none" or (choice == "auto" and answered):
        return []
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    elif not doc.get("parallel_tool_calls", False):
        tools = tools[:1]
    return [
        {
            "id": f"call_{at}", "type": "function",
            "function": {"name": tool["function"]["name"], "arguments": json.dumps(example(tool["function"].get("parameters", {})))},
        }
        for at, tool in enumerate(tools)
    ]  # fmt: skip


def content(doc: Doc) -> str:
    wanted = doc.get("response_format") or {"type": "text"}
    if wanted["type"] == "json_object":
        return json.dumps({"echo": text_of(doc["messages"][-1].get("content"))})
    if wanted["type"] == "json_schema":
        return json.dumps(example(wanted["json_schema"]["schema"]))
    return "You said: " + text_of(doc["messages"][-1].get("content"))


def reasoning(doc: Doc) -> list[str]:
    return words("Let me think about it.") if "reasoning" in doc["model"] else []


def chat(doc: Doc) -> Script:
    if not doc["messages"]:
        return openai_error(400, "messages is empty", code="empty_messages")
    return chat_stream(doc) if doc.get("stream") else chat_whole(doc)


def base(doc: Doc, kind: str) -> Doc:
    return {
        "id": "chatcmpl-fake", "object": kind, "created": CREATED, "model": doc["model"],
        "system_fingerprint": f"fp_{doc.get('seed', 0)}",
    }  # fmt: skip


def chat_whole(doc: Doc) -> Script:
    calls, thought = tool_calls(doc), reasoning(doc)
    tokens, finish = shape([] if calls else words(content(doc)), doc)
    message: Doc = {"role": "assistant", "content": None if calls else "".join(tokens)}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": "".join(thought)} if thought else {}
    top = doc.get("top_logprobs", 0)
    logprobs: Any = {"content": [token_logprob(token, top) for token in tokens]} if doc.get("logprobs") else None
    choices: list[Doc] = [
        {"index": index, "message": message, "logprobs": logprobs, "finish_reason": "tool_calls" if calls else finish}
        for index in range(doc.get("n") or 1)
    ]
    counts = usage(prompt_size(doc), len(choices) * (len(tokens) + len(thought) + len(calls)))
    return reply(base(doc, "chat.completion") | {"choices": choices, "usage": counts})


def call_deltas(calls: list[Doc]) -> list[Doc]:
    """Tool calls as OpenAI streams them: the name first with empty arguments, then the arguments in two parts."""
    deltas: list[Doc] = []
    for index, call in enumerate(calls):
        function, arguments = call["function"], call["function"]["arguments"]
        first = {"index": index, "id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": ""}}
        middle = len(arguments) // 2
        rest = [{"index": index, "function": {"arguments": part}} for part in (arguments[:middle], arguments[middle:])]
        deltas += [{"tool_calls": [delta]} for delta in (first, *rest)]
    return deltas


def chat_stream(doc: Doc) -> Script:
    calls, thought = tool_calls(doc), reasoning(doc)
    tokens, finish = shape([] if calls else words(content(doc)), doc)
    asked = bool((doc.get("stream_options") or {}).get("include_usage"))
    common = base(doc, "chat.completion.chunk")
    events: list[bytes] = []

    def event(index: int, delta: Doc, finish: str | None = None, logprobs: Any = None) -> None:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        events.append(data(common | {"choices": [choice]} | ({"usage": None} if asked else {})))

    count = doc.get("n") or 1
    for index in range(count):
        event(index, {"role": "assistant", "content": None if calls else ""})
        for part in thought:
            event(index, {"reasoning_content": part})
        for token in tokens:
            one = {"content": [token_logprob(token, doc.get("top_logprobs", 0))]} if doc.get("logprobs") else None
            event(index, {"content": token}, None, one)
        for delta in call_deltas(calls):
            event(index, delta)
        event(index, {}, "tool_calls" if calls else finish)
    if asked:
        counts = usage(prompt_size(doc), count * (len(tokens) + len(thought) + len(calls)))
        events.append(data(common | {"choices": [], "usage": counts}))
    return sse([*events, DONE])


def completion(doc: Doc) -> Script:
    """Legacy completions. A prompt may be a text, a list of texts, or token ids."""
    prompt = doc["prompt"]
    prompts = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else [prompt]
    texts = ["You said: " + (one if isinstance(one, str) else " ".join(map(str, one))) for one in prompts]
    shaped = [shape(words(text), doc) for text in texts for _ in range(doc.get("n") or 1)]
    common = base(doc, "text_completion") | {"id": "cmpl-fake"}
    counts = usage(sum(len(words(text)) for text in texts), sum(len(tokens) for tokens, _ in shaped))
    if not doc.get("stream"):
        choices = [
            {"index": index, "text": "".join(tokens), "logprobs": None, "finish_reason": finish}
            for index, (tokens, finish) in enumerate(shaped)
        ]
        return reply(common | {"choices": choices, "usage": counts})
    asked = bool((doc.get("stream_options") or {}).get("include_usage"))
    nothing: Doc = {"usage": None} if asked else {}
    events = []
    for index, (tokens, finish) in enumerate(shaped):
        for token in tokens:
            events.append(data(common | {"choices": [{"index": index, "text": token, "logprobs": None, "finish_reason": None}]} | nothing))
        events.append(data(common | {"choices": [{"index": index, "text": "", "logprobs": None, "finish_reason": finish}]} | nothing))
    if asked:
        events.append(data(common | {"choices": [], "usage": counts}))
    return sse([*events, DONE])


def vector(text: str, size: int) -> list[float]:
    """A repeatable unit-free vector of a text; exact in float32."""
    return [((len(text) * 31 + at * 17) % 64) / 64 for at in range(size)]


def embeddings(doc: Doc) -> Script:
    given = doc["input"]
    inputs = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    rows = []
    for index, one in enumerate(inputs):
        values = vector(one if isinstance(one, str) else " ".join(map(str, one)), doc.get("dimensions", 8))
        packed = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        rows.append({"object": "embedding", "index": index, "embedding": packed if doc.get("encoding_format") == "base64" else values})
    return reply({"object": "list", "data": rows, "model": doc["model"], "usage": {"prompt_tokens": len(rows), "total_tokens": len(rows)}})


def rerank(doc: Doc) -> Script:
    asked = doc["query"].split()
    scored = sorted(((sum(word in text for word in asked), -index, text) for index, text in enumerate(doc["documents"])), reverse=True)
    results = [{"index": -index, "relevance_score": score / 4, "document": {"text": text}} for score, index, text in scored]
    chosen = results[: doc.get("top_n", len(results))]
    return reply({"id": "rerank-fake", "model": doc["model"], "results": chosen, "usage": {"total_tokens": 4}})


def models(doc: Doc) -> Script:
    rows = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake", "root": name, "max_model_len": 4096} for name in MODELS]
    return reply({"object": "list", "data": rows})


def tokenize(doc: Doc) -> Script:
    tokens = [sum(word.encode()) % 1000 for word in words(doc.get("prompt") or doc.get("content") or "")]
    return reply({"count": len(tokens), "max_model_len": 4096, "tokens": tokens})


def detokenize(doc: Doc) -> Script:
    text = " ".join(str(token) for token in doc["tokens"])
    return reply({"prompt": text, "content": text})


def health(doc: Doc) -> Script:
    return reply({"status": "ok"})


HANDLERS: dict[tuple[str, str], Callable[[Doc], Script]] = {
    ("POST", "/v1/chat/completions"): chat,
    ("POST", "/v1/completions"): completion,
    ("POST", "/v1/embeddings"): embeddings,
    ("POST", "/v1/rerank"): rerank,
    ("POST", "/tokenize"): tokenize,
    ("POST", "/detokenize"): detokenize,
    ("GET", "/v1/models"): models,
    ("GET", "/health"): health,
}
