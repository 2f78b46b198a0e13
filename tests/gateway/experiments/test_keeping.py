"""What goes from the file of experiments, and what stays."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from gateway.experiments.folding import Folding
from gateway.experiments.keeping import Retain, sweep
from gateway.experiments.tables import CHUNK
from gateway.experiments.words import Pair
from routing.experiments.words import HOLDOUT, Estimate, Point, Seen
from tests.gateway.experiments.recorded import DESIGN, NOW, direct, looked, made, of_file, opened, rows, same, voices, write


def test_raw_rows_go_by_age_but_only_what_is_folded(tmp_path: Path) -> None:
    seen = made(13, 1000)
    with opened(tmp_path / "e.db") as tables:
        write(tables, seen[:600], voices(seen[:600], 3))
        assert sweep(tables, Retain(age=1.0), NOW, {"e"}) == 0
        Folding(tables, [DESIGN]).all()
        write(tables, seen[600:])
        assert sweep(tables, Retain(age=NOW - 300.0), NOW, {"e"}) > 0
        assert rows(tables, "chunks") == 7
        while sweep(tables, Retain(age=1.0), NOW, {"e"}):
            pass
        assert (rows(tables, "chunks"), rows(tables, "feedback")) == (4, 0)
        Folding(tables, [DESIGN]).all()
        assert same(of_file(tmp_path / "e.db"), direct(DESIGN, seen, voices(seen[:600], 3)))


def test_raw_rows_go_by_size_the_oldest_first(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(14, 2000))
        Folding(tables, [DESIGN]).all()
        size = tables.db.execute("SELECT SUM(LENGTH(seen)) FROM chunks").fetchone()[0]
        while sweep(tables, Retain(bytes=size // 4), NOW, {"e"}):
            pass
        left = tables.chunks(0, 100)
        assert 3 <= len(left) <= 5 and left[-1].seen[-1].unix == 1999.0


def test_answers_are_bounded_by_age_and_number(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(15, 1000))
        Folding(tables, [DESIGN]).all()
        assert rows(tables, "ids") == 2000
        while sweep(tables, Retain(ids=500, answers=NOW - 800.0), NOW, {"e"}):
            pass
        assert rows(tables, "ids") == 400
        while sweep(tables, Retain(ids=50), NOW, {"e"}):
            pass
        assert rows(tables, "ids") == 50
        assert tables.db.execute("SELECT MIN(unix) FROM ids").fetchone() == (975.0,)


def test_answers_noted_together_go_together(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN])
        for turn in range(3):
            write(tables, [msgspec.structs.replace(one, unix=one.unix + 2500.0 * turn) for one in made(turn, 2500)])
            folding.all()
            write(tables, [msgspec.structs.replace(one, unix=2500.0 * (turn + 1)) for one in made(10 + turn, 10)])
            folding.all()
        assert (rows(tables, "named"), rows(tables, "ids")) == (3, 60)
        while sweep(tables, Retain(answers=NOW - 2501.0), NOW, {"e"}):
            pass
        assert (rows(tables, "named"), rows(tables, "ids")) == (2, 40)  # the first are too old
        assert sweep(tables, Retain(ids=10_040), NOW, {"e"}) == 0
        while sweep(tables, Retain(ids=10_020), NOW, {"e"}):
            pass
        assert (rows(tables, "named"), rows(tables, "ids")) == (1, 40)
        while sweep(tables, Retain(ids=30), NOW, {"e"}):
            pass
        assert (rows(tables, "named"), rows(tables, "ids")) == (0, 20)


def test_ledgers_stay_while_their_experiment_is_configured(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(16, 500))
        looked(tables, DESIGN)
        assert not sweep(tables, Retain(idle=10.0), 20_000.0, {"e"})
        assert sweep(tables, Retain(idle=10.0), 20_000.0, {"f"})
        assert rows(tables, "units") == rows(tables, "ledgers") == rows(tables, "results") == 0
        assert rows(tables, "audit") == 1


def test_the_estimate_over_time_is_thinned_evenly(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        for n in range(500):
            with tables.transaction():
                tables.add_points("e", [Point(float(n), n, arm, Estimate(0.1, 0.0, 0.2)) for arm in "bc"], 100)
        points = tables.points("e")
        moments = [point.unix for point in points if point.arm == "b"]
        assert 50 <= len(moments) <= 100 and moments[0] == 0.0 and moments[-1] == 499.0 and len(points) == 2 * len(moments)
        assert max(b - a for a, b in itertools.pairwise(moments)) <= 25


def test_pairs_are_held_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.experiments.folding.PAIRS", 5)
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN])
        for n in range(9):
            with tables.transaction():
                tables.add_pairs([Pair(float(n), "e", "s", f"r{n}"), Pair(float(n), "gone", "s", f"r{n}")])
            if n % 2:
                folding.all()
        folding.all()
        assert [pair.request for pair in folding.pairs["e"]] == [f"r{n}" for n in range(4, 9)]
        again = Folding(tables, [DESIGN])
        again.all()
        assert [*again.pairs["e"]] == [*folding.pairs["e"]]


def test_holdout_and_chunks_of_full_size(tmp_path: Path) -> None:
    seen = [Seen(float(n), "e", 0, HOLDOUT, n) for n in range(2 * CHUNK)]
    with opened(tmp_path / "e.db") as tables:
        with tables.transaction():
            for at in range(0, len(seen), CHUNK):
                tables.add_chunk(seen[at : at + CHUNK])
        looked(tables, DESIGN)
        assert of_file(tmp_path / "e.db").units == {"a": 0, "b": 0, HOLDOUT: 2 * CHUNK}
