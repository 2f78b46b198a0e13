"""Text mode: blocks are shared as far as prompts are, whatever the JSON looks like; lengths are learned from what engines report."""

from __future__ import annotations

import base64
import random
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.prompts import Prompter, prompter
from backends.prompts.learned import estimated
from backends.prompts.prompter import HEAVY_TEXT
from backends.types import Call
from routing.prefix import TEXT_BLOCK
from tests.backends.prompts.made import HASHING, call, chat

LONG = "The quick brown fox jumps over the lazy dog. " * 40
CONTENT = st.one_of(st.text(max_size=400), st.integers(0, 60).map(lambda n: f"word {n} " * n))
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d" * 300, "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}},
}


def text() -> Prompter:
    return prompter(None, HASHING)


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def png(width: int, height: int, fill: bytes) -> str:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + fill
    return "data:image/png;base64," + base64.b64encode(head).decode()


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_text_mode_says_why() -> None:
    p = text()
    assert p.mode == "text" and "no model folder or name" in p.reason and p.block_tokens == 128


@given(st.lists(CONTENT, min_size=1, max_size=8), CONTENT, CONTENT, st.booleans())
def test_a_turn_is_a_prefix_of_the_next(turns: list[str], answer: str, question: str, tools: bool) -> None:
    """Of the blocks: the answer and the next question come behind everything that was there."""
    p = text()
    talk = turns if len(turns) % 2 else turns[1:] or ["hi"]  # it ends with the user
    more: dict[str, Any] = {"tools": [TOOL]} if tools else {}
    one, two = p.prompt(chat(*talk, **more)), p.prompt(chat(*talk, answer, question, **more))
    assert two.blocks[: len(one.blocks)] == one.blocks
    assert two.bytes > one.bytes and two.tokens >= one.tokens and one.session == two.session


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: _shuffled(value[k], rng) for k in keys}
    return [_shuffled(v, rng) for v in value] if isinstance(value, list) else value


@given(st.lists(CONTENT, min_size=1, max_size=5), st.integers(0, 2**32), st.sampled_from([0, 1, 4]))
def test_key_order_and_white_space_do_not_matter(turns: list[str], seed: int, indent: int) -> None:
    doc = {"messages": [{"role": "user", "content": [{"type": "text", "text": t}], "name": "n"} for t in turns]}
    raw = msgspec.json.format(msgspec.json.encode(_shuffled(doc["messages"], random.Random(seed))), indent=indent)
    shuffled = msgspec.structs.replace(call(doc), doc={"messages": msgspec.Raw(raw)})
    assert text().prompt(shuffled) == text().prompt(call(doc))


@given(st.integers(0, len(LONG) - 1), st.integers(0, 3))
def test_what_differs_changes_the_blocks_from_there_on(at: int, turn: int) -> None:
    turns = [LONG] * 4
    one = text().prompt(chat(*turns))
    turns[turn] = LONG[:at] + "#" + LONG[at + 1 :]
    two = text().prompt(chat(*turns))
    start = text().prompt(chat(*[LONG] * turn, "")).bytes - len("<|end|>\n<|assistant|>\n") if turn % 2 == 0 else None
    where = common(one.blocks, two.blocks)
    assert not set(one.blocks[where:]) & set(two.blocks[where:])
    if start is not None:
        assert where == (start + at) // TEXT_BLOCK


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"tools": [TOOL]}, {}),
        ({"tools": [TOOL]}, {"tools": [{**TOOL, "type": "other"}]}),
        ({"cache_salt": "a"}, {"cache_salt": "b"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "high"}),
        ({"documents": [{"title": "a"}]}, {}),
    ],
)
def test_options_before_the_messages_differ_from_the_start(one: dict[str, Any], two: dict[str, Any]) -> None:
    a, b = (text().prompt(chat("system:" + LONG, "hi", **more)).blocks for more in (one, two))
    assert a and b and not set(a) & set(b)


def test_a_response_format_counts_where_templates_print_it() -> None:
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}
    plain, printed = text(), prompter(None, HASHING, formats=True)
    assert plain.prompt(chat(LONG, **form)).blocks == plain.prompt(chat(LONG)).blocks
    assert printed.prompt(chat(LONG, **form)).blocks != printed.prompt(chat(LONG)).blocks
    assert plain.prompt(chat(LONG, **form)).needs == {"json_schema"}


def test_system_prompts_differ_from_where_they_differ() -> None:
    a, b = (text().prompt(chat(f"system:{LONG}{end}", "hi", LONG, "ok")).blocks for end in ("A", "B"))
    assert 0 < common(a, b) < len(a) and common(a, b) == (len("<|system|>\n") + len(LONG)) // TEXT_BLOCK


def test_models_and_adapters_have_chains_of_their_own() -> None:
    made = [prompter(None, HASHING, salt=m, lora=a).prompt(chat(LONG)).blocks for m, a in (("", ""), ("m", ""), ("", "m"))]
    assert len({blocks[0] for blocks in made}) == 3


def test_tool_calls_are_part_of_the_prompt_but_not_their_white_space() -> None:
    def asked(arguments: Any, **more: Any) -> Call:
        calls = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        return call({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "x", "content": LONG}, {"role": "user", "content": "b"},
        ], **more})  # fmt: skip

    p = text()
    one = p.prompt(asked('{"a": 1, "b": [2]}')).blocks
    assert one == p.prompt(asked('{"a":1,"b":[2]}')).blocks == p.prompt(asked({"a": 1, "b": [2]})).blocks
    assert not set(one) & set(p.prompt(asked('{"a": 2, "b": [2]}')).blocks)
    assert p.prompt(asked("no JSON")).blocks != p.prompt(asked("no  JSON")).blocks


def test_images_count_by_their_content() -> None:
    p = text()
    small, large = png(64, 64, b"x"), png(1500, 1200, b"x")
    one, two, other = (
        p.prompt(chat([{"type": "text", "text": "See:"}, image(url)], LONG, "go")) for url in (small, large, png(64, 64, b"y"))
    )
    assert one.needs == {"images"} and 1 <= one.media < 50 < 1000 < two.media <= 1600
    assert two.tokens - one.tokens == pytest.approx(two.media - one.media, abs=len(small) / 100)
    assert not set(one.blocks) & set(other.blocks) and one.tokens == other.tokens
    assert p.prompt(chat([{"type": "text", "text": "See:"}, image(small, detail="low")], LONG, "go")) == one


def test_a_data_uri_is_hashed_and_not_part_of_the_text() -> None:
    url = "data:image/png;base64," + "A" * 3_000_000
    made = text().prompt(chat([image(url)]))
    assert made.media == 1600 and made.bytes < 7000


@pytest.mark.parametrize(
    ("part", "needs", "tokens"),
    [
        ({"type": "input_audio", "input_audio": {"data": "A" * 160_000, "format": "wav"}}, "audio", 80),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 200_000}}, "documents", 9000),
        ({"type": "file", "file": {"file_id": "file-1"}}, "documents", 2250),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, "images", 1600),
        ({"type": "image_url", "image_url": "https://x/y.png"}, "images", 1600),
    ],
)
def test_other_media(part: dict[str, Any], needs: str, tokens: int) -> None:
    made = text().prompt(chat([part, {"type": "text", "text": "?"}]))
    assert made.needs == {needs} and made.media == pytest.approx(tokens, rel=0.2) and not made.exact


def test_what_a_call_needs() -> None:
    p = text()
    assert p.prompt(chat("a", tools=[TOOL])).needs == p.prompt(chat("a", functions=[{"name": "f"}])).needs == {"tools"}
    assert p.prompt(chat("a", tools=[], functions=None, response_format={"type": "text"})).needs == frozenset()
    assert p.prompt(chat("a", modalities=["text", "audio"])).needs == {"audio"}
    assert p.prompt(chat("a", documents=[{"text": "x"}])).needs == {"documents"}


def test_the_output_that_is_allowed() -> None:
    p = text()
    assert p.prompt(chat("a", max_tokens=7)).output == 7
    assert p.prompt(chat("a", max_tokens=7, max_completion_tokens=9)).output == 9
    assert p.prompt(chat("a")).output is p.prompt(chat("a", max_tokens=None)).output is p.prompt(chat("a", max_tokens=-1)).output is None


def test_sessions() -> None:
    p = text()
    talk = ("system:Be brief.", "hello")
    first = p.prompt(chat(*talk)).session
    assert first and p.prompt(chat(*talk, "yes", "more")).session == first
    assert p.prompt(chat("system:Be brief.", "other")).session != first
    assert p.prompt(msgspec.structs.replace(chat(*talk), tenant="u")).session != first
    named = p.prompt(chat("a", prompt_cache_key="k", user="u")).session
    assert named == p.prompt(chat("b", prompt_cache_key="k")).session != p.prompt(chat("a", user="u")).session
    assert p.prompt(chat(LONG * 3 + "a" + LONG)).session != p.prompt(chat(LONG * 3 + "bb" + LONG)).session
    assert "k" not in named.strip("0123456789abcdef")


def test_completions_and_embeddings() -> None:
    p = text()
    one = p.prompt(call({"prompt": LONG, "max_tokens": 3}, "completions"))
    assert one.blocks and one.tokens > 300 and one.output == 3 and one.session and not one.exact
    assert p.prompt(call({"prompt": [LONG, LONG]}, "completions")).tokens == pytest.approx(2 * one.tokens, abs=2)
    assert p.prompt(call({"input": [LONG, "x"]}, "embeddings")).blocks == one.blocks
    ids = p.prompt(call({"prompt": list(range(130))}, "completions"))
    assert (ids.tokens, ids.exact, len(ids.blocks)) == (130, True, 2)
    several = p.prompt(call({"input": [[1, 2], [3]]}, "embeddings"))
    assert (several.tokens, several.exact, several.blocks) == (3, True, [])
    assert p.prompt(call({"input": [[1, 2], LONG]}, "embeddings")).tokens > 300


@pytest.mark.parametrize(
    "doc",
    [
        {}, {"messages": 3}, {"messages": [1]}, {"messages": []}, {"prompt": {}}, {"prompt": [[-1]]}, {"prompt": [1 << 40]}, {"prompt": []},
        {"messages": [{"role": 3, "content": {"a": 1}}, {"content": ["x", 3, {"type": "odd"}], "tool_calls": ["y"], "name": 4}]},
        {"messages": [{"role": "user"}], "tools": "x", "response_format": [], "max_tokens": "x", "cache_salt": 4, "user": {}},
        {"messages": [{"role": "assistant", "function_call": {"name": "f"}, "reasoning_content": "thought"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}, {"type": "file", "file": 3}, {"type": "input_audio"}]}]},
    ],
)  # fmt: skip
def test_strange_bodies_do_no_harm(doc: dict[str, Any]) -> None:
    for api in ("chat", "completions", "embeddings"):
        made = text().prompt(call(doc, api))
        assert made.tokens >= 1 and made == text().prompt(call(doc, api))
        text().heavy(call(doc, api))


def test_invalid_json_inside_is_hashed_as_it_is() -> None:
    broken = Call(b"1", "chat", "m", False, {"messages": msgspec.Raw(b'[{"role": "user", "content": "\\ud800"}]')}, "t", {}, 0.0)
    assert text().prompt(broken).tokens > 3
    deep = msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)
    assert text().prompt(msgspec.structs.replace(broken, doc={"messages": deep})).tokens > 100


@pytest.mark.parametrize("rate", [0.15, 0.25, 0.8])
def test_lengths_are_learned(rate: float) -> None:
    """An engine with `rate` tokens a byte: after twenty prompts of other lengths, estimates are right within 3 per cent."""
    p, rng = text(), random.Random(1)
    for _ in range(20):
        made = p.prompt(chat(f"{rng.random()}" + LONG[: rng.randrange(200, 1800)] * rng.randrange(1, 9)))
        p.told(made, round(made.bytes * rate))
    made = p.prompt(chat("new" + LONG * 5))
    assert made.tokens == pytest.approx(made.bytes * rate, rel=0.03)
    assert p.block_tokens == pytest.approx(TEXT_BLOCK * rate, rel=0.4)
    for _ in range(100):
        p.told(made, round(made.bytes * rate))
    assert p.block_tokens == pytest.approx(TEXT_BLOCK * rate, rel=0.1)


def test_a_conversation_goes_on_from_its_last_report() -> None:
    p = text()
    one = p.prompt(chat(LONG))
    p.told(one, 5 * one.tokens)
    two = p.prompt(chat(LONG, "ok", "go"))
    assert 5 * one.tokens < two.tokens < 5 * one.tokens + 100


def test_reports_that_cannot_be_teach_nothing() -> None:
    p = text()
    made = p.prompt(chat(LONG))
    before = (p.learned.factor, p.block_tokens)
    for tokens in (0, -3, 1, 10**9):
        p.told(made, tokens)
    p.told(p.prompt(chat([image(png(9, 9, b""))])), 50)
    assert (p.learned.factor, p.block_tokens) == before


@given(st.text(max_size=300))
def test_estimates_are_of_the_order_of_the_text(value: str) -> None:
    raw = len(value.encode())
    assert max(1, raw // 8) <= estimated(len(value), raw) <= max(1, raw)


def test_only_very_long_texts_are_heavy() -> None:
    p = text()
    assert not p.heavy(chat("x" * 1000)) and p.heavy(chat("x" * (HEAVY_TEXT + 1))) and p.ids(chat("x")) is None


@given(st.lists(st.tuples(st.sampled_from(["system", "developer", "user", "assistant", "tool"]), st.text(max_size=3000)), max_size=6))
def test_plain_talk_is_the_prompt_that_any_other_way_makes(turns: list[tuple[str, str]]) -> None:
    plain = call({"messages": [{"role": role, "content": content} for role, content in turns]})
    # A name that is no text says nothing, but such a message is read the long way.
    other = call({"messages": [{"role": role, "content": content, "name": None} for role, content in turns]})
    assert text().prompt(plain) == text().prompt(other)


def test_of_many_conversations_those_told_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.prompts.learned.SESSIONS", 2)
    p = text()
    made = {name: p.prompt(chat(name + LONG)) for name in "abc"}
    for name in "abac":
        p.told(made[name], 999)
    assert [p.prompt(chat(name + LONG)).tokens == 999 for name in "abc"] == [True, False, True]


def test_what_is_learned_has_bounds() -> None:
    p = text()
    p.learned._tokens = 1e9
    assert p.learned.tokens(100, 0, "") == 100 * p.learned.factor == 1000
