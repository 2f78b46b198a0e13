"""The choice: what fits, what is best of it, what is said, and what would fit when nothing does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import fit, fit_card, fit_find, fit_speed
from quant.doctor import usual
from quant.fit import Candidate, Wish, answer, called, every
from quant.fit_factors import Factors
from quant.fit_memory import MIB, Setup
from quant.fit_speed import SMALL, pace
from quant.hardware import Limit, Machine
from quant.quantize import facts, quantize
from quant.tensors import load
from tests.quant.fit_made import Made

GIB = 1 << 30
EIGHT = (8, 36, 4096, 12288, 32, 8)
KINDS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
CARDS = [Candidate(usual(*EIGHT, kind=kind)) for kind in KINDS]


def machine(gib: float, cores: int = 8, bandwidth: float = 50e9) -> Machine:
    return Machine("Linux x86_64", "test", "avx2", cores, 3e9, 64 * GIB, int(gib * GIB), 0, Limit(), bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.1834, "0.18"), (0.00512, "0.0051"), (3.46, "3.5"), (9.96, "10"), (31.4, "31"), (740.2, "740"), (1380, "1,400"), (0, "0")],
)
def test_numbers_are_written_as_people_do(value: float, said: str) -> None:
    assert fit.figure(value) == said


def test_plenty_of_memory_takes_the_best_and_all_useful_context() -> None:
    found = answer(CARDS, Wish(slots=1), machine(60))
    assert found.best is not None and found.best.quant == "Q8_0" and found.best.setup.context >= fit.WANTED
    assert found.runner_up is not None and found.runner_up.quant != "Q8_0"
    assert found.measured and not found.would


def test_little_memory_takes_a_good_quantisation_before_context() -> None:
    found = answer(CARDS, Wish(slots=1), machine(11))
    assert found.best is not None and found.best.kld < fit.GOOD and found.best.needs <= found.budget
    assert any("less harm, but needs" in reason for reason in found.reasons)


def test_what_is_wished_for_is_kept() -> None:
    found = answer(CARDS, Wish(context=4096, slots=2, cache=("Q8_0", "Q8_0")), machine(16))
    assert {(each.setup.context, each.setup.slots, each.setup.key) for each in found.options} == {(4096, 2, "Q8_0")}


def test_nothing_fits_and_what_would_is_said() -> None:
    found = answer(CARDS, Wish(context=131_072, slots=4), machine(8))
    assert found.best is None and found.runner_up is None
    assert "needs" in found.would[0] and "This would fit" in found.would[1]
    none = answer(CARDS, Wish(), machine(0.5))
    assert none.best is None and "choose a smaller model" in none.would[-1]


def test_what_would_fit_really_fits() -> None:
    wish = Wish(context=131_072, slots=4)
    said = answer(CARDS, wish, machine(8)).would[1]
    context = next(each for each in fit.CONTEXTS if f"{each} tokens x" in said)
    again = answer(CARDS, Wish(context=context, slots=1 if "x 1 slots" in said else 4), machine(8))
    assert again.best is not None and called(again.best) in said


def test_too_slow_loses_to_fast_enough() -> None:
    found = answer(CARDS, Wish(context=4096, slots=1, floor=9.0), machine(60, bandwidth=50e9))
    assert found.best is not None and found.best.pace.decode >= 9.0 and found.best.quant != "Q8_0"
    slow = answer(CARDS, Wish(context=4096, slots=1, floor=900.0), machine(60))
    assert slow.best is not None and any("slow" in reason for reason in slow.reasons)


def test_a_measured_harm_counts_more_than_a_published_one() -> None:
    card = usual(*EIGHT)
    assert fit.harm(card) == fit.KLD["Q4_K_M"] and fit.harm(card, 0.5) == 0.5
    unknown = msgspec.structs.replace(card, quant="UD-IQ9")
    assert 0.01 < fit.harm(unknown) < 0.06
    found = answer([Candidate(card, kld=0.001), Candidate(usual(*EIGHT, kind="Q5_K_M"))], Wish(context=4096, slots=1), machine(60))
    assert found.best is not None and found.best.quant == "Q4_K_M" and found.best.told


def test_corrections_are_used() -> None:
    plain = answer(CARDS, Wish(4096, 1, floor=0.0), machine(60)).best
    slower = answer(CARDS, Wish(4096, 1, floor=0.0), machine(60), lambda kind: Factors(2.0, 3.0, 1.5)).best
    assert plain is not None and slower is not None
    assert slower.pace.decode == pytest.approx(plain.pace.decode / 2) and slower.pace.first > plain.pace.first * 2
    assert slower.needs > plain.needs


def test_speed_by_bytes_and_operations() -> None:
    """8B at Q4_K_M reads 4.7 GB for a token: some ten tokens a second at 50 GB/s (quantisation.md 3.2 B: inverse to the size)."""
    card = usual(*EIGHT)
    assert 8 < pace(card, Setup(8192, 1), 1000, machine(60)).decode < 11
    larger = pace(usual(*EIGHT, kind="Q8_0"), Setup(8192, 1), 1000, machine(60)).decode
    assert larger < 0.65 * pace(card, Setup(8192, 1), 1000, machine(60)).decode
    assert pace(card, Setup(8192, 1), 8000, machine(60)).first > 8 * pace(card, Setup(8192, 1), 1000, machine(60)).first
    assert pace(card, Setup(8192, 1, "Q8_0", "Q8_0"), 8000, machine(60)).first > 1.3 * pace(card, Setup(8192, 1), 8000, machine(60)).first
    assert pace(card, Setup(512, 1), 8000, machine(60)).prompt == 511
    assert fit_speed.kind(card, machine(60)) == "Q4_K_M" and fit_speed.kind(Made().card(), machine(60)) == SMALL


def test_experts_are_read_in_part() -> None:
    card = Made().card()
    experts = msgspec.structs.replace(card.matrices[-1], place="experts", bytes=1_000_000, weights=1_000_000)
    moe = msgspec.structs.replace(card, experts=(8, 2, 512), matrices=(*card.matrices, experts))
    assert moe.read_bytes == pytest.approx(card.read_bytes + 250_000) and moe.active == pytest.approx(card.active + 250_000)
    assert not moe.measured


@settings(max_examples=40, deadline=None)
@given(gib=st.floats(0.1, 64), slots=st.integers(1, 8), context=st.sampled_from((None, 512, 4096, 32768)))
def test_what_is_chosen_is_within_the_budget_and_first_of_what_fits(gib: float, slots: int, context: int | None) -> None:
    wish, here = Wish(context, slots), machine(gib)
    found = answer(CARDS[::2], wish, here)
    fitting = [each for each in found.options if each.needs <= here.budget]
    assert (found.best is None) == (not fitting) and bool(found.would) == (not fitting)
    if found.best is not None:
        assert found.best.needs <= found.budget and all(fit.rank(each, wish) <= fit.rank(found.best, wish) for each in fitting)


def test_made_of_a_file_is_what_quantize_makes(tmp_path: Path) -> None:
    path = Made(layers=2, qt="F16").write(tmp_path / "made-F16.gguf")
    quantize(path, tmp_path / "made-Q4_K_M.gguf", "Q4_K_M", threads=1)
    real = fit_card.load(tmp_path / "made-Q4_K_M.gguf")
    said = fit_card.as_kind(fit_card.load(path), load(path), "Q4_K_M", facts(load(path)))
    assert said.matrices == real.matrices and abs(said.file_bytes - real.file_bytes) < 4096
    found = fit_find.candidates(str(path))
    assert [each.how for each in found[:2]] == ["here", "here"] and {each.how for each in found[2:]} == {"make"}
    assert sum(each.card.quant == "Q4_K_M" for each in found) == 1
    options = every(found, Wish(1024, 1), machine(16))
    assert {each.quant for each in options} >= {"F16", "Q8_0", "Q4_K_M", "Q2_K"}
    assert all(each.needs > 40 * MIB for each in options)


def test_what_cannot_be_found_is_said(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.gguf"), "no-such-model"):
        with pytest.raises(fit_find.FindError):
            fit_find.candidates(name)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(fit_find.FindError, match="broken"):
        fit_find.candidates(str(tmp_path / "broken.gguf"))
    assert fit_find.candidates("builtin")[0].card.parameters == 2_558_208
