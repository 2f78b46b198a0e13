"""The live experiment: its questions, its tally against a report, its configurations; and the whole of it, small."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments import shadow
from benchmarks.experiments.cli import ARMS, config, main, parser, told_live
from benchmarks.experiments.live import METRIC, Tally, differences
from benchmarks.experiments.questions import question, right
from gateway.config import parse, remarks

TOY = Path(__file__).parents[2] / "quant" / "builtin" / "pointsman-toy.gguf"


def test_questions_have_one_answer() -> None:
    rng = random.Random(3)
    asked = [question(rng) for _ in range(300)]
    for text, wanted in asked:
        kind, _, rest = text.partition(" ")
        if kind == "Reverse:":
            assert wanted == rest[::-1]
        elif kind == "Spell:":
            assert wanted.replace("-", "") == rest
        else:
            a, b = (int(n) for n in text.removeprefix("What is ").removesuffix("?").split(" + "))
            assert wanted == str(a + b)
    assert {text.split()[0] for text, _ in asked} == {"Reverse:", "Spell:", "What"}
    assert right(" Abc. ", "abc") and not right("abd", "abc")


def tally() -> Tally:
    made = Tally()
    for user, backend, good in (("a", "first", True), ("a", "first", False), ("b", "second", True), ("c", "second", True)):
        made.add(user, backend, good)
    return made


def report() -> dict[str, Any]:
    def arm(name: str, units: int, requests: int, mean: float) -> dict[str, Any]:
        return {"name": name, "units": units, "requests": requests, "metrics": {f"feedback:{METRIC}": {"value": mean, "lo": None}}}

    said = {"metric": f"feedback:{METRIC}", "role": "primary", "verdict": "unsure", "words": "too little was seen"}
    return {"arms": [arm("first", 1, 2, 0.5), arm("second", 2, 2, 1.0)], "comparisons": [said], "headline": "Too early to say."}


def test_a_report_is_held_against_what_clients_saw() -> None:
    assert differences(tally(), report(), ARMS) == []
    other = report()
    other["arms"][0]["metrics"][f"feedback:{METRIC}"]["value"] = 0.6
    other["arms"][1]["units"] = 3
    assert differences(tally(), other, ARMS) == [
        "arm first: right answers 0.6 in the report, 0.5 seen", "arm second: users 3 in the report, 2 seen",
    ]  # fmt: skip
    moved = tally()
    moved.add("a", "second", True)
    assert "user a was moved" in differences(moved, report(), ARMS)
    del other["arms"][0]
    assert differences(tally(), other, ARMS)[0] == "the report has no arm first"
    text = told_live(tally(), report(), ["one thing"], 3.0)
    assert "| first | 1 | 2 | 0.500 | – |" in text and "DIFFERS: one thing" in text and "Too early to say." in text


def test_its_configurations_are_good(tmp_path: Path) -> None:
    made = parse(json.dumps(config((1, 2), tmp_path, [str(TOY)] * 2, 2, 5000)), {})
    assert list(made.experiments["arms"].arms) == list(ARMS) and made.server.workers == 2
    mirrored, plain = (parse(json.dumps(shadow.config((1, 2), (3, 4), tmp_path, shadowed)), {}) for shadowed in (True, False))
    assert mirrored.experiments["mirror"].shadow is not None and not plain.experiments
    assert not any("shadow" in said for said in remarks(mirrored))


def test_a_wrong_command_line_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args(["--same", "x.gguf"]).same
    with pytest.raises(SystemExit) as ended:
        main(["one.gguf", "--pointsman", "true"])
    assert ended.value.code == 2 and "two GGUF files" in capsys.readouterr().err


@pytest.mark.full
def test_the_whole_of_it_small(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--same", str(TOY), "--requests", "240", "--users", "120", "--workers", "2", "--threads", "4"]
    assert main(asked) == 0, capsys.readouterr()
    assert "240 requests of 120 users" in capsys.readouterr().out


@pytest.mark.full
def test_a_shadow_is_compared_and_its_cost_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--shadow", "--requests", "200"])
    assert "p50 with / without:" in capsys.readouterr().out
