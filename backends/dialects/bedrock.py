"""chat → Amazon Bedrock's Converse and ConverseStream, and back. Pure.

Format: botocore's service model of bedrock-runtime (2023-09-30) and the Bedrock API reference.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from backends import wire
from backends.dialects import bedrock_format as formats
from backends.dialects import bedrock_params as params
from backends.dialects.bedrock_answer import Memo, reply
from backends.dialects.bedrock_chat import Turns, cap_points, turns
from backends.dialects.bedrock_job import Block, Job, given
from backends.dialects.bedrock_stream import BedrockStream
from backends.dialects.types import Context, Request, Stream
from backends.wire import Doc

_EVENTS = (("accept", "application/vnd.amazon.eventstream"),)


class Bedrock:
    """A `backends.dialects.types.Dialect`. Its streams are in the binary framing of `eventstream`."""

    name = "bedrock"

    def request(self, doc: Doc, context: Context) -> Request:
        """Raises `Fault` (bad_request) for what Bedrock would refuse, and where `context.strict` for what it cannot honour."""
        job = Job(context)
        params.unknown(doc, job)
        history = turns(doc, job)
        extra = params.thinking(doc, job, history)
        inference = params.inference(doc, job, extra)
        schema = formats.read_format(doc, job)
        body: dict[str, Any] = {"messages": history.messages}
        memo = _tools(doc, job, history, schema, body, forcing=job.facts.forced_tools and not params.by_budget(extra))
        if schema is not None and job.facts.json_schema == "native":
            body["outputConfig"] = formats.native(schema)
        _lists(history.system, body, job)
        body |= {key: value for key, value in (("inferenceConfig", inference), ("serviceTier", params.tier(doc, job))) if value}
        body |= {key: doc[key] for key in params.NATIVE if given(doc, key)}
        if extra:
            body["additionalModelRequestFields"] = {**extra, **wire.sub(doc, "additionalModelRequestFields")}
        path = f"/model/{quote(context.model, safe='')}/{'converse-stream' if context.stream else 'converse'}"
        return Request(path, wire.encode(body), _EVENTS if context.stream else (), tuple(job.notes), memo)

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        """Raises `Fault` (upstream) when `body` is no answer of Converse."""
        return reply(body, request.memo, context)

    def stream(self, request: Request, context: Context) -> Stream:
        return BedrockStream(request.memo, context)


def _tools(doc: Doc, job: Job, history: Turns, schema: formats.Schema | None, body: dict[str, Any], *, forcing: bool) -> Memo:
    """Puts `toolConfig` into `body`, with the tool that emulates a schema among them; what the answer must be read with."""
    blocks, choice = params.choice(doc, job, history, params.tools(doc, job, history), forcing)
    memo = Memo(single=params.single(doc, job, bool(blocks)))
    # Where the client has one of its own tools called, there is no text that could follow a schema.
    if schema is not None and job.facts.json_schema == "tool" and choice is None:
        name, tool = formats.as_tool(schema, {block["toolSpec"]["name"] for block in blocks if "toolSpec" in block}, job)
        memo.format = name
        if forcing:
            choice = {"any": {}} if blocks and not job.idle else {"tool": {"name": name}}
        else:
            job.instructions.append(f"Give your answer by calling the tool {name}, not as text.")
        blocks = [*blocks, tool]
    elif job.idle:
        job.instructions.append("Call no tool now; answer in text.")
    if blocks:
        body["toolConfig"] = {"tools": blocks} | ({"toolChoice": choice} if choice is not None else {})
    return memo


def _lists(system: list[Block], body: dict[str, Any], job: Job) -> None:
    """Puts `system` into `body`, our own instructions last, and bounds the cache points of all lists."""
    cap_points([body.get("toolConfig", {}).get("tools", []), system, *(turn["content"] for turn in body["messages"])], job)
    system += [{"text": text} for text in dict.fromkeys(job.instructions)]
    if system:
        body["system"] = system
