"""`pointsman experiments`: against a control plane over a real socket, on a store's file, and by numbers alone."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import cli_experiments_text as text
from gateway.admin.app import create
from gateway.admin.guard import Access, key_check
from gateway.cli import main
from gateway.cli_simulate import Progress
from gateway.experiments.tables import Tables
from gateway.experiments.words import State
from routing.experiments.words import (
    ArmResult,
    Audit,
    Comparison,
    Estimate,
    Metric,
    Outlook,
    Ratio,
    Result,
    Seen,
    Shadowed,
)
from tests.gateway.admin import fake
from tests.gateway.experiments.test_api import DESIGN, OTHER, Shelf, analysed

CONFIG: dict[str, Any] = {
    "backends": {"far": {"url": "http://127.0.0.1:9/v1"}},
    "routes": {"m": {"targets": [{"backend": "far", "model": "x"}]}},
    "experiments": {
        "mini": {
            "route": "m", "key": "user", "primary": "feedback:thumbs", "effect": 0.3, "least": 20, "planned": 2000,
            "feedback": {"thumbs": {"kind": "boolean"}}, "arms": {"control": {}, "small": {"parameters": {"temperature": 0}}},
        },
        "quick": {"route": "m", "key": "user", "layer": "x", "primary": "latency", "arms": {"a": {}, "b": {"parameters": {"top_p": 1}}}},
    },
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "pointsman.json"
    file.write_text(json.dumps(CONFIG))  # JSON is YAML
    return str(file)


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    found.states, found.results = {"mini": State("mini", started=1.0)}, {"mini": full()}
    return found


@pytest.fixture
def admin(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("POINTSMAN_ADMIN_URL", "POINTSMAN_KEY", "POINTSMAN_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    state = fake.busy()
    state.experiments.follow(shelf, [DESIGN, OTHER])
    with fake.served(create(state)) as url:
        yield url


def full() -> Result:
    """A result with something of everything."""
    latency = Metric("latency", "log", "lower", "time to the whole answer", "s")
    thumbs = Metric("feedback:thumbs", "boolean", "higher", "thumbs up")
    cost = Metric("cost", "mean", "lower", "cost of a request", "$")
    arms = [
        ArmResult("control", 0.75, True, 3200, 6800, {"ttft": Estimate(0.312, 0.298, 0.33), "cost": Estimate(0.0123)}),
        ArmResult("small", 0.25, False, 1110, 2200, {"ttft": Estimate(0.2745, 0.251, 0.291)}, best=0.97),
    ]
    changes = [
        Comparison("small", "feedback:thumbs", "secondary", Estimate(None), None, 0.05, "unsure"),
        Comparison("small", "cost", "guardrail", Estimate(0.01, -0.02, 0.04), 0.3, 0.05, "same"),
        Comparison("small", "ttft", "primary", Estimate(-0.12, -0.15, -0.08), 0.0001, 0.05, "better"),
    ]
    metrics = {"ttft": Metric("ttft", "log", "lower", "time to first token", "s"), "latency": latency, "cost": cost, thumbs.name: thumbs}
    return analysed(
        arms=arms, comparisons=changes, metrics=metrics, words=["It is sure enough."], crossed=3, left=14, feedback=7,
        comments=["fine\x1b[31m"], outlook=Outlook(8123, 0.041, 310.0, 12.3), audit=[Audit(fake.NOW, "ann", "start", "at last")],
        ratio=Ratio({"control": 3200, "small": 1110}, {"control": 3232.5, "small": 1077.5}, 0.4, False),
        shadows=[Shadowed("big", 210, Estimate(0.81), latency=Estimate(1.7), cost=1.5, failed=2)],
    )  # fmt: skip


def ok(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["experiments", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(["experiments", *arguments]) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("pointsman: ") and told.err.count("\n") == 1
    return told.err


# --- a running gateway


def test_the_list(admin: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ok(capsys, "ls", "--admin-url", admin).splitlines()
    assert lines[0].split() == ["NAME", "ROUTE", "STATUS", "USERS", "REQUESTS"]
    assert lines[1].split()[:5] == ["mini", "m", "running", "4,310", "9,000"] and lines[1].endswith("small answers 12 % faster.")
    assert lines[2].endswith("Nothing has been seen yet.")
    monkeypatch.setenv("POINTSMAN_ADMIN_URL", admin)
    found = json.loads(ok(capsys, "ls", "--json"))["experiments"]
    assert [one["name"] for one in found] == ["mini", "other"] and found[0]["trusted"] is True


def test_one_of_them(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ok(capsys, "show", "mini", "--admin-url", admin)
    for words in (
        "mini: small answers 12 % faster.", "  It is sure enough.", "route m, running", "4,310 users, 9,000 requests",
        "312 ms (298 ms to 330 ms)", "TIME TO FIRST TOKEN", "97%", "-12.0%", "-15.0% and -8.0%", "users are split as they should be",
        "about 8,120 users are needed to see a change of 5.0%; at 310 new ones a day that takes 12 days more",
        "a change of 4.1% could be seen", "3 users seen in more than one arm; 14 requests", "feedback: 7, last comment: fine[31m",
        "x 1.70", "$1.50",
    ):  # fmt: skip
        assert words in shown, words
    assert shown.index("primary") < shown.index("guardrail") < shown.index("secondary") and "\x1b" not in shown
    assert msgspec.json.decode(ok(capsys, "show", "mini", "--json", "--admin-url", admin), type=Result).units == 4310


def test_a_wrong_split_is_told_loudly(admin: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Ratio({"control": 600, "small": 400}, {"control": 500.0, "small": 500.0}, 1e-9, True)
    shelf.results["mini"] = msgspec.structs.replace(full(), ratio=bad)
    shown = ok(capsys, "show", "mini", "--admin-url", admin)
    assert "NOT SPLIT AS THEY SHOULD BE (p = 1e-09): control 60.0% instead of 50.0%" in shown
    assert "do not trust this yet" in ok(capsys, "ls", "--admin-url", admin)


def test_nothing_seen_yet_can_be_shown(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ok(capsys, "show", "other", "--admin-url", admin)
    assert "Nothing has been seen yet." in shown and "a (control)" in shown and "50.0%" in shown


def test_the_report_is_written(admin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    ok(capsys, "show", "mini", "--html", str(file), "--admin-url", admin)
    assert "small answers 12 % faster" in file.read_text()
    assert "cannot write" in refused(capsys, "show", "mini", "--html", str(tmp_path), "--admin-url", admin, code=1)


def test_stopping_and_promoting(admin: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys, "stop", "mini", "--reason", "enough", "--admin-url", admin) == "mini is stopped: requests go by the route as it is\n"
    assert ok(capsys, "stop", "mini", "--promote", "small", "--admin-url", admin) == "mini is promoted: everybody gets small\n"
    assert [act[2:] for act in shelf.acts] == [("command line", "stop", "enough"), ("command line", "promote", "small")]
    assert "has a promoted arm; there is nothing to promote" in refused(
        capsys, "stop", "mini", "--promote", "small", "--admin-url", admin, code=1
    )
    assert json.loads(ok(capsys, "stop", "other", "--json", "--admin-url", admin))["status"] == "stopped"


def test_what_the_gateway_refuses_is_one_sentence(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'mini'?" in refused(capsys, "show", "mina", "--admin-url", admin, code=1)
    assert "no arm 'huge'" in refused(capsys, "stop", "mini", "--promote", "huge", "--admin-url", admin, code=1)
    assert "no gateway answers" in refused(capsys, "ls", "--admin-url", "http://127.0.0.1:9", code=1)
    assert "not the URL" in refused(capsys, "ls", "--admin-url", "nonsense", code=1)


def test_an_admin_key_is_sent_and_asked_for(shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    state = fake.busy()
    state.experiments.follow(shelf, [DESIGN])
    with fake.served(create(state, access=Access(frozenset(), key_check(["open-sesame"])))) as url:
        assert "$POINTSMAN_KEY" in refused(capsys, "ls", "--admin-url", url, code=1)
        assert "mini" in ok(capsys, "ls", "--admin-url", url, "--key", "open-sesame")
        monkeypatch.setenv("POINTSMAN_KEY", "open-sesame")
        assert "mini" in ok(capsys, "ls", "--admin-url", url)


def test_a_server_that_is_none_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    with fake.served(other, lifespan=False) as url:
        assert "is --admin-url right?" in refused(capsys, "ls", "--admin-url", url, code=1)
        assert "is --admin-url right?" in refused(capsys, "show", "x", "--admin-url", url, code=1)


# --- the file of a gateway that does not run


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "experiments.db")
    with closing(Tables(path)) as tables, tables.transaction():
        tables.set_result(full())
        tables.set_result(msgspec.structs.replace(full(), name="gone"))
        tables.act(State("mini", "stopped", started=1.0), Audit(5.0, "ann", "stop", "enough"))
        seen = [Seen(float(n), "mini", 0, "control", n % 90, seconds=0.1 + n % 7 / 10, ttft=0.1, output=10) for n in range(300)]
        tables.add_chunk(seen)
    return path


def test_the_list_and_a_result_from_the_file(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[:3] for line in ok(capsys, "ls", "--store", store).splitlines()[1:]] == [
        ["gone", "m", "running"],
        ["mini", "m", "stopped"],
    ]
    shown = ok(capsys, "show", "mini", "--store", store, "--html", str(tmp_path / "x.html"))
    assert "stopped" in shown and "ann: stop, enough" in shown and (tmp_path / "x.html").stat().st_size > 1000
    assert "there are: gone, mini" in refused(capsys, "show", "other", "--store", store)


def test_what_the_file_holds_is_worked_out_anew_for_a_configuration(config: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ok(capsys, "ls", "--store", store, "--config", config).splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [["mini", "m", "stopped", "90", "300"], ["quick", "m", "running", "0", "0"]]
    found = json.loads(ok(capsys, "show", "mini", "--store", store, "--config", config, "--json"))
    assert found["units"] == 90 and found["primary"] == "feedback:thumbs" and found["audit"][0]["actor"] == "ann"
    assert "there are: mini, quick" in refused(capsys, "show", "mina", "--store", store, "--config", config)


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in refused(capsys, "ls", "--store", str(tmp_path / "none.db"))
    (tmp_path / "text").write_text("not a database, certainly not one, whatever it is called" * 20)
    assert "file of experiments" in refused(capsys, "ls", "--store", str(tmp_path / "text"))


# --- planning


def test_a_plan_by_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--kind", "boolean", "--baseline", "0.12", "--effect", "0.05", "--users-per-day", "1200"]
    shown = ok(capsys, *flags)
    assert "now 12.0%; two arms, at most 5 % false alarms, 90% sure" in shown
    assert any(line.split()[:2] == ["+5.00%", "126,000"] for line in shown.splitlines())
    rows = json.loads(ok(capsys, *flags, "--json"))["rows"]
    assert [row["effect"] for row in rows] == [0.025, 0.05, 0.1]
    # Two proportions, unpooled variance: (1.960 + 1.282)² (0.12 · 0.88 + 0.126 · 0.874) / 0.006², twice.
    assert rows[1]["fixed"] == pytest.approx(2 * 10.507 * (0.1056 + 0.110124) / 0.006**2, rel=1e-3)
    assert rows[1]["fixed"] < rows[1]["sequential"] <= 1.6 * rows[1]["fixed"]
    assert rows[1]["fixed_days"] == pytest.approx(rows[1]["fixed"] / 1200)


def test_more_arms_and_users_with_more_requests(capsys: pytest.CaptureFixture[str]) -> None:
    def fixed(*flags: str) -> int:
        found = json.loads(ok(capsys, "plan", "--kind", "mean", "--baseline", "300", "--sd", "250", "--effect", "0.1", "--json", *flags))
        return int(found["rows"][1]["fixed"])

    plain = fixed()
    assert fixed("--arms", "3") > 1.4 * plain and fixed("--power", "0.8") < plain and fixed("--alpha", "0.01") > plain
    assert fixed("--requests-per-user", "10") < plain / 5 < fixed("--requests-per-user", "10", "--alike", "0.9")


def test_a_plan_of_a_configured_experiment(config: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ok(capsys, "plan", "mini", "--config", config, "--baseline", "0.3")
    assert "thumbs" in shown and "+30.00%" in shown and "DAYS" not in shown
    found = json.loads(ok(capsys, "plan", "quick", "--config", config, "--sd", "0.5", "--json"))
    assert found["metric"]["name"] == "latency" and found["rows"][1]["effect"] == -0.05, "towards what is better"
    assert "at least 50 units" in refused(capsys, "plan", "quick", "--config", config, "--store", store)
    assert "cannot be" in ok(capsys, "plan", "--kind", "boolean", "--baseline", "0.6", "--effect", "0.5")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["plan"], "--kind boolean, mean or log"),
        (["plan", "--kind", "boolean"], "--baseline 0.12"),
        (["plan", "--kind", "mean", "--baseline", "3"], "--sd 250"),
        (["plan", "--kind", "log"], "--sd 0.8"),
        (["plan", "--kind", "boolean", "--baseline", "1.2"], "below 1"),
        (["plan", "--kind", "boolean", "--baseline", "0.5", "--effect", "0"], "not 0"),
        (["plan", "--kind", "boolean", "--baseline", "0.5", "--effect", "2"], "between 0 and 1"),
        (["plan", "--kind", "boolean", "--baseline", "0.5", "--arms", "1"], "at least two arms"),
        (["plan", "--kind", "log", "--sd", "1", "--store", "x"], "name it"),
        (["plan", "mini"], "--config FILE"),
        (["simulate", "mini"], "--config FILE"),
    ],
)
def test_plans_that_are_none(flags: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_CONFIG", raising=False)
    assert words in refused(capsys, *flags)


def test_configurations_that_do_not_help(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no experiment 'mina'; there are: mini, quick" in refused(capsys, "plan", "mina", "--config", config)
    assert "nor any other" not in refused(capsys, "simulate", "mina", "--config", config)
    refused(capsys, "plan", "mini", "--config", str(tmp_path / "none.yaml"))
    assert "of kind boolean, not log" in refused(capsys, "plan", "mini", "--config", config, "--kind", "log")


@pytest.mark.parametrize("flags", [["simulate", "x", "--runs", "0"], ["plan", "--baseline", "much"], ["plan", "--effect", "inf"], []])
def test_command_lines_that_are_wrong(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["experiments", *flags])
    assert caught.value.code == 2 and capsys.readouterr().err


# --- simulating


def test_a_simulation_of_a_configured_experiment(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["simulate", "mini", "--config", config, "--runs", "20", "--seed", "3", "--baseline", "0.5"]
    shown = ok(capsys, *flags)
    for words in ("mini: a share of 0.5, 1 request a user; seed 3", "false alarms, looked at after every request", "51 to 49 split"):
        assert words in shown, words
    found = json.loads(ok(capsys, *flags, "--json"))
    assert found["result"]["runs"] == 20 and found["result"]["alarms"]["runs"] == 20 and found["problems"] == []
    assert found == json.loads(ok(capsys, *flags, "--json"))


def test_progress_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, hidden = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    progress = Progress()
    progress(1, 4)
    progress(4, 4)
    assert shown.getvalue() == "\rsimulated 25%\rsimulated 100%\n"
    monkeypatch.setattr(sys, "stderr", hidden)
    Progress()(1, 4)
    assert hidden.getvalue() == ""


# --- text


@pytest.mark.parametrize(
    ("number", "words"), [(0.0, "0"), (12.34, "12.3"), (999, "999"), (1234, "1,230"), (98_765, "98,800"), (1_234_567, "1,230,000")]
)
def test_counts_have_three_digits(number: float, words: str) -> None:
    assert text.rounded(number) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0.01, "less than an hour"), (0.5, "12 hours"), (3.21, "3.2 days"), (41.3, "41 days"), (1234, "1,230 days")]
)
def test_days(number: float, words: str) -> None:
    assert text.days(number) == words


@pytest.mark.parametrize(
    ("number", "metric", "words"),
    [
        (0.123, Metric("x", "boolean", "higher", ""), "12.3%"),
        (0.0123, Metric("x", "boolean", "higher", ""), "1.23%"),
        (0.0456, Metric("x", "log", "lower", "", "s"), "45.6 ms"),
        (12.345, Metric("x", "log", "lower", "", "s"), "12.3 s"),
        (0.00123, Metric("x", "mean", "lower", "", "$"), "$0.00123"),
        (1234.5, Metric("x", "mean", "lower", "", "$"), "$1,234.50"),
        (1234.5, Metric("x", "mean", "lower", "", "tokens"), "1,234 tokens"),
        (12.34, Metric("x", "mean", "lower", ""), "12.3"),
    ],
)
def test_values_have_their_unit(number: float, metric: Metric, words: str) -> None:
    assert text.value(number, metric) == words


def test_an_empty_list_says_so() -> None:
    assert text.listing([]) == "no experiments are configured\n" and text.grid([]) == []
