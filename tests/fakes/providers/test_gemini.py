"""The scripted Gemini, driven by Google's own SDK and by hand: the conversation, each refusal, each fault."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from google import genai
from google.auth.credentials import Credentials
from google.genai import errors, types

from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.common import Fault
from tests.fakes.providers.gemini import KEY, LOCATION, PROJECT, TOKEN, Gemini
from tests.fakes.providers.gemini_asks import CALL, DECLARED, USER, gave, generating, post, refused, said, talk, user, vertex
from tests.fakes.providers.media import png

Doc = dict[str, Any]


class Given(Credentials):  # type: ignore[no-untyped-call,misc,unused-ignore]
    """A token that is there already."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.token = TOKEN

    def refresh(self, request: object) -> None:
        self.token = TOKEN


@contextmanager
def sdk(fake: Gemini, service: str = "studio") -> Iterator[genai.Client]:
    with fake.serving() as root:
        options = types.HttpOptions(base_url=root, api_version="v1beta" if service == "studio" else "v1", timeout=20_000)
        if service == "studio":
            client = genai.Client(api_key=KEY, http_options=options)
        else:
            client = genai.Client(enterprise=True, project=PROJECT, location=LOCATION, credentials=Given(), http_options=options)
        with client:
            yield client


def config(step: Step, model: str) -> types.GenerateContentConfig:
    thinking = types.ThinkingConfig(include_thoughts=True)
    if "2.5" in model:
        thinking.thinking_budget = 1024
    else:
        thinking.thinking_level = types.ThinkingLevel.HIGH
    tool = types.FunctionDeclaration(name=WEATHER.name, description=WEATHER.description, parameters_json_schema=WEATHER.schema)
    return types.GenerateContentConfig(
        system_instruction=SYSTEM,
        tools=[types.Tool(function_declarations=[tool])] if step.tools else None,
        thinking_config=thinking if step.thinking else None,
        response_mime_type="application/json" if step.schema else None,
        response_json_schema=step.schema,
    )


def ask(step: Step, before: types.Content | None) -> types.Content:
    if step.results:
        assert before is not None
        calls = [part.function_call for part in before.parts or () if part.function_call]
        parts = [
            types.Part(
                function_response=types.FunctionResponse(id=one.id, name=one.name, response={"result": step.results[one.args["city"]]})
            )
            for one in calls
            if one.args
        ]
    else:
        parts = [types.Part(text=step.text)]
        if step.media:
            parts.append(types.Part(inline_data=types.Blob(mime_type=step.media.media_type, data=step.media.data)))
    return types.Content(role="user", parts=parts)


def joined(chunks: list[types.GenerateContentResponse]) -> types.Content:
    """The answer as the next request carries it; empty texts are left out, as the SDK's own chats do, unless they are signed."""
    parts = [part for chunk in chunks for one in chunk.candidates or () if one.content for part in one.content.parts or ()]
    parts = [part for part in parts if part.text != "" or part.thought_signature]
    assert sum(bool(one.finish_reason) for chunk in chunks for one in chunk.candidates or ()) == 1
    totals = [chunk.usage_metadata.total_token_count or 0 for chunk in chunks if chunk.usage_metadata]
    assert totals == sorted(totals)
    return types.Content(role="model", parts=parts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("service", ["studio", "vertex"])
@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3.5-flash"])
def test_the_conversation(model: str, service: str, stream: bool) -> None:
    fake = Gemini()
    history: list[types.Content] = []
    with sdk(fake, service) as client:
        for step in CONVERSATION:
            history.append(ask(step, history[-1] if history else None))
            if stream:
                said = joined(list(client.models.generate_content_stream(model=model, contents=history, config=config(step, model))))
            else:
                reply = client.models.generate_content(model=model, contents=history, config=config(step, model))
                assert reply.candidates and reply.candidates[0].content
                said = reply.candidates[0].content
            texts = [part for part in said.parts or () if part.text]
            calls = [part.function_call for part in said.parts or () if part.function_call]
            expect(
                step,
                "".join(part.text or "" for part in texts if not part.thought),
                [Call(one.name or "", one.args or {}, one.id or str(at)) for at, one in enumerate(calls)],
                "".join(part.text or "" for part in texts if part.thought),
            )
            assert [bool(part.thought_signature) for part in said.parts or () if part.function_call] == [True, False][: len(calls)]
            history.append(said)
    assert len(fake.seen) == 6 and fake.rejected == []


def test_escapes_and_genuine_signatures_pass() -> None:
    with Gemini().serving() as root:
        path = "/v1beta/models/gemini-3.5-flash:generateContent"
        for escape in ("skip_thought_signature_validator", base64.b64encode(b"skip_thought_signature_validator").decode()):
            assert post(root, talk(USER, said({**CALL, "thoughtSignature": escape}), user(gave())), path).status_code == 200
        first = post(root, {**talk(user({"text": "weather in Oslo"})), "tools": DECLARED}, path).json()["candidates"][0]["content"]
        assert post(root, talk(USER, first, user(gave())), path).status_code == 200
        moved = said({"functionCall": {"name": "other"}, "thoughtSignature": first["parts"][0]["thoughtSignature"]})
        refused("moved", post(root, talk(USER, moved, user(gave("other"))), path), "Corrupted thought signature.")
        old = talk(USER, said(CALL), user(gave()), said({"text": "fine"}), USER)  # of an earlier turn: not asked for
        assert post(root, old, path).status_code == 200


def test_what_the_parser_takes() -> None:
    """Either name of a field, nulls, numbers as text, enums in any case, a reference to a file that came along."""
    fake = Gemini()
    image = {"mimeType": "image/png", "displayName": "x.png", "data": base64.b64encode(png(2, 1)).decode().rstrip("=")}
    result = gave(response={"file": {"$ref": "x.png"}}, parts=[{"inlineData": image}])
    doc = {
        **talk(USER, said(CALL), user(result)),
        "system_instruction": {"parts": [{"text": "a"}]},
        "safetySettings": None,
        "generationConfig": {"max_output_tokens": "50", "seed": 7.0, "mediaResolution": "media_resolution_low"},
    }
    with fake.serving() as root:
        assert "with a png image of 2 by 1 pixels" in post(root, doc).json()["candidates"][0]["content"]["parts"][0]["text"]
    assert fake.seen[0].doc["generationConfig"] == {"maxOutputTokens": 50, "seed": 7, "mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert "safetySettings" not in fake.seen[0].doc


def test_what_is_asked_for_is_done() -> None:
    with Gemini().serving() as root:
        reply = post(root, generating(candidateCount=2, maxOutputTokens=2, responseLogprobs=True, logprobs=1)).json()
        assert [one["finishReason"] for one in reply["candidates"]] == ["MAX_TOKENS", "MAX_TOKENS"]
        assert reply["usageMetadata"]["candidatesTokenCount"] == 4
        assert len(reply["candidates"][0]["logprobsResult"]["topCandidates"][0]["candidates"]) == 1
        thought = post(root, generating(maxOutputTokens=3, thinkingConfig={"thinkingBudget": 100})).json()
        assert thought["candidates"][0]["content"] == {"role": "model"} and thought["usageMetadata"]["thoughtsTokenCount"] == 3
        cached = post(root, {**talk(USER), "cachedContent": "cachedContents/a"}).json()["usageMetadata"]
        assert cached["cachedContentTokenCount"] < cached["promptTokenCount"]
        schema = {
            "type": "OBJECT",
            "properties": {"a": {"type": "STRING", "nullable": True}, "b": {"anyOf": [{"type": "ARRAY", "items": {"type": "NUMBER"}}]}},
        }
        made = post(root, generating(responseMimeType="application/json", responseSchema=schema)).json()
        assert json.loads(made["candidates"][0]["content"]["parts"][0]["text"]) == {"a": "x", "b": []}
        forced = {
            **talk(USER),
            "tools": DECLARED,
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}},
        }
        assert "functionCall" in post(root, forced).json()["candidates"][0]["content"]["parts"][0]
        listed = post(root, talk(USER), "/v1beta/models/gemini-2.5-flash:streamGenerateContent").json()
        assert "".join(one["candidates"][0]["content"]["parts"][0]["text"] for one in listed) == "You said: hello"
        assert post(root, talk(USER), "/v1beta/models/gemini-2.5-flash:countTokens").json() == {"totalTokens": 4}


def test_tools_and_finish_in_chunks() -> None:
    """Old models finish with the calls, new ones in a chunk after them (trap 23)."""
    fake = Gemini()
    asked = {**talk(user({"text": "weather in Oslo and in Rome"})), "tools": DECLARED}
    with fake.serving() as root:
        for model, shape in (("gemini-2.5-flash", [(2, "STOP")]), ("gemini-3.5-flash", [(1, None), (1, None), (0, "STOP")])):
            body = post(root, asked, f"/v1beta/models/{model}:streamGenerateContent?alt=sse").content
            docs = [json.loads(one.removeprefix(b"data: ")) for one in body.split(b"\r\n\r\n") if one]
            found = [
                (sum("functionCall" in part for part in doc["candidates"][0]["content"]["parts"]), doc["candidates"][0].get("finishReason"))
                for doc in docs
            ]
            assert found == shape


def test_embeddings() -> None:
    fake = Gemini()
    with sdk(fake) as client:
        many = client.models.embed_content(
            model="gemini-embedding-001", contents=["a", "bb"], config=types.EmbedContentConfig(output_dimensionality=4)
        )
        assert many.embeddings and [one.values for one in many.embeddings] == [[i / 64 for i in range(k, k + 4)] for k in (1, 2)]
    with sdk(fake, "vertex") as client:
        one = client.models.embed_content(model="gemini-embedding-001", contents="abc")
        assert one.embeddings and one.embeddings[0].values and len(one.embeddings[0].values) == 3072
        sized = types.EmbedContentConfig(output_dimensionality=2)
        two = client.models.embed_content(model="gemini-embedding-001", contents=["abc", "d"], config=sized)
        assert two.embeddings and [row.values for row in two.embeddings] == [[3 / 64, 4 / 64], [1 / 64, 2 / 64]]
    assert [seen.method for seen in fake.seen] == ["batchEmbedContents", "embedContent", "batchEmbedContents"]
    path = "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    content = {"parts": [{"text": "a"}]}
    with fake.serving() as root:
        refused("none", post(root, {"requests": []}, path), "at least one")
        alone = post(root, {"content": content, "outputDimensionality": 1}, "/v1beta/models/gemini-embedding-001:embedContent")
        assert alone.json() == {"embedding": {"values": [1 / 64]}}
        older = vertex(
            root, {"instances": [{"content": "a"}], "parameters": {"outputDimensionality": 1}}, "gemini-embedding-001", method="predict"
        )
        assert older.json()["predictions"][0]["embeddings"]["values"] == [1 / 64]
        refused("model", post(root, {"requests": [{"model": "gemini-embedding-001", "content": content}]}, path), "must match")
        refused("empty", post(root, {"requests": [{"model": "models/gemini-embedding-001", "content": {}}]}, path), "content is empty")
        wide = {"model": "models/gemini-embedding-001", "content": content, "outputDimensionality": 4000}
        refused("wide", post(root, {"requests": [wide]}, path), "out of range")
        refused("field", vertex(root, {"input": 1}, "gemini-embedding-001", method="predict"), 'Unknown name "input"')
        refused("instance", vertex(root, {"instances": [{"text": "a"}]}, "gemini-embedding-001", method="predict"), "no text content")
        refused("instances", vertex(root, {"instances": []}, "gemini-embedding-001", method="predict"), "instances is empty")


# Faults.


def test_errors_as_the_sdk_reads_them() -> None:
    fake = Gemini()
    with sdk(fake) as client:
        for status, word in ((429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (500, "INTERNAL")):
            fake.fail(Fault(status, "no"))
            with pytest.raises(errors.APIError) as caught:
                client.models.generate_content(model="gemini-2.5-flash", contents="hello")
            assert (caught.value.code, caught.value.status, caught.value.message) == (status, word, "no")
        for fault in (Fault(after=1, error=True), Fault(after=1, error=True, kind="bare"), Fault(503)):
            fake.fail(fault)
            with pytest.raises(errors.APIError, match="UNAVAILABLE"):
                list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="one two three four"))
        with pytest.raises(errors.ClientError, match="is not supported for this model"):
            client.models.generate_content(
                model="gemini-2.5-flash", contents="a", config={"thinking_config": {"thinking_level": types.ThinkingLevel.LOW}}
            )


def test_a_rate_limit_names_its_delay_in_the_body() -> None:
    fake = Gemini()
    with fake.serving() as root:
        fake.fail(Fault(429), Fault(429, details=[]), Fault(429))
        details = post(root, talk(USER)).json()["error"]["details"]
        assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"} in details
        assert "details" not in post(root, talk(USER)).json()["error"]
        assert post(root, talk(USER), "/v1beta/models/gemini-2.5-flash:streamGenerateContent").json()[0]["error"]["code"] == 429


def test_odd_ends() -> None:
    fake = Gemini()
    with sdk(fake) as client:
        fake.odd.extend(["blocked", "safety", "recitation", "malformed"])
        blocked = client.models.generate_content(model="gemini-2.5-flash", contents="hello")
        assert blocked.candidates is None and blocked.prompt_feedback and blocked.prompt_feedback.block_reason == "PROHIBITED_CONTENT"
        ended = client.models.generate_content(model="gemini-2.5-flash", contents="hello")
        assert ended.candidates and ended.candidates[0].finish_reason == "SAFETY"
        for reason in ("RECITATION", "MALFORMED_FUNCTION_CALL"):
            chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="one two three"))
            assert [one.candidates[0].finish_reason for one in chunks if one.candidates] == [None, reason]


def test_cuts() -> None:
    fake = Gemini()
    with fake.serving() as root:
        for path in ("generateContent", "streamGenerateContent?alt=sse"):
            fake.fail(Fault(after=1))
            with pytest.raises(httpx.RemoteProtocolError):
                post(root, talk(USER), f"/v1beta/models/gemini-2.5-flash:{path}")
