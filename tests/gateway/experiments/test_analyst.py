"""The analyst: what it concludes and does, as a process and in one; a look at a file."""

from __future__ import annotations

import io
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.experiments import analyst as module
from gateway.experiments.analyst import Analyst, Done, Order, analyse_file, read_orders, serve
from gateway.experiments.folded import Cursor, Folded
from gateway.experiments.words import State
from routing.experiments.words import Audit, Guardrail
from tests.gateway.experiments.recorded import DESIGN, NOW, direct, looked, made, opened, voices, write


def test_a_look_at_a_file_changes_nothing(tmp_path: Path) -> None:
    seen = made(4, 2500)
    fed = voices(seen, 6)
    with opened(tmp_path / "e.db") as tables:
        write(tables, seen[:1000])
        Analyst(tables, lambda: NOW).obey(Order((DESIGN,), number=1))
        write(tables, seen[1000:], fed)
        before = [*tables.db.iterdump()]
        result = analyse_file(str(tmp_path / "e.db"), DESIGN, lambda: NOW)
        assert [*tables.db.iterdump()] == before
        want = direct(DESIGN, seen, fed)
        assert result.requests == sum(want.requests[arm] for arm in "ab") and result.feedback == len(fed)
        assert {arm.name: arm.units for arm in result.arms} == {arm: want.units[arm] for arm in "ab"}


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        analyse_file(str(tmp_path / "none.db"), DESIGN)
    assert not (tmp_path / "none.db").exists()


# The process.


def test_the_process_obeys_and_ends_with_its_input(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    with opened(path) as tables:
        write(tables, made(6, 500))
    argv = [sys.executable, "-m", "gateway.experiments.analyst", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        child.stdin.write(b"nonsense\n" + msgspec.json.encode(Order((DESIGN,), number=7)) + b"\n")
        child.stdin.flush()
        assert msgspec.json.decode(child.stdout.readline(), type=Done) == Done(7)
        child.send_signal(signal.SIGINT)  # a terminal's, meant for the gateway
        child.stdin.write(msgspec.json.encode(Order(number=8)) + b"\n")
        child.stdin.flush()
        assert msgspec.json.decode(child.stdout.readline(), type=Done) == Done(8)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        child.stdin.close()
        assert child.wait(30) == 0
        assert b"cannot be read" in child.stderr.read()
    with opened(path) as tables:
        found = tables.result("e")
        assert found is not None and found.requests > 300


def test_orders_are_read_to_their_end_and_looks_happen_without_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    read_orders(io.BytesIO(b'{"designs": 5}\n{"number": 1}\n'), orders)
    out = io.BytesIO()
    with opened(tmp_path / "e.db") as tables:
        serve(Analyst(tables), orders, out)
        assert out.getvalue() == b'{"number":1,"problem":"no experiments are known yet"}\n'
        looked: list[int] = []

        class Ending(Analyst):
            def look(self) -> str:
                looked.append(1)
                orders.put(None)
                return ""

        monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
        serve(Ending(tables), orders, out)
        assert looked


def test_results_points_and_audit(tmp_path: Path) -> None:
    seen = made(7, 4000, slow=1.3)
    with opened(tmp_path / "e.db") as tables:
        analyst = None
        for part in range(0, 4000, 1000):
            write(tables, seen[part : part + 1000])
            analyst = looked(tables, DESIGN, analyst=analyst)
        result, want = tables.result("e"), direct(DESIGN, seen, [])
        assert result is not None and result.points == tables.points("e")
        assert result.units == want.units["a"] + want.units["b"] and result.requests == want.requests["a"] + want.requests["b"]
        latency = next(c for c in result.comparisons if c.metric == "latency")
        assert latency.verdict == "worse" and latency.change.value == pytest.approx(0.3, abs=0.1)
        assert result.status == "running" and [a.action for a in result.audit] == ["start"]
        assert tables.state("e") == State("e", started=NOW) and tables.epochs("e") == {0: {"a": 1.0, "b": 1.0}}
        written = [*tables.db.iterdump()]
        looked(tables, DESIGN, analyst=analyst)
        assert [*tables.db.iterdump()] == written  # nothing was new


def test_promotion_stop_and_rollback_only_where_allowed(tmp_path: Path) -> None:
    fast = made(8, 6000, slow=0.6)
    slow = made(8, 6000, slow=1.6)
    guarded = msgspec.structs.replace(DESIGN, primary="cost", guardrails=(Guardrail("latency", 0.05),), rollback=True)
    for seen, design, status, winner in (
        (fast, DESIGN, "running", None),
        (fast, msgspec.structs.replace(DESIGN, promote=True), "promoted", "b"),
        (fast, msgspec.structs.replace(DESIGN, stop=True), "stopped", None),
        (slow, guarded, "rolled_back", None),
    ):
        path = tmp_path / f"{status}.db"
        with opened(path) as tables:
            write(tables, seen)
            looked(tables, design)
            state, result = tables.state("e"), tables.result("e")
            assert state is not None and result is not None
            assert (state.status, state.winner) == (status, winner)
            assert result.status == status
            assert len(result.audit) == 1 + (status != "running") and result.audit == tables.audit("e")


def test_what_people_put_in_force_meanwhile_is_not_overruled(tmp_path: Path) -> None:
    design = msgspec.structs.replace(DESIGN, promote=True)
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(9, 6000, slow=0.6))
        stopped = State("e", "stopped", started=5.0)
        with tables.transaction():
            tables.act(stopped, Audit(6.0, "anna", "stop"))
        looked(tables, design)
        assert tables.state("e") == stopped
        result = tables.result("e")
        assert result is not None and result.status == "stopped" and result.started == 5.0


def test_a_bandit_moves_weights_in_epochs(tmp_path: Path) -> None:
    design = msgspec.structs.replace(DESIGN, mode="bandit")
    now = [NOW]
    with opened(tmp_path / "e.db") as tables:
        analyst = Analyst(tables, lambda: now[0])
        looked(tables, design, analyst=analyst)
        write(tables, made(10, 4000, slow=0.5))
        looked(tables, design, analyst=analyst)
        assert tables.state("e") == State("e", started=NOW)  # too soon after its start
        now[0] += 3600
        write(tables, made(11, 10, slow=0.5))
        looked(tables, design, analyst=analyst)
        state = tables.state("e")
        assert state is not None and state.epoch == 1 and state.weights["b"] > 0.6 and sum(state.weights.values()) == pytest.approx(1)
        assert tables.epochs("e") == {0: {"a": 1.0, "b": 1.0}, 1: state.weights}
        assert [a.action for a in tables.audit("e")] == ["start", "weights"]


def test_weights_changed_in_the_configuration_begin_an_epoch(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        analyst = looked(tables, DESIGN)
        looked(tables, msgspec.structs.replace(DESIGN, weights=(3.0, 1.0)), analyst=analyst)
        state = tables.state("e")
        assert state is not None and state.epoch == 1 and state.weights == {}
        assert tables.epochs("e") == {0: {"a": 1.0, "b": 1.0}, 1: {"a": 3.0, "b": 1.0}}


def test_an_experiment_that_begins_later(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        Analyst(tables, lambda: NOW).obey(Order((DESIGN,), {"e": NOW + 60}, number=1))
        assert tables.state("e") == State("e", started=NOW + 60)


def test_a_damaged_file_is_told_and_not_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(12, 100))
        tables.db.execute("UPDATE chunks SET seen = x'c1'")
        done = Analyst(tables, lambda: NOW).obey(Order((DESIGN,), number=3))
        assert done is not None and "cannot be folded" in done.problem and "cannot be folded" in caplog.text
        assert Folded(tables).cursor() == Cursor()


def test_what_is_folded_is_judged_though_more_keeps_coming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(4, 300))
        analyst = Analyst(tables, lambda: NOW)
        analyst.obey(Order((DESIGN,)))
        step, steps = analyst.folding.step, list[bool]()

        def endless() -> bool:
            steps.append(step())
            return True

        monkeypatch.setattr(analyst.folding, "step", endless)
        monkeypatch.setattr(module, "FOLD_SECONDS", 0.0)
        assert analyst.look() == "" and len(steps) == 1
        found = tables.result("e")
        assert found is not None and found.requests > 0
        left = iter([True, True, False])
        monkeypatch.setattr(analyst.folding, "step", lambda: next(left))
        assert analyst.look(all=True) == "" and not [*left]  # who asks for all gets all
