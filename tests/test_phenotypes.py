"""Many phenotypes at once: each as if it were tested alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.errors import DataError, UsageError
from gpuroi.inference import permutation_test, phenotype_test
from gpuroi.inference.phenotype_tally import HISTOGRAM_STEP


class Table:
    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def columns(self, start, stop):
        return self.values[:, start:stop].copy()


def study(n=24, v=300, n_phenotypes=7, dtype=np.float64):
    rng = np.random.default_rng(5)
    y = rng.standard_normal((n, v)).astype(dtype)
    traits = rng.standard_normal((n, n_phenotypes)) + 100
    y[:, 11] += 2 * traits[:, 1]
    covariates = np.column_stack([np.ones(n), rng.standard_normal(n), np.arange(n) % 2])
    return y, traits, covariates


def ols_t(y, trait, covariates):
    """t of the trait at every element, by statsmodels."""
    there = ~np.isnan(trait)
    design = np.column_stack([trait, covariates])[there]
    return np.array([sm.OLS(column, design).fit().tvalues[0] for column in y[there].T.astype(float)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_those_of_a_regression(backend, dtype):
    y, traits, covariates = study(dtype=dtype)
    traits[3:6, 4] = np.nan
    names = [f"trait {j}" for j in range(7)]
    result = phenotype_test(backend.asarray(y), traits, covariates, names=names, top=5, maps=names)
    for j, name in enumerate(names):
        want = ols_t(y, traits[:, j], covariates)
        np.testing.assert_allclose(result.maps[name], want, rtol=1e-9 if dtype == np.float64 else 2e-4, atol=1e-5)
        order = np.argsort(-np.abs(want))[:5]
        mine = result.top[result.top["phenotype"] == name]
        assert mine["element"].tolist() == order.tolist()
        assert mine["rank"].tolist() == [1, 2, 3, 4, 5]
        n, df = (21, 17) if j == 4 else (24, 20)
        assert (mine["n"].unique().tolist(), mine["df"].unique().tolist()) == ([n], [df])
        p = 2 * scipy.stats.t.sf(np.abs(want[order]), df)
        np.testing.assert_allclose(mine["p"], p, rtol=1e-6 if dtype == np.float64 else 1e-2)
        counts, _ = np.histogram(result.maps[name].astype(float), result.histogram_edges)
        assert np.abs(counts - result.histogram[j]).sum() <= 2  # a value on an edge may fall either way
    assert result.histogram.sum(axis=1).tolist() == [300] * 7
    assert np.diff(result.histogram_edges) == pytest.approx(HISTOGRAM_STEP)
    assert result.table["p_fwe"].isna().all()
    assert result.null.shape == (0, 7)


@pytest.mark.parametrize("errors", ["ee", "ise"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_each_phenotype_is_tested_as_if_alone(errors, two_sided):
    y, traits, covariates = study(v=3000, dtype=np.float32)
    result = phenotype_test(
        y, traits, covariates, n_permutations=120, errors=errors, two_sided=two_sided, seed=3, top=4, device="cpu"
    )
    assert result.n_permutations == 120
    for j in range(7):
        alone = permutation_test(
            y,
            np.column_stack([traits[:, j], covariates]),
            [1, 0, 0, 0],
            n_permutations=120,
            errors=errors,
            two_sided=two_sided,
            seed=3,
            device="cpu",
        )
        np.testing.assert_allclose(result.null[:, j], alone.null["max_stat"], rtol=1e-4)
        top = result.top[result.top["phenotype"] == str(j + 1)]
        np.testing.assert_array_equal(top["p_fwe"], alone.p_fwe[top["element"]])
    # Over phenotypes: the largest of all seven.
    together = result.null.max(axis=1)
    for row in result.table.itertuples():
        size = abs(row.t) if two_sided else row.t
        assert row.p_fwe_all == pytest.approx(np.mean(together >= size * (1 - 1e-5)))
        assert row.p_fwe <= row.p_fwe_all


def test_those_who_have_a_phenotype_are_permuted_among_themselves():
    y, traits, covariates = study(n=9, v=40, n_phenotypes=2)
    covariates = covariates[:, :1]
    traits[[1, 5], 1] = np.nan
    there = ~np.isnan(traits[:, 1])
    result = phenotype_test(y, traits, covariates, n_permutations=400, device="cpu")
    # Every maximum is that of some permutation of the seven: all 5040 by brute force.
    from itertools import permutations

    x = traits[there, 1] - traits[there, 1].mean()
    x /= np.linalg.norm(x)
    e = y[there] - y[there].mean(axis=0)
    e /= np.linalg.norm(e, axis=0)
    orders = np.array(list(permutations(range(7))))
    r = np.abs(x[orders] @ e).max(axis=1)
    every = np.sort(r * np.sqrt(5 / (1 - r * r)))
    place = np.searchsorted(every, result.null[:, 1])
    nearest = np.minimum(
        np.abs(every[np.minimum(place, 5039)] - result.null[:, 1]), np.abs(every[place - 1] - result.null[:, 1])
    )
    assert nearest.max() < 1e-8
    assert scipy.stats.kstest(result.null[1:, 1], every).pvalue > 0.001
    assert len(np.unique(result.null[:, 1].round(9))) > 300


def test_phenotypes_of_different_degrees_of_freedom_are_compared_as_z():
    y, traits, covariates = study(n=20, v=60, n_phenotypes=3)
    traits[:12, 0] = np.nan  # 8 subjects: t is large by chance
    result = phenotype_test(y, traits, covariates[:, :1], n_permutations=300, device="cpu")
    z = scipy.stats.norm.isf(scipy.stats.t.sf(result.null, result.table["df"].to_numpy()))
    for j, row in result.table.iterrows():
        observed = scipy.stats.norm.isf(scipy.stats.t.sf(abs(row["t"]), row["df"]))
        assert row["p_fwe_all"] == pytest.approx(np.mean(z.max(axis=1) >= observed - 1e-9))
        assert row["p_fwe"] == pytest.approx(np.mean(result.null[:, j] >= abs(row["t"]) - 1e-9))


def test_not_a_bit_depends_on_threads_memory_or_device_name(tmp_path):
    y, traits, covariates = study(v=9000, dtype=np.float32)
    traits[0, 1] = np.nan
    y[:, 17] = 4.0
    options = {"n_permutations": 60, "maps": ["2"], "top": 20, "device": "cpu"}
    want = phenotype_test(y, traits, covariates, n_jobs=1, **options)
    assert want.n_left_out.tolist() == [1] * 7
    assert np.flatnonzero(np.isnan(want.maps["2"])).tolist() == [17]
    for data, extra in ((y, {"n_jobs": 3}), (Table(y), {"scratch": tmp_path, "n_jobs": 2})):
        got = phenotype_test(data, traits, covariates, **extra, **options)
        assert got.top.equals(want.top)
        np.testing.assert_array_equal(got.null, want.null)
        np.testing.assert_array_equal(got.histogram, want.histogram)
        np.testing.assert_array_equal(got.maps["2"], want.maps["2"])
    assert list(tmp_path.iterdir()) == []


def test_devices_agree(backend):
    y, traits, covariates = study(dtype=np.float32)
    got = phenotype_test(backend.asarray(y), traits, covariates, n_permutations=30, top=3)
    want = phenotype_test(y, traits, covariates, n_permutations=30, top=3, device="cpu")
    np.testing.assert_allclose(got.null, want.null, rtol=1e-4)
    assert got.top["element"].tolist() == want.top["element"].tolist()
    assert got.top["p_fwe"].tolist() == want.top["p_fwe"].tolist()


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_the_largest_are_found_whatever_the_sizes(v, top, seed):
    rng = np.random.default_rng(seed)
    y, traits = rng.integers(-3, 4, (9, v)).astype(float), rng.integers(-3, 4, (9, 2)).astype(float)
    y[0], traits[0] = 5, 7  # neither is constant
    result = phenotype_test(y, traits, np.ones((9, 1)), top=top, maps=["1"], device="cpu")
    t = result.maps["1"]
    size = np.where(np.isnan(t), -1, np.abs(t))
    mine = result.top[result.top["phenotype"] == "1"]
    assert len(mine) == min(top, v)
    np.testing.assert_array_equal(np.abs(mine["t"]), np.sort(size)[::-1][: len(mine)])


def test_a_source_is_read_once_for_all_patterns_of_missing_values():
    y, traits, covariates = study(v=9000, dtype=np.float32)
    for j in range(5):
        traits[j : 2 * j + 1, j] = np.nan
    read = []

    class Counted(Table):
        def columns(self, start, stop):
            read.append((start, stop))
            return super().columns(start, stop)

    options = {"top": 9, "maps": ["3", "6"], "device": "cpu"}
    got = phenotype_test(Counted(y), traits, covariates, n_jobs=2, **options)
    assert sum(stop - start for start, stop in read) == 9000
    want = phenotype_test(y, traits, covariates, n_jobs=1, **options)
    assert got.top.equals(want.top)
    for j in (3, 6):
        alone = phenotype_test(y, traits[:, j - 1 : j], covariates, maps=["1"], device="cpu").maps["1"]
        np.testing.assert_allclose(got.maps[str(j)], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaps_of_phenotypes_meet_those_of_the_data(dtype):
    y, traits, covariates = study(v=400, dtype=dtype)
    for j in range(1, 7):
        traits[[j, 2 * j, 20], j] = np.nan
    y[20, 5] = np.nan  # missing in somebody who lacks all phenotypes but the first
    y[:, 6], y[20, 6] = 3.0, 9.0  # varies in that person alone
    y[:, 7] = 3.0 + 1e-5 * y[:, 7]
    y[20, 7] = 40.0  # varies hardly elsewhere
    y[:, 8], y[20, 8] = 4.0, np.inf
    y[3, 9] = np.nan
    names = [str(j + 1) for j in range(7)]
    result = phenotype_test(y, traits, covariates, maps=names, top=400, device="cpu")
    for j, name in enumerate(names):
        alone = phenotype_test(y, traits[:, j : j + 1], covariates, maps=["1"], top=400, device="cpu")
        rtol = 1e-9 if dtype == np.float64 else 2e-5
        np.testing.assert_allclose(
            result.maps[name], alone.maps["1"], rtol=rtol, atol=1e-6 if dtype == np.float32 else 1e-10
        )
        np.testing.assert_array_equal(result.histogram[j].sum(), alone.histogram[0].sum())
        assert result.n_left_out[j] == alone.n_left_out[0]
        assert len(result.top[result.top["phenotype"] == name]) == 400 - result.n_left_out[j] or j == 0
    missing = {name: np.flatnonzero(np.isnan(values)).tolist() for name, values in result.maps.items()}
    assert missing["1"] == [5, 8, 9]
    assert missing["3"] == [6, 8, 9]
    assert missing["4"] == [6, 8]  # the other gap of the data lies in that of the phenotype


@pytest.mark.parametrize("two_sided", [True, False])
def test_of_equal_statistics_the_first_elements_are_kept(two_sided):
    rng = np.random.default_rng(0)
    traits = rng.standard_normal((30, 2))
    y = np.tile(rng.standard_normal((30, 1)), (1, 7000)).astype(np.float32)
    y[:, 4000:4100] = -y[:, :1]
    result = phenotype_test(y, traits, np.ones((30, 1)), top=50, two_sided=two_sided, n_jobs=3, device="cpu")
    for _, rows in result.top.groupby("phenotype"):
        largest = rows["t"].abs() if two_sided else rows["t"]
        assert np.ptp(largest) < 1e-4
        kept = rows[largest == largest.max()]["element"]
        assert kept.is_monotonic_increasing
    assert result.histogram.sum(axis=1).tolist() == [7000, 7000]


@pytest.mark.parametrize(
    ("scale", "shift", "dtype"), [(1.0, 1e6, np.float64), (1e38, 0.0, np.float32), (1e-30, 0.0, np.float32)]
)
def test_neither_size_nor_mean_of_the_data_matters(scale, shift, dtype):
    y, traits, covariates = study(v=600)
    want = phenotype_test(y, traits, covariates, maps=["2"], device="cpu").maps["2"]
    moved = (scale * (y / np.abs(y).max()) + shift).astype(dtype)
    got = phenotype_test(moved, traits, covariates, maps=["2"], device="cpu").maps["2"]
    np.testing.assert_allclose(got, want, rtol=3e-4 if dtype == np.float32 else 1e-7, atol=1e-5)


def test_float32_data_far_from_zero_are_as_good_as_their_digits():
    y, traits, covariates = study(v=600)
    y = (y + 1e4).astype(np.float32)
    got = phenotype_test(y, traits, covariates, maps=["2"], device="cpu").maps["2"]
    want = phenotype_test(y.astype(np.float64), traits, covariates, maps=["2"], device="cpu").maps["2"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_permutations", [0, 20])
@pytest.mark.parametrize("two_sided", [True, False])
def test_elements_without_a_statistic_change_nothing_of_the_others(n_permutations, two_sided):
    y, traits, covariates = study(v=3000, dtype=np.float32)
    traits[0, 4] = np.nan
    options = {"n_permutations": n_permutations, "two_sided": two_sided, "top": 7, "maps": ["1", "5"], "device": "cpu"}
    want = phenotype_test(y, traits, covariates, **options)
    places = np.sort(np.random.default_rng(1).choice(4000, 1000, replace=False))
    wide = np.insert(y, places - np.arange(1000), np.float32(0), axis=1)
    bad = np.zeros(4000, bool)
    bad[places] = True
    wide[:, places[::3]] = 7.25
    wide[3, places[1::3]] = np.nan
    wide[:, places[2::3]] = np.inf
    got = phenotype_test(wide, traits, covariates, **options)
    assert got.n_left_out.tolist() == [1000] * 7
    np.testing.assert_array_equal(got.top["element"], np.flatnonzero(~bad)[want.top["element"]])
    np.testing.assert_allclose(got.top["t"], want.top["t"], rtol=1e-5)
    np.testing.assert_allclose(got.null, want.null, rtol=1e-5)
    for name in ("1", "5"):
        assert np.isnan(got.maps[name][bad]).all()
        np.testing.assert_allclose(got.maps[name][~bad], want.maps[name], rtol=1e-4, atol=1e-5)


def test_data_without_any_statistic_are_refused(backend):
    _, traits, covariates = study(v=20)
    for data in (np.ones((24, 20)), np.full((24, 20), np.nan)):
        with pytest.raises(DataError, match="has a statistic"):
            phenotype_test(backend.asarray(data), traits, covariates)


def test_progress_counts_every_product():
    y, traits, covariates = study()
    seen = []
    phenotype_test(
        y, traits, covariates, n_permutations=50, device="cpu", progress=lambda done, total: seen.append((done, total))
    )
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert seen[0] == (1, 51)  # one block of elements, as the phenotypes are
    assert seen[-1] == (51, 51)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"phenotypes": np.ones((23, 2))}, DataError, "phenotypes have shape"),
        ({"covariates": np.ones((24, 0))}, DataError, "covariates have shape"),
        (
            {"phenotypes": np.ones((24, 2)), "names": ["age", "sex"]},
            DataError,
            "tested: age is constant, sex is constant",
        ),
        ({"phenotypes": np.full((24, 1), np.nan), "names": ["iq"]}, DataError, "iq is missing in everybody"),
        ({"phenotypes": np.r_[1.0, 2, 3, 4, [np.nan] * 20][:, None]}, DataError, "1 is there in 4 of 24 only"),
        ({"phenotypes": np.r_[np.inf, np.arange(23.0)][:, None]}, DataError, "1 has infinite values"),
        ({"covariates": np.r_[np.nan, np.ones(23)][:, None]}, DataError, "row 1"),
        ({"names": ["a"] * 7}, UsageError, "1 different, for 7"),
        ({"maps": ["x"]}, UsageError, "unknown phenotypes: x"),
        ({"top": 0}, UsageError, "top is 0"),
    ],
)
def test_bad_input_is_named(change, error, message):
    y, traits, covariates = study()
    arguments = {"phenotypes": traits, "covariates": covariates, **change}
    with pytest.raises(error, match=message):
        phenotype_test(y, device="cpu", **arguments)
