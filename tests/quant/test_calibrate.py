"""What truths make of predictions, and the file in which they are kept."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant import calibrate
from quant.calibrate import Book, CalibrationError, learn, load, place, save
from quant.fit_factors import Factors
from quant.fit_speed import SMALL


def test_the_first_truth_is_believed_and_later_ones_move_it() -> None:
    book = learn(Book("m"), "Q4_0", "decode", 1.0, 2.0)
    assert book.factors("Q4_0").decode == pytest.approx(2.0)
    assert book.factors("Q8_0") == book.factors("Q4_0")  # another kind: what all kinds have seen
    book = learn(book, "Q4_0", "decode", 1.0, 8.0)
    assert book.factors("Q4_0").decode == pytest.approx(4.0)  # the mean of two, on a logarithmic scale
    for _ in range(40):
        book = learn(book, "Q4_0", "decode", 1.0, 3.0)
    assert book.factors("Q4_0").decode == pytest.approx(3.0, rel=1e-3)
    assert book.kinds["Q4_0"].runs == {"decode": 42}


def test_small_models_tell_nothing_of_large_ones() -> None:
    book = learn(Book("m"), SMALL, "decode", 1.0, 10.0)
    assert book.factors(SMALL).decode == pytest.approx(10.0) and book.factors("Q8_0") == Factors()
    assert book.knows(SMALL) and not book.knows("Q8_0")
    book = learn(book, "Q8_0", "decode", 1.0, 2.0)
    assert book.factors(SMALL).decode == pytest.approx(10.0) and book.factors("Q4_0").decode == pytest.approx(2.0)
    assert book.knows("Q8_0") and book.knows("Q4_0") and not Book("m").knows("Q8_0")


@pytest.mark.parametrize(("predicted", "measured"), [(0, 1), (1, 0), (-1, 1), (1, math.inf), (math.nan, 1)])
def test_what_can_be_no_truth_changes_nothing(predicted: float, measured: float) -> None:
    assert learn(Book("m"), "Q4_0", "memory", predicted, measured) == Book("m")


@given(st.lists(st.tuples(st.sampled_from(("decode", "prefill", "memory")), st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)), max_size=30))
def test_factors_stay_within_bounds(truths: list[tuple[str, float, float]]) -> None:
    book = Book("m")
    for what, predicted, measured in truths:
        book = learn(book, "Q4_0", what, predicted, measured)
    found = book.factors("Q4_0")
    assert 1 / 64 <= found.decode <= 64 and 1 / 64 <= found.prefill <= 64 and 0.5 <= found.memory <= 2
    assert calibrate._sane(book)


def test_kinds_are_bounded() -> None:
    book = Book("m")
    for number in range(200):
        book = learn(book, f"K{number}", "decode", 1.0, 2.0)
    assert len(book.kinds) == calibrate.MAX_KINDS


def test_the_file_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "machine.json"
    book = learn(Book("m", bandwidth=1e10), "Q4_0", "prefill", 1.0, 0.5)
    save(path, book)
    assert load(path, "m") == book
    assert load(path, "another machine") == Book("another machine")
    assert os.listdir(path.parent) == ["machine.json"]


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"fingerprint": 5}', '{"fingerprint": "m", "bandwidth": -1}', '{"fingerprint": "m", "bandwidth": 1e999}',
    json.dumps({"fingerprint": "m", "kinds": {"Q4_0": {"decode": 1e9}}}),
    json.dumps({"fingerprint": "m", "kinds": {str(number): {} for number in range(100)}}),
])  # fmt: skip
def test_a_spoilt_file_is_no_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    assert load(path, "m") == Book("m")
    path.write_text(text)
    assert load(path, "m") == Book("m")
    path.write_bytes(b"\xff\xfe" + text.encode())
    assert load(path, "m") == Book("m")


def test_where_it_is_and_what_is_said_when_it_cannot_be_written(tmp_path: Path) -> None:
    assert place({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "pointsman" / "machine.json"
    assert place({"XDG_STATE_HOME": "relative"}).name == "machine.json" and place({}).is_absolute()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CalibrationError, match="XDG_STATE_HOME"):
        save(tmp_path / "file" / "machine.json", Book("m"))
