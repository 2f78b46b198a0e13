"""What answers cost: against genai-prices itself, with configured prices, and as providers say it; and counts that cannot be true."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from backends import catalog, prices, wire
from backends.prices import Prices, check, cost, load, reported, together, untrue
from backends.types import Usage

UNIX = 1_793_000_000.0
SOME = Usage(input=1000, cached=500, cache_write=200, output=300, reasoning=50)


@pytest.fixture
def table() -> Iterator[None]:
    pytest.importorskip("genai_prices", reason="the prices of providers need genai-prices")
    assert load() and load()
    yield


@pytest.fixture
def no_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prices._Table, "snapshot", None)
    prices._rates.cache_clear()
    yield
    prices._rates.cache_clear()


def by_genai(usage: Usage, model: str, provider: str) -> float | None:
    """The oracle: what genai-prices makes of the same counts, or None when it cannot name the model by its own id."""
    import genai_prices

    asked = genai_prices.Usage(
        input_tokens=usage.input + usage.cached + usage.cache_write, cache_read_tokens=usage.cached,
        cache_write_tokens=usage.cache_write, output_tokens=usage.output + usage.reasoning,
    )  # fmt: skip
    when = datetime.datetime.fromtimestamp(UNIX // 3600 * 3600, tz=datetime.UTC)
    try:
        return float(genai_prices.calc_price(asked, model, provider_id=provider, genai_request_timestamp=when).total_price)
    except LookupError:
        return None


@pytest.mark.parametrize("usage", [SOME, Usage(input=300_000, output=9), Usage(input=1, cached=250_000), Usage()])
def test_every_price_is_what_genai_prices_says(usage: Usage, table: None) -> None:
    from genai_prices.data import providers

    kinds = {row.prices: row.name for row in catalog.rows() if row.prices and row.carrier != "vertex-anthropic"}
    compared = 0
    for provider in providers:
        for model in provider.models if provider.id in kinds else ():
            expected = by_genai(usage, model.id, provider.id)
            if expected is not None:
                assert cost(usage, kinds[provider.id], model.id, unix=UNIX) == pytest.approx(expected, abs=1e-9), (provider.id, model.id)
                compared += 1
    assert compared > 1000


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("vertex-anthropic", "claude-opus-4-1@20250805"),
        ("openrouter", "anthropic/claude-sonnet-4.5"),
        ("azure", "gpt-4o"),
    ],
)
def test_names_as_carriers_write_them_have_a_price(kind: str, model: str, table: None) -> None:
    found = cost(SOME, kind, model, unix=UNIX)
    assert found is not None and found > 0


def test_what_has_no_price_costs_nothing_known(table: None) -> None:
    assert cost(SOME, "openai", "no-such-model", unix=UNIX) is None
    assert cost(SOME, "vllm", "gpt-4o", unix=UNIX) is None
    assert cost(SOME, "no-such-kind", "gpt-4o", unix=UNIX) is None
    assert cost(SOME, "openai", "gpt-4o") is not None  # now


def test_configured_prices_win(table: None) -> None:
    assert cost(SOME, "vllm", "mine", Prices(input=1.0, output=10.0)) == pytest.approx((1700 * 1.0 + 350 * 10.0) / 1e6)
    given = Prices(input=1.0, output=2.0, cached=0.5, cache_write=4.0)
    expected = (1000 * 1.0 + 500 * 0.5 + 200 * 4.0 + 350 * 2.0) / 1e6
    assert cost(SOME, "vllm", "mine", given) == cost(SOME, "anthropic", "claude-sonnet-4-5", given) == pytest.approx(expected)
    plain, free = (cost(Usage(input=10, output=10), "openai", "gpt-4o", p, unix=UNIX) for p in (None, Prices(output=0.0)))
    assert plain is not None and free is not None and 0 < free < plain
    long = Usage(input=300_000)
    assert cost(long, "anthropic", "claude-sonnet-4-5", Prices(input=1.0), unix=UNIX) == pytest.approx(0.3)  # at every length


def test_without_the_table_only_configured_prices_count(no_table: None) -> None:
    assert cost(SOME, "openai", "gpt-4o") is None
    assert cost(SOME, "openai", "gpt-4o", Prices(cached=1.0)) is None
    assert cost(SOME, "openai", "gpt-4o", Prices(output=1.0)) == pytest.approx(350 / 1e6)


def test_a_table_that_is_not_installed_is_no_error(no_table: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "genai_prices.data_snapshot", None)
    assert load() is False


def test_prices_over_prices() -> None:
    own = Prices(input=1.0, cached=0.0)
    assert own.over(None) is own
    assert own.over(Prices(input=5.0, output=6.0, cached=7.0)) == Prices(input=1.0, output=6.0, cached=0.0)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ('{"prompt_tokens":1,"cost":0.0125,"cost_details":{"upstream_inference_cost":null}}', 0.0125),  # OpenRouter
        ('{"prompt_tokens":1,"cost":0}', 0.0),
        ('{"prompt_tokens":1,"cost":{"input_tokens_cost":1.0,"total_cost":0.25}}', 0.25),  # Perplexity
        ('{"prompt_tokens":1,"cost_in_usd_ticks":37756000}', 0.0037756),  # xAI
        ('{"prompt_tokens":1,"estimated_cost":0.5}', 0.5),  # DeepInfra
        ('{"prompt_tokens":1}', None),
        ('{"prompt_tokens":1,"cost":-1}', None),
        ('{"prompt_tokens":1,"cost":null}', None),
        ('{"prompt_tokens":1,"cost":"much"}', None),
        ('{"prompt_tokens":1,"cost":{}}', None),
        ('null,"cost":1', None),
    ],
)  # fmt: skip
def test_what_providers_say_it_cost(usage: str, dollars: float | None) -> None:
    assert reported(f'{{"id":"x","usage":{usage}}}'.encode()) == dollars


def test_a_cost_that_cannot_be_read_is_none() -> None:
    assert reported(b'{"cost"') is None
    assert reported(b'{"usage":{"cost":' + b"[" * 100_000) is None
    assert reported(b'{"usage":{"cost_in_usd_ticks":1' + b"0" * 400 + b"}}") is None


GOOD: list[dict[str, Any]] = [
    {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 4},
     "completion_tokens_details": {"reasoning_tokens": 2}},
    {"prompt_tokens": 10, "completion_tokens": 5, "cost": 0.5},
    {"input_tokens": 6, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1, "output_tokens": 5},
    {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "input_tokens_details": {"cached_tokens": 4}},
    {"promptTokenCount": 10, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 15, "cachedContentTokenCount": 4},
    {"inputTokens": 6, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 1, "outputTokens": 5, "totalTokens": 15},
    {"something": "else"},
]  # fmt: skip


@pytest.mark.parametrize("raw", GOOD)
def test_counts_that_hold(raw: dict[str, Any]) -> None:
    assert check(Usage(input=6, cached=4, output=3, reasoning=2), raw) == []


@pytest.mark.parametrize(
    ("raw", "broken"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 14}, ["total"]),
        ({"prompt_tokens": 10, "completion_tokens": 4}, ["lost"]),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}}, ["cached"]),
        ({"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}}, ["reasoning"]),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}}, ["negative"]),
        ({"prompt_tokens": -10, "completion_tokens": 5}, ["negative", "lost"]),
        ({"prompt_tokens": True, "completion_tokens": "5"}, ["lost"]),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 99, "cachedContentTokenCount": 11}, ["cached", "total"]),
    ],
)
def test_counts_that_cannot_be(raw: dict[str, Any], broken: list[str]) -> None:
    assert check(Usage(input=6, cached=4, output=3, reasoning=2), raw) == broken


@pytest.mark.parametrize("raw", [raw for raw in GOOD if "prompt_tokens" in raw])
def test_a_tail_that_holds(raw: dict[str, Any]) -> None:
    assert untrue(msgspec.json.encode({"usage": raw})) == []


def test_a_tail_that_cannot_be_and_one_that_cannot_be_read() -> None:
    assert untrue(b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":3}}') == ["total"]
    deep = b'{"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for tail in (b"", b"{", b'{"usage":null}', b'{"usage":7}', b'{"usage":{"prompt_tokens":"x"}}', deep, b'{"usage":{"something":1}}'):
        assert untrue(tail) == []


def test_costs_of_several_answers() -> None:
    tails = [b'{"usage":{"completion_tokens":%d,"cost":0.25}}' % n for n in (1, 2)] + [b'{"usage":{"completion_tokens":4}}', b"{}"]
    assert together(tails, lambda usage: float(usage.output)) == (7.0, 0.5)
    assert together(tails, lambda usage: None) == (0.0, 0.5)
    assert together(tails[2:], None) == (0.0, 0.0)


def test_counts_as_read_from_an_answer_hold() -> None:
    body = msgspec.json.encode({"choices": [], "usage": GOOD[0]})
    usage = wire.usage(body)
    assert usage is not None and check(usage, GOOD[0]) == []
