"""Rows as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.agreement.judge import NOTES, OTHERWISE
from benchmarks.agreement.words import FIGURES, MOST_APART, MOST_SPREAD, OTHERS, Row, Run

_HEAD = ("figure", "ours", "spread", "client", "as it says", "to ours", "spread", "by our definition", "to ours", "spread", "")


def tables(rows: Sequence[Row]) -> str:
    """A table for each load, and below them what is defined otherwise."""
    parts = []
    for load in dict.fromkeys(row.load for row in rows):
        lines = [f"**{load}**", "", _line(_HEAD), "|---|---:|---:|---|" + "---:|" * 6 + "---|"]
        lines += [_line(_cells(row)) for row in rows if row.load == load]
        parts.append("\n".join(lines))
    shown = {(row.who, row.figure) for row in rows}
    notes = [f"- {who}, {figure}: {text}; shown, not judged." for (who, figure), text in OTHERWISE.items() if (who, figure) in shown]
    return "\n\n".join([*parts, "\n".join([*notes, *(f"- {note}" for note in NOTES)])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    unit = FIGURES[row.figure]
    return [
        row.figure, _value(row.ours, unit), _share(row.ours_spread), row.who,
        _value(row.said, unit), _ratio(row.ratio), _share(row.said_spread),
        _value(row.redone, unit), _ratio(row.redone_ratio), _share(row.redone_spread), row.verdict,
    ]  # fmt: skip


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{1e3 * value:.2f} ms" if unit == "s" else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def summary(rows: Sequence[Row], runs: Sequence[Run]) -> tuple[int, str]:
    """The exit code and a sentence for each client: 0 when every figure that can be compared agrees."""
    lines, code = [], 0
    for who in OTHERS:
        mine = [row for row in rows if row.who == who]
        judged = [row for row in mine if row.verdict != "other"]
        counts = {kind: [f"{row.load} {row.figure}" for row in judged if row.verdict == kind] for kind in ("differs", "unsteady")}
        agreed = len(judged) - sum(map(len, counts.values()))
        text = f"{who}: {agreed} of {len(judged)} figures agree within {100 * MOST_APART:.0f} %"
        text += f", spread at most {100 * MOST_SPREAD:.0f} %"
        for kind, names in counts.items():
            text += f"; {kind}: {', '.join(names)}" if names else ""
        lines.append(text + ".")
        code = code or int(not judged or agreed < len(judged))
    for run in runs:
        if run.failed or run.trouble:
            why = f"{run.failed} requests failed" if run.failed else run.trouble
            lines.append(f"{run.who}, {run.load.name}, repeat {run.repeat + 1}: {why}")
            code = 1
    return code, "\n".join(lines)
