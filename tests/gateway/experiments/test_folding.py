"""What the file gathered is folded exactly once, whatever dies in between; feedback finds its units."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.experiments.analyst import Analyst, Order
from gateway.experiments.folded import MANY, Folded
from gateway.experiments.folding import Folding, answer_of
from gateway.experiments.words import Feedback
from routing.experiments.words import Seen
from tests.gateway.experiments.recorded import DESIGN, NOW, direct, made, of_file, opened, rows, same, units, voices, write, write_blocks


def test_the_ledger_in_the_file_is_the_direct_computation(tmp_path: Path) -> None:
    seen = made(1, 3000)
    fed = voices(seen, 5)
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN])
        for part in range(0, 3000, 700):
            write(tables, seen[part : part + 700], [item for item in fed if part <= item.unix - 1 < part + 700])
            assert folding.all() and not folding.all()
        assert same(folding.ledgers["e"], direct(DESIGN, seen, fed))
    assert same(of_file(tmp_path / "e.db"), direct(DESIGN, seen, fed))


def plainly(seen: list[Seen]) -> list[Seen]:
    """The same, as plain requests say it."""
    return [msgspec.structs.replace(one, refused=False, output=7) for one in seen]


def test_blocks_of_plain_requests_give_the_same_ledger(tmp_path: Path) -> None:
    seen = plainly(made(1, 3000))
    fed = voices(seen, 5)
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN])
        write(tables, [], fed[:300])  # some before their answers
        for part in range(0, 3000, 1000):
            write_blocks(tables, seen[part : part + 700])
            write(tables, seen[part + 700 : part + 1000])
            folding.all()
        write_blocks(tables, [msgspec.structs.replace(seen[0], experiment="f"), msgspec.structs.replace(seen[0], arm="other")])
        write(tables, [], fed)
        folding.all()
        assert Folded(tables).waiting() == [] and folding.ledgers["e"].strange == 1
        folding.ledgers["e"].strange = 0
        assert same(folding.ledgers["e"], direct(DESIGN, seen, fed))


@pytest.mark.parametrize("names", [("e",), ("e", "f")])
def test_many_answers_at_once_share_a_row_and_are_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    designs = [msgspec.structs.replace(DESIGN, name=name) for name in names]
    seen = plainly(made(6, MANY // 2))
    both = [msgspec.structs.replace(one, experiment=name) for one in seen for name in names]
    fed = voices(seen, 50)
    with opened(tmp_path / "e.db") as tables:
        write_blocks(tables, both)
        Folding(tables, designs).all()
        assert (rows(tables, "ids"), rows(tables, "named")) == (0, 1)
        write(tables, [], fed)
        again = msgspec.structs.replace(seen[3], unix=NOW, unit=units(1), arm="a")  # the same name later: the latest counts
        write(tables, [again])
        folding = Folding(tables, designs)
        folding.all()
        write(tables, [], [Feedback(NOW, "t", "liked", "boolean", 1.0, response=again.response)])
        folding.all()
        assert Folded(tables).waiting() == []
        for name in names:
            assert folding.ledgers[name].fed == len(fed) + 1
        assert Folded(tables).answers(answer_of("t", again.response))["e"] == (units(1), False, NOW)
        look = Folding(tables, designs, readonly=True)
        look.all()
        assert same(look.ledgers["e"], folding.ledgers["e"])


def test_a_row_that_is_swept_away_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = plainly(made(6, MANY // 2))
    with opened(tmp_path / "e.db") as tables:
        write_blocks(tables, seen)
        Folding(tables, [DESIGN]).all()
        folded, hash = Folded(tables), answer_of("t", seen[3].response)
        assert folded.answers(hash)
        monkeypatch.setattr(Folded, "_many", lambda *_: None)
        assert folded.answers(hash) == {} == Folded(tables).answers(hash)


def test_feedback_may_come_before_its_answer_and_long_after(tmp_path: Path) -> None:
    seen = made(2, 400)
    fed = voices(seen, 3)
    with opened(tmp_path / "e.db") as tables:
        write(tables, seen[:200], fed)
        Folding(tables, [DESIGN]).all()
        assert len(Folded(tables).waiting()) == sum(item.unix > 200 for item in fed)
        write(tables, seen[200:])
        folding = Folding(tables, [DESIGN])
        folding.all()
        assert Folded(tables).waiting() == [] and same(folding.ledgers["e"], direct(DESIGN, seen, fed))
        late = Feedback(5000.0, "t", "liked", "boolean", 1.0, response=seen[0].response, comment="late, but true")
        other = msgspec.structs.replace(late, tenant="another")  # cannot speak of t's answers
        write(tables, [], [late, other])
        folding.all()
        assert same(of_file(tmp_path / "e.db"), folding.ledgers["e"])
        assert folding.ledgers["e"].fed == len(fed) + 1 and folding.ledgers["e"].comments == ["late, but true"]
        assert [one.item for one in Folded(tables).waiting()] == [other]


def test_the_same_feedback_sent_again_counts_once(tmp_path: Path) -> None:
    seen = made(2, 10)
    with opened(tmp_path / "e.db") as tables:
        write(tables, seen, voices(seen, 2) * 2)
        folding = Folding(tables, [DESIGN])
        folding.all()
        assert folding.ledgers["e"].fed == 5


def test_feedback_of_a_session_is_of_its_unit(tmp_path: Path) -> None:
    other = msgspec.structs.replace(DESIGN, name="f")
    told = Feedback(6.0, "t", "liked", "boolean", 1.0, session="user 1")
    early = msgspec.structs.replace(told, unix=4.0)
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN, other])
        write(tables, [], [told, early])
        folding.all()
        write(tables, [Seen(5.0, "e", 0, "b", units(1), "t"), Seen(5.0, "f", 0, "a", units(1), "t"), Seen(5.0, "e", 0, "a", units(2), "t")])
        folding.all()
        for name, arm in (("e", "b"), ("f", "a")):
            moments = folding.ledgers[name].moments[arm]["feedback:liked"]
            assert (moments.k, moments.n, moments.mean) == (1, 1, 1.0) and folding.ledgers[name].fed == 2
        assert Folded(tables).waiting() == []


def test_feedback_that_waits_is_bounded_and_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.experiments.folding.WAITING", 5)
    lost = [Feedback(float(n), "t", "liked", "boolean", 1.0, response=f"none-{n}") for n in range(12)]
    with opened(tmp_path / "e.db") as tables:
        folding = Folding(tables, [DESIGN])
        write(tables, [], lost[:8])
        folding.all()
        write(tables, [], lost[8:])
        folding.all()
        assert [one.item for one in Folded(tables).waiting()] == lost[7:]
        folding.oldest = 9.0
        write(tables, [], [msgspec.structs.replace(lost[0], unix=20.0, session="x", response="")])
        folding.all()
        assert [one.item.unix for one in Folded(tables).waiting()] == [9.0, 10.0, 11.0, 20.0]


def test_two_analysts_count_nothing_twice(tmp_path: Path) -> None:
    seen = made(3, 1200)
    with opened(tmp_path / "e.db") as one, opened(tmp_path / "e.db") as other:
        both = [Folding(one, [DESIGN]), Folding(other, [DESIGN])]
        for n, part in enumerate(range(0, 1200, 200)):
            write(one, seen[part : part + 200])
            both[n % 2].all()
            both[n // 2 % 2].all()
    assert same(of_file(tmp_path / "e.db"), direct(DESIGN, seen, []))


def looks_and_dies(path: Path, seed: int) -> None:
    """One look, in a process of its own that SIGKILL ends before one of its statements, whichever."""
    left = random.Random(seed).randrange(1, 300)

    def count(statement: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    with opened(path) as tables:
        tables.db.set_trace_callback(count)
        Analyst(tables, lambda: NOW).obey(Order((DESIGN,), number=1))


def killed_often(path: Path) -> int:
    """Writes records piece by piece, and lets looks at them be killed; how many were. Run in a process without other threads: it forks."""
    seen, killed = made(5, 6000), 0
    fed = voices(seen, 9)
    for turn in range(20):
        with opened(path) as tables:
            at = 500 * turn
            write(tables, seen[at : at + 500], fed[at // 9 : at // 9 + 100])  # some of it before its answer
        child = os.fork()
        if not child:
            looks_and_dies(path, turn)
            os._exit(0)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    return killed


def test_kill_9_anywhere_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    seen, path = made(5, 6000), tmp_path / "e.db"
    fed = voices(seen, 9)
    run = f"import pathlib, sys; from {__name__} import killed_often; print(killed_often(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", run, str(path)], timeout=120, check=True, capture_output=True)
    assert int(done.stdout) >= 5
    with opened(path) as tables:
        write(tables, [], fed)  # what was not written yet; the rest is known by its id
        Analyst(tables, lambda: NOW).obey(Order((DESIGN,), number=1))
        result = tables.result("e")
        assert len(tables.audit("e")) == 1
    assert same(of_file(path), direct(DESIGN, seen, fed))
    assert result is not None and result.feedback == len(fed)
