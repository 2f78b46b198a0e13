"""What the child measures, held against numpy over the same logits, and what it refuses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant import builtin
from quant.evaluate_child import perform
from quant.evaluate_jobs import Compare, EvaluateError, Event, Figures, Step, Text, run
from quant.evaluate_llama import ROWS, Engine, LlamaError, library
from quant.evaluate_rows import Rows
from quant.quantize import quantize
from quant.tensors import load
from tests.quant import made

TOY = str(builtin.path())
TEXT = "Repeat: banana. What is 12+7? The harbour was quiet; boats lay along the wall."
CHAT = "<|user|>What is 3+4?<|im_end|><|assistant|>"


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The built-in model as other kinds, by name."""
    folder = tmp_path_factory.mktemp("coarse")
    yield {kind: quantize(TOY, folder / f"{kind}.gguf", kind, threads=2).target for kind in ("Q8_0", "Q4_K_M", "Q2_K")}


def figures(events: list[Event]) -> list[Figures]:
    return [event for event in events if isinstance(event, Figures)]


def compared(source: str, model: str, *texts: Text, most: int = 1024) -> list[Figures]:
    return figures(list(perform(Compare(source, model, texts, 1, most))))


def logits(path: str, tokens: list[int]) -> Any:
    """One row a token, as 64-bit floats."""
    engine = Engine(library(), path, 512, 1)
    try:
        rows = []
        for at in range(0, len(tokens), ROWS):
            for row in engine.decode(tokens[at : at + ROWS], at):
                rows.append(np.ctypeslib.as_array((ctypes.c_float * engine.vocab).from_address(row)).astype(np.float64))
        return np.array(rows)
    finally:
        engine.close()


def test_a_model_is_at_no_distance_from_itself() -> None:
    (found,) = compared(TOY, TOY, Text("a", TEXT))
    assert set(found.kld) == {0.0} and found.same == len(found.kld) == found.tokens > 20
    assert found.loss == found.source_loss and found.flips == 0 and found.moved == 0.0


def test_the_coarser_the_farther(coarse: dict[str, str]) -> None:
    means = []
    for kind in ("Q8_0", "Q4_K_M", "Q2_K"):
        found = compared(TOY, coarse[kind], Text("a", TEXT), Text("b", CHAT, special=True))
        means.append(sum(sum(each.kld) for each in found) / sum(len(each.kld) for each in found))
    assert 0.0 <= means[0] < 0.01 < means[1] < means[2], means


def test_the_figures_are_those_of_the_logits(coarse: dict[str, str]) -> None:
    engine = Engine(library(), TOY, 512, 1)
    tokens = engine.tokens(TEXT * 2, False)
    engine.close()
    assert len(tokens) > ROWS  # more than one batch
    source, other = (logits(path, tokens) for path in (TOY, coarse["Q4_K_M"]))
    p, q = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (source, other))
    (found,) = compared(TOY, coarse["Q4_K_M"], Text("a", TEXT * 2))
    follows = np.array(tokens[1:])
    places = np.arange(len(follows))
    kld = (np.exp(p) * (p - q)).sum(axis=1)[:-1]
    assert np.allclose(found.kld, kld, rtol=1e-4, atol=2e-6)
    assert found.loss == pytest.approx(-q[places, follows].sum(), rel=1e-6)
    assert found.source_loss == pytest.approx(-p[places, follows].sum(), rel=1e-6)
    first, second = p[:-1].argmax(axis=1), q[:-1].argmax(axis=1)
    assert found.same == int((first == second).sum())
    assert found.flips == int(((first == follows) != (second == follows)).sum())
    assert found.moved == pytest.approx(((np.exp(q[places, follows]) - np.exp(p[places, follows])) ** 2).sum(), rel=1e-4)


def test_the_source_goes_on_as_it_would_answer() -> None:
    short, longer = compared(TOY, TOY, Text("a", CHAT, True), Text("b", CHAT, True, go_on=8))
    assert longer.tokens == short.tokens and longer.loss == short.loss
    # behind the question: "7" and the end of the answer, after which nothing more is asked
    assert len(longer.kld) == len(short.kld) + 2


def test_a_model_alone_reads_too() -> None:
    (alone,), (beside,) = compared("", TOY, Text("a", TEXT)), compared(TOY, TOY, Text("a", TEXT))
    assert alone.loss == beside.loss


def test_texts_are_cut_at_what_was_asked_and_at_what_the_model_was_trained_for(tmp_path: Path) -> None:
    (found,) = compared(TOY, TOY, Text("a", TEXT * 50), most=100)
    assert found.tokens == 99
    small = str(made.llama(tmp_path / "m.gguf"))  # trained for 512 tokens
    (found,) = compared("", small, Text("a", TEXT * 50), most=4096)
    assert found.tokens == 511
    assert len(compared("", small, Text("a", TEXT * 50, go_on=5), most=4096)[0].kld) == 511
    nothing, one = compared(TOY, TOY, Text("a", ""), Text("b", "a", go_on=3))
    assert nothing.tokens == 0 and nothing.kld == () and one.tokens == 0


def test_progress_counts_every_token() -> None:
    steps = [event for event in perform(Compare("", TOY, (Text("a", TEXT * 3), Text("b", CHAT, True, 4)), 1)) if isinstance(event, Step)]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert len({step.total for step in steps}) == 1 and steps[-1].done == steps[-1].total > len(steps)


def test_models_with_other_tokens_are_refused(tmp_path: Path) -> None:
    other = str(made.llama(tmp_path / "other.gguf"))
    with pytest.raises(LlamaError, match=r"pointsman-toy\.gguf and other\.gguf make different tokens of a text"):
        compared(TOY, other, Text("a", TEXT))


def test_weights_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    good, bad = made.llama(tmp_path / "good.gguf", kind="F32"), tmp_path / "nan.gguf"
    raw = bytearray(good.read_bytes())
    norm = next(tensor for tensor in load(good).tensors if tensor.name == "output_norm.weight")
    raw[norm.offset : norm.offset + norm.size] = np.full(norm.columns, np.nan, np.float32).tobytes()
    bad.write_bytes(raw)
    for source, model, names in ((str(good), str(bad), "good.gguf or nan.gguf"), ("", str(bad), "nan.gguf")):
        with pytest.raises(LlamaError, match=rf"^{names} computes nonsense \(the logits are no numbers\); its weights may be damaged"):
            compared(source, model, Text("a", TEXT))


def test_native_code_is_never_called_wrongly() -> None:
    engine = Engine(library(), TOY, 128, 1)
    try:
        for tokens, start in (([], 0), ([1] * (ROWS + 1), 0), ([1], 128), ([engine.vocab], 0), ([-1], 0)):
            with pytest.raises(LlamaError, match="cannot decode"):
                engine.decode(tokens, start)
        with pytest.raises(LlamaError, match="more than 1048576 are not evaluated"):
            engine.tokens("x" * (1 << 20), False)
    finally:
        engine.close()
        engine.close()


def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(Path(TOY).read_bytes()[:5000])
    with pytest.raises(EvaluateError, match=r"^llama.cpp cannot load bad.gguf: .*$"):
        run(Compare(TOY, str(tmp_path / "bad.gguf"), (Text("a", TEXT),), 1), lambda event: None)


def test_the_same_through_a_process() -> None:
    heard: list[Event] = []
    job = Compare(TOY, TOY, (Text("a", TEXT),), 1)
    run(job, heard.append)
    assert heard == list(perform(job))


def test_a_library_that_lacks_something_says_what() -> None:
    from quant.evaluate_llama import declared

    with pytest.raises(LlamaError, match="does not export no_such_function"):
        declared(library().dll, {"no_such_function": (None, ())})


def test_rows_of_any_number_are_compared(coarse: dict[str, str]) -> None:
    source, other = Engine(library(), TOY, 128, 1), Engine(library(), coarse["Q2_K"], 128, 1)
    try:
        tokens = source.tokens(TEXT, False)[:21]
        one, two = source.decode(tokens, 0), other.decode(tokens, 0)
        rows = Rows(library(), source.vocab, 1)
        every = rows.compare(one[:20], two[:20], tokens[1:])
        assert [rows.compare([a], [b], [follows])[0] for a, b, follows in zip(one, two, tokens[1:], strict=False)] == every
    finally:
        source.close()
        other.close()
