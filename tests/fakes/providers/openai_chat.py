"""A scripted OpenAI over real sockets: chat completions, embeddings and models, as strict as the real one.

    fake = OpenAIChat()
    with fake.serving() as root:
        client = openai.OpenAI(base_url=root + "/v1", api_key=KEY)

`fake.docs` are the good requests in order, `fake.rejected` what was refused. With `shows="reasoning_content"` it is one of the servers
that speak OpenAI's format and show their reasoning under that name (and take it back in assistant messages).
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams

from tests.fakes.answers import DONE, data, dumps, reply
from tests.fakes.providers import brain
from tests.fakes.providers.brain import Answer, Call, Result, Settings, Tool, Turn
from tests.fakes.providers.common import Fault, Provider, Rejected, Reply, name_of, pieces
from tests.fakes.providers.media import Media
from tests.fakes.providers.openai_chat_rules import check_request
from tests.fakes.providers.openai_rules import EMBEDDERS, MODELS, image, model_of, pdf, shaped, unbase64, within
from tests.fakes.providers.openai_table import Doc, Refusal, refuse
from tests.fakes.request import Request
from tests.fakes.script import Script

KEY = "sk-fake-key-of-the-tests"
CREATED = 1_700_000_000
FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "calls": "tool_calls"}
HEADERS = (("x-request-id", "req_fake"), ("openai-version", "2020-10-01"), ("openai-processing-ms", "1"))


@dataclass
class OpenAIChat(Provider):
    """The responder. `docs`: the good requests of every kind, as they were sent."""

    name: str = "openai"
    key: str = KEY
    shows: str = ""
    docs: list[Doc] = field(default_factory=list)

    def routes(self) -> dict[tuple[str, str], Callable[[Doc], Reply]]:
        return {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): lambda doc: good({"object": "list", "data": [model_doc(name) for name in (*MODELS, *EMBEDDERS)]}),
        }

    def serve(self, request: Request) -> Reply:
        self._check_key(request)
        handler = self.routes().get((request.method, request.path))
        if handler is None:
            return self.other(request)
        if request.method == "POST" and not (request.header("content-type") or "").startswith("application/json"):
            raise refuse("body")
        return handler(request.doc)

    def other(self, request: Request) -> Reply:
        """A path that is not in the table."""
        raise refuse("path", method=request.method, path=request.path)

    def _check_key(self, request: Request) -> None:
        given = (request.header("authorization") or "").partition("Bearer ")[2]
        if not given:
            raise refuse("no key")
        if given != self.key:
            raise refuse("key", shown=given[:3] + "*" * 8 + given[-4:])

    # Methods.

    def _chat(self, doc: Doc) -> Reply:
        plain = self._without_reasoning(doc)
        shaped(plain, CompletionCreateParamsStreaming if plain_stream(plain) else CompletionCreateParamsNonStreaming, chat=True)
        check_request(plain, model_of(plain))
        self.made += 1
        writer = Writer(plain, name_of(self.made, "chatcmpl-", 29), self.made, self.shows)
        self.docs.append(doc)
        if plain.get("stream"):
            return Reply([*map(data, writer.chunks()), DONE], "text/event-stream; charset=utf-8", stream=True, headers=HEADERS)
        return good(writer.whole())

    def _without_reasoning(self, doc: Any) -> Any:
        """The field that such a server takes back is none of OpenAI's."""
        if not self.shows or not isinstance(doc, dict) or not isinstance(doc.get("messages"), list):
            return doc
        bare = [
            {key: value for key, value in one.items() if key != self.shows}
            if isinstance(one, dict) and one.get("role") == "assistant"
            else one
            for one in doc["messages"]
        ]
        return {**doc, "messages": bare}

    def _embeddings(self, doc: Doc) -> Reply:
        shaped(doc, EmbeddingCreateParams, chat=True)
        if doc["model"] not in EMBEDDERS:
            raise refuse("model", model=doc["model"])
        within(doc, {"dimensions": (1, EMBEDDERS[doc["model"]])})
        texts = [doc["input"]] if isinstance(doc["input"], str) else doc["input"]
        if not texts:
            raise refuse("empty array", "input")
        self.docs.append(doc)
        rows = [vector(text, doc.get("dimensions") or EMBEDDERS[doc["model"]]) for text in texts]
        packed = doc.get("encoding_format") == "base64"
        found = [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() if packed else row,
            }
            for at, row in enumerate(rows)
        ]
        count = sum(len(str(text).split()) for text in texts)
        return good({"object": "list", "data": found, "model": doc["model"], "usage": {"prompt_tokens": count, "total_tokens": count}})

    # Errors.

    def refusal(self, rejected: Rejected) -> Script:
        assert isinstance(rejected, Refusal)
        return reply(rejected.body, status=rejected.status, headers=HEADERS)

    def failure(self, fault: Fault) -> Script:
        return reply(failed(fault), status=fault.status, headers=(*HEADERS, *fault.headers))

    def error_event(self, fault: Fault) -> bytes:
        return data(failed(fault))


def failed(fault: Fault) -> Doc:
    """A fault as an error object. `kind` is its type; the guide's error codes for 429 (T29: no quota is no rate limit)."""
    kinds = {429: "requests", 401: "invalid_request_error", 400: "invalid_request_error"}
    kind = fault.kind or kinds.get(fault.status, "server_error")
    code = {"requests": "rate_limit_exceeded", "tokens": "rate_limit_exceeded", "insufficient_quota": "insufficient_quota"}.get(kind)
    return {"error": {"message": fault.message, "type": kind, "param": None, "code": fault.details or code}}


def good(doc: Any) -> Reply:
    return Reply([dumps(doc)], headers=HEADERS)


def plain_stream(doc: Any) -> bool:
    return isinstance(doc, dict) and doc.get("stream") is True


def model_doc(name: str) -> Doc:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}


def vector(text: object, size: int) -> list[float]:
    return [((len(str(text)) + at) % 64) / 64 for at in range(size)]


# Reading.


def turns(doc: Doc) -> list[Turn]:
    """Messages as turns; the results of one round of calls are one turn."""
    found: list[Turn] = []
    for at, message in enumerate(doc["messages"]):
        if message["role"] == "assistant":
            found.append(_assistant(message))
        elif message["role"] == "tool":
            before = found[-1].results if found and found[-1].results else ()
            one = Result(text_of(message["content"]), message["tool_call_id"])
            found[len(found) - bool(before) :] = [Turn("user", results=(*before, one))]
        elif message["role"] == "user":
            found.append(_user(message, f"messages[{at}]"))
    return found


def _assistant(message: Doc) -> Turn:
    calls = message.get("tool_calls") or ()
    found = tuple(Call(one["function"]["name"], json.loads(one["function"]["arguments"] or "{}"), one["id"]) for one in calls)
    return Turn("assistant", text_of(message.get("content")), calls=found)


def _user(message: Doc, path: str) -> Turn:
    content = message["content"]
    if isinstance(content, str):
        return Turn("user", content)
    media = [media_of(part, f"{path}.content[{at}]") for at, part in enumerate(content) if part["type"] != "text"]
    return Turn("user", "\n".join(part["text"] for part in content if part["type"] == "text"), tuple(media))


def text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def media_of(part: Doc, path: str) -> Media:
    """A part's file. Raises Refusal where its bytes are not what they should be."""
    if part["type"] == "image_url":
        return image(part["image_url"]["url"], f"{path}.image_url.url")
    if part["type"] == "input_audio":
        return Media(f"audio/{part['input_audio']['format']}", unbase64(part["input_audio"]["data"], f"{path}.input_audio.data"))
    return pdf(part["file"].get("file_data", ""), f"{path}.file.file_data")


def settings(doc: Doc) -> Settings:
    choice, model = doc.get("tool_choice") or "auto", model_of(doc)
    named = choice["function"]["name"] if isinstance(choice, dict) else None
    form = doc.get("response_format") or {}
    stop = doc.get("stop") or ()
    return Settings(
        system="\n".join(text_of(one["content"]) for one in doc["messages"] if one["role"] in ("system", "developer")),
        tools=tuple(_tool(one["function"]) for one in doc.get("tools") or () if one["type"] == "function"),
        force=f"={named}" if named else {"none": "none", "required": "any"}.get(str(choice), "auto"),
        parallel=doc.get("parallel_tool_calls") is not False,
        schema=form.get("json_schema", {}).get("schema"),
        json_only=form.get("type") in ("json_object", "json_schema"),
        thinking=bool(model.efforts) and doc.get("reasoning_effort") not in (None, "none", "minimal"),
        max_tokens=doc.get("max_completion_tokens") or doc.get("max_tokens"),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
    )


def _tool(function: Doc) -> Tool:
    return Tool(function["name"], function.get("parameters") or {"type": "object", "properties": {}}, function.get("description") or "")


# Writing.


@dataclass
class Writer:
    """One answer as documents. Every choice says the same."""

    doc: Doc
    id: str
    serial: int
    shows: str
    answer: Answer = field(init=False)
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        history, asked = turns(self.doc), settings(self.doc)
        self.answer = brain.answer(history or [Turn("user")], asked)
        self.prompt = brain.prompt_tokens(history, asked)

    def whole(self) -> Doc:
        choices = [
            {"index": at, "message": self._message(at), "logprobs": self._logprobs(self.answer.text), "finish_reason": self._finish}
            for at in range(self._count)
        ]
        return {
            "id": self.id, "object": "chat.completion", "created": CREATED, "model": self.doc["model"], "choices": choices,
            "usage": self._usage(), "service_tier": "default", "system_fingerprint": "fp_fake",
        }  # fmt: skip

    def chunks(self) -> Iterator[Doc]:
        """Choices one after another; the usage in a chunk of its own, `usage: null` in the others (T42)."""
        asked = (self.doc.get("stream_options") or {}).get("include_usage")
        for at in range(self._count):
            for delta, text in self._deltas(at):
                yield self._chunk([self._choice(at, delta, None, text)], {"usage": None} if asked else {})
            yield self._chunk([self._choice(at, {}, self._finish, "")], {"usage": None} if asked else {})
        if asked:
            yield self._chunk([], {"usage": self._usage()})

    @property
    def _count(self) -> int:
        return self.doc.get("n") or 1

    @property
    def _finish(self) -> str:
        """A named tool ends with `stop` (T25)."""
        return "stop" if isinstance(self.doc.get("tool_choice"), dict) else FINISH[self.answer.finish]

    def _message(self, at: int) -> Doc:
        calls = [
            {"id": name, "type": "function", "function": {"name": one.name, "arguments": dumps(one.arguments).decode()}}
            for name, one in self._calls(at)
        ]
        message: Doc = {
            "role": "assistant",
            "content": None if calls and not self.answer.text else self.answer.text,
            "refusal": None,
            "annotations": [],
        }
        if self.shows and self.answer.thinking:
            message[self.shows] = self.answer.thinking
        return message | ({"tool_calls": calls} if calls else {})

    def _calls(self, at: int) -> list[tuple[str, Call]]:
        return [(name_of(self.serial * 1000 + at * 100 + index, "call_", 24), one) for index, one in enumerate(self.answer.calls)]

    def _deltas(self, at: int) -> Iterator[tuple[Doc, str]]:
        """Deltas with the text that their logprobs are for. The first has the role, and of each call id, name and no arguments (T20)."""
        calls = self._calls(at)
        yield {"role": "assistant", "content": None if calls and not self.answer.text else "", "refusal": None}, ""
        if self.shows:
            for piece in pieces(self.answer.thinking):
                yield {self.shows: piece}, ""
        for word in brain.tokens(self.answer.text):
            yield {"content": word}, word
        for index, (name, call) in enumerate(calls):
            begun = {"index": index, "id": name, "type": "function", "function": {"name": call.name, "arguments": ""}}
            yield {"tool_calls": [begun]}, ""
            for piece in pieces(dumps(call.arguments).decode()):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, ""

    def _choice(self, at: int, delta: Doc, finish: str | None, text: str) -> Doc:
        return {"index": at, "delta": delta, "logprobs": self._logprobs(text), "finish_reason": finish}

    def _chunk(self, choices: list[Doc], more: Doc) -> Doc:
        return {
            "id": self.id, "object": "chat.completion.chunk", "created": CREATED, "model": self.doc["model"], "service_tier": "default",
            "system_fingerprint": "fp_fake", "choices": choices, **more, "obfuscation": "xK2",
        }  # fmt: skip

    def _logprobs(self, text: str) -> Doc | None:
        if not self.doc.get("logprobs"):
            return None
        top, other = self.doc.get("top_logprobs") or 0, {"token": "~", "logprob": -3.5, "bytes": [126]}
        rows = [{"token": word, "logprob": -0.125, "bytes": list(word.encode())} for word in brain.tokens(text)]
        return {
            "content": [{**row, "top_logprobs": [row, other][:top]} for row in rows],
            "refusal": None,
        }

    def _usage(self) -> Doc:
        """Completion tokens have the reasoning in them, prompt tokens the cached ones (T41)."""
        thought = self.answer.thinking_tokens
        completion = (self.answer.output_tokens + thought) * self._count
        return {
            "prompt_tokens": self.prompt, "completion_tokens": completion, "total_tokens": self.prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": thought * self._count, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        }  # fmt: skip
