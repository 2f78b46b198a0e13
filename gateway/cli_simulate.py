"""`pointsman experiments simulate`: what a configured design would do, by Monte Carlo. Blocks."""

from __future__ import annotations

import argparse
import sys

import msgspec

from gateway.cli_experiments_text import grid, rounded
from gateway.cli_plan import made_up
from gateway.experiments import offline
from routing.experiments import simulate
from routing.experiments.scenario import Scenario
from routing.experiments.simulate import Rate, Simulated
from routing.experiments.words import Design

_USUAL = {"boolean": (0.1, None), "mean": (1.0, 1.0), "log": (1.0, 1.0)}  # baseline and deviation where the command line says none
_SHARES = {"mean": "on average", "p50": "half of them by", "p90": "9 in 10 by"}


class Progress:
    """One line on a terminal that is written anew; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, of: int) -> None:
        if self._shown:
            sys.stderr.write(f"\rsimulated {done / of:.0%}" + ("\n" if done == of else ""))
            sys.stderr.flush()


class Simulation(msgspec.Struct, frozen=True):
    """What came of it. `assumed`: what users do, in words. `problems`: what is surely worse than promised."""

    assumed: str
    result: Simulated
    problems: list[str]


def run(args: argparse.Namespace, design: Design) -> Simulation:
    """The simulation. ValueError: a number makes no sense, or the effect needs too many users."""
    made = _scenario(args, design)
    found = simulate.run(design, made, args.runs, args.seed, args.workers, Progress())
    return Simulation(_assumed(made), found, found.problems())


def _scenario(args: argparse.Namespace, design: Design) -> Scenario:
    if args.store is not None:
        return offline.recorded(args.store, design)
    kind = design.metric(design.primary).kind
    baseline, sd = _USUAL[kind]
    args.baseline = baseline if args.baseline is None else args.baseline
    args.sd = sd if args.sd is None else args.sd
    return made_up(args, kind)


def text(simulation: Simulation) -> str:
    """What came of it, for people."""
    found = simulation.result
    rows = [["", "WANTED", "FOUND", "BETWEEN", "RUNS"]]
    rows.append(_row("false alarms, looked at after every request", f"at most {found.alpha:.1%}", found.alarms))
    rows.append(_row(f"effect of {found.effect:+.1%} found within {rounded(found.limit)} users", f"{found.power:.0%}", found.found))
    rows.append(_row("found in the wrong direction", "", found.wrong))
    rows += [_row(f"interval of {of} holds", f"at least {1 - found.alpha:.0%}", rate) for of, rate in found.coverage.items()]
    rows.append(_row("51 to 49 split found by 100,000 users", "", found.leak))
    rows.append(_row("sound split called off", "at most 0.1%", found.leak_alarms))
    lines = [f"{found.name}: {simulation.assumed}; seed {found.seed}", "", *grid(rows, (3, 4)), ""]
    if found.stopped:
        told = ", ".join(f"{_SHARES.get(name, name)} x {times:.2f}" for name, times in found.stopped.items())
        lines.append(f"users at the end of runs that found it, over the {rounded(found.fixed)} of a test that is looked at once: {told}")
    lines += [f"NOT AS PROMISED: {problem}" for problem in simulation.problems] or [
        "nothing is surely worse than promised; more --runs say it more surely"
    ]
    return "".join(f"{line}\n" for line in lines)


def _assumed(scenario: Scenario) -> str:
    if scenario.recorded:
        return f"values of {len(scenario.recorded):,} recorded users"
    what = {
        "boolean": f"a share of {scenario.mean:.3g}",
        "mean": f"a mean of {scenario.mean:.3g}",
        "log": f"a median of {scenario.mean:.3g} s",
    }
    more = "" if scenario.kind == "boolean" else f", spread {scenario.spread:.3g}"
    return f"{what[scenario.kind]}{more}, {scenario.requests:.3g} request{'s' if scenario.requests != 1 else ''} a user"


def _row(what: str, wanted: str, rate: Rate) -> list[str]:
    return [what, wanted, f"{rate.value:.2%}", f"{rate.lo:.2%} and {rate.hi:.2%}", f"{rate.runs:,}"]
