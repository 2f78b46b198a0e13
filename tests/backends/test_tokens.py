"""Counting tokens: vLLM's form as it is, and translated for llama.cpp."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends import tokens, wire
from backends.fetch import Answer
from backends.openai import OpenAILink
from backends.types import Fault, Timeouts
from tests.backends.test_openai import Kept


class Told(OpenAILink):
    """A link whose server gives prepared answers by path."""

    __slots__ = ("answers", "asked")

    def __init__(self, kind: str, answers: dict[str, Any], **more: Any) -> None:
        super().__init__(Kept("http://h/a/v1"), kind=kind, **more)
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    async def ask(self, payload: tuple[bytes, bytes], timeouts: Timeouts | None = None) -> Answer:
        path = payload[0].split(b" ")[1].decode()
        self.asked.append((path, json.loads(payload[1]) if payload[1] else None))
        found = self.answers[path]
        if isinstance(found, tuple):
            return found[0], {}, json.dumps(found[1]).encode()
        return 200, {}, found if isinstance(found, bytes) else json.dumps(found).encode()


def ask(link: OpenAILink, what: str, **doc: Any) -> Any:
    call = tokens.tokenize if what == "tokenize" else tokens.detokenize
    return json.loads(asyncio.run(call(link, wire.parse(json.dumps(doc).encode()), "own", 0.0)))


PROPS = {"default_generation_settings": {"n_ctx": 2048}}


def test_vllm_is_asked_as_we_were() -> None:
    link = Told("vllm", {"/a/tokenize": {"count": 1}, "/a/detokenize": {"prompt": "x"}})
    assert ask(link, "tokenize", model="m", prompt="x", add_special_tokens=False) == {"count": 1}
    assert ask(link, "detokenize", model="m", tokens=[1]) == {"prompt": "x"}
    assert link.asked[0] == ("/a/tokenize", {"model": "own", "prompt": "x", "add_special_tokens": False})
    assert link.asked[1] == ("/a/detokenize", {"model": "own", "tokens": [1]})


@pytest.mark.parametrize(("given", "special"), [({}, True), ({"add_special_tokens": False}, False)])
def test_llamacpp_text(given: dict[str, Any], special: bool) -> None:
    link = Told("llamacpp", {"/a/tokenize": {"tokens": [5, 6]}, "/a/props": PROPS})
    assert ask(link, "tokenize", prompt="x", **given) == {"tokens": [5, 6], "count": 2, "max_model_len": 2048}
    assert link.asked[0] == ("/a/tokenize", {"content": "x", "add_special": special, "parse_special": True})


def test_llamacpp_messages_go_through_the_template() -> None:
    link = Told("llama-server", {"/a/apply-template": {"prompt": "<s>x"}, "/a/tokenize": {"tokens": [5]}, "/a/props": PROPS})
    assert ask(link, "tokenize", model="m", messages=[{"role": "user"}], tools=[])["count"] == 1
    assert link.asked[0] == ("/a/apply-template", {"messages": [{"role": "user"}], "tools": []})
    assert link.asked[1] == ("/a/tokenize", {"content": "<s>x", "add_special": False, "parse_special": True})


@pytest.mark.parametrize("props", [(404, {}), {}, {"default_generation_settings": 7}, {"default_generation_settings": {"n_ctx": "x"}}])
def test_an_unknown_context(props: Any) -> None:
    link = Told("llamacpp", {"/a/tokenize": {}, "/a/props": props})
    assert ask(link, "tokenize", prompt="x") == {"tokens": [], "count": 0, "max_model_len": None}


def test_llamacpp_detokenize() -> None:
    link = Told("llamacpp", {"/a/detokenize": {"content": "x"}})
    assert ask(link, "detokenize", tokens=[1, 2]) == {"prompt": "x"}
    assert link.asked == [("/a/detokenize", {"tokens": [1, 2]})]
    no = Fault("bad_request", "out of range", origin="client")
    with pytest.raises(Fault, match="out of range"):
        ask(Told("llamacpp", {}, guard=lambda doc: no), "detokenize", tokens=[10**9])
    assert ask(Told("llamacpp", {"/a/detokenize": {}}, guard=lambda doc: None), "detokenize", tokens=[1]) == {"prompt": ""}


@pytest.mark.parametrize(
    ("what", "answers", "doc", "says"),
    [
        ("tokenize", {}, {}, "'prompt' or 'messages' is missing"),
        ("detokenize", {}, {}, "'tokens' is missing"),
        ("tokenize", {"/a/tokenize": (500, {"error": {"message": "boom"}})}, {"prompt": "x"}, "boom"),
        ("tokenize", {"/a/tokenize": b"[]"}, {"prompt": "x"}, "not a JSON object"),
        ("tokenize", {"/a/tokenize": b"garbage"}, {"prompt": "x"}, "not a JSON object"),
    ],
)
def test_faults(what: str, answers: dict[str, Any], doc: dict[str, Any], says: str) -> None:
    with pytest.raises(Fault, match=says):
        ask(Told("llamacpp", answers), what, **doc)
