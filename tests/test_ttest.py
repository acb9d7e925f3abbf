"""t-tests and analysis of variance against SciPy, NIST's certified values and arbitrary precision."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import assume, given
from hypothesis import strategies as st
from rig.checking import check, host
from scipy import stats

import gpuroi
from gpuroi.errors import DataError, UsageError

ALTERNATIVES = ["two-sided", "less", "greater"]


def scipy_test(function, *samples, **options):
    """SciPy on float64, without its warnings about what the test is after."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*(np.asarray(s, np.float64) for s in samples), **options)


def check_result(result, want, *, backend, dtype, rtol=1e-9):
    check(
        result.statistic, np.asarray(want.statistic, dtype), backend=backend, rtol=rtol if dtype == np.float64 else 5e-7
    )
    check(result.pvalue, np.asarray(want.pvalue, np.float64), backend=backend, rtol=1e3 * rtol, atol=1e-300)
    with np.errstate(divide="ignore"):
        log10p = np.log10(np.asarray(want.pvalue, np.float64))
    sound = np.asarray(want.pvalue) > 1e-290  # below it SciPy's own p loses digits
    np.testing.assert_allclose(host(result.log10p)[sound], log10p[sound], rtol=1e3 * rtol, atol=1e-9)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0.0, 1e4, 1e6])
def test_equal_scipy_at_any_mean(backend, mean, dtype, alternative):
    """The moment formula fails exactly here."""
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((20, 4, 5, 6)) + 0.5 + mean).astype(dtype)
    b = (2 * rng.standard_normal((20, 4, 5, 6)) + mean).astype(dtype)
    on_a, on_b = backend.asarray(a), backend.asarray(b)
    options = {"axis": 0, "alternative": alternative}
    # t does not change when all move by the same number, and this subtraction is exact: so SciPy keeps its digits too.
    a, b = a.astype(np.float64) - mean, b.astype(np.float64) - mean
    cases = [
        (
            gpuroi.ttest_1samp(on_a, mean, alternative=alternative),
            scipy_test(stats.ttest_1samp, a, popmean=0, **options),
        ),
        (gpuroi.ttest_rel(on_a, on_b, alternative=alternative), scipy_test(stats.ttest_rel, a, b, **options)),
        (gpuroi.ttest_ind(on_a, on_b[:9], alternative=alternative), scipy_test(stats.ttest_ind, a, b[:9], **options)),
        (
            gpuroi.ttest_ind(on_a, on_b[:9], equal_var=False, alternative=alternative),
            scipy_test(stats.ttest_ind, a, b[:9], equal_var=False, **options),
        ),
    ]
    for result, want in cases:
        check_result(result, want, backend=backend, dtype=dtype, rtol=1e-9)
        np.testing.assert_allclose(host(result.df), want.df, rtol=1e-9)


@pytest.mark.parametrize("equal_var", [True, False])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_f_oneway_equals_scipy_and_statsmodels(backend, mean, equal_var):
    anova_oneway = pytest.importorskip("statsmodels.stats.oneway").anova_oneway
    rng = np.random.default_rng(1)
    groups = [rng.standard_normal((n, 7)) * s + m + mean for n, s, m in ((9, 1, 0), (14, 2, 0.8), (6, 0.5, -0.2))]
    result = gpuroi.f_oneway(*(backend.asarray(g) for g in groups), equal_var=equal_var)
    want = scipy_test(stats.f_oneway, *groups, equal_var=equal_var)
    check_result(result, want, backend=backend, dtype=np.float64)
    third = anova_oneway([g[:, 3] for g in groups], use_var="equal" if equal_var else "unequal", welch_correction=True)
    np.testing.assert_allclose(host(result.statistic)[3], third.statistic, rtol=1e-8)
    np.testing.assert_allclose(np.broadcast_to(host(result.df[1]), 7)[3], third.df_denom, rtol=1e-9)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_equals_scipy(backend, name):
    data = HOSTILE[name]
    result = gpuroi.ttest_1samp(backend.asarray(data), 0.25)
    native = np.float64 if data.dtype.name in ("float64", "int64") else np.float32
    if data.shape[0] == 0:
        check(result.statistic, np.full(data.shape[1:], np.nan, native), backend=backend)
        return
    want = scipy_test(stats.ttest_1samp, data, popmean=0.25, axis=0)
    expected = np.asarray(want.statistic).astype(native)
    if name in ("all-true", "all-false", "minus-zero"):  # exactly constant: SciPy says -inf or +inf as we do
        assert np.isinf(host(result.statistic)).all()
    check(result.statistic, expected, backend=backend, rtol=1e-6)
    check(result.pvalue, np.asarray(want.pvalue, np.float64), backend=backend, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_leaving_nan_out_equals_scipy(backend, alternative):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 12, 40))
    a[rng.random(a.shape) < 0.3] = np.nan
    b[rng.random(b.shape) < 0.3] = np.nan
    a[:, 0] = np.nan
    a[1:, 1] = np.nan
    on_a, on_b = backend.asarray(a), backend.asarray(b)
    options = {"nan_policy": "omit", "alternative": alternative}
    cases = [
        (gpuroi.ttest_1samp(on_a, 0.1, **options), scipy_test(stats.ttest_1samp, a, popmean=0.1, axis=0, **options)),
        (gpuroi.ttest_rel(on_a, on_b, **options), scipy_test(stats.ttest_rel, a, b, axis=0, **options)),
        (gpuroi.ttest_ind(on_a, on_b, **options), scipy_test(stats.ttest_ind, a, b, axis=0, **options)),
        (
            gpuroi.ttest_ind(on_a, on_b, equal_var=False, **options),
            scipy_test(stats.ttest_ind, a, b, axis=0, equal_var=False, **options),
        ),
    ]
    for result, want in cases:
        # All NaN or one observation: no statistic; SciPy agrees except in how it words a single value.
        check(result.statistic[2:], np.asarray(want.statistic)[2:], backend=backend, rtol=1e-9)
        check(result.pvalue[2:], np.asarray(want.pvalue)[2:], backend=backend, rtol=1e-7)
        assert np.isnan(host(result.statistic)[0])
    f = gpuroi.f_oneway(on_a, on_b, nan_policy="omit")
    want = scipy_test(stats.f_oneway, a, b, axis=0, nan_policy="omit")
    check(f.statistic[2:], np.asarray(want.statistic)[2:], backend=backend, rtol=1e-9)


@pytest.mark.parametrize(("t", "df"), [(60.0, 1000), (1e5, 3), (40.0, 30), (1e-9, 5), (3.0, 40_000), (900.0, 12)])
def test_tails_far_out_equal_arbitrary_precision(t, df):
    """t = 60 has a p-value, in every tail."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    n = df + 1
    # n observations with mean m and variance 1 have t = m sqrt(n).
    base = np.concatenate([np.linspace(-1, 1, n)]).astype(np.float64)
    base = (base - base.mean()) / base.std(ddof=1)
    sample = base + t / np.sqrt(n)
    two = gpuroi.ttest_1samp(sample)
    exact_t = mpmath.mpf(float(two.statistic))
    x = mpmath.mpf(df) / (df + exact_t**2)
    p = mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf(1) / 2, 0, x, regularized=True)
    np.testing.assert_allclose(two.log10p, float(mpmath.log10(p)), rtol=1e-11, atol=1e-12)
    greater = gpuroi.ttest_1samp(sample, alternative="greater")
    np.testing.assert_allclose(greater.log10p, float(mpmath.log10(p / 2)), rtol=1e-11, atol=1e-12)
    less = gpuroi.ttest_1samp(sample, alternative="less")
    np.testing.assert_allclose(less.log10p, float(mpmath.log10(1 - p / 2)), rtol=1e-9, atol=1e-16)


def exact_betainc(a, b, x):
    """I_x(a, b) by its power series, in arbitrary precision: not the continued fraction of the kernels."""
    mpmath = pytest.importorskip("mpmath")
    if x > (a + 1) / (a + b + 2):
        return 1 - exact_betainc(b, a, 1 - mpmath.mpf(x))
    a, b, x = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(x)
    term = total = mpmath.mpf(1)
    n = 0
    while term > mpmath.mpf(10) ** -45 * total:
        term *= (a + b + n) / (a + 1 + n) * x
        total += term
        n += 1
    return (
        total
        * mpmath.exp(
            a * mpmath.log(x) + b * mpmath.log(1 - x) - mpmath.loggamma(a) - mpmath.loggamma(b) + mpmath.loggamma(a + b)
        )
        / a
    )


def test_log_betainc_equals_arbitrary_precision(backend):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 50
    rng = np.random.default_rng(3)
    for a, b in [
        (0.5, 0.5),
        (1.0, 0.5),
        (5.0, 0.5),
        (9.99, 3.0),
        (250.0, 0.5),
        (20_000.0, 1.5),
        (60.0, 40.0),
        (2.0, 300.0),
    ]:
        x = np.concatenate([rng.random(8), [1e-30, 1e-8, 1 - 1e-8, 0.5, a / (a + b)]])
        got = host(backend.log_betainc(a, b, backend.asarray(x), backend.asarray(1 - x)))
        want = [float(mpmath.log(exact_betainc(a, b, float(v)))) for v in x]
        np.testing.assert_allclose(got, want, rtol=2e-12, atol=2e-13, err_msg=f"a={a} b={b}")
    ends = host(
        backend.log_betainc(
            3.0, 0.5, backend.asarray(np.array([0.0, 1.0, np.nan])), backend.asarray(np.array([1.0, 0.0, 0.5]))
        )
    )
    np.testing.assert_array_equal(ends, [-np.inf, 0.0, np.nan])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_and_memory_order(backend, axis):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 5, 6, 7))
    want = scipy_test(stats.ttest_ind, a, b, axis=axis)
    for x, y in itertools.product((a, np.asfortranarray(a)), (b, np.asfortranarray(b))):
        result = gpuroi.ttest_ind(backend.asarray(x), backend.asarray(y), axis=axis)
        check(result.statistic, want.statistic, backend=backend, rtol=1e-12)


def test_an_array_of_expected_means(backend):
    rng = np.random.default_rng(5)
    a = np.asfortranarray(rng.standard_normal((9, 4, 5)))
    expected = rng.standard_normal((4, 5))
    result = gpuroi.ttest_1samp(backend.asarray(a), backend.asarray(expected))
    check(
        result.statistic,
        scipy_test(stats.ttest_1samp, a, popmean=expected[None], axis=0).statistic,
        backend=backend,
        rtol=1e-12,
    )


def test_numbers_do_not_depend_on_the_split_or_the_threads(monkeypatch):
    rng = np.random.default_rng(6)
    data = rng.standard_normal((11, 9001)).astype(np.float32)
    whole = gpuroi.ttest_1samp(data)
    parts = [gpuroi.ttest_1samp(data[:, i : i + 700]) for i in range(0, 9001, 700)]
    np.testing.assert_array_equal(whole.statistic, np.concatenate([p.statistic for p in parts]))
    np.testing.assert_array_equal(whole.log10p, np.concatenate([p.log10p for p in parts]))
    for threads in ("1", "3"):
        monkeypatch.setenv("GPUROI_NUM_THREADS", threads)
        np.testing.assert_array_equal(gpuroi.ttest_1samp(data).log10p, whole.log10p)


def test_nist_two_groups_of_atomic_weights():
    """NIST AtmWtAg: two groups that agree to 7 of 9 digits; certified F, so t is its root."""
    # In units of 1e-7, less 107.868.
    one = [
        1568, 1465, 1572, 1785, 1446, 1903, 1526, 1494, 1616, 1587, 1519, 1486,
        1419, 1569, 1508, 1672, 1385, 1518, 1662, 1424, 1360, 1333, 1610, 1477,
    ]  # fmt: skip
    two = [
        1079, 1344, 1513, 1197, 1604, 1385, 1642, 1365, 1151, 1082, 1517, 1448,
        1198, 1482, 1334, 1609, 1101, 1512, 1469, 1360, 1254, 1261, 1450, 1368,
    ]  # fmt: skip
    one, two = (107.868 + 1e-7 * np.array(g) for g in (one, two))
    certified = 1.59467335677930e01
    np.testing.assert_allclose(gpuroi.f_oneway(one, two).statistic, certified, rtol=1e-8)
    np.testing.assert_allclose(gpuroi.ttest_ind(one, two).statistic, np.sqrt(certified), rtol=1e-8)


def nist_sets(folder):
    """NIST's one-way analyses of variance with their certified F, in SciPy's copy of the files."""
    for path in sorted((folder / "anova").glob("*.dat")):
        lines = path.read_text().splitlines()
        certified = next(float(line.split()[-1]) for line in lines if line.startswith("Between"))
        yield (
            path.stem,
            certified,
            np.array([[float(v) for v in line.split()[:2]] for line in lines[60:] if line.strip()]),
        )


def test_nist_analyses_of_variance(open_data):
    sets = list(nist_sets(open_data / "nist_strd"))
    assert len(sets) == 11
    for name, certified, rows in sets:
        groups = [rows[rows[:, 0] == g, 1] for g in np.unique(rows[:, 0])]
        got = gpuroi.f_oneway(*groups).statistic
        # SmLs07 to SmLs09 carry 13 digits, of which float64 itself keeps two to three of the differences.
        digits = (
            1e-2
            if name in ("SmLs07", "SmLs08", "SmLs09")
            else 1e-4
            if name.startswith("SmLs0") and name > "SmLs03"
            else 1e-9
        )
        np.testing.assert_allclose(got, certified, rtol=digits, err_msg=name)


@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.floats(-1e3, 1e3),
    scale=st.floats(1e-3, 1e3),
)
def test_t_survives_shift_and_scale(seed, shift, scale):
    a, b = np.random.default_rng(seed).standard_normal((2, 9, 5))
    base = gpuroi.ttest_ind(a, b).statistic
    np.testing.assert_allclose(
        gpuroi.ttest_ind(a * scale + shift, b * scale + shift).statistic, base, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(gpuroi.ttest_ind(b, a).statistic, -base, rtol=1e-12)


@given(p=st.floats(0.01, 0.5), seed=st.integers(0, 100))
def test_p_is_uniform_under_the_null(p, seed):
    data = np.random.default_rng(seed).standard_normal((8, 4000)).astype(np.float32)
    hits = np.count_nonzero(gpuroi.ttest_1samp(data).pvalue <= p)
    assume(4000 * p > 30)
    low, high = stats.binom.ppf([1e-7, 1 - 1e-7], 4000, p)
    assert low <= hits <= high


def test_constant_elements_follow_the_stated_rule(backend):
    data = np.zeros((5, 3), np.float32)
    data[:, 1] = 2.0
    data[:, 2] = -1e6
    result = gpuroi.ttest_1samp(backend.asarray(data))
    check(result.statistic, np.array([np.nan, np.inf, -np.inf], np.float32), backend=backend)
    check(result.pvalue, np.array([np.nan, 0.0, 0.0]), backend=backend)


def test_device_in_device_out_without_waiting(backend, device_meter):
    if backend.name == "cpu":
        pytest.skip("the CPU has no transfers to count")
    a = backend.asarray(np.random.default_rng(7).standard_normal((6, 50)).astype(np.float32))
    b = backend.asarray(np.random.default_rng(8).standard_normal((7, 50)).astype(np.float32))
    device_meter.reset()
    gpuroi.ttest_ind(a, b)
    gpuroi.ttest_ind(a, b, equal_var=False)
    gpuroi.ttest_rel(a, b[:6])
    gpuroi.f_oneway(a, b)
    assert (device_meter.h2d_bytes, device_meter.d2h_bytes, device_meter.syncs) == (0, 0, 0)


def test_bad_input_is_refused():
    a = np.ones((5, 3))
    with pytest.raises(DataError, match="shape"):
        gpuroi.ttest_ind(a, np.ones((5, 4)))
    with pytest.raises(DataError, match="pairs"):
        gpuroi.ttest_rel(a, np.ones((4, 3)))
    with pytest.raises(DataError, match="complex"):
        gpuroi.ttest_1samp(a.astype(complex))
    with pytest.raises(DataError, match="NaN"):
        gpuroi.ttest_1samp(np.array([1.0, np.nan]), nan_policy="raise")
    with pytest.raises(UsageError, match="nan_policy"):
        gpuroi.ttest_1samp(a, nan_policy="drop")
    with pytest.raises(UsageError, match="alternative"):
        gpuroi.ttest_1samp(a, alternative="both")
    with pytest.raises(UsageError, match="axis"):
        gpuroi.ttest_1samp(a, axis=2)
    with pytest.raises(UsageError, match="two or more"):
        gpuroi.f_oneway(a)
    with pytest.raises(DataError, match="single number"):
        gpuroi.ttest_1samp(np.float64(3.0))
