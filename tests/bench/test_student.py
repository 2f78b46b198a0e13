"""Student's distribution against tables and closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.student import below, incomplete_beta, quantile


@pytest.mark.parametrize(
    ("share", "degrees", "expected"),
    [
        (0.95, 1, 6.313752),
        (0.95, 2, 2.919986),
        (0.95, 8, 1.859548),
        (0.975, 4, 2.776445),
        (0.975, 10, 2.228139),
        (0.975, 30, 2.042272),
        (0.99, 5, 3.364930),
        (0.995, 120, 2.617421),
        (0.9995, 3, 12.923979),
    ],
)
def test_quantiles_of_the_printed_tables(share: float, degrees: float, expected: float) -> None:
    assert quantile(share, degrees) == pytest.approx(expected, abs=1e-6)


@given(st.floats(0.001, 0.999))
def test_one_and_two_degrees_have_closed_forms(share: float) -> None:
    assert quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), rel=1e-9, abs=1e-9)
    assert quantile(share, 2) == pytest.approx((2 * share - 1) / math.sqrt(2 * share * (1 - share)), rel=1e-9, abs=1e-9)


@given(st.floats(0.001, 0.999), st.floats(0.5, 1000))
def test_a_quantile_has_its_share_below(share: float, degrees: float) -> None:
    assert below(quantile(share, degrees), degrees) == pytest.approx(share, abs=1e-9)
    assert quantile(1 - share, degrees) == pytest.approx(-quantile(share, degrees), rel=1e-6, abs=1e-9)


def test_many_degrees_are_the_normal_distribution() -> None:
    for share in (0.6, 0.9, 0.975, 0.999):
        assert quantile(share, 1e7) == pytest.approx(NormalDist().inv_cdf(share), abs=1e-5)


@given(st.floats(0, 1), st.floats(0.5, 50), st.floats(0.5, 50))
def test_the_beta_function_is_symmetric_and_a_share(x: float, a: float, b: float) -> None:
    found = incomplete_beta(a, b, x)
    assert -1e-12 <= found <= 1 + 1e-12
    assert found + incomplete_beta(b, a, 1 - x) == pytest.approx(1, abs=1e-9)
    assert incomplete_beta(1, 1, x) == pytest.approx(x, abs=1e-12)


def test_what_is_no_share_or_has_no_degrees_is_refused() -> None:
    for share in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantile(share, 5)
    with pytest.raises(ValueError, match="degrees of freedom"):
        below(1.0, 0)
