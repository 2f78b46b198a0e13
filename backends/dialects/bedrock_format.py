"""Structured output for Converse: native, as a tool that must be called, or as an instruction. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.bedrock_job import Block, Job, bad, read
from backends.dialects.bedrock_params import spec
from backends.wire import Doc


class Schema(msgspec.Struct):
    name: str = "answer"
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class Format(msgspec.Struct):
    type: str
    json_schema: Schema | None = None


_format = msgspec.json.Decoder(Format)


def read_format(doc: Doc, job: Job) -> Schema | None:
    """The schema that the answer must follow; None for text and for plain JSON, which becomes an instruction."""
    asked = read(doc, "response_format", _format)
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        job.instructions.append("Answer with one JSON object and nothing else: no Markdown, no explanation.")
        job.note("response_format", "emulated", "an instruction: Bedrock has no JSON mode without a schema")
        return None
    if asked.type != "json_schema" or asked.json_schema is None or asked.json_schema.schema is None:
        raise bad("'response_format' must be of type text, json_object, or json_schema with a 'schema'.", "response_format")
    if job.facts.json_schema == "none":
        job.cannot("response_format", "it cannot be held to a schema")
        return None
    return asked.json_schema


def native(schema: Schema) -> Block:
    """`outputConfig`: the schema goes as a string."""
    definition = {"schema": wire.encode(schema.schema).decode(), "name": schema.name}
    if schema.description:
        definition["description"] = schema.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}


def as_tool(schema: Schema, taken: set[str], job: Job) -> tuple[str, Block]:
    """A tool whose input is the answer, under a name that no tool of the client has. Raises `Fault` for a schema of no object."""
    body = schema.schema or {}
    if body.get("type", "object") != "object":
        raise bad("'response_format.json_schema.schema' must be of type object.", "response_format")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in schema.name)[:56] or "answer"
    while name in taken:
        name += "_"
    job.note("response_format", "emulated", "a tool whose input is the answer")
    return name, spec(name, body, schema.description or "Gives the answer. Always call it, once, with the whole answer.")
