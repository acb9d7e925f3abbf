"""ReNA against nilearn's, round by round, and the last round against brute force."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.regions import ReNA
from scipy.ndimage import gaussian_filter

from gpuroi.backends.base import Backend
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels import explained_variance, rena
from gpuroi.parcels.numbering import numbered_by_first, pieces


def smooth_data(shape: tuple[int, int, int], n: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.standard_normal(shape), 0.8) for _ in range(n)]).reshape(n, -1)


def nilearn_rena(data: np.ndarray, mask: np.ndarray, k: int, n_iter: int) -> np.ndarray:
    image = nibabel.Nifti1Image(mask.astype(np.int8), np.eye(4))
    return numbered_by_first(ReNA(image, n_clusters=k, n_iter=n_iter).fit(data.copy()).labels_)


@pytest.mark.parametrize("n_iter", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounds_equal_those_of_nilearn(backend: Backend, n_iter: int, dtype: str) -> None:
    mask = np.ones((12, 11, 10), bool)
    mask[0, :3] = mask[5, 5, 2:] = False
    data = smooth_data(mask.shape)[:, mask.ravel()].astype(dtype)
    got = rena(backend.asarray(data), VoxelGrid(mask).graph, 5, n_iter=n_iter)
    want = nilearn_rena(data, mask, 5, n_iter)
    assert want.max() + 1 > 5  # no last round yet: before it nothing is left to chance
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("k", [3, 50, 111, 400])
def test_as_many_as_asked_for_and_connected(k: int) -> None:
    grid, data = VoxelGrid(np.ones((12, 11, 10))), smooth_data((12, 11, 10))
    labels = rena(data, grid.graph, k)
    assert np.array_equal(np.unique(labels), np.arange(k))
    np.testing.assert_array_equal(pieces(labels, grid.graph), labels)


def test_the_shortest_joins_keep_more_variance_than_nilearns() -> None:
    mask, more = np.ones((12, 11, 10), bool), []
    for seed, k in enumerate((60, 111, 200, 300, 400)):
        data = smooth_data(mask.shape, seed=seed)
        ours, theirs = rena(data, VoxelGrid(mask).graph, k), nilearn_rena(data, mask, k, 10)
        more.append(explained_variance(data, ours) - explained_variance(data, theirs))
    assert np.mean(more) > 0.01


@given(seed=st.integers(0, 1000), k=st.integers(1, 20))
def test_the_last_round_makes_the_shortest_joins(seed: int, k: int) -> None:
    """On a path, one round: nearest neighbours are joined, shortest first, until k are left."""
    values = np.random.default_rng(seed).standard_normal(20)
    length = np.diff(values) ** 2
    nearest = set()
    for i in range(20):
        sides = [e for e in (i - 1, i) if 0 <= e < 19]
        nearest.add(min(sides, key=lambda e: length[e]))
    joined = sorted(nearest, key=lambda e: length[e])[: 20 - k]
    want = np.cumsum([0, *(e not in joined for e in range(19))])
    got = rena(values[None], VoxelGrid(np.ones((1, 1, 20))).graph, k, n_iter=1)
    np.testing.assert_array_equal(got, want)


def test_identical_neighbours_are_joined_first() -> None:
    """nilearn divides by their distance, gets NaN, and never joins them in its first round."""
    data = np.array([[1.0, 1.0, 1.0, 1.5, 4.0, 4.1]])
    grid = VoxelGrid(np.ones((1, 1, 6)))
    assert rena(data, grid.graph, 4).tolist() == [0, 0, 0, 1, 2, 3]
    assert rena(np.ones((2, 6)), grid.graph, 2).max() + 1 == 2


def test_pieces_that_do_not_touch_stay_apart() -> None:
    mask = np.ones((1, 1, 7), bool)
    mask[0, 0, 3] = False
    assert rena(np.arange(6.0)[None], VoxelGrid(mask).graph, 1).tolist() == [0, 0, 0, 1, 1, 1]


def test_no_neighbours_at_all_and_one_element() -> None:
    mask = np.zeros((1, 1, 5), bool)
    mask[0, 0, ::2] = True
    assert rena(np.arange(3.0)[None], VoxelGrid(mask).graph, 1).tolist() == [0, 1, 2]
    assert rena(np.ones((2, 1)), VoxelGrid(np.ones((1, 1, 1))).graph, 1).tolist() == [0]


def test_refused() -> None:
    graph = VoxelGrid(np.ones((2, 2, 2))).graph
    with pytest.raises(DataError, match="graph has 8 elements"):
        rena(np.ones((3, 7)), graph, 2)
    with pytest.raises(DataError, match="NaN"):
        rena(np.full((3, 8), np.nan), graph, 2)
    with pytest.raises(UsageError, match="9 clusters of 8"):
        rena(np.ones((3, 8)), graph, 9)
    with pytest.raises(UsageError, match="n_iter"):
        rena(np.ones((3, 8)), graph, 2, n_iter=0)
