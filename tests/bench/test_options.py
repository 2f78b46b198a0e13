"""What the command line says, and what of it may be shown."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import options
from benchmarks.bench.cli import parse
from benchmarks.bench.errors import BenchError
from benchmarks.bench.provenance import said


def test_levels_by_name() -> None:
    assert [p.value for p in options.profiles("concurrent=1,4,16", 1.0, 1.0)] == [1, 4, 16]
    assert [(p.value, p.shape) for p in options.profiles("rate=0.5", 0.25, 1.0)] == [(0.5, 0.25)]
    trace = options.profiles("trace=a=b.jsonl", 1.0, 2.0)[0]
    assert (trace.name, trace.source, trace.speed) == ("trace", "a=b.jsonl", 2.0)
    assert options.profiles("sweep", 1.0, 1.0)[0].name == "sweep"


@pytest.mark.parametrize("text", ["", "sync=3", "rate", "rate=", "rate=0", "rate=-1", "rate=nan", "rate=inf", "concurrent=1.5", "trace=",
                                  "x=1", "concurrent=" + ",".join(["1"] * 33), "rate=1e400", "concurrent=" + "9" * 5000])  # fmt: skip
def test_other_levels_are_refused(text: str) -> None:
    with pytest.raises(BenchError) as caught:
        options.profiles(text, 1.0, 1.0)
    assert caught.value.usage and "--profile" in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_levels_or_refused(text: str) -> None:
    for read in (lambda: options.profiles(text, 1.0, 1.0), lambda: options.warmup(text), lambda: options.prefix(text),
                 lambda: options.extra(text), lambda: options.base(text), lambda: options.headers([text])):  # fmt: skip
        try:
            read()
        except BenchError as error:
            assert error.usage


def test_small_options() -> None:
    assert (options.warmup("10%"), options.warmup("0"), options.warmup("5")) == (0.1, 0.0, 5.0)
    assert (options.prefix("512:8"), options.prefix("512")) == ((512, 8), (512, 1))
    assert options.headers(["X-A=b=c"]) == {"X-A": "b=c"}
    assert options.extra('{"temperature": 0}') == {"temperature": 0}
    for wrong in ("100%", "x", "-1", "1.5", "nan%"):
        with pytest.raises(BenchError):
            options.warmup(wrong)


def test_where_an_api_begins() -> None:
    assert options.base("http://a:1") == ["http://a:1/v1", "http://a:1"]
    assert options.base("a:1/") == ["http://a:1/v1", "http://a:1"]
    assert options.base("https://a/v1/") == ["https://a/v1"]
    assert options.base("https://a/v1/chat/completions") == ["https://a/v1"]
    assert options.base("https://a/openai") == ["https://a/openai", "https://a/openai/v1"]
    for wrong in ("ftp://a", "http://", "http://a?b=c", "http://a:0", "http://a:99999", "http://[::1", "http://a b"):
        with pytest.raises(BenchError):
            options.base(wrong)


def test_a_key_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(BenchError) as caught:
        options.base("http://me:sesame@host/v1")
    assert "sesame" not in str(caught.value)


def test_keys_come_from_the_environment() -> None:
    assert options.key({}, None) == ""
    assert options.key({"OPENAI_API_KEY": "b", "POINTSMAN_KEY": "a"}, None) == "a"
    assert options.key({"OPENAI_API_KEY": "b", "MINE": "c"}, "MINE") == "c"
    with pytest.raises(BenchError, match="MINE"):
        options.key({"OPENAI_API_KEY": "b"}, "MINE")


@pytest.mark.parametrize("value", ["ses\name", "sesame\u20ac", "  "])
def test_a_key_that_no_header_can_carry_is_not_shown(value: str) -> None:
    assert options.key({"POINTSMAN_KEY": " sesame\n"}, None) == "sesame"
    with pytest.raises(BenchError, match=r"\$POINTSMAN_KEY") as caught:
        options.key({"POINTSMAN_KEY": value}, None)
    assert "ame" not in str(caught.value).replace("name", "")


def test_nothing_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_KEY", "sesame-key")
    argv = ["http://a", "--header", "X-Token=sesame-header", "--header=Cookie=sesame-cookie", "--extra",
            '{"api_key": "sesame-extra", "nested": {"password": "sesame-deep"}, "temperature": 0, "max_tokens": 3}']  # fmt: skip
    chosen, _ = parse(argv)
    shown = repr(chosen) + json.dumps(options.redacted(chosen.command)) + json.dumps(said(chosen), default=str)
    assert chosen.key == "sesame-key" and chosen.headers["X-Token"] == "sesame-header"
    assert "sesame" not in shown and "X-Token" in shown and "temperature" in shown and "max_tokens" in shown


def test_extra_that_is_no_json_is_hidden_whole() -> None:
    assert options.redacted(["bench", "--extra", "sesame", "--extra=sesame", "x"]) == ["bench", "--extra", "***", "--extra=***", "x"]


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3))  # fmt: skip


@given(json_values)
def test_masking_keeps_the_shape(value: Any) -> None:
    def shape(each: Any) -> Any:
        if isinstance(each, dict):
            return {name: shape(inner) for name, inner in each.items()}
        return [shape(inner) for inner in each] if isinstance(each, list) else None

    assert shape(options.masked(value)) == shape(value)
    assert options.masked({"authorization": "x"}) == {"authorization": "***"}


def test_a_whole_command_line() -> None:
    line = "http://h:1 --model m --profile rate=2,4 --arrivals constant --requests 50 --slo ttft:500,tpot:30 --prefix 64:2 --no-stream"
    argv = [*line.split(), "--max-concurrency", "9", "--watch-pid", "7", "--salt", "s"]
    chosen, args = parse(argv, "1.2")
    assert [p.value for p in chosen.profiles] == [2, 4] and all(math.isinf(p.shape) for p in chosen.profiles)
    assert (chosen.requests, chosen.seconds, chosen.stream, chosen.prefix, chosen.watch) == (50, None, False, (64, 2), (7,))
    assert chosen.slos[0].ttft == 0.5 and chosen.command[:2] == ("pointsman", "bench") and chosen.version == "1.2" and not args.json
    assert parse([])[0].seconds == options.DEFAULT_SECONDS


WRONG = [
    "--salt a --same-prompts", "--slo fast", "--warmup 5 --requests 5", "--arrivals often", "--input many", "--extra [1]",
    "--header novalue", "--key-env POINTSMAN_TEST_UNSET",
]  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_wrong_values_are_told_in_one_sentence(line: str) -> None:
    with pytest.raises(BenchError) as caught:
        parse(line.split())
    assert caught.value.usage and "\n" not in str(caught.value)


def test_a_part_of_a_trace() -> None:
    chosen, _ = parse("u --profile trace=t.jsonl --from 60 --to 120 --jitter 0.5 --clip".split())
    assert (chosen.part, chosen.jitter, chosen.clip) == ((60.0, 120.0), 0.5, True)
    plain, _ = parse("u --profile trace=t.jsonl --to 120".split())
    assert (plain.part, plain.jitter, plain.clip) == ((0.0, 120.0), 0.0, False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("u --from 3", "--from is of a replay"),
        ("u --profile rate=3 --clip", "--clip is of a replay"),
        ("u --profile trace=t --from 9 --to 9", "--to 9 leaves nothing after --from 9"),
    ],
)
def test_no_part_of_a_trace(line: str, words: str) -> None:
    with pytest.raises(BenchError) as caught:
        parse(line.split())
    assert caught.value.usage and words in str(caught.value)
