"""Memory by part: against points that were measured (`fit_points.json`), by what must hold of it, and against a real engine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import builtin, fit_card, fit_memory
from quant.fit_card import Card, Layer
from quant.fit_graph import Batch, Shape, touched
from quant.fit_measure import measure
from quant.fit_memory import MIB, Setup, predict
from quant.ggml import GgmlError
from quant.hardware import look
from tests.quant.fit_made import Made

WITHIN = 0.05


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """xllamacpp 2026.10 on two AVX-512 cores: resident memory after a prompt of the whole context in every slot, one after the other."""

    model: Made
    slots: int
    context: int
    key: str
    value: str
    file: int
    resident_mib: float
    anonymous_mib: float

    @property
    def setup(self) -> Setup:
        return Setup(self.context, self.slots, self.key, self.value, prompt_cache=1024 * MIB)


POINTS = msgspec.json.decode(Path(__file__).with_name("fit_points.json").read_bytes(), type=list[Point])


def test_there_are_enough_points() -> None:
    assert len(POINTS) >= 24
    assert min(point.file for point in POINTS) < 2e6
    assert max(point.file for point in POINTS) > 450e6
    assert {point.key for point in POINTS} == {"F16", "Q8_0", "Q4_0"}
    assert {point.slots for point in POINTS} >= {1, 2, 4, 8}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.file >> 20}MiB-{point.context}x{point.slots}-{point.key}")
def test_predicted_is_measured(point: Point) -> None:
    parts = predict(point.model.card(), point.setup)
    assert parts.total == pytest.approx(point.resident_mib * MIB, rel=WITHIN)
    assert parts.anonymous == pytest.approx(point.anonymous_mib * MIB, rel=WITHIN)


# What llama.cpp's compute buffer had touched, MiB: layers, width, query, keys, inner; a prompt of 2032 tokens in one batch.
@pytest.mark.parametrize(
    ("shape", "mib"),
    [
        (Shape(2, 256, 256, 128, 768), 31.82), (Shape(6, 256, 256, 128, 768), 31.82), (Shape(2, 512, 512, 128, 768), 31.82),
        (Shape(2, 256, 256, 128, 1536), 49.68), (Shape(2, 256, 256, 128, 256), 15.93), (Shape(1, 1024, 1024, 1024, 2816), 47.74),
        (Shape(2, 512, 512, 128, 1536), 55.62), (Shape(2, 384, 384, 128, 1024), 40.75), (Shape(2, 512, 1024, 512, 1536), 55.62),
        (Shape(2, 256, 512, 128, 768), 31.82), (Shape(2, 512, 512, 128, 2048), 67.54), (Shape(2, 256, 256, 128, 640), 28.84),
    ],
)  # fmt: skip
def test_the_graph_lies_as_llama_cpp_lays_it(shape: Shape, mib: float) -> None:
    assert touched(shape, Batch(2032, 2048)) / MIB == pytest.approx(mib, abs=0.08)


def test_the_cache_is_what_llama_cpp_prints() -> None:
    card = Made(layers=4, kv=2, d=64).card()
    assert fit_memory.cache(card, Setup(2048, 1)) == 4 * MIB
    assert fit_memory.cache(card, Setup(1024, 4, "Q8_0", "Q8_0")) == 4.25 * MIB
    assert fit_memory.cache(card, Setup(2000, 1)) == fit_memory.cache(card, Setup(2048, 1))  # padded to 256 cells


def test_llama_3_8b_has_the_published_sizes() -> None:
    """128 KiB a token in F16, 68 in q8_0, 52 in K8V4, 36 in q4_0 (llama.cpp's logs)."""
    card = msgspec.structs.replace(Made().card(), layers=(Layer(1024, 1024),) * 32)
    found = [card.kv_bytes(*kinds) / 1024 for kinds in (("F16", "F16"), ("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "Q4_0"))]
    assert found == [128, 68, 52, 36]


def test_windows_hold_no_more_than_the_window_and_a_batch() -> None:
    full = Made(layers=6).card()
    windowed = msgspec.structs.replace(full, layers=tuple(Layer(128, 128, 0 if each == 5 else 1024) for each in range(6)))
    large = Setup(32_768, 2)
    assert fit_memory.cache(windowed, large) < fit_memory.cache(full, large) // 3
    assert fit_memory.cache(windowed, Setup(512, 2)) == fit_memory.cache(full, Setup(512, 2))


def test_a_type_that_rows_do_not_fit_is_said() -> None:
    card = msgspec.structs.replace(Made().card(), layers=(Layer(80, 80),))
    assert card.takes("F16", "F16") and not card.takes("Q8_0", "F16")
    with pytest.raises(GgmlError, match="80"):
        predict(card, Setup(512, 1, "Q8_0", "Q8_0"))


def test_interleaved_copies_only_of_what_the_processor_takes() -> None:
    card = Made(qt="Q4_0").card()
    assert predict(card, Setup(512), "").repacked == 0
    assert predict(card, Setup(512), "avx2").repacked == card.weights_bytes - sum(m.bytes for m in card.matrices if m.kind == "F32")
    assert predict(Made(qt="Q8_0").card(), Setup(512), "avx2").repacked == 0
    assert predict(Made(qt="Q8_0").card(), Setup(512), "dotprod").repacked > 0


CARDS = st.builds(
    Made, layers=st.integers(1, 40), width=st.sampled_from((256, 512, 1024, 2048, 4096)), inner=st.sampled_from((512, 1024, 4096, 11008)),
    heads=st.sampled_from((8, 16)), kv=st.sampled_from((1, 2, 8)), vocab=st.integers(600, 200_000),
    qt=st.sampled_from(("Q4_0", "Q8_0", "F16")),
).map(Made.card)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(card=CARDS, context=st.integers(1, 40_000), slots=st.integers(1, 16))
def test_more_asked_never_needs_less(card: Card, context: int, slots: int) -> None:
    here = predict(card, Setup(context, slots, "Q8_0", "Q8_0"))
    assert all(getattr(here, name) >= 0 for name in fit_memory.SUMMED)
    assert predict(card, Setup(context, slots, "F16", "F16")).total > here.total
    assert predict(card, Setup(context, slots, "Q4_0", "Q4_0")).total < here.total
    more = predict(card, Setup(context + 256, slots, "Q8_0", "Q8_0"))
    assert more.cache > here.cache
    assert predict(card, Setup(context, slots + 1, "Q8_0", "Q8_0")).cache > here.cache
    assert predict(card, Setup(context, slots, "Q8_0", "Q8_0", prompt_cache=1 << 40)).most >= here.most
    if context >= 2560:  # the batch no longer grows, and neither do its parts shrink
        assert more.total >= here.total


def test_the_builtin_model_has_a_card() -> None:
    card = fit_card.load(builtin.path())
    assert card.measured and card.tied and card.parameters == 2_558_208
    assert card.weights_bytes < card.file_bytes == builtin.path().stat().st_size
    assert card.kv_bytes("F16", "F16") == 2048


def test_parts_of_a_split_model_are_found_by_any_name(tmp_path: Path) -> None:
    names = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert [path.name for path in fit_card.parts(tmp_path / names[1])] == names
    assert fit_card.parts(tmp_path / "m.gguf") == [tmp_path / "m.gguf"]
    assert len(fit_card.parts(tmp_path / "m-00001-of-99999.gguf")) == 1


def test_the_files_card_is_the_made_card(tmp_path: Path) -> None:
    made = Made(layers=2, qt="Q4_K", emb="Q6_K", tied=False)
    read = fit_card.load(made.write(tmp_path / "made.gguf"))
    said = made.card()
    assert read.matrices == said.matrices and read.layers == said.layers and (read.query, read.vocab) == (said.query, said.vocab)
    assert predict(read, Setup(1024)).weights == predict(said, Setup(1024)).weights


@pytest.mark.full
@pytest.mark.usefixtures("uncovered")
@pytest.mark.parametrize(("made", "setup"), [
    (Made(layers=4, width=512, inner=1536, heads=8, kv=4, vocab=8000, qt="Q4_0"), Setup(1024, 2)),
    (Made(layers=3, width=256, inner=1024, heads=4, kv=2, vocab=3000, qt="F16"), Setup(768, 3, "Q8_0", "Q8_0")),
])  # fmt: skip
def test_a_running_engine_has_the_predicted_memory(tmp_path: Path, made: Made, setup: Setup) -> None:
    truth = measure(str(made.write(tmp_path / "made.gguf")), setup)
    if not truth.resident:
        pytest.skip("this system does not tell the memory of processes")
    said = predict(made.card(), msgspec.structs.replace(setup, prompt_cache=64 * MIB), look().features)
    assert truth.resident == pytest.approx(said.total, rel=WITHIN), json.dumps(msgspec.to_builtins(said))
