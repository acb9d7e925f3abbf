"""Permutation inference against brute force: every rearrangement by a least-squares fit of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import STRUCTURES
from scipy import linalg, ndimage, stats

from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import permutation_test


def fit(x, y, contrast):
    """t or F by the pseudo-inverse: none of the engine's algebra."""
    c = np.atleast_2d(contrast)
    beta, df = np.linalg.pinv(x) @ y, len(x) - np.linalg.matrix_rank(x)
    residual = y - x @ beta
    s2 = (residual**2).sum(0) / df
    estimate, covariance = c @ beta, c @ np.linalg.pinv(x.T @ x) @ c.T
    if np.ndim(contrast) == 1:
        return estimate[0] / np.sqrt(s2 * covariance[0, 0])
    r = np.linalg.matrix_rank(c)
    return np.einsum("iv,ij,jv->v", estimate, np.linalg.pinv(covariance), estimate) / r / s2


def nuisance_of(x, contrast):
    """Projection on what the design holds where the contrast is 0."""
    _, s, vt = np.linalg.svd(np.atleast_2d(contrast))
    left = x @ vt[np.sum(s > 1e-10) :].T
    return left @ np.linalg.pinv(left) if left.shape[1] else np.zeros((len(x), len(x)))


def moved(row, e):
    """Residual i goes to row |row[i]| and takes its sign."""
    out = np.empty_like(e)
    out[np.abs(row) - 1] = np.sign(row)[:, None] * e
    return out


def brute_force(x, y, contrast, row, method):
    h = nuisance_of(x, contrast)
    if method == "freedman-lane":
        return fit(x, moved(row, y - h @ y) + h @ y, contrast)
    if method == "ter-braak":
        if np.array_equal(row, np.arange(1, len(x) + 1)):
            return fit(x, y, contrast)
        hat = x @ np.linalg.pinv(x)
        return fit(x, moved(row, y - hat @ y), contrast)
    # Draper and Stoneman: the regressors of interest move (back), the nuisance and the data stay.
    q, _ = np.linalg.qr(np.hstack([h, np.eye(len(x))])[:, : len(x)]) if h.any() else (np.empty((len(x), 0)), None)
    z = q[:, : np.linalg.matrix_rank(h)] if h.any() else q
    effect = (x - h @ x) @ np.linalg.pinv(x.T @ x) @ np.atleast_2d(contrast).T
    effect = effect - h @ effect
    effect = effect if np.ndim(contrast) == 1 else linalg.orth(effect, rcond=1e-9)
    back = np.sign(row)[:, None] * effect[np.abs(row) - 1]
    full = np.hstack([back, z])
    c = np.eye(effect.shape[1], full.shape[1])
    return fit(full, y, c[0] if np.ndim(contrast) == 1 else c)


def example(n=9, v=40, seed=0):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.standard_normal(n), np.arange(n) % 3 == 0, rng.standard_normal(n)])
    y = rng.standard_normal((n, v)) + 3 + x[:, 1:2] * rng.standard_normal(v)
    return x, y


def rearrangements(n, k, errors, seed=1):
    rng = np.random.default_rng(seed)
    rows = [np.arange(1, n + 1)]
    for _ in range(k - 1):
        row = rng.permutation(n) + 1 if errors != "ise" else np.arange(1, n + 1)
        rows.append(row * (rng.choice([-1, 1], n) if errors != "ee" else 1))
    return np.array(rows)


@pytest.mark.parametrize("method", ["freedman-lane", "draper-stoneman", "ter-braak"])
@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
@pytest.mark.parametrize(
    "contrast",
    [
        [0, 1, 0, 0],
        [0, 0.5, -2, 0],
        [[0, 1, 0, 0], [0, 0, 1, 0]],
        [[0, 0, 1, 0]],
        [[1, 1, 0, 0], [2, 2, 0, 0], [0, 0, 0, 1]],
    ],
    ids=["one", "two", "F2", "F1", "F-dependent"],
)
def test_every_rearrangement_equals_a_fit_of_its_own(backend, contrast, errors, method):
    x, y = example()
    rows = rearrangements(9, 130, errors)
    result = permutation_test(backend.asarray(y), x, contrast, permutations=rows, method=method, two_sided=True)
    want = np.array([brute_force(x, y, contrast, row, method) for row in rows])
    np.testing.assert_allclose(result.statistic, want[0], rtol=1e-9)
    np.testing.assert_allclose(result.null["max_stat"], np.abs(want).max(1), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(result.p, (np.abs(want) >= np.abs(want[0]) * (1 - 1e-9)).mean(0))
    largest = np.abs(want).max(1)
    np.testing.assert_allclose(result.p_fwe, [(largest >= abs(t) * (1 - 1e-9)).mean() for t in want[0]])


def test_one_sided_tests_count_one_side(backend):
    x, y = example()
    rows = rearrangements(9, 100, "ee")
    result = permutation_test(backend.asarray(y), x, [0, 1, 0, 0], permutations=rows, two_sided=False)
    want = np.array([brute_force(x, y, [0, 1, 0, 0], row, "freedman-lane") for row in rows])
    np.testing.assert_allclose(result.null["max_stat"], want.max(1), rtol=1e-8)
    np.testing.assert_allclose(result.p, (want >= want[0] - 1e-9).mean(0))


def test_one_sample_flips_are_exhaustive(backend):
    y = np.random.default_rng(2).standard_normal((8, 30)) + 0.5
    result = permutation_test(backend.asarray(y), np.ones((8, 1)), [1], errors="ise", n_permutations=5000)
    assert result.exhaustive
    assert result.n_permutations == 256
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    t = np.array([stats.ttest_1samp(f[:, None] * y, 0).statistic for f in flips])
    np.testing.assert_allclose(np.sort(result.null["max_stat"]), np.sort(np.abs(t).max(1)), rtol=1e-9)
    observed = stats.ttest_1samp(y, 0).statistic
    np.testing.assert_allclose(result.p, (np.abs(t) >= np.abs(observed) * (1 - 1e-12)).mean(0))


def test_two_groups_are_exhaustive_over_their_choices(backend):
    y = np.random.default_rng(3).standard_normal((7, 20))
    group = np.array([1, 1, 1, 0, 0, 0, 0.0])
    result = permutation_test(backend.asarray(y), np.column_stack([group, 1 - group]), [1, -1], n_permutations=100)
    assert (result.exhaustive, result.n_permutations) == (True, 35)
    t = []
    for chosen in itertools.combinations(range(7), 3):
        inside = np.isin(np.arange(7), chosen)
        t.append(stats.ttest_ind(y[inside], y[~inside]).statistic)
    np.testing.assert_allclose(np.sort(result.null["max_stat"]), np.sort(np.abs(t).max(1)), rtol=1e-9)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("scale", ["t", "z"])
def test_cluster_and_tfce_maxima_equal_scipy_on_every_map(backend, scale, two_sided, connectivity):
    rng = np.random.default_rng(4)
    mask = np.ones((6, 7, 8), bool)
    mask[2:4, 3, :] = False
    grid = VoxelGrid(mask, connectivity=connectivity)
    y = ndimage.gaussian_filter(rng.standard_normal((10, *mask.shape)), (0, 0.8, 0.8, 0.8))[:, mask]
    group = np.repeat([0.0, 1.0], 5)
    x = np.column_stack([np.ones(10), group])
    rows = rearrangements(10, 40, "ee")
    result = permutation_test(
        backend.asarray(y), x, [0, 1], domain=grid, permutations=rows, two_sided=two_sided,
        cluster_threshold=1.2, cluster_scale=scale, tfce=True, tfce_step=0.1,
    )  # fmt: skip
    sizes, masses, enhanced = [], [], []
    for row in rows:
        t = brute_force(x, y, [0, 1], row, "freedman-lane")
        value = t if scale == "t" else np.sign(t) * stats.norm.isf(stats.t.sf(np.abs(t), 8))
        size, mass, best = 0.0, 0.0, 0.0
        for sign in (1, -1) if two_sided else (1,):
            volume = np.zeros(mask.shape)
            volume[mask] = sign * value
            labels, n = ndimage.label(volume > 1.2, STRUCTURES[connectivity])
            index = range(1, n + 1)
            size = max([size, *ndimage.sum_labels(np.ones(mask.shape), labels, index)])
            mass = max([mass, *ndimage.sum_labels(volume, labels, index)])
            best = max(best, stepped_tfce(volume, 0.1, STRUCTURES[connectivity]).max())
        sizes.append(size), masses.append(mass), enhanced.append(best)
    np.testing.assert_array_equal(result.null["max_size"], sizes)
    np.testing.assert_allclose(result.null["max_mass"], masses, rtol=1e-6)
    np.testing.assert_allclose(result.null["max_tfce"], enhanced, rtol=1e-6)
    table = result.cluster_table
    if len(table):
        assert table["size"].max() == sizes[0]
        biggest = table["size"].idxmax()
        assert table.loc[biggest, "p_size_fwe"] == pytest.approx(np.mean(np.array(sizes) >= sizes[0]))
        assert result.cluster_labels.max() == len(table)
    best = np.nanargmax(np.abs(result.tfce))
    assert abs(result.tfce[best]) == pytest.approx(enhanced[0], rel=1e-6)
    assert result.tfce_p_fwe[best] == pytest.approx(np.mean(np.array(enhanced) >= enhanced[0] * (1 - 1e-6)))


def stepped_tfce(volume, dh, structure):
    out = np.zeros(volume.shape)
    for h in np.arange(1, int(volume.max() / dh) + 2) * dh:
        labels, n = ndimage.label(volume >= h, structure)
        if n:
            size = np.bincount(labels.ravel()).astype(float)
            size[0] = 0
            out += (size**0.5 * h**2 * dh)[labels]
    return out


def test_constant_and_missing_elements_are_left_out_and_counted(backend):
    x, y = example(v=12)
    y[:, 3] = 7.0
    y[:, 5] = 1e6
    y[2, 7] = np.nan
    y[4, 8] = np.inf
    result = permutation_test(backend.asarray(y), x, [0, 1, 0, 0], n_permutations=60)
    gone = np.isin(np.arange(12), [3, 5, 7, 8])
    for values in (result.statistic, result.p, result.p_fwe, result.p_fdr, result.effect):
        np.testing.assert_array_equal(np.isnan(values), gone)
    assert result.n_left_out == 4
    rest = permutation_test(backend.asarray(y[:, ~gone]), x, [0, 1, 0, 0], n_permutations=60)
    np.testing.assert_array_equal(result.null["max_stat"], rest.null["max_stat"])


def test_effect_is_the_contrast_of_the_estimates(backend):
    x, y = example()
    y = y * np.linspace(0.1, 30, 40)
    result = permutation_test(backend.asarray(y), x, [0, 2, -1, 0], n_permutations=4)
    np.testing.assert_allclose(result.effect, np.array([0, 2, -1, 0]) @ np.linalg.pinv(x) @ y, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_means_keep_their_digits(dtype):
    x, y = example(v=200)
    y = (y + 1e5).astype(dtype)
    result = permutation_test(y, x, [0, 1, 0, 0], n_permutations=50, device="cpu")
    want = fit(x, y.astype(np.float64) - 1e5, [0, 1, 0, 0])
    np.testing.assert_allclose(result.statistic, want, rtol=1e-5 if dtype == np.float32 else 1e-8, atol=1e-6)


def test_float32_is_right_to_1e5_in_t():
    rng = np.random.default_rng(5)
    y = rng.standard_normal((60, 500)).astype(np.float32) + np.float32(100)
    x = np.column_stack([np.ones(60), rng.standard_normal((60, 4))])
    rows = rearrangements(60, 64, "ee")
    result = permutation_test(y, x, [0, 1, 0, 0, 0], permutations=rows, device="cpu")
    want = np.array([brute_force(x, y.astype(np.float64), [0, 1, 0, 0, 0], row, "freedman-lane") for row in rows])
    assert np.abs(result.null["max_stat"] - np.abs(want).max(1)).max() < 1e-5


def test_results_do_not_depend_on_batches_blocks_or_threads(monkeypatch):
    x, y = example(n=12, v=3000)
    y = y.astype(np.float32)
    grid = VoxelGrid(np.ones((10, 15, 20), bool))
    options = {"domain": grid, "n_permutations": 150, "cluster_threshold": 2.0, "tfce": True, "device": "cpu"}
    base = permutation_test(y, x, [0, 1, 0, 0], **options)
    for batch, block, jobs in ((64, 8192, 1), (64, 700, 2), (17, 1111, 3)):
        monkeypatch.setattr("gpuroi.inference.permutation_run.BATCH", batch)
        monkeypatch.setattr("gpuroi.inference.permutation_run.product_block", lambda *_, block=block: block)
        other = permutation_test(y, x, [0, 1, 0, 0], n_jobs=jobs, **options)
        for name in ("p", "p_fwe", "p_fdr", "tfce_p_fwe", "cluster_labels"):
            np.testing.assert_array_equal(getattr(other, name), getattr(base, name))
        for name, values in base.null.items():
            np.testing.assert_allclose(other.null[name], values, rtol=2e-5)


@pytest.mark.parametrize("options", [{}, {"errors": "ise", "flips": "group"}, {"variance_groups": [0, 1] * 6}])
def test_not_a_bit_depends_on_the_number_of_threads(options):
    x, y = example(n=12, v=9000)
    grid = VoxelGrid(np.ones((20, 18, 25), bool))
    n = 20 if "variance_groups" in options else 150
    options = {"domain": grid, "n_permutations": n, "cluster_threshold": 2.0, "tfce": True, "device": "cpu", **options}
    one, *others = [
        permutation_test(y.astype(np.float32), x, [0, 1, 0, 0], n_jobs=jobs, **options) for jobs in (1, 2, 5)
    ]
    for other in others:
        for name in ("statistic", "p", "p_fwe", "p_fdr", "tfce", "tfce_p_fwe", "cluster_labels"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
        for name, values in one.null.items():
            np.testing.assert_array_equal(other.null[name], values)
        assert other.cluster_table.equals(one.cluster_table)


def test_the_settings_say_how_observations_were_exchanged():
    x, y = example(n=12, v=5)
    blocks = np.repeat([1, 2, 3], 4)
    within = permutation_test(y, x, [0, 1, 0, 0], blocks=blocks, n_permutations=300)
    assert within.settings["blocks"] == "3 blocks, exchanged within"
    assert within.settings["n_variance_groups"] == 1
    plain = permutation_test(y, x, [0, 1, 0, 0], variance_groups=[0, 1] * 6, n_permutations=20)
    assert (plain.settings["blocks"], plain.settings["n_variance_groups"]) == (None, 2)


def test_a_run_that_was_interrupted_goes_on_to_the_same_result(backend):
    x, y = example(n=12, v=100)
    states = []
    whole = permutation_test(backend.asarray(y), x, [0, 1, 0, 0], n_permutations=300, checkpoint=states.append)
    assert [s.done for s in states][-1] == 300
    for state in states[:-1]:
        again = permutation_test(backend.asarray(y), x, [0, 1, 0, 0], n_permutations=300, resume=state)
        np.testing.assert_array_equal(again.p, whole.p)
        np.testing.assert_array_equal(again.null["max_stat"], whole.null["max_stat"])
    with pytest.raises(DataError, match="another test"):
        permutation_test(backend.asarray(y + 1e-3 * x[:, 1:2]), x, [0, 1, 0, 0], n_permutations=300, resume=states[0])


def test_the_seed_decides_and_progress_is_told():
    x, y = example(n=12, v=20)
    seen = []
    one = permutation_test(y, x, [0, 1, 0, 0], n_permutations=200, seed=3, progress=lambda a, b: seen.append((a, b)))
    two = permutation_test(y, x, [0, 1, 0, 0], n_permutations=200, seed=3)
    other = permutation_test(y, x, [0, 1, 0, 0], n_permutations=200, seed=4)
    np.testing.assert_array_equal(one.null["max_stat"], two.null["max_stat"])
    assert (one.null["max_stat"] != other.null["max_stat"]).any()
    assert seen[-1] == (200, 200)


@given(seed=st.integers(0, 500))
def test_p_is_valid_and_never_zero(seed):
    rng = np.random.default_rng(seed)
    y, x = rng.standard_normal((10, 15)), np.column_stack([np.ones(10), rng.standard_normal(10)])
    result = permutation_test(y, x, [0, 1], n_permutations=40, seed=seed, device="cpu")
    assert result.smallest_p == 1 / 40
    assert (result.p >= 1 / 40).all()
    assert (result.p_fwe >= result.p).all()
    assert (result.p_fwe <= 1).all()


def test_no_sign_is_flipped_because_a_column_is_constant():
    """nilearn flips signs whenever the confounds hold an intercept, whatever is tested."""
    rng = np.random.default_rng(6)
    y = rng.exponential(size=(14, 50))
    group = np.repeat([0.0, 1.0], 7)
    result = permutation_test(y, np.column_stack([group, np.ones(14)]), [1, 0], n_permutations=100_000)
    assert result.n_permutations == 3432  # 14 choose 7


def test_contrast_over_three_groups_is_that_of_the_model():
    """c = [1, -.5, -.5] tests the first group against the mean of the others, with all three in the model."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.eye(3), 5, axis=0)
    y = rng.standard_normal((15, 8)) + groups @ np.array([[0.0], [1.0], [5.0]])
    result = permutation_test(y, groups, [1, -0.5, -0.5], n_permutations=20)
    np.testing.assert_allclose(result.statistic, fit(groups, y, [1, -0.5, -0.5]), rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"contrast": [0, 1]}, DataError, "contrast"),
        ({"design": np.ones((5, 1))}, DataError, "rows"),
        ({"cluster_threshold": 2.0}, UsageError, "neighbours"),
        ({"tfce": True}, UsageError, "neighbours"),
        ({"method": "manly"}, UsageError, "method"),
        ({"domain": VoxelGrid(np.ones((2, 2, 2), bool)), "tfce": True}, DataError, "elements"),
        ({"domain": VoxelGrid(np.ones((2, 4, 5), bool)), "cluster_threshold": 0.0}, UsageError, "cluster_threshold"),
        ({"cluster_scale": "p"}, UsageError, "cluster_scale"),
        ({"tail": "normal"}, UsageError, "tail"),
        ({"contrast": [1, 0, 0, 0], "design": np.eye(9)[:, :4] * 0 + 1}, DataError, "estimable"),
        ({"blocks": np.arange(9)}, DataError, "block"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    x, y = example()
    arguments = {"design": x, "contrast": [0, 1, 0, 0], "n_permutations": 20, "device": "cpu"} | change
    with pytest.raises(error, match=message):
        permutation_test(y, **arguments)


def test_a_constant_regressor_of_interest_cannot_be_permuted():
    with pytest.raises(DataError, match="constant"):
        permutation_test(np.random.default_rng(8).standard_normal((9, 3)), np.ones((9, 1)), [1])


def test_nothing_to_test_is_refused():
    with pytest.raises(DataError, match="none of the 3 elements"):
        permutation_test(np.ones((9, 3)), example()[0], [0, 1, 0, 0])


def test_v_of_every_rearrangement_equals_welch(backend):
    """Two groups: v of the rearranged data is Welch's t of the rearranged samples, compared as z."""
    rng = np.random.default_rng(9)
    group = np.repeat([True, False], [6, 9])
    y = rng.standard_normal((15, 25)) * np.where(group, 3.0, 1.0)[:, None]
    x = np.column_stack([group, ~group]).astype(float)
    rows = rearrangements(15, 30, "ee")
    result = permutation_test(backend.asarray(y), x, [1, -1], permutations=rows, variance_groups=group)
    want, z = [], []
    for row in rows:
        sample = moved(row, y - y.mean(0)) + y.mean(0)
        welch = stats.ttest_ind(sample[group], sample[~group], equal_var=False)
        want.append(welch.statistic)
        z.append(np.sign(welch.statistic) * stats.norm.isf(stats.t.sf(np.abs(welch.statistic), welch.df)))
    np.testing.assert_allclose(result.statistic, want[0], rtol=1e-9)
    np.testing.assert_allclose(result.null["max_stat"], np.abs(z).max(1), rtol=1e-7)
    np.testing.assert_allclose(result.p, (np.abs(z) >= np.abs(z[0]) * (1 - 1e-9)).mean(0))


def test_elements_that_do_not_vary_in_a_group_are_left_out():
    y = np.random.default_rng(10).standard_normal((12, 6))
    group = np.repeat([0, 1], 6)
    y[:6, 2] = 4.0
    x = np.column_stack([group == 0, group == 1]).astype(float)
    result = permutation_test(y, x, [1, -1], variance_groups=group, n_permutations=30, device="cpu")
    np.testing.assert_array_equal(np.isnan(result.p), np.arange(6) == 2)
    assert result.n_left_out == 1


def test_cluster_mass_may_be_what_exceeds_the_threshold():
    x, y = example(v=24)
    grid = VoxelGrid(np.ones((2, 3, 4), bool))
    options = {"domain": grid, "cluster_threshold": 1.0, "n_permutations": 30, "device": "cpu"}
    whole = permutation_test(y, x, [0, 1, 0, 0], **options)
    excess = permutation_test(y, x, [0, 1, 0, 0], cluster_mass="excess", **options)
    table = whole.cluster_table
    np.testing.assert_allclose(excess.cluster_table["mass"], table["mass"] - table["size"], rtol=1e-9)


def test_few_rearrangements_are_said(caplog):
    y = np.random.default_rng(11).standard_normal((4, 3))
    with caplog.at_level("INFO", logger="gpuroi"):
        permutation_test(y, np.ones((4, 1)), [1], errors="ise", device="cpu")
    assert "16 rearrangements exist" in caplog.text
    assert "smallest p" in caplog.text
    assert any(record.levelname == "WARNING" for record in caplog.records)


def test_early_stopping_equals_counting_by_hand(backend):
    x, y = example(n=12, v=60)
    y[:, :5] += 3 * x[:, 1:2]
    rows = rearrangements(12, 400, "ee")
    result = permutation_test(backend.asarray(y), x, [0, 1, 0, 0], permutations=rows, early_stop=10)
    t = np.abs([brute_force(x, y, [0, 1, 0, 0], row, "freedman-lane") for row in rows])
    hits = np.cumsum(t >= t[0] * (1 - 1e-9), axis=0)
    done = (hits >= 10).any(0)
    last = np.where(done, np.argmax(hits >= 10, axis=0) + 1, 400)
    np.testing.assert_allclose(result.p, np.where(done, 10, hits[-1]) / last)
    np.testing.assert_array_equal(result.null["n_run"], last)
    assert done.any()
    assert not done.all()
    assert np.isnan(result.p_fwe).all()


def test_early_stopping_goes_with_no_maxima():
    x, y = example(v=40)
    grid = VoxelGrid(np.ones((2, 4, 5), bool))
    for change in ({"tfce": True, "domain": grid}, {"tail": "gpd"}, {"early_stop": 1}):
        with pytest.raises(UsageError, match="early_stop"):
            permutation_test(y, x, [0, 1, 0, 0], **{"early_stop": 10, "n_permutations": 50, "device": "cpu"} | change)
