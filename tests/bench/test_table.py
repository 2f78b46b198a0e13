"""The terminal's table, and the live line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.figures import DEFINITIONS, figures
from benchmarks.bench.headline import headline
from benchmarks.bench.paired import paired
from benchmarks.bench.progress import Progress
from benchmarks.bench.table import columns, compare_table, grid, table
from benchmarks.bench.texts import cut, wide
from benchmarks.bench.words import Profile, Sample
from tests.bench.made_runs import KINDS, NASTY, SLOS, run, stage, sweep


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(kind: str, width: int) -> None:
    said = table(KINDS[kind]()[0], width)
    assert max(wide(line) for line in said.splitlines()) <= width
    assert all(c.isprintable() for c in said.replace("\n", ""))


def test_the_table_has_every_level_in_every_piece() -> None:
    result, _ = sweep(40, 1)
    lines = table(result).splitlines()
    pieces = sum(line.startswith("level ") for line in lines)
    assert pieces > 1
    for name in ("sync", "concurrent=32", "rate=2", "rate=12 *"):
        assert sum(line.startswith(f"{name} ") for line in lines) == pieces


def test_a_cell_is_the_figure_in_milliseconds() -> None:
    result = run([[stage(Profile("sync"), 60)]])
    f = result.levels[0].median
    cells = {(c.over, c.head): c.cell(result.levels[0]) for c in columns(result)}
    assert f.ttft.p50 is not None and cells["TTFT", "p50"] == f"{1e3 * f.ttft.p50:.1f}"
    assert cells["TTFT", "p99"] == "–"
    assert cells["", "failed"] == "0 %"


def test_a_dash_has_its_footnote_and_each_column_its_definition() -> None:
    result = run([[stage(Profile("rate", 4.0), 30)]], SLOS)
    said = table(result)
    assert "\n-  too few answers" in said
    for column in columns(result):
        assert column.term in DEFINITIONS
    flat = " ".join(said.split())
    for term in ("ttft", "ttft_due", "tpot", "goodput"):
        assert " ".join(DEFINITIONS[term].split()) in flat


@given(st.lists(st.lists(st.text("abcü漢é", max_size=12), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(20, 90))
def test_a_grid_keeps_all_cells_and_its_width(rows: list[list[str]], width: int) -> None:
    said = grid([["", "a", "b", "c"]], rows, width)
    needed = max(wide(row[0]) for row in rows) + 2 + max([1, *(wide(cell) for row in rows for cell in row[1:])])
    assert max(wide(line) for line in said.splitlines()) <= max(width, needed)
    assert all(cell in said for row in rows for cell in row)


def test_a_text_is_cut_by_cells_not_characters() -> None:
    assert cut("漢字漢字", 5) == "漢字…" and wide("漢字…") == 5
    assert cut("abc", 3) == "abc"


def test_headlines() -> None:
    result, _ = sweep(100, 1)
    assert headline(result).startswith("At 9 requests/s ")
    assert headline(result).endswith("It saturates between 9 and 10 requests/s.")
    result.levels = [one for one in result.levels if one.profile.name != "rate" or one.profile.value <= 9]
    assert headline(result).endswith("It kept up with the highest rate that was tried.")
    result.levels, result.saturation = [one for one in result.levels if one.profile.name != "rate"], None
    assert headline(result).startswith("With 32 at once ")
    slow = run([[stage(Profile("rate", 30.0), 300)]])
    assert headline(slow).startswith("At 30 requests/s, more than it keeps up with, 95 % of the answers have")
    assert headline(KINDS["nothing"]()[0]) == "Nothing was measured: no request was sent."
    assert headline(KINDS["refused"]()[0]) == "No request was answered, of 40 sent: too many requests."
    assert headline(KINDS["one_request"]()[0]).startswith("One request at a time, it answered 1 of 1 requests")


def test_a_comparison() -> None:
    a, b = stage(Profile("sync"), 60, seed=1), stage(Profile("sync"), 60, seed=1)
    for t in b.timed:
        t.stamps = [s + 0.010 for s in t.stamps]
    names = ("http://one/v1", f"two {NASTY}")
    said = compare_table(paired(a.timed, b.timed, names=names), names)
    row = next(line for line in said.splitlines() if line.startswith("TTFT "))
    assert row.split()[1] == "57" and "10.0" in row.split()
    assert max(wide(line) for line in said.splitlines()) <= 80
    assert "\x1b" not in said
    alone = compare_table(paired(a.timed[:3], []))
    assert any(line.startswith("E2E ") and " 0 " in line for line in alone.splitlines())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _told(stream: io.StringIO) -> None:
    made = stage(Profile("rate", 4.0), 20, seed=0)
    now = iter(range(100))
    progress = Progress(stream, clock=lambda: float(next(now)), width=lambda: 81)
    progress.say(f"asking {NASTY}")
    progress.begin(made.profile, 0)
    progress.sample(Sample(1.0, 3, done=4, failed=1, first=0.0612))
    progress.sample(Sample(2.0, 2, done=10, failed=1))
    progress.end(made, figures(made, ()))
    progress.close()


def test_a_terminal_sees_how_it_goes() -> None:
    stream = _Terminal()
    _told(stream)
    shown = stream.getvalue().split("\r\x1b[K")
    assert "rate=4, repeat 1: 2 s, 10 done, 2 under way, 1 failed, 6/s, TTFT 61.2 ms" in shown
    assert "rate=4, repeat 1: 1 s, 4 done, 3 under way, 1 failed, 4/s, TTFT 61.2 ms" in shown
    assert all(len(s.rstrip("\n")) <= 80 for s in shown if not s.endswith("\n"))
    assert sum(s.count("\n") for s in shown) == 1
    assert not any("\x1b" in s for s in shown)


def test_without_a_terminal_a_stage_is_one_line() -> None:
    stream = io.StringIO()
    _told(stream)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("rate=4, repeat 1: 19 answered, 0 failed in ")
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_a_stream_that_is_gone_ends_no_run(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stream:
        progress = Progress(stream)
    made = stage(Profile("sync"), 5)
    progress.end(made, figures(made, ()))
    progress.close()
    assert (tmp_path / "out").read_text() == ""


def test_time_that_the_hypervisor_kept_is_told() -> None:
    result, _ = KINDS["one_request"]()
    assert "hypervisor" not in table(result)
    result.levels[0].repeats[0].health.stolen = 0.034
    assert "3.4 % of one kept from the machine by its hypervisor" in " ".join(table(result, 200).split())
