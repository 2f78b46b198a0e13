"""Token mode: what is joined out of pieces is what the whole text is, for every template and tokenizer, in any order of calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from backends.prompts import Prompter, cutter, prompter
from backends.prompts.cutter import Cutter
from backends.prompts.prompter import HEAVY, WRONG
from backends.prompts.rendered import PSEUDO
from backends.prompts.tokens import Tokens
from quant import builtin
from quant.builtin import tokenizer as toy
from quant.builtin.template import CHAT_TEMPLATE, renderer
from tests.backends.prompts.made import (
    CHATML,
    HASHING,
    KINDS,
    MISTRAL,
    PARTS,
    QWEN,
    SPECIALS,
    TEMPLATES,
    bpe,
    call,
    chat,
    folder,
    plain,
)

LONG = "The quick brown fox jumps over the lazy dog. " * 40
PIECES = st.sampled_from([
    *SPECIALS, "<|end|>", "<|im", "<", "|>", " ", "  ", "\n", "\n\n", "a", "word", " word", "12", "é", "e\u0301", "你", "😀", "_",
    "\u2581", "\t",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join)
TALKS = st.lists(st.one_of(TEXTS, st.text(max_size=40)), min_size=1, max_size=7)


@pytest.fixture(scope="module", params=KINDS)
def tokens(request: pytest.FixtureRequest) -> Tokens:
    return Tokens(Tokenizer.from_str(KINDS[request.param]()))


@given(st.lists(TEXTS, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_joined_is_whole(tokens: Tokens, texts: list[str]) -> None:
    assert tokens.joins
    for text in texts:
        assert tokens.ids(text) == tokens.whole(text)
        assert tokens.fresh(text) == 0


@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_conversation_that_goes_on_is_whole(tokens: Tokens, texts: list[str], session: int) -> None:
    """Each prompt of a session extends the one before, or does not: the memory of it never shows."""
    for text in (*itertools.accumulate(texts), *texts):
        assert tokens.ids(text, f"s{session}") == tokens.whole(text)


@given(TEXTS, st.integers(0, 60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_before_a_boundary_do_not_depend_on_what_follows(tokens: Tokens, text: str, end: int) -> None:
    cut = tokens.boundary(text, end)
    assert cut <= end
    assert tokens.whole(text[:cut]) == tokens.whole(text)[: len(tokens.whole(text[:cut]))]


@given(
    st.sets(st.text("ab<", min_size=1, max_size=4), max_size=6),
    st.sets(st.text("ab<", min_size=1, max_size=4), max_size=3),
    st.text("ab<", max_size=30),
)
def test_a_cutter_finds_the_longest_token_at_the_first_place(ids: set[str], others: set[str], text: str) -> None:
    found = Cutter({token: i for i, token in enumerate(sorted(ids))}, others)
    every, at, expected = ids | others, 0, []
    while at < len(text):
        token = max((t for t in every if text.startswith(t, at)), key=len, default="")
        if token in ids:
            expected.append((at, token))
        at += len(token) or 1
    pieces = list(found.pieces(text))
    assert [(at, piece) for at, piece in pieces if piece in ids and (at, piece) in expected] == expected
    assert "".join(piece for _, piece in pieces) == text and all(text.startswith(piece, at) for at, piece in pieces)
    assert found.stable == {t for t in ids if not any(t in other and t != other for other in every)}


def test_thousands_of_added_tokens_are_no_burden() -> None:
    made = Tokenizer.from_str(bpe())
    made.add_special_tokens([AddedToken(f"<unused{i}>", normalized=False) for i in range(6000)])
    made.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 32)])
    found = cutter.of(made)
    assert "<unused1>" in found.stable and "\n\n" not in found.stable and "\n" * 31 in found.stable
    whole = Tokens(made)
    text = "<unused17>a\n\n\n\nb<unused>" + "\n" * 40 + "<unused5999>"
    assert whole.joins and whole.ids(text) == whole.whole(text)


@given(TALKS, st.sampled_from(sorted(TEMPLATES)), st.sampled_from(sorted(KINDS)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_prompts_are_the_template_tokenised_whole(made: Callable[..., Prompter], talk: list[str], template: str, kind: str) -> None:
    key = (template, kind)
    p = _CACHE.get(key) or _CACHE.setdefault(key, made(TEMPLATES[template], kind))
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(talk)]
    text = plain(TEMPLATES[template], messages)
    got = p.prompt(call({"messages": messages}))
    ids = Tokenizer.from_str(KINDS[kind]()).encode(text, add_special_tokens=False).ids
    assert got.exact and got.tokens == max(1, len(ids)) and got.bytes == len(text.encode())
    assert list(p.ids(call({"messages": messages})) or []) == ids
    assert got.blocks == HASHING.tokens(ids, HASHING.root("", "", ""))


_CACHE: dict[tuple[str, str], Prompter] = {}


def test_the_built_in_models_template_and_tokenizer(tmp_path: Path) -> None:
    merges = gguf.GGUFReader(builtin.path()).fields["tokenizer.ggml.merges"].contents()
    built = toy.build([tuple(merge.split(" ")) for merge in merges])
    p = prompter(str(folder(tmp_path, CHAT_TEMPLATE, built.to_str())), HASHING)
    messages = [
        {"role": "user", "content": "Repeat: banana"},
        {"role": "assistant", "content": "banana"},
        {"role": "user", "content": "What is 12+7?"},
    ]
    text = renderer()(messages, None, True)
    assert p.mode == "tokens" and p.rendered is not None and p.rendered.tokens.joins
    assert list(p.ids(call({"messages": messages})) or []) == built.encode(text).ids


def test_templates_that_refuse_fall_back_to_text(made: Callable[..., Prompter]) -> None:
    p = made(MISTRAL)
    assert p.prompt(chat("a", "b", "c")).exact
    assert not p.prompt(chat("system:x", "b")).exact and p.ids(chat("system:x", "b")) is None


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template": "x"},
        {"continue_final_message": True},
        {"chat_template_kwargs": {"max_length": 3}},
        {"messages": 3},
        {"truncate_prompt_tokens": 5},
    ],
)
def test_calls_that_are_rendered_otherwise_fall_back_to_text(made: Callable[..., Prompter], more: dict[str, Any]) -> None:
    assert not made(CHATML).prompt(chat("a", **more)).exact


def test_options_reach_the_template(made: Callable[..., Prompter]) -> None:
    p = made(QWEN)
    with_, without = p.ids(chat("a", chat_template_kwargs={"enable_thinking": False})), p.ids(chat("a"))
    assert with_ is not None and without is not None and with_[: len(without)] == without and len(with_) > len(without)
    closed = p.ids(chat("a", add_generation_prompt=False))
    assert closed is not None and without[: len(closed)] == closed and len(closed) < len(without)
    effort = made("{{ reasoning_effort|default('none') }}{{ documents }}{{ strftime_now('%Y') }}{% generation %}g{% endgeneration %}")
    assert effort.rendered is not None
    assert effort.rendered.text(chat("a", reasoning_effort="low", documents=[1]), []) == "low[1]2026g"
    assert effort.rendered.text(chat("a"), []) == "noneNone2026g"


def test_images_leave_what_is_before_them_exact(made: Callable[..., Prompter]) -> None:
    p = made(PARTS)
    before = ["system:" + LONG, LONG, "ok"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    plain_, seen = p.prompt(chat(*before, "more")), p.prompt(chat(*before, [image, {"type": "text", "text": LONG}]))
    other = p.prompt(chat(*before, [{"type": "image_url", "image_url": {"url": "https://x/y"}}, {"type": "text", "text": LONG}]))
    shared = sum(a == b for a, b in zip(plain_.blocks, seen.blocks, strict=False))
    assert not seen.exact and seen.needs == {"images"} and seen.media == 1600 and p.ids(chat([image])) is None
    assert shared == len(plain_.blocks) or shared == len(plain_.blocks) - 1
    assert seen.tokens > 1600 + len(plain_.blocks) * 64 and len(seen.blocks) == seen.tokens // 64
    assert [a == b for a, b in zip(seen.blocks, other.blocks, strict=True)].index(False) == shared
    again = p.prompt(chat(*before, [image, {"type": "text", "text": LONG}], "ok", "go"))
    assert again.blocks[: len(seen.blocks) - 1] == seen.blocks[:-1]
    assert p.prompt(chat([image], "go")).tokens > 1600
    assert PSEUDO > 1 << 20


def test_plain_prompts(made: Callable[..., Prompter]) -> None:
    p = made(CHATML)
    one = Tokenizer.from_str(bpe()).encode(LONG).ids
    got = p.prompt(call({"prompt": LONG}, "completions"))
    assert got.exact and got.tokens == len(one) and got.blocks == HASHING.tokens(one, HASHING.root("", "", ""))
    assert one[0] == 0 and list(p.ids(call({"prompt": LONG}, "completions")) or []) == one
    assert p.prompt(call({"prompt": LONG, "add_special_tokens": False}, "completions")).tokens == len(one) - 1
    assert p.prompt(call({"prompt": [LONG, "x"]}, "completions")).tokens == len(one) + 2
    assert p.ids(call({}, "completions")) is None
    assert not p.prompt(call({"prompt": LONG, "truncate_prompt_tokens": 4}, "completions")).exact


def test_only_new_text_is_heavy(made: Callable[..., Prompter]) -> None:
    p = made(CHATML)
    text = "word " * (HEAVY // 4)
    assert not p.heavy(chat("x")) and p.heavy(chat(text))
    p.prompt(chat(text))
    assert not p.heavy(chat(text)) and not p.heavy(chat(text, "ok", "go")) and p.heavy(chat(text, "ok", text + "!"))
    assert p.heavy(chat(text, chat_template="x")) and p.heavy(call({"prompt": text}, "completions"))


def test_threads_beside_the_loop_agree(made: Callable[..., Prompter]) -> None:
    p, fresh = made(QWEN, cache_bytes=1 << 16), made(QWEN)
    calls = [chat("system:" + LONG[: 50 * i], *[f"{i} {j} " + LONG for j in range(1 + i % 5)], "end") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(p.prompt, calls * 3))
    assert got == [fresh.prompt(c) for c in calls] * 3


def test_repeated_differences_end_token_mode(made: Callable[..., Prompter]) -> None:
    p = made(CHATML)
    one = p.prompt(chat("hello"))
    for tokens in (one.tokens, one.tokens + 1, one.tokens + 1, one.tokens, 0):
        p.told(one, tokens)
    assert p.mode == "tokens"
    for _ in range(WRONG):
        p.told(one, one.tokens + 5)
    assert p.mode == "text" and f"counted {one.tokens + 5} tokens" in p.reason and not p.prompt(chat("hello")).exact


def test_a_tokenizer_without_added_tokens_is_asked_whole(tmp_path: Path) -> None:
    bare = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    p = prompter(str(folder(tmp_path, "{% for m in messages %} {{ m.content }}{% endfor %}", bare.to_str())), HASHING)
    assert p.rendered is not None and not p.rendered.tokens.joins
    assert list(p.ids(chat("a", "b", "a")) or []) == [0, 1, 0] and p.rendered.tokens.fresh(" a b a") == 0 < p.rendered.tokens.fresh("x")
    assert p.rendered.tokens.boundary("a b", 3) == 0


def test_what_a_tokenizer_cannot_do_falls_back_to_text(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))  # there is no such token: an unknown word is an error
    p = prompter(str(folder(tmp_path, "{{ messages[0].content }}", words.to_str())), HASHING)
    assert p.mode == "tokens" and p.prompt(chat("a")).exact and not p.prompt(chat("b")).exact


def test_a_surrogate_is_no_text(tmp_path: Path) -> None:
    p = prompter(str(folder(tmp_path)), HASHING)
    broken = msgspec.structs.replace(chat("a"), doc={"messages": msgspec.Raw(b'[{"role":"user","content":"\\ud800"}]')})
    assert not p.prompt(broken).exact
