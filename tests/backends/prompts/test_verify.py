"""Asking an engine whether it tokenises as we do: engines that do, that do in part, that differ, and that cannot be asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from backends.prompts import Prompter, agrees, probes, prompter, verify
from backends.prompts.template import Template
from backends.types import Fault
from tests.backends.prompts.made import CHATML, HASHING, MISTRAL, PARTS, QWEN, bpe, call, chat, folder, sentencepiece

Fetch = Callable[[str, bytes], Awaitable[bytes]]
TOOL = {"type": "function", "function": {"name": "f"}}


class Engine:
    """A stand-in that renders and tokenises by itself: what vLLM does, in few lines of its own. `odd` is what it does otherwise."""

    def __init__(self, template: str, odd: str = "", tokenizer: str = "") -> None:
        self.template = Template(template, {"bos_token": "<|begin|>", "eos_token": "</s>"}, lambda: datetime(2026, 11, 22))
        self.tokenizer, self.odd = Tokenizer.from_str(tokenizer or bpe()), odd
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def text(self, doc: dict[str, Any]) -> str:
        messages = [self.message(m) for m in doc["messages"]]
        tools = [self.tool(t) for t in doc["tools"]] if "tools" in doc else None
        return self.template.render(messages, tools, {}, answer=True)

    def message(self, m: dict[str, Any]) -> dict[str, Any]:
        content = m["content"] or ""
        if isinstance(content, list):
            content = (" | " if self.odd == "parts" else "\n").join(p["text"] for p in content)
        if self.template.content == "openai":
            content = [{"type": "text", "text": content}]
        calls = [{"function": {**c["function"], "arguments": json.loads(c["function"]["arguments"])}} for c in m.get("tool_calls", ())]
        role = "system" if m["role"] == "developer" and self.odd != "developer" else m["role"]
        return {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}

    def tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        f = tool["function"]
        if self.odd in ("tools", "as sent"):
            return {"type": "function", "function": {**f, **({"odd": 1} if self.odd == "tools" else {})}}
        ordered = {"name": f["name"], "description": f.get("description"), "parameters": f.get("parameters")}
        return {"type": "function", "function": ordered}

    async def fetch(self, path: str, raw: bytes) -> bytes:
        doc = json.loads(raw)
        self.asked.append((path, doc))
        try:
            text = self.text(doc) if "messages" in doc else doc["prompt"]
        except ValueError:
            raise Fault("bad_request", "the template refuses") from None
        ids = self.tokenizer.encode(text, add_special_tokens="messages" not in doc and self.odd != "completions").ids
        return json.dumps({"tokens": ids, "count": len(ids)}).encode()


def made(path: Path, template: str = QWEN, engine: str = "vllm") -> Prompter:
    return prompter(str(folder(path, template)), HASHING, engine=engine, now=lambda: datetime(2026, 11, 22))


@pytest.mark.parametrize("template", [CHATML, QWEN, MISTRAL])
def test_an_engine_that_agrees(tmp_path: Path, template: str) -> None:
    p, engine = made(tmp_path, template), Engine(template)
    assert asyncio.run(verify(p, engine.fetch, "served"))
    assert p.mode == "tokens" and p.reason == "" and p.rendered is not None and p.rendered.refused == frozenset()
    assert {path for path, _ in engine.asked} == {"/tokenize"} and all(doc["model"] == "served" for _, doc in engine.asked)


@pytest.mark.parametrize("odd", ["tools", "parts", "developer", "completions"])
def test_what_differs_is_left_to_text_mode(tmp_path: Path, odd: str) -> None:
    p = made(tmp_path)
    assert asyncio.run(verify(p, Engine(QWEN, odd).fetch))
    assert p.rendered is not None and p.rendered.refused == {odd}
    calls = {
        "tools": chat("a", tools=[TOOL]), "parts": chat([{"type": "text", "text": "a"}]),
        "completions": call({"prompt": "a"}, "completions"),
        "developer": call({"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]}),
    }  # fmt: skip
    assert p.prompt(chat("a")).exact
    assert {name: p.prompt(one).exact for name, one in calls.items()} == {name: name != odd for name in calls}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_shape_of_tools_is_what_the_engine_shows(tmp_path: Path, engine: str) -> None:
    p = made(tmp_path, engine=engine)
    assert asyncio.run(verify(p, Engine(QWEN, "as sent").fetch)) and p.rendered is not None
    assert p.rendered.shape is not p.rendered.trials()[0].shape and "tools" not in p.rendered.refused


@pytest.mark.parametrize("engine", [Engine(CHATML.replace("assistant", "model")), Engine(QWEN, tokenizer=sentencepiece())])
def test_another_template_or_tokenizer_ends_token_mode(tmp_path: Path, engine: Engine) -> None:
    p = made(tmp_path)
    assert not asyncio.run(verify(p, engine.fetch))
    assert p.mode == "text" and p.reason.startswith("the engine tokenises a plain conversation otherwise")
    assert probes(p) == [] and not asyncio.run(verify(p, engine.fetch))


def test_the_form_of_contents_is_what_the_engine_shows(tmp_path: Path) -> None:
    """A template that our look at it takes for one of texts, and the engine for one of parts."""
    hidden = PARTS.replace("message.content is string", "true and message.content is string")
    p = made(tmp_path, hidden.replace("for part in message.content", "for part in (message.content + [])"))
    assert p.rendered is not None and p.rendered.form == "string"
    engine = Engine(PARTS)
    assert asyncio.run(verify(p, engine.fetch)) and p.rendered is not None and p.rendered.form in ("string", "openai")


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"no", b'{"tokens": ["a"]}', b'{"prompt": "text"}', b'{"error": {"message": "x"}}'])
def test_an_engine_that_does_not_tell(tmp_path: Path, answer: bytes) -> None:
    async def fetch(path: str, body: bytes) -> bytes:
        return answer

    p = made(tmp_path)
    assert not asyncio.run(verify(p, fetch)) and "does not tell" in p.reason


def test_an_engine_that_cannot_be_asked_changes_nothing(tmp_path: Path) -> None:
    async def fetch(path: str, body: bytes) -> bytes:
        raise Fault("unavailable", "gone")

    p = made(tmp_path)
    with pytest.raises(Fault, match="gone"):
        asyncio.run(verify(p, fetch))
    assert p.mode == "tokens"


def test_llama_server_is_asked_in_its_own_words(tmp_path: Path) -> None:
    p, engine = made(tmp_path, engine="llamacpp"), Engine(QWEN)

    async def fetch(path: str, body: bytes) -> bytes:
        doc = json.loads(body)
        if path == "/apply-template":
            assert not set(doc) - {"messages", "tools"}
            calls = [{**m, "content": m["content"] or ""} for m in doc["messages"]]
            return json.dumps({"prompt": engine.text({"messages": calls, **({"tools": doc["tools"]} if "tools" in doc else {})})}).encode()
        assert path == "/tokenize" and doc["add_special"] and doc["parse_special"]
        return json.dumps({"tokens": engine.tokenizer.encode(doc["content"]).ids}).encode()

    assert asyncio.run(verify(p, fetch))
    assert p.rendered is not None and "completions" not in p.rendered.refused


def test_of_several_replicas_what_any_does_otherwise_is_left(tmp_path: Path) -> None:
    p = made(tmp_path)
    for odd, refused in (("", set()), ("parts", {"parts"}), ("as sent", {"parts", "tools"}), ("", {"parts", "tools"})):
        assert asyncio.run(verify(p, Engine(QWEN, odd).fetch)) and p.verified
        assert p.rendered is not None and p.rendered.refused == refused


def test_probes_one_by_one(tmp_path: Path) -> None:
    p, engine = made(tmp_path), Engine(QWEN)
    for probe in probes(p):
        answer = asyncio.run(engine.fetch(probe.path, probe.body))
        assert agrees(p, probe, answer) and not agrees(p, probe, b'{"tokens": [1, 2]}')
    p.drop("over.")
    assert not agrees(p, probe, answer) and p.reason == "over."
