"""What Gemini refuses beyond the shape of its messages. Pure: a request as `gemini_proto` read it in, `Refused` or nothing out.

Where each rule comes from (S: google-genai's types and their docstrings, T: shared wire traps, #: an issue that quotes the answer):

A sentence without an issue behind it is our wording of a rule that the source tells in other words; tests hold a client to the refusal,
not to the sentence.

| rule | source |
|---|---|
| roles user and model; parts and their data not empty | T8; vercel/ai#3775, boldsoftware/sketch#68 |
| as many function responses as calls, right after them | T16; google-gemini/gemini-cli#5443 |
| function response of a call turn only; call turn after a user's | lobehub#7298, gemini-cli#26486 |
| names of responses match the calls | T17 |
| `$ref` inside a response | T10; vercel/ai#14369, python-genai#2792 |
| function names | S `FunctionDeclaration.name`; gemini-cli#7869, ccs#25 |
| schema of the OpenAPI subset | T10; gemini-cli#5450, LibreChat#6971, opencode#11889, browser-use#7, browser-use#3786 |
| thought signatures: missing, or not made here | T40; dify#29187, gemini-cli#13467 (Studio), 9router#301 (Vertex) |
| thinkingLevel on 2.5 | T39; QwenLM/qwen-code#9094 |
| thinkingBudget on 3.x | T39. Stricter than the service, which still takes it as legacy; never both at once |
| candidateCount | T36; python-aiplatform#3603; CLIProxyAPI#961 (not in streams, 8 at most on 2.5, one on 3) |
| stopSequences 5, temperature 2, topP 1, maxOutputTokens of the model | continuedev/continue#7849 and the ranges of the model reference |
| JSON with function calling before 3; mime types; schema needs JSON | S `GenerateContentConfig.response_schema`; T38 |
| *JsonSchema from 2.5 on | T9, T38 |
| cachedContent excludes system, tools | S `CreateCachedContentConfig` |
| functionCallingConfig: declarations, mode ANY for names | S `FunctionCallingConfig.allowed_function_names` |
| last turn is a user's, on Vertex | model reference, "contents" |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.fakes.providers.gemini_config import NAME, cached, declarations, output, sampling, thinking, tool_config
from tests.fakes.providers.gemini_models import LEARN, Asked, Refused, star
from tests.fakes.providers.gemini_proto import Doc, unbase64
from tests.fakes.providers.media import sniff

SKIP = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
MIMES = frozenset(
    "image/png image/jpeg image/webp image/heic image/heif application/pdf text/plain audio/wav audio/mp3 audio/aiff audio/aac audio/ogg "
    "audio/flac video/mp4 video/mpeg video/webm".split()
)
CALL_TURN = "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
RESPONSE_TURN = "Please ensure that function response turn comes immediately after a function call turn."
SAME_NUMBER = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn."
)


def check(asked: Asked) -> None:
    """Raises Refused for the first thing that the service would refuse."""
    for rule in (contents, turns, results, signatures, declarations, tool_config, output, sampling, thinking, cached):
        rule(asked)


# Contents.


def contents(asked: Asked) -> None:
    doc = asked.doc
    if not doc.get("contents"):
        raise star(asked, "contents", "contents is not specified")
    for at, content in enumerate(doc["contents"]):
        if content.get("role") not in ("user", "model") and not (
            asked.service == "studio" and "role" not in content and len(doc["contents"]) == 1
        ):
            raise Refused("Please use a valid role: user, model.")
        _parts(asked, content, f"contents[{at}]")
    system = doc.get("systemInstruction")
    if system is not None:
        _parts(asked, system, "system_instruction")
        if any("text" not in part for part in system["parts"]):
            raise star(asked, "system_instruction", "only text is supported")
    if asked.service == "vertex" and doc["contents"][-1]["role"] == "model":
        raise Refused("Please ensure that multiturn requests end with a user role or a function response.")


def _parts(asked: Asked, content: Doc, path: str) -> None:
    if not content.get("parts"):
        raise star(asked, f"{path}.parts", "contents.parts must not be empty.")
    for at, part in enumerate(content["parts"]):
        _part(asked, part, f"{path}.parts[{at}]", content.get("role"))


def _part(asked: Asked, part: Doc, path: str, role: str | None) -> None:
    kinds = [kind for kind in ("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode") if kind in part]
    if not kinds and "codeExecutionResult" not in part:
        raise star(asked, f"{path}.data", "required oneof field 'data' must have one initialized field")
    if part.get("text") == "" and "thoughtSignature" not in part:  # a signature may travel on an empty text
        raise Refused(
            f"Unable to submit request because it has an empty text parameter. Add a value to the parameter and try again.{LEARN}"
        )
    _file_in(asked, part, path)
    misplaced = {"functionCall": "user", "functionResponse": "model"}
    for kind, wrong in misplaced.items():
        if kind in part and role == wrong:
            raise Refused(CALL_TURN if kind == "functionCall" else RESPONSE_TURN)


def _file_in(asked: Asked, part: Doc, path: str) -> None:
    if "inlineData" in part:
        _inline(asked, part["inlineData"], path)
    if "fileData" in part:
        _file(asked, part["fileData"], path)


def _inline(asked: Asked, blob: Doc, path: str) -> None:
    mime, data = blob.get("mimeType", ""), unbase64(blob.get("data", ""))
    if mime not in MIMES:
        raise Refused(
            f"Unsupported MIME type: {mime}" if mime else f"* GenerateContentRequest.{path}.inline_data.mime_type: must be specified\n"
        )
    if not data:
        raise star(asked, f"{path}.inline_data.data", "must not be empty")
    if mime.partition("/")[0] in ("image", "application") and not mime.startswith("image/hei") and sniff(data) != mime:
        what = "input image" if mime.startswith("image/") else "the document"
        raise Refused(f"Unable to process {what}. Please retry or report in https://developers.generativeai.google/guide/troubleshooting")


def _file(asked: Asked, file: Doc, path: str) -> None:
    uri = file.get("fileUri", "")
    if not re.match(r"https://|gs://" if asked.service == "vertex" else r"https://", uri):
        raise Refused(f"Unsupported file URI type: {uri}")
    if asked.service == "vertex" and not file.get("mimeType"):
        raise Refused(f"Unable to submit request because it has a mimeType parameter with value , which is not supported.{LEARN}")


def turns(asked: Asked) -> None:
    """Calls and their responses follow one another."""
    before: Doc | None = None
    for content in asked.doc["contents"]:
        calls, given = parts_of(content, "functionCall"), parts_of(content, "functionResponse")
        open_calls = parts_of(before or {}, "functionCall")
        if calls and (before is None or before["role"] == "model"):
            raise Refused(CALL_TURN)
        if given and not open_calls:
            raise Refused(RESPONSE_TURN)
        if len(given) != len(open_calls):
            raise Refused(SAME_NUMBER)
        before = content
    if parts_of(before or {}, "functionCall"):
        raise Refused(SAME_NUMBER)


def parts_of(content: Doc, kind: str) -> list[Any]:
    return [part[kind] for part in content.get("parts", ()) if kind in part]


def results(asked: Asked) -> None:
    """Each response names its call and holds nothing that looks like a reference."""
    calls: list[Doc] = []
    for at, content in enumerate(asked.doc["contents"]):
        given = parts_of(content, "functionResponse")
        for index, one in enumerate(given):
            path = f"contents[{at}].parts[{index}].function_response"
            if not one.get("name"):
                raise Refused(f"* GenerateContentRequest.{path}.name: Name cannot be empty.\n")
            if not isinstance(one.get("response"), dict):
                raise star(asked, f"{path}.response", "must be specified")
            for part in one.get("parts", ()):
                _file_in(asked, part, path)
            _references(one)
        if Counter(one["name"] for one in given) != Counter(call.get("name") for call in calls):
            raise Refused("Please ensure that the function response names match the function call names of the function call turn.")
        ids = {call["id"] for call in calls if call.get("id")}
        if ids and any(one["id"] not in ids for one in given if one.get("id")):
            raise Refused("Please ensure that the function response ids match the function call ids of the function call turn.")
        calls = parts_of(content, "functionCall")
        _named_calls(calls, at)


def _named_calls(calls: list[Doc], at: int) -> None:
    for index, call in enumerate(calls):
        if not NAME.fullmatch(call.get("name") or ""):
            raise Refused(f"* GenerateContentRequest.contents[{at}].parts[{index}].function_call.name: Name cannot be empty.\n")


def _references(one: Doc) -> None:
    known = {part.get("inlineData", part.get("fileData", {})).get("displayName") for part in one.get("parts", ())}
    for name in _refs(one["response"]):
        if name not in known:
            raise Refused(
                f"The referenced name `{name}` in function_response.response does not match to a display_name in the "
                "function_response.parts."
            )


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _refs(item)


# Thought signatures.


def signatures(asked: Asked) -> None:
    """Every signature is genuine, and in the current turn the first call of each step has one (3.x)."""
    all_contents = asked.doc["contents"]
    for content in all_contents:
        for part in content["parts"]:
            if "thoughtSignature" in part and not _passes(asked, part):
                raise Refused(
                    "Corrupted thought signature."
                    if asked.service == "studio"
                    else f"Unable to submit request because Thought signature is not valid..{LEARN}"
                )
    if not asked.family.signed:
        return
    asks = [at for at, one in enumerate(all_contents) if one.get("role", "user") == "user" and not parts_of(one, "functionResponse")]
    for at in range(max(asks, default=0), len(all_contents)):
        first = next((part for part in all_contents[at]["parts"] if "functionCall" in part), None)
        if first is not None and "thoughtSignature" not in first:
            raise Refused(
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and "
                "missing thought_signature may lead to degraded model performance. Additional data, function call "
                f"`default_api:{first['functionCall']['name']}` , position {at + 1}. Please refer to "
                "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
            )


def _passes(asked: Asked, part: Doc) -> bool:
    """The two escape values are taken as they are written in REST, and as bytes that an SDK encoded again."""
    text = part["thoughtSignature"]
    raw = unbase64(text)
    return text in SKIP or raw in tuple(skip.encode() for skip in SKIP) or asked.genuine(raw, part)
