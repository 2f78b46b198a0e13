"""Between Gemini's documents and the one mind: requests read into turns, answers written as candidates and chunks. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.providers import brain
from tests.fakes.providers.brain import Answer, Call, Result, Settings, Tool, Turn
from tests.fakes.providers.gemini_config import json_schema
from tests.fakes.providers.gemini_models import Asked
from tests.fakes.providers.gemini_proto import Doc, unbase64
from tests.fakes.providers.gemini_rules import parts_of
from tests.fakes.providers.media import Media

KEY = b"the fake's own signing key"
CACHED = 32  # tokens in every cache
FINISH = {"stop": "STOP", "stop_sequence": "STOP", "calls": "STOP", "length": "MAX_TOKENS"}  # a call is no reason of its own (trap 23)


# Signatures: bound to the call that they were made for, or to no call at all.


def sign(part: Doc) -> str:
    """The thoughtSignature for a part, as JSON carries it."""
    tag = _tag(part)
    return base64.b64encode(tag + _mac(tag)).decode()


def genuine(raw: bytes, part: Doc) -> bool:
    tag = _tag(part)
    return hmac.compare_digest(raw, tag + _mac(tag))


def _mac(tag: bytes) -> bytes:
    return hmac.digest(KEY, tag, "sha256")[:16]


def _tag(part: Doc) -> bytes:
    call = part.get("functionCall")
    if call is None:
        return b"text" + bytes(8)
    said = json.dumps([call["name"], numbers(call.get("args", {}))], sort_keys=True).encode()
    return b"call" + hashlib.sha256(said).digest()[:8]


def numbers(value: Any) -> Any:
    """A Struct holds only doubles: 1 and 1.0 are the same."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Reading.


def turns(doc: Doc) -> list[Turn]:
    return [_model(content) if content.get("role") == "model" else _user(content) for content in doc["contents"]]


def _user(content: Doc) -> Turn:
    return Turn(
        "user",
        "\n".join(text for text in parts_of(content, "text") if text),
        tuple(_media(part) for part in content["parts"] if "inlineData" in part or "fileData" in part),
        results=tuple(_result(one) for one in parts_of(content, "functionResponse")),
    )


def _media(part: Doc) -> Media:
    """A file that is only named counts as the bytes of its name: the fake fetches nothing."""
    if "fileData" in part:
        return Media(part["fileData"].get("mimeType", ""), part["fileData"]["fileUri"].encode())
    return Media(part["inlineData"]["mimeType"], unbase64(part["inlineData"]["data"]))


def _result(one: Doc) -> Result:
    response = one["response"]
    media = tuple(_media(part) for part in one.get("parts", ()) if "inlineData" in part or "fileData" in part)
    return Result(brain.plain(response), one.get("id", ""), one["name"], set(response) == {"error"}, media)


def _model(content: Doc) -> Turn:
    texts = [part for part in content["parts"] if "text" in part]
    calls = tuple(Call(one["name"], one.get("args", {}), one.get("id", "")) for one in parts_of(content, "functionCall"))
    said, thought = ("".join(part["text"] for part in texts if bool(part.get("thought")) == kind) for kind in (False, True))
    return Turn("assistant", said, calls=calls, thinking=thought)


def settings(asked: Asked) -> Settings:
    config, doc = asked.config, asked.doc
    choice = doc.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = choice.get("allowedFunctionNames")
    mode = choice.get("mode", "AUTO")
    return Settings(
        system="\n".join(parts_of(doc.get("systemInstruction", {}), "text")),
        tools=tuple(_tool(one) for _, one in asked.declarations if not allowed or one["name"] in allowed),
        force={"ANY": "any", "NONE": "none"}.get(mode, "auto"),
        schema=config.get("responseJsonSchema") or (json_schema(config["responseSchema"]) if "responseSchema" in config else None),
        json_only=config.get("responseMimeType") == "application/json",
        thinking=thinks(asked),
        max_tokens=config.get("maxOutputTokens"),
        stops=tuple(config.get("stopSequences", ())),
    )


def thinks(asked: Asked) -> bool:
    """This model thinks when it is asked to in any way, so that a test need not count thoughts that nobody wanted."""
    config = asked.config.get("thinkingConfig", {})
    return bool(config) and config.get("thinkingBudget") != 0 and config.get("thinkingLevel") != "MINIMAL"


def _tool(one: Doc) -> Tool:
    schema = one.get("parametersJsonSchema") or json_schema(one.get("parameters", {"type": "OBJECT"}))
    return Tool(one["name"], schema, one.get("description", ""))


# Writing.


@dataclass
class Writer:
    """One answer as documents. `serial` numbers the answer, so that ids of calls differ from turn to turn."""

    asked: Asked
    model: str
    serial: int
    answer: Answer = field(init=False)
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        history, asked_for = turns(self.asked.doc), settings(self.asked)
        self.answer = brain.answer(history, asked_for)
        self.prompt = brain.prompt_tokens(history, asked_for) + (CACHED if "cachedContent" in self.asked.doc else 0)

    def whole(self) -> Doc:
        """The answer to generateContent."""
        parts = [*self._thoughts(), *self._text(), *self._calls()]
        count = self.asked.config.get("candidateCount", 1)
        return self._doc([self._candidate(parts, self._finish, index) for index in range(count)], self.answer.output_tokens * count)

    def chunks(self) -> Iterator[Doc]:
        """The same in pieces: words by twos, calls whole, usage growing; where the finish stands depends on the model (trap 23)."""
        pieces: list[list[Doc]] = [[{**part, "text": text}] for part in self._thoughts() for text in _pairs(part["text"])]
        thoughts = len(pieces)
        texts = list(_pairs(self.answer.text))
        pieces += [[{"text": text}] for text in texts]
        calls = self._calls()
        pieces += [[call] for call in calls] if self._late else [calls] if calls else []
        if self._late or not pieces[thoughts:]:
            pieces.append([{"text": "", **({"thoughtSignature": sign({})} if texts and self.asked.family.signed else {})}])
        out = 0
        for at, parts in enumerate(pieces):
            last = at == len(pieces) - 1
            out += sum(2 for part in parts if "thought" not in part)
            out = self.answer.output_tokens if last else min(out, self.answer.output_tokens)
            yield self._doc([self._candidate(parts, self._finish if last else None, 0)], out)

    @property
    def _late(self) -> bool:
        return self.asked.family.late_finish

    @property
    def _finish(self) -> str:
        return FINISH[self.answer.finish]

    def _thoughts(self) -> list[Doc]:
        shown = self.asked.config.get("thinkingConfig", {}).get("includeThoughts") and self.answer.thinking
        return [{"text": self.answer.thinking, "thought": True}] if shown else []

    def _text(self) -> list[Doc]:
        if not self.answer.text:
            return []
        signed = {"thoughtSignature": sign({})} if self.asked.family.signed and not self.answer.calls else {}
        return [{"text": self.answer.text, **signed}]

    def _calls(self) -> list[Doc]:
        """Only the first of parallel calls is signed; 2.5 signs when it has thought."""
        found: list[Doc] = []
        for index, call in enumerate(self.answer.calls):
            one: Doc = {"name": call.name, "args": call.arguments}
            if self.asked.family.ids:
                one["id"] = f"fc{self.serial}{'abcdefgh'[index]}"
            part: Doc = {"functionCall": one}
            if index == 0 and (self.asked.family.signed or self.answer.thinking):
                part["thoughtSignature"] = sign(part)
            found.append(part)
        return found

    def _candidate(self, parts: list[Doc], finish: str | None, index: int) -> Doc:
        content: Doc = {"parts": parts, "role": "model"} if parts else {"role": "model"}  # nothing said: no `parts` at all
        out: Doc = {"content": content, **({"finishReason": finish} if finish else {}), "index": index}
        if self.asked.config.get("responseLogprobs") and finish:
            out |= self._logprobs()
        return out

    def _logprobs(self) -> Doc:
        words, top = brain.tokens(self.answer.text), self.asked.config.get("logprobs", 0)
        chosen = [{"token": word, "tokenId": len(word), "logProbability": -0.125} for word in words]
        others = [{"candidates": [one, {"token": "~", "tokenId": 1, "logProbability": -3.5}][:top]} for one in chosen]
        return {"avgLogprobs": -0.125, "logprobsResult": {"chosenCandidates": chosen, "topCandidates": others}}

    def _doc(self, candidates: list[Doc], out: int) -> Doc:
        return {
            "candidates": candidates,
            "usageMetadata": self.usage(out),
            "modelVersion": self.model,
            **({"createTime": "2026-01-01T00:00:00.000000Z"} if self.asked.service == "vertex" else {}),
            "responseId": f"resp{self.serial}",
        }

    def usage(self, out: int) -> Doc:
        """Prompt with the cached part in it, thoughts beside the candidates' tokens (trap 41); zeros are left out, as in proto JSON."""
        thoughts = self.answer.thinking_tokens
        cached = CACHED if "cachedContent" in self.asked.doc else 0
        counts = {
            "promptTokenCount": self.prompt, "candidatesTokenCount": out, "totalTokenCount": self.prompt + out + thoughts,
            "cachedContentTokenCount": cached, "thoughtsTokenCount": thoughts,
        }  # fmt: skip
        found: Doc = {name: count for name, count in counts.items() if count}
        found["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": self.prompt}]
        if self.asked.service == "vertex":
            found["trafficType"] = "ON_DEMAND"
        return found


def _pairs(text: str) -> Iterator[str]:
    words = brain.tokens(text)
    for at in range(0, len(words), 2):
        yield "".join(words[at : at + 2])
