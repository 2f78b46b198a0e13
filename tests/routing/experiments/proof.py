"""The promises of the statistics, shown by simulation: `python -m tests.routing.experiments.proof [--runs N] [--workers N] [NAME ...]`.

Prints a table as it goes, one line a scenario; with names (or their beginnings) only those. 2,000 runs of each kind a scenario take some
minutes of one core. The exit status is 1 when a rate is surely worse than promised.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from math import log
from random import Random

from routing.experiments.power import needed, toward
from routing.experiments.scenario import Scenario, baseline
from routing.experiments.simulate import Rate, Simulated, run
from routing.experiments.words import Design


def recorded() -> Scenario:
    """Latencies as a gateway records them: short and long answers, a slow start now and then, users who ask for alike things."""
    rng, units = Random(11), []
    for _ in range(3000):
        own = rng.gauss(0.0, 0.3)
        size = min(40, 1 + int(rng.paretovariate(1.6)) if rng.random() < 0.5 else 1)
        answers = (rng.choice((40, 120, 400, 900)) * rng.uniform(0.3, 1.7) for _ in range(size))
        slow = (rng.expovariate(0.2) if rng.random() < 0.02 else 0.0 for _ in range(size))
        units.append(tuple(own + log(0.25 + tokens / 60 + late) for tokens, late in zip(answers, slow, strict=True)))
    return Scenario("log", recorded=tuple(units))


# Name: metric, scenario, effect, arms' weights
CASES: Mapping[str, tuple[str, Scenario, float, tuple[float, ...]]] = {
    "boolean even": ("schema_valid", Scenario("boolean", 0.5), 0.2, (1, 1)),
    "boolean 0.05": ("error", Scenario("boolean", 0.05), 0.45, (1, 1)),
    "boolean 0.01": ("error", Scenario("boolean", 0.01), 0.6, (1, 1)),
    "boolean clustered": ("error", Scenario("boolean", 0.1, requests=6, alike=0.2), 0.5, (1, 1)),
    "log plain": ("latency", Scenario("log", 0.8, 1.0), 0.18, (1, 1)),
    "log tail": ("latency", Scenario("log", 0.8, 0.7, tail=0.03), 0.15, (1, 1)),
    "log clustered": ("latency", Scenario("log", 0.8, 0.7, requests=6, alike=0.4, tail=0.02), 0.18, (1, 1)),
    "log recorded": ("latency", recorded(), 0.22, (1, 1)),
    "mean lognormal": ("output_tokens", Scenario("mean", 300.0, 1.0), 0.2, (1, 1)),
    "mean heavy": ("cost", Scenario("mean", 0.01, 2.0), 0.35, (1, 1)),
    "mean clustered": ("output_tokens", Scenario("mean", 300.0, 1.0, requests=6, alike=0.3), 0.22, (1, 1)),
    "log history": ("latency", Scenario("log", 0.8, 0.7, requests=3, alike=0.6, history=0.8), 0.2, (1, 1)),
    "boolean history": ("error", Scenario("boolean", 0.2, requests=3, alike=0.5, history=0.8), 0.4, (1, 1)),
    "three arms": ("latency", Scenario("log", 0.8, 0.7), 0.15, (2, 1, 1)),
    "uneven": ("schema_valid", Scenario("boolean", 0.3), 0.4, (9, 1)),
}


def simulate(name: str, runs: int, workers: int) -> Simulated:
    """One case, planned for its effect."""
    metric, made, effect, weights = CASES[name]
    arms = ("control", "candidate", "third")[: len(weights)]
    design = Design(name, "route", arms, weights, primary=metric, effect=effect)
    base = baseline(made)
    planned = needed(base, toward(effect, design.metric(metric).better, base), weights, design.alpha, design.power, fixed=True)
    return run(Design(name, "route", arms, weights, primary=metric, effect=effect, planned=planned), made, runs, 20261122, workers)


def shown(one: Rate) -> str:
    return f"{one.value:6.2%} ({one.lo:.2%}..{one.hi:.2%})"


def line(name: str, result: Simulated) -> str:
    """A row of the table; of coverages the least."""
    of, least = min(result.coverage.items(), key=lambda item: item[1].value)
    return (
        f"| {name} | {result.effect:+.0%} | {result.fixed} | {shown(result.alarms)} | {shown(result.found)} | {result.stopped['mean']:.2f}"
        f" / {result.stopped['p90']:.2f} | {shown(least)} {of} | {shown(result.leak)} | {result.leak_alarms.hits} |\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    write = sys.stdout.write
    write(f"{asked.runs} runs of each kind, alpha 0.05, power 0.9, a look after every request\n\n")
    write("| case | effect | fixed n | false alarms | found by 1.6 n | units / n: mean, p90 | least coverage | leak found | no leak |\n")
    write("|---|---|---|---|---|---|---|---|---|\n")
    problems = []
    for name in CASES:
        if not asked.names or any(name.startswith(start) for start in asked.names):
            result = simulate(name, asked.runs, asked.workers)
            write(line(name, result))
            sys.stdout.flush()
            problems += [f"{name}: {problem}" for problem in result.problems()]
    write("\n" + ("\n".join(problems) or "All as promised.") + "\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
