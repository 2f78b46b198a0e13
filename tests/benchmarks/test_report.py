"""The Markdown report, word for word where it carries figures."""

from __future__ import annotations

import pytest

from benchmarks.overhead import report
from benchmarks.overhead.phases import PACED_STREAMS
from benchmarks.overhead.stats import rows
from tests.benchmarks.samples import one_round, result, small


@pytest.mark.parametrize(
    ("x", "digits", "expected"),
    [(None, 0, "–"), (59100.4, 0, "59,100"), (0.1259, 3, "0.126"), (-0.0001, 2, "0.00"), (-0.5, 2, "-0.50"), (0, 0, "0")],
)
def test_number(x: float | None, digits: int, expected: str) -> None:
    assert report.number(x, digits) == expected


def test_table() -> None:
    assert report.table(["gateway", "c1"], [["nginx", "5"]]) == "| gateway | c1 |\n| --- | ---: |\n| nginx | 5 |"


def test_throughput() -> None:
    section = report.throughput(rows(small()))
    assert report.table(section.head, section.body) == (
        "| gateway | c1 | c16 | c64 | c256 | best / nginx | best / direct | spread | CPU µs/req | cap req/s | errors |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| direct | 100,000 | 100,000 | 100,000 | 100,000 | 2.000 | 1.000 | – | – | – | 0 |\n"
        "| nginx | 50,000 | 50,000 | 50,000 | 50,000 | 1.000 | 0.500 | – | 10 | 100,000 | 0 |\n"
        "| pointsman | 42,000 | 42,000 | 40,000 | 42,000 | 0.840 | 0.420 | 10 % | 12 | 84,000 | 0 |"
    )


def test_latency() -> None:
    section = report.latency(rows(small()))
    assert section.head == (
        "gateway", "c1 p50", "c1 p99", "added c1 p50", "added c1 p99", "c16 p50", "c16 p99", "added c16 p50", "added c16 p99", "c256 p99",
    )  # fmt: skip
    assert section.body == [
        ["direct", "0.050", "0.100", "–", "–", "0.050", "0.100", "–", "–", "0.8"],
        ["nginx", "0.200", "0.800", "0.150", "0.700", "0.200", "0.800", "0.150", "0.700", "0.8"],
        ["pointsman", "0.200", "0.800", "0.150", "0.700", "0.200", "0.800", "0.150", "0.700", "0.8"],
    ]


def test_marks_lower_bounds_and_thin_percentiles() -> None:
    bound = {"core0": 0.5, "core1": 0.99, "requests": 12.0}
    found = rows(result({"direct": [one_round(900, 10)], "x": [one_round(1000, 10, c1=bound, c256=bound)]}))
    assert report.throughput(found).body[1][1:5] == ["1,000*", "1,000", "1,000", "1,000*"]
    assert report.latency(found).body[1] == ["x", "0.200", "0.800~", "0.000", "0.000~", "0.200", "0.800", "0.000", "0.000", "0.8~"]


def test_streams() -> None:
    found = rows(small())
    assert report.unpaced(found).body == [
        ["direct", "50,000", "10", "1.000", "1.000", "–", "–", "–", "0"],
        ["nginx", "50,000", "10", "1.000", "1.000", "10.0", "0.50", "100,000", "0"],
        ["pointsman", "25,000", "10", "0.500", "0.500", "20.0", "0.50", "50,000", "0"],
    ]
    section = report.paced(found, PACED_STREAMS[-1])
    assert section.title == "1,000 streams at once" and "50,000 chunks/s offered" in section.note
    assert section.body[2] == ["pointsman", "25,000", "0.50", "0.50", "1.0 / 4.0", "20.0 / 25.0", "0.5 / 2.0", "20.0", "0.50", "0"]


def test_resources_name_what_was_never_undisturbed_and_what_was_silent() -> None:
    bad = {"foreign0": 0.5}
    everything = {name: bad for name in ("c1", "c16", "c64", "c256", "sse0", "sse100", "sse500", "sse1000")}
    silent = one_round(100, 10, c1=bad, c16=bad)
    silent["phases"]["sse0"]["events"] = 0.0
    section = report.resources(rows(result({"x": [silent], "y": [one_round(90, 10, 0.25, **everything)]})))
    assert "Never undisturbed: x (c1, c16); y (all)." in section.note
    assert section.note.endswith("Without a single answer in some round: x (sse0).")
    assert section.body == [["x", "0.25", "30", "40", "6/8"], ["y", "0.25", "30", "40", "0/8"]]
    calm = report.resources(rows(small()))
    assert calm.note.endswith("Never undisturbed: none.")


def test_a_busy_machine_is_said_first() -> None:
    bad = {name: {"foreign0": 0.5} for name in ("c1", "c16", "c64", "c256", "sse0")}
    busy = result({"x": [one_round(100, 10, 0.25, **bad)]})
    assert report.warning(rows(busy)) == "This machine was busy: 5 of 8 phases were disturbed by others. Do not rely on these figures."
    assert report.markdown(busy).split("\n\n")[1].startswith("**This machine was busy: 5 of 8")
    assert report.warning(rows(small())) == ""
    assert "was busy" not in report.markdown(small())


def test_the_whole_report() -> None:
    made = small()
    made["failed"] = {"other": "start: Broken:\n  ended with 1"}
    text = report.markdown(made)
    assert text.startswith(
        "Measured 2026-01-02 03:04:05 UTC: 2 rounds, medians over them, 3 s a phase.\n\n"
        "- processor: A processor\n- kernel: Linux 6\n- nginx: nginx/1.2.3; a reference\n- command: `python -m benchmarks.overhead`\n\n"
        "**Throughput.** "
    )
    titles = ["Throughput", "Latency", "Streams without pause", "100 streams at once", "500 streams at once", "1,000 streams at once",
              "Start, memory, disturbance"]  # fmt: skip
    assert [line.split("**")[1] for line in text.splitlines() if line.startswith("**")] == [f"{t}." for t in titles]
    assert text.endswith("\n\nNot measured: other: start: Broken: ended with 1.\n")
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.endswith(" |") and "None" not in line and "nan" not in line


def test_one_round_is_said_so() -> None:
    assert report.summary(result({"x": [one_round(1, 1)]}, secs=1.5)) == "Measured 2026-01-02 03:04:05 UTC: 1 round, 1.5 s a phase."
