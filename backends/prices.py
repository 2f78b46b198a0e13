"""What an answer costs in dollars, what its provider says it cost, and whether its token counts can be true.

Prices come from `genai-prices` (its bundled table; nothing is fetched) and from the configuration, which wins. The table is large:
`load` imports it and blocks for about a second, so it is called once, in a thread, before or while the gateway serves. Until then, and
where it is not installed, only configured prices count. `cost` itself is a look-up and four multiplications.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from backends import catalog, wire
from backends.types import Usage

PER = 1_000_000  # prices are dollars per this many tokens
_HOUR = 3600.0  # some prices change with the date or the time of day: a price found is good for the hour

Dollars = Annotated[float, msgspec.Meta(ge=0)]


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars per million tokens. None: what the table says; without a table, cached tokens and cache writes cost what input does."""

    input: Dollars | None = None
    output: Dollars | None = None
    cached: Dollars | None = None
    cache_write: Dollars | None = None

    def over(self, base: Prices | None) -> Prices:
        """These, with what is not said here from `base`."""
        if base is None:
            return self
        return Prices(*(getattr(base, name) if (own := getattr(self, name)) is None else own for name in self.__struct_fields__))


class _Rates(msgspec.Struct, frozen=True):
    """What one model costs now, in dollars per million tokens and per request. `longer`: what it costs with more input tokens than that."""

    input: float
    output: float
    cached: float
    cache_write: float
    request: float = 0.0
    longer: tuple[tuple[int, _Rates], ...] = ()

    def total(self, usage: Usage) -> float:
        """Dollars for one answer."""
        rates = self
        if self.longer:
            tokens = usage.input + usage.cached + usage.cache_write
            rates = next((found for start, found in reversed(self.longer) if tokens > start), self)
        return (
            usage.input * rates.input + usage.cached * rates.cached + usage.cache_write * rates.cache_write
            + (usage.output + usage.reasoning) * rates.output
        ) / PER + rates.request  # fmt: skip


class _Table:
    """Whether genai-prices is there. Owned by this module; changed by `load` alone."""

    snapshot: Any = None


def load() -> bool:
    """Imports the table of prices. Blocks (about a second, once). False: genai-prices is not installed."""
    if _Table.snapshot is None:
        try:
            _Table.snapshot = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
        except ImportError:
            return False
        _rates.cache_clear()  # what was not known until now may be known
    return True


def cost(usage: Usage, kind: str, model: str, overrides: Prices | None = None, *, unix: float | None = None) -> float | None:
    """Dollars for `usage` of `model` on a backend of `kind`; None when no price is known. `unix`: when, in seconds; now by default.

    Never blocks and never raises; microseconds for a model seen before in this hour (at most 4096 are remembered).
    """
    found = _rates(kind, model, overrides, int((time.time() if unix is None else unix) // _HOUR))
    return None if found is None else found.total(usage)


@functools.lru_cache(maxsize=4096)
def _rates(kind: str, model: str, overrides: Prices | None, hour: int) -> _Rates | None:
    found = _listed(kind, model, hour)
    if overrides is None:
        return found
    if found is None:
        if overrides.input is None and overrides.output is None:
            return None
        base = overrides.input or 0.0
        found = _Rates(base, overrides.output or 0.0, base, base)
    given = {name: value for name, value in msgspec.structs.asdict(overrides).items() if value is not None}
    longer = tuple((start, msgspec.structs.replace(rates, **given)) for start, rates in found.longer)
    return msgspec.structs.replace(found, longer=longer, **given)


def _listed(kind: str, model: str, hour: int) -> _Rates | None:
    row = catalog.find(kind)
    if _Table.snapshot is None or row is None or not row.prices:
        return None
    provider = "anthropic" if kind == "vertex-anthropic" else row.prices
    try:
        _, entry = _Table.snapshot.find_provider_model(model.split("@")[0], None, provider, None)
        prices = entry.get_prices(datetime.fromtimestamp(hour * _HOUR, tz=UTC))
    except LookupError:
        return None
    starts = sorted({tier.start for name in _LISTED for tier in getattr(getattr(prices, name, None), "tiers", ())})
    return msgspec.structs.replace(_at(prices, 0), longer=tuple((start, _at(prices, start + 1)) for start in starts))


_LISTED = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")  # genai-prices' names


def _at(prices: Any, tokens: int) -> _Rates:
    """The prices of a call with `tokens` of input. What has no price of its own costs what its kind does, as in genai-prices."""
    read, answer, cached, written = (_price(prices, name, tokens) for name in _LISTED)
    base = read or 0.0
    request = _price(prices, "requests_kcount", tokens) or 0.0
    return _Rates(base, answer or 0.0, base if cached is None else cached, base if written is None else written, request / 1000)


def _price(prices: Any, name: str, tokens: int) -> float | None:
    value = getattr(prices, name, None)
    if value is None:
        return None
    tiers = getattr(value, "tiers", ())
    return float(next((tier.price for tier in reversed(tiers) if tokens > tier.start), getattr(value, "base", value)))


# --- what the provider says


class _Perplexity(msgspec.Struct):
    total_cost: float | None = None


class _Bill(msgspec.Struct):
    cost: float | _Perplexity | None = None  # OpenRouter: credits, one dollar each; Perplexity: an object
    cost_in_usd_ticks: int | None = None  # xAI: 10^10 ticks a dollar (docs.x.ai/developers/cost-tracking)
    estimated_cost: float | None = None  # DeepInfra


class _Billed(msgspec.Struct):
    usage: _Bill | None = None


_billed = msgspec.json.Decoder(_Billed)


def reported(body: bytes) -> float | None:
    """Dollars that the provider itself puts beside the usage of an answer or chunk (`backends.wire.usage_tail` will do); None when it
    says nothing or what it says is no cost."""
    if b"cost" not in body:
        return None
    try:
        bill = _billed.decode(body).usage
    except (msgspec.MsgspecError, RecursionError):
        return None
    if bill is None:
        return None
    stated = bill.cost.total_cost if isinstance(bill.cost, _Perplexity) else bill.cost
    if stated is None and bill.cost_in_usd_ticks is not None:
        with contextlib.suppress(OverflowError):  # more than there are dollars in a float
            stated = bill.cost_in_usd_ticks / 10**10
    if stated is None:
        stated = bill.estimated_cost
    return stated if stated is not None and stated >= 0 else None


def together(tails: Sequence[bytes], price: Callable[[Usage], float | None] | None) -> tuple[float, float]:
    """Dollars of several answers, by our prices and as their providers tell it. `tails`: their ends, with their usage."""
    ours = theirs = 0.0
    if price is not None:
        ours = sum(price(usage) or 0.0 for usage in map(wire.usage, tails) if usage is not None)
    if told(tails):
        theirs = sum(reported(tail) or 0.0 for tail in tails)
    return ours, theirs


def told(tails: Sequence[bytes]) -> bool:
    """Whether one of these ends of answers may say what it cost."""
    return b"\n".join(tails).rfind(b"cost") >= 0  # from the end: much the faster way in CPython


# --- whether the counts can be true


class _Prompt(msgspec.Struct):
    cached_tokens: int | None = None


class _Answer(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Prompt | None = None
    completion_tokens_details: _Answer | None = None


class _Counted(msgspec.Struct):
    usage: _Counts | None = None


class _Any(msgspec.Struct):
    usage: dict[str, Any] | None = None


_counted, _any = msgspec.json.Decoder(_Counted), msgspec.json.Decoder(_Any)


def untrue(tail: bytes) -> list[str]:
    """The invariants that the usage at the end of a chat answer breaks, as `check` names them. The usual answer, whose counts agree, costs
    a microsecond. Never raises: what cannot be read breaks none."""
    try:
        if _agrees(_counted.decode(tail).usage):
            return []
    except (msgspec.MsgspecError, RecursionError):
        pass  # another form, or counts that are none
    try:
        raw = _any.decode(tail).usage
    except (msgspec.MsgspecError, RecursionError):
        return []
    usage = wire.usage(tail)
    return [] if raw is None or usage is None else check(usage, raw)


def _agrees(counts: _Counts | None) -> bool:
    if counts is None or counts.prompt_tokens + counts.completion_tokens != counts.total_tokens:
        return False
    prompt, answer = counts.prompt_tokens_details, counts.completion_tokens_details
    cached = (prompt.cached_tokens if prompt is not None else None) or 0
    reasoning = (answer.reasoning_tokens if answer is not None else None) or 0
    return 0 <= cached <= counts.prompt_tokens and 0 <= reasoning <= counts.completion_tokens


def check(usage: Usage, raw: Mapping[str, Any]) -> list[str]:
    """The invariants that an answer's token counts break, by name, to be counted; empty when they hold.

    `usage`: the disjoint counts made of it; `raw`: the provider's own usage object in OpenAI's, Anthropic's, Gemini's or Bedrock's form.
    `negative`: a count below zero. `cached`, `reasoning`: a part is more than its whole. `total`: the sum that is stated is not the sum of
    its parts. `lost`: the disjoint counts do not add up to what the provider stated.
    """
    form = next((form for form in _FORMS if form[0] in raw), None)
    if form is None:
        return []
    wrong = [] if all(value >= 0 for value in _numbers(raw)) and min(msgspec.structs.astuple(usage)) >= 0 else ["negative"]
    _, reads, writes, answers, parts = form
    stated_in, stated_out = sum(_get(raw, key) for key in reads + writes), sum(_get(raw, key) for key in answers)
    for name, part, whole in parts:
        if _get(raw, part) > max(0, sum(_get(raw, key) for key in whole)):
            wrong.append(name)
    total = next((_get(raw, key) for key in _TOTALS if _find(raw, key) is not None), None)
    bare = sum(_get(raw, key) for key in reads)  # Bedrock's total has been seen with and without what the cache held
    if total is not None and total not in (stated_in + stated_out, bare + stated_out):
        wrong.append("total")
    if usage.input + usage.cached + usage.cache_write != stated_in or usage.output + usage.reasoning != stated_out:
        wrong.append("lost")
    return wrong


_Part = tuple[str, str, tuple[str, ...]]
_Form = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[_Part, ...]]
_TOTALS = ("total_tokens", "totalTokenCount", "totalTokens")
# How each provider counts (trap 41): the key it is known by, what is read, what is written beside, what is answered, what is part of what.
_FORMS: tuple[_Form, ...] = (
    ("prompt_tokens", ("prompt_tokens",), (), ("completion_tokens",), (
        ("cached", "prompt_tokens_details.cached_tokens", ("prompt_tokens",)),
        ("reasoning", "completion_tokens_details.reasoning_tokens", ("completion_tokens",)),
    )),
    ("promptTokenCount", ("promptTokenCount", "toolUsePromptTokenCount"), (), ("candidatesTokenCount", "thoughtsTokenCount"), (
        ("cached", "cachedContentTokenCount", ("promptTokenCount", "toolUsePromptTokenCount")),
    )),
    ("inputTokens", ("inputTokens",), ("cacheReadInputTokens", "cacheWriteInputTokens"), ("outputTokens",), ()),
    ("input_tokens_details", ("input_tokens",), (), ("output_tokens",), (
        ("cached", "input_tokens_details.cached_tokens", ("input_tokens",)),
        ("reasoning", "output_tokens_details.reasoning_tokens", ("output_tokens",)),
    )),
    ("input_tokens", ("input_tokens",), ("cache_read_input_tokens", "cache_creation_input_tokens"), ("output_tokens",), ()),
)  # fmt: skip


def _find(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _get(raw: Mapping[str, Any], path: str) -> int:
    value = _find(raw, path)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _numbers(raw: Mapping[str, Any]) -> list[float]:
    found: list[float] = []
    for value in raw.values():
        if isinstance(value, Mapping):
            found += _numbers(value)
        elif isinstance(value, int | float):
            found.append(value)
    return found
