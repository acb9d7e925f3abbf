"""Tails fitted to null distributions: against PALM's, SciPy's distributions, and nulls whose tail is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rig.checking import check
from scipy import stats

from gpuroi.errors import DataError
from gpuroi.inference.correct import p_from_null
from gpuroi.inference.tail import gamma_p, gamma_p_elements, gpd_tail, gpd_tail_elements
from gpuroi.inference.zscore import t_to_z

GOLDEN = Path(__file__).resolve().parents[1].parent / "shared" / "golden" / "onesample_flip_n30"


@pytest.fixture(scope="module")
def palm():
    """Read a volume of the run of PALM (observed values inside the mask), or its null maxima."""
    if not GOLDEN.is_dir():
        pytest.skip(f"PALM's results are not at {GOLDEN}")
    import nibabel as nib

    mask = np.asarray(nib.load(GOLDEN / "mask.nii.gz").dataobj) > 0

    def read(name):
        if name.endswith(".csv"):
            return np.loadtxt(GOLDEN / name, delimiter=",").ravel()
        return np.asarray(nib.load(GOLDEN / f"{name}.nii.gz").dataobj, np.float64).reshape(mask.shape)[mask]

    return read


def observed_of(palm, statistic):
    values = palm(f"palm_{statistic}_tstat")
    return t_to_z(values, 29) if statistic == "vox" else values  # PALM's maxima are on the scale of z


@pytest.mark.parametrize("statistic", ["vox", "tfce", "clustere"])
def test_gpd_tail_equals_palm(palm, statistic):
    null = palm(f"palm_{statistic}_tstat_max.csv")
    result = gpd_tail(observed_of(palm, statistic), null, rtol=1e-9)  # PALM: doubles, no tolerance of ties
    np.testing.assert_allclose(result.p, palm(f"palmtail_{statistic}_tstat_fwep"), rtol=1e-4)
    assert result.fit.ok == (statistic != "clustere")  # extents are discrete: no fit passes there, in PALM neither


@pytest.mark.parametrize("statistic", ["vox", "tfce", "clustere"])
def test_gamma_equals_palm(palm, statistic):
    null = palm(f"palm_{statistic}_tstat_max.csv")
    result = gamma_p(observed_of(palm, statistic), null)
    np.testing.assert_allclose(result.p, palm(f"palmgamma_{statistic}_tstat_fwep"), rtol=1e-5)
    assert result.fit.ok


def test_gpd_parameters_equal_moments_of_scipy():
    null = np.random.default_rng(0).gumbel(size=2000)
    fit = gpd_tail(np.array([5.0]), null).fit
    tail = np.sort(null)[-fit.n_tail :] - fit.threshold
    fitted = stats.genpareto(fit.shape, scale=fit.scale)
    np.testing.assert_allclose([fitted.mean(), fitted.var()], [tail.mean(), tail.var(ddof=1)], rtol=1e-9)
    cdf = fitted.cdf(tail)
    i = np.arange(1, tail.size + 1)
    ad = -tail.size - np.sum((2 * i - 1) * (np.log(cdf) + np.log(1 - cdf[::-1]))) / tail.size
    np.testing.assert_allclose(fit.ad, ad, rtol=1e-9)
    want = fit.n_tail / 2000 * fitted.sf(5.0 - fit.threshold)
    np.testing.assert_allclose(gpd_tail(np.array([5.0]), null).p, [want], rtol=1e-9)


@pytest.mark.parametrize("null_of", [stats.gumbel_r(), stats.gamma(20), stats.norm()])
def test_tails_come_close_to_the_truth_where_counting_cannot(null_of):
    truth = 2e-4
    value = np.array([null_of.isf(truth)])
    log_errors = []
    for seed in range(40):
        null = np.append(null_of.rvs(499, random_state=seed), value)  # the identity is one of them
        log_errors.append([np.log(f(value, null).p[0] / truth) for f in (gpd_tail, gamma_p)])
        assert p_from_null(value, null)[0] >= 1 / 500  # ten times too large, whatever the data
    assert np.abs(np.median(log_errors, axis=0)).max() < np.log(3)


def test_anderson_darling_refuses_what_is_no_tail():
    rng = np.random.default_rng(1)
    gaps = np.where(rng.random(1000) < 0.5, rng.normal(0, 0.1, 1000), rng.normal(50, 0.1, 1000))
    result = gpd_tail(np.array([50.0, 51.0]), gaps)
    assert result.fit.ad_p > 0.05 or not result.fit.ok
    lattice = rng.poisson(3, 1000).astype(float)
    refused = gpd_tail(np.array([0.0, 8.0, 30.0]), lattice)
    assert not refused.fit.ok
    assert "Anderson-Darling" in refused.fit.reason
    np.testing.assert_array_equal(refused.p, p_from_null(np.array([0.0, 8.0, 30.0]), lattice))


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.2])
def test_true_tails_are_seldom_refused(shape):
    passed = 0
    for seed in range(60):
        null = stats.genpareto.rvs(shape, size=500, random_state=seed)
        fit = gpd_tail(np.array([0.0]), null).fit
        passed += fit.ok and fit.quantile == 0.751
    assert passed >= 45


def test_a_tail_never_ends_before_the_data():
    null = np.random.default_rng(2).random(1000)  # uniform: the fit has an end near 1
    result = gpd_tail(np.array([0.99, 1.5]), null)
    assert (result.p > 0).all()
    assert result.p[0] >= result.p[1]
    assert not result.fit.ok or result.fit.threshold - result.fit.scale / result.fit.shape > 1.5


def test_values_outside_the_tail_keep_their_empirical_p():
    null = np.random.default_rng(3).gumbel(size=400)
    observed = np.linspace(-2, 8, 200)
    result, counted = gpd_tail(observed, null), p_from_null(observed, null)
    outside = (counted >= 0.10) | (observed < result.fit.threshold)
    np.testing.assert_array_equal(result.p[outside], counted[outside])
    assert (np.diff(result.p[~outside]) < 0).all()
    assert result.p.min() < 1 / 400


@pytest.mark.parametrize(
    ("null", "reason"), [(np.arange(40.0), "40 null values"), (np.full(500, 2.0), "equal"), (np.full(1, 2.0), "1 null")]
)
def test_gpd_says_why_it_does_not_apply(null, reason):
    observed = np.array([[1.0, 2.0], [np.nan, 50.0]])
    result = gpd_tail(observed, null)
    assert reason in result.fit.reason
    assert not result.fit.ok
    np.testing.assert_array_equal(result.p, p_from_null(observed, null))


def test_gpd_with_no_cluster_in_most_rearrangements():
    null = np.full(1000, -np.inf)
    null[:100] = np.random.default_rng(4).gumbel(size=100) + 10
    result = gpd_tail(np.array([null[:100].max()]), null)
    assert 0 < result.p[0] <= 0.01
    empty = gpd_tail(np.array([0.0]), np.full(1000, -np.inf))
    assert not empty.fit.ok
    assert empty.p[0] == 1 / 1000


def test_two_sided_takes_sizes(backend):
    null = np.abs(np.random.default_rng(5).gumbel(size=600))
    observed = backend.asarray(np.array([-6.0, 6.0, 0.5]))
    for function in (gpd_tail, gamma_p):
        p = function(observed, null, two_sided=True).p
        check(p, function(np.array([6.0, 6.0, 0.5]), null).p, backend=backend)


# ---- one tail an element


def test_elements_equal_one_fit_each(backend):
    rng = np.random.default_rng(6)
    null = rng.gumbel(size=(400, 30)) * rng.uniform(0.5, 2, 30)
    null[0] = rng.uniform(0, 9, 30)
    counted = np.mean(null >= null[0], axis=0)
    kept = np.sort(null, axis=0)[-101:][::-1]
    result = gpd_tail_elements(backend.asarray(counted), backend.asarray(null[0]), backend.asarray(kept), 400)
    alone = [gpd_tail(null[:1, j], null[:, j], rtol=0.0) for j in range(30)]
    check(result.p, np.array([one.p[0] for one in alone]), backend=backend, rtol=1e-12)
    small = counted < 0.10
    assert result.fit.ok[small].sum() > 5
    np.testing.assert_array_equal(result.fit.ok[small], [one.fit.ok for one, s in zip(alone, small, strict=True) if s])
    np.testing.assert_allclose(
        result.fit.ad_p[small], [one.fit.ad_p for one, s in zip(alone, small, strict=True) if s], rtol=1e-9
    )
    assert np.isnan(result.fit.threshold[~small]).all()


def test_elements_that_cannot_be_fitted_keep_their_p():
    p = np.array([0.01, 0.01, np.nan, 0.5])
    observed = np.array([2.0, 5.0, np.nan, 0.0])
    kept = np.tile([[2.0], [2.0]], (100, 4))
    np.testing.assert_array_equal(gpd_tail_elements(p, observed, kept, 800).p, p)
    np.testing.assert_array_equal(gpd_tail_elements(p, observed, kept[:5], 10).p, p)


def test_elements_of_other_shapes_are_refused():
    with pytest.raises(DataError, match="largest"):
        gpd_tail_elements(np.ones(3), np.ones(3), np.ones((5, 4)), 100)
    with pytest.raises(DataError, match="kept"):
        gpd_tail_elements(np.ones(3), np.ones(3), np.ones((5, 3)), 4)


# ---- gamma


@pytest.mark.parametrize("skewness", [-1.2, -0.1, 0.0, 1e-7, 0.1, 3.0])
def test_gamma_elements_equal_scipys_pearson3(backend, skewness):
    x = np.linspace(-1.3, 1.3, 27)
    one = np.ones(x.size)
    p = gamma_p_elements(*(backend.asarray(a) for a in (0.5 * one, 3 + 2 * x, 3 * one, 4 * one, skewness * one)))
    check(p, stats.pearson3.sf(x, skewness), backend=backend, rtol=1e-9)


def test_gamma_moments_equal_scipy():
    null = np.random.default_rng(8).gamma(3, size=300)
    fit = gamma_p(np.array([2.0]), null).fit
    want = [null.mean(), null.var(ddof=1), stats.skew(null, bias=False)]
    np.testing.assert_allclose([fit.mean, fit.variance, fit.skewness], want, rtol=1e-10)


def test_gamma_goodness_tells_a_gamma_from_two_humps():
    rng = np.random.default_rng(9)
    right = [gamma_p(np.array([1.0]), rng.gamma(4, size=300)).fit.ad_p for _ in range(12)]
    assert np.median(right) > 0.15
    humps = np.concatenate([rng.normal(0, 1, 200), rng.normal(12, 1, 300)])
    assert gamma_p(np.array([1.0]), humps).fit.ad_p == 0.01
    assert gamma_p(np.array([1.0]), humps).fit.ad_p == gamma_p(np.array([1.0]), humps).fit.ad_p  # no chance in it


@pytest.mark.parametrize(
    ("null", "reason"),
    [
        (np.full(50, 1e6), "equal"),
        (np.array([1.0, 2.0]), "2 null"),
        (np.array([1.0, 2.0, -np.inf, 3.0]), "infinite"),
        (-np.random.default_rng(10).gamma(1, size=200), "upper end"),
    ],
)
def test_gamma_says_why_it_does_not_apply(null, reason):
    observed = np.array([0.5, 2e6, np.nan])
    result = gamma_p(observed, null)
    assert reason in result.fit.reason
    assert not result.fit.ok
    np.testing.assert_array_equal(result.p, p_from_null(observed, null))
