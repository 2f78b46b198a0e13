"""Each refusal of the scripted Gemini, asked for by hand."""

from __future__ import annotations

import httpx

from tests.fakes.providers.gemini import KEY, Gemini
from tests.fakes.providers.gemini_asks import (
    CALL,
    DECLARED,
    USER,
    Doc,
    blob,
    declaring,
    gave,
    generating,
    parameters,
    post,
    refused,
    said,
    talk,
    user,
    vertex,
)  # fmt: skip
from tests.fakes.providers.media import png

AT = "tools[0].function_declarations[0].parameters"
REFUSED: dict[str, tuple[Doc, str]] = {
    "unknown name": (talk({**USER, "x": 1}), "Invalid JSON payload received. Unknown name \"x\" at 'contents[0]': Cannot find field."),
    "unknown at the top": ({**talk(USER), "model_": 1}, 'Unknown name "model_": Cannot find field.'),
    "ref in a schema": (parameters(a={"$ref": "#/$defs/a"}), f"Unknown name \"$ref\" at '{AT}.properties[0].value': Cannot find field."),
    "additionalProperties": (
        declaring(parameters={"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}),
        "additionalProperties",
    ),
    "seed beyond int32": (generating(seed=2**31), "Invalid value at 'generation_config.seed' (TYPE_INT32), 2147483648"),
    "wrong type": (generating(temperature="hot"), "Invalid value at 'generation_config.temperature' (TYPE_FLOAT), \"hot\""),
    "given twice": ({**talk(USER), "systemInstruction": USER, "system_instruction": USER}, "was given twice"),
    "no map": ({**talk(USER), "labels": ["a"]}, "Invalid value at 'labels' (Map)"),
    "text for a message": (
        talk("hello"),
        "Invalid value at 'contents[0]' (type.googleapis.com/google.ai.generativelanguage.v1beta.Content)",
    ),  # type: ignore[arg-type]
    "wrong enum": (
        {**talk(USER), "safetySettings": [{"category": "HARM", "threshold": "OFF"}]},
        "Invalid value at 'safety_settings[0].category'",
    ),
    "two kinds in a part": (talk(user({"text": "a", **CALL})), "oneof field 'data' is already set. Cannot set 'functionCall'"),
    "bad base64": (talk(user({"inlineData": {"mimeType": "image/png", "data": "%%%"}})), "Base64 decoding failed"),
    "a list for one": ({**talk(USER), "systemInstruction": [USER]}, "Proto field is not repeating, cannot start list."),
    "one for a list": ({"contents": USER}, "Invalid value at 'contents'"),
    "arguments as text": (talk(USER, said({"functionCall": {"name": "f", "args": "{}"}})), "google.protobuf.Struct"),
    "of Vertex only": (generating(audioTimestamp=True), 'Unknown name "audioTimestamp"'),
    "no contents": ({}, "contents is not specified"),
    "role": (talk({"role": "assistant", "parts": [{"text": "x"}]}), "Please use a valid role: user, model."),
    "system role": (talk({"role": "system", "parts": [{"text": "x"}]}, USER), "Please use a valid role: user, model."),
    "no parts": (talk({"role": "user", "parts": []}), "contents[0].parts: contents.parts must not be empty."),
    "empty part": (talk(user({})), "contents[0].parts[0].data: required oneof field 'data' must have one initialized field"),
    "empty text": (talk(user({"text": ""})), "it has an empty text parameter"),
    "system image": ({**talk(USER), "systemInstruction": {"parts": [{"fileData": {"fileUri": "https://x/y"}}]}}, "only text is supported"),
    "mime type": (blob("image/bmp", b"BM"), "Unsupported MIME type: image/bmp"),
    "not that image": (blob("image/jpeg", png(1, 1)), "Unable to process input image"),
    "no bytes": (blob("image/png", b""), "must not be empty"),
    "file uri": (talk(user({"fileData": {"fileUri": "file:///etc/passwd"}})), "Unsupported file URI type"),
    "call without user": (talk(said(CALL)), "function call turn comes immediately after a user turn"),
    "call of a user": (talk(user(CALL)), "function call turn comes immediately after a user turn"),
    "call after model": (talk(USER, said({"text": "a"}), said(CALL)), "function call turn comes immediately after a user turn"),
    "result without call": (
        talk(USER, said({"text": "a"}), user(gave())),
        "function response turn comes immediately after a function call turn",
    ),
    "result of the model": (talk(USER, said(gave())), "function response turn comes immediately after a function call turn"),
    "too few results": (talk(USER, said(CALL, CALL), user(gave())), "number of function response parts is equal"),
    "results in two turns": (talk(USER, said(CALL, CALL), user(gave()), user(gave())), "number of function response parts is equal"),
    "no results": (talk(USER, said(CALL), USER), "number of function response parts is equal"),
    "call last": (talk(USER, said(CALL)), "number of function response parts is equal"),
    "result of another": (talk(USER, said(CALL), user(gave("other"))), "names match"),
    "result without name": (talk(USER, said(CALL), user(gave(""))), "Name cannot be empty"),
    "result with a foreign id": (
        talk(USER, said({"functionCall": {"name": "get_weather", "id": "a"}}), user(gave(id="b"))),
        "function response ids match",
    ),
    "reference in a result": (
        talk(USER, said(CALL), user(gave(response={"a": [{"$ref": "#/x"}]}))),
        "The referenced name `#/x` in function_response.response does not match to a display_name in the function_response.parts.",
    ),
    "foreign signature": (talk(USER, said({**CALL, "thoughtSignature": "c29tZXRoaW5n"}), user(gave())), "Corrupted thought signature."),
    "function name": (declaring(name="1f"), "Invalid function name"),
    "long function name": (declaring(name="f" * 65), "Invalid function name"),
    "function twice": (
        {"contents": [USER], "tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]},
        "Duplicate function declaration found: f",
    ),
    "both schemas": (declaring(parameters={"type": "object"}, parametersJsonSchema={}), "mutually exclusive"),
    "parameters no object": (declaring(parameters={"type": "string"}), "of type OBJECT"),
    "no properties": (declaring(parameters={"type": "object"}), f"{AT}.properties: should be non-empty for OBJECT type"),
    "no type": (parameters(a={"description": "x"}), f"{AT}.properties[a].type: must be specified when not using one_of"),
    "properties of a string": (
        parameters(a={"type": "string", "required": ["b"]}),
        f"{AT}.properties[a].required: only allowed for OBJECT type",
    ),
    "required unknown": (
        declaring(parameters={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}),
        "required[0]: property is not defined",
    ),
    "no items": (parameters(a={"type": "array"}), f"{AT}.properties[a].items: missing field."),
    "number enum": (parameters(a={"type": "integer", "enum": ["1"]}), f"{AT}.properties[a].enum: only allowed for STRING type"),
    "empty enum": (parameters(a={"type": "array", "items": {"type": "string", "enum": [""]}}), "enum[0]: cannot be empty"),
    "format": (parameters(a={"anyOf": [{"type": "string", "format": "uri"}]}), "only 'enum' and 'date-time' are supported for STRING type"),
    "no tool type": ({**talk(USER), "tools": [{}]}, "required one_of 'tool_type'"),
    "forced without tools": ({**talk(USER), "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "set without function_declarations"),
    "allowed but auto": (
        {
            **talk(USER),
            "tools": DECLARED,
            "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["get_weather"]}},
        },
        "mode is ANY",
    ),
    "allowed unknown": (
        {**talk(USER), "tools": DECLARED, "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["g"]}}},
        "is not found",
    ),
    "response mime": (generating(responseMimeType="text/html"), "response_mime_type: allowed mimetypes are"),
    "schema without json": (generating(responseSchema={"type": "string"}), "response_mime_type must be application/json"),
    "two response schemas": (
        generating(responseMimeType="application/json", responseSchema={"type": "string"}, responseJsonSchema={}),
        "mutually exclusive",
    ),
    "json schema no object": (generating(responseMimeType="application/json", responseJsonSchema=True), "must be an object of JSON Schema"),
    "json with tools": (
        {**generating(responseMimeType="application/json"), "tools": DECLARED},
        "response mime type: 'application/json' is unsupported",
    ),
    "temperature": (
        generating(temperature=2.5),
        "temperature value of 2.5 but the supported range is from 0 (inclusive) to 2.0001 (exclusive)",
    ),
    "candidates": (generating(candidateCount=9), "candidateCount value of 9"),
    "stops": (
        generating(stopSequences=list("abcdef")),
        "stopSequences value of 6 but the supported range is from 1 (inclusive) to 6 (exclusive)",
    ),
    "empty stop": (generating(stopSequences=[""]), "must not contain an empty string"),
    "max tokens": (
        generating(maxOutputTokens=70000),
        "maxOutputTokens value of 70000 but the supported range is from 1 (inclusive) to 65537",
    ),
    "no tokens": (generating(maxOutputTokens=0), "maxOutputTokens value of 0"),
    "logprobs alone": (generating(logprobs=3), "response_logprobs must be true"),
    "budget and level": (
        generating(thinkingConfig={"thinkingBudget": 1, "thinkingLevel": "LOW"}),
        "only one of thinking budget and thinking level",
    ),
    "level": (generating(thinkingConfig={"thinkingLevel": "LOW"}), "Thinking level is not supported for this model."),
    "budget too large": (
        generating(thinkingConfig={"thinkingBudget": 99999}),
        "The thinking budget 99999 is invalid. Please choose a value between 1 and 24576.",
    ),
    "no value": (
        generating(responseMimeType="application/json", responseJsonSchema={"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}),
        "no value can be made",
    ),
    "not that document": (blob("application/pdf", b"hello"), "Unable to process the document"),
    "no mime type": (blob("", b"hello"), "mime_type: must be specified"),
    "nameless call": (talk(USER, said({"functionCall": {}}), user(gave())), "Name cannot be empty"),
    "result without a response": (
        talk(USER, said(CALL), user({"functionResponse": {"name": "get_weather"}})),
        "response: must be specified",
    ),
    "cache and system": (
        {**talk(USER), "cachedContent": "cachedContents/a", "systemInstruction": {"parts": [{"text": "a"}]}},
        "CachedContent can not be used",
    ),
    "cache name": ({**talk(USER), "cachedContent": "a"}, "is not a valid name"),
}
OF_MODELS: dict[str, tuple[str, Doc, str]] = {
    "old: full schema": ("gemini-2.0-flash", declaring(parametersJsonSchema={"type": "object"}), "is not supported by this model"),
    "old: thoughts": ("gemini-2.0-flash", generating(thinkingConfig={"includeThoughts": True}), "thinking is not supported by this model"),
    "old: budget": (
        "gemini-2.0-flash",
        generating(thinkingConfig={"thinkingBudget": 1}),
        "Thinking budget is not supported for this model.",
    ),
    "2.5 pro: no thinking": ("gemini-2.5-pro", generating(thinkingConfig={"thinkingBudget": 0}), "This model only works in thinking mode."),
    "3: budget": (
        "gemini-3.5-flash",
        generating(thinkingConfig={"thinkingBudget": 100}),
        "Thinking budget is not supported for this model.",
    ),
    "3 pro: medium": (
        "gemini-3-pro-preview",
        generating(thinkingConfig={"thinkingLevel": "medium"}),
        "Thinking level MEDIUM is not supported",
    ),
    "3: candidates": ("gemini-3.5-flash", generating(candidateCount=2), "candidateCount value of 2"),
    "3: unsigned call": (
        "gemini-3.5-flash",
        talk(USER, said(CALL), user(gave())),
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing "
        "thought_signature may lead to degraded model performance. Additional data, function call `default_api:get_weather` , position 2.",
    ),
    "3: signed second": (
        "gemini-3.5-flash",
        talk(USER, said(CALL, {**CALL, "thoughtSignature": "skip_thought_signature_validator"}), user(gave(), gave())),
        "missing",
    ),
}


def test_refusals() -> None:
    fake = Gemini()
    with fake.serving() as root:
        for name, (doc, sentence) in REFUSED.items():
            refused(name, post(root, doc), sentence)
        for name, (model, doc, sentence) in OF_MODELS.items():
            refused(name, post(root, doc, f"/v1beta/models/{model}:generateContent"), sentence)
        refused(
            "n in a stream",
            post(root, generating(candidateCount=2), "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
            "candidateCount",
        )
    assert len(fake.rejected) == len(REFUSED) + len(OF_MODELS) + 1 and fake.seen == []


def test_unknown_names_come_with_their_details() -> None:
    with Gemini().serving() as root:
        error = post(root, {"contents": [USER], "a": 1, "generation_config": {"b": 2}}).json()["error"]
    assert error["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [
                {"description": 'Invalid JSON payload received. Unknown name "a": Cannot find field.'},
                {
                    "field": "generation_config",
                    "description": "Invalid JSON payload received. Unknown name \"b\" at 'generation_config': Cannot find field.",
                },
            ],
        }
    ]


def test_who_and_where() -> None:
    with Gemini().serving() as root:
        refused(
            "no key",
            httpx.post(root + "/v1beta/models/gemini-2.5-flash:generateContent", json={}),
            "unregistered callers",
            403,
            "PERMISSION_DENIED",
        )
        refused("wrong key", post(root, {}, **{"x-goog-api-key": "no"}), "API key not valid")
        refused("key in the query", post(root, {}, "/v1beta/models/gemini-2.5-flash:generateContent?key=k"), "Cannot bind query parameter")
        refused(
            "model",
            post(root, {}, "/v1beta/models/gemini-9:generateContent"),
            "models/gemini-9 is not found for API version v1beta",
            404,
            "NOT_FOUND",
        )
        refused("path", post(root, {}, "/v1/models/gemini-2.5-flash:generateContent"), "not found", 404, "NOT_FOUND")
        refused("method", post(root, {}, "/v1beta/models/gemini-2.5-flash:embed"), "not supported for embed", 404, "NOT_FOUND")
        refused("no json", post(root, {}, **{"content-type": "text/plain"}), "not application/json")
        refused("list", post(root, []), "Root element must be a message.")
        refused("token", vertex(root, {}, token="no"), "invalid authentication credentials", 401, "UNAUTHENTICATED")
        refused("project", vertex(root, {}, project="other"), "Permission denied on resource project other.", 403, "PERMISSION_DENIED")
        refused("vertex model", vertex(root, {}, model="gemini-9"), "Publisher Model `projects/test-project/", 404, "NOT_FOUND")
        refused(
            "vertex prefill",
            vertex(root, talk(USER, said({"text": "a"}))),
            "end with a user role",
        )
        refused(
            "vertex signature",
            vertex(root, talk(USER, said({"text": "a", "thoughtSignature": "YWJj"}), USER)),
            "Thought signature is not valid",
        )
        refused("of studio only", vertex(root, {**talk(USER), "store": True}), 'Unknown name "store"')
        refused("vertex role", vertex(root, talk({"parts": [{"text": "a"}]})), "valid role")
        refused("vertex uri", vertex(root, talk(user({"fileData": {"fileUri": "gs://a/b"}}))), "mimeType")
        assert post(root, talk({"parts": [{"text": "a"}]})).status_code == 200
        assert httpx.get(root + "/v1beta/models", headers={"x-goog-api-key": KEY}).json()["models"][0] == {
            "name": "models/gemini-2.0-flash"
        }
