"""The clients: official SDKs, each having the conversation in the words of its own surface and keeping its own history.

A client knows nothing of who is behind the gateway. It sends back what its SDK's types carry, and no more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import anthropic
import openai
from openai.types.responses import Response

from tests.fakes.providers.brain import SYSTEM, WEATHER, Call, Step
from tests.fakes.providers.media import Media

Doc = dict[str, Any]
HEADER = "x-pointsman-parameters"
TIMEOUT, LIMIT = 60, 4096  # seconds; tokens of an answer
# What OpenAI's own types of an assistant's message have; the SDK's reader of streams puts more into its calls, and so do we.
PLAIN: Any = {"role": True, "content": True, "refusal": True,
              "tool_calls": {"__all__": {"id": True, "type": True, "function": {"name", "arguments"}}}}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """One answer as the client's own user sees it. `thinking`: "" where none was shown."""

    text: str
    calls: tuple[Call, ...]
    thinking: str


@dataclass
class Client:
    """One conversation. `more`: options of every request; `calls`: those of the last answer. `turn` blocks; SDK errors pass.

    A context manager, which closes its connections."""

    url: str
    stream: bool
    model: str = "m"
    system: str = SYSTEM
    more: Mapping[str, Any] = field(default_factory=dict)
    history: list[Doc] = field(default_factory=list)
    calls: tuple[Call, ...] = ()
    reports: list[str] = field(default_factory=list)  # what became of parameters, request by request
    http: Any = field(init=False)  # of the SDK's own kind
    connect: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        hooks = {"response": [self._hear]}
        self.http = type(self).connect(timeout=TIMEOUT, trust_env=False, verify=False, event_hooks=hooks)

    def turn(self, step: Step) -> Said:
        said = self.ask(step)
        self.calls = said.calls
        return said

    def ask(self, step: Step) -> Said:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def _hear(self, answer: Any) -> None:
        self.reports.append(answer.headers.get(HEADER, ""))

    @property
    def options(self) -> Doc:
        """What every SDK's client is made with."""
        return {"api_key": "none", "max_retries": 0, "http_client": self.http}

    def results(self, step: Step) -> list[tuple[str, str]]:
        """The id and the result of each call of the last answer, in their order."""
        return [(call.id, step.results[call.arguments["city"]]) for call in self.calls]


def b64(media: Media) -> str:
    return base64.b64encode(media.data).decode()


def uri(media: Media) -> str:
    return f"data:{media.media_type};base64,{b64(media)}"


class Chat(Client):
    """`openai`, Chat Completions. Only OpenAI's own fields of an answer go back: neither reasoning nor signatures."""

    connect = openai.DefaultHttpxClient

    def ask(self, step: Step) -> Said:
        self.history += self._added(step)
        doc: Doc = {"model": self.model, "messages": self._system() + self.history, "max_completion_tokens": LIMIT, **self.more}
        if step.tools:
            function = {"name": WEATHER.name, "description": WEATHER.description, "parameters": WEATHER.schema}
            doc |= {"tools": [{"type": "function", "function": function}], "parallel_tool_calls": True}
        if step.thinking:
            doc["reasoning_effort"] = "medium"
        if step.schema is not None:
            form = {"name": "report", "strict": True, "schema": step.schema}
            doc["response_format"] = {"type": "json_schema", "json_schema": form}
        message = self._message(doc)
        self.history.append(message.model_dump(include=PLAIN, exclude_none=True))
        calls = tuple(Call(c.function.name, json.loads(c.function.arguments), c.id) for c in message.tool_calls or ())
        return Said(message.content or "", calls, (message.model_extra or {}).get("reasoning_content") or "")

    def _system(self) -> list[Doc]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _added(self, step: Step) -> list[Doc]:
        if step.results:
            return [{"role": "tool", "tool_call_id": id, "content": said} for id, said in self.results(step)]
        text = {"type": "text", "text": step.text}
        if step.media is None:
            return [{"role": "user", "content": [text]}]
        return [{"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": uri(step.media)}}]}]

    def _message(self, doc: Doc) -> Any:
        client = openai.OpenAI(base_url=self.url, **self.options)
        if not self.stream:
            return client.chat.completions.create(**doc).choices[0].message
        with client.chat.completions.stream(**doc) as events:
            return events.get_final_completion().choices[0].message


class Messages(Client):
    """`anthropic`, Messages. The blocks of an answer go back as they came, as Anthropic's documentation asks for."""

    connect = anthropic.DefaultHttpxClient
    thinking: Mapping[str, Any] = {"type": "enabled", "budget_tokens": 1024}

    def ask(self, step: Step) -> Said:
        self.history.append({"role": "user", "content": self._added(step)})
        doc: Doc = {"model": self.model, "max_tokens": LIMIT, "messages": self.history, **self.more}
        if self.system:
            doc["system"] = self.system
        if step.tools:
            doc["tools"] = [{"name": WEATHER.name, "description": WEATHER.description, "input_schema": WEATHER.schema}]
        if step.thinking:
            doc["thinking"] = dict(self.thinking)
        if step.schema is not None:
            doc["output_config"] = {"format": {"type": "json_schema", "schema": step.schema}}
        message = self._message(doc)
        self.history.append(message.to_param())  # type: ignore[arg-type]
        blocks = message.content
        calls = tuple(Call(block.name, dict(block.input), block.id) for block in blocks if block.type == "tool_use")
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        text = "".join(block.text for block in blocks if block.type == "text")
        return Said(text, calls, "".join(block.thinking for block in blocks if block.type == "thinking"))

    def _added(self, step: Step) -> list[Doc]:
        if step.results:
            return [{"type": "tool_result", "tool_use_id": id, "content": said} for id, said in self.results(step)]
        text = {"type": "text", "text": step.text}
        if step.media is None:
            return [text]
        return [text, {"type": "image", "source": {"type": "base64", "media_type": step.media.media_type, "data": b64(step.media)}}]

    def _message(self, doc: Doc) -> anthropic.types.Message:
        client = anthropic.Anthropic(base_url=self.url.removesuffix("/v1"), **self.options)
        if not self.stream:
            return client.messages.create(**doc)
        with client.messages.stream(**doc) as events:
            return events.get_final_message()


class Adaptive(Messages):
    """As newer Claude models want it: they think as they like, and show it when asked to."""

    thinking = {"type": "adaptive", "display": "summarized"}


class Responses(Client):
    """`openai`, Responses, by `previous_response_id`: what was said is kept by who answers."""

    connect = openai.DefaultHttpxClient
    before: str = ""

    def ask(self, step: Step) -> Said:
        doc: Doc = {"model": self.model, "max_output_tokens": LIMIT, **self._input(self._added(step)), **self.more}
        if self.system:
            doc["instructions"] = self.system
        if step.tools:
            doc["tools"] = [{"type": "function", "name": WEATHER.name, "description": WEATHER.description,
                             "parameters": WEATHER.schema, "strict": True}]  # fmt: skip
        if step.thinking:
            doc["reasoning"] = {"effort": "medium", "summary": "auto"}
        if step.schema is not None:
            doc["text"] = {"format": {"type": "json_schema", "name": "report", "strict": True, "schema": step.schema}}
        answer = self._response(doc)
        assert answer.status == "completed", answer.error
        self._keep(answer)
        found = [item for item in answer.output if item.type == "function_call"]
        thoughts = [item for item in answer.output if item.type == "reasoning"]
        shown = "".join(part.text for item in thoughts for part in (*item.summary, *(item.content or ())))
        return Said(answer.output_text, tuple(Call(c.name, json.loads(c.arguments), c.call_id) for c in found), shown)

    def _added(self, step: Step) -> list[Doc]:
        if step.results:
            return [{"type": "function_call_output", "call_id": id, "output": said} for id, said in self.results(step)]
        content: list[Doc] = [{"type": "input_text", "text": step.text}]
        if step.media is not None:
            content.append({"type": "input_image", "image_url": uri(step.media), "detail": "auto"})
        return [{"role": "user", "content": content}]

    def _input(self, added: list[Doc]) -> Doc:
        return {"input": added, "previous_response_id": self.before} if self.before else {"input": added}

    def _keep(self, answer: Response) -> None:
        self.before = answer.id

    def _response(self, doc: Doc) -> Response:
        client = openai.OpenAI(base_url=self.url, **self.options)
        if not self.stream:
            return client.responses.create(**doc)
        with client.responses.stream(**doc) as events:
            seen = list(events)
            answer = events.get_final_response()
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        return answer


class Items(Responses):
    """All items of the conversation are sent again each time, those of answers as they came."""

    def _input(self, added: list[Doc]) -> Doc:
        self.history += added
        return {"input": self.history}

    def _keep(self, answer: Response) -> None:
        for item in answer.output:
            kept = item.model_dump(exclude_unset=True)
            kept.pop("parsed_arguments", None)  # these two are of the SDK's own reader of streams
            if item.type == "message":
                kept["content"] = [{key: value for key, value in part.items() if key != "parsed"} for part in kept["content"]]
            self.history.append(kept)


class Sealed(Items):
    """Likewise, and nobody keeps anything: what was thought travels encrypted."""

    def _input(self, added: list[Doc]) -> Doc:
        return {**super()._input(added), "store": False, "include": ["reasoning.encrypted_content"]}
