"""What models can do, by their names: families as they are, names as carriers write them, and overrides."""

from __future__ import annotations

import typing

import pytest

from backends import catalog
from backends.dialects.types import Facts
from backends.facts import bare, facts, unsupported


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5-20251001"),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.anthropic.claude-opus-4-8", "claude-opus-4-8"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("anthropic/claude-3.5-haiku", "claude-3-5-haiku"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("amazon.nova-pro-v1:0", "nova-pro"),
        ("gpt-5.5-pro", "gpt-5.5-pro"),
    ],
)  # fmt: skip
def test_bare_names(model: str, name: str) -> None:
    assert bare(model) == name


@pytest.mark.parametrize(
    ("model", "thinking", "sampling", "prefill", "forced", "schema", "output", "late"),
    [
        ("claude-3-haiku-20240307", "none", True, True, True, "tool", 4096, False),
        ("claude-3-5-sonnet-20241022", "none", True, True, True, "tool", 8192, False),
        ("claude-3-7-sonnet-latest", "budget", True, True, True, "tool", 64_000, False),
        ("claude-sonnet-4-20250514", "budget", True, True, True, "tool", 64_000, False),
        ("claude-opus-4-0", "budget", True, True, True, "tool", 32_000, False),
        ("claude-opus-4-1-20250805", "budget", True, True, True, "native", 32_000, False),
        ("claude-sonnet-4-5-20250929", "budget", True, True, True, "native", 64_000, False),
        ("claude-haiku-4-5", "budget", True, True, True, "native", 64_000, False),
        ("claude-opus-4-6", "adaptive", True, False, True, "native", 128_000, False),
        ("claude-sonnet-4-6", "adaptive", True, False, True, "native", 128_000, False),
        ("claude-opus-4-7", "adaptive", False, False, True, "native", 128_000, False),
        ("claude-opus-4-8", "adaptive", False, False, True, "native", 128_000, True),
        ("claude-sonnet-5", "adaptive", False, False, True, "native", 128_000, False),
        ("claude-fable-5", "adaptive", False, False, True, "native", 128_000, True),
        ("claude-fable-5-1", "adaptive", False, False, False, "native", 128_000, True),
        ("claude-opus-5-5", "adaptive", False, False, False, "native", 128_000, True),
        ("claude-sonnet-5-5", "adaptive", False, False, False, "native", 128_000, False),
        ("claude-haiku-5-5", "adaptive", False, False, True, "native", 128_000, False),
        ("claude-nova-9", "adaptive", False, False, True, "native", 128_000, False),
        ("my-own-alias", "adaptive", False, False, True, "native", 128_000, False),
    ],
)  # fmt: skip
def test_claude(model: str, thinking: str, sampling: bool, prefill: bool, forced: bool, schema: str, output: int, late: bool) -> None:
    found = facts("anthropic", model)
    assert (found.thinking, found.sampling, found.prefill) == (thinking, sampling, prefill)
    assert (found.forced_tools, found.json_schema, found.max_output, found.late_system) == (forced, schema, output, late)
    assert found.temperature_max == 1.0 and not (found.logprobs or found.seed or found.many)


def test_claude_takes_temperature_or_top_p_since_4() -> None:
    assert facts("anthropic", "claude-3-7-sonnet").temperature_with_top_p
    assert not facts("anthropic", "claude-sonnet-4-5").temperature_with_top_p


def test_every_model_of_anthropic_s_sdk_has_its_own_row() -> None:
    model = pytest.importorskip("anthropic.types.model", reason="the anthropic SDK is the oracle")
    names = typing.get_args(typing.get_args(model.Model)[0])
    assert len(names) > 10
    for name in names:
        found = facts("anthropic", name)
        newer = "-4-5" not in name
        assert (found.thinking == "adaptive") is newer and found.prefill is not newer, name


def test_claude_elsewhere() -> None:
    assert facts("vertex-anthropic", "claude-opus-4-1@20250805") == facts("anthropic", "claude-opus-4-1")
    there, here = facts("bedrock", "us.anthropic.claude-opus-4-8"), facts("anthropic", "claude-opus-4-8")
    assert here.late_system and not there.late_system and there.json_schema == "native"
    assert facts("bedrock", "anthropic.claude-opus-4-1-20250805-v1:0").json_schema == "tool"


@pytest.mark.parametrize(
    ("model", "thinking", "full", "output"),
    [
        ("gemini-2.0-flash", "none", False, 8192),
        ("gemini-1.5-pro", "none", False, 8192),
        ("gemini-2.5-pro", "budget", True, 65_536),
        ("gemini-2.5-flash-image", "none", True, 32_768),
        ("gemini-3-pro-preview", "level", True, 65_536),
        ("gemini-flash-latest", "level", True, 65_536),
        ("gemma-3-27b-it", "none", False, 8192),
        ("tuned-by-us", "level", True, 65_536),
    ],
)
def test_gemini(model: str, thinking: str, full: bool, output: int) -> None:
    found = facts("gemini", model)
    assert (found.thinking, found.full_schema, found.max_output, found.seed, found.logprobs) == (thinking, full, output, True, False)


def test_only_vertex_has_logprobs_and_only_for_2() -> None:
    assert [facts("vertex", name).logprobs for name in ("gemini-2.0-flash", "gemini-2.5-pro", "gemini-3-pro")] == [True, True, False]


@pytest.mark.parametrize(
    ("model", "forced", "schema", "images"),
    [
        ("us.amazon.nova-pro-v1:0", True, "tool", True),
        ("amazon.nova-micro-v1:0", True, "tool", False),
        ("meta.llama3-3-70b-instruct-v1:0", False, "none", False),
        ("meta.llama4-scout-17b-instruct-v1:0", False, "none", True),
        ("mistral.mistral-large-2407-v1:0", True, "tool", True),
        ("mistral.mistral-large-3-675b-instruct", False, "native", False),
        ("qwen.qwen3-32b-v1:0", False, "native", False),
        ("openai.gpt-oss-120b-1:0", False, "none", False),
        ("zai.glm-5", True, "native", False),
    ],
)
def test_bedrock(model: str, forced: bool, schema: str, images: bool) -> None:
    found = facts("bedrock", model)
    assert (found.forced_tools, found.json_schema, found.images, found.thinking) == (forced, schema, images, "none")


@pytest.mark.parametrize(
    ("model", "thinking", "sampling"),
    [
        ("gpt-4o", "none", True), ("gpt-4.1-mini", "none", True), ("gpt-5", "level", False), ("gpt-5-mini", "level", False),
        ("gpt-5-chat-latest", "none", True), ("gpt-5.1", "level", True), ("gpt-5.1-codex", "level", False),
        ("gpt-5.2-chat-latest", "level", False),
        ("gpt-5.4", "level", True), ("gpt-5.4-pro", "level", False), ("gpt-5.5", "level", False), ("gpt-6-sol", "level", False),
        ("o1", "level", False), ("o3-mini", "level", False), ("o4-mini-2025-04-16", "level", False), ("omni-moderation", "none", True),
    ],
)  # fmt: skip
def test_openai(model: str, thinking: str, sampling: bool) -> None:
    for kind in ("openai", "azure"):
        found = facts(kind, model)
        assert (found.thinking, found.sampling, found.logprobs) == (thinking, sampling, sampling)
        assert ("temperature" in unsupported(kind, model)) is not sampling


def test_parameters_that_single_models_refuse() -> None:
    assert unsupported("openai", "gpt-4o") == frozenset()
    assert "stop" in unsupported("openai", "o3") and "stop" not in unsupported("openai", "o1")
    assert unsupported("xai", "grok-4-fast") == {"stop", "presence_penalty", "frequency_penalty"}
    assert unsupported("xai", "grok-3") == unsupported("vllm", "o3") == unsupported("compatible", "gpt-5") == frozenset()


@pytest.mark.parametrize("kind", [entry.name for entry in catalog.rows()] + ["command", "no-such-kind"])
@pytest.mark.parametrize("model", ["", "x", "claude-sonnet-4-5", "a/b@c:d.e", "ünï"])
def test_there_is_an_answer_for_every_name(kind: str, model: str) -> None:
    assert isinstance(facts(kind, model), Facts)
    assert isinstance(unsupported(kind, model), frozenset)


def test_overrides_come_last() -> None:
    found = facts("anthropic", "claude-sonnet-4-5", {"max_output": 10, "prefill": False})
    assert (found.max_output, found.prefill, found.thinking) == (10, False, "budget")
    assert facts("anthropic", "claude-sonnet-4-5").max_output == 64_000
    with pytest.raises(TypeError):
        facts("anthropic", "claude-sonnet-4-5", {"no_such_fact": 1})
