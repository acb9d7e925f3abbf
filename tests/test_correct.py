"""p-values from null distributions against counting, and their correction against SciPy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.checking import check
from scipy import stats
from statsmodels.stats.multitest import multipletests

from gpuroi.errors import DataError, UsageError
from gpuroi.inference.correct import (
    TIE_RTOL,
    coarse_p_warning,
    fdr,
    fwe_threshold,
    p_from_counts,
    p_from_null,
    smallest_p,
)


@pytest.mark.parametrize("method", ["bh", "by"])
@pytest.mark.parametrize("n", [1, 2, 500])
def test_fdr_equals_scipy_and_statsmodels(backend, method, n):
    p = np.round(np.random.default_rng(n).beta(0.5, 2, n), 3)  # with ties
    q = fdr(backend.asarray(p), method=method)
    check(q, stats.false_discovery_control(p, method=method), backend=backend, rtol=1e-12)
    check(q, multipletests(p, method=f"fdr_{method}")[1], backend=backend, rtol=1e-12)


def test_fdr_leaves_out_nan_and_what_is_masked(backend):
    p = np.random.default_rng(4).random((4, 5, 6))
    p[0, 0, :3] = np.nan
    mask = np.random.default_rng(5).random(p.shape) < 0.6
    family = mask & ~np.isnan(p)
    want = np.full(p.shape, np.nan)
    want[family] = stats.false_discovery_control(p[family])
    check(fdr(backend.asarray(p), mask=backend.asarray(mask)), want, backend=backend, rtol=1e-12)


def test_fdr_of_nothing_is_nothing():
    assert fdr(np.empty(0)).shape == (0,)
    assert np.isnan(fdr([np.nan, np.nan])).all()


def test_fdr_refuses_what_is_no_p_value():
    with pytest.raises(DataError, match="p runs from"):
        fdr([0.1, 1.5])
    with pytest.raises(DataError, match="mask has shape"):
        fdr([0.1, 0.5], mask=[True])
    with pytest.raises(UsageError, match="method"):
        fdr([0.1], method="storey")


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_p_from_null_equals_counting(backend, two_sided, dtype):
    rng = np.random.default_rng(6)
    observed = rng.standard_normal((3, 40)).astype(dtype)
    observed[0, :3] = [np.nan, np.inf, -np.inf]
    null = np.concatenate([[3.5], np.abs(rng.standard_normal(99)), observed[1, :20].astype(float)])
    size = np.abs(observed) if two_sided else observed
    want = np.array(
        [[np.mean(null >= s - (1e-6 * abs(s) if np.isfinite(s) else 0)) for s in row] for row in size.astype(float)]
    )
    want = np.where(np.isnan(size), np.nan, np.maximum(want, 1 / null.size))
    check(p_from_null(backend.asarray(observed), null, two_sided=two_sided), want, backend=backend)


def test_ties_count_within_the_rounding_of_float32():
    values = np.random.default_rng(7).uniform(1, 10, 1000)
    for sign in (1, -1):
        shifted = sign * values * (1 - sign * 3e-7)  # smaller by what float32 sums leave
        p = [float(p_from_null(sign * v, [s, -100.0])) for v, s in zip(values, shifted, strict=True)]
        assert set(p) == {0.5}
        apart = sign * values * (1 - sign * 1e-5)
        least = [float(p_from_null(sign * v, [1e9, s])) for v, s in zip(values, apart, strict=True)]
        assert set(least) == {0.5}  # 1e9 alone


def test_p_is_never_zero_and_accepts_maps_without_clusters():
    assert p_from_null(7.0, [-np.inf, 3.0, -np.inf, 7.0]) == 0.25
    assert p_from_null(9.0, [1.0, 2.0]) == 0.5
    np.testing.assert_array_equal(p_from_null([0.0, -np.inf], [-np.inf, 3.0]), [0.5, 1.0])


@pytest.mark.parametrize(("null", "found"), [([], "shape"), ([[1.0, 2.0]], "shape"), ([1.0, np.nan], "NaN")])
def test_a_null_that_cannot_be_counted_is_refused(null, found):
    with pytest.raises(DataError, match=found):
        p_from_null([1.0], null)


def test_p_from_counts(backend):
    counts = backend.asarray(np.array([[1, 5], [0, 100]]))
    check(p_from_counts(counts, 100), np.array([[0.01, 0.05], [np.nan, 1.0]]), backend=backend)
    with pytest.raises(UsageError, match="rearrangements"):
        p_from_counts(counts, 0)


@given(
    null=st.lists(st.floats(-100, 100), min_size=1, max_size=60),
    observed=st.floats(-101, 101),
    alpha=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0]),
)
def test_critical_value_says_what_p_says(null, observed, alpha):
    if 0 < abs(observed) < 1e-290 or any(0 < abs(v) < 1e-290 for v in null):
        return  # below the smallest normal number relative tolerances mean nothing
    null = [*null, 101.0]  # the identity, as large as anything that is observed
    critical = fwe_threshold(null, alpha)
    if np.isfinite(critical) and abs(observed - critical) <= 1e-12 * abs(critical):
        return  # the two sides of the inequality round differently on the very edge
    assert (observed > critical) == bool(p_from_null(observed, null) <= alpha)


def test_critical_value_takes_the_whole_of_alpha():
    null = np.arange(500.0)
    assert fwe_threshold(null, 0.05) == pytest.approx(474, rel=2 * TIE_RTOL)  # 25 are larger
    assert fwe_threshold(null[:19], 0.05) == np.inf
    assert fwe_threshold(null, 1.0) == -np.inf
    with pytest.raises(UsageError, match="alpha"):
        fwe_threshold(null, 0.0)


def test_smallest_p_and_when_it_is_too_coarse():
    assert smallest_p(5000) == 1 / 5000
    assert coarse_p_warning(200, 0.05) is None
    assert "run 200 or more" in str(coarse_p_warning(199, 0.05))
    assert "no more distinct ones" in str(coarse_p_warning(64, 0.05, exhaustive=True))
    assert coarse_p_warning(10_000, 0.001) is None
