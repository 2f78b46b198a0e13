"""What engines do to messages and tools before their template sees them, as a real vLLM 0.32 and SGLang 0.5.23 were seen to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from backends.prompts import Prompter
from backends.prompts.types import Unreadable
from quant.builtin.template import CHAT_TEMPLATE
from tests.backends.prompts.made import CHATML, LLAMA3, PARTS, QWEN, call, chat, plain

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}},
}
CALLING: list[dict[str, Any]] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü", "b":1}'}},
    ]},
    {"role": "tool", "tool_call_id": "1", "content": "r"},
]  # fmt: skip


@pytest.mark.parametrize("engine", ["vllm", "sglang", ""])
@pytest.mark.parametrize("template", [QWEN, LLAMA3, CHAT_TEMPLATE])
def test_tools_are_rendered_as_the_engine_does(made: Callable[..., Prompter], template: str, engine: str) -> None:
    p = made(template, engine=engine)
    asked, parsed = [dict(m) for m in CALLING], [dict(m) for m in CALLING]
    if engine == "vllm":
        asked[2]["content"] = None  # an empty text is a part there, and no part is what this template sees as no content
    parsed[2] = {**parsed[2], "tool_calls": [{"function": {"name": "f", "arguments": {"a": "ü", "b": 1}}}]}
    text = plain(template, parsed, [TOOL if engine != "sglang" else {**TOOL, "defer_loading": None}])
    assert p.rendered is not None and p.rendered.text(call({"messages": asked, "tools": [TOOL]}), asked) == text
    assert p.prompt(call({"messages": CALLING, "tools": [TOOL]})).needs == {"tools"}


def test_vllm_writes_tools_in_its_own_order_and_sglang_as_they_came(made: Callable[..., Prompter]) -> None:
    tool = {"function": {"parameters": {"z": 1}, "name": "f", "odd": 1}, "type": "function"}
    doc = {"messages": [{"role": "user", "content": "q"}], "tools": [tool], "tool_choice": "none"}
    texts = {e: p.rendered.text(call(doc), doc["messages"]) for e in ("vllm", "sglang", "") if (p := made(QWEN, engine=e)).rendered}
    assert '{"type": "function", "function": {"name": "f", "description": null, "parameters": {"z": 1}}}' in texts["vllm"]
    assert "function" not in texts["sglang"] and "function" not in texts[""]
    named = {**doc, "tool_choice": {"type": "function", "function": {"name": "f"}}}
    p = made(QWEN, engine="sglang")
    assert p.rendered is not None
    assert '"function": {"parameters": {"z": 1}, "name": "f", "description": null}, "defer_loading": null}' in p.rendered.text(
        call(named), doc["messages"]
    )


def test_lists_of_parts(made: Callable[..., Prompter]) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, "b"]
    message = [{"role": "user", "content": parts}]

    def text(template: str, engine: str) -> str:
        p = made(template, engine=engine)
        assert p.rendered is not None
        return p.rendered.text(call({"messages": message}), message)

    assert "user\na\nb<" in text(CHATML, "vllm") and "user\na  b<" in text(CHATML, "sglang") and "user\na\n\nb<" in text(CHATML, "")
    assert all("user\nab<" in text(PARTS, engine) for engine in ("vllm", "sglang", ""))


def test_the_roles_that_engines_change(made: Callable[..., Prompter]) -> None:
    def text(messages: list[dict[str, Any]], engine: str, template: str = CHATML) -> str:
        p = made(template, engine=engine)
        assert p.rendered is not None
        return p.rendered.text(call({"messages": messages}), messages)

    developers = [
        {"role": "developer", "content": "A"},
        {"role": "user", "content": "q"},
        {"role": "system", "content": [{"type": "text", "text": "B"}]},
    ]
    assert text(developers, "vllm").startswith("<|im_start|>system\nA\n\nB<|im_end|>\n<|im_start|>user")
    assert text(developers[:2], "vllm").startswith("<|im_start|>system\nA<|im_end|>")
    assert text(developers, "vllm", CHAT_TEMPLATE).startswith("<|system|>A")
    assert text(developers[:2], "sglang").startswith("<|im_start|>developer\nA")
    user = [{"role": "user", "content": "q"}]
    for engine, begins in (("vllm", False), ("sglang", True)):
        p = made(CHATML, engine=engine)
        assert p.rendered is not None
        assert p.rendered.text(call({"messages": user, "add_generation_prompt": False}), user).endswith("assistant\n") == begins
    ended = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "w"}]
    assert "user\nw<" in text(ended, "sglang") and "assistant\nw<" in text(ended, "vllm")


SHOW = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}"


def _called(arguments: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}]}]


def test_what_templates_see_of_a_message(made: Callable[..., Prompter]) -> None:
    """vLLM passes on what it knows, SGLang what is not null; arguments become objects, and what is none is nothing, or refused."""

    def seen(engine: str, messages: list[dict[str, Any]]) -> Any:
        p = made(SHOW, engine=engine)
        assert p.rendered is not None
        return [json.loads(line) for line in p.rendered.text(call({"messages": messages}), messages).splitlines()]

    said = [{"role": "assistant", "content": "a", "reasoning": "r", "name": "n", "odd": 1}, {"role": "user", "content": "b", "name": "u"}]
    assert seen("vllm", said)[0] == {"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "r", "name": "n"}
    assert seen("sglang", said) == [{"role": "assistant", "content": "a", "name": "n"}, {"role": "user", "content": "b"}]
    assert seen("", said) == said
    for arguments in ("", "[]", "no", None, 3, {}):
        assert seen("vllm", _called(arguments))[0]["tool_calls"][0]["function"]["arguments"] == {}
    for arguments in ("[]", "no", "", "[" * 100_000):
        with pytest.raises(Unreadable):
            seen("sglang", [*_called(arguments), {"role": "user", "content": "x"}])


@pytest.mark.parametrize("engine", ["vllm", "sglang", ""])
def test_tools_that_are_none_fall_back_to_text(made: Callable[..., Prompter], engine: str) -> None:
    got = made(QWEN, engine=engine).prompt(chat("a", tools=[{"type": "web_search"}], tool_choice="auto"))
    assert got.needs == {"tools"} and got.exact == (engine == "")


@pytest.mark.parametrize("engine", ["vllm", "sglang", ""])
@pytest.mark.parametrize(
    "messages",
    [
        [{"content": "no role"}],
        [{"role": "user", "content": [{"type": "odd"}]}],
        [{"role": "user", "content": [3]}],
        [{"role": "user", "content": 3}],
        [{"role": "assistant", "tool_calls": [{}], "content": ""}],
    ],
)  # fmt: skip
def test_what_engines_refuse_falls_back_to_text(made: Callable[..., Prompter], engine: str, messages: list[dict[str, Any]]) -> None:
    p = made(CHATML, engine=engine)
    got = p.prompt(call({"messages": messages}))
    assert p.mode == "tokens"
    if not (engine == "sglang" and messages[0].get("content") == 3) and not (engine == "" and messages[0].get("content") == 3):
        assert not got.exact and p.ids(call({"messages": messages})) is None
