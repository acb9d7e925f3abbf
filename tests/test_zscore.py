"""t, F and log p to z against arbitrary precision and SciPy; the tables against the exact functions."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.checking import check, host
from scipy import special, stats

from gpuroi.errors import BackendError, DataError, UsageError
from gpuroi.inference.zscore import f_to_z, log_p_to_z, t_slope, t_to_z, z_to_f, z_to_log_p, z_to_t
from gpuroi.inference.ztable import FZTable, ZTable

DFS = [1, 2.5, 20, 100, 1000]
SIZES = [1e-12, 1e-3, 0.3, 0.4999999, 0.5, 0.7, 2.0, 5.0, 60.0, 1e3]


def exact_z(t, df, near):
    """The z of t > 0 in 60 digits: equal tails, or equal areas from the middle where t is small."""
    with mpmath.workdps(60):
        t, df, half = mpmath.mpf(t), mpmath.mpf(df), mpmath.mpf(1) / 2
        if t < 1:
            area = mpmath.betainc(half, df / 2, 0, t * t / (df + t * t), regularized=True) / 2
            return float(mpmath.findroot(lambda z: mpmath.erf(z / mpmath.sqrt(2)) / 2 - area, near))
        log_tail = mpmath.log(mpmath.betainc(df / 2, half, 0, df / (df + t * t), regularized=True) / 2)
        return float(mpmath.findroot(lambda z: mpmath.log(mpmath.erfc(z / mpmath.sqrt(2)) / 2) - log_tail, near))


@pytest.mark.parametrize("df", DFS)
def test_t_to_z_equals_arbitrary_precision(backend, df):
    t = np.array(SIZES)
    z = t_to_z(backend.asarray(t), df)
    want = np.array([exact_z(size, df, near) for size, near in zip(t, host(z).tolist(), strict=True)])
    check(z, want, backend=backend, rtol=1e-12)
    check(t_to_z(backend.asarray(-t), df), -want, backend=backend, rtol=1e-12)


def test_each_element_may_have_its_own_df(backend):
    t = np.random.default_rng(0).standard_t(5, (3, 7))
    df = np.random.default_rng(1).uniform(1, 50, (3, 7))
    z = t_to_z(backend.asarray(t), backend.asarray(df))
    check(z, stats.norm.ppf(stats.t.cdf(t, df)), backend=backend, rtol=1e-9)
    one_per_column = t_to_z(backend.asarray(t), backend.asarray(df[0]))
    check(one_per_column, stats.norm.ppf(stats.t.cdf(t, df[0])), backend=backend, rtol=1e-9)


def test_t_to_z_of_what_is_not_an_ordinary_number(backend):
    t = backend.asarray(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e200]))
    z = host(t_to_z(t, 20))
    np.testing.assert_array_equal(z[:5], [np.inf, -np.inf, np.nan, 0.0, 0.0])
    assert np.signbit(z[4])
    with mpmath.workdps(40):  # a power of t out there: its log times df
        log_tail = mpmath.log(mpmath.betainc(10, mpmath.mpf("0.5"), 0, 20 / mpmath.mpf("1e400"), regularized=True) / 2)
    np.testing.assert_allclose(host(z_to_log_p(backend.asarray(z[5:]))), [float(log_tail)], rtol=1e-12)
    df = backend.asarray(np.array([np.inf, np.nan, 0.0, -1.0, 5.0, np.inf]))
    np.testing.assert_array_equal(
        host(t_to_z(backend.asarray(np.full(6, 2.0)), df))[[0, 1, 2, 3, 5]], [2, *[np.nan] * 3, 2]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int16, ">f8"])
def test_result_is_float64_in_the_shape_given(backend, dtype):
    t = np.arange(-6, 6).reshape(2, 3, 2).astype(dtype)
    check(t_to_z(backend.asarray(t), 9), stats.norm.ppf(stats.t.cdf(t.astype(float), 9)), backend=backend, rtol=1e-9)
    assert t_to_z(t[:0], 9).shape == (0, 3, 2)
    assert isinstance(t_to_z(2.0, 9), float)


@pytest.mark.parametrize("df", [0, -3, float("nan")])
def test_a_df_that_is_not_positive_is_refused(df):
    with pytest.raises(UsageError, match="df is"):
        t_to_z([1.0], df)
    with pytest.raises(UsageError, match="df is"):
        f_to_z([1.0], 2, df)


def test_df_of_another_shape_is_refused(standin_cupy):
    with pytest.raises(DataError, match="df has shape"):
        t_to_z(np.zeros(3), np.ones((2, 3)))
    with pytest.raises(BackendError, match="mixed"):
        t_to_z(np.zeros(3), standin_cupy.ones(3))


@pytest.mark.parametrize("df", DFS)
def test_z_to_t_undoes_t_to_z(backend, df):
    t = np.array(SIZES + [-s for s in SIZES] + [0.0, np.inf, -np.inf, np.nan])
    check(z_to_t(t_to_z(backend.asarray(t), df), df), t, backend=backend, rtol=1e-11)


def test_z_to_t_equals_scipy_and_overflows_to_inf():
    z = np.array([-8.0, -3.1, 0.5, 1.64, 3.1, 8.0])
    for df in (2.5, 20.0, 400.0):
        want = np.sign(z) * stats.t.isf(stats.norm.sf(np.abs(z)), df)
        np.testing.assert_allclose(z_to_t(z, df), want, rtol=1e-9)
    np.testing.assert_array_equal(z_to_t(np.array([40.0, 3.0]), np.array([1.0, np.inf])), [np.inf, 3.0])


@pytest.mark.parametrize(("df1", "df2"), [(1, 1), (1, 30), (2, 6), (3, 100), (20, 1000), (100, 5)])
def test_f_to_z_takes_the_smaller_tail(backend, df1, df2):
    f = np.concatenate([np.logspace(-3, 2, 41), [stats.f.median(df1, df2)]])
    upper, lower = stats.f.logsf(f, df1, df2), stats.f.logcdf(f, df1, df2)
    want = np.where(
        upper < lower, -special.ndtri_exp(np.minimum(upper, -0.1)), special.ndtri_exp(np.minimum(lower, -0.1))
    )
    for degrees in (df2, backend.asarray(np.full(f.shape, float(df2)))):
        check(f_to_z(backend.asarray(f), df1, degrees), want, backend=backend, rtol=1e-9, atol=1e-9)


def test_f_far_out_is_t_squared_and_ends_are_infinite(backend):
    t = np.array([3.0, 60.0, 1e3])
    log_one_sided = host(z_to_log_p(t_to_z(backend.asarray(t), 20)))
    z = f_to_z(backend.asarray(t * t), 1, 20)
    np.testing.assert_allclose(host(z_to_log_p(z)), log_one_sided + np.log(2), rtol=1e-12)
    ends = host(f_to_z(backend.asarray(np.array([0.0, np.inf, np.nan, -1.0])), 3, 20))
    np.testing.assert_array_equal(ends, [-np.inf, np.inf, np.nan, np.nan])
    # P(F <= f) = 1e-2000 or so: its log is f's times df1 / 2, and a constant
    deep = host(z_to_log_p(-f_to_z(backend.asarray(np.array([1e-20, 1e-21])), 200, 20)))
    np.testing.assert_allclose(deep[1] - deep[0], -100 * np.log(10), rtol=1e-9)


@pytest.mark.parametrize(("z", "df1", "df2"), [(2.3, 2, 6), (3.1, 1, 28), (-1.0, 4, 50), (12.0, 3, 100)])
def test_z_to_f_undoes_f_to_z(z, df1, df2):
    np.testing.assert_allclose(f_to_z(z_to_f(z, df1, df2), df1, df2), z, rtol=1e-11)


def test_z_to_f_at_the_ends():
    assert z_to_f(float("inf"), 2, 6) == np.inf
    assert z_to_f(float("-inf"), 2, 6) == 0.0
    assert np.isnan(z_to_f(float("nan"), 2, 6))
    assert z_to_f(300.0, 2, 1) == np.inf
    assert z_to_f(-300.0, 1, 6) == 0.0


def test_log_p_to_z_equals_scipy_and_comes_back(backend):
    log_p = np.concatenate([-np.logspace(-15, 12, 60), [np.log(0.5)]])
    z = log_p_to_z(backend.asarray(log_p))
    check(z, -special.ndtri_exp(log_p), backend=backend, rtol=1e-9, atol=1e-12)
    check(z_to_log_p(z), log_p, backend=backend, rtol=1e-12, atol=1e-16)
    ends = log_p_to_z(backend.asarray(np.array([0.0, -np.inf, 0.1, np.nan])))
    check(ends, np.array([-np.inf, np.inf, np.nan, np.nan]), backend=backend)


def test_z_to_log_p_equals_scipy(backend):
    z = np.concatenate([np.linspace(-38, 38, 77), [1e3, 1e6, np.inf, -np.inf, np.nan]])
    check(z_to_log_p(backend.asarray(z)), special.log_ndtr(-z), backend=backend, rtol=1e-12, atol=1e-300)


def test_slope_is_the_ratio_of_densities():
    t = np.array([0.0, 0.2, 2.0, -5.0])
    z = t_to_z(t, 12)
    np.testing.assert_allclose(t_slope(t, z, 12), stats.t.pdf(t, 12) / stats.norm.pdf(z), rtol=1e-11)


# ---- tables


@pytest.mark.parametrize("df", [0.6, 1, 3, 8.3, 97, 1e6])
def test_table_of_t_equals_the_exact_function(backend, df):
    t = np.concatenate(
        [np.linspace(-52, 52, 4001), np.logspace(-12, 1, 99), [0.0, -0.0, np.nan, np.inf, 50.0, -50.01, 1e9]]
    )
    want = host(t_to_z(t, df))
    got = ZTable(df).to_z(backend.asarray(t))
    check(got, want, backend=backend, rtol=1e-9)
    np.testing.assert_array_equal(np.signbit(host(got)), np.signbit(want))


@pytest.mark.parametrize(("df1", "df2"), [(1, 1), (1, 30), (2, 6), (20, 1000), (100, 5)])
def test_table_of_f_equals_the_exact_function(backend, df1, df2):
    f = np.concatenate([np.logspace(-12, 4, 4001), [0.0, np.nan, np.inf]])
    check(FZTable(df1, df2).to_z(backend.asarray(f)), f_to_z(f, df1, df2), backend=backend, rtol=1e-9, atol=1e-9)
    assert np.isnan(host(FZTable(df1, df2).to_z(backend.asarray(np.array([-1.0])))))


def test_tables_are_monotone_over_the_edge_of_the_table():
    t = np.concatenate([np.linspace(-60, 60, 100_001), 50 + np.linspace(-1e-6, 1e-6, 101)])
    assert (np.diff(ZTable(11).to_z(np.sort(t))) >= 0).all()
    f = np.sort(np.concatenate([np.logspace(-13, 4, 100_001), 2500 * (1 + np.linspace(-1e-6, 1e-6, 101))]))
    assert (np.diff(FZTable(3, 40).to_z(f)) >= 0).all()


@given(t=st.floats(min_value=-50, max_value=50), df=st.sampled_from([1.0, 7.0, 250.0]))
def test_table_is_odd_to_the_last_bit(t, df):
    plus, minus = ZTable(df).to_z(np.array([t, -t]))
    assert plus == -minus


def test_maps_keep_shape_dtype_and_memory(backend):
    t = np.random.default_rng(2).standard_t(9, (3, 5000)).astype(np.float32) * 30  # some beyond the table
    want = host(t_to_z(t.astype(np.float64), 9)).astype(np.float32)
    table = ZTable(9)
    check(table.to_z(backend.asarray(t)), want, backend=backend, rtol=1e-6)
    check(table.to_z(backend.asarray(t)[:, ::2]), want[:, ::2], backend=backend, rtol=1e-6)
    inside = backend.asarray(t)
    assert table.to_z(inside, out=inside) is inside
    check(inside, want, backend=backend, rtol=1e-6)
    assert table.to_z(backend.asarray(t[:0])).shape == (0, 5000)
    check(table.to_z(backend.asarray(np.array([1, -3]))), t_to_z([1.0, -3.0], 9), backend=backend, rtol=1e-9)


def test_out_of_another_kind_is_refused():
    t = np.zeros((2, 3), np.float32)
    for out in (np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros((3, 2), np.float32).T):
        with pytest.raises(DataError, match="out is"):
            ZTable(9).to_z(t, out=out)


def test_thresholds_go_by_the_exact_tails():
    np.testing.assert_allclose(ZTable(20).to_t(3.1), stats.t.isf(stats.norm.sf(3.1), 20), rtol=1e-10)
    np.testing.assert_allclose(FZTable(2, 27).to_f(2.3), stats.f.isf(stats.norm.sf(2.3), 2, 27), rtol=1e-10)


def test_results_do_not_depend_on_threads(monkeypatch):
    t = np.random.default_rng(3).standard_t(4, 50_000) * 5
    results = []
    for n in ("1", "3"):
        monkeypatch.setenv("GPUROI_NUM_THREADS", n)
        results.append(ZTable(4).to_z(t))
    np.testing.assert_array_equal(*results)
