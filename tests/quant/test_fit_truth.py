"""What engines teach about predictions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engines.spec import EngineSpec, Lora
from quant import builtin, calibrate, fit_engine, fit_learn, hardware
from quant.calibrate import Book
from quant.fit_factors import Factors
from quant.fit_memory import MIB, Setup, predict
from quant.fit_speed import SMALL, kind, prompt_seconds, token_seconds
from quant.fit_truth import Counters, Pace, Truth, alone, counters, loaded, paced, taught
from tests.quant.fit_made import Made

MACHINE = hardware.Machine("Linux x86_64", "p", "avx2", 2, 2.5e9, 1 << 34, 1 << 34, 0, hardware.Limit(), bandwidth=16e9)
CARD = Made(layers=20, width=1536, inner=4096, heads=12, kv=4, vocab=16_384).card()
SETUP = Setup(context=1024, slots=2)
NONE = Counters(0, 0, 0, 0, 0, 0, 0, 0)
SPEC = EngineSpec("toy", "llamacpp", model=str(builtin.path()), context=1024, slots=2)
TEXT = """# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 100
# HELP llamacpp:prompt_seconds_total Prompt process time
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 0.5
llamacpp:tokens_predicted_total 40
llamacpp:tokens_predicted_seconds_total 2e0
llamacpp:n_decode_total 44
llamacpp:n_tokens_max 140
llamacpp:n_busy_slots_per_decode 1.5
llamacpp:prompt_tokens_seconds 200
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
"""


def test_the_counters_of_an_engine_are_read() -> None:
    assert counters(TEXT) == Counters(100.0, 0.5, 40.0, 2.0, 44.0, 66.0, 140.0, 3.0)
    assert counters(TEXT.replace("n_tokens_max", "n_other")) is None and counters("") is None


AFTER = Counters(prompt=100, prompt_seconds=0.5, tokens=40, token_seconds=2.0, calls=44, busy=44, depth=140, working=0)


def test_requests_that_had_the_engine_to_themselves_tell_how_fast_it_is() -> None:
    assert alone(NONE, AFTER) == Pace(100, 0.5, 0.05, 140)
    few = msgspec.structs.replace(AFTER, tokens=3)
    assert alone(NONE, few) == Pace(100, 0.5, 0.0, 140)
    assert alone(NONE, msgspec.structs.replace(few, prompt=10, depth=13)) == Pace(10, 0.0, 0.0, 13)
    assert alone(NONE, NONE) == Pace(0, 0.0, 0.0, 0)


@pytest.mark.parametrize("changes", [
    {"busy": 60},  # several at once
    {"calls": 30, "busy": 30},  # more tokens than calls: they were guessed ahead
    {"depth": 400},  # most of the prompt was in the cache
    {"prompt_seconds": 0.0}, {"token_seconds": 0.0},  # it tells none
])  # fmt: skip
def test_others_tell_nothing(changes: dict[str, float]) -> None:
    assert alone(NONE, msgspec.structs.replace(AFTER, **changes)) is None


def test_what_is_lost_in_the_counters_digits_tells_nothing() -> None:
    long = Counters(1e7, 100_000.0, 1e6, 200_000.0, 2e6, 2e6, 140, 0)
    later = Counters(1e7 + 100, 100_001.0, 1e6 + 40, 200_001.0, 2e6 + 50, 2e6 + 50, 140, 0)
    assert alone(long, later) is None and alone(AFTER, NONE) is None, "an engine that counts from the beginning is another"


def test_a_pace_corrects_what_is_predicted() -> None:
    slow = Pace(500, 3 * prompt_seconds(CARD, SETUP, 500, MACHINE), 2 * token_seconds(CARD, SETUP, 500, MACHINE), 548)
    factors = paced(Book(), CARD, SETUP, MACHINE, slow).factors("Q8_0")
    assert factors == Factors(decode=pytest.approx(2.0), prefill=pytest.approx(3.0))
    assert paced(Book(), CARD, SETUP, MACHINE, Pace(500, 0.0, 0.0, 500)) == Book()


def test_several_prompts_are_so_many_of_the_longest() -> None:
    one = prompt_seconds(CARD, SETUP, 400, MACHINE)
    book = paced(Book(), CARD, SETUP, MACHINE, Pace(4000, 10 * one, token_seconds(CARD, SETUP, 400, MACHINE), 400))
    assert book.factors("Q8_0") == Factors(decode=pytest.approx(1.0), prefill=pytest.approx(1.0))


def test_memory_is_corrected_by_part() -> None:
    parts = predict(CARD, SETUP)
    book = loaded(Book(), CARD, SETUP, MACHINE, parts.repacked + parts.cache + int(1.5 * parts.base))
    assert book.factors("Q8_0").base == pytest.approx(1.5, rel=1e-6) and book.factors("Q8_0").memory == 1.0
    full = parts.anonymous + int(0.5 * parts.base) + int(0.25 * parts.prompted)
    token = token_seconds(CARD, SETUP, 1000, MACHINE)
    truth = Truth(full + parts.weights, full, 1000, token + prompt_seconds(CARD, SETUP, 1000, MACHINE), 1 / token)
    book = taught(book, CARD, SETUP, MACHINE, truth)
    factors = book.factors("Q8_0")
    assert (factors.base, factors.memory) == (pytest.approx(1.5, rel=1e-6), pytest.approx(1.25, rel=1e-5))
    assert (factors.decode, factors.prefill) == (pytest.approx(1.0), pytest.approx(1.0))
    assert parts.needs(factors) == pytest.approx(full + parts.weights + (parts.total - parts.weights - parts.anonymous), rel=1e-6)
    before = parts.repacked + parts.cache + int(1.5 * parts.base)
    assert taught(Book(), CARD, SETUP, MACHINE, msgspec.structs.replace(truth, loaded=before)).factors("Q8_0") == factors
    assert taught(Book(), CARD, SETUP, MACHINE, Truth(0, 0, 1000, 1.0, 9.0)).factors("Q8_0").memory == 1.0  # no system tells bytes of it


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.integers(0, 1 << 30))
def test_needs_are_the_most_where_nothing_is_corrected(base: float, memory: float, prompts: int) -> None:
    parts = predict(CARD, msgspec.structs.replace(SETUP, prompt_cache=prompts))
    assert parts.needs(Factors()) == parts.most
    change = parts.base + parts.prompted + 1
    assert abs(parts.needs(Factors(base=base, memory=memory)) - parts.most) <= change


def test_a_better_bandwidth_leaves_predictions_as_they_were_learned() -> None:
    book = paced(Book(), CARD, SETUP, MACHINE, Pace(500, 1.0, 0.1, 500))
    best = calibrate.with_bandwidth(book, 32e9, 2.0)
    assert best.bandwidth == 32e9 and best.factors("Q8_0").decode == pytest.approx(2 * book.factors("Q8_0").decode)
    assert best.factors("Q8_0").prefill == book.factors("Q8_0").prefill
    assert calibrate.with_bandwidth(Book(), 8e9, 0.5) == Book(bandwidth=8e9)


def test_what_a_gateways_engine_turns_out_to_be_is_kept() -> None:
    before = fit_engine.footprint(SPEC)
    known = fit_engine.known(SPEC)
    assert known is not None
    card, setup, machine = known
    assert kind(card, machine) == SMALL
    parts = predict(card, setup, machine.features)
    anonymous = parts.repacked + parts.cache + int(1.25 * parts.base)
    said, expected = fit_learn.memory(SPEC, anonymous), (parts.repacked + parts.cache + parts.base) / MIB
    assert said == f"loaded, it holds {anonymous / MIB:.0f} MiB beside its file; predicted: {expected:.0f}"
    assert fit_engine.footprint(SPEC) == pytest.approx(before + 0.25 * parts.base, abs=2)
    said = fit_learn.memory(SPEC, anonymous)  # as it is known to be now
    assert said.partition("holds ")[2].split()[0] == said.rpartition(" ")[2]
    assert fit_learn.speed(SPEC, Pace(100, 0.5, 0.0, 140)) == "it computed 100 tokens of prompts in 0.50 s"
    assert fit_learn.speed(SPEC, Pace(100, 0.5, 0.05, 140)).startswith("it wrote 20.0 tokens a second; predicted: ")
    assert fit_learn.speed(SPEC, Pace(100, 0.0, 0.0, 140)) == ""
    book = calibrate.load(calibrate.place(), machine.fingerprint)
    assert book.kinds[SMALL].runs == {"base": 2, "prefill": 2, "decode": 1}


def test_a_footprint_is_corrected_by_what_was_learned_of_its_kind() -> None:
    """What kind a model is depends on the machine's bandwidth, which is in the book."""
    known = fit_engine.known(SPEC)
    assert known is not None
    before, machine = fit_engine.footprint(SPEC), known[2]
    slow = 1e6  # bytes a second: the toy is no small model there
    calibrate.update(calibrate.place(), machine.fingerprint, lambda book: msgspec.structs.replace(book, bandwidth=slow))
    parts = predict(known[0], known[1], machine.features)
    fit_learn.memory(SPEC, parts.repacked + parts.cache + 2 * parts.base)
    assert SMALL not in calibrate.load(calibrate.place(), machine.fingerprint).kinds
    assert fit_engine.footprint(SPEC) == pytest.approx(before + parts.base, abs=2)


@pytest.mark.parametrize("changes", [
    {"projector": "p.gguf"}, {"draft": "d.gguf"}, {"lora": (Lora("l.gguf"),)}, {"kind": "vllm"}, {"kind": "llama-server"},
    {"args": ("cpuparams.n_threads=1",)}, {"args": ("use_mmap=false", "cache_ram_mib=5")},
])  # fmt: skip
def test_nothing_is_learned_of_what_is_not_predicted(changes: dict[str, Any]) -> None:
    assert fit_learn.usual(SPEC) and fit_learn.whole(SPEC)
    assert fit_learn.usual(msgspec.structs.replace(SPEC, args=("cache_ram_mib=5", "cache_type_k=8")))
    assert not fit_learn.usual(msgspec.structs.replace(SPEC, **changes))


@pytest.mark.parametrize("changes", [{"threads": 1}, {"replicas": 2}, {"nice": 5}])
def test_speed_is_learned_of_an_engine_that_has_all_cores(changes: dict[str, int]) -> None:
    assert not fit_learn.whole(msgspec.structs.replace(SPEC, **changes))


def test_a_model_that_is_gone_teaches_nothing() -> None:
    assert fit_learn.memory(msgspec.structs.replace(SPEC, model="none.gguf"), 1 << 30) == ""
    assert not calibrate.place().exists()


def test_processes_do_not_lose_each_others_truths(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"

    def learned(number: int) -> None:
        calibrate.update(path, "m", lambda book: calibrate.learn(book, f"K{number}", "decode", 1.0, 2.0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(learned, range(32)))
    assert {f"K{number}" for number in range(32)} <= {*calibrate.load(path, "m").kinds}


def test_what_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(calibrate.CalibrationError, match="set XDG_STATE_HOME to a writable folder"):
        fit_learn.memory(SPEC, 1 << 30)
