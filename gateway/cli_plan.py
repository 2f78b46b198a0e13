"""`pointsman experiments plan`: how many users and days an effect needs. Pure but for the file of recorded requests."""

from __future__ import annotations

import argparse

import msgspec

from gateway.cli_experiments_text import days, grid, rounded, value
from gateway.experiments import offline
from routing.experiments import power, scenario
from routing.experiments.scenario import Scenario
from routing.experiments.words import Design, Kind, Metric

_DEFAULTS = Design("", "", (), ())


class Row(msgspec.Struct, frozen=True):
    """One size of effect, relative. Users in all: of a test that is looked at once (`fixed`), and of the sequence that may be looked at all
    the time (`sequential`, at most). None: this effect cannot be."""

    effect: float
    fixed: int | None
    sequential: int | None
    fixed_days: float | None = None
    sequential_days: float | None = None


class Plan(msgspec.Struct, frozen=True):
    """What was asked, and the answer for the effect, half of it and twice."""

    metric: Metric
    baseline: float
    alpha: float
    power: float
    arms: int
    users_per_day: float | None
    rows: list[Row]


def made_up(args: argparse.Namespace, kind: Kind) -> Scenario:
    """The scenario that the numbers on the command line describe. ValueError: one is missing or makes no sense."""
    if args.baseline is None and kind != "log":
        example = "--baseline 0.12" if kind == "boolean" else "--baseline 300 --sd 250"
        raise ValueError(f"say what the metric is like now, such as {example}, or --store FILE with what was recorded")
    if args.sd is None and kind != "boolean":
        example = "--sd 0.8, of the logarithm" if kind == "log" else "--sd 250"
        raise ValueError(f"say how much the metric varies, such as {example}, or --store FILE with what was recorded")
    mean = 1.0 if args.baseline is None else args.baseline
    spread = 1.0 if args.sd is None else args.sd / mean if kind == "mean" and mean else args.sd
    found = Scenario(kind, mean, spread, args.requests_per_user, args.alike)
    scenario.check(found)
    return found


def plan(args: argparse.Namespace, design: Design | None) -> Plan:
    """The answer. `design`: of the experiment that was named, whose numbers count where the command line has none. ValueError: a number is
    missing or makes no sense."""
    metric = _metric(args, design)
    seen = offline.recorded(args.store, design) if args.store is not None and design is not None else made_up(args, metric.kind)
    base = scenario.baseline(seen)
    told = design or _DEFAULTS
    alpha = told.alpha if args.alpha is None else args.alpha
    sure = told.power if args.power is None else args.power
    shares = design.weights if design is not None and args.arms is None else (1.0,) * (args.arms or 2)
    effect = args.effect if args.effect is not None else power.toward(told.effect, metric.better, base)
    planned = float(design.planned) if design is not None else None
    rows = [_row(base, effect * times, shares, alpha, sure, planned, args.users_per_day) for times in (0.5, 1.0, 2.0)]
    if rows[1].fixed is None:
        power.needed(base, effect, shares, alpha, sure, fixed=True)  # says what is wrong
    return Plan(metric, scenario.mean(seen, 0.0), alpha, sure, len(shares), args.users_per_day, rows)


def _metric(args: argparse.Namespace, design: Design | None) -> Metric:
    if design is not None:
        found = design.metric(design.primary)
        if args.kind not in (None, found.kind):
            raise ValueError(f"the primary metric of '{design.name}' is of kind {found.kind}, not {args.kind}; leave --kind out")
        return found
    if args.store is not None:
        raise ValueError("--store says what was recorded of an experiment: name it, with its --config FILE")
    if args.kind is None:
        raise ValueError("say what kind of metric it is: --kind boolean, mean or log, or name an experiment of a configuration")
    return Metric("metric", args.kind, "higher", "the metric")


def _row(
    base: power.Baseline, effect: float, shares: tuple[float, ...], alpha: float, sure: float, planned: float | None, rate: float | None
) -> Row:
    try:
        fixed = power.needed(base, effect, shares, alpha, sure, fixed=True)
        sequential = power.needed(base, effect, shares, alpha, sure, planned=planned)
    except ValueError:
        return Row(effect, None, None)
    return Row(effect, fixed, sequential, power.days(fixed, 0, rate), power.days(sequential, 0, rate))


def text(found: Plan) -> str:
    """The answer for people."""
    metric = found.metric
    now = "" if metric.kind == "log" and found.baseline == 1.0 else f", now {value(found.baseline, metric)}"
    arms = f"{found.arms} arms" if found.arms != 2 else "two arms"
    wanted = f"at most {100 * found.alpha:.3g} % false alarms, {found.power:.0%} sure to find the effect"
    lines = [f"{metric.label or metric.name}{now}; {arms}, {wanted}", ""]
    timed = found.users_per_day is not None
    head = ["EFFECT", "USERS, LOOKED AT ONCE", "DAYS", "USERS, LOOKED AT ANY TIME", "DAYS"]
    rows = [
        head,
        *([f"{r.effect:+.2%}", _count(r.fixed), _days(r.fixed_days), _count(r.sequential), _days(r.sequential_days)] for r in found.rows),
    ]
    if not timed:
        rows = [[*row[:2], row[3]] for row in rows]
    lines += [*grid(rows, range(5)), ""]
    lines.append(f"Pointsman may be looked at any time: by then it has found the effect in {found.power:.0%} of cases, on average earlier.")
    return "".join(f"{line}\n" for line in lines)


def _count(number: int | None) -> str:
    return "cannot be" if number is None else rounded(number)


def _days(number: float | None) -> str:
    return "-" if number is None else days(number)
