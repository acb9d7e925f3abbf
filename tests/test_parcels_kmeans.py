"""K-means against scikit-learn and brute force; the same labels whatever the device, the block and the offset."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from gpuroi.backends.base import Backend
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels import hierarchical_kmeans, kmeans


def grouped(n: int = 12, groups: int = 6, each: int = 25, noise: float = 0.6, seed: int = 0) -> np.ndarray:
    """Elements scattered around a few centres, float64 (n, groups * each)."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((n, groups))
    return np.repeat(centers, each, axis=1) + noise * rng.standard_normal((n, groups * each))


def sklearn_kmeans(data: np.ndarray, init: np.ndarray, max_iter: int = 100, tol: float = 1e-4) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KMeans(init.shape[1], init=init.T, n_init=1, max_iter=max_iter, tol=tol).fit(data.T)


@pytest.mark.parametrize("k", [1, 2, 7, 30])
@pytest.mark.parametrize("max_iter", [1, 3, 100])
def test_equals_scikit_learn_from_the_same_centres(backend: Backend, k: int, max_iter: int) -> None:
    data = grouped(noise=1.0)
    init = data[:, np.random.default_rng(k).choice(data.shape[1], k, replace=False)]
    got = kmeans(backend.asarray(data), k, init=init, max_iter=max_iter)
    want = sklearn_kmeans(data, init, max_iter)
    np.testing.assert_array_equal(got.labels, want.labels_)
    assert got.labels.dtype == np.int32
    assert got.n_iter == want.n_iter_
    np.testing.assert_allclose(got.inertia, want.inertia_, rtol=1e-10)
    np.testing.assert_allclose(got.centers, want.cluster_centers_.T, rtol=1e-9, atol=1e-12)


def test_a_large_offset_changes_nothing(backend: Backend) -> None:
    data = grouped(seed=3)
    init = data[:, ::17]
    want = kmeans(data, init.shape[1], init=init).labels
    got = kmeans(backend.asarray(data + 1e6), init.shape[1], init=init + 1e6)
    np.testing.assert_array_equal(got.labels, want)


def test_blocks_decide_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("gpuroi.parcels.kmeans")
    data = grouped(noise=2.0).astype(np.float32)
    want = kmeans(data, 20, seed=5)
    monkeypatch.setattr(module, "_BLOCK_BYTES", {"cpu": 7 * 80, "cuda": 31 * 80})
    monkeypatch.setattr(module, "_PAIR_VALUES", 12)
    got = kmeans(backend.asarray(data), 20, seed=5)
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_allclose(got.inertia, want.inertia, rtol=1e-12)


@pytest.fixture(params=["product", "bounds"])
def distances(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All distances by a product, or few of them, with bounds however small the data are."""
    from gpuroi.parcels.kmeans_bounds import Bounds

    monkeypatch.setattr(Bounds, "pay", lambda n, v, k: request.param == "bounds")
    return str(request.param)


def _equals_scikit_learn(data: np.ndarray, init: np.ndarray, max_iter: int) -> None:
    got, want = (
        kmeans(data, init.shape[1], init=init, max_iter=max_iter, tol=0),
        sklearn_kmeans(data, init, max_iter, 0),
    )
    np.testing.assert_array_equal(got.labels, want.labels_)
    assert got.n_iter == want.n_iter_
    np.testing.assert_allclose(got.inertia, want.inertia_, rtol=1e-10)
    np.testing.assert_allclose(got.centers, want.cluster_centers_.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("max_iter", [1, 2, 60])
def test_either_way_equals_scikit_learn(distances: str, noise: float, k: int, max_iter: int) -> None:
    data = grouped(n=20, groups=40, each=12, noise=noise, seed=k)
    _equals_scikit_learn(data, data[:, np.random.default_rng(k).choice(data.shape[1], k, replace=False)], max_iter)


@pytest.mark.parametrize("stray", [0.0, 1e-9, 1e3])
def test_long_series_among_short_ones_and_strays(distances: str, stray: float) -> None:
    """The steps of the bounds suit most elements; those far outside them must not be left out."""
    data = grouped(n=10, groups=30, each=20, noise=0.4) * np.geomspace(1e-3, 50, 600)
    data[:, ::97] = stray
    _equals_scikit_learn(data, data[:, 1::13], 50)


@given(seed=st.integers(0, 10_000), k=st.integers(2, 40), values=st.integers(1, 3), n=st.integers(1, 4))
def test_bounds_know_no_ties(seed: int, k: int, values: int, n: int) -> None:
    """Whole numbers tie, elements repeat, clusters run empty: bounds change nothing of what a product gives."""
    from unittest.mock import patch

    from gpuroi.parcels.kmeans_bounds import Bounds

    rng = np.random.default_rng(seed)
    data = rng.integers(-values, values + 1, (n, 90)).astype(np.float32)
    init = data[:, rng.choice(90, k, replace=False)].astype(float)
    results = []
    for used in (False, True):
        with patch.object(Bounds, "pay", staticmethod(lambda n, v, k, used=used: used)):
            results.append(kmeans(data, k, init=init, max_iter=20, tol=0))
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    np.testing.assert_array_equal(results[0].centers, results[1].centers)
    assert (results[0].n_iter, results[0].inertia) == (results[1].n_iter, results[1].inertia)


@pytest.mark.parametrize("far", [1e3, 1e8, 1e15])
def test_a_centre_far_away(distances: str, far: float) -> None:
    """Its distances exceed every bound, and its rounding errors all other distances."""
    data = grouped(n=4, groups=9, each=20, noise=0.2)
    init = data[:, ::20].copy()
    init[:, 4] = far
    got = kmeans(data, 9, init=init, max_iter=1, tol=0)
    nearest = ((data[:, :, None] - init[:, None]) ** 2).sum(axis=0).argmin(axis=1)
    assert 4 not in nearest
    farthest = ((data - init[:, nearest]) ** 2).sum(axis=0).argmax()
    nearest[farthest] = 4
    np.testing.assert_allclose(got.centers, [[row[nearest == c].mean() for c in range(9)] for row in data], atol=1e-12)


@pytest.mark.parametrize("often", [0.0, 0.05, 0.5, 2.0])
@pytest.mark.parametrize("mostly", [0.0, 0.6, 2.0])
def test_when_bounds_are_renewed_decides_nothing(
    distances: str, often: float, mostly: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuroi.parcels import kmeans_bounds

    monkeypatch.setattr(kmeans_bounds, "_OFTEN", often)
    monkeypatch.setattr(kmeans_bounds, "_MOSTLY", mostly)
    data = grouped(n=15, groups=50, each=10, noise=1.0).astype(np.float32).astype(float)
    _equals_scikit_learn(data, data[:, 3::11], 40)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_decide_nothing(distances: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuroi.backends.threads import limited_threads
    from gpuroi.parcels import kmeans_bounds

    monkeypatch.setattr(kmeans_bounds, "_ROWS_A_THREAD", 7)
    data = grouped(n=15, groups=50, each=10, noise=1.0)
    want = kmeans(data, 60, seed=2)
    with limited_threads(threads):
        got = kmeans(data, 60, seed=2)
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_array_equal(got.centers, want.centers)


def test_bounds_leave_most_distances_out() -> None:
    """After the first iterations, of elements in clear groups, few centres are looked at again."""
    from gpuroi.parcels import kmeans_bounds

    data = grouped(n=40, groups=60, each=50, noise=0.3)
    init = data[:, ::50]
    bounds = []
    original = kmeans_bounds.Bounds._renewed

    def spy(self: Any, *args: Any) -> Any:
        bounds.append(original(self, *args))
        return bounds[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_bounds.Bounds, "_renewed", spy)
        kmeans(data, 60, init=init, tol=0)
    assert bounds[0] is None
    assert len(bounds) > 1
    assert bounds[-1] is not None
    assert len(bounds[-1]) <= 6


def test_real_series(open_data: Any, distances: str) -> None:
    import nibabel as nib

    image = nib.load(open_data / "epi_oro" / "filtered_func_data.nii.gz")
    volumes = np.asarray(image.dataobj)[::2, ::2, ::2]
    inside = volumes.mean(axis=-1) > volumes.mean()
    data = volumes[inside].T.astype(float)
    data = data[:, data.std(axis=0) > 0]
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    _equals_scikit_learn(data, data[:, ::25], 12)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 9))
def test_ties_go_to_the_first_centre(seed: int, k: int) -> None:
    """Whole numbers tie often, and float64 is exact on them: brute force has to agree in every one."""
    rng = np.random.default_rng(seed)
    data = rng.integers(-3, 4, (3, 60)).astype(np.float32)
    init = rng.integers(-3, 4, (3, k)).astype(float)
    got = kmeans(data, k, init=init, max_iter=1, tol=0)
    nearest = ((data[:, :, None] - init[:, None]) ** 2).sum(axis=0).argmin(axis=1)
    counts = np.bincount(nearest, minlength=k)
    filled = counts > 0
    means = np.stack([data[:, nearest == c].mean(axis=1) for c in np.flatnonzero(filled)], axis=1)
    if filled.all():
        np.testing.assert_allclose(got.centers, means, atol=1e-6)
        want = ((data[:, :, None].astype(float) - got.centers[:, None]) ** 2).sum(axis=0)
        np.testing.assert_allclose(want[np.arange(60), got.labels], want.min(axis=1), atol=1e-9)


def test_an_empty_cluster_takes_the_farthest_element(backend: Backend) -> None:
    data = np.array([[0.0, 0.1, 0.2, 9.0, 5.0]])
    got = kmeans(backend.asarray(data), 3, init=np.array([[0.0, 100.0, 200.0]]))
    assert sorted(np.bincount(got.labels).tolist()) == [1, 1, 3]
    want = sklearn_kmeans(data, np.array([[0.0, 100.0, 200.0]]))
    np.testing.assert_allclose(got.inertia, want.inertia_)


def test_seeds_are_as_good_as_those_of_scikit_learn() -> None:
    data = grouped(n=5, groups=20, each=10, noise=0.05)
    ours = kmeans(data, 20, seed=0, n_init=3).inertia
    theirs = KMeans(20, n_init=3, random_state=0).fit(data.T).inertia_
    assert ours <= 1.05 * theirs


def test_a_seed_is_a_result(backend: Backend) -> None:
    data = grouped(noise=1.5)
    first = kmeans(data, 12, seed=4)
    again = kmeans(backend.asarray(data), 12, seed=4)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, kmeans(data, 12, seed=5).labels)
    best = kmeans(data, 12, seed=4, n_init=4)
    assert best.inertia <= first.inertia


def test_few_elements_are_drawn_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("gpuroi.parcels.kmeans")
    monkeypatch.setattr(module, "_SEED_ELEMENTS", 20)
    data = grouped(groups=4, each=100, noise=0.01)
    assert kmeans(data, 4, seed=0).inertia < 0.02**2 * data.size
    rare = np.zeros((2, 500))
    rare[:, 7] = 1.0  # seldom among the 20 elements drawn
    assert kmeans(rare, 2, seed=0).inertia == 0


def test_fewer_distinct_elements_than_clusters() -> None:
    data = np.repeat(np.array([[1.0, 2.0, 3.0]]), 5, axis=1)
    got = kmeans(data, 7)
    assert got.labels.max() + 1 == 3
    assert got.inertia == 0
    assert kmeans(np.ones((4, 6)), 2).labels.tolist() == [0] * 6


@pytest.mark.parametrize("dtype", ["int16", "uint8", ">f4", "float32", "float64", "bool"])
def test_any_numbers(dtype: str) -> None:
    data = (grouped() > 0.3).astype(dtype)
    got = kmeans(data, 5, seed=0)
    want = kmeans(data.astype(np.float64), 5, seed=0)
    np.testing.assert_array_equal(got.labels, want.labels)


def test_layouts_and_read_only() -> None:
    data = grouped()
    want = kmeans(data, 5, seed=0).labels
    data.setflags(write=False)
    np.testing.assert_array_equal(kmeans(np.asfortranarray(data), 5, seed=0).labels, want)
    np.testing.assert_array_equal(kmeans(data[:, ::-1][:, ::-1], 5, seed=0).labels, want)


def test_huge_and_tiny_values() -> None:
    data = grouped()
    want = kmeans(data, 5, init=data[:, ::30]).labels
    for factor in (1e-30, 1e30):
        np.testing.assert_array_equal(kmeans(data * factor, 5, init=data[:, ::30] * factor).labels, want)


@pytest.mark.parametrize(
    ("data", "k", "how", "error", "says"),
    [
        (np.ones((2, 3)), 4, {}, UsageError, "4 clusters of 3 elements"),
        (np.ones((2, 3)), 0, {}, UsageError, "0 clusters"),
        (np.array([[1.0, np.nan]]), 1, {}, DataError, "NaN"),
        (np.array([[1.0, np.inf]]), 1, {}, DataError, "infinite"),
        (np.ones(3), 1, {}, DataError, "expected \\(n, v\\)"),
        (np.ones((0, 3)), 1, {}, DataError, "expected \\(n, v\\)"),
        (np.ones((2, 3)), 2, {"init": np.ones((3, 2))}, DataError, "init has shape"),
        (np.ones((2, 3)), 2, {"init": "random"}, UsageError, 'init is "random"'),
        (np.ones((2, 3)), 2, {"n_init": 0}, UsageError, "n_init"),
        (np.ones((2, 3), complex), 2, {}, DataError, "complex"),
    ],
)
def test_refused(data: Any, k: int, how: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        kmeans(data, k, **how)


def test_hierarchical_finds_groups_within_groups(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    coarse = np.array([[-50.0, 50.0]]).repeat(100, axis=1)
    fine = np.tile(np.repeat([-5.0, 5.0], 50), 2)[None]
    data = coarse + fine + 0.1 * rng.standard_normal((1, 200))
    labels = hierarchical_kmeans(backend.asarray(data), 4)
    assert sorted(np.bincount(labels).tolist()) == [50, 50, 50, 50]
    assert all(len(set(labels[start : start + 50])) == 1 for start in range(0, 200, 50))


@given(seed=st.integers(0, 1000), k=st.integers(1, 40))
def test_hierarchical_gives_as_many_as_asked_for(seed: int, k: int) -> None:
    data = np.random.default_rng(seed).standard_normal((3, 40))
    labels = hierarchical_kmeans(data, k, seed=seed)
    assert np.array_equal(np.unique(labels), np.arange(k))


def test_shares_follow_those_of_nilearn() -> None:
    from nilearn.regions.hierarchical_kmeans_clustering import _adjust_small_clusters

    from gpuroi.parcels.hierarchical_kmeans import _shares

    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(20, 400, rng.integers(1, 9))
        k = int(rng.integers(len(sizes), 60))
        np.testing.assert_array_equal(_shares(sizes, k), _adjust_small_clusters(k * sizes / sizes.sum(), k))


def test_hierarchical_refuses_what_kmeans_refuses() -> None:
    with pytest.raises(UsageError, match="9 clusters of 4 elements"):
        hierarchical_kmeans(np.ones((2, 4)), 9)
    with pytest.raises(DataError, match="expected \\(n, v\\)"):
        hierarchical_kmeans(np.ones(4), 2)
