"""A scripted OpenAI with the Responses API beside chat completions: stored responses, events with sequence numbers, strict items.

    fake = OpenAIResponses()
    with fake.serving() as root:
        client = openai.OpenAI(base_url=root + "/v1", api_key=KEY)

Reasoning shows as a summary when one is asked for; its encrypted content when it is included. A fault of kind `failed` with `error`
ends a stream with `response.failed` instead of an `error` event. Paths: responses, responses/input_tokens, responses/{id} (get,
delete), responses/{id}/input_items.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming, ResponseCreateParamsStreaming

from tests.fakes.providers import brain
from tests.fakes.providers.brain import Settings, Tool
from tests.fakes.providers.common import Fault, Reply, opened
from tests.fakes.providers.openai_chat import HEADERS, OpenAIChat, failed, good, plain_stream
from tests.fakes.providers.openai_events import Writer, event
from tests.fakes.providers.openai_items import Memory, check_items, completed, listed, system_of, turns
from tests.fakes.providers.openai_rules import Model, fits, function_schema, model_of, output_schema, shaped, within
from tests.fakes.providers.openai_table import Doc, refuse
from tests.fakes.request import Request

ONE = re.compile(r"/v1/responses/(resp_\w+)(/input_items)?")
MOVED = {
    "messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort", "verbosity": "text.verbosity", "functions": "tools", "function_call": "tool_choice",
}  # fmt: skip
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2), "top_p": (0.0, 1), "top_logprobs": (0, 20), "max_output_tokens": (16, 10**9), "max_tool_calls": (1, 10**9),
}  # fmt: skip


@dataclass
class Kept:
    """A stored response: its document, what was asked, and the whole history with its output."""

    doc: Doc
    asked: list[Doc]
    items: list[Doc]


@dataclass
class OpenAIResponses(OpenAIChat):
    """The responder. `stored` by response id."""

    stored: dict[str, Kept] = field(default_factory=dict)
    paired: dict[str, str] = field(default_factory=dict)  # function call → the reasoning that it came with
    writer: Writer | None = None

    def routes(self) -> dict[tuple[str, str], Callable[[Doc], Reply]]:
        return {
            **super().routes(),
            ("POST", "/v1/responses"): self._create,
            ("POST", "/v1/responses/input_tokens"): self._count,
        }

    def other(self, request: Request) -> Reply:
        match = ONE.fullmatch(request.path)
        if match is None or request.method not in ("GET", "DELETE") or (request.method == "DELETE" and match[2]):
            return super().other(request)
        if match[1] not in self.stored:
            raise refuse("response", id=match[1])
        if request.method == "DELETE":
            del self.stored[match[1]]
            return good({"id": match[1], "object": "response", "deleted": True})
        kept = self.stored[match[1]]
        if not match[2]:
            return good(kept.doc)
        rows = [{"id": f"msg_in{at}", **item} for at, item in enumerate(kept.asked)][::-1]
        return good({"object": "list", "data": rows, "first_id": rows[0]["id"], "last_id": rows[-1]["id"], "has_more": False})

    def _create(self, doc: Doc) -> Reply:
        doc = self._shaped(doc, ResponseCreateParamsStreaming if plain_stream(doc) else ResponseCreateParamsNonStreaming)
        model = model_of(doc)
        asked, before = listed(doc.get("input")), self._before(doc)
        if not asked and not before:
            raise refuse("missing", "input")
        check_settings(doc, model, asked)
        check_items(asked, before, Memory(self._sealed, self.paired.get, self._kept))
        items = [*before, *asked]
        history, wanted = turns(items), settings(doc, items, model)
        self.docs.append(doc)
        self.made += 1
        writer = self.writer = Writer(
            doc, self.made, self.secret, brain.answer(history or [brain.Turn("user")], wanted), brain.prompt_tokens(history, wanted)
        )
        self._remember(writer, asked, items)
        if doc.get("stream"):
            return Reply([event(one) for one in writer.events()], "text/event-stream; charset=utf-8", stream=True, headers=HEADERS)
        return good(writer.whole())

    def _shaped(self, doc: Any, wanted: Any) -> Doc:
        """The request by the SDK's type, except for what the service fills in itself. Gives it filled in."""
        for param, to in MOVED.items():
            if isinstance(doc, dict) and param in doc:
                raise refuse("moved", param, to=to)
        full = doc
        if isinstance(doc, dict):
            full = {**doc}
            if isinstance(doc.get("input"), list):
                full["input"] = [completed(item) for item in doc["input"]]
            if isinstance(doc.get("tools"), list):
                full["tools"] = [
                    {"strict": True, **tool} if isinstance(tool, dict) and tool.get("type") == "function" else tool for tool in doc["tools"]
                ]
        shaped(full, wanted, chat=False)
        if "model" not in full:
            raise refuse("missing", "model")
        assert isinstance(full, dict)
        return full

    def _before(self, doc: Doc) -> list[Doc]:
        name = doc.get("previous_response_id")
        if name is None:
            return []
        if name not in self.stored:
            raise refuse("previous", "previous_response_id", id=name)
        return self.stored[name].items

    def _remember(self, writer: Writer, asked: list[Doc], items: list[Doc]) -> None:
        whole = writer.whole()
        reasoning = next((item["id"] for item in whole["output"] if item["type"] == "reasoning"), None)
        if reasoning is not None:
            self.paired.update((item["id"], reasoning) for item in whole["output"] if item["type"] == "function_call")
        if writer.doc.get("store") is not False:
            self.stored[writer.id] = Kept(whole, asked, [*items, *whole["output"]])

    def _sealed(self, value: str) -> bool:
        return opened(self.secret, value) is not None

    def _kept(self, name: str) -> bool:
        return any(item.get("id") == name for kept in self.stored.values() for item in kept.doc["output"])

    def _count(self, doc: Doc) -> Reply:
        doc = self._shaped(doc, InputTokenCountParams)
        model = model_of(doc)
        items = [*self._before(doc), *listed(doc.get("input"))]
        return good({"object": "response.input_tokens", "input_tokens": brain.prompt_tokens(turns(items), settings(doc, items, model))})

    def error_event(self, fault: Fault) -> bytes:
        if not self.requests[-1].path.endswith("/responses") or self.writer is None:
            return super().error_event(fault)
        if fault.kind == "failed":
            return event(self.writer.failed(fault.after, fault.message))
        error = failed(fault)["error"]
        return event(
            {
                "type": "error",
                "code": error["code"] or error["type"],
                "message": fault.message,
                "param": None,
                "sequence_number": fault.after,
            }
        )


# Refusals.


def check_settings(doc: Doc, model: Model, asked: list[Doc]) -> None:
    """Raises Refusal for the first thing beside the items that the service would refuse."""
    within(doc, RANGES)
    _limits(doc, model)
    _reasoning(doc, model)
    _tools(doc)
    form = (doc.get("text") or {}).get("format") or {}
    if form.get("type") == "json_object" and "json" not in json.dumps([asked, doc.get("instructions")]).lower():
        raise refuse("say json", "text.format", where="input")
    if form.get("type") == "json_schema":
        fits("text.format.name", form["name"])
        why = output_schema(form["schema"], bool(form.get("strict")))
        if why is not None:
            raise refuse("text schema", "text.format.schema", name=form["name"], why=why)


def _limits(doc: Doc, model: Model) -> None:
    if (doc.get("max_output_tokens") or 0) > model.output:
        raise refuse(
            "above", "max_output_tokens", kind="integer", limit=model.output, value=doc["max_output_tokens"], code="integer_above_max_value"
        )
    if doc.get("stream_options") is not None and not doc.get("stream"):
        raise refuse("only with", "stream_options", other="stream")
    for param in ("background", "conversation", "prompt"):
        if doc.get(param):
            raise refuse("not spoken", param, value=doc[param])
    if len(doc.get("metadata") or ()) > 16:
        raise refuse("long array", "metadata", limit=16, value=len(doc["metadata"]))


def _reasoning(doc: Doc, model: Model) -> None:
    reasoning = doc.get("reasoning") or {}
    effort = reasoning.get("effort")
    if not model.efforts:
        for param in ("effort", "summary"):
            if reasoning.get(param) is not None:
                raise refuse("unsupported", f"reasoning.{param}")
        if "reasoning.encrypted_content" in (doc.get("include") or ()):
            raise refuse("no encryption", "include")
        return
    if effort is not None and effort not in model.efforts:
        raise refuse("effort", "reasoning.effort", value=effort, values=", ".join(f"'{one}'" for one in model.efforts))
    if model.effort(effort) != "none":
        for param in ("temperature", "top_p", "top_logprobs"):
            if doc.get(param) not in (None, 1):
                raise refuse("unsupported", param)


def _tools(doc: Doc) -> None:
    names = set()
    for at, tool in enumerate(doc.get("tools") or ()):
        if tool["type"] != "function":
            raise refuse("not spoken", f"tools[{at}]", value=tool["type"])
        fits(f"tools[{at}].name", tool["name"])
        if tool["name"] in names:
            raise refuse("two tools", f"tools[{at}].name", name=tool["name"])
        names.add(tool["name"])
        function_schema(tool["name"], tool["parameters"], tool["strict"] is not False, f"tools[{at}].parameters")
    choice = doc.get("tool_choice")
    wanted = [choice] if isinstance(choice, dict) and choice.get("type") == "function" else []
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        wanted = choice["tools"]
    for one in wanted:
        if not isinstance(one.get("name"), str) or one["name"] not in names:
            raise refuse("tool choice", "tool_choice", name=f"function.{one.get('name')}")
    if choice == "required" and not names:
        raise refuse("without tools", "tool_choice")


# Reading.


def settings(doc: Doc, items: list[Doc], model: Model) -> Settings:
    choice, form, reasoning = doc.get("tool_choice") or "auto", (doc.get("text") or {}).get("format") or {}, doc.get("reasoning")
    allowed = [one.get("name") for one in choice["tools"]] if isinstance(choice, dict) and choice["type"] == "allowed_tools" else None
    mode = choice.get("mode", "=" + choice.get("name", "")) if isinstance(choice, dict) else choice
    return Settings(
        system="\n".join([*([doc["instructions"]] if doc.get("instructions") else []), *system_of(items)]),
        tools=tuple(
            Tool(one["name"], one["parameters"] or {"type": "object", "properties": {}}, one.get("description") or "")
            for one in doc.get("tools") or ()
            if allowed is None or one["name"] in allowed
        ),
        force={"required": "any"}.get(mode, mode),
        parallel=doc.get("parallel_tool_calls") is not False,
        schema=form.get("schema"),
        json_only=form.get("type") in ("json_object", "json_schema"),
        thinking=bool(model.efforts) and reasoning is not None and reasoning.get("effort") not in ("none", "minimal"),
        max_tokens=doc.get("max_output_tokens"),
    )
