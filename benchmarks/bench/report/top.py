"""The top of a page, what to look at first: headline, warnings, key figures; and its end: where all this comes from. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import msgspec

from benchmarks.bench.headline import headline, telling
from benchmarks.bench.report.markup import Markup, join, tag
from benchmarks.bench.texts import (
    count,
    duration,
    error_share,
    errors,
    in_words,
    number,
    offered,
    percent,
    sane,
    troubles,
    warnings,
)
from benchmarks.bench.words import STOLEN, Figures, Result, Spread

_SEEN = 8  # warnings that are not folded


def title(result: Result) -> str:
    """What was measured, as the window's title."""
    return f"{result.model or 'A model'} at {result.target or 'a server'}"


def heading(result: Result) -> Markup:
    """What was measured, and what it comes to."""
    levels, repeats = len(result.levels), max((len(one.repeats) for one in result.levels), default=0)
    many = f"{levels} level{'s' if levels != 1 else ''} of load, {repeats} time{'s' if repeats != 1 else ''} each"
    crumb = tag(
        "p",
        tag("b", result.model or "a model"),
        f" at {result.target or 'a server'} · {many} · {_when(result.provenance.started)}",
        class_="crumb",
    )
    bad = bool(troubles(result.levels))
    return tag("header", crumb, tag("h1", headline(result)), class_="top bad" if bad else "top")


def _when(started: str) -> str:
    return started.replace("T", " ", 1).replace("+00:00", " UTC").removesuffix("Z")


def notices(result: Result) -> Markup | None:
    """All that makes these numbers doubtful, the client's own trouble first, the rest folded when it is long. None: nothing does."""
    lines = [tag("li", str(note), class_="grave") for note in troubles(result.levels)]
    lines += [tag("li", str(note)) for note in warnings(result)]
    if not lines:
        return None
    rest = tag("details", tag("summary", f"{len(lines) - _SEEN} more"), tag("ul", *lines[_SEEN:])) if len(lines) > _SEEN + 1 else None
    seen = lines if rest is None else lines[:_SEEN]
    return tag(
        "section",
        tag("h2", "Before you trust these numbers", id="h-warnings"),
        tag("ul", *seen),
        rest,
        class_="warnings",
        id="warnings",
        aria_labelledby="h-warnings",
    )


def failures(result: Result) -> Markup | None:
    """Error texts with how often. None: nothing failed."""
    found = errors(result.levels)
    if not found:
        return None
    rows = [tag("tr", tag("th", text, scope="row", class_="free"), tag("td", count(n))) for text, n in list(found.items())[:20]]
    head = tag("thead", tag("tr", tag("th", "What requests failed of", scope="col"), tag("th", "times", scope="col")))
    table = tag("table", head, tag("tbody", *rows))
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Failures")
    return tag("section", tag("h2", "Failures", id="h-failures"), box, id="failures", aria_labelledby="h-failures")


def tiles(result: Result) -> Markup | None:
    """The figures of the level that the headline speaks of, large. None: no level has an answer."""
    level = telling(result.levels, result.saturation)
    if level is None:
        return None
    f = level.median
    open_ = offered(f) is not None
    shown = [
        (*_best(f.ttft_due if open_ else f.ttft), "time to first token"),
        (*_best(f.tpot), "time per output token"),
        (*_best(f.e2e_due if open_ else f.e2e), "whole answer"),
        (number(f.output_rate) if sane(f.output_rate) else "–", "tokens a second, all together", "output tokens"),
        (percent(error_share(f)), f"{count(f.failed)} of {count(f.sent)} requests", "failed"),
    ]
    cells = [tag("div", tag("span", what), tag("strong", big), tag("small", small)) for big, small, what in shown]
    label = f"Level: {in_words(f.profile)}{', times from the schedule' if open_ else ''}"
    return tag("section", tag("p", label, class_="note"), tag("div", *cells, class_="tiles"), class_="key", aria_label="Key figures")


def _best(spread: Spread) -> tuple[str, str]:
    """A median, and below it the highest percentile there is."""
    high = next((n for n in ("p99", "p95", "p90") if sane(getattr(spread, n)) is not None), None)
    few = f"median of {count(spread.count)}" if sane(spread.p50) is not None else "too few answers" if spread.count else "not known"
    rest = f"median; {high} {duration(getattr(spread, high))}" if high else few
    return duration(spread.p50), rest


def provenance(result: Result) -> Markup:
    """What is needed to run it again, and to doubt it."""
    p = result.provenance
    command = tag("pre", tag("code", shlex.join(p.command) or "–"), tabindex=0)
    facts: dict[str, str] = {
        "Version": f"{p.version or '–'}{f', commit {p.commit}' if p.commit else ''}",
        "Python": p.python,
        "Started": p.started,
        "Seed": str(p.seed),
        "Salt": p.salt or "none: prompts are the same in every run",
        "Summary's format": str(result.format),
    }
    parts = [command, _facts("Run", facts), _facts("Machine of the client", p.machine), _facts("Server, as it tells", p.server)]
    return join([*parts, _facts("Options", {k: _plain(v) for k, v in p.options.items()})])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _facts(title: str, facts: Mapping[str, str]) -> Markup | None:
    if not facts:
        return None
    rows = [join([tag("dt", k), tag("dd", v or "–")]) for k, v in facts.items()]
    return tag("div", tag("h3", title), tag("dl", *rows, class_="facts"))


def client(result: Result) -> Markup | None:
    """How the client was, in one paragraph. None: no level."""
    found: list[Figures] = [f for one in result.levels for f in (one.median, *one.repeats)]
    if not found:
        return None
    lag, cpu = max(f.health.lag_p99 for f in found), max(f.health.cpu for f in found)
    null50, null99 = max(f.health.null_p50 for f in found), max(f.health.null_p99 for f in found)
    text = f"The client sent its requests at most {duration(lag)} late (p99 of the worst stage) and used {percent(cpu)} of a core at most."
    if null50 > 0:
        text += (
            f" The same client against an empty server that answers at once takes {duration(null50)} (p50) and {duration(null99)} (p99): "
            "so much of a latency may be its own."
        )
    taken = max(f.health.stolen for f in found)
    if taken >= STOLEN:
        text += f" Meanwhile the hypervisor kept up to {percent(taken)} of a core from this machine."
    return tag("p", text, class_="note")
