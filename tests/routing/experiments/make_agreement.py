"""Makes agreement.json: what gbstats (MIT; GrowthBook's statistics) and statsmodels (BSD-3) say of the made-up units.

By hand, from the repository's root, in an environment that has both (gbstats needs numpy < 2 and pandas):

    pip install gbstats==0.8.0 statsmodels==0.15.0
    python -m tests.routing.experiments.make_agreement
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import gbstats.frequentist.tests as frequentist
import numpy as np
import statsmodels.api as sm
from gbstats.models import statistics
from scipy.stats import chisquare
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from tests.routing.experiments.agreement_cases import ALPHAS, BOOLEAN, CASES, COUNTS, KEPT, Unit, units

TUNED = 5000.0  # gbstats' tuning parameter


def ratio(arm: list[Unit]) -> Any:
    n, y = np.array([unit[0] for unit in arm], float), np.array([unit[1] for unit in arm])
    return statistics.RatioStatistic(
        n=len(arm),
        m_statistic=statistics.SampleMeanStatistic(n=len(arm), sum=y.sum(), sum_squares=(y * y).sum()),
        d_statistic=statistics.SampleMeanStatistic(n=len(arm), sum=n.sum(), sum_squares=(n * n).sum()),
        m_d_sum_of_products=(n * y).sum(),
    )


def plain(arm: list[Unit], boolean: bool) -> Any:
    y = np.array([unit[1] for unit in arm])
    if boolean:
        return statistics.ProportionStatistic(n=len(arm), sum=y.sum())
    return statistics.SampleMeanStatistic(n=len(arm), sum=y.sum(), sum_squares=(y * y).sum())


def adjusted(arm: list[Unit], theta: float) -> Any:
    y, x = np.array([unit[1] for unit in arm]), np.array([unit[2] for unit in arm])
    return statistics.RegressionAdjustedStatistic(
        n=len(arm),
        post_statistic=statistics.SampleMeanStatistic(n=len(arm), sum=y.sum(), sum_squares=(y * y).sum()),
        pre_statistic=statistics.SampleMeanStatistic(n=len(arm), sum=x.sum(), sum_squares=(x * x).sum()),
        post_pre_sum_of_products=(x * y).sum(),
        theta=theta,
    )


def tested(a: Any, b: Any) -> dict[str, Any]:
    """gbstats' fixed-horizon and sequential tests of b against a."""
    out: dict[str, Any] = {"means": [a.mean, b.mean], "variances": [a.variance / a.n, b.variance / b.n], "tests": []}
    for difference in ("absolute", "relative"):
        for alpha in ALPHAS:
            fixed = frequentist.TwoSidedTTest(a, b, frequentist.FrequentistConfig(alpha=alpha, difference_type=difference))
            terms = frequentist.SequentialConfig(alpha=alpha, difference_type=difference, sequential_tuning_parameter=TUNED)
            always = frequentist.SequentialTwoSidedTTest(a, b, terms)
            out["tests"].append(
                {
                    "difference": difference,
                    "alpha": alpha,
                    "value": float(fixed.point_estimate),
                    "z": float(fixed.critical_value),
                    "fixed": [float(end) for end in fixed.confidence_interval],
                    "fixed_p": float(fixed.p_value),
                    "tuned": float(1.0 / always.rho**2),
                    "always": [float(end) for end in always.confidence_interval],
                    "always_p": float(always.p_value),
                }
            )
    return out


def by_statsmodels(control: list[Unit], treated: list[Unit], boolean: bool) -> dict[str, Any]:
    """Of one request a unit: z intervals. Of several: least squares with errors clustered by unit. And what history leaves."""
    out: dict[str, Any] = {}
    y = [np.array([unit[1] for unit in arm]) for arm in (control, treated)]
    if all(unit[0] == 1 for unit in (*control, *treated)):
        difference = CompareMeans(DescrStatsW(y[1]), DescrStatsW(y[0]))
        out["difference"] = [float(end) for end in difference.zconfint_diff(0.05, usevar="unequal")]
        if boolean:
            totals = [int(arm.sum()) for arm in y]
            ends = confint_proportions_2indep(totals[1], len(treated), totals[0], len(control), compare="ratio", method="score")
            out["ratio"] = [float(end) for end in ends]
    else:
        out["clustered"] = [clustered(arm) for arm in (control, treated)]
    x = np.array([unit[2] for unit in (*control, *treated)])
    arm = np.array([0.0] * len(control) + [1.0] * len(treated))
    if all(unit[0] == 1 for unit in control):
        fit = sm.OLS(np.concatenate(y), sm.add_constant(np.column_stack([arm, x - x.mean()]))).fit(cov_type="HC1")
        out["with_history"] = [float(fit.params[1]), float(fit.bse[1])]
    return out


def clustered(arm: list[Unit]) -> list[float]:
    """The mean of requests and its standard error. A unit's requests all get its mean: errors by unit see its total alone."""
    values = np.concatenate([np.full(unit[0], unit[1] / unit[0]) for unit in arm])
    groups = np.repeat(np.arange(len(arm)), [unit[0] for unit in arm])
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    return [float(fit.params[0]), float(fit.bse[0])]


def numbers() -> dict[str, Any]:
    """All that is kept."""
    cases = {}
    for name in CASES:
        control, treated = units(name)
        a, b = ratio(control), ratio(treated)
        single = all(unit[0] == 1 for unit in (*control, *treated))
        case = {"ratio": tested(a, b), "statsmodels": by_statsmodels(control, treated, name in BOOLEAN)}
        if single:
            case["plain"] = tested(plain(control, name in BOOLEAN), plain(treated, name in BOOLEAN))
            theta = statistics.compute_theta(adjusted(control, 0.0), adjusted(treated, 0.0))
            case["cuped"] = tested(adjusted(control, theta), adjusted(treated, theta))
        cases[name] = case
    split = {
        name: float(chisquare(counts, [sum(counts) * weight / sum(weights) for weight in weights]).pvalue)
        for name, (counts, weights) in COUNTS.items()
    }
    made = {package: version(package) for package in ("gbstats", "statsmodels", "scipy", "numpy")}
    return {"made_with": made, "cases": cases, "split": split}


if __name__ == "__main__":
    KEPT.write_text(json.dumps(numbers(), indent=1) + "\n")
