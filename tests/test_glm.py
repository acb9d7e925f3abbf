"""The general linear model against statsmodels, SciPy and PALM."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from statsmodels.api import OLS
from statsmodels.stats.oneway import anova_oneway

from gpuroi.errors import BackendError, DataError, UsageError
from gpuroi.inference.glm import GlmResult, glm

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


def simulated(n=30, v=40, seed=0):
    """Groups, a covariate, data with an effect."""
    rng = np.random.default_rng(seed)
    design = np.column_stack([np.eye(3)[np.arange(n) % 3], rng.normal(40, 12, n)])
    data = rng.normal(size=(n, v)) + design @ rng.normal(size=(4, v)) * 0.5
    return data, design


def by_statsmodels(data, design, contrast, extra=()):
    """Effect, variance, statistic and p of one contrast, element by element."""
    out = []
    for j in range(data.shape[1]):
        model = np.column_stack([design, *(e[:, j] for e in extra)])
        present = ~np.isnan(data[:, j]) & ~np.isnan(model).any(axis=1)
        fit = OLS(data[present, j], model[present]).fit()
        if np.ndim(contrast) == 1:
            test = fit.t_test(contrast)
            out.append([np.squeeze(v) for v in (test.effect, test.sd**2, test.tvalue, test.pvalue, fit.df_resid)])
        else:
            test = fit.f_test(contrast)
            out.append([np.nan, np.nan, np.squeeze(test.fvalue), np.squeeze(test.pvalue), fit.df_resid])
    return np.array(out, dtype=float).T


def host(backend, array):
    return backend.to_numpy(array)


CONTRASTS = {
    "difference": [1, -1, 0, 0],
    "one against two": [1, -0.5, -0.5, 0],
    "slope": [0, 0, 0, 1],
    "mean": [1, 0, 0, 0],
    "groups": [[1, -1, 0, 0], [0, 1, -1, 0]],
    "redundant": [[1, -1, 0, 0], [0, 1, -1, 0], [1, 0, -1, 0]],
    "all": np.eye(4),
    "one row": [[0, 0, 0, 2]],
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_t_and_f_agree_with_statsmodels(backend, name):
    data, design = simulated()
    contrast = np.array(CONTRASTS[name], dtype=float)
    got = glm(backend.asarray(data), design, contrast)
    effect, variance, statistic, p, df = by_statsmodels(data, design, contrast[:2] if name == "redundant" else contrast)
    assert got.kind == ("t" if contrast.ndim == 1 else "F")
    assert backend.owns(got.statistic)
    assert got.statistic.dtype == got.z.dtype == np.float64
    np.testing.assert_allclose(host(backend, got.statistic), statistic, rtol=1e-9)
    np.testing.assert_allclose(host(backend, got.p), p, rtol=1e-8)
    np.testing.assert_allclose(host(backend, got.log10p), np.log10(p), rtol=1e-8, atol=1e-12)
    if got.kind == "t":
        assert got.df == df[0]
        np.testing.assert_allclose(host(backend, got.effect), effect, rtol=1e-9)
        np.testing.assert_allclose(host(backend, got.variance), variance, rtol=1e-9)
        z = -special.ndtri(stats.t.sf(np.abs(statistic), df)) * np.sign(statistic)
        np.testing.assert_allclose(host(backend, got.z), z, rtol=1e-7, atol=1e-9)
    else:
        assert got.df == (2 if name == "redundant" else len(contrast), df[0])
        upper = p < 0.5
        np.testing.assert_allclose(host(backend, got.z)[upper], -special.ndtri(p[upper]), rtol=1e-7, atol=1e-9)
    assert (got.n_constant, got.n_not_estimable) == (0, 0)


def test_rows_of_f_have_the_effects_and_variances_of_their_t():
    data, design = simulated()
    both = glm(data, design, {"f": np.array(CONTRASTS["groups"]), "a": [1, -1, 0, 0], "b": [0, 1, -1, 0]})
    assert list(both) == ["f", "a", "b"]
    for row, name in enumerate(["a", "b"]):
        np.testing.assert_allclose(both["f"].effect[row], both[name].effect, rtol=1e-11)
        np.testing.assert_allclose(both["f"].variance[row], both[name].variance, rtol=1e-11)


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_sides_of_the_p_value(alternative):
    data, design = simulated()
    got = glm(data, design[:, :3], [1, -1, 0], alternative=alternative)
    tail = {"less": stats.t.cdf, "greater": stats.t.sf, "two-sided": lambda t, df: 2 * stats.t.sf(abs(t), df)}
    np.testing.assert_allclose(got.p, tail[alternative](got.statistic, got.df), rtol=1e-9)


def test_designs_without_full_rank_give_what_can_be_estimated():
    data, design = simulated()
    wide = np.column_stack([np.ones(len(data)), design, 2 * design[:, 3] + 1])
    one, other = glm(data, design, [1, -1, 0, 0]), glm(data, wide, [0, 1, -1, 0, 0, 0])
    np.testing.assert_allclose(other.statistic, one.statistic, rtol=1e-10)
    assert other.df == one.df == 26
    with pytest.raises(DataError, match=r"slope .* is not estimable"):
        glm(data, wide, {"slope": [0, 0, 0, 0, 1, 0]})


@pytest.mark.parametrize("level", [0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_means_cost_no_digits(backend, level, dtype):
    data, design = simulated()
    data = (data + level).astype(dtype)
    got = glm(backend.asarray(data), design, [0, 0, 0, 1])
    exact = by_statsmodels(data.astype(np.float64) - level, design, np.array([0, 0, 0, 1.0]))
    assert got.statistic.dtype == got.effect.dtype == dtype
    np.testing.assert_allclose(host(backend, got.statistic), exact[2], rtol=1e-6 if dtype == np.float32 else 1e-9)
    np.testing.assert_allclose(host(backend, got.p), exact[3], rtol=1e-8)


def test_integers_are_data():
    data = np.random.default_rng(0).integers(0, 100, (12, 5)).astype(np.int16)
    got = glm(data, np.ones((12, 1)), [1])
    assert got.statistic.dtype == np.float32
    np.testing.assert_allclose(got.statistic, stats.ttest_1samp(data.astype(float), 0).statistic, rtol=1e-6)


def test_p_does_not_underflow():
    rng = np.random.default_rng(0)
    data = rng.normal(1, 1e-3, (200, 3))
    got = glm(data, np.ones((200, 1)), [1])
    assert np.all(got.p == 0)
    assert np.all(np.isfinite(got.log10p))
    assert np.all(got.log10p < -308)
    assert np.all(np.isfinite(got.z))


def test_memory_order_changes_nothing():
    data, design = simulated(v=500)
    contrasts = {"t": [1, -1, 0, 0], "f": np.array(CONTRASTS["groups"])}
    whole = glm(data, design, contrasts)
    other = glm(np.asfortranarray(data), design, contrasts)
    for name in contrasts:
        np.testing.assert_array_equal(other[name].statistic, whole[name].statistic)
        np.testing.assert_array_equal(other[name].p, whole[name].p)


# --------------------------------------------------------------------------- constant elements


@pytest.mark.parametrize("intercept", [True, False])
def test_elements_without_residual_variance_are_counted(backend, intercept):
    data, design = simulated(v=6)
    design = design if intercept else design[:, [0, 3]]
    data[:, 1] = 7.25
    data[:, 3] = 0
    data[:, 4] = design[:, -1] * 3 + design[:, 0]
    contrast = np.eye(design.shape[1])[0]
    got = glm(backend.asarray(data), design, {"t": contrast, "F": contrast[None]})
    for result in got.values():
        assert result.n_constant == 3
        nan = np.isnan(host(backend, result.statistic))
        np.testing.assert_array_equal(nan, [False, True, False, True, True, False])
        for other in (result.p, result.log10p, result.z):
            np.testing.assert_array_equal(np.isnan(host(backend, other)), nan)


# --------------------------------------------------------------------------- missing data


@pytest.mark.parametrize("contrast", [[0, 0, 0, 1], [[1, -1, 0, 0], [0, 1, -1, 0]]])
def test_missing_values_are_left_out_element_by_element(backend, contrast):
    data, design = simulated(v=30)
    rng = np.random.default_rng(1)
    data[rng.random(data.shape) < 0.1] = np.nan
    data[:, :5] = np.where(np.isnan(data[:, :5]), 1.0, data[:, :5])
    got = glm(backend.asarray(data), design, np.array(contrast, dtype=float), missing="pattern")
    _, _, statistic, p, df = by_statsmodels(data, design, np.array(contrast, dtype=float))
    np.testing.assert_allclose(host(backend, got.statistic), statistic, rtol=1e-9)
    np.testing.assert_allclose(host(backend, got.p), p, rtol=1e-8)
    np.testing.assert_array_equal(host(backend, got.df[1] if np.ndim(contrast) == 2 else got.df), df)
    assert got.n_not_estimable == 0


def test_elements_whose_rest_cannot_answer_are_counted():
    data, design = simulated(v=5)
    data[:, 0] = np.nan
    data[design[:, 1] == 1, 1] = np.nan  # a whole group is gone
    data[4:, 2] = np.nan  # four observations for four regressors
    got = glm(data, design, [1, -1, 0, 0], missing="pattern")
    assert got.n_not_estimable == 3
    np.testing.assert_array_equal(np.isnan(got.statistic), [True, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(got.effect), [True, True, True, False, False])
    full = glm(data[:, 3:], design, [1, -1, 0, 0])
    np.testing.assert_allclose(got.statistic[3:], full.statistic, rtol=1e-12)
    kept = glm(data, design, [1, 0, -1, 0], missing="pattern")
    assert kept.n_not_estimable == 2  # the second element still has these two groups
    assert kept.df[1] == 20 - 3


def test_pattern_without_missing_values_changes_nothing():
    data, design = simulated()
    one, other = glm(data, design, [1, -1, 0, 0]), glm(data, design, [1, -1, 0, 0], missing="pattern")
    assert other.df == one.df
    np.testing.assert_allclose(other.statistic, one.statistic, rtol=1e-12)


# --------------------------------------------------------------------------- element-wise regressors


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("contrast", [[1, -1, 0, 0], [1, 0, 0, 0], [[1, -1, 0, 0], [0, 1, -1, 0]]])
def test_element_wise_nuisance(backend, q, contrast):
    data, design = simulated(v=12)
    rng = np.random.default_rng(2)
    extra = [rng.normal(1e3 * j, 2, data.shape) + data * 0.3 for j in range(q)]
    full = np.pad(np.array(contrast, dtype=float), [(0, 0)] * (np.ndim(contrast) - 1) + [(0, q)])
    effect, variance, statistic, p, df = by_statsmodels(data, design, full, extra)
    given = backend.asarray(np.stack(extra, axis=2)) if q == 3 else [backend.asarray(e) for e in extra]
    got = glm(backend.asarray(data), design, contrast, elementwise=given)
    np.testing.assert_allclose(host(backend, got.statistic), statistic, rtol=1e-7)
    np.testing.assert_allclose(host(backend, got.p), p, rtol=1e-6)
    assert (got.df[1] if np.ndim(contrast) == 2 else got.df) == df[0]
    if np.ndim(contrast) == 1:
        np.testing.assert_allclose(host(backend, got.effect), effect, rtol=1e-7)
        np.testing.assert_allclose(host(backend, got.variance), variance, rtol=1e-7)


@pytest.mark.parametrize("contrast", [[0, 0, 0, 0, 1, 0], [0.5, 0, 0, 0, 0, -1], [[0, 0, 0, 0, 1, 0], [0] * 5 + [1]]])
def test_element_wise_regressors_of_interest_with_missing_values(contrast):
    data, design = simulated(v=10)
    rng = np.random.default_rng(3)
    extra = [rng.normal(5, 1, data.shape), rng.normal(size=data.shape)]
    data[2, 3] = extra[0][5, 3] = extra[1][7, 8] = np.nan
    contrast = np.array(contrast, dtype=float)
    _, _, statistic, p, df = by_statsmodels(data, design, contrast, extra)
    got = glm(data, design, contrast, elementwise=extra, missing="pattern")
    np.testing.assert_allclose(got.statistic, statistic, rtol=1e-9)
    np.testing.assert_allclose(got.p, p, rtol=1e-8)
    np.testing.assert_array_equal(got.df[1] if contrast.ndim == 2 else got.df, df)


def test_collinear_element_wise_regressors_are_counted():
    data, design = simulated(v=4)
    extra = np.random.default_rng(4).normal(size=data.shape)
    extra[:, 1] = 3.0
    extra[:, 2] = design @ [1, 2, 3, 4.0]
    got = glm(data, design, [1, -1, 0, 0], elementwise=extra)
    assert (got.n_not_estimable, got.n_constant) == (2, 0)
    np.testing.assert_array_equal(np.isnan(got.statistic), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(got.effect), [False, True, True, False])


# --------------------------------------------------------------------------- variance groups


@pytest.mark.parametrize("kind", ["dummies", "coded"])
def test_v_of_two_groups_is_welchs_test(backend, kind):
    rng = np.random.default_rng(5)
    group = np.repeat([0, 1], [9, 16])
    data = rng.normal(size=(25, 30)) * np.where(group, 4, 1)[:, None] + 100
    dummies = np.column_stack([group, 1 - group])
    design, contrast = (dummies, [1, -1]) if kind == "dummies" else (np.column_stack([np.ones(25), group]), [0, 1])
    want = stats.ttest_ind(data[group == 1], data[group == 0], equal_var=False)
    got = glm(backend.asarray(data), design, contrast, variance_groups=np.array(["b", "a"])[group])
    assert got.kind == "v"
    np.testing.assert_allclose(host(backend, got.statistic), want.statistic, rtol=1e-9)
    np.testing.assert_allclose(host(backend, got.df), want.df, rtol=1e-9)
    np.testing.assert_allclose(host(backend, got.p), want.pvalue, rtol=1e-8)


def test_v_of_one_group_is_its_own_t_test():
    rng = np.random.default_rng(6)
    group = np.arange(20) % 2
    data = rng.normal(1, 1, (20, 10)) * (1 + 5 * group)[:, None]
    got = glm(data, np.column_stack([group, 1 - group]), [1, 0], variance_groups=group)
    want = stats.ttest_1samp(data[group == 1], 0)
    np.testing.assert_allclose(got.statistic, want.statistic, rtol=1e-9)
    np.testing.assert_allclose(got.df, 9, rtol=1e-9)
    np.testing.assert_allclose(got.p, want.pvalue, rtol=1e-8)


def test_g_of_the_groups_is_welchs_analysis_of_variance(backend):
    rng = np.random.default_rng(7)
    group = np.repeat([0, 1, 2], [6, 9, 14])
    data = rng.normal(size=(29, 12)) * np.array([1, 3, 0.5])[group][:, None]
    got = glm(backend.asarray(data), np.eye(3)[group], np.array([[1.0, -1, 0], [0, 1, -1]]), variance_groups=group + 1)
    assert got.kind == "G"
    for j in range(12):
        want = anova_oneway([data[group == g, j] for g in range(3)], use_var="unequal", welch_correction=True)
        np.testing.assert_allclose(host(backend, got.statistic)[j], want.statistic, rtol=1e-9)
        np.testing.assert_allclose(host(backend, got.df[1])[j], want.df_denom, rtol=1e-9)
        np.testing.assert_allclose(host(backend, got.p)[j], want.pvalue, rtol=1e-8)


def test_one_variance_group_is_the_ordinary_model():
    data, design = simulated()
    for contrast in ([1, -1, 0, 0], [0, 0, 0, 1]):
        one, other = glm(data, design, contrast), glm(data, design, contrast, variance_groups=np.zeros(30))
        np.testing.assert_allclose(other.statistic, one.statistic, rtol=1e-9)
        np.testing.assert_allclose(other.df, one.df, rtol=1e-9)


def test_v_with_covariates_by_the_formula():
    data, design = simulated(v=8)
    group = np.arange(30) % 2
    c = np.array([1, -1, 0, 0.0])
    got = glm(data, design, c, variance_groups=group)
    beta = np.linalg.pinv(design) @ data
    e = data - design @ beta
    leverage = np.diag(np.eye(30) - design @ np.linalg.pinv(design))
    for j in range(8):
        w = np.array([leverage[group == g].sum() / (e[group == g, j] ** 2).sum() for g in (0, 1)])[group]
        variance = c @ np.linalg.inv(design.T @ (w[:, None] * design)) @ c
        np.testing.assert_allclose(got.statistic[j], c @ beta[:, j] / np.sqrt(variance), rtol=1e-9)


def test_v_with_missing_values_and_constant_elements():
    rng = np.random.default_rng(8)
    group = np.arange(24) % 2
    data = rng.normal(size=(24, 6))
    data[3, 0] = data[6, 0] = np.nan
    data[group == 1, 1] = np.nan
    data[:, 2] = 5
    data[group == 0, 3] = 1
    got = glm(data, np.column_stack([group, 1 - group]), [1, -1], variance_groups=group, missing="pattern")
    for j in (0, 4, 5):
        want = stats.ttest_ind(data[group == 1, j], data[group == 0, j], equal_var=False, nan_policy="omit")
        np.testing.assert_allclose(got.statistic[j], want.statistic, rtol=1e-9)
        np.testing.assert_allclose(got.df[j], want.df, rtol=1e-9)
    assert (got.n_not_estimable, got.n_constant) == (1, 2)
    assert np.isnan(got.statistic[1:4]).all()


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": np.ones((29, 4))}, DataError, "design has 30 rows but data have 29"),
        ({"data": np.ones(30)}, DataError, r"shape \(30,\)"),
        ({"data": np.full((30, 4), np.nan)}, DataError, "120 values that are NaN or infinite, in 4 of 4 elements"),
        ({"data": np.full((30, 4), np.inf), "missing": "pattern"}, DataError, "infinite"),
        ({"missing": "drop"}, UsageError, 'missing is "drop"'),
        ({"alternative": "upper"}, UsageError, 'alternative is "upper"'),
        ({"contrasts": {}}, UsageError, "no contrasts"),
        ({"contrasts": {"age": [1, 0]}}, DataError, "age has 2 weights"),
        ({"variance_groups": [1, 2]}, DataError, r"variance_groups have shape \(2,\)"),
        ({"variance_groups": np.full(30, np.nan)}, DataError, "variance_groups hold NaN"),
        ({"variance_groups": np.arange(30), "design": np.eye(30)[:, :1], "contrasts": [1]}, DataError, "group 1 has 1"),
        ({"elementwise": np.ones((30, 3))}, DataError, "element-wise regressor 1 has shape"),
        ({"elementwise": np.full((30, 4), np.nan)}, DataError, "element-wise regressor 1 holds 120"),
        ({"elementwise": np.ones((30, 4)), "variance_groups": np.ones(30)}, UsageError, "variance_groups together"),
        ({"elementwise": np.ones((30, 4, 26))}, DataError, "no degrees of freedom"),
        ({"data": np.ones((30, 4)) * 1j}, DataError, "complex"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(change, error, message):
    data, design = simulated(v=4)
    arguments = {"data": data, "design": design, "contrasts": [1, -1, 0, 0]} | change
    with pytest.raises(error, match=message):
        glm(**arguments)


def test_mixed_devices_are_refused(standin_cupy):
    data, design = simulated(v=4)
    with pytest.raises(BackendError, match="mixed"):
        glm(data, design, [1, -1, 0, 0], elementwise=standin_cupy.asarray(data))


def test_no_elements_is_no_error():
    got = glm(np.empty((10, 0)), np.ones((10, 1)), [1])
    assert isinstance(got, GlmResult)
    assert got.statistic.shape == got.p.shape == (0,)


# --------------------------------------------------------------------------- PALM's statistics


def golden_case(case):
    folder = GOLDEN / case
    if not folder.is_dir():
        pytest.skip(f"PALM's outputs are not at {GOLDEN}")
    import nibabel as nib

    def image(name):
        return np.asarray(nib.load(folder / name).dataobj)

    mask = image("mask.nii.gz") > 0
    tables = {name: np.loadtxt(folder / f"{name}.csv", delimiter=",", ndmin=2) for name in ("design", "contrast")}
    return image("data.nii.gz")[mask].T, tables, lambda name: image(name).reshape(mask.shape)[mask], folder


@pytest.mark.parametrize(
    ("case", "rows", "name"),
    [
        ("onesample_flip_exhaustive10", 0, "palm_vox_tstat"),
        ("onesample_flip_n30", 0, "palm_vox_tstat"),
        ("regression_freedmanlane_n30", 0, "palm_vox_tstat"),
        ("paired_blocks_exhaustive8", 0, "palm_vox_tstat"),
        ("wholeblock_exhaustive8", 0, "palm_vox_tstat"),
        ("anova3_covariate_F_n30", 0, "palm_vox_tstat_c1"),
        ("anova3_covariate_F_n30", 1, "palm_vox_tstat_c2"),
        ("anova3_covariate_F_n30", slice(None), "palm_vox_fstat_c3"),
        ("twogroup_vstat_n30", 0, "palm_vox_vstat"),
    ],
)
def test_statistics_are_palms(case, rows, name):
    data, tables, image, folder = golden_case(case)
    groups = np.loadtxt(folder / "vg.csv") if (folder / "vg.csv").is_file() else None
    got = glm(data, tables["design"], tables["contrast"][rows], variance_groups=groups)
    want = image(f"{name}.nii.gz")
    np.testing.assert_allclose(got.statistic, want, rtol=1e-5, atol=1e-6)
    if groups is not None:  # where PALM's degrees of freedom are a third of Welch's, ours are SciPy's
        second = groups == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            welch = stats.ttest_ind(data[second].astype(float), data[~second].astype(float), equal_var=False)
        np.testing.assert_allclose(got.df, welch.df, rtol=1e-9)
        np.testing.assert_allclose(got.p, welch.pvalue, rtol=1e-8)
