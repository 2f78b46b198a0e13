"""The official client reads what the surface writes: its accumulator over a real socket, its types over whole answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import openai
import pytest
from pydantic import BaseModel

from backends import wire
from backends.dialects.responses import Responses
from backends.dialects.types import Context
from backends.types import Fault

CONTEXT = Context("req-1", 1_700_000_000, "m", True)
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


class Played(BaseHTTPRequestHandler):
    """Translates what the client asks, and plays one chat answer back through the surface."""

    chat: ClassVar[list[dict[str, Any]]] = []
    fault: ClassVar[Fault | None] = None
    seen: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        surface, asked = Responses(), wire.parse(self.rfile.read(int(self.headers["content-length"])))
        try:
            doc, _ = surface.request(asked)
        except Fault as e:
            self._send(400, "application/json", surface.fault(e, CONTEXT.id))
            return
        self.seen.append(json.loads(wire.encode(doc)))
        if not wire.flag(asked, "stream"):
            self._send(200, "application/json", surface.reply(wire.encode(self.chat[0]), asked, CONTEXT))
            return
        stream = surface.stream(asked, CONTEXT)
        out = b"".join(stream.feed(b"data: %b\n\n" % wire.encode(chunk)) for chunk in self.chat)
        out += stream.fail(self.fault) if self.fault is not None else stream.feed(b"data: [DONE]\n\n") + stream.close()
        self._send(200, "text/event-stream", out)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its failures."""


@contextmanager
def client(*chat: dict[str, Any], fault: Fault | None = None) -> Iterator[tuple[openai.OpenAI, list[dict[str, Any]]]]:
    """The official client of a server that plays `chat`, and the chat documents that it made of the requests."""
    kind = type("Handler", (Played,), {"chat": list(chat), "fault": fault, "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as made:
                yield made, kind.seen
        finally:
            server.shutdown()
            thread.join()


def chunk(delta: dict[str, Any], finish: str | None = None, **keys: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **keys}


TOOLS: Any = [
    {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}, "strict": False},
    {"type": "custom", "name": "patch"},
]
TURN = [
    chunk({"role": "assistant", "reasoning_content": "Hm"}),
    chunk({"reasoning_content": "m."}),
    chunk({"thinking_blocks": [{"type": "thinking", "thinking": "Hmm.", "signature": "s"}]}),
    chunk({"content": "Let me "}),
    chunk({"content": "look."}),
    chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"q":'}}]}),
    chunk({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "patch", "arguments": '{"input":"*** é"}'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"a"}'}}]}),
    chunk({}, "tool_calls"),
    {"choices": [], "usage": USAGE},
]


def test_the_accumulator_arrives_at_the_final_response() -> None:
    with client(*TURN) as (sdk, seen), sdk.responses.stream(model="m", input="x", tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert seen[0]["stream_options"] == {"include_usage": True}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "Let me look." and final.model == "m-1" and final.id == "resp_req-1"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    assert final.output[2].type == "function_call" and final.output[2].arguments == '{"q":"a"}'
    assert final.output[3].type == "custom_tool_call" and final.output[3].input == "*** é"
    assert final.usage is not None and final.usage.total_tokens == 14
    texts = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    calls = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert (texts, calls) == (["Let me ", "Let me look."], ['{"q":', '{"q":"a"}'])


def test_its_output_goes_back_as_it_is() -> None:
    """As openai-agents does without a store: every item of the answer is sent again."""
    with client(*TURN) as (sdk, seen):
        with sdk.responses.stream(model="m", input="x", tools=TOOLS) as stream:
            first = stream.get_final_response()
        again: Any = [
            {"role": "user", "content": "x"},
            *(item.to_dict() for item in first.output),
            {"type": "function_call_output", "call_id": "c1", "output": "A"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "B"},
        ]
        with sdk.responses.stream(model="m", input=again, tools=TOOLS) as stream:
            stream.until_done()
    _, assistant, one, two = seen[1]["messages"]
    assert assistant["thinking_blocks"] == [{"type": "thinking", "thinking": "Hmm.", "signature": "s"}]
    assert assistant["content"] == "Let me look." and [call["id"] for call in assistant["tool_calls"]] == ["c1", "c2"]
    assert assistant["tool_calls"][1]["function"]["arguments"] == '{"input":"*** é"}'
    assert (one["content"], two["content"]) == ("A", "B")


class Answer(BaseModel):
    a: int


def test_structured_output_is_parsed() -> None:
    with client(chunk({"content": '{"a":1}'}, "stop")) as (sdk, seen):
        parsed = sdk.responses.parse(model="m", input="x", text_format=Answer)
        with sdk.responses.stream(model="m", input="x", text_format=Answer) as stream:
            assert stream.get_final_response().output_parsed == Answer(a=1)
    assert parsed.output_parsed == Answer(a=1)
    assert seen[0]["response_format"]["json_schema"]["schema"]["required"] == ["a"]


def test_an_answer_cut_by_its_length_is_incomplete() -> None:
    with client(chunk({"content": "a"}), chunk({}, "length")) as (sdk, _):
        last = list(sdk.responses.create(model="m", input="x", stream=True))[-1]
    assert last.type == "response.incomplete" and last.response.status == "incomplete"
    assert last.response.incomplete_details is not None and last.response.incomplete_details.reason == "max_output_tokens"


def test_an_error_in_a_stream_raises() -> None:
    with client(chunk({"content": "a"}), fault=Fault("upstream", "The engine died.")) as (sdk, _):
        with pytest.raises(openai.APIError, match="The engine died"):
            list(sdk.responses.create(model="m", input="x", stream=True))


def test_a_refused_request_raises_with_its_parameter() -> None:
    with client() as (sdk, _), pytest.raises(openai.BadRequestError) as e:
        sdk.responses.create(model="m", input="x", background=True)
    assert e.value.param == "background"


def test_an_asynchronous_client_reads_the_same() -> None:
    async def final(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
            async with sdk.responses.stream(model="m", input="x", tools=TOOLS) as stream:
                return (await stream.get_final_response()).output_text

    with client(*TURN) as (sdk, _):
        assert asyncio.run(final(str(sdk.base_url))) == "Let me look."
