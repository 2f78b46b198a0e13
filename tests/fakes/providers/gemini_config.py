"""What Gemini refuses of tools, schemas and the generation config. Pure; the sources are in `gemini_rules`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.fakes.providers.gemini_models import Asked, Family, Refused, star
from tests.fakes.providers.gemini_proto import Doc
from tests.fakes.providers.schemas import is_schema, unanswerable

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
JSON_MIMES = ("text/plain", "application/json", "application/xml", "application/yaml", "text/x.enum")


# Tools and schemas.


def declarations(asked: Asked) -> None:
    names = Counter(one.get("name") for _, one in asked.declarations)
    for path, one in asked.declarations:
        if not NAME.fullmatch(one.get("name") or ""):
            raise star(
                asked, f"{path}.name",
                "[FIELD_INVALID] Invalid function name. Must start with a letter or an underscore. Must be a-z, A-Z, 0-9, or contain "
                "underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 64.",
            )  # fmt: skip
        if names[one["name"]] > 1:
            raise Refused(f"Duplicate function declaration found: {one['name']}")
        if "parameters" in one and "parametersJsonSchema" in one:
            raise star(asked, path, "parameters and parameters_json_schema are mutually exclusive")
        if "parametersJsonSchema" in one:
            _full_schema(asked, one["parametersJsonSchema"], f"{path}.parameters_json_schema")
        if "parameters" in one:
            if one["parameters"].get("type") != "OBJECT":
                raise star(asked, f"{path}.parameters.type", "parameters schema should be of type OBJECT")
            _schema(asked, one["parameters"], f"{path}.parameters")
    if any(not tool for tool in asked.doc.get("tools", ())):
        raise star(asked, "tools[0].tool_type", "required one_of 'tool_type' must have one initialized field")


def json_schema(schema: Doc) -> Doc:
    """A Schema of Google's as JSON Schema."""
    out: Doc = {key: value for key, value in schema.items() if key not in ("nullable", "propertyOrdering", "example", "format")}
    if "type" in schema:
        kind = schema["type"].lower()
        out["type"] = [kind, "null"] if schema.get("nullable") else kind
    if "properties" in schema:
        out["properties"] = {name: json_schema(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        out["items"] = json_schema(schema["items"])
    if "anyOf" in schema:
        out["anyOf"] = [json_schema(one) for one in schema["anyOf"]]
    return out


def _answerable(asked: Asked, schema: Doc, path: str) -> None:
    why = unanswerable(schema)
    if why is not None:
        raise star(asked, path, why)


def _full_schema(asked: Asked, schema: Any, path: str) -> None:
    if not asked.family.json_schema:
        raise star(asked, path, "is not supported by this model")
    if not isinstance(schema, dict) or not is_schema(schema):
        raise star(asked, path, "must be an object of JSON Schema")


def _schema(asked: Asked, schema: Doc, path: str) -> None:
    """The OpenAPI subset, as the service checks it node by node."""
    for name, why in _wrong(schema):
        raise star(asked, f"{path}.{name}", why)
    for at, one in enumerate(schema.get("anyOf", ())):
        _schema(asked, one, f"{path}.any_of[{at}]")
    for name, one in schema.get("properties", {}).items():
        _schema(asked, one, f"{path}.properties[{name}]")
    if "items" in schema:
        _schema(asked, schema["items"], f"{path}.items")


def _wrong(schema: Doc) -> Iterator[tuple[str, str]]:
    kind = schema.get("type")
    if kind is None:
        if not schema.get("anyOf"):
            yield "type", "must be specified when not using one_of, any_of or all_of fields"
    elif kind == "OBJECT":
        yield from _wrong_object(schema)
    else:
        yield from ((name, "only allowed for OBJECT type") for name in ("properties", "required") if name in schema)
    if kind == "ARRAY" and "items" not in schema:
        yield "items", "missing field."
    if kind is not None:
        yield from _wrong_enum(schema, kind)


def _wrong_object(schema: Doc) -> Iterator[tuple[str, str]]:
    properties = schema.get("properties") or {}
    if not properties:
        yield "properties", "should be non-empty for OBJECT type"
    for at, name in enumerate(schema.get("required", ())):
        if name not in properties:
            yield f"required[{at}]", "property is not defined"


def _wrong_enum(schema: Doc, kind: str) -> Iterator[tuple[str, str]]:
    if "enum" in schema and kind != "STRING":
        yield "enum", "only allowed for STRING type"
    if "" in schema.get("enum", ()):
        yield "enum[0]", "cannot be empty"
    if kind == "STRING" and schema.get("format") not in (None, "enum", "date-time"):
        yield "format", "only 'enum' and 'date-time' are supported for STRING type"


def tool_config(asked: Asked) -> None:
    config = asked.doc.get("toolConfig", {}).get("functionCallingConfig", {})
    names, mode = config.get("allowedFunctionNames", ()), config.get("mode", "AUTO")
    declared = {one["name"] for _, one in asked.declarations}
    if config and not declared and mode not in ("NONE", "AUTO"):
        raise Refused("Function calling config is set without function_declarations.")
    if names and mode not in ("ANY", "VALIDATED"):
        raise Refused("Allowed function names are only supported when function calling mode is ANY.")
    unknown = [name for name in names if name not in declared]
    if unknown:
        raise Refused(f"Allowed function name {unknown[0]} is not found in the function declarations.")


# Generation config.


def output(asked: Asked) -> None:
    config = asked.config
    mime = config.get("responseMimeType", "text/plain")
    if mime not in JSON_MIMES:
        raise star(asked, "generation_config.response_mime_type", f"allowed mimetypes are {', '.join(f'`{one}`' for one in JSON_MIMES)}.")
    asked_schemas = [name for name in ("responseSchema", "responseJsonSchema") if name in config]
    if len(asked_schemas) > 1:
        raise star(asked, "generation_config", "response_schema and response_json_schema are mutually exclusive")
    if asked_schemas and mime not in ("application/json", "text/x.enum"):
        raise star(asked, "generation_config.response_schema", "response_mime_type must be application/json when a response schema is set")
    if "responseSchema" in config:
        _schema(asked, config["responseSchema"], "generation_config.response_schema")
        _answerable(asked, json_schema(config["responseSchema"]), "generation_config.response_schema")
    if "responseJsonSchema" in config:
        _full_schema(asked, config["responseJsonSchema"], "generation_config.response_json_schema")
        _answerable(asked, config["responseJsonSchema"], "generation_config.response_json_schema")
    if mime == "application/json" and asked.declarations and not asked.family.tools_with_json:
        raise Refused("Function calling with a response mime type: 'application/json' is unsupported")


def sampling(asked: Asked) -> None:
    config = asked.config
    most = 1 if asked.stream else asked.family.candidates
    ranges = {
        "candidateCount": (1, most), "temperature": (0, 2), "topP": (0, 1), "maxOutputTokens": (1, asked.family.output), "topK": (1, 64),
        "presencePenalty": (-2, 2), "frequencyPenalty": (-2, 2), "logprobs": (0, 20),
    }  # fmt: skip
    for name, (least, largest) in ranges.items():
        if name in config and not least <= config[name] <= largest:
            raise _range(name, config[name], least, largest + (0.0001 if name in ("temperature", "topP") else 1))
    stops = config.get("stopSequences", ())
    if len(stops) > 5:
        raise _range("stopSequences", len(stops), 1, 6)
    if "" in stops:
        raise star(asked, "generation_config.stop_sequences", "must not contain an empty string")
    if "logprobs" in config and not config.get("responseLogprobs"):
        raise star(asked, "generation_config.logprobs", "response_logprobs must be true when logprobs is set")


def _range(name: str, value: object, least: object, above: object) -> Refused:
    return Refused(
        f"Unable to submit request because it has a {name} value of {value} but the supported range is from {least} (inclusive) to {above} "
        "(exclusive). Update the value and try again."
    )


def thinking(asked: Asked) -> None:
    config, family = asked.config.get("thinkingConfig", {}), asked.family
    budget, level = config.get("thinkingBudget"), config.get("thinkingLevel")
    if budget is not None and level is not None:
        raise Refused("You can only set only one of thinking budget and thinking level.")
    if level is not None and level not in family.levels:
        raise Refused(
            f"Thinking level {level} is not supported for this model. Please retry with other thinking level."
            if family.levels
            else "Thinking level is not supported for this model."
        )
    if budget is not None:
        _budget(budget, family)
    if config.get("includeThoughts") and family.budget is None and not family.levels:
        raise Refused("Unable to submit request because thinking is not supported by this model.")


def _budget(budget: int, family: Family) -> None:
    if family.budget is None:
        raise Refused("Thinking budget is not supported for this model.")
    if budget == 0 and not family.off:
        raise Refused("Budget 0 is invalid. This model only works in thinking mode.")
    least, most = family.budget
    if budget not in (-1, 0) and not least <= budget <= most:
        raise Refused(f"The thinking budget {budget} is invalid. Please choose a value between {least} and {most}.")


def cached(asked: Asked) -> None:
    if "cachedContent" not in asked.doc:
        return
    if any(name in asked.doc for name in ("systemInstruction", "tools", "toolConfig")):
        raise Refused("CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config.")
    if not re.fullmatch(r"(projects/[\w-]+/locations/[\w-]+/)?cachedContents/[\w-]+", asked.doc["cachedContent"]):
        raise star(asked, "cached_content", "is not a valid name")
